//! `healwright watch`: heals one service of the user's own.

mod asked;
mod doubt;

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use runner::agent::local;
use runner::supervisor::Kept;
use schemas::{Entry, Kind, Ns};
use topologies::config::Service;
use topologies::profile::Profile;

use crate::cli::{self, Form};
use crate::engine::Handle;
use crate::follow::Follower;
use crate::node::{Layout, LogChoice, Node, NodeConfig};
use crate::out::Out;
use crate::session::Session;
use crate::{up, words};

/// Starts the service, watches it, and heals it until it is told to stop.
///
/// # Errors
/// A command or budget that is none, or whatever keeps the node from starting.
pub fn run(session: &Session, out: Out, args: &cli::Watch) -> anyhow::Result<bool> {
    let service = asked::service(args)?;
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
        host: None,
        runner: true,
    };
    if !config.listen.ip().is_loopback() {
        bail!("watch listens on loopback only; `healwright up --config` can do more");
    }
    up::start_logs();
    let metrics = up::metrics()?;
    make_way(session, out, &service)?;
    let layout = session.layout();
    up::runtime()?.block_on(async {
        let node = Node::start(config, metrics).await?;
        let address = node.address;
        let stop = up::Stop::listen()?;
        out.remark(&format!("watching {}; page: http://{address}/; Ctrl-C ends it", service.name));
        if args.propose_only {
            out.remark("repairs are proposed and wait for `healwright approve`");
        }
        let story = tokio::spawn(tell(node.engine().clone(), out));
        let doubt = tokio::spawn(doubt::tell(layout.clone(), service.clone(), out));
        stop.told().await;
        story.abort();
        doubt.abort();
        node.stop().await;
        out.remark(&format!("stopped watching; {}", standing(&layout, &service.name)));
        Ok(true)
    })
}

/// Ends what an earlier `watch` started under this name, where that was started in another way:
/// a runner leaves a process that runs as it is, whatever is defined anew.
fn make_way(session: &Session, out: Out, service: &Service) -> anyhow::Result<()> {
    let runner = session.layout().runner();
    let kept = Kept::read(&runner, &service.name).context("reading what an earlier watch left")?;
    let Some(kept) = kept else { return Ok(()) };
    let was = kept.spec();
    let is_same = was.command == service.command && was.cwd == service.cwd;
    // Releases and routes are not a command's to end; a running node refuses this one anyway.
    let is_ours = !was.is_proxied() && was.release.is_none() && was.environment.is_none();
    if is_same || !is_ours || session.running().is_some() {
        return Ok(());
    }
    let (name, old) = (&service.name, was.command.join(" "));
    let started = match kept.process() {
        Some(it) => format!("its process {} is ended, and the new command started", it.pid),
        None => "the new command is started".to_owned(),
    };
    // One that a killed node has left behind would hold the folder.
    crate::node::runner::end_former(&runner)?;
    local::forget(&runner, name).with_context(|| format!("ending {name}, started as `{old}`"))?;
    out.remark(&format!("{name} was `{old}` in {}; {started}", was.cwd));
    Ok(())
}

/// What is true of the service once nobody watches it.
fn standing(layout: &Layout, name: &str) -> String {
    let kept = match Kept::read(&layout.runner(), name) {
        Ok(kept) => kept.filter(Kept::was_started),
        Err(error) => return format!("whether {name} runs is not known: {error}"),
    };
    let Some(kept) = kept else { return format!("{name} was never started") };
    match kept.process() {
        Some(it) => format!("{name} goes on running (pid {})", it.pid),
        None => {
            format!("{name} does not run; what it wrote is in {}", kept.log().display())
        }
    }
}

/// Tells the story as it happens: one line for what a person wants to know.
async fn tell(engine: Handle, out: Out) {
    // What was there before is told by `healwright incident list`.
    let follower = Follower::from_election(&engine).await;
    let mut follower = match follower {
        Ok(follower) => follower,
        Err(error) => {
            tracing::error!(%error, "the journal cannot be followed");
            return;
        }
    };
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
