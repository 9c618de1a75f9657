//! The place that `checkpoints.url` names, as blocking calls.
//!
//! Nothing that lies there is trusted. The calls block, because their callers hash and write
//! files on threads of their own; only here is anything awaited.

use std::fmt;
use std::io::{Read as _, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt as _, RetryConfig, WriteMultipart,
};
use schemas::Hash;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_stream::StreamExt as _;

use super::cloud::{Cloud, Name, Refusal};

/// Files are read, sent and hashed in pieces of this size.
const PIECE_BYTES: usize = 8 * 1024 * 1024;
/// Pieces of one file on their way at once: they are held in memory.
const PIECES_MAX: usize = 2;
/// How long a request is repeated before it counts as failed: the next checkpoint tries anew.
const RETRY_WITHIN: Duration = Duration::from_secs(30);

/// What a `checkpoints.url` may be.
const FORMS: &str = "file:///DIR, s3://BUCKET/DIR, gs://BUCKET/DIR or az://CONTAINER/DIR";

/// A URL of a form that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Directory(PathBuf),
    /// A bucket's URL, without a folder.
    Bucket(Cloud, String),
}

/// Where checkpoints lie.
#[derive(Clone)]
pub struct Depot {
    objects: Arc<dyn ObjectStore>,
    name: Name,
    root: Path,
    runtime: Handle,
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.root, self.name)
    }
}

/// Checks the form of a URL without touching what it names.
///
/// # Errors
/// Which forms there are.
pub fn check_url(url: &str) -> anyhow::Result<()> {
    parse(url).map(|_| ())
}

/// The place, and the folder within it.
fn parse(url: &str) -> anyhow::Result<(Place, Path)> {
    let wrong = || format!("`checkpoints.url` {url:?} is none of {FORMS}");
    // It is not repeated: it may be a connection string, with a key in it.
    let (scheme, rest) = url
        .split_once("://")
        .with_context(|| format!("`checkpoints.url` is no URL, and none of {FORMS}"))?;
    let host = rest.split('/').next().unwrap_or_default();
    if rest.contains(['?', '#']) || host.contains([':', '@']) {
        bail!(
            "`checkpoints.url` holds a place and nothing else; credentials and options come from \
             the environment: AWS_*, GOOGLE_*, AZURE_*"
        );
    }
    if scheme == "file" {
        let dir = PathBuf::from(rest);
        return if dir.is_absolute() {
            Ok((Place::Directory(dir), Path::default()))
        } else {
            bail!(wrong())
        };
    }
    let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let folder = Path::parse(folder.trim_end_matches('/')).with_context(wrong)?;
    let cloud = match scheme {
        "s3" => Cloud::S3,
        "gs" => Cloud::Google,
        "az" => Cloud::Azure,
        _ => bail!(wrong()),
    };
    if bucket.is_empty() {
        bail!(wrong());
    }
    Ok((Place::Bucket(cloud, format!("{scheme}://{bucket}")), folder))
}

/// A directory is made when its parent is there: a mount that is missing must be noticed.
fn make(dir: &FilePath) -> anyhow::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("creating {}", dir.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Depot {
    /// As [`Depot::open`]; a directory that is missing is made.
    ///
    /// # Errors
    /// As [`Depot::open`].
    pub fn make(url: &str, runtime: Handle) -> anyhow::Result<Self> {
        if let (Place::Directory(dir), _) = parse(url)? {
            make(&dir)?;
        }
        Depot::open(url, runtime)
    }

    /// Opens the place that `url` names; `runtime` drives what is awaited, and must have threads
    /// of its own. Buckets are not asked for anything yet.
    ///
    /// # Errors
    /// A form that is not known, a directory that is not there, or credentials that are none.
    pub fn open(url: &str, runtime: Handle) -> anyhow::Result<Self> {
        let (place, root) = parse(url)?;
        let retry = RetryConfig { retry_timeout: RETRY_WITHIN, ..RetryConfig::default() };
        let what = || format!("opening {url}");
        let (objects, name): (Arc<dyn ObjectStore>, Name) = match place {
            // A checkpoint that is answered is on disk.
            Place::Directory(dir) => {
                let name = Name { url: url.to_owned(), cloud: None, endpoint: None };
                let opened = LocalFileSystem::new_with_prefix(dir);
                let opened = opened.map_err(|it| Refusal::new(&it, &name)).with_context(what)?;
                (Arc::new(opened.with_fsync(true)), name)
            }
            Place::Bucket(cloud, url) => {
                let (objects, endpoint) = cloud.connect(&url, retry).with_context(what)?;
                (objects, Name { url, cloud: Some(cloud), endpoint })
            }
        };
        Ok(Depot { objects, name, root, runtime })
    }

    /// A depot in any store, for tests and benches.
    pub fn of(objects: Arc<dyn ObjectStore>, runtime: Handle) -> Self {
        let name = Name { url: objects.to_string(), cloud: None, endpoint: None };
        Depot { objects, name, root: Path::default(), runtime }
    }

    /// What came of a request, with what was asked where.
    fn told<T>(&self, came: object_store::Result<T>, verb: &str, path: &Path) -> anyhow::Result<T> {
        let within = if path.as_ref().is_empty() { "" } else { " in " };
        came.map_err(|it| Refusal::new(&it, &self.name))
            .with_context(|| format!("{verb} {path}{within}{}", self.name))
    }

    fn at(&self, parts: &[&str]) -> Path {
        parts.iter().fold(self.root.clone(), |path, part| path.join(*part))
    }

    /// Everything below `parts`: last part of the name, and what the store knows of it.
    pub(super) fn list(&self, parts: &[&str]) -> anyhow::Result<Vec<(String, ObjectMeta)>> {
        let path = self.at(parts);
        let prefix = Some(&path).filter(|it| !it.as_ref().is_empty());
        let listed =
            self.runtime.block_on(self.objects.list(prefix).collect::<Result<Vec<_>, _>>());
        let listed = self.told(listed, "listing", &path)?;
        let name = |it: &ObjectMeta| it.location.filename().unwrap_or_default().to_owned();
        Ok(listed.into_iter().map(|it| (name(&it), it)).collect())
    }

    /// The whole of a small object.
    pub(super) fn read(&self, parts: &[&str]) -> anyhow::Result<Vec<u8>> {
        let path = self.at(parts);
        let read = self.runtime.block_on(async { self.objects.get(&path).await?.bytes().await });
        Ok(self.told(read, "reading", &path)?.to_vec())
    }

    /// Writes a small object; it is there whole or not at all.
    pub(super) fn write(&self, parts: &[&str], bytes: Vec<u8>) -> anyhow::Result<()> {
        let path = self.at(parts);
        let put = self.runtime.block_on(self.objects.put(&path, bytes.into()));
        self.told(put.map(|_| ()), "writing", &path)
    }

    pub(super) fn delete(&self, parts: &[&str]) -> anyhow::Result<()> {
        let path = self.at(parts);
        let done = self.runtime.block_on(self.objects.delete(&path));
        match done {
            // Another node was faster.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => self.told(Err(error), "deleting", &path),
        }
    }

    /// Sends the file `from`, piece by piece; it is there whole or not at all.
    pub(super) fn send(&self, from: &FilePath, parts: &[&str]) -> anyhow::Result<()> {
        let what = || format!("sending {}", from.display());
        let mut file = std::fs::File::open(from).with_context(what)?;
        let size = file.metadata().with_context(what)?.len();
        if size <= PIECE_BYTES as u64 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).with_context(what)?;
            return self.write(parts, bytes);
        }
        let path = self.at(parts);
        let upload = self.runtime.block_on(self.objects.put_multipart(&path));
        let upload = self.told(upload, "writing", &path)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES);
        let mut piece = vec![0; PIECE_BYTES];
        // Dropped without `finish`, a multipart upload leaves no object.
        self.runtime.block_on(async {
            loop {
                match file.read(&mut piece).with_context(what)? {
                    0 => break,
                    n => writer.write(&piece[..n]),
                }
                self.told(writer.wait_for_capacity(PIECES_MAX).await, "writing", &path)?;
            }
            self.told(writer.finish().await.map(|_| ()), "writing", &path)
        })
    }

    /// Writes an object to `into` and answers size and SHA-256 of what came.
    pub(super) fn receive(
        &self,
        parts: &[&str],
        into: &mut impl Write,
    ) -> anyhow::Result<(u64, Hash)> {
        let path = self.at(parts);
        let what = || format!("reading {path}");
        let mut sink = Sink { into, sha: Sha256::new(), size: 0 };
        let found = self.told(self.runtime.block_on(self.objects.get(&path)), "reading", &path)?;
        match found.payload {
            // Read here and not by the store, which takes it in pieces of 8 KiB.
            GetResultPayload::File(mut file, _) => {
                let mut piece = vec![0; PIECE_BYTES.min(1024 * 1024)];
                loop {
                    match file.read(&mut piece).with_context(what)? {
                        0 => break,
                        n => sink.take(&piece[..n])?,
                    }
                }
            }
            GetResultPayload::Stream(mut stream) => self.runtime.block_on(async {
                while let Some(piece) = stream.next().await {
                    sink.take(&self.told(piece, "reading", &path)?)?;
                }
                anyhow::Ok(())
            })?,
        }
        Ok((sink.size, Hash(sink.sha.finalize().into())))
    }
}

/// What is written is hashed on its way.
struct Sink<'a, W> {
    into: &'a mut W,
    sha: Sha256,
    size: u64,
}

impl<W: Write> Sink<'_, W> {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.sha.update(piece);
        self.size += piece.len() as u64;
        self.into.write_all(piece).context("writing a file of a checkpoint")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_is_one_of_four_forms_and_holds_no_secret() {
        let (place, folder) = parse("s3://bucket/a/b/").unwrap();
        let bucket = Place::Bucket(Cloud::S3, "s3://bucket".to_owned());
        assert_eq!((place, folder.as_ref()), (bucket, "a/b"));
        let (place, _) = parse("file:///var/checkpoints").unwrap();
        assert_eq!(place, Place::Directory("/var/checkpoints".into()));
        for wrong in ["file://relative", "ftp://a/b", "/var/x", "s3://", "http://a/b", "s3:/a"] {
            let error = format!("{:#}", check_url(wrong).unwrap_err());
            assert!(error.contains("none of file:///DIR"), "{wrong}: {error}");
        }
        for secret in ["s3://key:secret@bucket/a", "s3://secret@bucket/a", "az://a/b?sig=secret"] {
            let error = check_url(secret).unwrap_err().to_string();
            assert!(error.contains("from the environment"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let error = check_url("AccountName=a;AccountKey=secret").unwrap_err().to_string();
        assert!(error.contains("none of file:///DIR") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_directory_whose_parent_is_missing_is_not_made() {
        let home = tempfile::tempdir().unwrap();
        make(&home.path().join("a")).unwrap();
        make(&home.path().join("a")).unwrap();
        let error = make(&home.path().join("b/c")).unwrap_err().to_string();
        assert!(error.contains("b/c"), "{error}");
        assert!(!home.path().join("b").exists());
    }
}
