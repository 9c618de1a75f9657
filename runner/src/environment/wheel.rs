//! Wheels, unpacked by rules that leave nothing to interpretation.
//!
//! A wheel comes from the store: it is copied once into a file that has no name, hashed on the
//! way, and read from there. Then every entry must be listed in the wheel's own RECORD with its
//! SHA-256, every listed file must be there, and nothing may be written twice or elsewhere.
//! No code of the wheel runs, no script is generated, nothing is compiled.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zip::ZipArchive;

use super::Python;
use crate::durable;
use crate::error::Error;
use crate::store::{FileEntry, Store, Verified, check_path};

/// Bytes that one wheel may unpack to.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Entries of one wheel, at most.
const ENTRIES_MAX: usize = 100_000;
/// Bytes of a RECORD, at most.
const RECORD_BYTES_MAX: u64 = 32 << 20;

/// Installs every wheel of `artifact` into the environment in `venv`.
pub(super) fn install(
    store: &Store,
    artifact: &Verified,
    python: &Python,
    venv: &Path,
) -> Result<(), Error> {
    let (major, minor) = python.version;
    let site = venv.join(format!("lib/python{major}.{minor}/site-packages"));
    for file in &artifact.manifest().files {
        if file.path.ends_with(".whl") {
            check_tags(&file.path, python)?;
            Wheel::open(store, file, venv)?.unpack(&site)?;
        }
    }
    Ok(())
}

struct Wheel<'a> {
    name: &'a str,
    archive: ZipArchive<File>,
    record_at: String,
    /// Hash and size by path, as RECORD says.
    record: BTreeMap<String, (String, u64)>,
}

impl<'a> Wheel<'a> {
    fn open(store: &Store, file: &'a FileEntry, venv: &Path) -> Result<Self, Error> {
        let name = file.path.as_str();
        let copy = nameless_copy(store, file, venv)?;
        let mut archive = ZipArchive::new(copy).map_err(|why| refused(name, why))?;
        if archive.has_duplicate_names() {
            return Err(refused(name, "a name stands in it twice"));
        }
        if archive.len() > ENTRIES_MAX {
            return Err(refused(name, "it has too many entries"));
        }
        let record_at = record_name(&mut archive, name)?;
        let record = read_record(&mut archive, &record_at, name)?;
        Ok(Wheel { name, archive, record_at, record })
    }

    fn unpack(mut self, site: &Path) -> Result<(), Error> {
        let mut left = UNPACKED_BYTES_MAX;
        let mut n_listed = 0;
        for at in 0..self.archive.len() {
            n_listed += usize::from(self.unpack_entry(at, site, &mut left)?);
        }
        if n_listed != self.record.len() {
            return Err(refused(self.name, "its RECORD lists files that are not in it"));
        }
        Ok(())
    }

    /// Unpacks one entry. Returns whether RECORD had to list it.
    fn unpack_entry(&mut self, at: usize, site: &Path, left: &mut u64) -> Result<bool, Error> {
        let wheel = self.name;
        let mut entry = self.archive.by_index(at).map_err(|why| refused(wheel, why))?;
        let name = entry.name().map_err(|why| refused(wheel, why))?.into_owned();
        if entry.is_symlink() || entry.encrypted() {
            return Err(refused(wheel, format!("{name:?} is a link or encrypted")));
        }
        if let Some(folder) = name.strip_suffix('/') {
            return check_path(folder).map(|()| false);
        }
        check_path(&name)?;
        let path = site.join(installed_at(&name).ok_or_else(|| {
            refused(wheel, format!("{name:?} would be installed outside of the packages"))
        })?);
        let is_program = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let expected = match self.record.get(&name) {
            Some(expected) => Some(expected.clone()),
            None if name.starts_with(&self.record_at) => None,
            None => return Err(refused(wheel, format!("{name:?} is not in its RECORD"))),
        };
        let size_max = expected.as_ref().map_or(RECORD_BYTES_MAX, |(_, size)| *size).min(*left);
        let found = write(&mut entry, &path, size_max, is_program)?;
        *left -= found.1;
        match expected {
            Some(expected) if expected != found => Err(Error::WrongDigest {
                what: format!("{name} in {wheel}"),
                expected: format!("{} ({} bytes)", expected.0, expected.1),
                found: format!("{} ({} bytes)", found.0, found.1),
            }),
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }
}

/// Writes an entry to a file that must not exist yet: of two wheels, none overwrites the other.
fn write(
    entry: &mut impl io::Read,
    path: &Path,
    size_max: u64,
    is_program: bool,
) -> Result<(String, u64), Error> {
    let folder = durable::parent(path);
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match open {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(refused(&path.to_string_lossy(), "two wheels hold it"));
        }
        Err(error) => return Err(Error::io("create", path)(error)),
    };
    let (mut sha, mut size) = (Sha256::new(), 0);
    // One byte more than allowed tells too large from exactly as large.
    let mut source = entry.take(size_max + 1);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = source.read(&mut buffer).map_err(|why| refused(&path.to_string_lossy(), why))?;
        if n == 0 {
            break;
        }
        size += n as u64;
        if size > size_max {
            return Err(refused(&path.to_string_lossy(), "it is larger than its RECORD says"));
        }
        sha.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(Error::io("write", path))?;
    }
    let mode = fs::Permissions::from_mode(if is_program { 0o755 } else { 0o644 });
    file.set_permissions(mode).map_err(Error::io("set the mode of", path))?;
    Ok((URL_SAFE_NO_PAD.encode(sha.finalize()), size))
}

/// A copy of the blob that only this process can reach.
fn nameless_copy(store: &Store, file: &FileEntry, venv: &Path) -> Result<File, Error> {
    let path = durable::partial_of(&venv.join("wheel"));
    durable::remove(&path);
    let mut options = OpenOptions::new();
    let open = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
    let mut copy = open.map_err(Error::io("create", &path))?;
    fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    store.copy_blob(file, &mut copy)?;
    copy.rewind().map_err(Error::io("read", &path))?;
    Ok(copy)
}

fn record_name(archive: &mut ZipArchive<File>, wheel: &str) -> Result<String, Error> {
    let mut found = Vec::new();
    for at in 0..archive.len() {
        let entry = archive.by_index(at).map_err(|why| refused(wheel, why))?;
        let name = entry.name().map_err(|why| refused(wheel, why))?.into_owned();
        let folder = name.strip_suffix("/RECORD").unwrap_or_default();
        if folder.ends_with(".dist-info") && !folder.contains('/') {
            found.push(name);
        }
    }
    match <[String; 1]>::try_from(found) {
        Ok([name]) => Ok(name),
        Err(_) => Err(refused(wheel, "it has not exactly one RECORD")),
    }
}

fn read_record(
    archive: &mut ZipArchive<File>,
    record_at: &str,
    wheel: &str,
) -> Result<BTreeMap<String, (String, u64)>, Error> {
    let entry = archive.by_name(record_at).map_err(|why| refused(wheel, why))?;
    let mut text = String::new();
    entry.take(RECORD_BYTES_MAX).read_to_string(&mut text).map_err(|why| refused(wheel, why))?;
    let mut record = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let unreadable = || refused(wheel, format!("its RECORD has the line {line:?}"));
        let (path, hash, size) = fields(line).ok_or_else(unreadable)?;
        // RECORD itself, and signatures beside it, stand without a hash.
        if hash.is_empty() && path.starts_with(record_at) {
            continue;
        }
        let hash = hash.strip_prefix("sha256=").ok_or_else(unreadable)?.to_owned();
        let size = size.parse().map_err(|_| unreadable())?;
        if record.insert(path, (hash, size)).is_some() {
            return Err(refused(wheel, format!("its RECORD lists twice: {line:?}")));
        }
    }
    Ok(record)
}

/// The three fields of a line; only the path may be quoted.
fn fields(line: &str) -> Option<(String, &str, &str)> {
    let mut fields = line.trim_end_matches('\r').rsplitn(3, ',');
    let (size, hash, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = match path.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?.replace("\"\"", "\""),
        None => path.to_owned(),
    };
    Some((path, hash, size))
}

/// Where an entry lies below the packages; `None` for what does not belong there.
fn installed_at(name: &str) -> Option<PathBuf> {
    let (folder, rest) = name.split_once('/').unwrap_or((name, ""));
    if !folder.ends_with(".data") {
        return Some(PathBuf::from(name));
    }
    let (scheme, path) = rest.split_once('/')?;
    matches!(scheme, "purelib" | "platlib").then(|| PathBuf::from(path))
}

/// Refuses a wheel for another Python or another machine.
fn check_tags(path: &str, python: &Python) -> Result<(), Error> {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".whl");
    let fields: Vec<&str> = stem.split('-').collect();
    let (5 | 6, [.., tags, abi, platform]) = (fields.len(), fields.as_slice()) else {
        return Err(refused(path, "its name is not that of a wheel"));
    };
    let (major, minor) = python.version;
    let own = [format!("py{major}"), format!("py{major}{minor}"), format!("cp{major}{minor}")];
    let runs = tags.split('.').any(|tag| own.iter().any(|it| it == tag)) || *abi == "abi3";
    let fits = platform
        .split('.')
        .any(|it| it == "any" || (it.contains("linux") && it.ends_with(std::env::consts::ARCH)));
    if runs && fits {
        return Ok(());
    }
    Err(refused(path, format!("it is not for Python {major}.{minor} on this machine")))
}

fn refused(wheel: &str, why: impl Display) -> Error {
    Error::refused(format!("wheel {wheel}"), format!("{why}"))
}
