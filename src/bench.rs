//! `healwright bench`: what this machine can do, each figure beside the ceiling that it is held
//! against, measured in the same run.

mod heal;
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
