//! `healwright node`: who belongs to a deployment on a cluster, and letting somebody in.
//!
//! A node is certified with the root key, in the list that all nodes read. A runner is registered
//! with the operator's key, as configuration of its partition; that goes straight into the
//! partition's inbox, so no node needs to run on the data directory that holds the key.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use schemas::event::ConfigKind;
use schemas::signature::PublicKey;
use schemas::{Event, Place};
use serde_json::json;
use state::kafka::Cluster;

use super::{Form, verdict};
use crate::join::{Candidate, List, Members};
use crate::node::{LogChoice, activation};
use crate::out::Out;
use crate::projection::Model;
use crate::session::Session;

/// The node in office takes what is sent within this time; an election is over by then.
const JOURNALED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Journal records are read in runs of about this size.
const READ_BYTES: usize = 1024 * 1024;

/// `healwright node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Who founded, who was admitted, which nodes and runners wait
    List,
    /// Let in what waits: a node with the root key, a runner with the operator's key of this data
    /// directory
    Admit {
        /// Its key's id, as `node list` shows it
        key: String,
        /// A runner also where its host is registered under another key, which ends with this
        #[arg(long)]
        replace: bool,
    },
}

/// Runs one of the commands.
///
/// # Errors
/// The log is not on a cluster, nobody with that key waits, or the key to sign with is kept
/// elsewhere.
pub fn run(session: &Session, out: Out, command: &NodeCommand) -> anyhow::Result<bool> {
    let LogChoice::Kafka(cluster) = session.choice() else {
        bail!("an embedded log belongs to one node; name a cluster with `--log kafka://…`");
    };
    let mut list = List::of_founded(cluster)?;
    let members = list.read()?;
    match command {
        NodeCommand::List => list_all(session, out, members),
        NodeCommand::Admit { key, replace } => {
            let node = members.waiting().find(|(_, it)| it.id() == *key).cloned();
            if let Some((name, node)) = node {
                list.admit(&session.keys().existing_root()?, node)?;
                out.remark(&format!("{name} ({key}) belongs to the deployment now"));
                return Ok(true);
            }
            let asked = members.runners.iter().filter(|it| it.runner.key.id() == *key);
            let asked: Vec<Candidate> = asked.cloned().collect();
            if asked.is_empty() {
                bail!(
                    "no node or runner with the key {key} waits; `healwright node list` shows who \
                     does"
                );
            }
            let mut done = true;
            for request in &asked {
                done &= register(session, out, cluster, request, *replace)?;
            }
            Ok(done)
        }
    }
}

/// What the journal says of a runner that has asked.
enum Standing {
    /// Registered as it asks.
    Registered,
    /// Nobody is registered for its host, or the same key with other sandboxes.
    Waits,
    /// Its host is registered under another key.
    Taken(PublicKey),
    /// It was registered, until this key was in its place.
    Replaced(PublicKey),
}

impl Standing {
    fn of(model: &Model, request: &Candidate) -> Self {
        let key = (request.partition, request.runner.host.clone());
        let Some(known) = model.runners.get(&key) else { return Standing::Waits };
        let (asks, has) = (&request.runner, &known.runner);
        match asks.key == has.key {
            true if asks == has => Standing::Registered,
            true => Standing::Waits,
            false if known.former.contains(&asks.key) => Standing::Replaced(has.key),
            false => Standing::Taken(has.key),
        }
    }

    /// One word for it.
    fn word(&self) -> &'static str {
        match self {
            Standing::Registered => "registered",
            Standing::Waits | Standing::Taken(_) => "waits",
            Standing::Replaced(_) => "replaced",
        }
    }

    fn words(&self) -> String {
        let word = self.word();
        match self {
            Standing::Registered | Standing::Waits => word.to_owned(),
            Standing::Taken(key) => format!("{word}; {} is registered", key.id()),
            Standing::Replaced(key) => format!("{word} by {}", key.id()),
        }
    }
}

fn list_all(session: &Session, out: Out, members: &Members) -> anyhow::Result<bool> {
    let mut runners = Vec::new();
    // Who is registered stands in the journal, which is read only where somebody asks.
    if !members.runners.is_empty() {
        let projection = session.projection()?;
        let model = projection.model();
        runners.extend(members.runners.iter().map(|it| (it, Standing::of(&model, it))));
    }
    let admitted = |key: &PublicKey| members.admitted.iter().any(|(it, _)| it == key);
    let standing = |key| if admitted(key) { "admitted" } else { "waits" };
    let deployment = members.founded.as_ref().map(|(id, _)| id.clone());
    if out.form == Form::Json {
        let nodes = members
            .requested
            .iter()
            .map(|(name, key)| json!({ "name": name, "key": key.id(), "standing": standing(key) }));
        let runners = runners.iter().map(|(it, standing)| {
            let registered = match standing {
                Standing::Registered => Some(it.runner.key.id()),
                Standing::Taken(key) | Standing::Replaced(key) => Some(key.id()),
                Standing::Waits => None,
            };
            json!({
                "host": it.runner.host, "partition": it.partition, "key": it.runner.key.id(),
                "node": it.node.id(), "standing": standing.word(),
                "registered_key": registered,
            })
        });
        out.json(&json!({
            "schema": "healwright.nodes.v1",
            "deployment": deployment,
            "nodes": nodes.collect::<Vec<_>>(),
            "runners": runners.collect::<Vec<_>>(),
        }));
        return Ok(true);
    }
    out.remark(&deployment.unwrap_or_else(|| "no deployment has been founded here".to_owned()));
    let rows = members.requested.iter();
    let rows = rows.map(|(name, key)| vec![name.clone(), key.id(), standing(key).to_owned()]);
    out.table(&["node", "key", "standing"], &rows.collect::<Vec<_>>());
    if !runners.is_empty() {
        out.line("");
        let rows = runners.iter().map(|(it, standing)| {
            let by = members.requested.iter().find(|(_, key)| *key == it.node);
            let by = by.map_or_else(|| it.node.id(), |(name, key)| format!("{name} {}", key.id()));
            let (host, key) = (it.runner.host.clone(), it.runner.key.id());
            vec![host, it.partition.to_string(), key, by, standing.words()]
        });
        let head = ["runner of", "partition", "key", "asked by", "standing"];
        out.table(&head, &rows.collect::<Vec<_>>());
    }
    Ok(true)
}

/// Registers a runner under the operator's signature, in its partition.
fn register(
    session: &Session,
    out: Out,
    cluster: &Cluster,
    request: &Candidate,
    replace: bool,
) -> anyhow::Result<bool> {
    let Candidate { partition, runner, .. } = request;
    let (host, key) = (&runner.host, runner.key.id());
    let projection = session.projection()?;
    let model = projection.model();
    match Standing::of(&model, request) {
        Standing::Registered => {
            out.remark(&format!("the runner of {host} ({key}) is registered already"));
            return Ok(true);
        }
        Standing::Taken(other) | Standing::Replaced(other) if !replace => bail!(
            "host {host} is registered under the key {} in partition {partition}. If that runner \
             is gone for good and you know why this one has another key, add `--replace`; if two \
             machines call themselves {host}, start one of them with `--host NAME`",
            other.id()
        ),
        Standing::Taken(_) | Standing::Replaced(_) | Standing::Waits => {}
    }
    // One above what stands there: of two answers to one request the later one changes nothing.
    let standing = model.runners.get(&(*partition, host.clone()));
    let version = standing.map_or(1, |it| it.version + 1);
    drop(model);
    let operator = session.keys().existing_operator()?;
    let body = serde_json::to_string(runner).context("writing a runner as JSON")?;
    let name = format!("runner/{host}");
    let input = activation(&operator, ConfigKind::Policy, &name, version, body);
    let log = session.log_of(*partition)?;
    let from = log.head()?.next_seq;
    let record = input.encode().context("writing the registration")?;
    cluster.send(input.stream(), *partition, record)?;
    let Some(place) = journaled(session, *partition, from, &input.event)? else {
        bail!(
            "the registration of {host} is sent and nobody has journaled it within {} s; it takes \
             effect when a node is in office. `healwright groups` shows who should be",
            JOURNALED_WITHIN.as_secs()
        );
    };
    if let Some(why) = verdict::refusal(session, &json!({ "place": place.to_string() }))? {
        out.error("refused", &why);
        return Ok(false);
    }
    out.remark(&format!("the runner of {host} ({key}) is registered ({place})"));
    Ok(true)
}

/// The place that `event` was given in the journal, once it has one.
fn journaled(
    session: &Session,
    partition: u32,
    mut from: u64,
    event: &Event,
) -> anyhow::Result<Option<Place>> {
    let until = Instant::now() + JOURNALED_WITHIN;
    while Instant::now() < until {
        session.refresh()?;
        for batch in session.log_of(partition)?.read(from, READ_BYTES)? {
            let found = batch.entries.iter().find(|it| it.event().is_ok_and(|it| it == *event));
            if let Some(entry) = found {
                return Ok(Some(entry.envelope.place()));
            }
            from = batch.next_seq();
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(None)
}
