//! Checkpoints in a place that outlives the node: a directory, S3, Google's or Azure's storage.
//!
//! ```text
//! DEPLOYMENT/PARTITION/files/SHA256          a file of a checkpoint, under its own hash
//! DEPLOYMENT/PARTITION/checkpoints/NEXT_SEQ  the signed manifest ([`signed`]), 20 digits
//! ```
//!
//! A file is sent when it is not there yet, so a checkpoint costs what has changed since the last
//! one. Files go first and the manifest last: what is named is there. Nothing that is found is
//! trusted before its signature and its hash hold; a checkpoint that does not is passed over with
//! a warning, and the next older one is taken.
//!
//! What this is not: no backup of an embedded log, no part of the chain, and no reason to let the
//! journal's topic expire. `keeper` takes checkpoints in office, `start` takes one in.

mod cloud;
pub mod depot;
pub mod keeper;
pub mod signed;
pub mod start;

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use schemas::ids::hex;
use schemas::{Hash, Ns};
use state::checkpoint::{self, Checkpoint};

pub use depot::Depot;
pub use signed::Signed;

use crate::keys::Identity;
use crate::parallel;
use cloud::Refusal;

const FILES: &str = "files";
const CHECKPOINTS: &str = "checkpoints";

/// What an upload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Files that were not there yet.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A checkpoint that was brought here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Bytes of its files.
    pub bytes: u64,
    /// Its files.
    pub files: usize,
    /// Entries in its journal.
    pub next_seq: u64,
    /// What it is, and who answers for it.
    pub signed: Signed,
}

/// What stays when older checkpoints go.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// So many of the newest.
    pub newest: usize,
    /// A file that no manifest names stays this long: another node may be about to name it.
    pub grace: Duration,
}

/// The folder of one partition in the depot.
struct Folder<'a> {
    deployment: &'a str,
    partition: String,
}

impl<'a> Folder<'a> {
    fn of(deployment: &'a str, partition: u32) -> Self {
        Folder { deployment, partition: partition.to_string() }
    }

    fn parts<'b>(&'b self, rest: &[&'b str]) -> Vec<&'b str> {
        [&[self.deployment, self.partition.as_str()], rest].concat()
    }
}

/// Sends the checkpoint in `dir` under the node key of `identity`: files that are missing, then
/// the manifest.
///
/// # Errors
/// The depot does not answer, or a file was changed since the checkpoint was made.
pub fn upload(
    depot: &Depot,
    dir: &Path,
    checkpoint: &Checkpoint,
    identity: &Identity,
) -> anyhow::Result<Uploaded> {
    let folder = Folder::of(&checkpoint.deployment, checkpoint.partition);
    let there = depot.list(&folder.parts(&[FILES]))?;
    let there: BTreeSet<(&str, u64)> =
        there.iter().map(|(name, meta)| (name.as_str(), meta.size)).collect();
    let missing: Vec<(&Path, String, u64)> = checkpoint
        .files
        .iter()
        .map(|(name, size, hash)| (Path::new(name), hex(&hash.0), *size))
        .filter(|(_, hash, size)| !there.contains(&(hash.as_str(), *size)))
        .collect();
    let journal = dir.join("journal");
    parallel::each(&missing, |(name, hash, _)| {
        depot.send(&journal.join(name), &folder.parts(&[FILES, hash]))
    })?;
    let record = signed::sign(checkpoint, identity);
    let name = place(checkpoint.next_seq);
    depot.write(&folder.parts(&[CHECKPOINTS, &name]), record)?;
    Ok(Uploaded { files: missing.len(), bytes: missing.iter().map(|(.., size)| size).sum() })
}

/// Names sort as the numbers do.
fn place(next_seq: u64) -> String {
    format!("{next_seq:020}")
}

/// Entries in the journals of the checkpoints that lie there, newest first; nothing is verified.
///
/// # Errors
/// The depot does not answer.
pub fn places(depot: &Depot, deployment: &str, partition: u32) -> anyhow::Result<Vec<u64>> {
    let folder = Folder::of(deployment, partition);
    let listed = depot.list(&folder.parts(&[CHECKPOINTS]))?;
    let mut places: Vec<u64> = listed
        .iter()
        .filter_map(|(name, _)| name.parse().ok().filter(|it| place(*it) == *name))
        .collect();
    places.sort_by(|a, b| b.cmp(a));
    Ok(places)
}

/// The manifest of the checkpoint at `next_seq`, if its signature holds.
///
/// # Errors
/// What does not hold, or that it cannot be read.
pub fn manifest(
    depot: &Depot,
    deployment: &str,
    partition: u32,
    next_seq: u64,
) -> anyhow::Result<Signed> {
    let folder = Folder::of(deployment, partition);
    let record = depot.read(&folder.parts(&[CHECKPOINTS, &place(next_seq)]))?;
    let signed = signed::verify(&record, deployment, partition)?;
    if signed.checkpoint.next_seq != next_seq {
        bail!("it ends at {} and lies in the place of {next_seq}", signed.checkpoint.next_seq);
    }
    Ok(signed)
}

/// Brings the newest checkpoint whose signature and files hold, and that `accept` does not refuse,
/// into `dir`, which must not exist, durably; `None` where there is none.
///
/// # Errors
/// The depot does not answer, or the disk is full.
pub fn restore(
    depot: &Depot,
    deployment: &str,
    partition: u32,
    dir: &Path,
    accept: impl Fn(&Restored) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Restored>> {
    for next_seq in places(depot, deployment, partition)? {
        let brought = manifest(depot, deployment, partition, next_seq)
            .and_then(|signed| receive(depot, signed, dir))
            .and_then(|restored| settle(&restored, dir, &accept).map(|()| restored));
        let error = match brought {
            Ok(restored) => return Ok(Some(restored)),
            Err(error) => error,
        };
        if dir.exists() {
            std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        if is_full(&error) {
            return Err(error);
        }
        let (name, error) = (place(next_seq), format!("{error:#}"));
        tracing::warn!(partition, checkpoint = name, error, "a checkpoint is passed over");
        metrics::counter!("healwright_checkpoints_passed_over_total").increment(1);
    }
    Ok(None)
}

/// Whether there was no room: the checkpoint may hold, and an older one needs as much.
fn is_full(error: &anyhow::Error) -> bool {
    let plain = error.chain().filter_map(|it| it.downcast_ref::<io::Error>());
    let shared = error.chain().filter_map(|it| it.downcast_ref::<Arc<io::Error>>());
    let mut kinds = plain.chain(shared.map(|it| &**it)).map(io::Error::kind);
    kinds.any(|it| matches!(it, ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// Brings the files of `signed` into `dir`; each is hashed on its way.
fn receive(depot: &Depot, signed: Signed, dir: &Path) -> anyhow::Result<Restored> {
    let checkpoint = &signed.checkpoint;
    let folder = Folder::of(&checkpoint.deployment, checkpoint.partition);
    let journal = dir.join("journal");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&journal);
    made.with_context(|| format!("creating {}", journal.display()))?;
    parallel::each(&checkpoint.files, |(name, size, hash)| {
        let path = journal.join(name);
        let created = File::create_new(&path);
        let mut file = created.with_context(|| format!("writing {}", path.display()))?;
        let text = hex(&hash.0);
        let received = depot.receive(&folder.parts(&[FILES, &text]), &mut file)?;
        if received != (*size, *hash) {
            bail!(
                "the file {text} is damaged; delete it from the depot, and the next checkpoint \
                 that has it sends it again"
            );
        }
        Ok(())
    })?;
    let (bytes, files) = (checkpoint.bytes(), checkpoint.files.len());
    Ok(Restored { bytes, files, next_seq: checkpoint.next_seq, signed })
}

/// Asks `accept` while what was received goes to the disk: the one takes the processor and the
/// other waits. What says that it is whole is written after both.
fn settle(
    restored: &Restored,
    dir: &Path,
    accept: impl Fn(&Restored) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| sync(&restored.signed.checkpoint, dir));
        let accepted = accept(restored);
        let synced = synced.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        accepted.and(synced)
    })?;
    Ok(checkpoint::write_manifest(&restored.signed.checkpoint, dir)?)
}

/// Makes the files of `checkpoint` in `dir` durable, and then their folder.
fn sync(checkpoint: &Checkpoint, dir: &Path) -> anyhow::Result<()> {
    let journal = dir.join("journal");
    let sync = |path: &Path| {
        let synced = File::open(path).and_then(|it| it.sync_all());
        synced.with_context(|| format!("syncing {}", path.display()))
    };
    parallel::each(&checkpoint.files, |(name, ..)| sync(&journal.join(name)))?;
    sync(&journal)
}

/// Deletes older checkpoints and the files that no checkpoint names any more; answers how many
/// of each. A checkpoint that does not verify is neither counted nor deleted: a person looks.
///
/// # Errors
/// The depot does not answer, or a file that the newest checkpoint names is not there.
pub fn prune(
    depot: &Depot,
    deployment: &str,
    partition: u32,
    keep: Keep,
) -> anyhow::Result<(usize, usize)> {
    let folder = Folder::of(deployment, partition);
    let (mut named, mut n_kept, mut gone) = (BTreeSet::new(), 0, Vec::new());
    for next_seq in places(depot, deployment, partition)? {
        match manifest(depot, deployment, partition, next_seq) {
            Ok(_) if n_kept == keep.newest => gone.push(next_seq),
            Ok(signed) => {
                n_kept += 1;
                named.extend(signed.checkpoint.files.iter().map(|(.., hash)| hex(&hash.0)));
            }
            Err(error) => {
                let (name, error) = (place(next_seq), format!("{error:#}"));
                tracing::warn!(partition, checkpoint = name, error, "a checkpoint does not verify");
            }
        }
    }
    // The manifest goes before its files, so that what is named stays there.
    for next_seq in &gone {
        depot.delete(&folder.parts(&[CHECKPOINTS, &place(*next_seq)]))?;
    }
    let files = depot.list(&folder.parts(&[FILES]))?;
    if let Some(lost) = named.iter().find(|it| files.iter().all(|(name, _)| name != *it)) {
        bail!("the file {lost} of a checkpoint is gone");
    }
    let now = SystemTime::now();
    let old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| keep.grace <= age);
    let unnamed: Vec<&str> = files
        .iter()
        .filter(|(name, meta)| !named.contains(name) && old(meta.last_modified.into()))
        .map(|(name, _)| name.as_str())
        .collect();
    parallel::each(&unnamed, |name| depot.delete(&folder.parts(&[FILES, name])))?;
    Ok((gone.len(), unnamed.len()))
}

/// A checkpoint as it lies in the depot.
#[derive(Debug)]
pub struct Listed {
    /// Deployment that it is of.
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// Entries in its journal.
    pub next_seq: u64,
    /// When it was written, on the depot's clock.
    pub at: Ns,
    /// What it says, if its signature holds. Its files are not read.
    pub signed: anyhow::Result<Signed>,
}

/// All checkpoints that lie in the depot, of whatever deployment, newest last.
///
/// # Errors
/// The depot does not answer.
pub fn list(depot: &Depot) -> anyhow::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for (name, meta) in depot.list(&[])? {
        let parts: Vec<String> = meta.location.parts().map(|it| it.as_ref().to_owned()).collect();
        let [.., deployment, partition, folder, _] = parts.as_slice() else { continue };
        let (Ok(partition), Ok(next_seq)) = (partition.parse(), name.parse()) else { continue };
        if folder != CHECKPOINTS {
            continue;
        }
        let since = SystemTime::from(meta.last_modified).duration_since(SystemTime::UNIX_EPOCH);
        let at = Ns(since.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)));
        let signed = manifest(depot, deployment, partition, next_seq);
        // The owner has deleted it since it was listed.
        if signed.as_ref().is_err_and(is_gone) {
            continue;
        }
        found.push(Listed { deployment: deployment.clone(), partition, next_seq, at, signed });
    }
    found.sort_by(|a, b| {
        let key = |it: &Listed| (it.deployment.clone(), it.partition, it.next_seq);
        key(a).cmp(&key(b))
    });
    Ok(found)
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|it| it.downcast_ref()).any(Refusal::is_gone)
}

/// The logical state digest of a checkpoint, as people compare it.
pub fn digest(hash: &Hash) -> String {
    hex(&hash.0[..8])
}

#[cfg(test)]
mod tests;
