//! Taking a folder into the store: each file is read once, hashed, and kept under its hash; then
//! the manifest is signed and named.
//!
//! Order: blobs, bill of materials, signature, manifest, reference. A crash anywhere leaves
//! nothing that a reference names and that is not complete.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use schemas::Hash;
use schemas::signature::KeyPair;
use sha2::{Digest as _, Sha256};

use super::manifest::{self, ArtifactKind, FileEntry, Manifest};
use super::{Store, open_plain, sbom};
use crate::durable;
use crate::error::Error;

/// A folder that shall become an artifact.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// Where it will be found, `local://…`.
    pub reference: &'a str,
    /// What it is for.
    pub kind: ArtifactKind,
    /// Service or package that it belongs to.
    pub name: &'a str,
    /// Human version.
    pub version: &'a str,
    /// Further facts.
    pub attributes: BTreeMap<String, String>,
    /// Its files.
    pub dir: &'a Path,
}

impl Store {
    /// Takes `draft` into the store, signed by `signer`, and returns its digest.
    ///
    /// # Errors
    /// [`Error::Refused`] for links, devices and names that no manifest may hold; [`Error::Io`].
    pub fn import(&self, draft: &Draft<'_>, signer: &KeyPair) -> Result<Hash, Error> {
        self.reference_path(draft.reference)?;
        let mut paths = Vec::new();
        walk(draft.dir, "", &mut paths)?;
        paths.sort();
        let files: Result<_, Error> =
            paths.into_iter().map(|path| self.take(&draft.dir.join(&path), path)).collect();
        let mut manifest = Manifest {
            kind: draft.kind,
            name: draft.name.to_owned(),
            version: draft.version.to_owned(),
            attributes: draft.attributes.clone(),
            sbom: Hash::default(),
            files: files?,
        };
        manifest.check()?;
        let bill = sbom::generate(&manifest);
        manifest.sbom = self.keep(&mut bill.as_slice(), Path::new("bill of materials"))?.0;
        let bytes = manifest.encode().into_bytes();
        let digest = Hash::of(&[&bytes]);
        let line = manifest::sign(&bytes, signer);
        durable::replace(&self.signature_path(&digest), line.as_bytes(), &self.steps)?;
        durable::replace(&self.manifest_path(&digest), &bytes, &self.steps)?;
        self.point(draft.reference, &digest)?;
        Ok(digest)
    }

    fn take(&self, source: &Path, path: String) -> Result<FileEntry, Error> {
        let mut file = open_plain(source).map_err(Error::io("open", source))?;
        let mode = file.metadata().map_err(Error::io("read", source))?.permissions().mode();
        let (sha256, size) = self.keep(&mut file, source)?;
        Ok(FileEntry { path, executable: mode & 0o111 != 0, size, sha256 })
    }

    /// Copies `source` into the store under the hash of what was read.
    fn keep(&self, source: &mut dyn std::io::Read, name: &Path) -> Result<(Hash, u64), Error> {
        let partial = durable::partial_of(&self.dir.join("blobs/new"));
        let open = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&partial);
        let mut file = open.map_err(Error::io("create", &partial))?;
        let (hash, size) = copy_hashed(source, &mut file).map_err(Error::io("copy", name))?;
        let path = self.blob_path(&hash);
        if path.is_file() {
            durable::remove(&partial);
            return Ok((hash, size));
        }
        file.sync_all().map_err(Error::io("sync", &partial))?;
        let folder = path.parent().unwrap_or(&self.dir);
        durable::private_dir(folder)?;
        fs::rename(&partial, &path).map_err(Error::io("rename", &path))?;
        durable::sync_dir(folder)?;
        Ok((hash, size))
    }
}

fn copy_hashed(source: &mut dyn std::io::Read, to: &mut File) -> std::io::Result<(Hash, u64)> {
    let (mut sha, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            return Ok((Hash(sha.finalize().into()), size));
        }
        sha.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
        size += n as u64;
    }
}

/// Collects the files below `dir`; anything that is neither file nor folder is refused.
fn walk(dir: &Path, below: &str, paths: &mut Vec<String>) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::refused(format!("file {}", name.to_string_lossy()), "its name is no UTF-8")
        })?;
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        manifest::check_path(&path)?;
        let kind = entry.file_type().map_err(Error::io("read", &entry.path()))?;
        if kind.is_dir() {
            walk(&entry.path(), &path, paths)?;
        } else if kind.is_file() {
            paths.push(path);
        } else {
            return Err(Error::refused(format!("file {path}"), "it is a link or a device"));
        }
    }
    Ok(())
}
