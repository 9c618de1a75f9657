//! A log and a store in memory, for simulation and for tests of what stands above.
//!
//! Several handles ([`MemoryLog::beside`]) share one chain and its streams and have a store
//! each: two processes that believe to be owner. A [`Fault`] decides what becomes of the next
//! append: a crash of the process at either side of persistence, or a lost answer. What a
//! crash takes from a process is its `State`; the handle is its disk and stays.
//!
//! Records are kept decoded; nothing here is durable.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::{Batch, Hash, Head, Stream, link};

use crate::log::RECORD_BYTES_MAX;
use crate::{Append, Changes, Log, LogError, Records, Store};

/// What becomes of an append (protocol.md §2, the table of crashes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was persisted; no answer comes.
    NotPersisted,
    /// The batch is in the chain, the store is behind it; no answer comes.
    Unanswered,
    /// Batch and store are both persisted, as on the embedded log; no answer comes.
    Committed,
    /// Somebody else's batch came first: answers `Lost` with the unchanged head.
    Overtaken,
    /// The batch is begun and cannot be made durable: settling it fails. What of it persists is
    /// what [`MemoryLog::lose_begun`] says.
    Unsettled,
}

/// One handle on a chain in memory, with a store of its own.
pub struct MemoryLog {
    chain: Arc<Mutex<Chain>>,
    store: Mutex<MemoryStore>,
    faults: Mutex<VecDeque<Option<Fault>>>,
}

struct Chain {
    head: Head,
    batches: Vec<Batch>,
    /// What follows and nobody is shown.
    begun: VecDeque<Begun>,
    streams: [Queue; 3],
    quarantine: BTreeMap<Hash, (Vec<u8>, String)>,
}

#[derive(Default)]
struct MemoryStore {
    position: u64,
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A batch on its way to the disk.
struct Begun {
    batch: Batch,
    /// The end of the chain with it.
    head: Head,
    /// What its changes have replaced.
    undo: Undo,
    fails: bool,
}

/// The position before a commit, and the values that stood under the keys that it changed.
struct Undo {
    position: u64,
    pairs: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl MemoryLog {
    /// An empty chain and an empty store.
    pub fn new(deployment: &str, partition: u32) -> Self {
        MemoryLog::on(Arc::new(Mutex::new(Chain {
            head: Head::genesis(deployment, partition),
            batches: Vec::new(),
            begun: VecDeque::new(),
            streams: Default::default(),
            quarantine: BTreeMap::new(),
        })))
    }

    /// Another process's handle: the same chain and streams, an empty store.
    pub fn beside(&self) -> Self {
        MemoryLog::on(self.chain.clone())
    }

    /// Plans what becomes of the next appends through this handle, one item each, `None` for
    /// one that goes well. Appends after the plan go well.
    pub fn plan(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        lock(&self.faults).extend(faults);
    }

    /// Takes what the crash of an embedded log's process takes: `inbox` and `inbox.control`,
    /// which go on from where the chain has taken them.
    pub fn lose_inbox(&self) {
        let mut chain = lock(&self.chain);
        let positions = chain.head.positions;
        *chain.stream(Stream::Inbox) = Queue::starting_at(positions.inbox);
        *chain.stream(Stream::Control) = Queue::starting_at(positions.control);
    }

    /// Takes what a crash takes of the batches that were begun and not settled: all but the first
    /// `n_kept`.
    pub fn lose_begun(&self, n_kept: usize) {
        let mut chain = lock(&self.chain);
        let mut store = lock(&self.store);
        while n_kept < chain.begun.len() {
            chain.begun.pop_back().into_iter().for_each(|it| store.take_back(it.undo));
        }
        chain.keep_begun();
    }

    /// What is in quarantine: records and reasons, by hash.
    pub fn quarantined(&self) -> BTreeMap<Hash, (Vec<u8>, String)> {
        lock(&self.chain).quarantine.clone()
    }

    /// Changes one byte of a stored payload, as a damaged disk would.
    pub fn damage(&self, seq: u64) {
        let mut chain = lock(&self.chain);
        let entries = chain.batches.iter_mut().flat_map(|it| it.entries.iter_mut());
        for entry in entries.filter(|entry| entry.envelope.seq == seq) {
            match entry.payload.last_mut() {
                Some(byte) => *byte ^= 1,
                None => entry.salt[0] ^= 1,
            }
        }
    }

    fn on(chain: Arc<Mutex<Chain>>) -> Self {
        MemoryLog { chain, store: Mutex::default(), faults: Mutex::default() }
    }

    /// Links `batch` and commits its changes, as far as `fault` lets it.
    fn persist(
        &self,
        chain: &mut Chain,
        batch: &Batch,
        changes: &Changes,
        fault: Option<Fault>,
    ) -> Result<Append, LogError> {
        let unanswered = Err(LogError::Unanswered { what: "append" });
        let head = link(chain.end(), batch)
            .map_err(|skip| LogError::Unlinked { first_seq: batch.header.first_seq, skip })?;
        match fault {
            Some(Fault::NotPersisted) => return unanswered,
            Some(Fault::Overtaken) => return Ok(Append::Lost(chain.end().clone())),
            Some(Fault::Unanswered | Fault::Committed | Fault::Unsettled) | None => {}
        }
        let mut store = lock(&self.store);
        let undo = match fault {
            Some(Fault::Unanswered) => Undo { position: store.position, pairs: Vec::new() },
            _ => store.commit(head.next_seq, changes),
        };
        let fails = fault == Some(Fault::Unsettled);
        chain.begun.push_back(Begun { batch: batch.clone(), head: head.clone(), undo, fails });
        if matches!(fault, Some(Fault::Unanswered | Fault::Committed)) {
            // Persisted, and with it all before it.
            chain.keep_begun();
            return unanswered;
        }
        Ok(Append::Appended(head))
    }
}

impl Log for MemoryLog {
    fn head(&self) -> Result<Head, LogError> {
        Ok(lock(&self.chain).head.clone())
    }

    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        let chain = lock(&self.chain);
        let first = chain.batches.partition_point(|batch| batch.next_seq() <= from_seq);
        let mut bytes = 0;
        let mut batches = Vec::new();
        for batch in &chain.batches[first..] {
            bytes += batch.entries.iter().map(schemas::Entry::size).sum::<usize>();
            if !batches.is_empty() && bytes > bytes_max {
                break;
            }
            batch.check_body().map_err(|damage| {
                crate::error::damaged_batch(batch.header.first_seq, &damage, "memory".to_owned())
            })?;
            batches.push(batch.clone());
        }
        Ok(batches)
    }

    fn append(
        &self,
        expected: &Head,
        batch: &Batch,
        changes: &Changes,
    ) -> Result<Append, LogError> {
        let appended = self.begin(expected, batch, changes)?;
        self.settle(batch.next_seq())?;
        Ok(appended)
    }

    fn begin(&self, expected: &Head, batch: &Batch, changes: &Changes) -> Result<Append, LogError> {
        changes.sound()?;
        let fault = lock(&self.faults).pop_front().flatten();
        let mut chain = lock(&self.chain);
        if chain.end().hash == batch.hash() {
            let mut store = lock(&self.store);
            if store.position == batch.header.first_seq {
                store.commit(batch.next_seq(), changes);
            }
            return Ok(Append::Appended(chain.end().clone()));
        }
        if chain.end() != expected {
            return Ok(Append::Lost(chain.end().clone()));
        }
        self.persist(&mut chain, batch, changes, fault)
    }

    fn settle(&self, next_seq: u64) -> Result<(), LogError> {
        let mut chain = lock(&self.chain);
        while let Some(it) = chain.begun.front().filter(|it| it.head.next_seq <= next_seq) {
            if it.fails {
                let what = "append to the journal".to_owned();
                return Err(LogError::Fatal { what, why: "a fault was planned".to_owned() });
            }
            chain.keep_one();
        }
        Ok(())
    }

    fn send(&self, stream: Stream, records: &[Vec<u8>]) -> Result<Range<u64>, LogError> {
        within_limit(records)?;
        Ok(lock(&self.chain).stream(stream).send(records))
    }

    fn take(&self, stream: Stream, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        Ok(lock(&self.chain).stream(stream).take(from, bytes_max))
    }

    fn quarantine(&self, record: &[u8], reason: &str) -> Result<Hash, LogError> {
        let hash = Hash::of(&[record]);
        let mut chain = lock(&self.chain);
        chain.quarantine.entry(hash).or_insert_with(|| (record.to_vec(), reason.to_owned()));
        Ok(hash)
    }

    fn forget(&self, stream: Stream, before: u64) -> Result<(), LogError> {
        lock(&self.chain).stream(stream).forget(before);
        Ok(())
    }
}

impl Store for MemoryLog {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Ok(lock(&self.store).pairs.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        let store = lock(&self.store);
        let from = store.pairs.range(prefix.to_vec()..);
        for (key, value) in from.take_while(|(key, _)| key.starts_with(prefix)) {
            each(key, value);
        }
        Ok(())
    }

    fn position(&self) -> Result<u64, LogError> {
        Ok(lock(&self.store).position)
    }

    fn commit(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError> {
        changes.sound()?;
        lock(&self.store).commit(next_seq, changes);
        Ok(())
    }
}

impl Chain {
    /// The end as the author of what is begun sees it.
    fn end(&self) -> &Head {
        self.begun.back().map_or(&self.head, |it| &it.head)
    }

    /// The first of what is begun stands in the chain.
    fn keep_one(&mut self) {
        if let Some(Begun { batch, head, .. }) = self.begun.pop_front() {
            self.batches.push(batch);
            self.head = head;
        }
    }

    fn keep_begun(&mut self) {
        while !self.begun.is_empty() {
            self.keep_one();
        }
    }

    fn stream(&mut self, stream: Stream) -> &mut Queue {
        &mut self.streams[match stream {
            Stream::Inbox => 0,
            Stream::Control => 1,
            Stream::Telemetry => 2,
        }]
    }
}

impl MemoryStore {
    fn commit(&mut self, next_seq: u64, changes: &Changes) -> Undo {
        let mut undo = Undo { position: self.position, pairs: Vec::new() };
        for (key, value) in changes.pairs() {
            let before = match value {
                Some(value) => self.pairs.insert(key.to_vec(), value.to_vec()),
                None => self.pairs.remove(key),
            };
            undo.pairs.push((key.to_vec(), before));
        }
        self.position = next_seq;
        undo
    }

    fn take_back(&mut self, undo: Undo) {
        self.position = undo.position;
        for (key, before) in undo.pairs {
            match before {
                Some(value) => self.pairs.insert(key, value),
                None => self.pairs.remove(&key),
            };
        }
    }
}

/// A stream in memory: records and the position of the first one kept.
#[derive(Default)]
pub(crate) struct Queue {
    first: u64,
    records: VecDeque<Vec<u8>>,
}

impl Queue {
    /// An empty stream whose next record gets position `first`.
    pub(crate) fn starting_at(first: u64) -> Self {
        Queue { first, records: VecDeque::new() }
    }

    pub(crate) fn send(&mut self, records: &[Vec<u8>]) -> Range<u64> {
        let from = self.first + self.records.len() as u64;
        self.records.extend(records.iter().cloned());
        from..from + records.len() as u64
    }

    pub(crate) fn take(&self, from: u64, bytes_max: usize) -> Records {
        let from = from.max(self.first);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let mut taken = Records::default();
        for (position, record) in (from..).zip(self.records.iter().skip(skip)) {
            if !taken.is_empty() && taken.n_bytes() + record.len() > bytes_max {
                break;
            }
            taken.push(position, record);
        }
        taken
    }

    pub(crate) fn forget(&mut self, before: u64) {
        while self.first < before && self.records.pop_front().is_some() {
            self.first += 1;
        }
    }
}

/// Refuses records that no stream takes, before any of them is added.
pub(crate) fn within_limit(records: &[Vec<u8>]) -> Result<(), LogError> {
    match records.iter().map(Vec::len).max() {
        Some(bytes) if bytes > RECORD_BYTES_MAX => {
            Err(LogError::TooLarge { bytes, bytes_max: RECORD_BYTES_MAX })
        }
        Some(_) | None => Ok(()),
    }
}

/// A panic under one of these locks leaves plain data in a whole state: each change is one
/// assignment or is made under a lock that its maker does not panic in.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
