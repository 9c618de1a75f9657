//! What lies in a folder, as one hash, and whether it still does, cheaply.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use schemas::Hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// Every file and link below a folder, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tree(BTreeMap<String, Leaf>);

/// A file, or a link by its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Leaf {
    sha256: Hash,
    mark: Mark,
}

/// What moves when a file is written, replaced or touched. The change time cannot be set back
/// by whoever may only write the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Looks again and again whether a generation is as it was built.
pub(crate) struct Watch {
    digest: Hash,
    tree: Tree,
}

impl Tree {
    /// Hashes everything below `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        Tree::default().read_again(dir)
    }

    /// The same, hashing only what moved since `self` was read.
    fn read_again(&self, dir: &Path) -> Result<Self, Error> {
        let mut tree = Tree::default();
        self.walk(dir, "", &mut tree)?;
        Ok(tree)
    }

    /// Hash over sorted paths and the hashes of what lies there.
    pub(super) fn digest(&self) -> Hash {
        let mut sha = Sha256::new();
        for (path, leaf) in &self.0 {
            sha.update(path.as_bytes());
            sha.update([0]);
            sha.update(leaf.sha256.0);
        }
        Hash(sha.finalize().into())
    }

    fn walk(&self, dir: &Path, below: &str, tree: &mut Tree) -> Result<(), Error> {
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let entry = entry.map_err(Error::io("list", dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{below}/{name}");
            let metadata = entry.metadata().map_err(Error::io("read", &entry.path()))?;
            if !metadata.is_dir() {
                let leaf = self.leaf(&entry.path(), &path, &metadata)?;
                tree.0.insert(path, leaf);
            } else if name != "__pycache__" {
                self.walk(&entry.path(), &path, tree)?;
            }
        }
        Ok(())
    }

    fn leaf(&self, file: &Path, path: &str, metadata: &Metadata) -> Result<Leaf, Error> {
        let mark = Mark::of(metadata);
        if let Some(known) = self.0.get(path).filter(|known| known.mark == mark) {
            return Ok(known.clone());
        }
        if metadata.is_symlink() {
            let target = fs::read_link(file).map_err(Error::io("read", file))?;
            let sha256 = Hash::of(&[b"link:", target.as_os_str().as_encoded_bytes()]);
            return Ok(Leaf { sha256, mark });
        }
        if !metadata.is_file() {
            return Err(Error::damaged(file, "it is neither file nor link"));
        }
        // The bit that makes a program of a file is part of what it is.
        let kind: &[u8] = if metadata.mode() & 0o111 == 0 { b"file:" } else { b"program:" };
        let bytes = fs::read(file).map_err(Error::io("read", file))?;
        Ok(Leaf { sha256: Hash::of(&[kind, &bytes]), mark })
    }
}

impl Mark {
    fn of(metadata: &Metadata) -> Self {
        Mark {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Watch {
    /// A watch on what `record` says was built.
    pub(crate) fn new(record: &super::Record) -> Self {
        Watch { digest: record.digest, tree: record.tree.clone() }
    }

    /// Whether `dir` is as it was built.
    pub(crate) fn is_intact(&mut self, dir: &Path) -> bool {
        let Ok(tree) = self.tree.read_again(dir) else { return false };
        let intact = tree.digest() == self.digest;
        self.tree = tree;
        intact
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_way_to_change_a_folder_is_seen_and_its_repair_too() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("lib/__pycache__")).unwrap();
        fs::write(at("lib/a.py"), "x = 1").unwrap();
        symlink("lib", at("lib64")).unwrap();
        let tree = Tree::read(dir.path()).unwrap();
        let mut watch = Watch { digest: tree.digest(), tree };
        assert!(watch.is_intact(dir.path()));

        fs::write(at("lib/a.py"), "x = 2").unwrap();
        assert!(!watch.is_intact(dir.path()), "same size, other bytes");
        fs::write(at("lib/a.py"), "x = 1").unwrap();
        assert!(watch.is_intact(dir.path()), "its bytes count, not its times");
        fs::write(at("lib/b.py"), "").unwrap();
        assert!(!watch.is_intact(dir.path()), "a file more");
        fs::remove_file(at("lib/b.py")).unwrap();
        fs::remove_file(at("lib64")).unwrap();
        assert!(!watch.is_intact(dir.path()), "a link less");
        symlink("/", at("lib64")).unwrap();
        assert!(!watch.is_intact(dir.path()), "a link elsewhere");
        fs::remove_file(at("lib64")).unwrap();
        symlink("lib", at("lib64")).unwrap();
        fs::write(at("lib/__pycache__/a.pyc"), "cache").unwrap();
        assert!(watch.is_intact(dir.path()), "caches are nobody's content");
    }
}
