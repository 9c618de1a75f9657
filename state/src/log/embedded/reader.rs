//! Reading a data directory beside its owner, or after it: a RocksDB secondary instance.
//!
//! It takes no lock, and neither makes nor changes anything in the data directory: RocksDB
//! wants a folder of its own for its messages, which is made in the system's temporary folder
//! and removed with the reader. What it sees is the state of the directory when it was opened or
//! last caught up.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rocksdb::DB;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use schemas::{Batch, Head};

use super::options::{self, STATE};
use super::quarantine::Quarantined;
use super::tables::{Tables, journal_dir};
use super::{damage, exists, make_dir};
use crate::{Changes, LogError, Records, Store};

/// The owner may replace files while they are being opened, which looks like damage; a few tries
/// meet a quiet moment, and real damage is the same every time.
const TRIES: usize = 5;

/// A view of a data directory that changes nothing.
pub struct Reader {
    pub(super) tables: Tables,
    // Removed after the database is closed: fields are dropped in declaration order.
    _scratch: Scratch,
}

impl Reader {
    /// Opens the data directory `dir` for reading, whether or not a process owns it.
    ///
    /// # Errors
    /// [`LogError::Absent`], [`LogError::Corrupt`].
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        let journal = journal_dir(dir);
        if !exists(&journal)? {
            return Err(LogError::Absent { dir: dir.to_owned() });
        }
        for _ in 1..TRIES {
            if let Ok(reader) = Reader::try_open(dir, &journal) {
                return Ok(reader);
            }
        }
        let last = Reader::try_open(dir, &journal);
        last.or_else(|error| check(dir).and(Err(error)))
    }

    fn try_open(dir: &Path, journal: &Path) -> Result<Self, LogError> {
        damage::refuse_cut(journal)?;
        let scratch = Scratch::new()?;
        let mut options = options::database();
        options.set_max_open_files(-1);
        options.set_db_log_dir(&scratch.0);
        let families = options::families();
        let to = scratch.0.as_path();
        let db = DB::open_cf_descriptors_as_secondary(&options, journal, to, families)
            .map_err(|error| damage::unopenable(journal, &error))?;
        let reader = Reader { tables: Tables::new(db, dir), _scratch: scratch };
        reader.tables.verify(&reader.tables.tail()?)?;
        Ok(reader)
    }

    /// Takes in what the owner has written since.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    pub fn catch_up(&self) -> Result<(), LogError> {
        let journal = journal_dir(&self.tables.dir);
        let mut tries = 0;
        loop {
            let caught = self.tables.db.try_catch_up_with_primary();
            let caught = caught.map_err(|error| damage::unopenable(&journal, &error));
            match caught.and_then(|()| self.tables.verify(&self.tables.tail()?)) {
                Err(_) if tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// The end of the chain.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    pub fn head(&self) -> Result<Head, LogError> {
        Ok(self.tables.tail()?.head)
    }

    /// As [`crate::Log::read`].
    ///
    /// # Errors
    /// [`LogError::Corrupt`] names the entry.
    pub fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        self.tables.read(from_seq, bytes_max, &self.head()?).map_err(|error| self.named(error))
    }

    /// A secondary passes over files that it cannot open and then misses what they hold; an
    /// ordinary opening names them.
    fn named(&self, error: LogError) -> LogError {
        match check(&self.tables.dir) {
            Err(named @ LogError::Corrupt { .. }) => named,
            _ => error,
        }
    }

    /// Telemetry, as [`crate::Log::take`].
    ///
    /// # Errors
    /// [`LogError::Corrupt`] names the record.
    pub fn take(&self, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        let end = self.tables.telemetry_stored()?;
        self.tables.telemetry(from, end, bytes_max)
    }

    /// What is in quarantine.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    pub fn quarantined(&self) -> Result<Vec<Quarantined>, LogError> {
        self.tables.quarantined()
    }

    /// Deployment and partition that the directory belongs to.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], [`LogError::Foreign`] for another format.
    pub fn identity(&self) -> Result<(String, u32), LogError> {
        self.tables.identity()
    }
}

/// Opens the directory for reading only and checks head, state and telemetry, so that damage is
/// found before anything is changed. The files must not be changing.
pub(super) fn check(dir: &Path) -> Result<Reader, LogError> {
    let journal = journal_dir(dir);
    damage::refuse_cut(&journal)?;
    let scratch = Scratch::new()?;
    let mut options = options::database();
    options.set_db_log_dir(&scratch.0);
    let db = DB::open_cf_descriptors_read_only(&options, &journal, options::families(), false)
        .map_err(|error| damage::unopenable(&journal, &error))?;
    let reader = Reader { tables: Tables::new(db, dir), _scratch: scratch };
    reader.tables.verify(&reader.tables.tail()?)?;
    Ok(reader)
}

impl Store for Reader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.tables.get(STATE, key)
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        self.tables.scan(prefix, each)
    }

    fn position(&self) -> Result<u64, LogError> {
        self.tables.position()
    }

    fn commit(&self, _next_seq: u64, _changes: &Changes) -> Result<(), LogError> {
        Err(LogError::Fatal {
            what: "commit state".to_owned(),
            why: "the directory is open for reading only".to_owned(),
        })
    }
}

/// How the names of such folders begin; the process and a number follow.
const SCRATCH: &str = "healwright-reader-";

/// One that is younger is left where it is.
const LEFT_FOR: Duration = Duration::from_secs(3600);

/// A temporary folder that goes away with its owner.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, LogError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{SCRATCH}{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        if n == 0 {
            sweep();
        }
        make_dir(&path)?;
        Ok(Scratch(path))
    }
}

/// Removes what readers have left behind that were killed. Folders of other users stay theirs.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|it| it.strip_prefix(SCRATCH));
        let pid = rest.and_then(|it| it.split('-').next()?.parse().ok()).and_then(Pid::from_raw);
        let is_gone = pid.is_some_and(|it| test_kill_process(it) == Err(Errno::SRCH));
        // A process in another container is not seen from here.
        let made = entry.metadata().and_then(|it| it.modified()).ok();
        let is_old = made.and_then(|it| it.elapsed().ok()).is_some_and(|it| LEFT_FOR < it);
        if is_gone && is_old {
            // Whoever else sweeps may have been faster.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left in the temporary folder; nothing depends on it.
        let _ = fs::remove_dir_all(&self.0);
    }
}
