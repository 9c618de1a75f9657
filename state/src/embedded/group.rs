//! Group commit of telemetry: whoever finds nobody writing writes for everybody who waits.
//!
//! Positions are given in the order in which senders arrive, and one group is written at a
//! time, so a reader never sees a gap: everything below `durable` is on disk, nothing above it
//! is shown.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rocksdb::WriteBatch;

use super::options::TELEMETRY;
use super::tables::Tables;
use crate::LogError;
use crate::memory::lock;

/// The telemetry stream's end, and who is writing it.
pub(crate) struct Group {
    state: Mutex<Pending>,
    written: Condvar,
}

#[derive(Default)]
struct Pending {
    /// Position of the next record.
    next: u64,
    /// Everything below is on disk.
    durable: u64,
    waiting: WriteBatch,
    writing: bool,
    fault: Option<LogError>,
}

impl Group {
    pub(crate) fn starting_at(next: u64) -> Self {
        let state = Pending { next, durable: next, ..Pending::default() };
        Group { state: Mutex::new(state), written: Condvar::new() }
    }

    /// Position after the last durable record.
    pub(crate) fn durable(&self) -> u64 {
        lock(&self.state).durable
    }

    /// Adds `records`; returns when they are durable.
    pub(crate) fn send(
        &self,
        tables: &Tables,
        records: &[Vec<u8>],
    ) -> Result<Range<u64>, LogError> {
        let mut state = lock(&self.state);
        let from = state.next;
        for (position, record) in (from..).zip(records) {
            state.waiting.put_cf(tables.family(TELEMETRY), position.to_be_bytes(), record);
        }
        state.next += records.len() as u64;
        let range = from..state.next;
        while state.durable < range.end {
            if let Some(fault) = &state.fault {
                return Err(fault.clone());
            }
            state = if state.writing { self.wait(state) } else { self.write(tables, state) };
        }
        Ok(range)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, Pending>) -> MutexGuard<'a, Pending> {
        self.written.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all that waits, with the lock released so that the next group can gather.
    fn write<'a>(
        &'a self,
        tables: &Tables,
        mut state: MutexGuard<'a, Pending>,
    ) -> MutexGuard<'a, Pending> {
        let group = std::mem::take(&mut state.waiting);
        let end = state.next;
        state.writing = true;
        drop(state);
        let outcome = tables.write(group, "write telemetry");
        let mut state = lock(&self.state);
        state.writing = false;
        match outcome {
            Ok(()) => state.durable = end,
            Err(error) => state.fault = Some(error),
        }
        self.written.notify_all();
        state
    }
}
