//! Following the journal of a running engine: batch after batch, from a place on.
//!
//! Whoever follows reads what is durable and nothing earlier, so nobody is told, shown or
//! notified of something that is not in the journal.

use std::sync::Arc;

use schemas::{Batch, Ns};
use state::{Log, LogError};
use tokio::sync::watch;

use crate::engine::{Handle, Moved};
use crate::journal::first_where;

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

    /// Follows from what was written within `span` before the newest election, or from the first
    /// entry that is still kept.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn from_before_election(engine: &Handle, span: Ns) -> Result<Self, LogError> {
        Follower::found(engine, move |log, end| before_election(log, end, span)).await
    }

    /// Follows from the newest election on: what was written since this engine took office.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn from_election(engine: &Handle) -> Result<Self, LogError> {
        Follower::found(engine, election).await
    }

    async fn found(
        engine: &Handle,
        search: impl FnOnce(&dyn Log, u64) -> Result<u64, LogError> + Send + 'static,
    ) -> Result<Self, LogError> {
        let (log, end) = (engine.log(), engine.follow().borrow().next_seq);
        let found = tokio::task::spawn_blocking(move || search(&*log, end)).await;
        // A search that panicked or was cut short has found the end, and the log says why.
        let next_seq = found.unwrap_or(Ok(end))?;
        Ok(Follower { next_seq, ..Follower::from_zero(engine) })
    }

    /// The entry that it hands out next.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether there are batches that it has not handed out.
    pub fn is_behind(&self) -> bool {
        self.next_seq < self.moved.borrow().next_seq
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

/// The first entry before `end` that was written within `span` before the newest election. While
/// nobody was in office nothing was written, so the time without an owner does not count.
fn before_election(log: &dyn Log, end: u64, span: Ns) -> Result<u64, LogError> {
    let elected = election(log, end)?;
    let before = elected.checked_sub(1).map_or(Ok(None), |seq| batch_of(log, seq))?;
    let Some(before) = before else { return Ok(elected) };
    let from = before.header.wall - span;
    first_where(elected, |seq| Ok(batch_of(log, seq)?.is_some_and(|it| from <= it.header.wall)))
}

/// The first entry before `end` that was written under the newest election; `end` where none is.
fn election(log: &dyn Log, end: u64) -> Result<u64, LogError> {
    let last = end.checked_sub(1).map_or(Ok(None), |seq| batch_of(log, seq))?;
    let Some(epoch) = last.map(|it| it.header.epoch) else { return Ok(end) };
    first_where(end, |seq| Ok(batch_of(log, seq)?.is_some_and(|it| it.header.epoch == epoch)))
}

/// The batch that holds `seq`.
fn batch_of(log: &dyn Log, seq: u64) -> Result<Option<Batch>, LogError> {
    Ok(log.read(seq, 1)?.into_iter().next())
}

#[cfg(test)]
mod tests;
