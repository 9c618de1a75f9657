//! Making a directory whole again whose state or telemetry is damaged.
//!
//! Both can be done without: state is `fold(chain)`, and what telemetry derived is recorded.
//! The family is dropped as a whole and made anew, then the whole journal is read, because
//! RocksDB is told to open despite damage and must not hide any from us.

use std::path::Path;

use rocksdb::{DB, WriteBatch};

use super::damage;
use super::lock::Lock;
use super::options::{self, META, STATE, TELEMETRY, synced};
use super::reader::Scratch;
use super::salvage::open_despite_damage;
use super::tables::{KEY_FLOOR, KEY_POSITION, Tables, journal_dir};
use super::{EmbeddedLog, exists};
use crate::LogError;

/// What can be dropped and derived again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The keyed state: the next start folds the chain from its beginning.
    State,
    /// Telemetry: positions go on after the last one that was sealed or can be read.
    Telemetry,
}

impl EmbeddedLog {
    /// Drops `part` of the data directory `dir` and makes it anew; the journal stays as it is
    /// and is read from end to end. No process may own the directory.
    ///
    /// # Errors
    /// [`LogError::Busy`], [`LogError::Absent`]; [`LogError::Corrupt`] when the journal itself
    /// is damaged, which this does not repair.
    pub fn repair(dir: &Path, part: Part) -> Result<(), LogError> {
        let journal = journal_dir(dir);
        if !exists(&journal)? {
            return Err(LogError::Absent { dir: dir.to_owned() });
        }
        let _lock = Lock::take(dir)?;
        damage::refuse_cut(&journal)?;
        let mut database = options::database();
        database.set_paranoid_checks(false);
        let mut db = DB::open_cf_descriptors(&database, &journal, options::families())
            .map_err(|error| damage::unopenable(&journal, &error))?;
        let name = match part {
            Part::State => STATE,
            Part::Telemetry => TELEMETRY,
        };
        let made = db.drop_cf(name).and_then(|()| db.create_cf(name, &options::alone(name)));
        made.map_err(|error| damage::fatal("make a family anew", &error))?;
        let tables = Tables::new(db, dir);
        let tail = tables.tail()?;
        let mut write = WriteBatch::default();
        let (key, value) = match part {
            Part::State => (KEY_POSITION, 0),
            Part::Telemetry => (KEY_FLOOR, tables.telemetry_end(&tail.head)?),
        };
        write.put_cf(tables.family(META), key, u64::to_be_bytes(value));
        let written = tables.db.write_opt(write, &synced());
        written.map_err(|error| damage::fatal("record the repair", &error))?;
        tables.verify(&tail)?;
        tables.read_through(&tail.head)
    }
}

/// The family that a table file belongs to and the first key in it, for a database that cannot
/// be opened because of that file. Nothing in the directory is changed.
pub(crate) fn owner_of(journal: &Path, file: &str) -> Option<(String, Vec<u8>)> {
    let scratch = Scratch::new().ok()?;
    let files = open_despite_damage(journal, &scratch).ok()?.live_files().ok()?;
    let found = files.into_iter().find(|it| it.name.trim_start_matches('/') == file)?;
    Some((found.column_family_name, found.start_key.unwrap_or_default()))
}

/// The first table file that cannot be opened, for a database that does not say which. Nothing in
/// the directory is changed.
pub(crate) fn unreadable_table(journal: &Path) -> Option<String> {
    let scratch = Scratch::new().ok()?;
    let db = open_despite_damage(journal, &scratch).ok()?;
    let found = db.live_files().ok()?.into_iter().find(|it| {
        let (family, first) = (db.cf_handle(&it.column_family_name), it.start_key.as_ref());
        family.zip(first).is_some_and(|(family, key)| db.get_pinned_cf(family, key).is_err())
    });
    found.map(|it| it.name.trim_start_matches('/').to_owned())
}
