//! Typed reads over the database, shared by the owner and by a reader beside it.
//!
//! Every read checks what it read: structure, places and body of a batch, the link from batch
//! to batch, gap-free telemetry. RocksDB's own checksums lie below that.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rocksdb::{DB, ReadOptions, WriteBatch};
use schemas::link::election;
use schemas::signature::{EpochClaim, PublicKey};
use schemas::wire::{Reader, Writer};
use schemas::{Batch, Hash, Head, Positions, link};

use super::damage::{Place, fatal};
use super::options::{JOURNAL, META, QUARANTINE, STATE, TELEMETRY, synced};
use crate::memory::lock;
use crate::{LogError, Records};

/// Version of the layout that LAYOUT.md describes. Persisted: frozen.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const KEY_FORMAT: &[u8] = b"format";
pub(crate) const KEY_DEPLOYMENT: &[u8] = b"deployment";
pub(crate) const KEY_PARTITION: &[u8] = b"partition";
pub(crate) const KEY_HEAD: &[u8] = b"head";
pub(crate) const KEY_POSITION: &[u8] = b"position";
pub(crate) const KEY_FLOOR: &[u8] = b"telemetry.floor";
pub(crate) const KEY_END: &[u8] = b"telemetry.end";
/// In a copy: where the last batch stands in the journal's topic.
pub(crate) const KEY_OFFSET: &[u8] = b"journal.offset";
/// Under this key of the state itself stands the position again. A file of the state that went
/// missing takes it along, and the two then differ. Persisted: frozen.
pub(crate) const KEY_FOLDED: &[u8] = b"\0position";
/// How many records quarantine holds; it stands in that family and in `meta`, for the same
/// reason. Persisted: frozen.
pub(crate) const KEY_COUNT: &[u8] = b"quarantine.count";

/// Stored bytes read at a time by who reads all of it.
const STEP_BYTES: usize = 4 * 1024 * 1024;

/// The open database and where it lies.
pub(crate) struct Tables {
    pub(crate) db: DB,
    pub(crate) dir: PathBuf,
    /// The first write that did not succeed; every later one is refused with it.
    fault: Mutex<Option<LogError>>,
}

/// The head and the first sequence of the batch that opened its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) head: Head,
    pub(crate) elected: u64,
}

impl Tables {
    pub(crate) fn new(db: DB, dir: &Path) -> Self {
        Tables { db, dir: dir.to_owned(), fault: Mutex::default() }
    }

    /// One synced write. The first one that fails is the last one that is tried.
    pub(crate) fn write(&self, write: WriteBatch, what: &'static str) -> Result<(), LogError> {
        self.sound()?;
        let written = self.db.write_opt(write, &synced());
        written.map_err(|error| self.stop(fatal(what, &error)))
    }

    /// One write that a crash may take; refused as any other after one that did not succeed.
    pub(crate) fn write_unsynced(
        &self,
        write: WriteBatch,
        what: &'static str,
    ) -> Result<(), LogError> {
        self.sound()?;
        let written = self.db.write(write);
        written.map_err(|error| self.stop(fatal(what, &error)))
    }

    /// Whether every write so far has succeeded.
    pub(crate) fn sound(&self) -> Result<(), LogError> {
        lock(&self.fault).clone().map_or(Ok(()), Err)
    }

    /// Refuses every later write with `error`, or with what came before it.
    pub(crate) fn stop(&self, error: LogError) -> LogError {
        lock(&self.fault).get_or_insert(error).clone()
    }

    pub(crate) fn family(&self, name: &'static str) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(name).expect("every family is named when the database is opened")
    }

    /// A value with the place of its damage attached to any error.
    pub(crate) fn get(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, LogError> {
        let read = self.db.get_cf(self.family(family), key);
        let place = Place { family, key: Some(key) };
        read.map_err(|error| place.unreadable(&self.db, &error))
    }

    pub(crate) fn number(
        &self,
        family: &'static str,
        key: &'static [u8],
    ) -> Result<Option<u64>, LogError> {
        let place = Place { family, key: Some(key) };
        let Some(value) = self.get(family, key)? else { return Ok(None) };
        let value = value.try_into().map(u64::from_be_bytes);
        let why = || format!("{} is not a number of 8 bytes", key.escape_ascii());
        value.map(Some).map_err(|_| place.damaged(&self.db, why()))
    }

    /// What this directory is.
    pub(crate) fn identity(&self) -> Result<(String, u32), LogError> {
        let place = Place::family(META);
        let wrong = |why: &str| place.damaged(&self.db, why);
        let number = |key| {
            let value = self.get(META, key)?.and_then(|value| value.try_into().ok());
            value.map(u32::from_be_bytes).ok_or_else(|| wrong("format or partition is missing"))
        };
        let format: u32 = number(KEY_FORMAT)?;
        if format != FORMAT {
            return Err(LogError::Foreign {
                dir: self.dir.clone(),
                found: format!("format {format}"),
                expected: format!("format {FORMAT}"),
            });
        }
        let deployment = self.get(META, KEY_DEPLOYMENT)?.map(String::from_utf8);
        let deployment = deployment.and_then(Result::ok);
        let deployment = deployment.ok_or_else(|| wrong("the deployment's id is missing"))?;
        Ok((deployment, number(KEY_PARTITION)?))
    }

    /// State position: sequence of the next entry to fold.
    pub(crate) fn position(&self) -> Result<u64, LogError> {
        Ok(self.number(META, KEY_POSITION)?.unwrap_or(0))
    }

    /// Telemetry below this position is no longer kept.
    pub(crate) fn floor(&self) -> Result<u64, LogError> {
        Ok(self.number(META, KEY_FLOOR)?.unwrap_or(0))
    }

    /// The head as it was written with the last batch. [`Tables::verify`] checks it.
    pub(crate) fn tail(&self) -> Result<Tail, LogError> {
        let (deployment, partition) = self.identity()?;
        let Some(bytes) = self.get(META, KEY_HEAD)? else {
            return Ok(Tail { head: Head::genesis(&deployment, partition), elected: 0 });
        };
        let place = Place { family: META, key: Some(KEY_HEAD) };
        decode_tail(deployment, partition, &bytes)
            .map_err(|error| place.damaged(&self.db, error.to_string()))
    }

    /// Checks that the head is the end of what the journal holds: the last batch links to the
    /// one before it under the epoch's key, that key is the one whose election is certified,
    /// and nothing lies behind it.
    pub(crate) fn verify(&self, tail: &Tail) -> Result<(), LogError> {
        let head = &tail.head;
        let place = Place { family: META, key: Some(KEY_HEAD) };
        let wrong = |why: &str| Err(place.damaged(&self.db, why));
        let last = self.last(JOURNAL)?;
        // A file of the journal that could not be opened takes its entries along without a word.
        if self.first(JOURNAL)?.is_some_and(|first| first != 0) {
            let place = Place { family: JOURNAL, key: Some(&0u64.to_be_bytes()) };
            return Err(place.damaged(&self.db, "the journal's beginning is missing"));
        }
        let Some(first_seq) = last else {
            let empty = *head == Head::genesis(&head.deployment, head.partition);
            return if empty { Ok(()) } else { wrong("the journal holds no batch") };
        };
        let batch = self.batch(first_seq)?;
        if batch.next_seq() != head.next_seq || batch.hash() != head.hash {
            return wrong("the head is not the journal's last batch");
        }
        let before = match first_seq.checked_sub(1) {
            None => Head::genesis(&head.deployment, head.partition),
            Some(seq) => {
                let before = self.batch(self.holding(seq)?)?;
                let same_epoch = before.header.epoch == head.epoch;
                head_after(&before, head.epoch_key.filter(|_| same_epoch))
            }
        };
        if link(&before, &batch).as_ref() != Ok(head) {
            let place = Place { family: JOURNAL, key: Some(&first_seq.to_be_bytes()) };
            return Err(place.damaged(&self.db, "the last batch does not link to the chain"));
        }
        if !self.certified(tail)? {
            return wrong("the epoch's key is not the one that was elected");
        }
        self.verify_parts(head)
    }

    /// Checks that the last file of the state, of quarantine and of telemetry is there.
    fn verify_parts(&self, head: &Head) -> Result<(), LogError> {
        let position = self.position()?;
        let place = Place { family: STATE, key: Some(KEY_FOLDED) };
        if position > head.next_seq {
            let why = "it has folded entries that the journal does not hold";
            return Err(place.damaged(&self.db, why));
        }
        if self.number(STATE, KEY_FOLDED)?.unwrap_or(0) != position {
            return Err(place.damaged(&self.db, "a part of it is missing"));
        }
        if self.number(QUARANTINE, KEY_COUNT)?.unwrap_or(0) != self.n_quarantined()? {
            let place = Place { family: QUARANTINE, key: Some(KEY_COUNT) };
            return Err(place.damaged(&self.db, "a part of quarantine is missing"));
        }
        let end = self.number(META, KEY_END)?.unwrap_or(0);
        if self.telemetry_stored()?.max(self.floor()?) < end {
            let key = (end - 1).to_be_bytes();
            let place = Place { family: TELEMETRY, key: Some(&key) };
            return Err(place.damaged(&self.db, "it is missing"));
        }
        Ok(())
    }

    fn certified(&self, tail: &Tail) -> Result<bool, LogError> {
        let Head { deployment, partition, epoch, epoch_key, .. } = &tail.head;
        let batch = self.batch(tail.elected)?;
        let Some(elected) = election(&batch) else { return Ok(false) };
        let key = elected.epoch_key;
        let claim = EpochClaim { deployment, partition: *partition, epoch: *epoch, key };
        Ok(batch.header.epoch == *epoch
            && *epoch_key == Some(key)
            && claim.holds(&elected.certificate))
    }

    /// Batches from the one that holds `from_seq` on; see [`crate::Log::read`].
    pub(crate) fn read(
        &self,
        from_seq: u64,
        bytes_max: usize,
        head: &Head,
    ) -> Result<Vec<Batch>, LogError> {
        if from_seq >= head.next_seq {
            return Ok(Vec::new());
        }
        let mut batches: Vec<Batch> = Vec::new();
        let mut bytes = 0;
        self.walk(self.holding(from_seq)?, |at, record| {
            bytes += record.len();
            if !batches.is_empty() && bytes > bytes_max {
                return Ok(None);
            }
            let batch = self.decode(at, record)?;
            if batches.last().is_some_and(|before| before.hash() != batch.header.prev) {
                let key = at.to_be_bytes();
                let place = Place { family: JOURNAL, key: Some(&key) };
                return Err(place.damaged(&self.db, "it does not name the batch before it"));
            }
            let next = batch.next_seq();
            batches.push(batch);
            // The next one is not touched when it cannot fit, so that a reader who goes step by
            // step gets everything that stands before damage.
            Ok((next < head.next_seq && bytes < bytes_max).then_some(next))
        })?;
        Ok(batches)
    }

    /// Reads all of the journal, which checks it.
    pub(crate) fn read_through(&self, head: &Head) -> Result<(), LogError> {
        let mut seq = 0;
        while let Some(last) = self.read(seq, STEP_BYTES, head)?.last() {
            seq = last.next_seq();
        }
        Ok(())
    }

    /// Shows `step` the record at `at`, and then the one at the place that it answers.
    pub(crate) fn walk(
        &self,
        mut at: u64,
        mut step: impl FnMut(u64, &[u8]) -> Result<Option<u64>, LogError>,
    ) -> Result<(), LogError> {
        // Read in place: a copy of each record would be most of a megabyte.
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(JOURNAL), passing());
        iterator.seek(at.to_be_bytes());
        loop {
            let key = at.to_be_bytes();
            let place = Place { family: JOURNAL, key: Some(&key) };
            iterator.status().map_err(|error| place.unreadable(&self.db, &error))?;
            let Some((found, record)) = iterator.item() else {
                return Err(place.damaged(&self.db, "the journal ends before its head"));
            };
            if found != key {
                return Err(place.damaged(&self.db, "its place in the journal is empty"));
            }
            let Some(next) = step(at, record)? else { return Ok(()) };
            at = next;
            iterator.next();
        }
    }

    /// First sequence of the batch that holds `seq`.
    fn holding(&self, seq: u64) -> Result<u64, LogError> {
        let key = seq.to_be_bytes();
        let place = Place { family: JOURNAL, key: Some(&key) };
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(JOURNAL), passing());
        iterator.seek_for_prev(key);
        iterator.status().map_err(|error| place.unreadable(&self.db, &error))?;
        let found = iterator.key().and_then(|key| key.try_into().ok()).map(u64::from_be_bytes);
        found.ok_or_else(|| place.damaged(&self.db, "nothing stands there or before it"))
    }

    /// The batch that begins at `first_seq`.
    pub(crate) fn batch(&self, first_seq: u64) -> Result<Batch, LogError> {
        let key = first_seq.to_be_bytes();
        let place = Place { family: JOURNAL, key: Some(&key) };
        let value = self.get(JOURNAL, &key)?;
        let value = value.ok_or_else(|| place.damaged(&self.db, "it is missing"))?;
        self.decode(first_seq, &value)
    }

    /// A stored batch, its structure and body checked against what was signed.
    fn decode(&self, first_seq: u64, value: &[u8]) -> Result<Batch, LogError> {
        let key = first_seq.to_be_bytes();
        let place = Place { family: JOURNAL, key: Some(&key) };
        let checked = Batch::decode(value).and_then(|batch| batch.check_body().map(|()| batch));
        let batch = checked.map_err(|damage| self.damaged(first_seq, &damage))?;
        if batch.header.first_seq != first_seq {
            return Err(place.damaged(&self.db, "it stands under another batch's place"));
        }
        Ok(batch)
    }

    /// What is wrong with the batch at `first_seq`, as an error with its file.
    pub(crate) fn damaged(&self, first_seq: u64, damage: &schemas::batch::Damage) -> LogError {
        let key = first_seq.to_be_bytes();
        let place = Place { family: JOURNAL, key: Some(&key) };
        crate::error::damaged_batch(first_seq, damage, place.file(&self.db))
    }

    /// Telemetry records from `from` up to `end`; see [`crate::Log::take`].
    pub(crate) fn telemetry(
        &self,
        from: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Records, LogError> {
        let mut at = from.max(self.floor()?);
        let mut taken = Records::default();
        let start = at.to_be_bytes();
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(TELEMETRY), passing());
        iterator.seek(start);
        while at < end {
            let key = at.to_be_bytes();
            let place = Place { family: TELEMETRY, key: Some(&key) };
            iterator.status().map_err(|error| place.unreadable(&self.db, &error))?;
            let found = iterator.item().filter(|(found, _)| **found == key);
            let (_, record) = found.ok_or_else(|| place.damaged(&self.db, "it is missing"))?;
            if !taken.is_empty() && taken.n_bytes() + record.len() > bytes_max {
                break;
            }
            taken.push(at, record);
            at += 1;
            if taken.n_bytes() >= bytes_max {
                break;
            }
            iterator.next();
        }
        Ok(taken)
    }

    /// Position after the last telemetry record on disk.
    pub(crate) fn telemetry_stored(&self) -> Result<u64, LogError> {
        Ok(self.last(TELEMETRY)?.map_or(0, |last| last + 1))
    }

    /// Position of the next telemetry record: no position is given out twice, even when
    /// everything below it has been forgotten.
    pub(crate) fn telemetry_end(&self, head: &Head) -> Result<u64, LogError> {
        let recorded = self.number(META, KEY_END)?.unwrap_or(0).max(self.floor()?);
        Ok(self.telemetry_stored()?.max(recorded).max(head.positions.telemetry))
    }

    /// Hands out the state's pairs under `prefix`, in order.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), LogError> {
        let mut iterator = self.db.raw_iterator_cf_opt(self.family(STATE), ReadOptions::default());
        iterator.seek(prefix);
        while let Some((key, value)) = iterator.item().filter(|(key, _)| key.starts_with(prefix)) {
            if key != KEY_FOLDED {
                each(key, value);
            }
            iterator.next();
        }
        let place = Place { family: STATE, key: Some(prefix) };
        iterator.status().map_err(|error| place.unreadable(&self.db, &error))
    }

    fn first(&self, family: &'static str) -> Result<Option<u64>, LogError> {
        let mut iterator = self.db.raw_iterator_cf(self.family(family));
        iterator.seek_to_first();
        let place = Place::family(family);
        iterator.status().map_err(|error| place.unreadable(&self.db, &error))?;
        Ok(iterator.key().and_then(|key| key.try_into().ok()).map(u64::from_be_bytes))
    }

    fn last(&self, family: &'static str) -> Result<Option<u64>, LogError> {
        let mut iterator = self.db.raw_iterator_cf(self.family(family));
        iterator.seek_to_last();
        let place = Place::family(family);
        iterator.status().map_err(|error| place.unreadable(&self.db, &error))?;
        Ok(iterator.key().and_then(|key| key.try_into().ok()).map(u64::from_be_bytes))
    }
}

/// Reads that pass over records once and must not push the state's blocks out of the cache.
fn passing() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(256 * 1024);
    options
}

fn head_after(batch: &Batch, epoch_key: Option<PublicKey>) -> Head {
    Head {
        deployment: batch.header.deployment.clone(),
        partition: batch.header.partition,
        hash: batch.hash(),
        next_seq: batch.next_seq(),
        epoch: batch.header.epoch,
        epoch_key,
        positions: batch.header.positions,
    }
}

/// `hash[32] next_seq64 epoch64 epoch_key[32] inbox64 control64 telemetry64 elected64`.
pub(crate) fn encode_tail(tail: &Tail) -> Vec<u8> {
    let Tail { head, elected } = tail;
    let Positions { inbox, control, telemetry } = head.positions;
    let mut out = Writer::default();
    out.raw(&head.hash.0).u64(head.next_seq).u64(head.epoch);
    out.raw(&head.epoch_key.map_or([0; 32], |key| key.0));
    out.u64(inbox).u64(control).u64(telemetry).u64(*elected);
    out.0
}

fn decode_tail(deployment: String, partition: u32, bytes: &[u8]) -> Result<Tail, schemas::Error> {
    let mut reader = Reader::new("head", bytes);
    let head = Head {
        deployment,
        partition,
        hash: Hash(reader.array()?),
        next_seq: reader.u64()?,
        epoch: reader.u64()?,
        epoch_key: Some(PublicKey(reader.array()?)),
        positions: Positions {
            inbox: reader.u64()?,
            control: reader.u64()?,
            telemetry: reader.u64()?,
        },
    };
    let elected = reader.u64()?;
    reader.end()?;
    Ok(Tail { head, elected })
}

/// The folder of the database within a data directory.
pub(crate) fn journal_dir(dir: &Path) -> PathBuf {
    dir.join("journal")
}
