//! The few durable steps that everything on this host is made of: replace a small file, flip a
//! link, make a folder's entries last.
//!
//! Invariants:
//! - A reader sees the old content or the new, never a mix and never nothing.
//! - No step cleans up after a failure. What a crash leaves, a failure leaves too, so the same
//!   sweep deals with both and is exercised by every failing test.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Prefix of names that a crash may leave behind; a sweep removes them.
pub(crate) const PARTIAL: &str = ".partial-";

/// Called at every step; a test answers `false` to stop there, or aborts.
type Hook = dyn Fn(&'static str) -> bool + Send + Sync;

/// The steps at which a test may stop the work, as a crash would. The default never stops.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<Hook>>);

impl Steps {
    /// Steps that go on while `hook` says so.
    pub fn watched(hook: impl Fn(&'static str) -> bool + Send + Sync + 'static) -> Self {
        Steps(Some(Arc::new(hook)))
    }

    /// Passes the step `name`, or stops there.
    pub(crate) fn reach(&self, name: &'static str) -> Result<(), Error> {
        match &self.0 {
            Some(hook) if !hook(name) => Err(Error::Stopped(name)),
            Some(_) | None => Ok(()),
        }
    }
}

/// Makes the entries of folder `dir` last.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let sync = File::open(dir).and_then(|file| file.sync_all());
    sync.map_err(Error::io("sync", dir))
}

/// Creates `dir` and its parents, readable by nobody else.
pub(crate) fn private_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(Error::io("create", dir))
}

/// Replaces `path` by `bytes`: written beside it, synced, renamed, the folder synced.
pub(crate) fn replace(path: &Path, bytes: &[u8], steps: &Steps) -> Result<(), Error> {
    let partial = partial_of(path);
    let _ = fs::remove_file(&partial);
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
    let mut file = open.map_err(Error::io("create", &partial))?;
    steps.reach("replace: created")?;
    file.write_all(bytes).map_err(Error::io("write", &partial))?;
    file.sync_all().map_err(Error::io("sync", &partial))?;
    steps.reach("replace: synced")?;
    fs::rename(&partial, path).map_err(Error::io("rename", path))?;
    steps.reach("replace: renamed")?;
    sync_dir(parent(path))
}

/// Replaces `path` by `value` as JSON.
pub(crate) fn replace_json<T: Serialize>(
    path: &Path,
    value: &T,
    steps: &Steps,
) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|why| Error::damaged(path, why))?;
    replace(path, &bytes, steps)
}

/// Reads what [`replace_json`] wrote; `None` where there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|why| Error::damaged(path, why))
}

/// Points `link` at `target` in one rename. The old target stays where it is.
pub(crate) fn flip(link: &Path, target: &Path, steps: &Steps) -> Result<(), Error> {
    let partial = partial_of(link);
    let _ = fs::remove_file(&partial);
    symlink(target, &partial).map_err(Error::io("link", &partial))?;
    steps.reach("flip: linked")?;
    fs::rename(&partial, link).map_err(Error::io("flip", link))?;
    steps.reach("flip: renamed")?;
    sync_dir(parent(link))?;
    steps.reach("flip: synced")
}

/// Removes what a crash left in `dir`, which nobody else writes to.
pub(crate) fn sweep(dir: &Path) {
    sweep_where(dir, |_| true);
}

/// Removes what ended processes left in `dir`, which several write to.
pub(crate) fn sweep_shared(dir: &Path) {
    sweep_where(dir, |pid| !Path::new("/proc").join(pid).exists());
}

fn sweep_where(dir: &Path, is_left: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PARTIAL)?.split('-').next());
        if pid.is_some_and(&is_left) {
            remove(&entry.path());
        }
    }
}

/// Removes a file, link or tree. A failure costs space and nothing else.
pub(crate) fn remove(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    let result = if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "cannot remove");
    }
}

/// A name beside `path` that nobody else uses, under which it is made before it is renamed.
pub(crate) fn partial_of(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!("{PARTIAL}{}-{n}-{name}", std::process::id()))
}

/// The folder that `path` lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Steps that stop at the `n`-th.
    fn stop_at(n: usize) -> Steps {
        let count = AtomicUsize::new(0);
        Steps::watched(move |_| count.fetch_add(1, Ordering::Relaxed) < n)
    }

    #[test]
    fn a_flip_stopped_at_any_step_leaves_the_old_target_or_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        for n in 0.. {
            flip(&link, Path::new("old"), &Steps::default()).unwrap();
            let result = flip(&link, Path::new("new"), &stop_at(n));
            let target = fs::read_link(&link).unwrap();
            assert!(target == Path::new("old") || target == Path::new("new"), "{target:?}");
            sweep(dir.path());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
            if result.is_ok() {
                assert_eq!(target, Path::new("new"));
                assert_eq!(n, 3, "every step was stopped at once");
                break;
            }
        }
    }

    #[test]
    fn a_replacement_stopped_at_any_step_leaves_the_old_bytes_or_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for n in 0.. {
            replace(&path, b"old", &Steps::default()).unwrap();
            let result = replace(&path, b"new, and longer", &stop_at(n));
            let bytes = fs::read(&path).unwrap();
            assert!(bytes == b"old" || bytes == b"new, and longer", "{bytes:?}");
            if result.is_ok() {
                assert_eq!(n, 3, "every step was stopped at once");
                break;
            }
        }
    }
}
