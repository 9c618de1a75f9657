//! The local artifact store: blobs by hash, signed flat manifests, references, and the states
//! that keep a bad artifact from ever being used again.
//!
//! Everything that is installed or launched comes from here; nothing is downloaded (spec 60 §9).
//! It does not decide what to install and never repairs what it finds damaged.
//!
//! Invariants:
//! - A [`Verified`] manifest can only be made here, from bytes that a registered key signed.
//! - What is materialised was hashed while it was copied; the source is read once (C01).
//! - Nothing in the store is trusted: a manifest by its signature, a blob by its hash, the bill
//!   of materials by both. Losing the store costs the ability to install, not safety.
//! - An artifact that is marked stays unusable until a person clears it (spec 60 §8).
//!
//! Layout: `blobs/<2 hex>/<hex>`, `manifests/<hex>` and `<hex>.sig`, `refs/<reference>` holding a
//! digest, `marks/<hex>` holding a state and a sentence.

mod import;
mod manifest;
mod materialize;
mod sbom;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use schemas::Hash;
use schemas::signature::PublicKey;

pub use import::Draft;
pub(crate) use manifest::check_path;
pub use manifest::{ArtifactKind, FileEntry, MANIFEST_DOMAIN, Manifest};

use crate::durable::{self, Steps};
use crate::error::Error;

/// Scheme of references into the store.
pub const SCHEME: &str = "local://";
/// Bytes of a manifest, at most.
const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// Whether an artifact can be used (spec 60 §7). Names are persisted: frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactState {
    /// Signed, complete and not marked.
    Available,
    /// Its manifest or one of its blobs is not here.
    Missing,
    /// It failed in use, or its bytes are wrong.
    Bad,
    /// Suspected; a person decides.
    Quarantined,
}

impl ArtifactState {
    /// The state as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            ArtifactState::Available => "available",
            ArtifactState::Missing => "missing",
            ArtifactState::Bad => "bad",
            ArtifactState::Quarantined => "quarantined",
        }
    }
}

/// An artifact as `inventory` and `cache_info` list it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Reference, `local://…`.
    pub reference: String,
    /// Digest of its manifest.
    pub digest: Hash,
    /// Whether it can be used.
    pub state: ArtifactState,
    /// Digest of its bill of materials, where the manifest can be read.
    pub sbom: Option<Hash>,
}

/// A manifest that a registered key signed and that was not marked when it was read.
#[derive(Clone, Debug)]
pub struct Verified {
    manifest: Manifest,
    digest: Hash,
    signer: PublicKey,
}

impl Verified {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its digest.
    pub fn digest(&self) -> Hash {
        self.digest
    }

    /// The registered key that signed it.
    pub fn signer(&self) -> PublicKey {
        self.signer
    }
}

/// The store in one folder. Several processes may import at once; each file appears whole.
pub struct Store {
    dir: PathBuf,
    signers: RwLock<BTreeSet<PublicKey>>,
    steps: Steps,
}

impl Store {
    /// Opens or creates the store in `dir`. No key is registered yet.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be made.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        for part in ["blobs", "manifests", "refs", "marks"] {
            durable::private_dir(&dir.join(part))?;
            durable::sweep_shared(&dir.join(part));
        }
        Ok(Store { dir: dir.to_owned(), signers: RwLock::default(), steps: Steps::default() })
    }

    /// Registers exactly these keys as signers of artifacts.
    pub fn trust(&self, keys: impl IntoIterator<Item = PublicKey>) {
        let keys = keys.into_iter().collect();
        *self.signers.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The digest that `local://…` names; `local://…@sha256:<hex>` must name the same.
    ///
    /// # Errors
    /// [`Error::Refused`] for a malformed reference, [`Error::Missing`] for an unknown one and
    /// [`Error::WrongDigest`] where the store's answer is not the digest in the reference.
    pub fn resolve(&self, reference: &str) -> Result<Hash, Error> {
        let (bare, pinned) = match reference.split_once("@sha256:") {
            Some((bare, hex)) => (bare, Some(digest_of(hex)?)),
            None => (reference, None),
        };
        let path = self.reference_path(bare)?;
        let found = match fs::read_to_string(&path) {
            Ok(text) => text.trim_end().parse().map_err(|why| Error::damaged(&path, why))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing { what: bare.to_owned() });
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        match pinned {
            Some(expected) if expected != found => Err(wrong_digest(bare, expected, found)),
            Some(_) | None => Ok(found),
        }
    }

    /// Makes `reference` name `digest`.
    ///
    /// # Errors
    /// [`Error::Refused`] for a malformed reference, else [`Error::Io`].
    pub fn point(&self, reference: &str, digest: &Hash) -> Result<(), Error> {
        let path = self.reference_path(reference)?;
        durable::private_dir(path.parent().unwrap_or(&self.dir))?;
        durable::replace(&path, format!("{digest}\n").as_bytes(), &self.steps)
    }

    /// The manifest of `digest`, its signature checked and its mark respected.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Marked`], [`Error::Unsigned`], [`Error::WrongDigest`] or
    /// [`Error::Refused`].
    pub fn verified(&self, digest: &Hash) -> Result<Verified, Error> {
        if let Some((state, why)) = self.mark_of(digest)? {
            let state = state.as_str();
            return Err(Error::Marked { digest: digest.to_digest(), state, why });
        }
        let path = self.manifest_path(digest);
        let bytes = read_small(&path, MANIFEST_BYTES_MAX)?
            .ok_or_else(|| Error::Missing { what: format!("manifest {}", digest.to_digest()) })?;
        let found = Hash::of(&[&bytes]);
        if found != *digest {
            return Err(wrong_digest("manifest", *digest, found));
        }
        let signer = self.signer(digest, &bytes)?;
        let text = std::str::from_utf8(&bytes).map_err(|why| Error::damaged(&path, why))?;
        Ok(Verified { manifest: Manifest::decode(text)?, digest: *digest, signer })
    }

    /// [`Store::resolve`], then [`Store::verified`]. `expected` is the digest that the request
    /// names, where it names one.
    ///
    /// # Errors
    /// As the two, and [`Error::WrongDigest`] where the reference names another artifact.
    pub fn open_reference(
        &self,
        reference: &str,
        expected: Option<Hash>,
    ) -> Result<Verified, Error> {
        let found = self.resolve(reference)?;
        match expected {
            Some(expected) if expected != found => Err(wrong_digest(reference, expected, found)),
            Some(_) | None => self.verified(&found),
        }
    }

    /// Whether the artifact can be used, as far as can be told without reading its blobs.
    pub fn state(&self, digest: &Hash) -> ArtifactState {
        match self.verified(digest) {
            Ok(verified) if self.missing(&verified).is_empty() => ArtifactState::Available,
            Ok(_) | Err(Error::Missing { .. }) => ArtifactState::Missing,
            Err(Error::Marked { state, .. }) if state == ArtifactState::Quarantined.as_str() => {
                ArtifactState::Quarantined
            }
            Err(_) => ArtifactState::Bad,
        }
    }

    /// Files of the artifact whose blobs are not in the store.
    pub fn missing(&self, verified: &Verified) -> Vec<String> {
        let files = &verified.manifest.files;
        let absent = files.iter().filter(|file| !self.blob_path(&file.sha256).is_file());
        absent.map(|file| file.path.clone()).collect()
    }

    /// Marks an artifact `bad` or `quarantined`, with the reason.
    ///
    /// # Errors
    /// [`Error::Io`]; then the artifact is not marked.
    pub fn mark(&self, digest: &Hash, state: ArtifactState, why: &str) -> Result<(), Error> {
        let text = format!("{}\n{}\n", state.as_str(), why.replace('\n', " "));
        durable::replace(&self.mark_path(digest), text.as_bytes(), &self.steps)
    }

    /// Takes the mark away. Only a person's decision comes here.
    ///
    /// # Errors
    /// [`Error::Io`]; then the mark stays.
    pub fn clear(&self, digest: &Hash) -> Result<(), Error> {
        let path = self.mark_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Every reference, in order, with the state of what it names.
    pub fn list(&self) -> Vec<Listed> {
        let mut found = Vec::new();
        let root = self.dir.join("refs");
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(name) = path.strip_prefix(&root) {
                    found.push(format!("{SCHEME}{}", name.display()));
                }
            }
        }
        found.sort();
        found.into_iter().filter_map(|reference| self.listed(reference)).collect()
    }

    fn listed(&self, reference: String) -> Option<Listed> {
        let digest = self.resolve(&reference).ok()?;
        let sbom = self.verified(&digest).ok().map(|it| it.manifest.sbom);
        Some(Listed { reference, digest, state: self.state(&digest), sbom })
    }

    fn mark_of(&self, digest: &Hash) -> Result<Option<(ArtifactState, String)>, Error> {
        let path = self.mark_path(digest);
        let Some(bytes) = read_small(&path, 64 << 10)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let (word, why) = text.split_once('\n').unwrap_or((&text, ""));
        // A mark that cannot be read is the stricter of the two.
        let quarantined = word == ArtifactState::Quarantined.as_str();
        let state = if quarantined { ArtifactState::Quarantined } else { ArtifactState::Bad };
        Ok(Some((state, why.trim_end().to_owned())))
    }

    fn signer(&self, digest: &Hash, bytes: &[u8]) -> Result<PublicKey, Error> {
        let unsigned =
            |why: &str| Error::Unsigned { digest: digest.to_digest(), why: why.to_owned() };
        let line = read_small(&self.signature_path(digest), 4096)?
            .ok_or_else(|| unsigned("there is no signature beside its manifest"))?;
        let line = String::from_utf8_lossy(&line);
        let key = manifest::signer_of(bytes, &line)
            .ok_or_else(|| unsigned("the signature beside its manifest does not verify"))?;
        let signers = self.signers.read().unwrap_or_else(PoisonError::into_inner);
        if signers.contains(&key) {
            return Ok(key);
        }
        Err(unsigned(&format!("its key {} is not registered", key.id())))
    }

    fn blob_path(&self, hash: &Hash) -> PathBuf {
        let hex = hash.to_string();
        self.dir.join("blobs").join(&hex[..2]).join(&hex)
    }

    fn manifest_path(&self, digest: &Hash) -> PathBuf {
        self.dir.join("manifests").join(digest.to_string())
    }

    fn signature_path(&self, digest: &Hash) -> PathBuf {
        self.dir.join("manifests").join(format!("{digest}.sig"))
    }

    fn mark_path(&self, digest: &Hash) -> PathBuf {
        self.dir.join("marks").join(digest.to_string())
    }

    fn reference_path(&self, reference: &str) -> Result<PathBuf, Error> {
        let refuse = |why: &str| Err(Error::refused(format!("reference {reference:?}"), why));
        let Some(name) = reference.strip_prefix(SCHEME) else {
            return refuse("it does not start with local://");
        };
        let is_plain = |part: &str| {
            let allowed = |it: char| it.is_ascii_alphanumeric() || "._@+-:".contains(it);
            !part.is_empty() && part.len() <= 128 && part.chars().all(allowed)
        };
        if name.split('/').any(|part| part.starts_with('.') || !is_plain(part)) {
            return refuse("a part of it is not a plain name");
        }
        Ok(self.dir.join("refs").join(name))
    }
}

/// Opens a regular file for reading, never through a link.
fn open_plain(path: &Path) -> io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

/// Reads a file of at most `bytes_max`; `None` where it does not exist.
fn read_small(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, Error> {
    let file = match open_plain(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::damaged(path, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(Some(bytes))
}

/// Reads `sha256:<hex>` or the bare digits.
pub(crate) fn digest_of(text: &str) -> Result<Hash, Error> {
    text.parse().map_err(|_| Error::refused(format!("digest {text:?}"), "it is not a SHA-256"))
}

fn wrong_digest(what: &str, expected: Hash, found: Hash) -> Error {
    Error::WrongDigest {
        what: what.to_owned(),
        expected: expected.to_digest(),
        found: found.to_digest(),
    }
}
