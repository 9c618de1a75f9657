//! The manifest of an export: every other file with its size and SHA-256.
//!
//! ```text
//! healwright-bundle v1
//! <deployment>/<partition>
//! <sha256> <size> <name>        one line a file, in order of name
//! end <sha256 of the lines above>
//! ```
//!
//! It finds damage where no signature reaches: a cosignature line that no longer names its
//! witness, a file that is not there, one too many. It is deliberately not signed. Every file
//! proves itself against the deployment's root, so a signature here would protect nothing more,
//! and an export must work while no owner runs (its epoch key is erased by then).

use std::collections::BTreeMap;

use schemas::Hash;

use crate::checkpoint;

/// Name of the manifest in a bundle.
pub const MANIFEST: &str = "manifest";
/// The first line. Persisted: frozen.
const TITLE: &str = "healwright-bundle v1";

/// What an export consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Deployment id.
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// Size and SHA-256 of each file, by name.
    pub files: BTreeMap<String, (u64, Hash)>,
}

impl Manifest {
    /// The manifest of `files`, which does not list itself.
    pub fn of(deployment: &str, partition: u32, files: &BTreeMap<String, Vec<u8>>) -> Self {
        let others = files.iter().filter(|(name, _)| *name != MANIFEST);
        let files = others
            .map(|(name, bytes)| (name.clone(), (bytes.len() as u64, Hash::of(&[bytes]))))
            .collect();
        Manifest { deployment: deployment.to_owned(), partition, files }
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let origin = checkpoint::origin(&self.deployment, self.partition);
        let mut text = format!("{TITLE}\n{origin}\n");
        for (name, (size, hash)) in &self.files {
            text.push_str(&format!("{hash} {size} {name}\n"));
        }
        let checksum = Hash::of(&[text.as_bytes()]);
        text.push_str(&format!("end {checksum}\n"));
        text.into_bytes()
    }

    /// Reads what [`Manifest::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no UTF-8")?;
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err("it does not start with its format mark");
        }
        let origin = lines.next().and_then(|line| line.rsplit_once('/'));
        let (deployment, partition) = origin.ok_or("it names no deployment and partition")?;
        let partition = partition.parse().map_err(|_| "its partition is no number")?;
        let mut files = BTreeMap::new();
        for line in lines.filter(|line| !line.starts_with("end ")) {
            let (hash, rest) = line.split_once(' ').ok_or("a line is not 'sha256 size name'")?;
            let (size, name) = rest.split_once(' ').ok_or("a line is not 'sha256 size name'")?;
            let hash = hash.parse().map_err(|_| "a hash is not 64 hex digits")?;
            let size = size.parse().map_err(|_| "a size is no number")?;
            files.insert(name.to_owned(), (size, hash));
        }
        let manifest = Manifest { deployment: deployment.to_owned(), partition, files };
        // One comparison refuses every other way to write the same: order, doubles, case,
        // leading zeros, line ends, and a checksum that does not hold.
        if manifest.encode() == bytes { Ok(manifest) } else { Err("its checksum does not hold") }
    }
}
