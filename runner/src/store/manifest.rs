//! The flat manifest: what an artifact consists of, as text that is signed as it is stored.
//!
//! An artifact is no archive. There is nothing to unpack, so nothing can slip out of its folder
//! or swell up. The text has one form only: a manifest that does not read back to its own bytes
//! is refused, so two readers never see two artifacts in one digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use schemas::Hash;
use schemas::signature::{KeyPair, PublicKey, signature_from_text, signature_text};

use crate::error::Error;

/// Domain of the signature over a manifest's bytes.
pub const MANIFEST_DOMAIN: &str = "healwright/manifest/v1";
/// First line of every manifest. Persisted: frozen.
const MARK: &str = "healwright-manifest v1";
/// Files in one artifact, at most.
const FILES_MAX: usize = 100_000;
/// Bytes of one path, at most.
const PATH_BYTES_MAX: usize = 1024;

/// What an artifact is for. Names are persisted: frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactKind {
    /// Files that a service runs from.
    Release,
    /// Wheels that an environment is built from.
    Environment,
}

impl ArtifactKind {
    /// The kind as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            ArtifactKind::Release => "release",
            ArtifactKind::Environment => "environment",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [ArtifactKind::Release, ArtifactKind::Environment]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative path, `/` between its parts.
    pub path: String,
    /// Whether it may be executed. No other mode bit travels.
    pub executable: bool,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Hash,
}

/// What an artifact consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is for.
    pub kind: ArtifactKind,
    /// Service or package that it belongs to.
    pub name: String,
    /// Human version.
    pub version: String,
    /// Further facts, `smoke-import` for one.
    pub attributes: BTreeMap<String, String>,
    /// SHA-256 of the bill of materials beside it.
    pub sbom: Hash,
    /// Its files, in order of path.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// The bytes that are stored, hashed and signed.
    pub fn encode(&self) -> String {
        let mut text = format!("{MARK}\nkind {}\n", self.kind.as_str());
        let _ = writeln!(text, "name {}\nversion {}", self.name, self.version);
        for (key, value) in &self.attributes {
            let _ = writeln!(text, "attribute {key} {value}");
        }
        let _ = writeln!(text, "sbom {}", self.sbom);
        for file in &self.files {
            let mode = if file.executable { "755" } else { "644" };
            let _ = writeln!(text, "file {mode} {} {} {}", file.size, file.sha256, file.path);
        }
        text
    }

    /// Digest of the manifest: the artifact's identity.
    pub fn digest(&self) -> Hash {
        Hash::of(&[self.encode().as_bytes()])
    }

    /// Reads the text of a manifest.
    ///
    /// # Errors
    /// [`Error::Refused`]: not the one form that this manifest would be written in, or a path
    /// that could leave its folder.
    pub fn decode(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::refused("manifest", why);
        let mut lines = text.lines();
        if lines.next() != Some(MARK) {
            return Err(wrong("it does not start with its format mark"));
        }
        let mut field = |name: &str| {
            let value = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.map(str::to_owned).ok_or_else(|| wrong(&format!("field {name} is not in place")))
        };
        let kind = ArtifactKind::parse(&field("kind")?).ok_or_else(|| wrong("unknown kind"))?;
        let (name, version) = (field("name")?, field("version")?);
        let mut manifest = Manifest {
            kind,
            name,
            version,
            attributes: BTreeMap::new(),
            sbom: Hash::default(),
            files: Vec::new(),
        };
        for line in lines {
            manifest.read_line(line).ok_or_else(|| wrong(&format!("cannot read {line:?}")))?;
        }
        manifest.check()?;
        if manifest.encode() != text {
            return Err(wrong("it is not in its one form"));
        }
        Ok(manifest)
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "attribute" => {
                let (key, value) = rest.split_once(' ')?;
                self.attributes.insert(key.to_owned(), value.to_owned());
            }
            "sbom" => self.sbom = rest.parse().ok()?,
            "file" => self.files.push(file_entry(rest)?),
            _ => return None,
        }
        Some(())
    }

    /// Refuses what could be read in two ways or written outside its folder.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::refused("manifest", why));
        let words = [&self.name, &self.version].into_iter().chain(self.attributes.values());
        if let Some(word) = words.into_iter().find(|it| it.is_empty() || !is_one_line(it)) {
            return refuse(format!("{word:?} is not one line of text"));
        }
        if self.attributes.keys().any(|key| key.is_empty() || key.contains(char::is_whitespace)) {
            return refuse("an attribute's name is not one word".to_owned());
        }
        if self.files.len() > FILES_MAX {
            return refuse(format!("{} files are more than {FILES_MAX}", self.files.len()));
        }
        let mut paths = BTreeSet::new();
        let mut last = "";
        for file in &self.files {
            check_path(&file.path)?;
            if file.path.as_str() <= last {
                return refuse(format!("{:?} is out of order or listed twice", file.path));
            }
            last = &file.path;
            paths.insert(last);
        }
        for path in &paths {
            if parents(path).any(|parent| paths.contains(parent)) {
                return refuse(format!("{path:?} lies inside a file"));
            }
        }
        Ok(())
    }
}

fn file_entry(rest: &str) -> Option<FileEntry> {
    let mut fields = rest.splitn(4, ' ');
    let executable = match fields.next()? {
        "755" => true,
        "644" => false,
        _ => return None,
    };
    let size = fields.next()?.parse().ok()?;
    let sha256 = fields.next()?.parse().ok()?;
    Some(FileEntry { path: fields.next()?.to_owned(), executable, size, sha256 })
}

fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

/// Refuses a path that is absolute, climbs, hides a separator of another system, or is no text.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    let why = if path.is_empty() || path.len() > PATH_BYTES_MAX {
        "its length is not allowed"
    } else if path.starts_with('/') {
        "it is absolute"
    } else if path.chars().any(|it| it.is_control() || it == '\\') {
        "it holds a control character or a backslash"
    } else if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        "it climbs out of its folder or has an empty part"
    } else {
        return Ok(());
    };
    Err(Error::refused(format!("path {path:?}"), why))
}

/// The line that is stored beside a manifest: who signed it, and the signature.
pub(super) fn sign(bytes: &[u8], signer: &KeyPair) -> String {
    let signature = signer.sign(MANIFEST_DOMAIN, bytes);
    format!("{} {}\n", signer.public(), signature_text(&signature))
}

/// The key in `line` if it signed `bytes`.
pub(super) fn signer_of(bytes: &[u8], line: &str) -> Option<PublicKey> {
    let (key, signature) = line.strip_suffix('\n')?.split_once(' ')?;
    let key = PublicKey::try_from(key.to_owned()).ok()?;
    let signature = signature_from_text(signature)?;
    key.verify(MANIFEST_DOMAIN, bytes, &signature).then_some(key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = |path: &str, executable| FileEntry {
            path: path.to_owned(),
            executable,
            size: 3,
            sha256: Hash::of(&[b"abc"]),
        };
        Manifest {
            kind: ArtifactKind::Release,
            name: "shop".to_owned(),
            version: "1.1.0".to_owned(),
            attributes: BTreeMap::from([("entry".to_owned(), "bin/shop --x".to_owned())]),
            sbom: Hash::of(&[b"sbom"]),
            files: vec![file("bin/shop", true), file("data/a file.txt", false)],
        }
    }

    #[test]
    fn a_manifest_reads_back_from_the_bytes_that_are_signed() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        let key = KeyPair::from_seed(&[1; 32]);
        let bytes = manifest.encode().into_bytes();
        let line = sign(&bytes, &key);
        assert_eq!(signer_of(&bytes, &line), Some(key.public()));
        assert_eq!(signer_of(&bytes[1..], &line), None);
    }

    #[test]
    fn the_text_of_a_manifest_is_frozen() {
        let abc = Hash::of(&[b"abc"]);
        let expected = format!(
            "healwright-manifest v1\nkind release\nname shop\nversion 1.1.0\n\
             attribute entry bin/shop --x\nsbom {}\nfile 755 3 {abc} bin/shop\n\
             file 644 3 {abc} data/a file.txt\n",
            Hash::of(&[b"sbom"])
        );
        assert_eq!(manifest().encode(), expected);
    }

    #[test]
    fn a_path_that_could_leave_the_folder_is_refused() {
        for path in
            ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "", "a\nb", "a\\..\\b", "a/"]
        {
            let mut manifest = manifest();
            manifest.files.truncate(1);
            manifest.files[0].path = path.to_owned();
            assert!(Manifest::decode(&manifest.encode()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_manifest_with_a_second_form_is_refused() {
        let text = manifest().encode();
        let twice = text.replace("data/a file.txt", "bin/shop");
        let inside = text.replace("data/a file.txt", "bin/shop/x");
        let sbom = text.lines().find(|line| line.starts_with("sbom")).unwrap();
        let variants = [
            twice,
            inside,
            text.replace('\n', "\r\n"),
            text.replace("file 755 3", "file 755 03"),
            text.replace("file 755", "file 4755"),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            format!("{text}{sbom}\n"),
            text.replace(" v1", " v2"),
        ];
        for variant in variants {
            assert!(Manifest::decode(&variant).is_err(), "{variant}");
        }
    }
}
