//! Calls of librdkafka that rdkafka does not have: many records at a time, and who is in a group.
//!
//! Everything unsafe in the project is in this crate (docs/decisions/0013).

mod batches;
pub mod groups;

pub use batches::{Batches, Record};
