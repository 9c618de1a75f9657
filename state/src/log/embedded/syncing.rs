//! The journal on its way to the disk: a thread syncs and reads back what was written while the
//! owner folds the next batch, and everybody who waits shares one fsync.
//!
//! ```text
//! begin ─► written ──fsync──► synced: the next may be written
//!                               └─► read back, checked, hashed ─► settled: shown, answered for
//! ```
//!
//! The thread starts with the first batch that is begun; a copy of a chain never has one.

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

/// What is written and what of it is settled.
pub(crate) struct Syncing {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    tables: Arc<Tables>,
    progress: Mutex<Progress>,
    moved: Condvar,
}

struct Progress {
    /// The end of what is written.
    written: Head,
    /// Entries below this are durable.
    synced: u64,
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
            synced: head.next_seq,
            settled: head,
            leaves: VecDeque::new(),
            fault: None,
            closing: false,
        };
        let shared = Shared { tables, progress: Mutex::new(progress), moved: Condvar::new() };
        Syncing { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// The end of what is settled.
    pub(crate) fn head(&self) -> Head {
        lock(&self.shared.progress).settled.clone()
    }

    /// Has the thread run; nothing may be begun before.
    pub(crate) fn start(&self) -> Result<(), LogError> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let shared = self.shared.clone();
            let started = std::thread::Builder::new().name("journal".to_owned());
            let started = started.spawn(move || shared.run());
            let why = |error: std::io::Error| LogError::Fatal {
                what: "start the thread that syncs the journal".to_owned(),
                why: error.to_string(),
            };
            *thread = Some(started.map_err(|error| self.shared.tables.stop(why(error)))?);
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
        self.shared.wait_until(|it| next_seq <= it.synced)
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
        progress.synced = head.next_seq;
        progress.settled = head;
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        lock(&self.shared.progress).closing = true;
        self.shared.moved.notify_all();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread has been reported by itself; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let _ended = Ended(self);
        while let Some((from, target)) = self.next() {
            let leaves = self.sync(&target).and_then(|()| self.read_back(&from, &target));
            let mut progress = lock(&self.progress);
            match leaves {
                Ok(leaves) => {
                    if LEAVES_MAX < progress.leaves.len() + leaves.len() {
                        progress.leaves.clear();
                    }
                    progress.leaves.extend(leaves);
                    progress.settled = target;
                }
                Err(error) => {
                    progress.fault = Some(self.tables.stop(error));
                    return;
                }
            }
            self.moved.notify_all();
        }
    }

    /// Waits for something to settle: from which head to which. Nothing once all is settled and
    /// the log is being closed.
    fn next(&self) -> Option<(Head, Head)> {
        let mut progress = lock(&self.progress);
        while progress.written == progress.settled {
            if progress.closing {
                return None;
            }
            progress = self.wait(progress);
        }
        Some((progress.settled.clone(), progress.written.clone()))
    }

    /// Makes what is written up to `target` durable.
    fn sync(&self, target: &Head) -> Result<(), LogError> {
        let synced = self.tables.db.flush_wal(true);
        synced.map_err(|error| damage::fatal("append to the journal", &error))?;
        lock(&self.progress).synced = target.next_seq;
        self.moved.notify_all();
        Ok(())
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

/// Nobody waits for a thread that has ended, and nothing is written after it.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let Shared { tables, progress, moved } = self.0;
        let what = "sync the journal".to_owned();
        let why = "its thread has ended".to_owned();
        let mut progress = lock(progress);
        if progress.fault.is_none() && !progress.closing {
            progress.fault = Some(tables.stop(LogError::Fatal { what, why }));
        }
        moved.notify_all();
    }
}
