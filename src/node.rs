//! A node: everything that `up`, `demo` and `watch` run, put together.
//!
//! Order of start: lock and log, keys, head record, election, HTTP, runner. Order of stop: the
//! runner, HTTP, the owner after its batch, a last signed head. Supervised services and the
//! proxy outlive all of it.
//!
//! On a cluster the election comes later, when the group assigns the partition; the node answers
//! before that, and redirects what only the owner can answer. A schema registry is asked before
//! there can be an election.

mod runner;
mod shared;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use schemas::event::{ConfigActivated, ConfigKind};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Actor, ActorKind};
use serde::Serialize;
use state::Log;
use state::embedded::EmbeddedLog;
use state::kafka::{Cluster, KafkaLog};
use tokio::net::TcpListener;
use topologies::config::{Service, Signers};
use topologies::profile::Profile;
use topologies::rules::Rules;

use crate::config::{Checkpoints, Escalation};
use crate::engine::bookkeeping;
use crate::engine::heads::{self, Heads};
use crate::engine::owner::{Chance, Office, Owner};
use crate::engine::{Engine, Handle, Input};
use crate::http::{App, Inner, gate::Gate, listen};
use crate::keys::Identity;
use crate::projection::Projection;
use crate::registry::Registry;
use crate::{dispatch, fanout, gauges, notify, observe};

/// The one partition of a node.
pub const PARTITION: u32 = 0;
/// Partitions of a system on a cluster.
pub const PARTITIONS: u32 = 1;
/// Name under which the operator's key is registered.
pub const OPERATOR: &str = "operator";

/// Where a node's log lies.
#[derive(Clone, Debug)]
pub enum LogChoice {
    /// In the data directory, for this process alone.
    Embedded,
    /// On a cluster, shared with other processes.
    Kafka(Cluster),
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The log.
    pub log: LogChoice,
    /// Data directory.
    pub data: PathBuf,
    /// Address of API and page; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Token that writes need.
    pub token: Option<String>,
    /// Host names under which the node is addressed.
    pub hosts: Vec<String>,
    /// The numbers.
    pub profile: Profile,
    /// Services under care.
    pub services: Vec<Service>,
    /// Where the head record lies.
    pub head_record: Option<PathBuf>,
    /// Where checkpoints go, on a cluster.
    pub checkpoints: Option<Checkpoints>,
    /// Who is told when people must act.
    pub escalation: Escalation,
    /// Where schemas of typed topics are registered.
    pub schema_registry: Option<Registry>,
    /// Whether to start the local runner.
    pub runner: bool,
}

/// A running node.
pub struct Node {
    /// Where it answers.
    pub address: SocketAddr,
    /// The way into the journal.
    pub engine: Handle,
    /// What readers are shown.
    pub projection: Projection,
    /// Deployment id.
    pub deployment: String,
    activator: Option<Activator>,
    runner: Option<tokio::process::Child>,
    engine_thread: Engine,
    shared_log: Option<Arc<KafkaLog>>,
}

/// Activates configuration under the operator's signature.
#[derive(Clone)]
pub struct Activator {
    engine: Handle,
    operator: Arc<KeyPair>,
}

impl Activator {
    async fn activate_all(&self, config: &NodeConfig) -> anyhow::Result<()> {
        let keys = [(OPERATOR.to_owned(), self.operator.public())].into();
        self.activate("signers", &Signers { keys }).await?;
        self.activate("rules", &Rules::current()).await?;
        self.activate("profile", &config.profile).await?;
        for service in &config.services {
            self.activate(&format!("service/{}", service.name), service).await?;
        }
        Ok(())
    }

    /// Journals a configuration, unless it is in force already.
    ///
    /// # Errors
    /// The engine has stopped.
    pub async fn activate<T: Serialize>(&self, name: &str, body: &T) -> anyhow::Result<()> {
        let body = serde_json::to_string(body).context("writing a configuration as JSON")?;
        let digest = ConfigActivated::digest_of(&body);
        let asked = name.to_owned();
        let active = self.engine.see(move |state| bookkeeping::active_config(state, &asked));
        let active = active.await.context("the engine has stopped")?;
        if active.as_ref().is_some_and(|it| it.digest == digest) {
            return Ok(());
        }
        let version = active.map_or(1, |it| it.version + 1);
        let config = activation(&self.operator, ConfigKind::Policy, name, version, body);
        let sent = self.engine.submit(&config).await?;
        let answer = sent.answer.await.context("the engine has stopped")?;
        match answer.refused {
            Some(reason) => bail!("{name} is not activated: {reason}"),
            None => Ok(()),
        }
    }
}

/// The activation of `body` as version `version` of `name`, under the operator's signature.
pub(crate) fn activation(
    operator: &KeyPair,
    kind: ConfigKind,
    name: &str,
    version: u64,
    body: String,
) -> Input {
    let mut config = ConfigActivated {
        kind,
        name: name.to_owned(),
        version,
        digest: ConfigActivated::digest_of(&body),
        approved_by: OPERATOR.to_owned(),
        audit_log_id: None,
        body: Some(body),
        signature: None,
    };
    let signature = operator.sign(schemas::event::CONFIG_DOMAIN, &config.statement());
    config.signature = Some(signature_text(&signature));
    let key_id = Some(operator.public().id());
    let actor = Actor { id: OPERATOR.to_owned(), kind: ActorKind::Human, key_id };
    Input::new(actor, name, config)
}

/// The data directory's parts.
#[derive(Clone, Debug)]
pub struct Layout(pub PathBuf);

impl Layout {
    /// The log and the state.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }
    /// The runner's own directory.
    pub fn runner(&self) -> PathBuf {
        self.0.join("runner")
    }
    /// The socket that runners call in on.
    pub fn socket(&self) -> PathBuf {
        self.0.join("run").join("control.sock")
    }
    /// Where a running node says its address and pid.
    pub fn running(&self) -> PathBuf {
        self.0.join("run").join("node.json")
    }
    /// The latest signed head.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }
    /// The newest head that a witness cosigned.
    pub fn witnessed(&self) -> PathBuf {
        self.0.join(heads::WITNESSED)
    }
    /// Where the head record lies, as the last start was told.
    pub fn head_record(&self) -> PathBuf {
        self.0.join("head_record")
    }
    /// The deployment's id.
    pub fn deployment(&self) -> PathBuf {
        self.0.join("deployment")
    }
}

/// Where the head record lies unless the configuration says otherwise: outside the data
/// directory, so that restoring a backup of it does not restore the record too.
pub fn head_record_default(deployment: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let state =
        std::env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from);
    state.join("healwright").join("heads").join(format!("{deployment}-{PARTITION}"))
}

/// Where the head record of the deployment in `data` lies: where the last start that was told a
/// place looked for it, and by default otherwise.
///
/// # Errors
/// The note of that place cannot be read.
pub fn head_record_of(data: &Path, deployment: &str) -> anyhow::Result<PathBuf> {
    let told = Layout(data.to_owned()).head_record();
    match std::fs::read_to_string(&told) {
        Ok(path) => Ok(PathBuf::from(path.trim_end_matches('\n'))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(head_record_default(deployment))
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", told.display())),
    }
}

/// Keeps for `repair head` and `doctor` where a configured head record lies.
fn remember_head_record(layout: &Layout, configured: Option<&Path>) -> anyhow::Result<()> {
    let told = layout.head_record();
    let done = match configured {
        Some(path) => std::path::absolute(path)
            .and_then(|path| std::fs::write(&told, format!("{}\n", path.display()))),
        None => match std::fs::remove_file(&told) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
    };
    done.with_context(|| format!("writing {}", told.display()))
}

/// Chance from the operating system.
pub fn os_chance() -> Chance {
    Box::new(|buffer| {
        getrandom::fill(buffer).expect("the operating system gives randomness or nothing is safe");
    })
}

/// Opens the log and takes office.
///
/// # Errors
/// Another process has the directory, something is damaged, or the log is behind its head
/// record.
pub fn open(
    config: &NodeConfig,
    identity: &Identity,
    endpoint: &str,
) -> anyhow::Result<(Owner, Arc<dyn Log>)> {
    let deployment = &identity.deployment;
    let log = Arc::new(EmbeddedLog::open(&config.data, deployment, PARTITION)?);
    let layout = Layout(config.data.clone());
    std::fs::write(layout.deployment(), format!("{deployment}\n"))
        .with_context(|| format!("writing {}", layout.deployment().display()))?;
    remember_head_record(&layout, config.head_record.as_deref())?;
    let record = config.head_record.clone().unwrap_or_else(|| head_record_default(deployment));
    let owner = take_office(&layout, log.clone(), identity, endpoint, &record)?;
    Ok((owner, log))
}

/// Takes office on `log` under the head record at `record`.
///
/// # Errors
/// The log is behind its head record, or does not fold as it did.
pub(crate) fn take_office(
    layout: &Layout,
    log: Arc<EmbeddedLog>,
    identity: &Identity,
    endpoint: &str,
    record: &Path,
) -> anyhow::Result<Owner> {
    let heads = Heads::open(record, Some(layout.checkpoint()))?;
    let office = Office {
        log: log.clone(),
        store: log,
        identity,
        endpoint: endpoint.to_owned(),
        heads,
        chance: os_chance(),
    };
    Ok(Owner::elect(office, crate::engine::wall_now())?)
}

impl Node {
    /// Starts everything; returns when the node is ready.
    ///
    /// # Errors
    /// Whatever keeps it from starting, with what to do about it.
    pub async fn start(config: NodeConfig, metrics: PrometheusHandle) -> anyhow::Result<Self> {
        let layout = Layout(config.data.clone());
        let run = layout.socket();
        let run = run.parent().unwrap_or(&config.data);
        std::fs::create_dir_all(run).with_context(|| format!("creating {}", run.display()))?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("listening on {}", config.listen))?;
        let address = listener.local_addr().context("asking for the address")?;
        let (identity, operator) = shared::identities(&config).await?;
        let deployment = identity.deployment.clone();
        let values = shared::agree(&config).await?;
        let started = start_engine(&config, identity, &endpoint(address)).await?;
        let (engine, shared_log) = started;
        let handle = engine.handle();
        let projection = Projection::follow(handle.clone());
        notify::follow(&handle, config.escalation.clone());
        measure(&config, &handle, &deployment, shared_log.as_ref(), values)?;
        let activator =
            operator.map(|key| Activator { engine: handle.clone(), operator: Arc::new(key) });
        activate(activator.clone(), &config).await?;
        let confirmations = match &activator {
            Some(activator) => {
                dispatch::listen(&layout, handle.clone(), activator.clone(), &deployment)?
            }
            None => dispatch::Confirmations::default(),
        };
        let app = App(Arc::new(Inner {
            engine: handle.clone(),
            projection: projection.clone(),
            gate: Gate {
                listen: address,
                token: config.token.clone(),
                hosts: config.hosts.clone(),
            },
            metrics,
            partition: PARTITION,
            bounds: crate::http::page::Bounds::default(),
            confirmations,
        }));
        let bounded = listen::Bounded::new(listener, listen::PATIENCE);
        tokio::spawn(async move {
            if let Err(error) = axum::serve(bounded, crate::http::router(app)).await {
                tracing::error!(%error, "the HTTP listener stopped");
            }
        });
        let mut node = Node {
            address,
            engine: handle,
            projection,
            deployment,
            activator,
            runner: None,
            engine_thread: engine,
            shared_log,
        };
        if config.runner && node.activator.is_some() {
            node.runner = Some(runner::start(&layout, &node.deployment)?);
        }
        let registry = config.schema_registry.as_ref().map(Registry::url);
        let running = serde_json::json!({
            "pid": std::process::id(), "http": address.to_string(), "schema_registry": registry,
        });
        std::fs::write(layout.running(), format!("{running}\n"))
            .with_context(|| format!("writing {}", layout.running().display()))?;
        Ok(node)
    }

    /// Journals a configuration under the operator's signature, unless it is in force already.
    ///
    /// # Errors
    /// The engine has stopped, or the operator's key is kept elsewhere.
    pub async fn activate<T: Serialize>(&self, name: &str, body: &T) -> anyhow::Result<()> {
        let activator = self.activator.as_ref();
        let activator = activator.context("the operator's key is not kept on this node")?;
        activator.activate(name, body).await
    }

    /// Stops the runner and waits for it; services and proxy go on.
    pub async fn stop(mut self) {
        if let Some(mut runner) = self.runner.take() {
            if let Some(pid) = runner.id().and_then(|id| i32::try_from(id).ok())
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                // It may have ended by itself; then there is nothing to stop.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let grace = std::time::Duration::from_secs(3);
            if tokio::time::timeout(grace, runner.wait()).await.is_err() {
                let _ = runner.kill().await;
            }
        }
        if let Some(log) = &self.shared_log {
            // An append that waits for a broker would keep the process.
            log.close();
        }
        drop(self.engine_thread);
    }
}

/// Where others find this node: an address that stands for all of them is nobody's to others.
fn endpoint(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("{}:{}", crate::keys::host_name(), address.port());
    }
    address.to_string()
}

/// The engine of this node, and its log where that is shared.
async fn start_engine(
    config: &NodeConfig,
    identity: Identity,
    endpoint: &str,
) -> anyhow::Result<(Engine, Option<Arc<KafkaLog>>)> {
    match &config.log {
        LogChoice::Embedded => {
            let (owner, log) = open(config, &identity, endpoint)?;
            Ok((Engine::start(owner, log)?, None))
        }
        LogChoice::Kafka(cluster) => {
            let (engine, log) = shared::share(config, cluster, identity, endpoint).await?;
            Ok((engine, Some(log)))
        }
    }
}

/// Puts the configuration in force. On a cluster that waits for an owner, whoever it will be,
/// so it goes on in the background.
async fn activate(activator: Option<Activator>, config: &NodeConfig) -> anyhow::Result<()> {
    let Some(activator) = activator else {
        if let Some(service) = config.services.first() {
            anyhow::bail!(
                "service {} needs the operator's signature and the key is not kept here; put it \
                 into the configuration of the node that founded the deployment",
                service.name
            );
        }
        return Ok(());
    };
    match config.log {
        LogChoice::Embedded => activator.activate_all(config).await,
        LogChoice::Kafka(_) => {
            let config = config.clone();
            tokio::spawn(async move {
                if let Err(error) = activator.activate_all(&config).await {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the configuration is not in force"
                    );
                }
            });
            Ok(())
        }
    }
}

/// Publishes what is journaled, and keeps what `/metrics` shows.
fn measure(
    config: &NodeConfig,
    handle: &Handle,
    deployment: &str,
    shared_log: Option<&Arc<KafkaLog>>,
    values: fanout::Values,
) -> anyhow::Result<()> {
    let shared = match (&config.log, shared_log) {
        (LogChoice::Kafka(cluster), Some(log)) => Some(gauges::Shared {
            cluster: cluster.clone(),
            log: log.clone(),
            published: fanout::follow(cluster, handle, deployment, PARTITION, values),
        }),
        (LogChoice::Embedded | LogChoice::Kafka(_), _) => None,
    };
    observe::follow(handle);
    gauges::follow(handle, shared).context("starting a thread for the gauges")
}
