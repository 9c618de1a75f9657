//! A producer and a reader that nobody here wrote the rules for: they check nothing that an
//! honest process checks.

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use schemas::link::{Head, link};
use schemas::{Batch, Skip};

/// A broker that does not answer within this time never will.
const WITHIN: Duration = Duration::from_secs(20);

/// Writes whatever it is given to partition 0 of a topic.
pub(crate) struct Foreign(ThreadedProducer<Offsets>);

struct Offsets;

impl ClientContext for Offsets {}

impl ProducerContext for Offsets {
    type DeliveryOpaque = Box<Sender<Result<i64, KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Self::DeliveryOpaque) {
        let report = result.as_ref().map(|it| it.offset()).map_err(|(error, _)| error.clone());
        // A writer that has given up needs no report.
        let _ = told.send(report);
    }
}

impl Foreign {
    /// A producer as any program has one, for records up to the broker's own limit.
    pub(crate) fn new(bootstrap: &str) -> Self {
        Foreign(config(bootstrap, &[]).create_with_context(Offsets).unwrap())
    }

    /// Offsets of `records`, in their order, once all are durable.
    pub(crate) fn write(&self, topic: &str, records: &[impl AsRef<[u8]>]) -> Vec<u64> {
        let reports = records.iter().map(|record| {
            let (told, report) = channel();
            let to = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(told));
            let sent = self.0.send(to.partition(0).payload(record.as_ref()));
            assert!(sent.is_ok(), "{:?}", sent.err().map(|it| it.0));
            report
        });
        let reports: Vec<_> = reports.collect();
        let offset = |report: std::sync::mpsc::Receiver<Result<i64, KafkaError>>| {
            u64::try_from(report.recv_timeout(WITHIN).unwrap().unwrap()).unwrap()
        };
        reports.into_iter().map(offset).collect()
    }
}

/// Writes `record` in a transaction that is taken back.
pub(crate) fn take_back(bootstrap: &str, topic: &str, record: &[u8]) {
    let id = format!("{topic}-taken-back");
    let producer: ThreadedProducer<Offsets> =
        config(bootstrap, &[("transactional.id", &id)]).create_with_context(Offsets).unwrap();
    producer.init_transactions(WITHIN).unwrap();
    producer.begin_transaction().unwrap();
    let (told, report) = channel();
    let to = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(told));
    assert!(producer.send(to.partition(0).payload(record)).is_ok());
    producer.flush(WITHIN).unwrap();
    report.recv_timeout(WITHIN).unwrap().unwrap();
    producer.abort_transaction(WITHIN).unwrap();
}

/// Every record of partition 0 of a topic, from its beginning to its end at this call.
pub(crate) fn read(bootstrap: &str, topic: &str) -> Vec<Vec<u8>> {
    let words = [("group.id", "stranger"), ("enable.partition.eof", "true")];
    let consumer: BaseConsumer = config(bootstrap, &words).create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut records = Vec::new();
    loop {
        match consumer.poll(WITHIN) {
            Some(Ok(message)) => records.push(message.payload().unwrap_or_default().to_vec()),
            Some(Err(KafkaError::PartitionEOF(_))) => return records,
            Some(Err(error)) => assert!(error.rdkafka_error_code().is_some(), "{error}"),
            None => panic!("{topic} is not read to its end within {WITHIN:?}"),
        }
    }
}

/// A journal's topic, held against the link rule: where the chain ends, its batches, and why
/// each of the other records is not in it (`None`: it is no batch at all).
pub(crate) struct Chain {
    pub(crate) head: Head,
    pub(crate) batches: Vec<Batch>,
    pub(crate) skipped: Vec<Option<Skip>>,
}

impl Chain {
    pub(crate) fn read(bootstrap: &str, topic: &str) -> Self {
        let records = read(bootstrap, topic);
        let decoded: Vec<Option<Batch>> =
            records.iter().map(|record| Batch::decode(record).ok()).collect();
        let first = decoded.iter().flatten().next().expect("somebody was elected");
        let head = Head::genesis(&first.header.deployment, first.header.partition);
        let mut chain = Chain { head, batches: Vec::new(), skipped: Vec::new() };
        for batch in decoded {
            match batch.map(|batch| (link(&chain.head, &batch), batch)) {
                Some((Ok(head), batch)) => {
                    chain.head = head;
                    chain.batches.push(batch);
                }
                Some((Err(skip), _)) => chain.skipped.push(Some(skip)),
                None => chain.skipped.push(None),
            }
        }
        chain
    }
}

fn config(bootstrap: &str, words: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("message.max.bytes", "2000000");
    for (key, value) in words {
        config.set(*key, *value);
    }
    config
}
