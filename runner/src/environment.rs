//! Python environments that are rebuilt from the local store, offline: a new generation beside
//! the old, built from pinned wheels, checked, and then named in one flip.
//!
//! No installer runs and nothing is downloaded: wheels are unpacked here, strictly (wheel.rs).
//! The old generation is never changed and stays until the next one has been built.
//!
//! Invariants:
//! - A generation without its record is not complete; it is swept, never used.
//! - `venv_current` names a complete generation at every moment.
//! - What lies in a generation is what was built, or [`Watch`] says so: files are compared by
//!   size, times and inode, and hashed where one of these moved. `__pycache__` is passed over:
//!   services run with a cache prefix of their own and never read it.
//!
//! On disk, in the service's folder: `env/<generation>/`, `env/<generation>.json` (what was
//! built, trusted as far as the folder is the runner's own), `venv_current`.

mod tree;
mod wheel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use schemas::Hash;
use serde::{Deserialize, Serialize};

use tree::Tree;
pub(crate) use tree::Watch;

use crate::durable::{self, Steps};
use crate::error::Error;
use crate::store::{ArtifactKind, ArtifactState, Store, Verified};
use crate::supervisor::{base_variables, find};

/// Attribute of a manifest: modules, separated by commas, that must import.
pub(crate) const SMOKE_IMPORT: &str = "smoke-import";

/// The interpreter that environments are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Python {
    /// Its file, not a shim.
    pub(crate) program: PathBuf,
    /// `3.11` as (3, 11).
    pub(crate) version: (u32, u32),
}

/// What is recorded of a generation once it is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Digest of the manifest that it was built from.
    pub(crate) artifact: String,
    /// Hash over its files.
    pub(crate) digest: Hash,
    /// Its files as they were built.
    tree: Tree,
}

/// A complete generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// What was built.
    pub(crate) record: Record,
}

impl Python {
    /// Finds the interpreter behind `python3`.
    pub(crate) fn detect() -> Result<Self, Error> {
        let gap = |why: &str| Error::CapabilityGap(format!("no environments: {why}"));
        let variables = base_variables();
        let path = variables.get("PATH").map_or("", String::as_str);
        let program =
            find("python3", Path::new("/"), path).map_err(|_| gap("python3 is not installed"))?;
        let ask = "import sys, venv; print(sys.executable); print(*sys.version_info[:2])";
        let output = command(&program).args(["-I", "-c", ask]).output();
        let output = output.map_err(Error::io("start", &program))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines();
        let version = |line: &str| {
            let (major, minor) = line.split_once(' ')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        match (lines.next(), lines.next().and_then(version)) {
            (Some(program), Some(version)) => {
                Ok(Python { program: PathBuf::from(program), version })
            }
            _ => Err(gap("python3 is here and its module venv is not")),
        }
    }
}

/// Builds a generation from `artifact` in the service's folder `home`. It is not used yet.
///
/// Content that is signed and still cannot be installed marks the artifact `bad`
/// (spec 60 §15, partial install).
///
/// # Errors
/// [`Error::Missing`] before anything is written where a wheel is not in the store; else what
/// stopped it. What was begun is swept by the next call.
pub(crate) fn stage(
    home: &Path,
    store: &Store,
    artifact: &Verified,
    python: &Python,
    steps: &Steps,
) -> Result<Generation, Error> {
    if artifact.manifest().kind != ArtifactKind::Environment {
        return Err(Error::refused("artifact", "it is no environment"));
    }
    let missing = store.missing(artifact);
    if !missing.is_empty() {
        return Err(Error::Missing { what: missing.join(", ") });
    }
    sweep(home);
    let dir = new_dir(home, &artifact.digest())?;
    steps.reach("stage: begun")?;
    make_venv(python, &dir)?;
    steps.reach("stage: venv made")?;
    let result = wheel::install(store, artifact, python, &dir);
    if let Err(error @ (Error::WrongDigest { .. } | Error::Refused { .. })) = &result {
        store.mark(&artifact.digest(), ArtifactState::Bad, &error.to_string())?;
    }
    result?;
    steps.reach("stage: installed")?;
    // One call for all of it: a sync per file costs seconds in a large environment.
    let folder = fs::File::open(&dir).map_err(Error::io("open", &dir))?;
    rustix::fs::syncfs(&folder).map_err(|errno| Error::io("sync", &dir)(errno.into()))?;
    let tree = Tree::read(&dir)?;
    let record = Record { artifact: artifact.digest().to_digest(), digest: tree.digest(), tree };
    durable::replace_json(&record_path(&dir), &record, steps)?;
    steps.reach("stage: recorded")?;
    Ok(Generation { dir, record })
}

/// Makes `generation` the one that is used, in one rename.
pub(crate) fn flip(home: &Path, generation: &Generation, steps: &Steps) -> Result<(), Error> {
    let name = generation.dir.file_name().unwrap_or_default();
    durable::flip(&link(home), &Path::new("env").join(name), steps)
}

/// The generation that is used.
pub(crate) fn current(home: &Path) -> Result<Option<Generation>, Error> {
    let Ok(target) = fs::read_link(link(home)) else { return Ok(None) };
    let dir = home.join(target);
    let record = durable::read_json(&record_path(&dir))?;
    Ok(record.map(|record| Generation { dir, record }))
}

/// A complete generation of `artifact` that is not in use and still is as it was built.
pub(crate) fn staged(home: &Path, artifact: &Hash) -> Option<Generation> {
    let in_use = current(home).ok().flatten().map(|it| it.dir);
    let generation = generations(home).into_iter().rev().find(|generation| {
        generation.record.artifact == artifact.to_digest()
            && Some(&generation.dir) != in_use.as_ref()
    })?;
    // Hashed anew, whatever the times of its files say: it is about to be used.
    let tree = Tree::read(&generation.dir).ok()?;
    (tree.digest() == generation.record.digest).then_some(generation)
}

/// Removes every generation but the one in use and `keep`.
pub(crate) fn prune(home: &Path, keep: &[PathBuf]) {
    let in_use = current(home).ok().flatten().map(|it| it.dir);
    for generation in generations(home) {
        if Some(&generation.dir) != in_use.as_ref() && !keep.contains(&generation.dir) {
            // The record goes first: without it the rest is incomplete and swept.
            durable::remove(&record_path(&generation.dir));
            durable::remove(&generation.dir);
        }
    }
}

fn link(home: &Path) -> PathBuf {
    home.join("venv_current")
}

fn record_path(dir: &Path) -> PathBuf {
    dir.with_extension("json")
}

/// Complete generations, oldest first.
fn generations(home: &Path) -> Vec<Generation> {
    let mut found = Vec::new();
    for entry in fs::read_dir(home.join("env")).into_iter().flatten().flatten() {
        let dir = entry.path();
        if dir.is_dir()
            && let Ok(Some(record)) = durable::read_json(&record_path(&dir))
        {
            found.push(Generation { dir, record });
        }
    }
    found.sort_by_key(|generation| number(&generation.dir));
    found
}

/// Removes what a crash left: folders without a record.
fn sweep(home: &Path) {
    durable::sweep(home);
    durable::sweep(&home.join("env"));
    for entry in fs::read_dir(home.join("env")).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !record_path(&path).exists() {
            durable::remove(&path);
        }
    }
}

fn new_dir(home: &Path, artifact: &Hash) -> Result<PathBuf, Error> {
    let env = home.join("env");
    durable::private_dir(&env)?;
    let last = generations(home).last().map_or(0, |generation| number(&generation.dir));
    Ok(env.join(format!("venv-{}-{}", &artifact.to_string()[..12], last + 1)))
}

fn number(dir: &Path) -> u64 {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

fn make_venv(python: &Python, dir: &Path) -> Result<(), Error> {
    let args = ["-I", "-m", "venv", "--without-pip"];
    let output = command(&python.program).args(args).arg(dir).output();
    let output = output.map_err(Error::io("start", &python.program))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::CapabilityGap(format!("python3 cannot make an environment: {why}")))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(base_variables()).stdin(Stdio::null());
    command
}
