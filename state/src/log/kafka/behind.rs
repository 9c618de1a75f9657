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

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::embedded::EmbeddedLog;
use crate::in_place::{Before, Edit, lines_of};
use crate::keyed::CACHE_BYTES;
use crate::memory::lock;
use crate::store::Value;
use crate::{Changes, LogError, Resident, Store};

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

    /// Those of `keys` that the batch in progress has edited, as they are committed.
    fn committed(&self, keys: &[Vec<u8>]) -> BTreeMap<Arc<[u8]>, Option<Value>> {
        let edited = keys.iter().filter(|it| self.before.has(it));
        let edited = edited.filter_map(|it| self.pending.get_key_value(&it[..]));
        let mut copies = edited.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.before.put_back(keys, &mut lines_of(&mut copies, keys));
        copies
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
        let mut committed = memory.pending.clone();
        committed.append(&mut memory.committed(&memory.before.keys()));
        // Somebody who goes on after a write that failed goes on from what is here, and what is
        // here is the fold up to its position.
        self.copy.fold(next_seq, &Changes::shared(committed.into_iter().collect()))?;
        memory.written();
        Ok(())
    }

    /// Every pair under `prefix`; of what is in memory, that which stands in `instead` if it does.
    fn pairs(
        &self,
        memory: &Memory,
        instead: &BTreeMap<Arc<[u8]>, Option<Value>>,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), LogError> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let ahead = memory.pending.range::<[u8], _>(from);
        let ahead = ahead.take_while(|(key, _)| key.starts_with(prefix));
        let ahead = ahead.map(|(key, value)| (key, instead.get(key).unwrap_or(value)));
        let mut ahead = ahead.peekable();
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

    /// Shows `look` the value of `key` as it is in memory, or as it was written.
    fn show(
        &self,
        memory: &mut Memory,
        key: &[u8],
        look: &mut dyn FnMut(&[u8]),
    ) -> Result<(), LogError> {
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

    /// Has what is kept of `key` in memory wait for the disk as it is.
    fn hold(&self, memory: &mut Memory, key: &[u8]) -> Result<(), LogError> {
        if memory.pending.contains_key(key) {
            return Ok(());
        }
        let value = match memory.written.take(key) {
            Some(value) => value,
            None => self.copy.get(key)?.map(Arc::new),
        };
        match value {
            Some(value) => memory.put(&key.into(), Some(value)),
            None => memory.written.insert(key.into(), None),
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
        let memory = &mut *lock(&self.memory);
        if !memory.before.has(key) {
            return self.show(memory, key, look);
        }
        memory.committed(&[key.to_vec()]).values().flatten().for_each(|it| look(it));
        Ok(())
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        let memory = &*lock(&self.memory);
        let mut edited = memory.before.keys();
        edited.retain(|it| it.starts_with(prefix));
        self.pairs(memory, &memory.committed(&edited), prefix, each)
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
    fn edit(&self, keys: &[Vec<u8>], edit: Edit<'_>) -> Result<(), LogError> {
        let memory = &mut *lock(&self.memory);
        for key in keys {
            self.hold(memory, key)?;
        }
        let Memory { pending, before, .. } = memory;
        before.edit(keys, &mut lines_of(pending, keys), edit);
        Ok(())
    }

    fn take_back(&self) {
        let Memory { pending, before, .. } = &mut *lock(&self.memory);
        let keys = before.keys();
        before.put_back(&keys, &mut lines_of(pending, &keys));
        before.clear();
    }

    fn look_ahead(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<(), LogError> {
        self.show(&mut lock(&self.memory), key, look)
    }

    fn scan_ahead(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), LogError> {
        self.pairs(&lock(&self.memory), &BTreeMap::new(), prefix, each)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // What cannot be written is folded again.
        let _ = self.flush();
        self.sharers.0.fetch_sub(1, Ordering::Relaxed);
    }
}
