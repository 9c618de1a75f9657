//! Following the journal of a running engine: batch after batch, from a place on.
//!
//! Whoever follows reads what is durable and nothing earlier, so nobody is told, shown or
//! notified of something that is not in the journal.

use std::sync::Arc;

use schemas::Batch;
use state::Log;
use tokio::sync::watch;

use crate::engine::{Handle, Moved};

/// Journal records are read in runs of about this size.
const READ_BYTES: usize = 1024 * 1024;

/// A reader behind the owner.
pub struct Follower {
    log: Arc<dyn Log>,
    moved: watch::Receiver<Moved>,
    next_seq: u64,
}

impl Follower {
    /// Follows from the beginning.
    pub fn from_zero(engine: &Handle) -> Self {
        Follower { log: engine.log(), moved: engine.follow(), next_seq: 0 }
    }

    /// Follows from the present end.
    pub fn from_end(engine: &Handle) -> Self {
        let next_seq = engine.follow().borrow().next_seq;
        Follower { next_seq, ..Follower::from_zero(engine) }
    }

    /// The next batches, as soon as there are any; `None` when the engine has stopped or the
    /// log cannot be read.
    pub async fn next(&mut self) -> Option<Vec<Batch>> {
        while self.moved.borrow_and_update().next_seq <= self.next_seq {
            self.moved.changed().await.ok()?;
        }
        let (log, from) = (self.log.clone(), self.next_seq);
        let read = tokio::task::spawn_blocking(move || log.read(from, READ_BYTES)).await;
        match read {
            Ok(Ok(batches)) => {
                self.next_seq = batches.last().map_or(from, Batch::next_seq);
                Some(batches)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the journal cannot be followed");
                None
            }
            Err(_) => None,
        }
    }
}
