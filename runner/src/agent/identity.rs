//! Who the runner is, and whom it belongs to.
//!
//! The key is made on first start and never leaves the folder. The deployment is pinned on
//! first contact: its id binds the root key, so from then on no other control plane can command
//! this runner, whatever it holds.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use schemas::ids::{hex, unhex};
use schemas::signature::{KeyPair, PublicKey};

use super::Error;
use super::policy::Policy;
use crate::durable::{self, Steps};

/// Its holder supervises what lies in the folder, and its process id stands in it.
const LOCK: &str = "runner.lock";

/// A runner's key, its deployment, its host and its owner's policy.
#[derive(Debug)]
pub struct Identity {
    /// The runner's folder.
    pub dir: PathBuf,
    /// Name of the host.
    pub host: String,
    /// Signs results and cosignatures.
    pub key: KeyPair,
    /// The pinned deployment.
    pub deployment: String,
    /// The owner's allow lists.
    pub policy: Policy,
    /// Held for the life of the process.
    _lock: File,
}

impl Identity {
    /// Opens the folder, making what a first start has to make, and locks it.
    ///
    /// # Errors
    /// Another runner holds the lock, another deployment is pinned, or a file is damaged.
    pub fn open(dir: &Path, host: &str, deployment: &str) -> Result<Self, Error> {
        durable::private_dir(dir)?;
        let lock = lock(dir)?;
        durable::sweep(dir);
        Ok(Identity {
            dir: dir.to_owned(),
            host: host.to_owned(),
            key: key(dir)?,
            deployment: pin(dir, deployment)?,
            policy: durable::read_json(&dir.join("runner.json"))?.unwrap_or_default(),
            _lock: lock,
        })
    }
}

/// The process that holds the folder of a runner, by its id; nothing when none does.
pub fn holder(dir: &Path) -> Option<i32> {
    let mut file = File::open(dir.join(LOCK)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The public key of the runner that was started in a folder; nothing before the first start, or
/// where its file cannot be read.
pub fn public_key(dir: &Path) -> Option<PublicKey> {
    let seed = unhex(&read_text(&key_path(dir)).ok()??)?;
    Some(KeyPair::from_seed(&seed).public())
}

/// Held by whoever supervises what lies in the folder.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let mut file = file.map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {
            // For whoever must end this process and is not its parent.
            let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            written.map_err(Error::io("write", &path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

fn key_path(dir: &Path) -> PathBuf {
    dir.join("runner.key")
}

fn key(dir: &Path) -> Result<KeyPair, Error> {
    let path = key_path(dir);
    if let Some(text) = read_text(&path)? {
        let seed = unhex(&text).ok_or_else(|| Error::damaged(&path, "it is not 64 hex digits"))?;
        return Ok(KeyPair::from_seed(&seed));
    }
    let mut seed = [0; 32];
    let random = Path::new("/dev/urandom");
    let read = File::open(random).and_then(|mut file| file.read_exact(&mut seed));
    read.map_err(Error::io("read", random))?;
    durable::replace(&path, format!("{}\n", hex(&seed)).as_bytes(), &Steps::default())?;
    Ok(KeyPair::from_seed(&seed))
}

fn pin(dir: &Path, told: &str) -> Result<String, Error> {
    let path = dir.join("deployment");
    match read_text(&path)? {
        Some(pinned) if pinned == told => Ok(pinned),
        Some(pinned) => Err(Error::OtherDeployment { pinned, told: told.to_owned() }),
        None => {
            durable::replace(&path, format!("{told}\n").as_bytes(), &Steps::default())?;
            Ok(told.to_owned())
        }
    }
}

fn read_text(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_runner_stays_who_it_is_and_belongs_to_whom_it_met_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(public_key(dir.path()), None, "to look makes no key");
        let first = Identity::open(dir.path(), "here", "shop-1").unwrap();
        let key = first.key.public();
        assert_eq!(public_key(dir.path()), Some(key));
        let error = Identity::open(dir.path(), "here", "shop-1").unwrap_err();
        assert!(error.to_string().ends_with("is served by another runner"), "{error}");
        drop(first);
        assert_eq!(Identity::open(dir.path(), "here", "shop-1").unwrap().key.public(), key);
        let error = Identity::open(dir.path(), "here", "shop-2").unwrap_err().to_string();
        assert_eq!(error, "this runner belongs to deployment shop-1, and shop-2 calls it");
        let mode = dir.path().join("runner.key").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_policy_with_a_word_that_nobody_knows_is_damage_and_not_a_wide_policy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("runner.json"), r#"{"method":["restart"]}"#).unwrap();
        assert!(Identity::open(dir.path(), "here", "shop-1").is_err());
    }
}
