//! The database's table of contents: `CURRENT`, one line that names the manifest, which lists the
//! files. Without it nothing is lost and nothing opens.
//!
//! It is written anew only under a manifest with which everything holds: the journal reads to its
//! end, and no table file lies in the directory that the manifest does not list, for RocksDB would
//! delete that one as left over. It is tried beside the database, on links to its files.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock::Lock;
use super::tables::journal_dir;
use super::{EmbeddedLog, damage, exists, make_dir, reader};
use crate::LogError;
use crate::error::{Damage, REPAIR_DATABASE};

const CURRENT: &str = "CURRENT";
const MANIFEST: &str = "MANIFEST-";

impl EmbeddedLog {
    /// Writes the lost or damaged table of contents of `dir` anew and answers the manifest that it
    /// names; `None` when nothing is wrong with it. No process may own the directory.
    ///
    /// # Errors
    /// [`LogError::Busy`], [`LogError::Absent`]; [`LogError::Corrupt`] when everything holds under
    /// no manifest that is there. Nothing is changed then.
    pub fn repair_contents(dir: &Path) -> Result<Option<String>, LogError> {
        let journal = journal_dir(dir);
        if !exists(&journal)? {
            return Err(LogError::Absent { dir: dir.to_owned() });
        }
        let _lock = Lock::take(dir)?;
        if reader::check(dir).is_ok() {
            return Ok(None);
        }
        let mut outcome = Err(wrong(&journal.display().to_string(), "no manifest is there"));
        for manifest in manifests(&journal)? {
            outcome = try_out(dir, &journal, &manifest).map(|()| manifest);
            if outcome.is_ok() {
                break;
            }
        }
        let manifest = outcome?;
        let fresh = journal.join("CURRENT.new");
        write_current(&fresh, &manifest)?;
        let put = fs::rename(&fresh, journal.join(CURRENT))
            .and_then(|()| File::open(&journal).and_then(|folder| folder.sync_all()));
        put.map_err(|error| LogError::io("write", &journal.join(CURRENT), error))?;
        Ok(Some(manifest))
    }
}

/// The manifests that are there, newest first.
fn manifests(journal: &Path) -> Result<Vec<String>, LogError> {
    let mut found: Vec<String> =
        names(journal)?.into_iter().filter(|it| it.starts_with(MANIFEST)).collect();
    // Numbers of six digits, and more once those are used up.
    found.sort_by_key(|it| std::cmp::Reverse((it.len(), it.clone())));
    Ok(found)
}

/// Whether everything holds under `manifest`.
fn try_out(dir: &Path, journal: &Path, manifest: &str) -> Result<(), LogError> {
    let tried = Tried::make(dir, journal, Some(manifest))?;
    let reader = reader::check(&tried.0)?;
    let tables = &reader.tables;
    let listed = tables.db.live_files().map_err(|error| damage::unopenable(journal, &error))?;
    let is_listed = |name: &str| listed.iter().any(|it| it.name.trim_start_matches('/') == name);
    let left = names(journal)?.into_iter().find(|it| it.ends_with(".sst") && !is_listed(it));
    if let Some(left) = left {
        let why = format!("{manifest} does not list it, and it may hold what that one misses");
        return Err(wrong(&left, &why));
    }
    tables.read_through(&tables.tail()?.head)
}

/// A directory beside the database whose files are links to its, with a table of contents of its
/// own; it goes away with its owner.
pub(super) struct Tried(PathBuf);

impl Tried {
    /// Links to the files of `journal`; `manifest` is the one that its table of contents names.
    pub(super) fn make(
        dir: &Path,
        journal: &Path,
        manifest: Option<&str>,
    ) -> Result<Self, LogError> {
        static N: AtomicU64 = AtomicU64::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let tried = Tried(dir.join(format!("journal.tried.{n}")));
        tried.remove();
        let links = tried.journal();
        make_dir(&links)?;
        for name in names(journal)?.into_iter().filter(|it| it != CURRENT && it != "LOCK") {
            let link = links.join(&name);
            fs::hard_link(journal.join(&name), &link)
                .map_err(|error| LogError::io("link", &link, error))?;
        }
        if let Some(manifest) = manifest {
            write_current(&links.join(CURRENT), manifest)?;
        }
        Ok(tried)
    }

    /// Where the links lie.
    pub(super) fn journal(&self) -> PathBuf {
        journal_dir(&self.0)
    }

    fn remove(&self) {
        // Links; what cannot be removed is in the way of the next try, which says so.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Tried {
    fn drop(&mut self) {
        self.remove();
    }
}

fn write_current(path: &Path, manifest: &str) -> Result<(), LogError> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(format!("{manifest}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| LogError::io("write", path, error))
}

fn names(folder: &Path) -> Result<Vec<String>, LogError> {
    let failed = |error| LogError::io("read", folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn wrong(file: &str, why: &str) -> LogError {
    let (file, why) = (file.to_owned(), why.to_owned());
    Damage { what: "database", position: None, file, why, repair: REPAIR_DATABASE.to_owned() }
        .into()
}
