//! A node: everything that `up`, `demo` and `watch` run, put together.
//!
//! Order of start: lock and log, keys, head record, election, HTTP, runner. Order of stop: the
//! runner, HTTP, the owner after its batch, a last signed head. Supervised services and the
//! proxy outlive all of it.
//!
//! On a cluster the election comes later, when the group assigns the partition; the node answers
//! before that, and redirects what only the owner can answer. A schema registry is asked before
//! there can be an election.

mod activator;
mod layout;
pub mod parts;
pub(crate) mod runner;
mod shared;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use state::embedded::EmbeddedLog;
use state::kafka::Cluster;
use state::{Log, Store as _};
use tokio::net::TcpListener;
use topologies::config::Service;
use topologies::profile::Profile;

pub use self::activator::Activator;
pub(crate) use self::activator::activation;
pub use self::layout::{Layout, head_record_default, head_record_of};
use self::parts::{Part, Parts};
use self::runner::Runners;
use self::shared::Share;
use crate::config::{Checkpoints, Escalation};
use crate::dispatch::{self, Confirmations, Registrar, register};
use crate::engine::heads::Heads;
use crate::engine::owner::{Chance, Office, Owner};
use crate::engine::{Engine, Handle};
use crate::http::{App, Inner, gate::Gate, listen};
use crate::join::Requests;
use crate::keys::Identity;
use crate::projection::Projection;
use crate::registry::Registry;
use crate::{fanout, gauges, notify, observe};

/// The first partition, and the only one of an embedded log.
pub const PARTITION: u32 = 0;
/// Name under which the operator's key is registered.
pub const OPERATOR: &str = "operator";

/// Entries that a start folds within a part of a second.
const FOLDED_QUIETLY_MAX: u64 = 5_000;

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
    /// How many partitions a system on a cluster is founded with; where it exists already, how
    /// many it must have.
    pub partitions: Option<u32>,
    /// Where schemas of typed topics are registered.
    pub schema_registry: Option<Registry>,
    /// What this machine is called by services and its runner; by default what it calls itself.
    pub host: Option<String>,
    /// Whether to start the local runner.
    pub runner: bool,
}

/// A running node.
pub struct Node {
    /// Where it answers.
    pub address: SocketAddr,
    /// The partitions, each with the way into its journal.
    pub parts: Parts,
    /// What readers are shown.
    pub projection: Projection,
    /// Deployment id.
    pub deployment: String,
    activator: Option<Activator>,
    runners: Option<Runners>,
    started: Vec<Started>,
}

/// One partition's engine, with its log where that is shared.
struct Started {
    engine: Engine,
    shared: Option<Share>,
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
    layout::remember_head_record(&layout, config.head_record.as_deref())?;
    let record =
        config.head_record.clone().unwrap_or_else(|| head_record_default(deployment, PARTITION));
    let behind = log.head()?.next_seq.saturating_sub(log.position()?);
    if behind > FOLDED_QUIETLY_MAX {
        tracing::warn!(entries = behind, "the state is folded anew before anything is answered");
    }
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
    /// The way into the first partition's journal.
    pub fn engine(&self) -> &Handle {
        &self.parts.first().engine
    }

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
        let joined = shared::identities(&config).await?;
        let (identity, operator) = (joined.identity, joined.operator);
        let deployment = identity.deployment.clone();
        let values = shared::agree(&config).await?;
        let identity = Arc::new(identity);
        let endpoint = endpoint(address);
        let started = start_engines(&config, &identity, joined.n_partitions, &endpoint).await?;
        let shares = started.iter().any(|it| it.shared.is_some());
        let requests = config.requests(&identity);
        let shared = shares.then_some(identity);
        let part = |(number, it): (u32, &Started)| {
            let engine = it.engine.handle();
            Part { number, engine, confirmations: Confirmations::default() }
        };
        let parts = Parts::new((0..).zip(&started).map(part).collect());
        if let Some(share) = started.first().and_then(|it| it.shared.as_ref()) {
            shared::step_aside_when_stopped(&parts, share.membership.clone());
        }
        let projection = Projection::follow(&parts);
        measure(&config, &parts, &deployment, &started, &values)?;
        let activator = operator.map(|key| Activator::new(parts.clone(), key));
        // Why the partition stands still tells more than that it does.
        let stands_still = |error| parts.stopped().map_or(error, |why| anyhow::anyhow!(why));
        activate(activator.clone(), &config).await.map_err(stands_still)?;
        let registrar = Registrar { activator: activator.clone(), requests, told: Arc::default() };
        for part in parts.all() {
            dispatch::listen(&layout, part, registrar.clone(), shared.clone(), &deployment)?;
        }
        if let (Some(asked), Some(activator)) = (&joined.asked, &activator) {
            let own = config.runner.then(|| config.host());
            register::attend(asked.clone(), activator.clone(), parts.clone(), own);
        }
        let app = App(Arc::new(Inner {
            parts: parts.clone(),
            projection: projection.clone(),
            gate: Gate {
                listen: address,
                token: config.token.clone(),
                hosts: own_names(&config.hosts, &endpoint),
            },
            shared,
            metrics,
            bounds: crate::http::page::Bounds::default(),
        }));
        let bounded = listen::Bounded::new(listener, listen::PATIENCE);
        tokio::spawn(async move {
            if let Err(error) = axum::serve(bounded, crate::http::router(app)).await {
                tracing::error!(%error, "the HTTP listener stopped");
            }
        });
        let founded = activator.is_some();
        let runners = start_runners(&config, founded, &parts, &projection, &deployment).await?;
        let node = Node { address, parts, projection, deployment, activator, runners, started };
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

    /// Stops the runners and waits for them; services and proxies go on.
    pub async fn stop(self) {
        if let Some(runners) = self.runners {
            runners.stop().await;
        }
        for it in &self.started {
            it.engine.stop();
            if let Some(share) = &it.shared {
                // An append that waits for a broker would keep the process.
                share.log.close();
            }
        }
        drop(self.started);
    }
}

impl NodeConfig {
    /// What this machine is called.
    fn host(&self) -> String {
        self.host.clone().unwrap_or_else(crate::keys::host_name)
    }

    /// The way to ask whoever has the operator's key, on a cluster.
    fn requests(&self, identity: &Arc<Identity>) -> Option<Requests> {
        let LogChoice::Kafka(cluster) = &self.log else { return None };
        Some(Requests::new(cluster.clone(), identity.clone()))
    }
}

/// The runners of this machine, unless it is to have none. Where the operator's key is, the first
/// partition's is there from the start; elsewhere each comes with the first service of its own.
async fn start_runners(
    config: &NodeConfig,
    is_founder: bool,
    parts: &Parts,
    projection: &Projection,
    deployment: &str,
) -> anyhow::Result<Option<Runners>> {
    if !config.runner {
        return Ok(None);
    }
    let host = runner::Host {
        layout: Layout(config.data.clone()),
        deployment: deployment.to_owned(),
        name: config.host(),
        is_own: is_founder || config.host.is_some(),
    };
    let first = match is_founder {
        true => runner::from_start(&host, parts, &config.services),
        false => std::collections::BTreeSet::new(),
    };
    Ok(Some(Runners::start(host, first, projection.clone()).await?))
}

/// Where others find this node: an address that stands for all of them is nobody's to others.
fn endpoint(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        return format!("{}:{}", crate::keys::host_name(), address.port());
    }
    address.to_string()
}

/// Names under which this node is addressed: the configured ones, and the one that it tells others.
fn own_names(configured: &[String], endpoint: &str) -> Vec<String> {
    let own = endpoint.rsplit_once(':').map_or(endpoint, |(name, _)| name);
    configured.iter().cloned().chain([own.to_owned()]).collect()
}

/// The engines of this node, in the order of their partitions.
async fn start_engines(
    config: &NodeConfig,
    identity: &Arc<Identity>,
    n_partitions: u32,
    endpoint: &str,
) -> anyhow::Result<Vec<Started>> {
    match &config.log {
        LogChoice::Embedded => {
            let (owner, log) = open(config, identity, endpoint)?;
            Ok(vec![Started { engine: Engine::start(owner, log)?, shared: None }])
        }
        LogChoice::Kafka(cluster) => {
            shared::share(config, cluster, identity, n_partitions, endpoint).await
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
                 into the configuration of the node that founded the deployment, with \
                 `host = {:?}` if it is to run on this machine",
                service.name,
                config.host()
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

/// Tells people, publishes what is journaled, and keeps what `/metrics` shows.
fn measure(
    config: &NodeConfig,
    parts: &Parts,
    deployment: &str,
    started: &[Started],
    values: &fanout::Values,
) -> anyhow::Result<()> {
    observe::follow(parts);
    for (part, it) in parts.all().iter().zip(started) {
        notify::follow(&part.engine, config.escalation.clone());
        let shared = match (&config.log, &it.shared) {
            (LogChoice::Kafka(cluster), Some(share)) => Some(gauges::Shared {
                cluster: cluster.clone(),
                log: share.log.clone(),
                published: fanout::follow(cluster, part, deployment, values.clone()),
            }),
            (LogChoice::Embedded | LogChoice::Kafka(_), _) => None,
        };
        gauges::follow(part, shared).context("starting a thread for the gauges")?;
    }
    Ok(())
}
