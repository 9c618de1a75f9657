//! What is decided between a hypothesis and its outcome: gate, votes, policy, execution, trust,
//! escalation and mode, folded together. Eyes and runner are played by hand (`world`).

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::wildcard_enum_match_arm,
    missing_docs,
    unreachable_pub,
    reason = "a test says what it means in the shortest form, and nobody links against it"
)]

mod adversary;
mod configuration;
mod escalation;
mod execution;
mod governance;
mod mode;
mod replays;
mod rules;
mod stories;
mod triggers;
mod trust;
mod world;
