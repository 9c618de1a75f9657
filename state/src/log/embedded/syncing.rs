//! The journal on its way to the disk: one thread syncs what was written and another reads it back
//! while the owner folds the next batch, and everybody who waits shares one fsync.
//!
//! ```text
//! begin ─► written ──fsync──► synced: the next may be written
//!                               └─► read back, checked, hashed ─► settled: shown, answered for
//! ```
//!
//! The threads start with the first batch that is begun; a copy of a chain never has them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use schemas::{Hash, Head};

use super::damage::{self, Place};
use super::options::JOURNAL;
use super::tables::Tables;
use crate::LogError;
use crate::memory::lock;

/// Batches are read back in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Leaves kept for whoever signs the tree; one who asks later has them read again.
const LEAVES_MAX: usize = 256 * 1024;

/// What one of the threads does, to its end.
type Work = fn(&Shared);

/// What is written and what of it is settled.
pub(crate) struct Syncing {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    tables: Arc<Tables>,
    progress: Mutex<Progress>,
    moved: Condvar,
}

struct Progress {
    /// The end of what is written.
    written: Head,
    /// The end of what is durable.
    synced: Head,
    /// The end of what is durable and has been read back: what everybody is shown.
    settled: Head,
    /// Leaves of the last entries that were settled.
    leaves: VecDeque<Hash>,
    fault: Option<LogError>,
    closing: bool,
}

impl Syncing {
    /// Everything up to `head` is settled.
    pub(crate) fn from(tables: Arc<Tables>, head: Head) -> Self {
        let progress = Progress {
            written: head.clone(),
            synced: head.clone(),
            settled: head,
            leaves: VecDeque::new(),
            fault: None,
            closing: false,
        };
        let shared = Shared { tables, progress: Mutex::new(progress), moved: Condvar::new() };
        Syncing { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// The end of what is settled.
    pub(crate) fn head(&self) -> Head {
        lock(&self.shared.progress).settled.clone()
    }

    /// Has the threads run; nothing may be begun before.
    pub(crate) fn start(&self) -> Result<(), LogError> {
        let mut threads = lock(&self.threads);
        let works: [(&str, Work); 2] = [("sync", Shared::sync), ("read-back", Shared::settle)];
        for (name, work) in works.into_iter().skip(threads.len()) {
            let shared = self.shared.clone();
            let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                let _ended = Ended(&shared);
                work(&shared);
            });
            threads.push(started.map_err(|error| {
                let what = "start a thread for the journal".to_owned();
                self.shared.tables.stop(LogError::Fatal { what, why: error.to_string() })
            })?);
        }
        Ok(())
    }

    /// The chain is written up to `head`; it is synced and read back from now on.
    pub(crate) fn begin(&self, head: Head) {
        lock(&self.shared.progress).written = head;
        self.shared.moved.notify_all();
    }

    /// Waits until everything below `next_seq` is durable.
    pub(crate) fn synced(&self, next_seq: u64) -> Result<(), LogError> {
        self.shared.wait_until(|it| next_seq <= it.synced.next_seq)
    }

    /// Waits until everything that is begun below `next_seq` is settled.
    pub(crate) fn settle(&self, next_seq: u64) -> Result<(), LogError> {
        let until = next_seq.min(lock(&self.shared.progress).written.next_seq);
        self.shared.wait_until(|it| until <= it.settled.next_seq)
    }

    /// Leaves of the settled entries from `from_seq` on, where they are still at hand. They are
    /// handed out once.
    pub(crate) fn leaves(&self, from_seq: u64) -> Option<Vec<Hash>> {
        let mut progress = lock(&self.shared.progress);
        let first = progress.settled.next_seq - progress.leaves.len() as u64;
        let skip = usize::try_from(from_seq.checked_sub(first)?).ok()?;
        (skip <= progress.leaves.len()).then(|| progress.leaves.drain(..).skip(skip).collect())
    }

    /// The chain ends with `head`, which is durable elsewhere.
    pub(crate) fn adopted(&self, head: Head) {
        let mut progress = lock(&self.shared.progress);
        progress.leaves.clear();
        progress.written = head.clone();
        progress.synced = head.clone();
        progress.settled = head;
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        lock(&self.shared.progress).closing = true;
        self.shared.moved.notify_all();
        for thread in lock(&self.threads).drain(..) {
            // A panic of the thread has been reported by itself; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Makes what is written durable, until all is and the log is being closed.
    fn sync(&self) {
        while let Some((_, target)) = self.next(|it| (&it.synced, &it.written)) {
            let synced = self.tables.db.flush_wal(true);
            match synced {
                Ok(()) => lock(&self.progress).synced = target,
                Err(error) => return self.fail(damage::fatal("append to the journal", &error)),
            }
            self.moved.notify_all();
        }
    }

    /// Reads back what is durable, as long as more may become so.
    fn settle(&self) {
        while let Some((from, target)) = self.next(|it| (&it.settled, &it.synced)) {
            let leaves = match self.read_back(&from, &target) {
                Ok(leaves) => leaves,
                Err(error) => return self.fail(error),
            };
            let mut progress = lock(&self.progress);
            if LEAVES_MAX < progress.leaves.len() + leaves.len() {
                progress.leaves.clear();
            }
            progress.leaves.extend(leaves);
            progress.settled = target;
            drop(progress);
            self.moved.notify_all();
        }
    }

    fn fail(&self, error: LogError) {
        let fault = self.tables.stop(error);
        lock(&self.progress).fault.get_or_insert(fault);
    }

    /// Waits until the second of two heads is ahead of the first, and answers both. Nothing once
    /// all is settled and the log is being closed, or after a fault.
    fn next(&self, heads: impl Fn(&Progress) -> (&Head, &Head)) -> Option<(Head, Head)> {
        let mut progress = lock(&self.progress);
        loop {
            let (done, ahead) = heads(&progress);
            if done != ahead {
                return Some((done.clone(), ahead.clone()));
            }
            let is_over = progress.closing && progress.written == progress.settled;
            if is_over || progress.fault.is_some() {
                return None;
            }
            progress = self.wait(progress);
        }
    }

    /// The leaves of what stands between two heads, once it is the chain from one to the other.
    fn read_back(&self, from: &Head, target: &Head) -> Result<Vec<Hash>, LogError> {
        let (mut leaves, mut at, mut last) = (Vec::new(), from.next_seq, from.hash);
        while at < target.next_seq {
            for batch in self.tables.read(at, READ_BYTES, target)? {
                if batch.header.prev != last {
                    return Err(self.differs(at));
                }
                let checked = batch.entries.leaves();
                let checked = checked.map_err(|damage| self.tables.damaged(at, &damage))?;
                leaves.extend_from_slice(checked);
                (at, last) = (batch.next_seq(), batch.hash());
            }
        }
        if last == target.hash { Ok(leaves) } else { Err(self.differs(from.next_seq)) }
    }

    fn differs(&self, first_seq: u64) -> LogError {
        let key = first_seq.to_be_bytes();
        let place = Place { family: JOURNAL, key: Some(&key) };
        place.damaged(&self.tables.db, "it reads back differently from what was appended")
    }

    fn wait_until(&self, is_there: impl Fn(&Progress) -> bool) -> Result<(), LogError> {
        let mut progress = lock(&self.progress);
        while !is_there(&progress) {
            if let Some(fault) = &progress.fault {
                return Err(fault.clone());
            }
            progress = self.wait(progress);
        }
        Ok(())
    }

    fn wait<'a>(&self, progress: MutexGuard<'a, Progress>) -> MutexGuard<'a, Progress> {
        self.moved.wait(progress).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody waits for a thread that has ended before its time, and nothing is written after it.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let Shared { tables, progress, moved } = self.0;
        let what = "sync the journal".to_owned();
        let why = "a thread of it has ended".to_owned();
        let mut progress = lock(progress);
        if progress.fault.is_none() && !progress.closing {
            progress.fault = Some(tables.stop(LogError::Fatal { what, why }));
        }
        moved.notify_all();
    }
}
