//! What one cycle did, and what is to be told of it.

use std::sync::Arc;

use schemas::{Batch, Stream};

/// What became of an input, to be told to its sender once its batch is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Stream it was taken from.
    pub stream: Stream,
    /// Its position there.
    pub position: u64,
    /// Entry that it became, or the first one's if it was a repeat.
    pub seq: u64,
    /// Whether an earlier one with the same client id stands in the chain.
    pub repeated: bool,
    /// Why it stands alone, if it does.
    pub refused: Option<String>,
}

/// What one cycle did.
#[derive(Debug, Default)]
pub struct Cycle {
    /// The batch that was begun, if there was anything to append.
    pub batch: Option<Arc<Batch>>,
    /// Answers to senders.
    pub taken: Vec<Taken>,
    /// Whether more was waiting than one batch takes.
    pub more: bool,
    /// Entries in the chain after it. What it answers may be told once they are settled.
    pub next_seq: u64,
}
