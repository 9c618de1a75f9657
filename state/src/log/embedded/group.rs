//! Group commit of telemetry: whoever finds nobody writing writes for everybody who waits.
//!
//! Positions are given in the order in which senders arrive, and one group is written at a
//! time, so a reader never sees a gap: everything below `durable` is on disk, nothing above it
//! is shown.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rocksdb::WriteBatch;

use super::options::{META, TELEMETRY};
use super::tables::{KEY_END, Tables};
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
    n_groups: u64,
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

    /// Groups written: each cost one fsync, however many waited for it.
    pub(crate) fn n_groups(&self) -> u64 {
        lock(&self.state).n_groups
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
        let mut group = std::mem::take(&mut state.waiting);
        let end = state.next;
        group.put_cf(tables.family(META), KEY_END, end.to_be_bytes());
        state.writing = true;
        state.n_groups += 1;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use schemas::Stream;

    use super::lock;
    use crate::Log as _;
    use crate::embedded::EmbeddedLog;

    #[test]
    fn all_who_wait_while_one_group_is_written_share_the_next_fsync() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), "test", 0).unwrap();
        lock(&log.telemetry.state).writing = true;
        std::thread::scope(|scope| {
            for sender in 0u8..8 {
                let log = &log;
                scope.spawn(move || log.send(Stream::Telemetry, &[vec![sender]]).unwrap());
            }
            while lock(&log.telemetry.state).next < 8 {
                std::thread::yield_now();
            }
            assert_eq!(log.telemetry.durable(), 0, "nothing is answered before it is written");
            lock(&log.telemetry.state).writing = false;
            log.telemetry.written.notify_all();
        });
        assert_eq!((log.telemetry.durable(), log.n_telemetry_groups()), (8, 1));
    }
}
