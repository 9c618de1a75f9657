//! The runners of this machine, each in a process of its own: one for each partition that has
//! services here, so that every runner follows one chain.
//!
//! Which services those are stands in the journals, so a service that is activated later has its
//! runner without a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use runner::agent;
use rustix::process::{Pid, Signal, kill_process};
use schemas::signature::PublicKey;
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use topologies::config::Service;

use super::Layout;
use super::parts::Parts;
use crate::projection::{Model, Projection};

/// A runner may take this long to end.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What all runners of a node have in common.
pub(super) struct Host {
    /// The data directory.
    pub(super) layout: Layout,
    /// The deployment's id.
    pub(super) deployment: String,
    /// What this machine is called.
    pub(super) name: String,
    /// Whether that is this node's name whoever else has it. A node that was given no name, and
    /// has no operator's key to register one with, takes the machine's; but several nodes may run
    /// on one machine, and then the name is the first one's.
    pub(super) is_own: bool,
}

/// The runners of a node, kept by a task.
pub(super) struct Runners {
    stop: oneshot::Sender<()>,
    kept: JoinHandle<()>,
}

impl Runners {
    /// Starts the runners of these partitions, and from then on those that the journals ask for.
    pub(super) async fn start(
        host: Host,
        first: BTreeSet<u32>,
        projection: Projection,
    ) -> anyhow::Result<Self> {
        let mut children = BTreeMap::new();
        for number in first {
            children.insert(number, host.start(number).await?);
        }
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper { host, children, seen: Seen::default() };
        Ok(Runners { stop, kept: tokio::spawn(keeper.follow(projection, stopped)) })
    }

    /// Ends them all and waits for it.
    pub(super) async fn stop(self) {
        // A keeper that has gone has nothing left to stop.
        let _ = self.stop.send(());
        let _ = self.kept.await;
    }
}

/// The partitions whose runners the founder has from the start; the first one's is always there.
pub(super) fn from_start(host: &Host, parts: &Parts, services: &[Service]) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::from([super::PARTITION]);
    let here = services.iter().filter(|it| it.host == host.name);
    numbers.extend(here.map(|it| parts.of_service(&it.name).number));
    // What a former configuration put under care is under care until the journal says otherwise.
    let had_runner = |it: &u32| host.layout.partition(*it).runner().exists();
    numbers.extend(parts.all().iter().map(|it| it.number).filter(had_runner));
    numbers
}

/// What the journals say about a host.
#[derive(Default, PartialEq)]
struct Seen {
    /// Partitions that have services on it.
    services: BTreeSet<u32>,
    /// Its registered runners.
    keys: BTreeMap<u32, PublicKey>,
}

impl Seen {
    fn of(model: &Model, host: &str) -> Self {
        let here = model.services.values().filter(|it| it.config.host == host);
        let runners = model.runners.iter().filter(|((_, of), _)| of == host);
        Seen {
            services: here.filter_map(|it| model.partition_of_service(&it.config.name)).collect(),
            keys: runners.map(|((number, _), it)| (*number, it.runner.key)).collect(),
        }
    }
}

struct Keeper {
    host: Host,
    children: BTreeMap<u32, Child>,
    seen: Seen,
}

impl Keeper {
    async fn follow(mut self, projection: Projection, mut stopped: oneshot::Receiver<()>) {
        let mut changes = projection.changes();
        loop {
            let seen = Seen::of(&projection.model(), &self.host.name);
            if seen != self.seen {
                self.seen = seen;
                self.look().await;
            }
            tokio::select! {
                told = &mut stopped => {
                    // A node that is gone without a word leaves its runners, as a kill does.
                    if told.is_ok() {
                        stop_all(&mut self.children).await;
                    }
                    return;
                }
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Starts what is missing. Where the host's name turns out to be another node's, ends what
    /// was started under it: it would not be let in any more.
    async fn look(&mut self) {
        let Host { layout, name, is_own, .. } = &self.host;
        let is_ours = |(number, key): (&u32, &PublicKey)| {
            agent::identity::public_key(&layout.partition(*number).runner()) == Some(*key)
        };
        if !is_own && !self.seen.keys.iter().all(is_ours) {
            if !self.seen.services.is_empty() {
                tracing::warn!(
                    "services of host {name} are another node's, so none run here; if this is \
                     that host, or another one, say so with `--host NAME`"
                );
            }
            stop_all(&mut self.children).await;
            self.children.clear();
            return;
        }
        for number in self.seen.services.clone() {
            if self.children.contains_key(&number) {
                continue;
            }
            match self.host.start(number).await {
                Ok(child) => drop(self.children.insert(number, child)),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, partition = number, "a runner cannot be started");
                }
            }
        }
    }
}

impl Host {
    /// The same program as a runner, in a process of its own.
    async fn start(&self, number: u32) -> anyhow::Result<Child> {
        let layout = self.layout.partition(number);
        let dir = layout.runner();
        let ended = tokio::task::spawn_blocking(move || end_former(&dir));
        ended.await.context("ending a former runner")??;
        let program = std::env::current_exe().context("finding this program")?;
        let log = runner_log(&layout.0)?;
        tokio::process::Command::new(program)
            .arg("runner")
            .arg("--dir")
            .arg(layout.runner())
            .arg("--socket")
            .arg(layout.socket())
            .args(["--deployment", &self.deployment, "--host", &self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("starting the runner")
    }
}

/// Ends the runner in `dir` that a node has left behind; what it supervises goes on, and the next
/// one adopts it. Its program may be an older one, and nobody else would ever end it.
///
/// # Errors
/// It does not end.
pub(crate) fn end_former(dir: &Path) -> anyhow::Result<()> {
    let since = Instant::now();
    while let Some(pid) = agent::identity::holder(dir).and_then(Pid::from_raw) {
        let signal = if since.elapsed() < STOP_WITHIN { Signal::TERM } else { Signal::KILL };
        if 2 * STOP_WITHIN < since.elapsed() {
            bail!("another runner holds {} and does not end: pid {pid:?}", dir.display());
        }
        // It may have ended by itself; then there is nothing to stop.
        let _ = kill_process(pid, signal);
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

async fn stop_all(runners: &mut BTreeMap<u32, Child>) {
    for runner in runners.values() {
        if let Some(pid) = runner.id().and_then(|id| i32::try_from(id).ok())
            && let Some(pid) = Pid::from_raw(pid)
        {
            // It may have ended by itself; then there is nothing to stop.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    for runner in runners.values_mut() {
        if tokio::time::timeout(STOP_WITHIN, runner.wait()).await.is_err() {
            // What it leaves is adopted by the next one.
            let _ = runner.kill().await;
        }
    }
}

fn runner_log(data: &Path) -> anyhow::Result<std::fs::File> {
    let path = data.join("run").join("runner.log");
    std::fs::File::create(&path).with_context(|| format!("creating {}", path.display()))
}
