//! What is decided: the processors as pure folds, one module each.
//!
//! ```text
//! step(view, entry) -> outputs, wakes        sync, infallible, deterministic
//! ```
//!
//! There is no clock here, no randomness, no I/O, no async and no hash order. Time is the tick
//! of the entry, configuration is an entry, and an answer from outside is an entry. A fold never
//! waits and never asks: it says what should happen, as an event, and the program carries it out
//! after that event stands in the journal.

pub mod config;
pub mod consensus;
pub mod deployment;
pub mod detection;
pub mod diagnosis;
pub mod escalation;
pub mod execution;
pub mod fold;
pub mod governance;
pub mod incidents;
pub mod mode;
pub mod playbooks;
pub mod profile;
pub mod proposals;
pub mod rules;
pub mod said;
pub mod stats;
#[doc(hidden)]
pub mod testing;
pub mod triggers;
pub mod trust;

pub use fold::{Folded, Output, Processor, Store, View};

/// `loop.toml`: the same loop as [`PROCESSORS`], for whoever reads or draws it.
pub const LOOP: &str = include_str!("../loop.toml");

/// Every processor, in the order in which each entry reaches them. `loop.toml` says the same,
/// with what each reads and says, and a test compares the two.
pub const PROCESSORS: &[Processor] = &[
    config::PROCESSOR,
    mode::PROCESSOR,
    detection::PROCESSOR,
    diagnosis::PROCESSOR,
    incidents::PROCESSOR,
    triggers::PROCESSOR,
    proposals::PROCESSOR,
    consensus::PROCESSOR,
    governance::PROCESSOR,
    deployment::PROCESSOR,
    execution::PROCESSOR,
    trust::PROCESSOR,
    escalation::PROCESSOR,
];
