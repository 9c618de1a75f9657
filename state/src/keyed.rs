//! The state as folds read and write it: a pending overlay over a cache over a store.
//!
//! ```text
//! put, delete ─► overlay ──changes()──► Log::append / Store::commit
//! get         ─► overlay ─► cache ─► store
//! ```
//!
//! The overlay holds what the batch in progress has changed; `commit` moves it into the cache
//! once the log has appended the batch, `discard` forgets it. The cache never holds what is not
//! committed, so losing an append costs nothing but the overlay. Over a store that keeps values
//! in memory itself there is no cache, and lines of a value are changed where they lie
//! ([`Resident`]), which `discard` takes back: nobody has the value twice.
//!
//! Wakes are keys too (LAYOUT.md, "Wakes"), so that they are committed, replayed and digested
//! with everything else; in memory stand their times by key and an ordered set that says which
//! is due next, about 250 bytes for each wake. So setting one reads nothing from the store.
//!
//! Invariants:
//! - At most one wake per processor and key; due ones come in order of (at, processor, key).
//! - Keys that begin with [`RESERVED`] are this module's own.
//! - A failed read answers "nothing" and poisons the changes, which then cannot be appended.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use schemas::Hash;

use crate::cache::Cache;
use crate::in_place::Edit;
use crate::store::{Digest, Value};
use crate::{Changes, LogError, Resident, Store};

/// First byte of the keys that folds cannot write. Persisted: frozen.
const RESERVED: u8 = 0;
/// Under `0 'w' processor 0 key` stands the time of a wake. Persisted: frozen.
const WAKE_PREFIX: [u8; 2] = [RESERVED, b'w'];
/// Ends the processor's name within a wake's key.
const SEPARATOR: u8 = 0;
/// Bytes of committed values kept in memory unless told otherwise: 10,000 series of detection
/// state take about 8 MiB.
pub(crate) const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// A time at which a processor wants to be called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wake {
    /// Tick time, in nanoseconds.
    pub at: u64,
    /// Name of the processor.
    pub processor: String,
    /// What it asked to be woken for.
    pub key: String,
}

/// What folds read and write. One owner, one thread; see the module's head.
pub struct State {
    store: Arc<dyn Store>,
    /// None where the store keeps the values.
    cache: Option<RefCell<Cache>>,
    overlay: HashMap<Arc<[u8]>, Option<Value>>,
    /// Values that the batch in progress has been given to edit in place, each as often as it was.
    n_in_place: usize,
    /// The overlay's keys in order, as far as a scan has needed them …
    index: RefCell<BTreeSet<Arc<[u8]>>>,
    /// … and the ones written since.
    unindexed: RefCell<Vec<Arc<[u8]>>>,
    /// When each wake is due, by its key, the overlay's included …
    wakes: HashMap<Arc<[u8]>, u64>,
    /// … and the same in order.
    due: BTreeSet<(u64, Arc<[u8]>)>,
    fault: RefCell<Option<LogError>>,
}

impl State {
    /// The state at the store's committed position.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the stored wakes cannot be read.
    pub fn new(store: Arc<dyn Store>) -> Result<Self, LogError> {
        State::with_cache(store, CACHE_BYTES)
    }

    /// As [`State::new`], keeping at most about `bytes_max` of committed values in memory.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when the stored wakes cannot be read.
    pub fn with_cache(store: Arc<dyn Store>, bytes_max: usize) -> Result<Self, LogError> {
        let mut wakes = HashMap::new();
        let mut malformed = None;
        store.scan(&WAKE_PREFIX, &mut |key, value| match at(value) {
            Some(at) => {
                wakes.insert(Arc::from(key), at);
            }
            None => malformed = Some(key.to_vec()),
        })?;
        if let Some(key) = malformed {
            return Err(damaged(&key));
        }
        let cache = store.resident().is_none().then(|| RefCell::new(Cache::new(bytes_max)));
        Ok(State {
            store,
            cache,
            overlay: HashMap::new(),
            n_in_place: 0,
            index: RefCell::default(),
            unindexed: RefCell::default(),
            due: wakes.iter().map(|(key, at)| (*at, Arc::clone(key))).collect(),
            wakes,
            fault: RefCell::default(),
        })
    }

    /// The value of `key`, pending changes included.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut found = None;
        self.look(key, &mut |value| found = Some(value.to_vec()));
        found
    }

    /// Shows `look` the value of `key` where it lies, pending changes included; nothing when
    /// there is none. `look` must not come back to this state.
    pub fn look(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) {
        match self.overlay.get(key) {
            Some(pending) => pending.as_deref().map(Vec::as_slice).into_iter().for_each(look),
            None => self.below(key, look),
        }
    }

    /// Has the values of `keys` edited, which are in order, each once; one that is not there has
    /// no lines. They are edited where they lie, if that is a store that is [`Resident`] and no
    /// whole value is pending in the place of one of them.
    pub fn edit(&mut self, keys: &[Vec<u8>], edit: Edit<'_>) {
        if keys.is_empty() {
            return edit(&mut [], &mut |_, _, _| {});
        }
        let is_pending = keys.iter().any(|it| self.overlay.contains_key(&it[..]));
        if let Some(store) = self.store.resident().filter(|_| !is_pending) {
            self.n_in_place += keys.len();
            return store.edit(keys, edit).unwrap_or_else(|error| self.poison(error));
        }
        let mut values: Vec<Vec<u8>> =
            keys.iter().map(|it| self.get(it).unwrap_or_default()).collect();
        let mut lines: Vec<_> = values.iter_mut().map(|it| it.as_chunks_mut().0).collect();
        let mut are_changed = vec![false; keys.len()];
        edit(&mut lines, &mut |value, _, _| are_changed[value] = true);
        for ((key, value), _) in keys.iter().zip(values).zip(are_changed).filter(|it| it.1) {
            self.put(key, value);
        }
    }

    /// Sets `key` in the overlay. Keys are not empty and do not begin with byte 0.
    pub fn put(&mut self, key: &[u8], value: Vec<u8>) {
        debug_assert!(key.first().is_some_and(|it| *it != RESERVED), "{key:?} is reserved");
        self.write(key, Some(value));
    }

    /// Removes `key` in the overlay.
    pub fn delete(&mut self, key: &[u8]) {
        debug_assert!(key.first().is_some_and(|it| *it != RESERVED), "{key:?} is reserved");
        self.write(key, None);
    }

    /// Every pair whose key begins with `prefix`, in order, pending changes included. An empty
    /// prefix means every key that folds can write.
    pub fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = BTreeMap::new();
        let reserved = |key: &[u8]| prefix.is_empty() && key.first() == Some(&RESERVED);
        let read = self.scan_below(prefix, &mut |key, value| {
            if !reserved(key) {
                pairs.insert(key.to_vec(), value.to_vec());
            }
        });
        if let Err(error) = read {
            self.poison(error);
            return Vec::new();
        }
        for key in self.pending(prefix).into_iter().filter(|key| !reserved(key)) {
            match self.overlay.get(&key).cloned().flatten() {
                Some(value) => pairs.insert(key.to_vec(), value.to_vec()),
                None => pairs.remove(&key[..]),
            };
        }
        pairs.into_iter().collect()
    }

    /// Asks for `processor` to be woken for `key` at tick time `at`, instead of when it asked
    /// to be woken for that key before.
    pub fn wake(&mut self, processor: &str, key: &str, at: u64) {
        let key: Arc<[u8]> = wake_key(processor, key).into();
        if let Some(before) = self.wakes.insert(key.clone(), at) {
            self.due.remove(&(before, key.clone()));
        }
        self.due.insert((at, key.clone()));
        self.pend(&key, || key.clone(), Some(at.to_be_bytes().to_vec()));
    }

    /// Withdraws a wake; without one, does nothing.
    pub fn unwake(&mut self, processor: &str, key: &str) {
        let key = wake_key(processor, key);
        let Some((key, before)) = self.wakes.remove_entry(&key[..]) else { return };
        self.pend(&key, || key.clone(), None);
        self.due.remove(&(before, key));
    }

    /// The first `max` wakes due at tick time `now`, in order of (at, processor, key). They
    /// stay until they are withdrawn or replaced.
    pub fn due(&self, now: u64, max: usize) -> Vec<Wake> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).take(max);
        due.filter_map(|(at, key)| wake(*at, key)).collect()
    }

    /// When the next wake is due.
    pub fn next_wake(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Number of keys that [`State::changes`] would name.
    pub fn n_pending(&self) -> usize {
        self.overlay.len() + self.n_in_place
    }

    /// What the batch in progress changes.
    pub fn changes(&self) -> Changes {
        let pairs = self.overlay.iter().map(|(key, value)| (key.clone(), value.clone()));
        Changes::shared(pairs.collect()).with_in_place(self.n_in_place > 0).with_fault(self.fault())
    }

    /// The overlay has been appended: from now on it is the committed state.
    pub fn commit(&mut self) {
        let overlay = self.overlay.drain();
        match &mut self.cache {
            Some(cache) => {
                let cache = cache.get_mut();
                overlay.for_each(|(key, value)| cache.insert(key, value));
            }
            None => drop(overlay),
        }
        // What the store has committed it does not take back.
        self.take_back();
        self.index.get_mut().clear();
        self.unindexed.get_mut().clear();
    }

    /// Forgets the overlay: the state is again what is committed.
    ///
    /// A fault that a read met is forgotten with what was folded on it.
    pub fn discard(&mut self) {
        let overlay = std::mem::take(&mut self.overlay);
        self.take_back();
        self.index.get_mut().clear();
        self.unindexed.get_mut().clear();
        *self.fault.get_mut() = None;
        for key in overlay.into_keys().filter(|key| key.starts_with(&WAKE_PREFIX)) {
            if let Some(at) = self.wakes.remove(&key) {
                self.due.remove(&(at, key.clone()));
            }
            let mut committed = None;
            self.below(&key, &mut |value| committed = at(value));
            if let Some(at) = committed {
                self.wakes.insert(key.clone(), at);
                self.due.insert((at, key));
            }
        }
    }

    /// The logical state digest: over all keys in order, wakes and pending changes included,
    /// so that equal folds have equal digests wherever and however they are stored.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], or the fault that an earlier read met.
    pub fn digest(&self) -> Result<Hash, LogError> {
        let mut digest = Digest::default();
        let mut pending = self.pending(&[]).into_iter().peekable();
        self.scan_below(&[], &mut |key, value| {
            while let Some(first) = pending.next_if(|it| &it[..] < key) {
                digest.add(&first, self.pended(&first));
            }
            match pending.next_if(|it| &it[..] == key) {
                Some(same) => digest.add(key, self.pended(&same)),
                None => digest.add(key, Some(value)),
            }
        })?;
        for rest in pending {
            digest.add(&rest, self.pended(&rest));
        }
        self.fault().map_or_else(|| Ok(digest.hash()), Err)
    }

    /// The first error that a read met since the last [`State::discard`].
    pub fn fault(&self) -> Option<LogError> {
        self.fault.borrow().clone()
    }

    /// What the overlay holds under `key`.
    fn pended(&self, key: &[u8]) -> Option<&[u8]> {
        self.overlay.get(key)?.as_deref().map(Vec::as_slice)
    }

    fn write(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        self.pend(key, || key.into(), value);
    }

    /// Puts `value` under `key`, of which `shared` makes the copy to keep where one is needed.
    fn pend(&mut self, key: &[u8], shared: impl FnOnce() -> Arc<[u8]>, value: Option<Vec<u8>>) {
        let value = value.map(Arc::new);
        if let Some(pending) = self.overlay.get_mut(key) {
            *pending = value;
            return;
        }
        let key = shared();
        self.unindexed.get_mut().push(key.clone());
        self.overlay.insert(key, value);
    }

    /// What lies under the overlay.
    fn below(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) {
        let Some(cache) = &self.cache else {
            let read = match self.store.resident() {
                Some(store) => store.look_ahead(key, look),
                None => self.store.look(key, look),
            };
            return read.unwrap_or_else(|error| self.poison(error));
        };
        let mut show = |value: Option<&[u8]>| value.into_iter().for_each(&mut *look);
        if cache.borrow_mut().look(key, &mut show) {
            return;
        }
        match self.store.get(key) {
            Ok(value) => {
                value.as_deref().into_iter().for_each(look);
                cache.borrow_mut().insert(key.into(), value.map(Arc::new));
            }
            Err(error) => self.poison(error),
        }
    }

    fn scan_below(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), LogError> {
        match self.store.resident() {
            Some(store) => store.scan_ahead(prefix, each),
            None => self.store.scan(prefix, each),
        }
    }

    /// Takes back what was changed in place and is not committed.
    fn take_back(&mut self) {
        if std::mem::take(&mut self.n_in_place) > 0 {
            self.store.resident().into_iter().for_each(Resident::take_back);
        }
    }

    /// The overlay's keys with this prefix, in order.
    fn pending(&self, prefix: &[u8]) -> Vec<Arc<[u8]>> {
        let mut index = self.index.borrow_mut();
        index.extend(self.unindexed.borrow_mut().drain(..));
        let from =
            index.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(|key| key.starts_with(prefix)).cloned().collect()
    }

    fn poison(&self, error: LogError) {
        self.fault.borrow_mut().get_or_insert(error);
    }
}

impl Drop for State {
    /// Whoever goes on from the store goes on from what is committed.
    fn drop(&mut self) {
        self.take_back();
    }
}

fn wake_key(processor: &str, key: &str) -> Vec<u8> {
    debug_assert!(!processor.as_bytes().contains(&SEPARATOR), "{processor:?} holds a zero byte");
    let mut name = Vec::with_capacity(WAKE_PREFIX.len() + processor.len() + 1 + key.len());
    name.extend(WAKE_PREFIX);
    name.extend(processor.as_bytes());
    name.push(SEPARATOR);
    name.extend(key.as_bytes());
    name
}

fn at(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// The wake stored under `key`, which [`State::wake`] wrote from two strings.
fn wake(at: u64, key: &[u8]) -> Option<Wake> {
    let name = key.strip_prefix(&WAKE_PREFIX)?;
    let end = name.iter().position(|byte| *byte == SEPARATOR)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some(Wake { at, processor: text(&name[..end])?, key: text(&name[end + 1..])? })
}

fn damaged(key: &[u8]) -> LogError {
    LogError::from(crate::error::Damage {
        what: "state",
        position: None,
        file: format!("key {}", key.escape_ascii()),
        why: "a wake is not a time of 8 bytes".to_owned(),
        repair: crate::error::REPAIR_STATE.to_owned(),
    })
}
