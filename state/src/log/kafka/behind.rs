//! State on its way to the disk of a node on a cluster.
//!
//! The chain is the cluster's and the state is `fold(chain)`, so what of it has not been written
//! when the process ends is folded again (protocol.md §2, step 5: the store may lag the journal
//! and never leads it). What busy folds rewrite with every batch is therefore written once a
//! second, the last value of each key, sorted; position and changes stay one write.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::embedded::EmbeddedLog;
use crate::memory::lock;
use crate::store::Value;
use crate::{Changes, LogError};

/// At most so much is folded again after a crash.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The state of a copy, ahead of its disk.
pub(crate) struct Behind {
    copy: Arc<EmbeddedLog>,
    every: Duration,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    changes: BTreeMap<Arc<[u8]>, Option<Value>>,
    /// Position that belongs to the changes; none where the disk has it.
    next_seq: Option<u64>,
    written: Option<Instant>,
}

impl Behind {
    pub(crate) fn of(copy: Arc<EmbeddedLog>) -> Self {
        Behind::every(copy, WRITE_EVERY)
    }

    fn every(copy: Arc<EmbeddedLog>, every: Duration) -> Self {
        Behind { copy, every, pending: Mutex::default() }
    }

    pub(crate) fn commit(&self, next_seq: u64, changes: Changes) -> Result<(), LogError> {
        changes.sound()?;
        let mut pending = lock(&self.pending);
        pending.changes.extend(changes.into_shared());
        pending.next_seq = Some(next_seq);
        let is_due = pending.written.is_none_or(|it| it.elapsed() >= self.every);
        if is_due { self.write(&mut pending) } else { Ok(()) }
    }

    /// Writes what is pending.
    pub(crate) fn flush(&self) -> Result<(), LogError> {
        self.write(&mut lock(&self.pending))
    }

    fn write(&self, pending: &mut Pending) -> Result<(), LogError> {
        // Taken together: after a failed write neither is there, and both are folded again.
        let Some(next_seq) = pending.next_seq.take() else { return Ok(()) };
        let changes = std::mem::take(&mut pending.changes);
        self.copy.fold(next_seq, &Changes::shared(changes.into_iter().collect()))?;
        pending.written = Some(Instant::now());
        Ok(())
    }

    pub(crate) fn position(&self) -> Result<u64, LogError> {
        match lock(&self.pending).next_seq {
            Some(next_seq) => Ok(next_seq),
            None => crate::Store::position(&*self.copy),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        match lock(&self.pending).changes.get(key) {
            Some(value) => Ok(value.as_deref().cloned()),
            None => crate::Store::get(&*self.copy, key),
        }
    }

    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), LogError> {
        let pending = lock(&self.pending);
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let ahead = pending.changes.range::<[u8], _>(from);
        let mut ahead = ahead.take_while(|(key, _)| key.starts_with(prefix)).peekable();
        crate::Store::scan(&*self.copy, prefix, &mut |key, value| {
            while let Some((first, new)) = ahead.next_if(|(it, _)| it[..] < *key) {
                new.iter().for_each(|new| each(first, new));
            }
            match ahead.next_if(|(it, _)| it[..] == *key) {
                Some((_, new)) => new.iter().for_each(|new| each(key, new)),
                None => each(key, value),
            }
        })?;
        for (key, new) in ahead {
            new.iter().for_each(|new| each(key, new));
        }
        Ok(())
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // What cannot be written is folded again.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(pairs: &[(&str, Option<&str>)]) -> Changes {
        let owned = |text: &str| text.as_bytes().to_vec();
        Changes::new(pairs.iter().map(|(key, value)| (owned(key), value.map(owned))).collect())
    }

    fn all(state: &Behind) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        state.scan(b"k", &mut |key, value| pairs.push((text(key), text(value)))).unwrap();
        for (key, value) in &pairs {
            assert_eq!(state.get(key.as_bytes()).unwrap().unwrap(), value.as_bytes());
        }
        pairs
    }

    #[test]
    fn what_is_not_written_yet_is_read_as_if_it_were() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
        // The first is written at once; what follows waits, here for ever.
        let state = Behind::every(copy.clone(), Duration::MAX);
        state.commit(1, put(&[("k1", Some("a")), ("k3", Some("b")), ("k5", Some("c"))])).unwrap();
        assert_eq!(crate::Store::position(&*copy).unwrap(), 1);
        let next = [("k0", Some("d")), ("k3", None), ("k4", Some("e")), ("l", Some("f"))];
        state.commit(2, put(&next)).unwrap();
        state.commit(3, put(&[("k5", Some("g")), ("k6", Some("h"))])).unwrap();
        assert_eq!(crate::Store::position(&*copy).unwrap(), 1, "the disk lags");
        assert_eq!(state.position().unwrap(), 3);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected =
            [pair("k0", "d"), pair("k1", "a"), pair("k4", "e"), pair("k5", "g"), pair("k6", "h")];
        assert_eq!(all(&state), expected);
        assert_eq!(state.get(b"k3").unwrap(), None);
        state.flush().unwrap();
        assert_eq!(crate::Store::position(&*copy).unwrap(), 3);
        assert_eq!(all(&state), expected);
        drop(state);
        assert_eq!(crate::Store::get(&*copy, b"k3").unwrap(), None);
    }
}
