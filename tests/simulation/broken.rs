//! Logs and stores that break one rule each, to show that the checker finds it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use schemas::{Batch, Hash, Head, Stream, link};
use state::memory::MemoryLog;
use state::{Append, Changes, Log, LogError, Records, Store};

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Every seventh append is answered and not persisted.
    AnswersUnpersisted,
    /// Every seventh append is lost, and its overlay is kept as state.
    KeepsOverlayAfterLost,
    /// A repeat is recognised only until the process ends.
    ForgetsRepeats,
}

/// A log and store around a good one.
pub(crate) struct Wrapped {
    pub(crate) inner: Arc<MemoryLog>,
    pub(crate) broken: Broken,
    pub(crate) n: AtomicU64,
}

impl Wrapped {
    pub(crate) fn disk(inner: Arc<MemoryLog>, broken: Broken) -> (Arc<dyn Log>, Arc<dyn Store>) {
        let wrapped = Arc::new(Wrapped { inner, broken, n: AtomicU64::new(0) });
        (wrapped.clone(), wrapped)
    }
}

impl Log for Wrapped {
    fn head(&self) -> Result<Head, LogError> {
        Log::head(&*self.inner)
    }

    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        Log::read(&*self.inner, from_seq, bytes_max)
    }

    fn append(
        &self,
        expected: &Head,
        batch: &Batch,
        changes: &Changes,
    ) -> Result<Append, LogError> {
        let n = self.n.fetch_add(1, Ordering::Relaxed);
        if n % 7 != 6 || self.broken == Broken::ForgetsRepeats {
            return self.inner.append(expected, batch, changes);
        }
        if self.broken == Broken::AnswersUnpersisted {
            return Ok(Append::Appended(link(expected, batch).expect("the owner links well")));
        }
        let head = Log::head(&*self.inner)?;
        self.inner.commit(head.next_seq, changes)?;
        Ok(Append::Lost(head))
    }

    fn send(&self, stream: Stream, records: &[Vec<u8>]) -> Result<Range<u64>, LogError> {
        self.inner.send(stream, records)
    }

    fn take(&self, stream: Stream, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        self.inner.take(stream, from, bytes_max)
    }

    fn quarantine(&self, record: &[u8], reason: &str) -> Result<Hash, LogError> {
        self.inner.quarantine(record, reason)
    }

    fn forget(&self, stream: Stream, before: u64) -> Result<(), LogError> {
        self.inner.forget(stream, before)
    }
}

impl Store for Wrapped {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        let repeats = key.windows(7).any(|it| it == b"client/");
        if self.broken == Broken::ForgetsRepeats && repeats {
            return Ok(None);
        }
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        self.inner.scan(prefix, each)
    }

    fn position(&self) -> Result<u64, LogError> {
        self.inner.position()
    }

    fn commit(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError> {
        self.inner.commit(next_seq, changes)
    }
}
