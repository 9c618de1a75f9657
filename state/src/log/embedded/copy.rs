//! A copy of a chain that lies elsewhere: what a node on a cluster keeps beside its state.
//!
//! The copy is read like any journal, by the same reader and the same commands. Nothing here is
//! synced: the cluster holds the chain, and what a crash takes from the copy is read again.
//! State and position are one write, as everywhere; the state may lag the chain and never leads
//! it.

use rocksdb::WriteBatch;
use schemas::event::OwnerElected;
use schemas::link::election;
use schemas::{Batch, Hash, Head, Skip, link};

use super::EmbeddedLog;
use super::options::{JOURNAL, META, QUARANTINE};
use super::tables::{KEY_FLOOR, KEY_HEAD, KEY_OFFSET, Tail, encode_tail};
use crate::memory::lock;
use crate::{Changes, LogError};

impl EmbeddedLog {
    /// Puts `batch` at the end of the copy if it links there; `record` is what was read at
    /// `offset`.
    pub(crate) fn adopt(
        &self,
        batch: &Batch,
        record: &[u8],
        offset: u64,
    ) -> Result<Result<Head, Skip>, LogError> {
        let mut tail = lock(&self.tail);
        let head = match link(&tail.head, batch) {
            Ok(head) => head,
            Err(skip) => return Ok(Err(skip)),
        };
        let first_seq = batch.header.first_seq;
        let elected = if election(batch).is_some() { first_seq } else { tail.elected };
        let next = Tail { head, elected };
        let mut write = WriteBatch::default();
        write.put_cf(self.tables.family(JOURNAL), first_seq.to_be_bytes(), record);
        write.put_cf(self.tables.family(META), KEY_HEAD, encode_tail(&next));
        write.put_cf(self.tables.family(META), KEY_OFFSET, offset.to_be_bytes());
        self.tables.write_unsynced(write, "copy the journal")?;
        *tail = next;
        self.syncing.adopted(tail.head.clone());
        Ok(Ok(tail.head.clone()))
    }

    /// The election that opened the current epoch.
    pub(crate) fn elected(&self) -> Result<Option<OwnerElected>, LogError> {
        let elected = lock(&self.tail).elected;
        let batches = crate::Log::read(self, elected, 1)?;
        Ok(batches.first().and_then(election))
    }

    /// Offset of the record that was adopted last.
    pub(crate) fn offset(&self) -> Result<Option<u64>, LogError> {
        self.tables.number(META, KEY_OFFSET)
    }

    /// Commits `changes` and the position that belongs to them.
    pub(crate) fn fold(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError> {
        changes.sound()?;
        let mut write = WriteBatch::default();
        self.fold_in(&mut write, next_seq, changes);
        self.tables.write_unsynced(write, "commit state")
    }

    /// Telemetry below `before` is no longer read.
    pub(crate) fn raise_floor(&self, before: u64) -> Result<(), LogError> {
        if before <= self.tables.floor()? {
            return Ok(());
        }
        let mut write = WriteBatch::default();
        write.put_cf(self.tables.family(META), KEY_FLOOR, before.to_be_bytes());
        self.tables.write_unsynced(write, "forget telemetry")
    }

    /// Telemetry below this is no longer read.
    pub(crate) fn floor(&self) -> Result<u64, LogError> {
        self.tables.floor()
    }

    /// Whether the record of this hash is in quarantine.
    pub(crate) fn has_quarantined(&self, hash: &Hash) -> Result<bool, LogError> {
        Ok(self.tables.get(QUARANTINE, &hash.0)?.is_some())
    }
}
