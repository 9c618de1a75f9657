//! What stands in the journal, as CloudEvents on the topic of its type (binary mode: attributes
//! are headers, the payload is the stored bytes). Where a schema registry is configured, the
//! datum in them stands behind the id that the registry gave its schema.
//!
//! The partition's owner publishes, on a thread of its own and behind the journal, so nobody
//! reads of something that is not journaled. A former owner that still publishes is fenced by
//! the broker; where the fan-out has come to stands in its own transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schemas::cap::{Capped, cap};
use schemas::event::Class;
use schemas::{Batch, Entry, Kind};
use state::Log;
use state::kafka::Cluster;
use state::kafka::fanout::{Fanout, Record};

use crate::engine::Handle;
use crate::node::parts::Part;
use crate::registry::{self, Registered, Subject};

/// Entries of one transaction come from about this much of the journal.
const READ_BYTES: usize = 512 * 1024;
/// After an error the fan-out is taken anew, not before this.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How values are framed.
#[derive(Clone, Debug)]
pub enum Values {
    /// As they are stored: Avro single-object encoding.
    SingleObject,
    /// Confluent's wire format, under the ids of a registry.
    Registered(Arc<Registered>),
}

/// All events that are fanned out.
pub fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| is_fanned_out(*kind))
}

/// Their topics.
pub fn topics() -> Vec<String> {
    kinds().map(Kind::topic).collect()
}

/// Their subjects in a schema registry.
pub fn subjects(cluster: &Cluster) -> Vec<Subject> {
    kinds().flat_map(|kind| registry::subjects(kind, &cluster.topic(&kind.topic()))).collect()
}

/// Samples are journaled by reference, and records of the log itself have no topic.
pub(crate) fn is_fanned_out(kind: Kind) -> bool {
    kind.class() == Class::Control && kind != Kind::TelemetrySample
}

/// Publishes while this process is the owner, until the engine stops; answers how far it has
/// come, which counts while it is.
pub fn follow(cluster: &Cluster, part: &Part, deployment: &str, values: Values) -> Arc<AtomicU64> {
    let (engine, partition) = (&part.engine, part.number);
    let published = Arc::new(AtomicU64::new(0));
    let publisher = Publisher {
        cluster: cluster.clone(),
        engine: engine.clone(),
        log: engine.log(),
        form: Arc::new(Form { source: format!("/healwright/{deployment}/{partition}"), values }),
        partition,
        published: published.clone(),
    };
    tokio::spawn(async move {
        let mut seat = publisher.engine.seat();
        loop {
            let here = seat.borrow_and_update().here;
            if here && let Err(error) = publisher.publish().await {
                tracing::warn!(error = format!("{error:#}"), "the fan-out is taken anew");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
            if seat.changed().await.is_err() {
                return;
            }
        }
    });
    published
}

struct Publisher {
    cluster: Cluster,
    engine: Handle,
    log: Arc<dyn Log>,
    form: Arc<Form>,
    partition: u32,
    published: Arc<AtomicU64>,
}

/// What records are made with.
struct Form {
    source: String,
    values: Values,
}

impl Publisher {
    /// Publishes until this process has left office or the engine has stopped.
    async fn publish(&self) -> anyhow::Result<()> {
        let (cluster, partition) = (self.cluster.clone(), self.partition);
        let taken = tokio::task::spawn_blocking(move || {
            let fanout = Fanout::take(&cluster, partition)?;
            let position = fanout.position()?;
            anyhow::Ok((Arc::new(fanout), position))
        });
        let (fanout, mut position) = taken.await??;
        let mut moved = self.engine.follow();
        let mut seat = self.engine.seat();
        loop {
            self.published.store(position, Ordering::Relaxed);
            while position < moved.borrow_and_update().next_seq {
                if !seat.borrow_and_update().here {
                    return Ok(());
                }
                let (log, fanout) = (self.log.clone(), fanout.clone());
                let form = self.form.clone();
                position =
                    tokio::task::spawn_blocking(move || step(&*log, &fanout, &form, position))
                        .await??;
                self.published.store(position, Ordering::Relaxed);
            }
            tokio::select! {
                changed = moved.changed() => if changed.is_err() { return Ok(()) },
                changed = seat.changed() => {
                    if changed.is_err() || !seat.borrow_and_update().here {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn step(log: &dyn Log, fanout: &Fanout, form: &Form, position: u64) -> anyhow::Result<u64> {
    let batches = log.read(position, READ_BYTES)?;
    let Some(next) = batches.last().map(Batch::next_seq) else { return Ok(position) };
    let entries = batches.iter().flat_map(|batch| &batch.entries);
    let records = entries
        .filter(|entry| position <= entry.envelope.seq && is_fanned_out(entry.envelope.kind))
        .map(|entry| record(form, entry))
        .collect::<anyhow::Result<Vec<Record>>>()?;
    // A run without records needs no transaction; the next one takes the position along.
    if !records.is_empty() {
        fanout.publish(&records, next)?;
    }
    Ok(next)
}

/// CloudEvents 1.0, Kafka binding, binary content mode.
fn record(form: &Form, entry: &Entry) -> anyhow::Result<Record> {
    let envelope = &entry.envelope;
    let topic = envelope.kind.topic();
    let mut headers = vec![
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", envelope.event_id.to_string()),
        ("ce_source", form.source.clone()),
        ("ce_type", topic.clone()),
        ("ce_time", envelope.wall.to_string()),
        ("ce_place", envelope.reference()),
        ("content-type", "application/avro".to_owned()),
    ];
    if let Some(correlation) = &envelope.correlation {
        headers.push(("ce_correlationid", correlation.clone()));
    }
    let stored = match cap(envelope.kind, entry.payload.clone()) {
        Capped::Inline(payload) => payload,
        Capped::Summarized { payload, .. } => {
            headers.push(("ce_redaction", "summary".to_owned()));
            payload
        }
    };
    let value = match &form.values {
        Values::SingleObject => stored,
        Values::Registered(registered) => {
            let (value, schema) = registered.framed(envelope.kind, &stored)?;
            headers.push(("ce_dataschema", schema));
            value
        }
    };
    Ok(Record { topic, key: envelope.key.clone(), headers, value })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use schemas::cap::Summary;
    use schemas::envelope::Redaction;
    use schemas::{Actor, Cause, Envelope, Hash, Ns, Uuid};

    use super::*;

    fn entry(payload: Vec<u8>) -> Entry {
        let envelope = Envelope {
            event_id: Uuid::default(),
            kind: Kind::AnnotationAdded,
            partition: 0,
            seq: 7,
            key: "shop".to_owned(),
            tick: Ns(1),
            wall: Ns(1),
            actor: Actor::system("test"),
            cause: Cause::Owner { epoch: 1, n: 0 },
            correlation: Some("inc-1".to_owned()),
            trace_id: None,
            priority: 5,
            ttl_ms: 0,
            redaction: Redaction::None,
            commitment: Hash::default(),
        };
        Entry::new(envelope, [0; 32], payload)
    }

    #[test]
    fn a_record_is_the_stored_payload_with_its_place_and_above_the_cap_its_summary() {
        let header = |record: &Record, name: &str| {
            record.headers.iter().find(|it| it.0 == name).map(|it| it.1.clone())
        };
        let form = Form { source: "/healwright/d/0".to_owned(), values: Values::SingleObject };
        let small = record(&form, &entry(vec![1, 2, 3])).unwrap();
        assert_eq!((small.topic.as_str(), small.key.as_str()), ("annotation.added.v1", "shop"));
        assert_eq!(small.value, [1, 2, 3]);
        assert_eq!(header(&small, "ce_place").unwrap(), "immutable:log:0/7");
        assert_eq!(header(&small, "ce_correlationid").unwrap(), "inc-1");
        assert_eq!(header(&small, "ce_redaction"), None);
        let large = vec![5; 9000];
        let summarized = record(&form, &entry(large.clone())).unwrap();
        assert_eq!(header(&summarized, "ce_redaction").unwrap(), "summary");
        let summary = Summary::decode(&summarized.value).unwrap();
        assert_eq!(summary.hash_of_full, Hash::of(&[&large]).to_digest());
    }
}
