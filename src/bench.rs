//! `healwright bench`: what this machine can do, each figure beside the ceiling that it is held
//! against, measured in the same run.

mod heal;
mod idle;
mod journal;
mod kafka;
mod replay;
mod telemetry;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use schemas::signature::KeyPair;
use serde_json::Value;
use state::embedded::EmbeddedLog;

use crate::cli::{self, BenchKind, Form};
use crate::engine::heads::Heads;
use crate::engine::owner::{Office, Owner};
use crate::engine::wall_now;
use crate::keys::Identity;
use crate::node::{LogChoice, PARTITION, os_chance};
use crate::out::Out;
use crate::session::Session;

/// Runs a bench.
///
/// # Errors
/// What keeps it from running.
pub fn run(session: &Session, out: Out, args: &cli::Bench) -> anyhow::Result<bool> {
    let (figures, lines) = match args.what {
        BenchKind::Journal => journal::run()?,
        BenchKind::Telemetry => telemetry::run()?,
        BenchKind::Replay => replay::run()?,
        BenchKind::Idle => idle::run()?,
        BenchKind::Heal => heal::run(args.runs, out)?,
        BenchKind::Kafka => match session.choice() {
            LogChoice::Kafka(cluster) => kafka::run(cluster, args)?,
            LogChoice::Embedded => bail!(
                "`bench kafka` reads a filled topic: name the cluster with `--log kafka://…` and \
                 the topic with `--topic-prefix`; `make bench-kafka` does all of it"
            ),
        },
    };
    if out.form == Form::Json {
        out.json(&figures);
    } else {
        lines.iter().for_each(|line| out.line(line));
    }
    Ok(true)
}

/// Figures for programs and the same in words.
type Measured = (Value, Vec<String>);

/// A directory of the bench's own; it goes when the bench ends.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("healwright-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Folder(dir))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Hundredths of a second of CPU time that a process has taken.
fn cpu_ticks(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The name in parentheses may hold anything; fields are counted behind it.
    let Some((_, fields)) = stat.rsplit_once(") ") else { bail!("{path} has no fields") };
    Ok(fields.split(' ').skip(11).take(2).filter_map(|it| it.parse::<u64>().ok()).sum())
}

/// A line of `/proc/PID/status` that tells memory.
fn memory_mb(path: &str, name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let line = status.lines().find(|it| it.starts_with(name)).unwrap_or_default();
    let kib: String = line.chars().filter(char::is_ascii_digit).collect();
    Ok(kib.parse::<f64>().with_context(|| format!("reading {name} in {path}"))? / 1024.0)
}

fn identity() -> Identity {
    let (root, node) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
    Identity::new("bench", "bench", &root, node)
}

/// An owner in office on an embedded log in `dir`.
fn owner(dir: &Path) -> anyhow::Result<(Owner, Arc<EmbeddedLog>)> {
    let identity = identity();
    let log = Arc::new(EmbeddedLog::open(dir, &identity.deployment, PARTITION)?);
    let office = Office {
        log: log.clone(),
        store: log.clone(),
        identity: &identity,
        endpoint: String::new(),
        heads: Heads::open(&dir.join("head"), None)?,
        chance: os_chance(),
    };
    Ok((Owner::elect(office, wall_now())?, log))
}
