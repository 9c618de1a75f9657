//! The journal on its way to the disk: one thread writes and syncs it and another reads it back
//! while the owner folds the next batch.
//!
//! ```text
//! begun ─► written ──fsync──► synced: the next is written
//!                               └─► read back, checked, hashed ─► settled: shown, answered for
//! ```
//!
//! So at most one record of the journal is ever written and unsynced: behind a hole that a loss of
//! power leaves in one, there is never another. What a begun batch changes is read from here until
//! it is written.
//!
//! The threads start with the first batch that is begun; a copy of a chain never has them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rocksdb::WriteBatch;
use schemas::batch::Stored;
use schemas::{Hash, Head};

use super::damage::{self, Place};
use super::options::JOURNAL;
use super::tables::Tables;
use crate::memory::lock;
use crate::{Changes, LogError};

/// Batches that wait to be written, one that is being written included.
const BEGUN_MAX: usize = 2;
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

/// A batch to be written.
pub(crate) struct Begun {
    /// The end of the chain with it.
    pub(crate) head: Head,
    /// The batch, its changes and the head in one; empty while it is being written.
    pub(crate) write: WriteBatch,
    /// What it changes of the state.
    pub(crate) changes: Changes,
}

struct Progress {
    /// What is not written yet, oldest first.
    waiting: VecDeque<Begun>,
    /// The end of what is begun.
    begun: Head,
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
            waiting: VecDeque::new(),
            begun: head.clone(),
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

    /// Has the threads run; nothing that is begun is written before.
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

    /// Has a batch written, synced and read back, in its turn; waits while too many are before it.
    pub(crate) fn begin(&self, begun: Begun) -> Result<(), LogError> {
        let mut progress = self.shared.wait_until(|it| it.waiting.len() < BEGUN_MAX)?;
        progress.begun = begun.head.clone();
        progress.waiting.push_back(begun);
        drop(progress);
        self.shared.moved.notify_all();
        Ok(())
    }

    /// What `key` of the state becomes with the newest batch that is not written yet and changes
    /// it; `None` where none does.
    pub(crate) fn changed(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let progress = lock(&self.shared.progress);
        let found = progress.waiting.iter().rev().find_map(|it| it.changes.value(key));
        found.map(|value| value.map(<[u8]>::to_vec))
    }

    /// Waits until everything that is begun is written.
    pub(crate) fn written(&self) -> Result<(), LogError> {
        self.shared.wait_until(|it| it.waiting.is_empty()).map(drop)
    }

    /// Waits until everything that is begun below `next_seq` is settled.
    pub(crate) fn settle(&self, next_seq: u64) -> Result<(), LogError> {
        let until = next_seq.min(lock(&self.shared.progress).begun.next_seq);
        self.shared.wait_until(|it| until <= it.settled.next_seq).map(drop)
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
        progress.begun = head.clone();
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
    /// Writes what is begun and makes it durable, batch by batch, until all is and the log is being
    /// closed.
    fn sync(&self) {
        while let Some((write, head)) = self.next_begun() {
            if let Err(error) = self.tables.write_unsynced(write, "append to the journal") {
                return self.fail(error);
            }
            lock(&self.progress).waiting.pop_front();
            self.moved.notify_all();
            match self.tables.db.flush_wal(true) {
                Ok(()) => lock(&self.progress).synced = head,
                Err(error) => return self.fail(damage::fatal("append to the journal", &error)),
            }
            self.moved.notify_all();
        }
    }

    /// Waits for a batch to write. Nothing once all is written and the log is being closed, or
    /// after a fault.
    fn next_begun(&self) -> Option<(WriteBatch, Head)> {
        let mut progress = lock(&self.progress);
        loop {
            if progress.fault.is_some() {
                return None;
            }
            if let Some(first) = progress.waiting.front_mut() {
                return Some((std::mem::take(&mut first.write), first.head.clone()));
            }
            if progress.closing {
                return None;
            }
            progress = self.wait(progress);
        }
    }

    /// Reads back what is durable, as long as more may become so.
    fn settle(&self) {
        while let Some((from, target)) = self.next_synced() {
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

    /// Waits until something durable is to be read back, and answers both ends of it. Nothing
    /// once all is settled and the log is being closed, or after a fault.
    fn next_synced(&self) -> Option<(Head, Head)> {
        let mut progress = lock(&self.progress);
        loop {
            if progress.settled != progress.synced {
                return Some((progress.settled.clone(), progress.synced.clone()));
            }
            let is_over = progress.closing && progress.begun == progress.settled;
            if is_over || progress.fault.is_some() {
                return None;
            }
            progress = self.wait(progress);
        }
    }

    /// The leaves of what stands between two heads, once it is the chain from one to the other.
    fn read_back(&self, from: &Head, target: &Head) -> Result<Vec<Hash>, LogError> {
        let (mut leaves, mut last) = (Vec::new(), from.hash);
        self.tables.walk(from.next_seq, |at, record| {
            let stored = Stored::check(record).map_err(|it| self.tables.damaged(at, &it))?;
            if stored.header.prev != last {
                return Err(self.differs(at));
            }
            leaves.extend(stored.leaves);
            last = stored.hash;
            let next = stored.header.next_seq();
            Ok((next < target.next_seq).then_some(next))
        })?;
        if last == target.hash { Ok(leaves) } else { Err(self.differs(from.next_seq)) }
    }

    fn differs(&self, first_seq: u64) -> LogError {
        let key = first_seq.to_be_bytes();
        let place = Place { family: JOURNAL, key: Some(&key) };
        place.damaged(&self.tables.db, "it reads back differently from what was appended")
    }

    fn wait_until(
        &self,
        is_there: impl Fn(&Progress) -> bool,
    ) -> Result<MutexGuard<'_, Progress>, LogError> {
        let mut progress = lock(&self.progress);
        while !is_there(&progress) {
            if let Some(fault) = &progress.fault {
                return Err(fault.clone());
            }
            progress = self.wait(progress);
        }
        Ok(progress)
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
