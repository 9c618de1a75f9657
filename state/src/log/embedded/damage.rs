//! What a RocksDB error means for a data directory: damage with a file and a position, or a
//! write whose durability is unknown.

use std::path::{Path, PathBuf};

use rocksdb::{DB, Error, ErrorKind};

use super::options::{JOURNAL, META, STATE, TELEMETRY};
use super::repair::{owner_of, unreadable_table};
use super::wal;
use crate::LogError;
use crate::error::{
    Damage, REPAIR_CONTENTS, REPAIR_DATABASE, REPAIR_JOURNAL, REPAIR_STATE, REPAIR_TELEMETRY,
};

/// What was being read or written when an error came.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The column family.
    pub(crate) family: &'static str,
    /// The key, where one is known.
    pub(crate) key: Option<&'a [u8]>,
}

impl Place<'_> {
    pub(crate) fn family(family: &'static str) -> Self {
        Place { family, key: None }
    }

    /// A position for a family whose keys are positions.
    fn position(&self) -> Option<u64> {
        let key = self.key.filter(|_| self.family == JOURNAL || self.family == TELEMETRY)?;
        key.try_into().ok().map(u64::from_be_bytes)
    }

    fn what(&self) -> &'static str {
        match self.family {
            JOURNAL => "journal record",
            STATE => "state",
            TELEMETRY => "telemetry record",
            _ => "database",
        }
    }

    fn repair(&self) -> String {
        let sentence = match self.family {
            STATE => REPAIR_STATE,
            TELEMETRY => REPAIR_TELEMETRY,
            JOURNAL => REPAIR_JOURNAL,
            _ => REPAIR_DATABASE,
        };
        sentence.to_owned()
    }

    /// Damage at this place, found by us and not by RocksDB.
    pub(crate) fn damaged(&self, db: &DB, why: impl Into<String>) -> LogError {
        Damage {
            what: self.what(),
            position: self.position(),
            file: self.file(db),
            why: why.into(),
            repair: self.repair(),
        }
        .into()
    }

    /// A read that did not succeed.
    pub(crate) fn unreadable(&self, db: &DB, error: &Error) -> LogError {
        let why = error.as_ref().to_owned();
        let file = file_in(&why).unwrap_or_else(|| self.file(db));
        // A seek knows no key; the first one in the damaged file is the nearest place.
        let files = db.live_files().unwrap_or_default();
        let named = files.into_iter().find(|it| it.name.trim_start_matches('/') == file);
        let first = named.and_then(|it| it.start_key);
        let place = Place { key: self.key.or(first.as_deref()), ..*self };
        let (what, position) = (place.what(), place.position());
        Damage { what, position, file, why, repair: self.repair() }.into()
    }

    /// The table file whose key range holds the key, or the write-ahead log.
    pub(crate) fn file(&self, db: &DB) -> String {
        let holds = |file: &rocksdb::LiveFile| {
            let key = self.key.unwrap_or_default();
            file.column_family_name == self.family
                && file.start_key.as_deref().is_some_and(|start| start <= key)
                && file.end_key.as_deref().is_some_and(|end| key <= end)
        };
        let files = db.live_files().unwrap_or_default();
        let found = files.into_iter().find(|file| self.key.is_some() && holds(file));
        let name = found.map(|file| file.name.trim_start_matches('/').to_owned());
        name.unwrap_or_else(|| format!("the write-ahead log or no file (family {})", self.family))
    }
}

/// A write that did not succeed: after it, nothing about durability is known.
pub(crate) fn fatal(what: &str, error: &Error) -> LogError {
    LogError::Fatal { what: what.to_owned(), why: error.as_ref().to_owned() }
}

/// An open that did not succeed.
pub(crate) fn unopenable(journal: &Path, error: &Error) -> LogError {
    let why = error.as_ref().to_owned();
    let kind = error.kind();
    let of_the_files =
        matches!(kind, ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound);
    let gone = ["No such file", "too short"].iter().any(|text| why.contains(text));
    let damaged = of_the_files || (kind == ErrorKind::IOError && gone);
    if !damaged {
        return LogError::Fatal { what: format!("open {}", journal.display()), why };
    }
    let file = match file_in(&why) {
        Some(name) if name.ends_with(".sst") => return table(journal, &name, why),
        // RocksDB blames the manifest also when it does not say which file it listed is bad.
        Some(name) if name.starts_with("MANIFEST-") && !why.contains("checksum mismatch") => {
            match unreadable_table(journal) {
                Some(name) => return table(journal, &name, why),
                None => format!("{name} or a table file that it lists"),
            }
        }
        Some(name) => name,
        None => match wal::damaged(journal) {
            Some((name, offset)) => format!("{name} at byte {offset}"),
            None => journal.display().to_string(),
        },
    };
    let repair = if file == "CURRENT" || names_none(&file, &why) {
        REPAIR_CONTENTS
    } else {
        REPAIR_DATABASE
    };
    Damage { what: "database", position: None, file, why, repair: repair.to_owned() }.into()
}

/// Whether the table of contents names a manifest that is not there.
fn names_none(file: &str, why: &str) -> bool {
    file.starts_with("MANIFEST-") && why.contains("No such file")
}

/// Refuses files whose end RocksDB would drop as torn although it is there.
pub(crate) fn refuse_cut(journal: &Path) -> Result<(), LogError> {
    let Some((name, offset)) = wal::cut(journal) else { return Ok(()) };
    Err(Damage {
        what: "database",
        position: None,
        file: format!("{name} at byte {offset}"),
        why: "a record's length has changed".to_owned(),
        repair: REPAIR_DATABASE.to_owned(),
    }
    .into())
}

/// A table file that cannot be opened: what it holds decides what repairs it.
fn table(journal: &Path, name: &str, why: String) -> LogError {
    let (family, key) = owner_of(journal, name).unwrap_or_default();
    let known = [JOURNAL, STATE, TELEMETRY].into_iter().find(|it| *it == family);
    let place = Place { family: known.unwrap_or(META), key: Some(&key) };
    let (what, position, repair) = (place.what(), place.position(), place.repair());
    Damage { what, position, file: name.to_owned(), why, repair }.into()
}

/// The database file that a message names.
fn file_in(message: &str) -> Option<String> {
    let words = message.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '('));
    let names = words.filter_map(|word| {
        let path = PathBuf::from(word.trim_end_matches([':', '.', ';', ')']));
        path.file_name().map(|name| name.to_string_lossy().into_owned())
    });
    let ours = |name: &String| {
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let number = !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit());
        (number && matches!(extension, "sst" | "log" | "blob"))
            || name.starts_with("MANIFEST-")
            || name.starts_with("OPTIONS-")
            || name == "CURRENT"
            || name == "IDENTITY"
    };
    let mut named: Vec<String> = names.filter(ours).collect();
    // A message about a table file ends with the manifest that lists it.
    named.sort_by_key(|name| name.starts_with("MANIFEST-"));
    named.into_iter().next()
}
