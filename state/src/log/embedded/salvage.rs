//! What a damaged journal still gives, for making it anew: batch after batch, read one by one, so
//! that damage hides nothing but itself.
//!
//! RocksDB is told to open despite damage and to pass over records of its write-ahead log that
//! are not what was written. Where its table of contents gives nothing, it makes another one from
//! the files that are there, on links to them. Nothing in the directory is changed.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{DB, DBRecoveryMode, Options};
use schemas::Batch;

use super::contents::Tried;
use super::lock::Lock;
use super::options;
use super::reader::{self, Scratch};
use super::tables::{Tables, journal_dir};
use super::{damage, exists};
use crate::LogError;
use crate::error::Damage;

/// A damaged data directory, held as its one owner and open for reading what can be read.
pub struct Salvage {
    dir: PathBuf,
    whole: Result<Opened, LogError>,
    /// The same without the table files that have stood in the way of others.
    rest: Option<Opened>,
    without: Vec<String>,
    // Released last: fields are dropped in the order of their declaration.
    _lock: Lock,
}

struct Opened {
    tables: Tables,
    // Removed after the database is closed: fields are dropped in declaration order.
    _tried: Option<Tried>,
    _scratch: Scratch,
}

impl Salvage {
    /// Opens the data directory `dir`, which no other process may own until this is dropped.
    ///
    /// # Errors
    /// [`LogError::Busy`]. That nothing can be read is for [`Salvage::batch`] to say.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        let lock = Lock::take(dir)?;
        let whole = Opened::whole(dir);
        Ok(Salvage { dir: dir.to_owned(), whole, rest: None, without: Vec::new(), _lock: lock })
    }

    /// The number of entries that the journal held, where its head can still be read.
    pub fn n_entries(&self) -> Option<u64> {
        Some(self.whole.as_ref().ok()?.tables.tail().ok()?.head.next_seq)
    }

    /// The batch that begins at `first_seq`, checked against what was signed. That it links is
    /// for the log to check that it is appended to.
    ///
    /// A table file is asked for keys that it does not hold, and its damage then hides what others
    /// hold; so a file that cannot be read is left out for a second try.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] says why it cannot be read.
    pub fn batch(&mut self, first_seq: u64) -> Result<Batch, LogError> {
        let whole = self.whole.as_ref().map_err(LogError::clone)?;
        let mut error = match whole.tables.batch(first_seq) {
            Ok(batch) => return Ok(batch),
            Err(error) => error,
        };
        loop {
            if let Some(damage) = error.damage().filter(|_| self.names_another(&error)) {
                self.without.push(damage.file.clone());
                self.rest = Some(Opened::without(&self.dir, &self.without)?);
            }
            let next = match &self.rest {
                Some(rest) => rest.tables.batch(first_seq),
                None => Err(error.clone()),
            };
            match next {
                Ok(batch) => return Ok(batch),
                Err(next) if self.names_another(&next) => error = next,
                Err(_) if self.names_one(&error) => return Err(error),
                // Where it does not open as it is, what nothing else explains is due to that.
                Err(_) => return Err(reader::check(&self.dir).err().unwrap_or(error)),
            }
        }
    }

    /// Whether it names a table file of the damaged database, and not one that was made here.
    fn names_one(&self, error: &LogError) -> bool {
        let is_one = |it: &Damage| {
            let is_there = journal_dir(&self.dir).join(&it.file).exists();
            it.file.ends_with(".sst") && (is_there || it.why.contains("No such file"))
        };
        error.damage().is_some_and(is_one)
    }

    fn names_another(&self, error: &LogError) -> bool {
        self.names_one(error) && error.damage().is_some_and(|it| !self.without.contains(&it.file))
    }
}

impl Opened {
    /// All of the database of `dir`, under its own table of contents or another one.
    fn whole(dir: &Path) -> Result<Self, LogError> {
        let journal = journal_dir(dir);
        if !exists(&journal)? {
            return Err(LogError::Absent { dir: dir.to_owned() });
        }
        let scratch = Scratch::new()?;
        match open_despite_damage(&journal, &scratch) {
            Ok(db) => Ok(Opened { tables: Tables::new(db, dir), _tried: None, _scratch: scratch }),
            Err(_) => Opened::without(dir, &[]),
        }
    }

    /// The database of `dir` under a table of contents that is made from its files, but for
    /// `files`.
    fn without(dir: &Path, files: &[String]) -> Result<Self, LogError> {
        let journal = journal_dir(dir);
        let scratch = Scratch::new()?;
        let tried = Tried::make(dir, &journal, None)?;
        let links = tried.journal();
        for file in files {
            let link = links.join(file);
            if exists(&link)? {
                fs::remove_file(&link).map_err(|error| LogError::io("remove", &link, error))?;
            }
        }
        let failed = |error| damage::unopenable(&journal, &error);
        DB::repair(&tolerant(&scratch), &links).map_err(failed)?;
        // What no file was found of is empty; these links may be written.
        let mut options = tolerant(&scratch);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, &links, options::families()).map_err(failed)?;
        Ok(Opened { tables: Tables::new(db, dir), _tried: Some(tried), _scratch: scratch })
    }
}

/// Opens a database for reading only, whatever is wrong with its files.
pub(super) fn open_despite_damage(journal: &Path, scratch: &Scratch) -> Result<DB, rocksdb::Error> {
    DB::open_cf_descriptors_read_only(&tolerant(scratch), journal, options::families(), false)
}

/// Options under which damage costs what it has hit and no more.
fn tolerant(scratch: &Scratch) -> Options {
    let mut options = options::database();
    options.set_paranoid_checks(false);
    options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
    options.set_track_and_verify_wals_in_manifest(false);
    options.set_db_log_dir(&scratch.0);
    options
}
