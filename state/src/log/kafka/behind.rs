//! State on its way to the disk of a node on a cluster.
//!
//! The chain is the cluster's and the state is `fold(chain)`, so what of it has not been written
//! when the process ends is folded again (protocol.md §2, step 5: the store may lag the journal
//! and never leads it). What busy folds rewrite with every batch is therefore written now and
//! then, the last value of each key, sorted; position and changes stay one write.
//!
//! What has been committed lies here and nowhere else in memory, and the batch in progress changes
//! lines of a value where they lie: at a million series a batch touches a tenth of 64 MiB. What
//! they were before is kept until the batch is committed, and is what the disk gets until then.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::embedded::EmbeddedLog;
use crate::in_place::Before;
use crate::keyed::CACHE_BYTES;
use crate::memory::lock;
use crate::store::Value;
use crate::{Changes, Line, LogError, Resident, Store};

/// Small changes are written so often: at most so much is folded again after a crash.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Bytes of state that the process writes a second. Each costs a write-ahead log, a table file and
/// compactions, so a large state is written more seldom: a million series every 16 s, on however
/// many partitions.
const WRITE_BYTES_PER_S: usize = 4 * 1024 * 1024;
/// With so much waiting it is written at once: it is memory, and longer than this it should not
/// take to fold again.
const PENDING_BYTES_MAX: usize = 128 * 1024 * 1024;

/// How many states of the process are ahead of its disk, which they share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sharers(Arc<AtomicUsize>);

/// The state of a copy, ahead of its disk.
pub(crate) struct Behind {
    copy: Arc<EmbeddedLog>,
    every: Duration,
    sharers: Sharers,
    memory: Mutex<Memory>,
}

struct Memory {
    /// What the disk does not have.
    pending: BTreeMap<Arc<[u8]>, Option<Value>>,
    /// What the batch in progress has changed of them is not committed.
    before: Before,
    /// Bytes of the values among them.
    n_bytes: usize,
    /// What it has, as far as it is kept in memory; keys that are not pending.
    written: Cache,
    /// Position that belongs to what is pending; none where the disk has it.
    next_seq: Option<u64>,
    written_at: Option<Instant>,
}

impl Memory {
    fn put(&mut self, key: &Arc<[u8]>, value: Option<Value>) {
        self.n_bytes += len(&value);
        match self.pending.get_mut(key) {
            Some(before) => {
                self.n_bytes -= len(before);
                *before = value;
            }
            None => {
                self.written.take(key);
                self.pending.insert(key.clone(), value);
            }
        }
    }

    /// The committed value of `key`, of which `value` is here.
    fn committed(&self, key: &[u8], value: &Option<Value>) -> Option<Value> {
        let mut value = value.clone();
        if self.before.has(key) {
            let value = value.as_mut().map(Arc::<Vec<u8>>::make_mut);
            value.into_iter().for_each(|it| self.before.put_back(key, it));
        }
        value
    }

    /// What was pending is on the disk. What the batch in progress has changed since goes on
    /// waiting.
    fn written(&mut self) {
        let Memory { pending, before, written, .. } = self;
        let mut left = BTreeMap::new();
        for (key, value) in std::mem::take(pending) {
            match before.has(&key) {
                true => drop(left.insert(key, value)),
                false => written.insert(key, value),
            }
        }
        self.n_bytes = left.values().map(len).sum();
        self.pending = left;
        self.next_seq = None;
        self.written_at = Some(Instant::now());
    }

    /// Bytes that wait, the keys' included, which are all there is of a deletion.
    fn n_waiting(&self) -> usize {
        self.n_bytes + self.pending.len() * KEY_BYTES
    }
}

fn len(value: &Option<Value>) -> usize {
    value.as_ref().map_or(0, |it| it.len())
}

/// About so much a key takes beside its value.
const KEY_BYTES: usize = 64;

impl Behind {
    pub(crate) fn of(copy: Arc<EmbeddedLog>, sharers: &Sharers) -> Self {
        Behind::every(copy, WRITE_EVERY, sharers)
    }

    fn every(copy: Arc<EmbeddedLog>, every: Duration, sharers: &Sharers) -> Self {
        sharers.0.fetch_add(1, Ordering::Relaxed);
        let memory = Memory {
            pending: BTreeMap::new(),
            before: Before::default(),
            n_bytes: 0,
            written: Cache::new(CACHE_BYTES),
            next_seq: None,
            written_at: None,
        };
        Behind { copy, every, sharers: sharers.clone(), memory: Mutex::new(memory) }
    }

    fn is_due(&self, memory: &Memory) -> bool {
        let n_waiting = memory.n_waiting();
        let n_sharers = self.sharers.0.load(Ordering::Relaxed);
        let takes = (n_waiting * n_sharers) as f64 / WRITE_BYTES_PER_S as f64;
        let every = self.every.max(Duration::from_secs_f64(takes));
        n_waiting > PENDING_BYTES_MAX || memory.written_at.is_none_or(|it| it.elapsed() >= every)
    }

    /// Writes what is pending.
    pub(crate) fn flush(&self) -> Result<(), LogError> {
        self.write(&mut lock(&self.memory))
    }

    fn write(&self, memory: &mut Memory) -> Result<(), LogError> {
        let Some(next_seq) = memory.next_seq else { return Ok(()) };
        let pending = memory.pending.iter();
        let committed = pending.map(|(key, value)| (key.clone(), memory.committed(key, value)));
        // Somebody who goes on after a write that failed goes on from what is here, and what is
        // here is the fold up to its position.
        self.copy.fold(next_seq, &Changes::shared(committed.collect()))?;
        memory.written();
        Ok(())
    }

    /// Every pair under `prefix`; `show` says what is shown of a value that is in memory.
    fn pairs(
        &self,
        memory: &Memory,
        prefix: &[u8],
        show: impl Fn(&[u8], &Option<Value>) -> Option<Value>,
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), LogError> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let ahead = memory.pending.range::<[u8], _>(from);
        let ahead = ahead.take_while(|(key, _)| key.starts_with(prefix));
        let mut ahead = ahead.map(|(key, value)| (key, show(key, value))).peekable();
        self.copy.scan(prefix, &mut |key, value| {
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

impl Store for Behind {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        let mut found = None;
        self.look(key, &mut |value| found = Some(value.to_vec()))?;
        Ok(found)
    }

    fn look(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<(), LogError> {
        let memory = lock(&self.memory);
        let changed = memory.pending.get(key).filter(|_| memory.before.has(key));
        let Some(value) = changed.map(|it| memory.committed(key, it)) else {
            drop(memory);
            return self.look_ahead(key, look);
        };
        drop(memory);
        value.iter().for_each(|it| look(it));
        Ok(())
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        let memory = &*lock(&self.memory);
        self.pairs(memory, prefix, |key, value| memory.committed(key, value), each)
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }

    fn position(&self) -> Result<u64, LogError> {
        match lock(&self.memory).next_seq {
            Some(next_seq) => Ok(next_seq),
            None => self.copy.position(),
        }
    }

    fn commit(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError> {
        changes.sound()?;
        let memory = &mut *lock(&self.memory);
        if changes.are_in_place() {
            memory.before.clear();
        }
        for (key, value) in changes.values() {
            memory.put(key, value.clone());
        }
        memory.next_seq = Some(next_seq);
        if self.is_due(memory) { self.write(memory) } else { Ok(()) }
    }
}

impl Resident for Behind {
    fn change(
        &self,
        key: &[u8],
        places: &[u32],
        change: &mut dyn FnMut(usize, &mut Line),
    ) -> Result<(), LogError> {
        let memory = &mut *lock(&self.memory);
        let key = match memory.pending.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => {
                let key: Arc<[u8]> = key.into();
                let value = match memory.written.take(&key) {
                    Some(value) => value,
                    None => self.copy.get(&key)?.map(Arc::new),
                };
                memory.put(&key, value);
                key
            }
        };
        let Memory { pending, before, .. } = memory;
        if let Some(value) = pending.get_mut(&key).and_then(Option::as_mut) {
            // Nobody else holds it, so nothing is copied.
            before.change(&key, Arc::<Vec<u8>>::make_mut(value), places, change);
        }
        Ok(())
    }

    fn take_back(&self) {
        let Memory { pending, before, .. } = &mut *lock(&self.memory);
        for key in before.keys() {
            let value = pending.get_mut(key).and_then(Option::as_mut);
            let value = value.map(Arc::<Vec<u8>>::make_mut);
            value.into_iter().for_each(|it| before.put_back(key, it));
        }
        before.clear();
    }

    fn look_ahead(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<(), LogError> {
        let memory = &mut *lock(&self.memory);
        let mut show = |value: Option<&[u8]>| value.into_iter().for_each(&mut *look);
        if let Some(value) = memory.pending.get(key) {
            show(value.as_deref().map(Vec::as_slice));
        } else if !memory.written.look(key, &mut show) {
            let value = self.copy.get(key)?;
            show(value.as_deref());
            memory.written.insert(key.into(), value.map(Arc::new));
        }
        Ok(())
    }

    fn scan_ahead(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), LogError> {
        self.pairs(&lock(&self.memory), prefix, |_, value| value.clone(), each)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // What cannot be written is folded again.
        let _ = self.flush();
        self.sharers.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::State;

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
        let state = Behind::every(copy.clone(), Duration::MAX, &Sharers::default());
        state.commit(1, &put(&[("k1", Some("a")), ("k3", Some("b")), ("k5", Some("c"))])).unwrap();
        assert_eq!(copy.position().unwrap(), 1);
        let next = [("k0", Some("d")), ("k3", None), ("k4", Some("e")), ("l", Some("f"))];
        state.commit(2, &put(&next)).unwrap();
        state.commit(3, &put(&[("k5", Some("g")), ("k6", Some("h"))])).unwrap();
        assert_eq!(copy.position().unwrap(), 1, "the disk lags");
        assert_eq!(state.position().unwrap(), 3);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let expected =
            [pair("k0", "d"), pair("k1", "a"), pair("k4", "e"), pair("k5", "g"), pair("k6", "h")];
        assert_eq!(all(&state), expected);
        assert_eq!(state.get(b"k3").unwrap(), None);
        state.flush().unwrap();
        assert_eq!(copy.position().unwrap(), 3);
        assert_eq!(all(&state), expected);
        drop(state);
        assert_eq!(copy.get(b"k3").unwrap(), None);
    }

    #[test]
    fn a_write_that_fails_takes_nothing_from_who_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
        let state = Behind::every(copy.clone(), Duration::MAX, &Sharers::default());
        state.commit(1, &put(&[("k1", Some("a")), ("k2", Some("b"))])).unwrap();
        state.commit(2, &put(&[("k1", Some("c")), ("k2", None)])).unwrap();
        let before = all(&state);
        copy.refuse_writes();
        state.flush().unwrap_err();
        assert_eq!((state.position().unwrap(), all(&state)), (2, before));
        assert_eq!(copy.position().unwrap(), 1, "the disk lags");
    }

    /// A value of `of.len()` lines.
    fn lines(of: &str) -> Vec<u8> {
        of.bytes().flat_map(|it| [it; 64]).collect()
    }

    /// Sets the lines at `places` to these letters, one after the other.
    fn change(state: &mut State, key: &str, places: &[u32], to: &str) {
        state.change(key.as_bytes(), places, &mut |n, line| *line = [to.as_bytes()[n]; 64]);
    }

    fn commit(log: &Behind, state: &mut State, next_seq: u64) {
        log.commit(next_seq, &state.changes()).unwrap();
        state.commit();
    }

    /// The disk is written after every batch or after none.
    #[test]
    fn lines_of_a_value_change_where_it_lies() {
        for every in [Duration::ZERO, Duration::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
            let log = Arc::new(Behind::every(copy, every, &Sharers::default()));
            let mut state = State::new(log.clone()).unwrap();
            state.put(b"k", lines("0123456789"));
            state.put(b"l", lines("0123"));
            commit(&log, &mut state, 1);
            let before = state.digest().unwrap();
            change(&mut state, "k", &[8, 2, 8], "ABC");
            change(&mut state, "k", &[2], "x");
            state.discard();
            assert_eq!((state.n_pending(), state.digest().unwrap()), (0, before), "it is undone");
            change(&mut state, "k", &[8, 2, 8], "ABC");
            let pending = (state.get(b"k").unwrap(), state.digest().unwrap());
            assert_eq!(pending.0, lines("01B34567C9"));
            assert_eq!(state.scan(b"k"), [(b"k".to_vec(), pending.0.clone())]);
            assert_eq!(log.get(b"k").unwrap().unwrap(), lines("0123456789"), "not committed");
            assert_eq!((&*log as &dyn Store).digest().unwrap(), before);
            let place = Arc::as_ptr(&held(&log, b"k"));
            commit(&log, &mut state, 2);
            assert_eq!(place, Arc::as_ptr(&held(&log, b"k")), "the value was copied");
            assert_eq!((state.get(b"k").unwrap(), state.digest().unwrap()), pending);
            // On top of lines that are pending, and of a whole value that is.
            change(&mut state, "k", &[8, 2], "AB");
            change(&mut state, "k", &[0], "x");
            state.put(b"l", lines("4567"));
            change(&mut state, "l", &[3], "y");
            commit(&log, &mut state, 3);
            drop(state);
            let state = State::new(log.clone()).unwrap();
            let [k, l] = [("k", "x1B34567A9"), ("l", "456y")]
                .map(|(key, value)| (key.as_bytes().to_vec(), lines(value)));
            assert_eq!(state.scan(b""), [k, l]);
        }
    }

    #[test]
    fn the_disk_never_gets_what_is_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
        let log = Arc::new(Behind::every(copy.clone(), Duration::MAX, &Sharers::default()));
        let mut state = State::new(log.clone()).unwrap();
        state.put(b"k", lines("012"));
        commit(&log, &mut state, 1);
        change(&mut state, "k", &[1], "a");
        commit(&log, &mut state, 2);
        change(&mut state, "k", &[1, 2], "xy");
        let on_disk = || (copy.position().unwrap(), copy.get(b"k").unwrap().unwrap());
        log.flush().unwrap();
        assert_eq!(on_disk(), (2, lines("0a2")), "a checkpoint while a batch is in progress");
        assert_eq!(state.get(b"k").unwrap(), lines("0xy"));
        commit(&log, &mut state, 3);
        log.flush().unwrap();
        assert_eq!(on_disk(), (3, lines("0xy")), "what was written around waits on");
        change(&mut state, "k", &[0], "z");
        drop(state);
        assert_eq!(log.get(b"k").unwrap().unwrap(), lines("0xy"), "whoever lets go takes it back");
    }

    #[test]
    fn what_was_folded_twice_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
        let log = Arc::new(Behind::of(copy, &Sharers::default()));
        let mut state = State::new(log.clone()).unwrap();
        state.put(b"k", lines("012"));
        commit(&log, &mut state, 1);
        // A fold that panics half way, and an append that others have made.
        change(&mut state, "k", &[1], "a");
        let panics = std::panic::AssertUnwindSafe(|| {
            state.change(b"k", &[0, 2], &mut |n, line| {
                *line = [b'p'; 64];
                assert!(n == 0, "half way");
            });
        });
        std::panic::catch_unwind(panics).unwrap_err();
        state.discard();
        assert_eq!(state.get(b"k").unwrap(), lines("012"));
        change(&mut state, "k", &[1], "a");
        state.commit();
        assert_eq!(state.get(b"k").unwrap(), lines("012"), "the store has not committed it");
    }

    fn held(behind: &Behind, key: &[u8]) -> Value {
        let memory = lock(&behind.memory);
        let value = memory.pending.get(key).cloned().flatten();
        drop(memory);
        value.unwrap_or_else(|| {
            let mut memory = lock(&behind.memory);
            let value = memory.written.take(key).unwrap();
            memory.written.insert(key.into(), value.clone());
            value.unwrap()
        })
    }

    #[test]
    fn the_more_waits_the_more_seldom_it_is_written() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let sharers = Sharers::default();
        let [state, other] = dirs.each_ref().map(|it| {
            let copy = EmbeddedLog::open(it.path(), "test", 0).unwrap();
            Behind::of(Arc::new(copy), &sharers)
        });
        let due = |n_bytes: usize, since: Duration| {
            let mut memory = lock(&state.memory);
            memory.n_bytes = n_bytes;
            memory.written_at = Some(Instant::now().checked_sub(since).unwrap());
            state.is_due(&memory)
        };
        let mib = 1024 * 1024;
        assert!(due(1, Duration::from_secs(1)));
        assert!(!due(8 * mib, Duration::from_millis(3900)) && due(8 * mib, Duration::from_secs(4)));
        drop(other);
        assert!(!due(8 * mib, Duration::from_millis(1900)) && due(8 * mib, Duration::from_secs(2)));
        assert!(!due(64 * mib, Duration::from_secs(15)) && due(64 * mib, Duration::from_secs(16)));
        assert!(due(129 * mib, Duration::ZERO));
    }
}
