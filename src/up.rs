//! `healwright up`, and the hidden commands that it starts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use runner::agent;
use tokio::signal::unix::{Signal, SignalKind, signal};
use topologies::config::Service;
use topologies::profile::Profile;
use tracing_subscriber::EnvFilter;

use crate::cli;
use crate::config::check::check_host;
use crate::config::{Config, LISTEN_DEFAULT};
use crate::node::{LogChoice, Node, NodeConfig};
use crate::out::Out;
use crate::registry::Registry;
use crate::session::Session;

/// Steps of the confidence ladder and of its gates (spec 30 §4).
const CONFIDENCE_BUCKETS: &[f64] = &[0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0];

/// From a fold of one entry to an append that waits for a broker.
const STAGE_BUCKETS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// What runs beside the node may take this long to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Runs a node until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, with what to do about it.
pub fn up(session: &Session, out: Out, args: &cli::Up) -> anyhow::Result<bool> {
    let node = node_config(session, args)?;
    start_logs();
    let metrics = metrics()?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let first = !session.layout().journal().exists();
        let node = Node::start(node, metrics).await?;
        // A newcomer on a cluster has no root key to keep.
        if first && session.data().join("keys/root.key").exists() {
            let keys = session.data().join("keys");
            out.remark(&format!(
                "first start: keys are in {}; keep root.key somewhere else, the node does not \
                 need it again until you add another",
                keys.display()
            ));
        }
        let stop = Stop::listen()?;
        out.remark(&format!("ready: http://{}/", node.address));
        stop.told().await;
        out.remark("stopping; supervised services go on");
        node.stop().await;
        Ok(true)
    });
    // A checkpoint on its way to a slow place must not keep the process.
    runtime.shutdown_timeout(STOP_WITHIN);
    done
}

/// Merges file and flags.
///
/// # Errors
/// A token file that cannot be read.
fn node_config(session: &Session, args: &cli::Up) -> anyhow::Result<NodeConfig> {
    let config = session.config();
    let default: SocketAddr = LISTEN_DEFAULT.parse().context("parsing the default address")?;
    let listen = args.http.or(config.http.listen).unwrap_or(default);
    let token = match &config.http.token_file {
        Some(path) => Some(read_token(path)?),
        None => None,
    };
    if !listen.ip().is_loopback() && token.is_none() {
        bail!(
            "{listen} can be reached from elsewhere: name a configuration with \
             `http.token_file`, or listen on loopback"
        );
    }
    let profile = config.profile()?;
    let host = args.host.clone().or_else(|| config.runner.host.clone());
    if let Some(host) = &args.host {
        check_host(host).context("reading `--host`")?;
    }
    let own = host.clone().unwrap_or_else(crate::keys::host_name);
    if config.checkpoints.url.is_some() && matches!(session.choice(), LogChoice::Embedded) {
        bail!(
            "`checkpoints.url` is for nodes on a cluster; an embedded log is backed up with \
             `healwright export --to DIR`, or take the key out of the configuration"
        );
    }
    Ok(NodeConfig {
        log: session.choice().clone(),
        data: session.data().to_owned(),
        listen,
        token,
        hosts: config.http.hosts.clone(),
        services: config.service.iter().map(|it| here(it, &own, &profile)).collect(),
        profile,
        head_record: config.head_record.clone(),
        checkpoints: config.checkpoints.url.is_some().then(|| config.checkpoints.clone()),
        escalation: config.escalation.clone(),
        partitions: partitions(session, args)?,
        schema_registry: schema_registry(session, config, args)?,
        host,
        runner: !args.no_runner,
    })
}

fn partitions(session: &Session, args: &cli::Up) -> anyhow::Result<Option<u32>> {
    if session.only_partition().is_some() {
        bail!(
            "a node follows every partition; `--partitions N` says how many a new system has, and \
             `--partition` is for commands that read"
        );
    }
    let wanted = args.partitions.or_else(|| session.config().kafka.partitions);
    if wanted.is_some_and(|it| it > 1) && matches!(session.choice(), LogChoice::Embedded) {
        bail!(
            "an embedded log has one partition; several processes share more than one with \
             `--log kafka://HOST:PORT`"
        );
    }
    Ok(wanted)
}

fn schema_registry(
    session: &Session,
    config: &Config,
    args: &cli::Up,
) -> anyhow::Result<Option<Registry>> {
    let mut wanted = config.schema_registry.clone();
    wanted.url = args.schema_registry.clone().or(wanted.url);
    wanted.check()?;
    if wanted.url.is_some() && matches!(session.choice(), LogChoice::Embedded) {
        bail!(
            "a schema registry is for typed topics, and only a cluster has those: add \
             `--log kafka://HOST:PORT`, or leave `schema_registry` out"
        );
    }
    Registry::configured(&wanted)
}

/// What a service leaves out: it runs on the `own` host, and is probed as the profile says.
fn here(service: &Service, own: &str, profile: &Profile) -> Service {
    let mut service = service.clone();
    if service.probe_every_ms == 0 {
        service.probe_every_ms = profile.probe_period_ms;
    }
    if service.host.is_empty() {
        own.clone_into(&mut service.host);
    }
    service
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the token {}", path.display()))?;
    let token = text.trim().to_owned();
    if token.len() < 16 {
        bail!("the token in {} is shorter than 16 characters", path.display());
    }
    Ok(token)
}

/// SIGTERM and SIGINT, which end the process at once until somebody listens: so whoever says that
/// it is ready listens before.
pub struct Stop {
    term: Signal,
    interrupt: Signal,
}

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    /// The signals cannot be listened for.
    pub fn listen() -> anyhow::Result<Self> {
        // A file that may not grow is a write that fails, and no reason to be killed. Once listened
        // for, a signal has no other effect.
        let too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        drop(signal(too_large).context("listening for SIGXFSZ")?);
        Ok(Stop {
            term: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
        })
    }

    /// Waits for one of them.
    pub async fn told(mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The runtime around the core: two workers serve sockets and timers.
///
/// # Errors
/// The threads cannot be started.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")
}

/// The recorder behind `/metrics`.
///
/// # Errors
/// A recorder is installed already.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    exporter()?.install_recorder().context("installing the metrics recorder")
}

/// What `/metrics` is rendered by.
///
/// # Errors
/// The buckets of a metric are refused.
pub(crate) fn exporter() -> anyhow::Result<PrometheusBuilder> {
    let stage = Matcher::Full("healwright_cycle_seconds".to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("rca_confidence".to_owned()), CONFIDENCE_BUCKETS)
        .and_then(|it| it.set_buckets_for_metric(stage, STAGE_BUCKETS))
        .context("setting the buckets of a metric")
}

/// Logs go to stderr; `RUST_LOG` chooses what.
pub fn start_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second start in one process keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .try_init();
}

/// `healwright runner`.
///
/// # Errors
/// Another runner holds the folder, another deployment is pinned, or a file is damaged.
pub fn runner(args: &cli::Runner) -> anyhow::Result<bool> {
    start_logs();
    let program = std::env::current_exe().context("finding this program")?;
    let config = agent::local::Config {
        dir: args.dir.clone(),
        socket: args.socket.clone(),
        deployment: args.deployment.clone(),
        host: args.host.clone(),
        program,
    };
    agent::local::run_here(&config, &stop_flag())?;
    Ok(true)
}

/// A flag that SIGTERM or SIGINT sets, for what runs without a runtime of its own.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let signalled = stop.clone();
    std::thread::spawn(move || {
        let waited = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting a runtime")
            .and_then(|runtime| {
                runtime.block_on(async {
                    Stop::listen()?.told().await;
                    Ok(())
                })
            });
        if let Err(error) = waited {
            tracing::error!(%error, "signals cannot be listened for");
        }
        signalled.store(true, Ordering::SeqCst);
    });
    stop
}

/// `healwright proxy`.
///
/// # Errors
/// What keeps the proxy from running.
pub fn proxy(dir: &Path) -> anyhow::Result<bool> {
    start_logs();
    runner::proxy::run(dir)?;
    Ok(true)
}

/// `healwright sandbox-probe`: its plan comes in a variable.
///
/// # Errors
/// There is no plan.
pub fn sandbox_probe() -> anyhow::Result<bool> {
    runner::sandbox::inner::main().context("running inside the sandbox")?;
    Ok(true)
}
