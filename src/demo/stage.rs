//! The stage: a directory, two services, their artifacts, a node, a runner, a proxy and users;
//! and how all of it goes away again.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use runner::store::{ArtifactKind, Draft, Store};
use schemas::signature::KeyPair;
use schemas::{Entry, Event};
use serde::Deserialize;
use state::Log;
use tokio::sync::watch;
use tokio::time::Instant;
use topologies::config::{Environment, Release, Service};
use topologies::detection::Phase;
use topologies::profile::Profile;

use super::load::Load;
use super::story::Story;
use super::{RATE, wheel};
use crate::cli;
use crate::config::Escalation;
use crate::engine::Moved;
use crate::keys::{KeyDir, host_name};
use crate::node::{Layout, LogChoice, Node, NodeConfig};

/// The shop.
pub(super) const SHOP: &str = "shop";
/// The worker.
pub(super) const WORKER: &str = "worker";
/// Journal records are read in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Everything that runs.
pub(super) struct Stage {
    pub(super) story: Story,
    pub(super) data: PathBuf,
    pub(super) operator: KeyPair,
    pub(super) bad_digest: String,
    pub(super) attempts: u32,
    pub(super) has_worker: bool,
    pub(super) has_sandbox: bool,
    node: Option<Node>,
    load: Option<Load>,
    log: Arc<dyn Log>,
    moved: watch::Receiver<Moved>,
    seq: u64,
}

/// The runner's record of a slot, as far as the demo needs it.
#[derive(Deserialize)]
struct SlotRecord {
    process: Option<ProcessRecord>,
}

#[derive(Deserialize)]
struct ProcessRecord {
    pid: i32,
}

impl Stage {
    /// Sets the stage: artifacts are signed into the store, the node is started with both
    /// services, users begin to send.
    pub(super) async fn set(
        place: &Place,
        args: &cli::Demo,
        metrics: PrometheusHandle,
        story: Story,
    ) -> anyhow::Result<Self> {
        let dir = place.dir.as_path();
        let data = dir.join("data");
        std::fs::create_dir_all(&data).with_context(|| format!("creating {}", data.display()))?;
        let operator = KeyDir::of(&data);
        operator.identity()?;
        let operator = operator.operator()?;
        let store = Store::open(&Layout(data.clone()).runner().join("store"))?;
        let good = import_release(dir, &store, &operator, "1.0.0", "good")?;
        let bad = import_release(dir, &store, &operator, "1.1.0", "broken")?;
        let has_worker = works("python3", &["-I", "-c", "import venv"]);
        let has_sandbox = works("bwrap", &["--unshare-all", "--ro-bind", "/", "/", "true"]);
        let attempts = if args.fast { 2 } else { 3 };
        let front = free_port()?;
        let mut services = vec![shop(front, good, attempts)?];
        if has_worker {
            services.push(worker(dir, &store, &operator)?);
        }
        let config = NodeConfig {
            log: LogChoice::Embedded,
            data: data.clone(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            token: None,
            hosts: Vec::new(),
            profile: Profile::local(),
            services,
            head_record: Some(dir.join("head")),
            checkpoints: None,
            escalation: Escalation::default(),
            partitions: None,
            schema_registry: None,
            host: None,
            runner: true,
        };
        let node = Node::start(config, metrics).await?;
        let (log, moved) = (node.engine().log(), node.engine().follow());
        let load = Some(Load::start(front, RATE, args.seed.wrapping_mul(7919) % 1_000_000)?);
        let bad_digest = bad.digest;
        let node = Some(node);
        Ok(Stage {
            story,
            data,
            operator,
            bad_digest,
            attempts,
            has_worker,
            has_sandbox,
            node,
            load,
            log,
            moved,
            seq: 0,
        })
    }

    pub(super) fn node(&self) -> &Node {
        self.node.as_ref().expect("the node is taken only when the stage is struck")
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.node().address
    }

    /// What this machine lacks, a sentence each.
    pub(super) fn gaps(&self) -> Vec<&'static str> {
        let mut gaps = Vec::new();
        if !self.has_worker {
            gaps.push("python3 with its module venv is missing: the third fault is skipped");
        }
        if !self.has_sandbox {
            gaps.push("bubblewrap does not run here: what needs a sandbox is refused");
        }
        gaps
    }

    /// Requests that failed so far.
    pub(super) fn failed(&self) -> u64 {
        self.load.as_ref().map_or(0, |it| it.seen().failed)
    }

    /// A live line for rps, errors and p95.
    pub(super) fn users(&self) -> String {
        let seen = self.load.as_ref().map(Load::seen).unwrap_or_default();
        format!("users: {} sent, {} failed, p95 {:.0} ms", seen.sent, seen.failed, seen.p95_ms)
    }

    /// Waits for the first entry from here on for which `found` says something.
    pub(super) async fn until<T>(
        &mut self,
        within: Duration,
        mut found: impl FnMut(&Entry, &Event) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + within;
        loop {
            let next = self.moved.borrow_and_update().next_seq;
            while self.seq < next {
                for batch in self.log.read(self.seq, READ_BYTES)? {
                    for entry in batch.entries.iter().filter(|it| it.envelope.seq >= self.seq) {
                        let Ok(event) = entry.event() else { continue };
                        if let Some(it) = found(entry, &event) {
                            self.seq = entry.envelope.seq + 1;
                            return Ok(it);
                        }
                    }
                    self.seq = batch.next_seq();
                }
            }
            if tokio::time::timeout_at(deadline, self.moved.changed()).await.is_err() {
                bail!("nothing of that kind within {} s", within.as_secs());
            }
        }
    }

    /// Forgets what has happened until now, so that [`Stage::until`] sees only what follows.
    pub(super) fn see_only_what_follows(&mut self) {
        self.seq = self.moved.borrow_and_update().next_seq;
    }

    /// Waits until every service has been seen healthy for its learning time.
    pub(super) async fn wait_until_ready(&mut self, within: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        let names: &[&'static str] = if self.has_worker { &[SHOP, WORKER] } else { &[SHOP] };
        loop {
            let asked = self.node().engine().ask(|owner| {
                owner.look("detection", |view| {
                    names.iter().all(|name| {
                        let health = topologies::detection::health(view, name);
                        health.is_some_and(|it| it.phase == Phase::Ready && it.is_green())
                    })
                })
            });
            if asked.await.context("the engine has stopped")? {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the services did not become healthy within {} s", within.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The process that serves `service` now.
    pub(super) fn pid(&self, service: &str) -> anyhow::Result<rustix::process::Pid> {
        let home = Layout(self.data.clone()).runner().join("services").join(service);
        let slots = ["green", "blue"].map(|slot| home.join(format!("{slot}.json")));
        let pids = slots.iter().filter_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            let record: SlotRecord = serde_json::from_str(&text).ok()?;
            rustix::process::Pid::from_raw(record.process?.pid)
        });
        let alive = |pid: &rustix::process::Pid| rustix::process::test_kill_process(*pid).is_ok();
        pids.into_iter().find(alive).with_context(|| format!("{service} has no process"))
    }

    /// Where a service's environment lies.
    pub(super) fn environment(&self, service: &str) -> PathBuf {
        let home = Layout(self.data.clone()).runner().join("services").join(service);
        home.join("venv_current")
    }

    /// Sends the users home and stops the node.
    pub(super) async fn strike(mut self) {
        drop(self.load.take());
        if let Some(node) = self.node.take() {
            node.stop().await;
        }
    }
}

/// Where everything lies.
pub(super) struct Place {
    dir: PathBuf,
    keep: bool,
}

impl Place {
    /// The directory to keep, or one that goes away.
    pub(super) fn new(args: &cli::Demo) -> anyhow::Result<Self> {
        let (dir, keep) = directory(args)?;
        Ok(Place { dir, keep })
    }

    /// Ends every process that runs from the directory, and removes it unless it is to be kept.
    pub(super) async fn clear(&self, story: Story) {
        end_all(&self.dir).await;
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            story.remark(&format!("{} is left: {error}", self.dir.display()));
        }
    }
}

fn directory(args: &cli::Demo) -> anyhow::Result<(PathBuf, bool)> {
    let Some(dir) = &args.keep else {
        // A bench sets one stage after another, and readers may hold the last one's log a while.
        static N_STAGES: AtomicU32 = AtomicU32::new(0);
        let n = N_STAGES.fetch_add(1, Ordering::Relaxed);
        let name = format!("healwright-demo-{}-{n}", std::process::id());
        return Ok((std::env::temp_dir().join(name), false));
    };
    if dir.join("data").exists() {
        bail!("{} holds a demo already; name another directory", dir.display());
    }
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok((dir.canonicalize().context("resolving --keep")?, true))
}

fn import_release(
    dir: &Path,
    store: &Store,
    key: &KeyPair,
    version: &str,
    release: &str,
) -> anyhow::Result<Release> {
    let from = dir.join("releases").join(version);
    std::fs::create_dir_all(&from).with_context(|| format!("creating {}", from.display()))?;
    std::fs::write(from.join("release"), format!("{release}\n")).context("writing a release")?;
    let artifact_ref = format!("local://releases/{SHOP}/{version}");
    let draft = Draft {
        reference: &artifact_ref,
        kind: ArtifactKind::Release,
        name: SHOP,
        version,
        attributes: BTreeMap::new(),
        dir: &from,
    };
    let digest = store.import(&draft, key)?.to_digest();
    Ok(Release { version: version.to_owned(), digest, artifact_ref })
}

fn shop(front: SocketAddr, release: Release, attempts: u32) -> anyhow::Result<Service> {
    let program = std::env::current_exe().context("finding this program")?;
    let words = ["demo-service", "--release", "{dir}/release", "--port", "{port}"];
    let mut command = vec![program.display().to_string()];
    command.extend(words.map(str::to_owned));
    Ok(Service {
        name: SHOP.to_owned(),
        host: host_name(),
        command,
        probe_url: "http://127.0.0.1:{port}/healthz".to_owned(),
        probe_timeout_ms: 400,
        proxy: front.to_string(),
        release: Some(release),
        attempts_max: attempts,
        ..Service::default()
    })
}

fn worker(dir: &Path, store: &Store, key: &KeyPair) -> anyhow::Result<Service> {
    let from = dir.join("wheels");
    std::fs::create_dir_all(&from).with_context(|| format!("creating {}", from.display()))?;
    let path = from.join(wheel::FILE);
    std::fs::write(&path, wheel::good()?).with_context(|| format!("writing {}", path.display()))?;
    let artifact_ref = format!("local://environments/{WORKER}/1");
    let draft = Draft {
        reference: &artifact_ref,
        kind: ArtifactKind::Environment,
        name: WORKER,
        version: "1",
        attributes: [("smoke-import".to_owned(), wheel::MODULE.to_owned())].into(),
        dir: &from,
    };
    let digest = store.import(&draft, key)?.to_digest();
    let kind = "venv".to_owned();
    Ok(Service {
        name: WORKER.to_owned(),
        host: host_name(),
        command: ["{venv}/bin/python", "-m", wheel::MODULE].map(str::to_owned).into(),
        heartbeat_file: "heartbeat".to_owned(),
        environment: Some(Environment { kind, artifact_ref, digest }),
        ..Service::default()
    })
}

/// A loopback port that nobody has now.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    listener.local_addr().context("finding a free port")
}

fn works(program: &str, args: &[&str]) -> bool {
    let ran = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ran.is_ok_and(|it| it.success())
}

/// Ends every process whose command line or folder names `dir`: services, proxy, runner.
async fn end_all(dir: &Path) {
    let dir = dir.display().to_string();
    for _ in 0..100 {
        let left = processes_of(&dir);
        if left.is_empty() {
            return;
        }
        for pid in left {
            // It may have ended by itself meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn processes_of(dir: &str) -> Vec<rustix::process::Pid> {
    let own = rustix::process::getpid();
    let Ok(listed) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = listed.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let pid = rustix::process::Pid::from_raw(pid).filter(|pid| *pid != own)?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let folder = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let names = String::from_utf8_lossy(&command).contains(dir);
        (!command.is_empty() && (names || folder.starts_with(dir))).then_some(pid)
    });
    pids.collect()
}
