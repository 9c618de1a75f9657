//! `healwright watch`: heals one service of the user's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use schemas::{Entry, Kind, Ns};
use topologies::config::Service;
use topologies::profile::Profile;

use crate::cli::{self, Form};
use crate::config::{budget, words as split};
use crate::engine::Handle;
use crate::follow::Follower;
use crate::node::{LogChoice, Node, NodeConfig};
use crate::out::Out;
use crate::session::Session;
use crate::{keys, up, words};

/// Starts the service, watches it, and heals it until it is told to stop.
///
/// # Errors
/// A command or budget that is none, or whatever keeps the node from starting.
pub fn run(session: &Session, out: Out, args: &cli::Watch) -> anyhow::Result<bool> {
    let command = split(&args.start)?;
    let (attempts_max, attempts_window_ms) = budget(&args.budget)?;
    if !args.http.starts_with("http://") {
        bail!("--http {:?} is no http:// URL of the service", args.http);
    }
    let service = Service {
        name: args.name.clone().unwrap_or_else(|| name_of(&command[0])),
        host: keys::host_name(),
        command,
        probe_url: args.http.clone(),
        attempts_max,
        attempts_window_ms,
        propose_only: args.propose_only,
        cwd: std::env::current_dir().context("asking for this folder")?.display().to_string(),
        variables: path_variable(),
        ..Service::default()
    };
    schemas::canonical::identifier(&service.name).with_context(|| {
        format!("naming the service {:?}; choose one with --name", service.name)
    })?;
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = NodeConfig {
        log: LogChoice::Embedded,
        data: session.data().to_owned(),
        listen: args.listen.unwrap_or(free),
        token: None,
        hosts: Vec::new(),
        profile: Profile::local(),
        services: vec![service.clone()],
        head_record: None,
        checkpoints: None,
        escalation: crate::config::Escalation::default(),
        partitions: None,
        schema_registry: None,
        runner: true,
    };
    if !config.listen.ip().is_loopback() {
        bail!("watch listens on loopback only; `healwright up --config` can do more");
    }
    up::start_logs();
    let metrics = up::metrics()?;
    up::runtime()?.block_on(async {
        let node = Node::start(config, metrics).await?;
        let address = node.address;
        out.remark(&format!("watching {}; page: http://{address}/; Ctrl-C ends it", service.name));
        if args.propose_only {
            out.remark("repairs are proposed and wait for `healwright approve`");
        }
        let story = tokio::spawn(tell(node.engine().clone(), out));
        up::wait_for_stop().await?;
        story.abort();
        out.remark(&format!("stopped watching; {} goes on running", service.name));
        node.stop().await;
        Ok(true)
    })
}

/// The command's last path part, as far as it is a name.
fn name_of(command: &str) -> String {
    let last = command.rsplit('/').next().unwrap_or(command);
    let allowed = |it: &char| it.is_ascii_alphanumeric() || "._-".contains(*it);
    let name: String = last.chars().filter(allowed).collect();
    let name = name.trim_start_matches(['.', '-', '_']).to_owned();
    if name.is_empty() { "service".to_owned() } else { name }
}

/// The user's PATH, so that the command is found as it is in the user's shell.
fn path_variable() -> BTreeMap<String, String> {
    std::env::var("PATH").map(|path| ("PATH".to_owned(), path)).into_iter().collect()
}

/// Tells the story as it happens: one line for what a person wants to know.
async fn tell(engine: Handle, out: Out) {
    let mut follower = Follower::from_zero(&engine);
    while let Some(batches) = follower.next().await {
        batches.iter().flat_map(|it| &it.entries).for_each(|entry| show(out, entry));
    }
}

/// Kinds that a person who watches wants to see.
const TOLD: &[Kind] = &[
    Kind::SloAnomalyDetected,
    Kind::RcaHypothesis,
    Kind::HealTriggerEvaluated,
    Kind::GovernanceDecision,
    Kind::RunnerResult,
    Kind::L3ExecutionResult,
    Kind::HealEscalated,
    Kind::ModeChanged,
];

fn show(out: Out, entry: &Entry) {
    if !TOLD.contains(&entry.envelope.kind) {
        return;
    }
    let Ok(event) = entry.event() else { return };
    if out.form == Form::Json {
        out.json(&schemas::view::entry(entry));
        return;
    }
    out.line(&format!("{}  {}", clock(entry.envelope.wall), words::sentence(&event)));
}

fn clock(at: Ns) -> String {
    let local = crate::out::local_time(at);
    local.split(' ').nth(1).map_or_else(String::new, |it| it.chars().take(8).collect())
}
