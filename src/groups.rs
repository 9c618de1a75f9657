//! `healwright groups`: who shares a log on a cluster, who holds office on each partition, and
//! how far the chain is behind what was sent and the typed topics behind the chain.
//!
//! It asks the brokers and reads the chain; it joins nothing and changes nothing, and needs no
//! node.

use anyhow::Context as _;
use schemas::Head;
use schemas::event::OwnerElected;
use serde_json::{Value, json};
use state::kafka::fanout;
use state::kafka::watch::{Group, Lag, Onlooker};
use state::kafka::{Cluster, KafkaReader};

use crate::cli::Form;
use crate::fanout::is_fanned_out;
use crate::out::Out;
use crate::session::Session;

/// The chain is read in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Digits of a hash by which people tell two apart.
const HASH_DIGITS: usize = 12;

/// What is known of one partition.
struct Partition {
    number: u32,
    head: Head,
    elected: Option<OwnerElected>,
    lag: Lag,
    /// Events that are journaled and not on their topic yet.
    unpublished: u64,
    /// Records of the journal's topic that are not in the chain.
    unlinked: u64,
}

/// Shows group and partitions.
///
/// # Errors
/// The log is not on a cluster, or the cluster does not answer.
pub fn run(session: &Session, out: Out) -> anyhow::Result<bool> {
    let (cluster, readers) = session.on_cluster()?;
    let onlooker = Onlooker::of(cluster)?;
    let group = onlooker.group()?;
    let partitions: Vec<Partition> = readers
        .into_iter()
        .map(|reader| look(cluster, &onlooker, reader))
        .collect::<anyhow::Result<_>>()?;
    match out.form {
        Form::Json => out.json(&as_json(&group, &partitions)),
        Form::Table => show(out, &group, &partitions),
    }
    Ok(true)
}

fn look(cluster: &Cluster, onlooker: &Onlooker, reader: &KafkaReader) -> anyhow::Result<Partition> {
    let head = reader.head();
    let number = head.partition;
    let lag = onlooker.lag(number, head.positions)?;
    let published = fanout::position(cluster, number)?;
    Ok(Partition {
        number,
        elected: reader.elected(),
        lag,
        unpublished: unpublished(reader, published).context("counting what is not published")?,
        unlinked: reader.n_skipped(),
        head,
    })
}

/// Events from `from` on that belong on a typed topic.
fn unpublished(reader: &KafkaReader, from: u64) -> anyhow::Result<u64> {
    let (mut n, mut next) = (0, from);
    loop {
        let batches = reader.read(next, READ_BYTES)?;
        let Some(last) = batches.last() else { return Ok(n) };
        let entries = batches.iter().flat_map(|batch| &batch.entries);
        let waiting =
            entries.filter(|it| from <= it.envelope.seq && is_fanned_out(it.envelope.kind));
        n += waiting.count() as u64;
        next = last.next_seq();
    }
}

fn show(out: Out, group: &Group, partitions: &[Partition]) {
    let protocol = group.protocol.name();
    out.remark(&format!("group {}: {}, protocol {protocol}", group.name, group.state));
    let rows = group.members.iter().map(|it| {
        let partitions: Vec<String> = it.partitions.iter().map(u32::to_string).collect();
        vec![it.client.clone(), it.host.clone(), partitions.join(",")]
    });
    out.table(&["member", "host", "assigned"], &rows.collect::<Vec<_>>());
    let rows = partitions.iter().map(|it| {
        let elected = it.elected.as_ref();
        let name = elected.map_or_else(|| "nobody yet".to_owned(), |it| it.node.clone());
        let Lag { inbox, control, telemetry } = it.lag;
        let mut row = vec![it.number.to_string(), name];
        row.push(elected.map(|it| it.endpoint.clone()).unwrap_or_default());
        let numbers = [it.head.epoch, it.head.next_seq];
        row.extend(numbers.map(|it| it.to_string()));
        row.push(it.head.hash.to_string().chars().take(HASH_DIGITS).collect());
        let lags = [inbox, control, telemetry, it.unpublished];
        row.extend(lags.map(|it| it.to_string()));
        row
    });
    let head = [
        "partition",
        "owner",
        "endpoint",
        "epoch",
        "entries",
        "head",
        "inbox",
        "control",
        "telemetry",
        "fan-out",
    ];
    out.table(&head, &rows.collect::<Vec<_>>());
}

fn as_json(group: &Group, partitions: &[Partition]) -> Value {
    let members = group
        .members
        .iter()
        .map(|it| json!({ "client": it.client, "host": it.host, "partitions": it.partitions }));
    let members: Vec<Value> = members.collect();
    let partitions = partitions.iter().map(|it| {
        let owner = it.elected.as_ref();
        let owner = owner.map(|it| json!({ "node": it.node, "endpoint": it.endpoint }));
        json!({
            "partition": it.number,
            "owner": owner,
            "epoch": it.head.epoch,
            "head": { "next_seq": it.head.next_seq, "hash": it.head.hash.to_string() },
            "lag": {
                "inbox": it.lag.inbox,
                "control": it.lag.control,
                "telemetry": it.lag.telemetry,
                "fanout": it.unpublished,
            },
            "unlinked": it.unlinked,
        })
    });
    json!({
        "schema": "healwright.groups.v1",
        "group": group.name,
        "protocol": group.protocol.name(),
        "state": group.state,
        "members": members,
        "partitions": partitions.collect::<Vec<_>>(),
    })
}
