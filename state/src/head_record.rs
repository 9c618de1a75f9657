//! The head record: the last signed tree head, kept outside the data directory.
//!
//! ```text
//! file := "HWR\x01" size64 root[32] batch[32] epoch64 SHA-256(all before)[32]     116 bytes
//! ```
//!
//! A data directory restored from a backup is a perfect chain that is too short. Only something
//! that was not restored with it can tell (A06): this record is fsynced after every signed head
//! and lies elsewhere, and a start is refused when it is ahead of the log.
//!
//! It is a compare-and-swap: an advance names what it saw, under a lock on a file beside it, so
//! that a second writer cannot sign a fork. It is trusted only to refuse: its loss costs the
//! protection until the next head is recorded, and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use schemas::wire::{Reader, Writer};
use schemas::{Hash, Head};
use thiserror::Error;

/// The format mark. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWR\x01";
/// Mark, size, root, batch hash, epoch, checksum.
const FILE_BYTES: usize = 4 + 8 + 32 + 32 + 8 + 32;

/// A tree head that has been signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Number of entries under the head.
    pub size: u64,
    /// Root hash of the tree.
    pub root: Hash,
    /// Hash of the batch that ends at `size`.
    pub batch: Hash,
    /// Epoch whose key signed it.
    pub epoch: u64,
}

/// What the head record refuses.
#[derive(Debug, Error)]
pub enum HeadError {
    /// The record knows of entries that the log does not hold.
    #[error(
        "{path} recorded a signed head of {recorded} entries, the journal ends at {log}: the data \
         directory is an older copy, or a file of its journal was cut or is gone; put the newer one \
         back, or what an export holds with `healwright repair journal --from BUNDLE`; `healwright \
         repair head --reason TEXT` accepts what is lost then",
        path = .path.display()
    )]
    AheadOfLog {
        /// The record's file.
        path: PathBuf,
        /// Size that was signed.
        recorded: u64,
        /// Size of the log.
        log: u64,
    },
    /// Log and record end at the same size with different batches.
    #[error(
        "{path} recorded another batch than the journal holds at {size}: this is another history",
        path = .path.display()
    )]
    Forked {
        /// The record's file.
        path: PathBuf,
        /// Size at which they differ.
        size: u64,
    },
    /// The new head is not beyond the recorded one.
    #[error(
        "a head of {size} entries in epoch {epoch} does not follow the recorded one of \
         {recorded} in epoch {recorded_epoch}"
    )]
    Regress {
        /// Size offered.
        size: u64,
        /// Epoch offered.
        epoch: u64,
        /// Size recorded.
        recorded: u64,
        /// Epoch recorded.
        recorded_epoch: u64,
    },
    /// Somebody else has advanced the record since it was read.
    #[error("{path} was advanced by another process; this one signs no more heads",
        path = .path.display())]
    Contended {
        /// The record's file.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "{path} is corrupt ({why}); it is replaced as a whole and never half, so the disk changed \
         it: check that the journal is the newest copy, then `healwright repair head --reason \
         TEXT`",
        path = .path.display()
    )]
    Damaged {
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An operating-system call did not succeed.
    #[error("cannot {what} {path}", path = .path.display())]
    Io {
        /// What was being done, a verb.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The record of one partition's last signed head.
#[derive(Debug)]
pub struct HeadRecord {
    path: PathBuf,
    last: Option<Signed>,
}

impl HeadRecord {
    /// Opens the record at `path`, whose folder is made when missing.
    ///
    /// # Errors
    /// [`HeadError::Damaged`], [`HeadError::Io`].
    pub fn open(path: &Path) -> Result<Self, HeadError> {
        let folder = parent(path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io_error("create", folder))?;
        Ok(HeadRecord { path: path.to_owned(), last: load(path)? })
    }

    /// The last head recorded.
    pub fn last(&self) -> Option<&Signed> {
        self.last.as_ref()
    }

    /// Refuses a log that does not reach the recorded head, or ends there with another batch.
    ///
    /// A log that goes on beyond the recorded head is the ordinary case after a crash; whether
    /// its batch *at* that size is the recorded one is for the caller, who reads the chain.
    ///
    /// # Errors
    /// [`HeadError::AheadOfLog`], [`HeadError::Forked`].
    pub fn check(&self, head: &Head) -> Result<(), HeadError> {
        let Some(last) = self.last else { return Ok(()) };
        let path = self.path.clone();
        if last.size > head.next_seq {
            return Err(HeadError::AheadOfLog { path, recorded: last.size, log: head.next_seq });
        }
        if last.size == head.next_seq && last.batch != head.hash {
            return Err(HeadError::Forked { path, size: last.size });
        }
        Ok(())
    }

    /// Records `signed` in place of what this object last saw, durably.
    ///
    /// # Errors
    /// [`HeadError::Regress`], [`HeadError::Contended`], [`HeadError::Io`]; the record is then
    /// what it was.
    pub fn advance(&mut self, signed: Signed) -> Result<(), HeadError> {
        if self.last == Some(signed) {
            return Ok(());
        }
        let regress = |last: &Signed| signed.size <= last.size || signed.epoch < last.epoch;
        if let Some(last) = self.last.filter(regress) {
            return Err(HeadError::Regress {
                size: signed.size,
                epoch: signed.epoch,
                recorded: last.size,
                recorded_epoch: last.epoch,
            });
        }
        let _lock = self.lock()?;
        if load(&self.path)? != self.last {
            return Err(HeadError::Contended { path: self.path.clone() });
        }
        self.replace(&signed)?;
        self.last = Some(signed);
        Ok(())
    }

    /// Held while the file is compared and replaced; released when dropped.
    fn lock(&self) -> Result<File, HeadError> {
        let path = beside(&self.path, ".lock");
        let mut open = OpenOptions::new();
        open.create(true).truncate(false).write(true).mode(0o600);
        let file = open.open(&path).map_err(io_error("open", &path))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| io_error("lock", &path)(errno.into()))?;
        Ok(file)
    }

    /// Temporary file, fsync, rename, fsync of the folder: at any crash the record is the old
    /// one or the new one.
    fn replace(&self, signed: &Signed) -> Result<(), HeadError> {
        let temporary = beside(&self.path, ".new");
        let mut open = OpenOptions::new();
        open.create(true).truncate(true).write(true).mode(0o600);
        let mut file = open.open(&temporary).map_err(io_error("create", &temporary))?;
        file.write_all(&encode(signed)).map_err(io_error("write", &temporary))?;
        file.sync_all().map_err(io_error("sync", &temporary))?;
        fs::rename(&temporary, &self.path).map_err(io_error("replace", &self.path))?;
        let folder = parent(&self.path);
        let folder_file = File::open(folder).map_err(io_error("open", folder))?;
        folder_file.sync_all().map_err(io_error("sync", folder))
    }
}

fn load(path: &Path) -> Result<Option<Signed>, HeadError> {
    match fs::read(path) {
        Ok(bytes) => {
            let signed = decode(&bytes);
            signed.map(Some).map_err(|why| HeadError::Damaged { path: path.to_owned(), why })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

fn encode(signed: &Signed) -> Vec<u8> {
    let mut out = Writer::new(MAGIC);
    out.u64(signed.size).raw(&signed.root.0).raw(&signed.batch.0).u64(signed.epoch);
    let checksum = Hash::of(&[&out.0]);
    out.raw(&checksum.0);
    debug_assert_eq!(out.0.len(), FILE_BYTES);
    out.0
}

fn decode(bytes: &[u8]) -> Result<Signed, String> {
    if bytes.len() != FILE_BYTES {
        return Err(format!("it has {} bytes, not {FILE_BYTES}", bytes.len()));
    }
    let (body, checksum) = bytes.split_at(FILE_BYTES - 32);
    if Hash::of(&[body]).0 != *checksum {
        return Err("its checksum does not match".to_owned());
    }
    let mut reader = Reader::new("head record", body);
    let mut read = || {
        reader.expect(MAGIC)?;
        Ok(Signed {
            size: reader.u64()?,
            root: Hash(reader.array()?),
            batch: Hash(reader.array()?),
            epoch: reader.u64()?,
        })
    };
    read().map_err(|error: schemas::Error| error.to_string())
}

/// The path with `suffix` appended; an extension would be replaced, and names hold dots.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HeadError {
    let path = path.to_owned();
    move |source| HeadError::Io { what, path, source }
}
