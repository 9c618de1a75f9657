//! The embedded log: journal, keyed state and telemetry of one partition in one RocksDB.
//!
//! ```text
//! DATA/LOCK       pid and name of the owner, locked for its life
//! DATA/journal/   the database (LAYOUT.md)
//! ```
//!
//! A batch, the state it changes and the new head are one write, so the state neither lags nor
//! leads the chain here; it is synced before anything of it is answered (`syncing`). Telemetry
//! is written in groups, one fsync for all who wait. `inbox` and `inbox.control` are kept in
//! memory: what is taken from them is acknowledged only when it is journaled.
//!
//! A crash while the directory is made leaves `DATA/journal.new`, which the next start removes.
//! There is no other path for recovery: RocksDB replays its write-ahead log, cuts off a torn
//! end that was never answered, and refuses damage anywhere else; then the head is checked
//! against the last batch.

mod contents;
mod copy;
mod damage;
mod group;
mod lock;
mod options;
mod quarantine;
mod reader;
mod repair;
mod salvage;
mod syncing;
mod tables;
mod wal;

pub(crate) use lock::Lock;
pub use quarantine::Quarantined;
pub(crate) use quarantine::{encode_quarantined, encode_quarantined_within};
pub use reader::Reader;
pub use repair::Part;
pub use salvage::Salvage;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rocksdb::{DB, WriteBatch};
use schemas::link::election;
use schemas::{Batch, Hash, Head, Stream, link};

use self::group::Group;
use self::options::{JOURNAL, META, QUARANTINE, STATE, TELEMETRY, synced};
use self::syncing::{Begun, Syncing};
use self::tables::{
    FORMAT, KEY_COUNT, KEY_DEPLOYMENT, KEY_FLOOR, KEY_FOLDED, KEY_FORMAT, KEY_HEAD, KEY_PARTITION,
    KEY_POSITION, Tables, Tail, encode_tail, journal_dir,
};
use crate::log::{self, RECORD_BYTES_MAX};
use crate::memory::{Queue, lock, within_limit};
use crate::{Append, Changes, Log, LogError, Records, Store};

/// Log and store of one partition in a data directory.
pub struct EmbeddedLog {
    tables: Arc<Tables>,
    /// The end as its author sees it, what is begun included; held from the first check of an
    /// append until it is on its way.
    tail: Mutex<Tail>,
    /// The end as everybody else sees it, so that nobody who reads waits for an fsync.
    syncing: Syncing,
    inbox: Mutex<Queue>,
    control: Mutex<Queue>,
    telemetry: Group,
    n_quarantined: Mutex<u64>,
    // Released last: fields are dropped in the order of their declaration.
    _lock: Lock,
}

impl EmbeddedLog {
    /// Opens the data directory `dir`, which is made when missing, as its one owner.
    ///
    /// # Errors
    /// [`LogError::Busy`], [`LogError::Foreign`], [`LogError::Corrupt`].
    pub fn open(dir: &Path, deployment: &str, partition: u32) -> Result<Self, LogError> {
        make_dir(dir)?;
        let lock = Lock::take(dir)?;
        let journal = journal_dir(dir);
        if exists(&journal)? {
            // An opening by the owner deletes files that the manifest does not list. So what is
            // there is checked first without touching it: a damaged manifest must not cost the
            // files that it has forgotten.
            reader::check(dir)?;
        } else {
            create(dir, &journal, deployment, partition)?;
        }
        let tables = Tables::new(open(&journal)?, dir);
        let found = tables.identity()?;
        if found != (deployment.to_owned(), partition) {
            return Err(LogError::Foreign {
                dir: dir.to_owned(),
                found: format!("deployment {} partition {}", found.0, found.1),
                expected: format!("deployment {deployment} partition {partition}"),
            });
        }
        let tail = tables.tail()?;
        tables.verify(&tail)?;
        let telemetry = Group::starting_at(tables.telemetry_end(&tail.head)?);
        let n_quarantined = tables.n_quarantined()?;
        let positions = tail.head.positions;
        let tables = Arc::new(tables);
        let syncing = Syncing::from(tables.clone(), tail.head.clone());
        Ok(EmbeddedLog {
            tables,
            tail: Mutex::new(tail),
            syncing,
            inbox: Mutex::new(Queue::starting_at(positions.inbox)),
            control: Mutex::new(Queue::starting_at(positions.control)),
            telemetry,
            n_quarantined: Mutex::new(n_quarantined),
            _lock: lock,
        })
    }

    /// Links or copies the database's files into `target`, as they are now. For checkpoints.
    pub(crate) fn link_files(&self, target: &Path) -> Result<(), LogError> {
        let unmade = |error| damage::fatal("make a checkpoint", &error);
        let checkpoint = rocksdb::checkpoint::Checkpoint::new(&self.tables.db).map_err(unmade)?;
        checkpoint.create_checkpoint(target).map_err(unmade)
    }

    /// Has every later write fail, as after one that did.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self) {
        let why = "the disk is full".to_owned();
        self.tables.stop(LogError::Fatal { what: "write".to_owned(), why });
    }

    /// How many groups of telemetry have been written since the start, one fsync each.
    pub fn n_telemetry_groups(&self) -> u64 {
        self.telemetry.n_groups()
    }

    /// What is in quarantine.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    pub fn quarantined(&self) -> Result<Vec<Quarantined>, LogError> {
        self.tables.quarantined()
    }

    /// Adds `changes` and the position to a write.
    fn fold_in(&self, write: &mut WriteBatch, next_seq: u64, changes: &Changes) {
        let state = self.tables.family(STATE);
        for (key, value) in changes.pairs() {
            match value {
                Some(value) => write.put_cf(state, key, value),
                None => write.delete_cf(state, key),
            }
        }
        write.put_cf(state, KEY_FOLDED, next_seq.to_be_bytes());
        write.put_cf(self.tables.family(META), KEY_POSITION, next_seq.to_be_bytes());
    }

    fn queue(&self, stream: Stream) -> Option<&Mutex<Queue>> {
        match stream {
            Stream::Inbox => Some(&self.inbox),
            Stream::Control => Some(&self.control),
            Stream::Telemetry => None,
        }
    }
}

impl Log for EmbeddedLog {
    fn head(&self) -> Result<Head, LogError> {
        Ok(self.syncing.head())
    }

    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        let head = self.head()?;
        self.tables.read(from_seq, bytes_max, &head)
    }

    fn append(
        &self,
        expected: &Head,
        batch: &Batch,
        changes: &Changes,
    ) -> Result<Append, LogError> {
        let begun = self.begin(expected, batch, changes)?;
        if let Append::Appended(head) = &begun {
            self.settle(head.next_seq)?;
        }
        Ok(begun)
    }

    fn begin(&self, expected: &Head, batch: &Batch, changes: &Changes) -> Result<Append, LogError> {
        changes.sound()?;
        self.tables.sound()?;
        self.syncing.start()?;
        let mut tail = lock(&self.tail);
        if tail.head.hash == batch.hash() {
            return Ok(Append::Appended(tail.head.clone()));
        }
        if tail.head != *expected {
            return Ok(Append::Lost(tail.head.clone()));
        }
        let first_seq = batch.header.first_seq;
        let unlinked = |skip| LogError::Unlinked { first_seq, skip };
        let head = link(&tail.head, batch).map_err(unlinked)?;
        let elected = if election(batch).is_some() { first_seq } else { tail.elected };
        let next = Tail { head, elected };
        let record = batch.encode();
        if record.len() > RECORD_BYTES_MAX {
            let bytes = record.len();
            return Err(LogError::TooLarge { bytes, bytes_max: RECORD_BYTES_MAX });
        }
        // Copied once and not grown: a batch is most of a megabyte.
        let mut write = WriteBatch::with_capacity_bytes(record.len() + 4096);
        write.put_cf(self.tables.family(JOURNAL), first_seq.to_be_bytes(), &record);
        write.put_cf(self.tables.family(META), KEY_HEAD, encode_tail(&next));
        self.fold_in(&mut write, next.head.next_seq, changes);
        let begun = Begun { head: next.head.clone(), write, changes: changes.clone() };
        self.syncing.begin(begun)?;
        lock(&self.inbox).forget(next.head.positions.inbox);
        lock(&self.control).forget(next.head.positions.control);
        *tail = next;
        Ok(Append::Appended(tail.head.clone()))
    }

    fn settle(&self, next_seq: u64) -> Result<(), LogError> {
        self.syncing.settle(next_seq)
    }

    fn leaves(&self, from_seq: u64) -> Result<Vec<Hash>, LogError> {
        match self.syncing.leaves(from_seq) {
            Some(leaves) => Ok(leaves),
            None => log::leaves(self, from_seq),
        }
    }

    fn send(&self, stream: Stream, records: &[Vec<u8>]) -> Result<Range<u64>, LogError> {
        within_limit(records)?;
        match self.queue(stream) {
            Some(queue) => Ok(lock(queue).send(records)),
            None => self.telemetry.send(&self.tables, records),
        }
    }

    fn take(&self, stream: Stream, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        match self.queue(stream) {
            Some(queue) => Ok(lock(queue).take(from, bytes_max)),
            None => self.tables.telemetry(from, self.telemetry.durable(), bytes_max),
        }
    }

    fn quarantine(&self, record: &[u8], reason: &str) -> Result<Hash, LogError> {
        let hash = Hash::of(&[record]);
        let mut n_quarantined = lock(&self.n_quarantined);
        if self.tables.get(QUARANTINE, &hash.0)?.is_some() {
            return Ok(hash);
        }
        let count = (*n_quarantined + 1).to_be_bytes();
        let mut write = WriteBatch::default();
        write.put_cf(self.tables.family(META), KEY_COUNT, count);
        let quarantine = self.tables.family(QUARANTINE);
        write.put_cf(quarantine, KEY_COUNT, count);
        write.put_cf(quarantine, hash.0, encode_quarantined(record, reason));
        self.tables.write(write, "quarantine a record")?;
        *n_quarantined += 1;
        Ok(hash)
    }

    fn forget(&self, stream: Stream, before: u64) -> Result<(), LogError> {
        if let Some(queue) = self.queue(stream) {
            lock(queue).forget(before);
            return Ok(());
        }
        let floor = self.tables.floor()?;
        let before = before.min(self.telemetry.durable());
        if before <= floor {
            return Ok(());
        }
        // What was taken is journaled before it may go.
        self.syncing.written()?;
        // Files that lie below the floor as a whole go; what else lies below it is no longer
        // read. So no tombstone is ever written, and no file is rewritten to be shortened.
        let mut write = WriteBatch::default();
        write.put_cf(self.tables.family(META), KEY_FLOOR, before.to_be_bytes());
        self.tables.write(write, "forget telemetry")?;
        let family = self.tables.family(TELEMETRY);
        let (from, to) = (0u64.to_be_bytes(), before.to_be_bytes());
        let dropped = self.tables.db.delete_file_in_range_cf(family, from, to);
        dropped.map_err(|error| damage::fatal("drop telemetry files", &error))
    }
}

impl Store for EmbeddedLog {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        match self.syncing.changed(key) {
            Some(value) => Ok(value),
            None => self.tables.get(STATE, key),
        }
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        self.syncing.written()?;
        self.tables.scan(prefix, each)
    }

    fn position(&self) -> Result<u64, LogError> {
        self.syncing.written()?;
        self.tables.position()
    }

    fn commit(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError> {
        changes.sound()?;
        self.syncing.written()?;
        let mut write = WriteBatch::default();
        self.fold_in(&mut write, next_seq, changes);
        self.tables.write(write, "commit state")
    }
}

/// Makes the database beside its place and moves it there whole, so that a directory that
/// exists is complete and is never made anew over what remains of a damaged one.
fn create(dir: &Path, journal: &Path, deployment: &str, partition: u32) -> Result<(), LogError> {
    let fresh = dir.join("journal.new");
    match fs::remove_dir_all(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(LogError::io("remove", &fresh, error)),
    }
    make_dir(&fresh)?;
    let mut options = options::database();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf_descriptors(&options, &fresh, options::families())
        .map_err(|error| damage::fatal("make the journal", &error))?;
    let tables = Tables::new(db, dir);
    let mut write = WriteBatch::default();
    let meta = tables.family(META);
    write.put_cf(meta, KEY_FORMAT, FORMAT.to_be_bytes());
    write.put_cf(meta, KEY_DEPLOYMENT, deployment);
    write.put_cf(meta, KEY_PARTITION, partition.to_be_bytes());
    let written = tables.db.write_opt(write, &synced());
    written.map_err(|error| damage::fatal("make the journal", &error))?;
    drop(tables);
    fs::rename(&fresh, journal).map_err(|error| LogError::io("rename", &fresh, error))?;
    let folder = File::open(dir).and_then(|folder| folder.sync_all());
    folder.map_err(|error| LogError::io("sync", dir, error))
}

fn open(journal: &Path) -> Result<DB, LogError> {
    DB::open_cf_descriptors(&options::database(), journal, options::families())
        .map_err(|error| damage::unopenable(journal, &error))
}

/// Data is for the user who runs the program and nobody else.
fn make_dir(dir: &Path) -> Result<(), LogError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| LogError::io("create", dir, error))
}

fn exists(path: &Path) -> Result<bool, LogError> {
    path.try_exists().map_err(|error| LogError::io("look for", path, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rocksdb::WriteBatch;
    use schemas::{Head, Stream};

    use super::syncing::Begun;
    use super::{EmbeddedLog, STATE, lock};
    use crate::{Changes, Log as _, LogError, Store as _};

    #[test]
    fn who_reads_the_chain_does_not_wait_for_who_appends() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), "test", 0).unwrap();
        let _an_append_waits_for_its_turn = lock(&log.tail);
        assert_eq!(log.head().unwrap(), Head::genesis("test", 0));
        assert_eq!(log.read(0, 1).unwrap(), []);
    }

    /// Has a batch wait that ends with `head` and says `key` of the state; nothing is written
    /// before the log is started.
    fn begin(log: &EmbeddedLog, head: Head, key: &str, value: Option<&str>) {
        let owned = |text: &str| text.as_bytes().to_vec();
        let changes = Changes::new(vec![(owned(key), value.map(owned))]);
        let mut write = WriteBatch::default();
        log.fold_in(&mut write, 2, &changes);
        log.syncing.begin(Begun { head, write, changes }).unwrap();
    }

    #[test]
    fn what_a_begun_batch_changes_is_read_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), "test", 0).unwrap();
        let pairs = |value: &str| Changes::new(vec![(b"k".to_vec(), Some(value.into()))]);
        log.commit(0, &pairs("old")).unwrap();
        // They end where the chain does, so there is nothing to read back.
        let head = log.head().unwrap();
        begin(&log, head.clone(), "k", Some("newer"));
        begin(&log, head, "k", None);
        assert_eq!(log.get(b"k").unwrap(), None, "the newest says that it is gone");
        let stored = |key| log.tables.get(STATE, key).unwrap();
        assert_eq!(stored(b"k").unwrap(), b"old", "and it stands in the database still");
        log.syncing.start().unwrap();
        assert_eq!(log.position().unwrap(), 2, "who asks for the position waits for the write");
        assert_eq!((log.get(b"k").unwrap(), stored(b"k")), (None, None));
    }

    #[test]
    fn a_begun_batch_that_cannot_be_written_halts_the_partition() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), "test", 0).unwrap();
        log.send(Stream::Telemetry, &[b"sample".to_vec()]).unwrap();
        begin(&log, Head { next_seq: 1, ..log.head().unwrap() }, "k", Some("v"));
        log.refuse_writes();
        log.syncing.start().unwrap();
        let refused = |it: Result<(), LogError>| matches!(it, Err(LogError::Fatal { .. }));
        assert!(refused(log.settle(1)) && refused(log.settle(1)), "nobody is told that it stands");
        assert!(refused(log.position().map(drop)) && refused(log.forget(Stream::Telemetry, 1)));
        assert_eq!(log.head().unwrap(), Head::genesis("test", 0));
    }
}
