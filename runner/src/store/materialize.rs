//! From verified manifest to a folder that can be run: copied and hashed in one pass, into a
//! folder that nobody else can write to, and only then given its name.
//!
//! The swap attack (C01) needs a moment between the check of a file and its use. There is none:
//! each blob is opened once, and the bytes that were hashed are the bytes that were written.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use schemas::Hash;
use sha2::{Digest as _, Sha256};

use super::manifest::{FileEntry, check_path};
use super::{ArtifactState, Store, Verified, open_plain, read_small, sbom, wrong_digest};
use crate::durable::{self, Steps};
use crate::error::Error;

impl Store {
    /// Makes `into` hold exactly the files of the artifact. A folder that already does is kept;
    /// one that does not is replaced.
    ///
    /// Bytes with the wrong digest mark the artifact `bad`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::WrongDigest`] or [`Error::Io`]; `into` is then as it was.
    pub fn materialize(
        &self,
        verified: &Verified,
        into: &Path,
        steps: &Steps,
    ) -> Result<(), Error> {
        if into.exists() && self.holds(verified, into).is_ok() {
            return Ok(());
        }
        let result = self.check_sbom(verified).and_then(|()| self.build(verified, into, steps));
        if let Err(error @ Error::WrongDigest { .. }) = &result {
            self.mark(&verified.digest, ArtifactState::Bad, &error.to_string())?;
        }
        result
    }

    /// Whether `dir` holds exactly the files of the artifact, by hashing every one of them.
    ///
    /// # Errors
    /// What differs.
    pub fn holds(&self, verified: &Verified, dir: &Path) -> Result<(), Error> {
        let mut n_found = 0;
        count_files(dir, &mut n_found)?;
        if n_found != verified.manifest.files.len() {
            let n_listed = verified.manifest.files.len();
            return Err(Error::damaged(dir, format!("{n_found} files, {n_listed} are listed")));
        }
        for file in &verified.manifest.files {
            let path = dir.join(&file.path);
            let mut source = open_plain(&path).map_err(Error::io("open", &path))?;
            copy_verified(&mut source, file, &mut std::io::sink())?;
            let mode = source.metadata().map_err(Error::io("read", &path))?.permissions().mode();
            if (mode & 0o111 != 0) != file.executable {
                return Err(Error::damaged(&path, "its mode was changed"));
            }
        }
        Ok(())
    }

    /// The blob `hash`, opened once and copied to `to` while it is hashed.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::WrongDigest`] or [`Error::Io`].
    pub(crate) fn copy_blob(
        &self,
        file: &FileEntry,
        to: &mut dyn std::io::Write,
    ) -> Result<(), Error> {
        let path = self.blob_path(&file.sha256);
        let mut source = match open_plain(&path) {
            Ok(source) => source,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Missing { what: format!("{} ({})", file.path, file.sha256) });
            }
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        copy_verified(&mut source, file, to)
    }

    /// The bill of materials must be what the manifest says, in hash and in content.
    fn check_sbom(&self, verified: &Verified) -> Result<(), Error> {
        let expected = verified.manifest.sbom;
        let bytes = read_small(&self.blob_path(&expected), 256 << 20)?
            .ok_or_else(|| Error::Missing { what: format!("bill of materials {expected}") })?;
        let found = Hash::of(&[&bytes]);
        let generated = Hash::of(&[&sbom::generate(&verified.manifest)]);
        match [found, generated].into_iter().find(|it| *it != expected) {
            Some(found) => Err(wrong_digest("bill of materials", expected, found)),
            None => Ok(()),
        }
    }

    /// Lays out without the bill of materials, for tests that make manifests up.
    #[cfg(test)]
    pub(super) fn build_in(&self, verified: &Verified, into: &Path) -> Result<(), Error> {
        self.build(verified, into, &Steps::default())
    }

    fn build(&self, verified: &Verified, into: &Path, steps: &Steps) -> Result<(), Error> {
        let partial = durable::partial_of(into);
        durable::remove(&partial);
        durable::private_dir(&partial)?;
        steps.reach("materialize: created")?;
        for file in &verified.manifest.files {
            self.write_file(file, &partial)?;
            steps.reach("materialize: file written")?;
        }
        sync_folders(&partial)?;
        steps.reach("materialize: synced")?;
        if into.exists() {
            let aside = into.with_extension("replaced");
            durable::remove(&aside);
            fs::rename(into, &aside).map_err(Error::io("rename", into))?;
            steps.reach("materialize: old set aside")?;
        }
        fs::rename(&partial, into).map_err(Error::io("rename", into))?;
        steps.reach("materialize: named")?;
        durable::remove(&into.with_extension("replaced"));
        durable::sync_dir(durable::parent(into))
    }

    fn write_file(&self, file: &FileEntry, root: &Path) -> Result<(), Error> {
        // The manifest was checked when it was read; this guards the write itself.
        check_path(&file.path)?;
        let path = root.join(&file.path);
        durable::private_dir(path.parent().unwrap_or(root))?;
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut target = open.map_err(Error::io("create", &path))?;
        self.copy_blob(file, &mut target)?;
        let mode = if file.executable { 0o555 } else { 0o444 };
        let set = target.set_permissions(fs::Permissions::from_mode(mode));
        set.map_err(Error::io("set the mode of", &path))?;
        target.sync_all().map_err(Error::io("sync", &path))
    }
}

/// Copies `source` to `to`, and says so if these were not the bytes that `file` names.
fn copy_verified(
    source: &mut File,
    file: &FileEntry,
    to: &mut dyn std::io::Write,
) -> Result<(), Error> {
    let path = Path::new(&file.path);
    let (mut sha, mut size) = (Sha256::new(), 0u64);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = source.read(&mut buffer).map_err(Error::io("read", path))?;
        size += n as u64;
        // A source that grows without end stops here, not when the disk is full.
        if n == 0 || size > file.size {
            break;
        }
        sha.update(&buffer[..n]);
        to.write_all(&buffer[..n]).map_err(Error::io("write", path))?;
    }
    let found = Hash(sha.finalize().into());
    if size != file.size || found != file.sha256 {
        return Err(wrong_digest(&file.path, file.sha256, found));
    }
    Ok(())
}

fn count_files(dir: &Path, n: &mut usize) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if entry.file_type().map_err(Error::io("read", &entry.path()))?.is_dir() {
            count_files(&entry.path(), n)?;
        } else {
            *n += 1;
        }
    }
    Ok(())
}

fn sync_folders(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_folders(&entry.path())?;
        }
    }
    durable::sync_dir(dir)
}
