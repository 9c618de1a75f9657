//! Checkpoints: copies of journal and state at one position, with what proves them whole.
//!
//! ```text
//! DIR/journal/   a RocksDB checkpoint: table files are links, not copies
//! DIR/manifest   "HWC\x01" deployment partition32 next_seq64 position64 batch[32] state[32]
//!                count32 (name size64 sha256[32])*  SHA-256(all before)[32]
//! ```
//!
//! A checkpoint is a side file: it is never journaled, and a start works without it. It is not
//! trusted until [`verify`] has compared every file, the head and the logical state digest with
//! the manifest, and the manifest with the signature that its maker keeps beside it. Signing is
//! the caller's: no key is known here. Whoever has compared the files on their way asks for the
//! rest with [`verify_whole`].
//!
//! Steps of [`install`], and what a crash after each leaves: the directory's own copy set aside
//! (a directory without a journal, which the next start fills anew), the checkpoint's files in
//! its place (as intended; what was set aside goes with the next one).
//!
//! Because links are shared, a checkpoint on the same disk protects against a mistake and not
//! against a bad block; a copy elsewhere does both.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use schemas::wire::{Reader as Fields, Writer};
use schemas::{Hash, Head};
use sha2::{Digest as _, Sha256};

use crate::embedded::{EmbeddedLog, Lock, Reader};
use crate::error::Damage;
use crate::{LogError, Store};

/// The format mark. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWC\x01";
const REPAIR: &str = "nothing is lost, a start works without this checkpoint; take another";
/// Files are hashed in pieces of this size.
const PIECE_BYTES: usize = 1024 * 1024;

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Deployment id.
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// Number of entries in its journal.
    pub next_seq: u64,
    /// Sequence of the next entry to fold on its state.
    pub position: u64,
    /// Hash of its last batch.
    pub batch: Hash,
    /// Logical state digest.
    pub state: Hash,
    /// Its files by name, with size and SHA-256.
    pub files: Vec<(String, u64, Hash)>,
}

impl Checkpoint {
    /// The manifest without its checksum: what its maker signs.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MAGIC);
        out.text(&self.deployment).u32(self.partition).u64(self.next_seq).u64(self.position);
        out.raw(&self.batch.0).raw(&self.state.0).u32(self.files.len() as u32);
        for (name, size, hash) in &self.files {
            out.text(name).u64(*size).raw(&hash.0);
        }
        out.0
    }

    /// Reads what [`Checkpoint::encode`] wrote.
    ///
    /// # Errors
    /// It is no manifest, or names a file that is none of a database's own.
    pub fn decode(bytes: &[u8]) -> Result<Self, schemas::Error> {
        let mut fields = Fields::new("checkpoint manifest", bytes);
        fields.expect(MAGIC)?;
        let mut checkpoint = Checkpoint {
            deployment: fields.text()?.to_owned(),
            partition: fields.u32()?,
            next_seq: fields.u64()?,
            position: fields.u64()?,
            batch: Hash(fields.array()?),
            state: Hash(fields.array()?),
            files: Vec::new(),
        };
        for _ in 0..fields.u32()? {
            let name = fields.text()?.to_owned();
            checkpoint.files.push((name, fields.u64()?, Hash(fields.array()?)));
        }
        fields.end()?;
        // Names become paths: one that leads elsewhere is refused whoever signed it.
        let plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-' | '_');
        let is_own = |name: &str| !name.starts_with('.') && name.chars().all(plain);
        let mut names = checkpoint.files.iter().map(|(name, ..)| name);
        if names.any(|name| name.is_empty() || !is_own(name)) {
            let why = "it names a file outside its folder".to_owned();
            return Err(schemas::Error::Malformed { what: "checkpoint manifest", why });
        }
        Ok(checkpoint)
    }

    /// Sum of the sizes of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size, _)| size).sum()
    }
}

/// Makes a checkpoint of `log` in `dir`, which must not exist, while its owner goes on.
///
/// # Errors
/// [`LogError::Io`] when `dir` exists or cannot be written, [`LogError::Corrupt`].
pub fn create(log: &EmbeddedLog, dir: &Path) -> Result<Checkpoint, LogError> {
    let journal = dir.join("journal");
    fs::create_dir(dir).map_err(|error| LogError::io("create", dir, error))?;
    log.link_files(&journal)?;
    let reader = Reader::open(dir)?;
    let head = reader.head()?;
    let checkpoint = Checkpoint {
        deployment: head.deployment,
        partition: head.partition,
        next_seq: head.next_seq,
        position: reader.position()?,
        batch: head.hash,
        state: (&reader as &dyn Store).digest()?,
        files: hashes(&journal)?,
    };
    write_manifest(&checkpoint, dir)?;
    Ok(checkpoint)
}

/// Writes the manifest of the checkpoint whose files lie in `dir`; it is durable on return.
///
/// # Errors
/// [`LogError::Io`].
pub fn write_manifest(checkpoint: &Checkpoint, dir: &Path) -> Result<(), LogError> {
    let mut bytes = checkpoint.encode();
    bytes.extend(Hash::of(&[&bytes]).0);
    let path = dir.join("manifest");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    });
    written.map_err(|error| LogError::io("write", &path, error))
}

/// Compares the checkpoint in `dir` with its manifest, file by file and as a whole.
///
/// # Errors
/// [`LogError::Corrupt`] names the file that is not what the manifest says.
pub fn verify(dir: &Path) -> Result<Checkpoint, LogError> {
    let path = dir.join("manifest");
    let bytes = fs::read(&path).map_err(|error| LogError::io("read", &path, error))?;
    let (body, checksum) = bytes.split_at(bytes.len().saturating_sub(32));
    if Hash::of(&[body]).0 != *checksum {
        return wrong("manifest", "its checksum does not match");
    }
    let Ok(checkpoint) = Checkpoint::decode(body) else {
        return wrong("manifest", "it does not decode");
    };
    let found = hashes(&dir.join("journal"))?;
    if let Some((name, ..)) = checkpoint.files.iter().find(|file| !found.contains(file)) {
        return wrong(name, "it is not the file that the manifest names");
    }
    if let Some((name, ..)) = found.iter().find(|file| !checkpoint.files.contains(file)) {
        return wrong(name, "the manifest does not name it");
    }
    verify_whole(dir, &checkpoint)?;
    Ok(checkpoint)
}

/// Opens the database in `dir` and compares its head and its logical state digest with
/// `checkpoint`, whose files have been compared already.
///
/// # Errors
/// [`LogError::Corrupt`].
pub fn verify_whole(dir: &Path, checkpoint: &Checkpoint) -> Result<(), LogError> {
    let reader = Reader::open(dir)?;
    let Head { deployment, partition, next_seq, hash, .. } = reader.head()?;
    let digest = (&reader as &dyn Store).digest()?;
    let found = (deployment, partition, next_seq, hash, reader.position()?, digest);
    let said = checkpoint.clone();
    let said =
        (said.deployment, said.partition, said.next_seq, said.batch, said.position, said.state);
    if found != said {
        return wrong("journal", "its head or its state is not what the manifest says");
    }
    Ok(())
}

/// Puts the journal of the verified checkpoint in `staged` in the place of the one in the data
/// directory `data`, if there is one; both lie on one disk, and nobody else has `data` open.
///
/// What is there must be a beginning of the checkpoint's chain: another history is evidence and
/// is never replaced.
///
/// # Errors
/// [`LogError::Busy`], [`LogError::Diverged`], [`LogError::Io`].
pub fn install(staged: &Path, data: &Path) -> Result<(), LogError> {
    let _lock = Lock::take(data)?;
    let (from, to, aside) =
        (staged.join("journal"), data.join("journal"), data.join("journal.old"));
    remove(&aside)?;
    if to.exists() {
        begins(&Reader::open(data)?.head()?, &Reader::open(staged)?)?;
        fs::rename(&to, &aside).map_err(|error| LogError::io("rename", &to, error))?;
    }
    fs::rename(&from, &to)
        .and_then(|()| File::open(data)?.sync_all())
        .map_err(|error| LogError::io("rename", &from, error))?;
    remove(&aside)?;
    remove(staged)
}

/// Whether `own` is a place in the chain that `checkpoint` holds.
fn begins(own: &Head, checkpoint: &Reader) -> Result<(), LogError> {
    let Some(last) = own.next_seq.checked_sub(1) else { return Ok(()) };
    let batch = checkpoint.read(last, 1)?;
    if batch.first().is_some_and(|it| it.hash() == own.hash) {
        return Ok(());
    }
    Err(LogError::Diverged {
        next_seq: own.next_seq,
        hash: own.hash,
        why: "the newest checkpoint holds another batch there".to_owned(),
    })
}

fn remove(dir: &Path) -> Result<(), LogError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LogError::io("remove", dir, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn wrong<T>(file: &str, why: &str) -> Result<T, LogError> {
    Err(LogError::from(Damage {
        what: "checkpoint",
        position: None,
        file: file.to_owned(),
        why: why.to_owned(),
        repair: REPAIR.to_owned(),
    }))
}

/// Name, size and SHA-256 of each file, in order of the names.
fn hashes(dir: &Path) -> Result<Vec<(String, u64, Hash)>, LogError> {
    let unreadable = |error| LogError::io("list", dir, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let (size, hash) = hashed(&path).map_err(|error| LogError::io("read", &path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, size, hash));
    }
    files.sort();
    Ok(files)
}

fn hashed(path: &Path) -> io::Result<(u64, Hash)> {
    let (mut file, mut sha) = (File::open(path)?, Sha256::new());
    let (mut piece, mut size) = (vec![0; PIECE_BYTES], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((size, Hash(sha.finalize().into()))),
            n => {
                sha.update(&piece[..n]);
                size += n as u64;
            }
        }
    }
}
