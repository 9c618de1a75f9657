//! The agent against a control plane that says what a test makes it say, honest or not.

mod bed;
mod freeze;
mod refusals;
mod repeats;
mod rogue;
mod services;
mod shell;
