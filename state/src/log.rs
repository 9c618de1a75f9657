//! One partition's streams and its chain, as the owner sees them. The contract of every log,
//! and below this file each of them.

pub mod embedded;
pub mod kafka;
pub mod memory;

use std::ops::Range;

use schemas::{Batch, Hash, Head, Stream};

use crate::{Changes, LogError, Records, error};

/// Most bytes of one record of any stream; protocol.md §1 keeps a margin below 1 MiB.
pub const RECORD_BYTES_MAX: usize = schemas::batch::BATCH_BYTES_MAX;

/// Leaves are read in runs of about so many bytes of batches.
const LEAVES_BYTES: usize = 4 * 1024 * 1024;

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Append {
    /// It is in the chain, durable and read back linked, or on its way there where it was only
    /// begun; the head is its own.
    Appended(Head),
    /// The chain has moved on from the expected head; nothing was written. The head is the
    /// chain's.
    Lost(Head),
}

/// One partition: three streams that anybody may send to, and the chain that its owner appends
/// to.
///
/// *Durability.* `append` answers `Appended` when the batch is durable and has been read back
/// linked, and not before; `begin` may answer earlier, and then `settle` is the answer. A
/// telemetry range is answered when it is durable. `inbox` and `inbox.control` are as durable as
/// the log says: an embedded log keeps them in memory, because nothing taken there is
/// acknowledged before it is journaled; on a cluster they are durable when their positions are
/// answered. A quarantined record is durable when its hash is answered.
///
/// *One write.* `append` hands the changes to the store that belongs to this log. Answered
/// `Appended`, that store's position is the batch's `next_seq`. On the embedded log batch and
/// changes are one write; elsewhere a crash between the two leaves the store behind.
///
/// *Order.* The chain is one history: of all batches that name a head, at most one is ever
/// linked. A stream's positions are gap-free from 0 and say the order in which its records are
/// read; records of one `send` are neighbours, unless another process sends at the same time.
/// Nothing of chain and streams is ever read before it is durable, and what has been read once is
/// read the same again. Where a foreign sender used transactions, a stream of a cluster has gaps.
///
/// *What may repeat.* Appending a batch that is already the head answers `Appended` again and
/// changes nothing, so the same bytes may be sent again when no answer came. A record that is
/// sent twice is in its stream twice.
///
/// *What may be gone.* Records below what the chain has taken, once `forget` was called for
/// them (the embedded inbox drops them by itself). `take` then begins at the first one left.
///
/// *Who may call.* Everything from any thread. Only the partition's owner appends; two that
/// believe to be owner are told apart by `Lost`.
///
/// *Damage.* What does not read back as it was written is [`LogError::Corrupt`] with its
/// position; it is never passed over. After [`LogError::Fatal`] every later write is refused
/// with the same.
pub trait Log: Send + Sync {
    /// The end of the linked chain.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    fn head(&self) -> Result<Head, LogError>;

    /// Linked batches in order, the first of which holds `from_seq`: at least one unless
    /// `from_seq` is the end, then as many as fit in `bytes_max` of stored bytes.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] names the entry.
    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError>;

    /// Puts `batch` at the end of the chain if that is still `expected`.
    ///
    /// # Errors
    /// [`LogError::Unlinked`]: the batch names the head and breaks the link rule.
    /// [`LogError::Unanswered`]: it may or may not be in the chain.
    /// [`LogError::Yielded`]: another process claims office; it may or may not be in the chain.
    /// [`LogError::Fatal`]: the process must end. Otherwise nothing was written.
    fn append(&self, expected: &Head, batch: &Batch, changes: &Changes)
    -> Result<Append, LogError>;

    /// As [`Log::append`], and answers before the batch is durable where that takes a wait that
    /// its author can use. [`Log::settle`] is the rest of it, and whoever overrides one overrides
    /// both. Until then the store has the changes and nobody is shown the batch; nothing of it may
    /// be told or take effect. A crash takes what was begun and not settled, the newest first.
    ///
    /// # Errors
    /// As [`Log::append`].
    fn begin(&self, expected: &Head, batch: &Batch, changes: &Changes) -> Result<Append, LogError> {
        self.append(expected, batch, changes)
    }

    /// Waits until every begun batch below `next_seq` is durable and has been read back linked;
    /// for one that was never begun, it does not wait.
    ///
    /// # Errors
    /// [`LogError::Fatal`], [`LogError::Corrupt`]: the process must end.
    fn settle(&self, _next_seq: u64) -> Result<(), LogError> {
        Ok(())
    }

    /// Leaves of the settled entries from `from_seq` on, hashed anew from what is stored, every
    /// payload checked against its commitment and they against what was signed: at least one
    /// unless `from_seq` is the end. For one caller that goes on where it ended: what is still at
    /// hand is handed out once.
    ///
    /// # Errors
    /// As [`Log::read`].
    fn leaves(&self, from_seq: u64) -> Result<Vec<Hash>, LogError> {
        leaves(self, from_seq)
    }

    /// Adds `records` to a stream and answers their positions.
    ///
    /// # Errors
    /// [`LogError::TooLarge`] (none of them was added), [`LogError::Unanswered`] (each may or may
    /// not have been), [`LogError::Fatal`].
    fn send(&self, stream: Stream, records: &[Vec<u8>]) -> Result<Range<u64>, LogError>;

    /// Records of a stream with their positions, from `from` on: at least one unless that is
    /// the end, then as many as fit in `bytes_max`.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] names the record.
    fn take(&self, stream: Stream, from: u64, bytes_max: usize) -> Result<Records, LogError>;

    /// Keeps a record that cannot be decoded, with the reason, under its SHA-256. The first
    /// reason given for a record stays.
    ///
    /// # Errors
    /// [`LogError::Fatal`].
    fn quarantine(&self, record: &[u8], reason: &str) -> Result<Hash, LogError>;

    /// Lets the log drop records of a stream below `before`, which the chain has taken. It may
    /// keep them longer.
    ///
    /// # Errors
    /// [`LogError::Fatal`].
    fn forget(&self, stream: Stream, before: u64) -> Result<(), LogError>;
}

/// What [`Log::leaves`] answers, by reading.
fn leaves(log: &(impl Log + ?Sized), from_seq: u64) -> Result<Vec<Hash>, LogError> {
    let mut leaves = Vec::new();
    for batch in log.read(from_seq, LEAVES_BYTES)? {
        let first_seq = batch.header.first_seq;
        let damaged = |damage| error::damaged_batch(first_seq, &damage, "what was read".to_owned());
        let before = usize::try_from(from_seq.saturating_sub(first_seq)).unwrap_or(usize::MAX);
        let checked = batch.entries.leaves().map_err(damaged)?;
        leaves.extend(checked.iter().skip(before));
    }
    Ok(leaves)
}
