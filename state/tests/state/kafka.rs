//! What only a log on a cluster can meet: a broker that has lost what was acknowledged, and a
//! process that claims office.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use state::kafka::{Cluster, KafkaLog};
use state::{Append, Changes, Log, LogError};

use crate::bed::{self, Brokers};
use crate::fixture::{Author, chain, deployment};

/// A change of settings is known to every broker within this.
const KNOWN_WITHIN: Duration = Duration::from_secs(30);

fn cluster(bootstrap: &str) -> Cluster {
    let cluster = Cluster::parse(&format!("kafka://{bootstrap}"), &bed::prefix()).unwrap();
    cluster.prepare(Some(1), &[]).unwrap();
    cluster
}

fn open(cluster: &Cluster, dir: &Path) -> KafkaLog {
    KafkaLog::open(cluster, dir, &deployment(), 0, Arc::new(|| {})).unwrap()
}

fn fill(log: &KafkaLog, batches: &[schemas::Batch]) {
    for batch in batches {
        let head = log.head().unwrap();
        let appended = log.append(&head, batch, &Changes::default()).unwrap();
        assert!(matches!(appended, Append::Appended(_)));
    }
}

/// Puts the broker back to an older copy of the journal's partition, as a disk that was restored.
fn lose_tail(brokers: &Brokers, folder: &Path, older: &Path) {
    brokers.tell("end", 1);
    std::fs::remove_dir_all(folder).unwrap();
    assert!(Command::new("cp").arg("-a").arg(older).arg(folder).status().unwrap().success());
    brokers.tell("restart", 1);
}

/// Writes a record as any process can, past everything that an honest one checks.
fn deliver(bootstrap: &str, topic: &str, record: &[u8]) {
    let mut config = ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", bootstrap).create().unwrap();
    producer.send(BaseRecord::<(), [u8]>::to(topic).partition(0).payload(record)).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
}

#[test]
fn a_tail_that_was_lost_halts_who_has_read_it_whether_or_not_the_topic_has_grown_again() {
    let brokers = Brokers::start(1, &[]);
    for grown in [false, true] {
        let cluster = cluster(&brokers.bootstrap);
        let dir = tempfile::tempdir().unwrap();
        let (data, older) = (dir.path().join("data"), dir.path().join("older"));
        let batches = chain(&Author::new(0), 3);
        let folder = brokers.folder(1, &cluster.topic("journal"));
        let log = open(&cluster, &data);
        fill(&log, &batches[..2]);
        drop(log);
        brokers.tell("end", 1);
        assert!(Command::new("cp").arg("-a").arg(&folder).arg(&older).status().unwrap().success());
        brokers.tell("restart", 1);
        let log = open(&cluster, &data);
        fill(&log, &batches[2..]);
        drop(log);
        lose_tail(&brokers, &folder, &older);
        if grown {
            // Another process, which has not read what was lost, goes on.
            let other = open(&cluster, &dir.path().join("other"));
            let head = other.head().unwrap();
            fill(&other, &[Author::new(1).elect(&head)]);
        }
        let answer = open(&cluster, &data).head();
        assert!(matches!(answer, Err(LogError::Diverged { .. })), "grown {grown}: {answer:?}");
    }
}

#[test]
fn who_reads_a_higher_claim_sends_nothing_more_even_where_the_claim_does_not_link() {
    let cluster = cluster(bed::shared());
    let dir = tempfile::tempdir().unwrap();
    let one = open(&cluster, &dir.path().join("a"));
    let (owner, rival) = (Author::new(0), Author::new(1));
    let genesis = one.head().unwrap();
    fill(&one, &[owner.elect(&genesis)]);
    let elected = one.head().unwrap();
    fill(&one, &[owner.batch(&elected, 1, 8)]);
    // The rival has read the election and not what came after, so its own names an old head.
    deliver(bed::shared(), &cluster.topic("journal"), &rival.elect(&elected).encode());
    let head = one.head().unwrap();
    assert_eq!(head.epoch, 1, "the late election does not link");
    let answer = one.append(&head, &owner.batch(&head, 1, 8), &Changes::default());
    assert!(matches!(answer, Err(LogError::Yielded { epoch: 2 })), "{answer:?}");
}

#[test]
fn a_topic_that_would_lose_what_is_acknowledged_is_refused_with_the_command_that_mends_it() {
    let brokers = Brokers::start(3, &[]);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers.bootstrap);
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let right = [
        ("cleanup.policy", "delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("min.insync.replicas", "2"),
        ("unclean.leader.election.enable", "false"),
    ];
    let wrong = ["compact", "86400000", "1000000", "1", "true"];
    for ((name, wanted), found) in right.into_iter().zip(wrong) {
        let url = format!("kafka://{}", brokers.bootstrap);
        let cluster = Cluster::parse(&url, &bed::prefix()).unwrap();
        let topic = cluster.topic("journal");
        let made = NewTopic::new(&topic, 1, TopicReplication::Fixed(3));
        let made = right.iter().fold(made, |made, (it, value)| made.set(it, value));
        let made = made.set(name, found);
        let options = AdminOptions::new();
        pollster::block_on(admin.create_topics([&made], &options)).unwrap()[0].as_ref().unwrap();
        let said = cluster.prepare(None, &[]).unwrap_err().to_string();
        let sentence = format!("its {name} is {found} and must be {wanted}");
        let command = format!("kafka-configs --alter --topic {topic} --add-config {name}={wanted}");
        assert!(said.contains(&sentence) && said.contains(&command), "{said}");
        let mended = AlterConfig::new(ResourceSpecifier::Topic(&topic));
        let mended = right.iter().fold(mended, |mended, (it, value)| mended.set(it, value));
        let altered = pollster::block_on(admin.alter_configs([&mended], &options)).unwrap();
        altered[0].as_ref().unwrap();
        // The broker that answers may not have heard of it yet.
        let until = Instant::now() + KNOWN_WITHIN;
        while let Err(refused) = cluster.prepare(None, &[]) {
            assert!(Instant::now() < until, "{name} is as it must be: {refused}");
        }
        assert!(cluster.thin(&[]).unwrap().is_empty());
    }
    let thin = Cluster::parse(&format!("kafka://{}", brokers.bootstrap), &bed::prefix()).unwrap();
    let telemetry = thin.topic("telemetry");
    let made = NewTopic::new(&telemetry, 1, TopicReplication::Fixed(1));
    let options = AdminOptions::new();
    pollster::block_on(admin.create_topics([&made], &options)).unwrap()[0].as_ref().unwrap();
    assert_eq!(thin.prepare(None, &[]).unwrap(), 1, "it is used as it is");
    assert_eq!(thin.thin(&[]).unwrap(), [telemetry], "and a person is told");
}
