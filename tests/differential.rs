//! The same inputs give the same entries on every log: batch for batch, byte for byte.

#![allow(clippy::unwrap_used)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;

use std::path::Path;
use std::sync::Arc;

use healwright::engine::Input;
use healwright::engine::heads::Heads;
use healwright::engine::owner::{Office, Owner};
use healwright::keys::Identity;
use schemas::event::{ChangeKind, ChangeObserved, ConfigActivated, ConfigKind, TelemetrySample};
use schemas::signature::KeyPair;
use schemas::{Actor, Batch, Event, Ns, Stream};
use state::embedded::EmbeddedLog;
use state::kafka::{Cluster, KafkaLog};
use state::memory::MemoryLog;
use state::{Log, Store};
use topologies::profile::Profile;
use topologies::testing::series;

const START: Ns = Ns(1_772_445_600_000_000_000);
const CYCLES: u64 = 60;

fn identity() -> Identity {
    let (root, node) = (KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
    Identity::new("test", "node", &root, node)
}

fn change(id: String) -> Vec<u8> {
    let change = ChangeObserved {
        id,
        service: "api".to_owned(),
        kind: ChangeKind::Deploy,
        version: "1.0.1".to_owned(),
        reference: String::new(),
        author: "ci".to_owned(),
        summary: String::new(),
        at: None,
    };
    Input::new(Actor::system("test"), "api", change).encode().unwrap()
}

fn profile() -> Vec<u8> {
    let body = serde_json::to_string(&Profile::local()).unwrap();
    let profile = ConfigActivated {
        kind: ConfigKind::Policy,
        name: "profile".to_owned(),
        version: 1,
        digest: ConfigActivated::digest_of(&body),
        approved_by: "test".to_owned(),
        audit_log_id: None,
        body: Some(body),
        signature: None,
    };
    Input::new(Actor::system("test"), "profile", profile).encode().unwrap()
}

/// One probe of a service that fails for a while.
fn probe(at: Ns, up: bool) -> Vec<u8> {
    let sample = TelemetrySample {
        source: "runner".to_owned(),
        exporter: String::new(),
        series: vec![series("api", "probe", &[])],
        series_idx: vec![0],
        ts_ns: vec![at.0],
        value: vec![f64::from(u8::from(up))],
        snapshot: None,
    };
    Event::from(sample).encode().unwrap()
}

/// Runs one history with repeats, poison and a fault on `log`; answers its chain.
fn history<L: Log + Store + 'static>(log: &Arc<L>, dir: &Path) -> Vec<Vec<u8>> {
    let mut chance = 7u64;
    let office = Office {
        log: log.clone(),
        store: log.clone(),
        identity: &identity(),
        endpoint: "127.0.0.1:1".to_owned(),
        heads: Heads::open(&dir.join("head"), None).unwrap(),
        chance: Box::new(move |buffer| {
            for byte in buffer {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (chance >> 56) as u8;
            }
        }),
    };
    let mut owner = Owner::elect(office, START).unwrap();
    log.send(Stream::Inbox, &[profile()]).unwrap();
    for n in 0..CYCLES {
        let now = START + Ns::from_ms(250 * n);
        log.send(Stream::Telemetry, &[probe(now, !(20..40).contains(&n))]).unwrap();
        match n % 10 {
            0 => drop(log.send(Stream::Inbox, &[change(format!("change-{n}"))]).unwrap()),
            5 => drop(log.send(Stream::Inbox, &[change(format!("change-{}", n - 5))]).unwrap()),
            7 => drop(log.send(Stream::Inbox, &[b"poison".to_vec()]).unwrap()),
            _ => {}
        }
        while owner.cycle(now).unwrap().more {}
    }
    let mut batches: Vec<Batch> = Vec::new();
    let end = log.head().unwrap().next_seq;
    while batches.last().map_or(0, Batch::next_seq) < end {
        let next = batches.last().map_or(0, Batch::next_seq);
        let more = log.read(next, usize::MAX).unwrap();
        assert!(!more.is_empty(), "the chain has {end} entries and gives none from {next} on");
        batches.extend(more);
    }
    batches.iter().map(Batch::encode).collect()
}

/// The same inputs give the same entries on every log.
#[test]
fn same_result_embedded_and_kafka() {
    let dir = || tempfile::tempdir().unwrap();
    let deployment = identity().deployment;
    let (one, two, three) = (dir(), dir(), dir());
    let memory = history(&Arc::new(MemoryLog::new(&deployment, 0)), one.path());
    let data = two.path().join("data");
    let embedded = EmbeddedLog::open(&data, &deployment, 0).unwrap();
    let embedded = history(&Arc::new(embedded), two.path());
    let url = format!("kafka://{}", bed::shared());
    let cluster = Cluster::parse(&url, &bed::prefix()).unwrap();
    cluster.prepare(Some(1), &[]).unwrap();
    let data = three.path().join("data");
    let kafka = KafkaLog::open(&cluster, &data, &deployment, 0, Arc::new(|| {})).unwrap();
    let kafka = history(&Arc::new(kafka), three.path());
    assert!(memory.len() > 60, "{} batches", memory.len());
    assert!(memory == embedded, "embedded differs from memory");
    assert!(memory == kafka, "Kafka differs from memory");
}
