//! The fan-out to typed topics: what stands in the journal, once for every `read_committed`
//! consumer.
//!
//! Records and the position that they bring the fan-out to are one transaction, so a crash
//! leaves both or neither. The transactional id belongs to the partition: a successor fences its
//! predecessor, whose open transaction is then aborted by the broker. What a record means is not
//! known here.

use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::cluster::{Cluster, FANOUT, Isolation};
use crate::LogError;

const WITHIN: Duration = Duration::from_secs(15);
/// A successor waits at most this long for what its predecessor left open; below the group's
/// session, so that it is over when the partition is given away (architecture.md).
const TRANSACTION_MS: &str = "5000";

/// One record for one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Topic, without the prefix.
    pub topic: String,
    /// What orders and partitions it.
    pub key: String,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
    /// The payload.
    pub value: Vec<u8>,
}

/// The fan-out of one partition, held by its owner.
pub struct Fanout {
    cluster: Cluster,
    partition: i32,
    producer: BaseProducer,
}

impl Fanout {
    /// Fences every predecessor.
    ///
    /// # Errors
    /// [`LogError::Cluster`].
    pub fn take(cluster: &Cluster, partition: u32) -> Result<Self, LogError> {
        let failed = |error: KafkaError| cluster.failed("take the fan-out over", error);
        let mut config: ClientConfig = cluster.client();
        config.set("transactional.id", cluster.topic(&format!("fanout-{partition}")));
        config.set("transaction.timeout.ms", TRANSACTION_MS);
        // Of all codecs gzip alone is built into every client; kafkajs stops at lz4 and zstd.
        config.set("acks", "all").set("linger.ms", "5").set("compression.type", "gzip");
        config.set("message.timeout.ms", TRANSACTION_MS);
        let producer: BaseProducer = config.create().map_err(failed)?;
        producer.init_transactions(WITHIN).map_err(failed)?;
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        Ok(Fanout { cluster: cluster.clone(), partition, producer })
    }

    /// The position that the last committed transaction brought the fan-out to.
    ///
    /// # Errors
    /// As [`position`].
    pub fn position(&self) -> Result<u64, LogError> {
        position(&self.cluster, u32::try_from(self.partition).unwrap_or(0))
    }

    /// Publishes `records` and moves the position to `next`, together.
    ///
    /// # Errors
    /// [`LogError::Cluster`]: nothing of it is seen by anybody, or all of it; the fan-out must
    /// be taken anew, which tells.
    pub fn publish(&self, records: &[Record], next: u64) -> Result<(), LogError> {
        let failed = |error: KafkaError| self.cluster.failed("publish events", error);
        self.producer.begin_transaction().map_err(failed)?;
        let names: Vec<String> = records.iter().map(|it| self.cluster.topic(&it.topic)).collect();
        for (record, topic) in records.iter().zip(&names) {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, pair| {
                headers.insert(Header { key: pair.0, value: Some(pair.1.as_str()) })
            });
            let out = BaseRecord::to(topic).key(&record.key).payload(&record.value);
            self.hand_over(out.partition(self.partition).headers(headers))?;
        }
        let (topic, position) = (self.cluster.topic(FANOUT), next.to_be_bytes());
        let key = self.partition.to_string();
        self.hand_over(
            BaseRecord::to(&topic).key(&key).payload(&position[..]).partition(self.partition),
        )?;
        // `commit_transaction` flushes in slices of 100 ms; with nothing in flight it does not.
        let until = Instant::now() + WITHIN;
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            self.producer.poll(Duration::from_millis(1));
        }
        self.producer.commit_transaction(WITHIN).map_err(failed)
    }

    fn hand_over<P: rdkafka::message::ToBytes + ?Sized>(
        &self,
        record: BaseRecord<'_, String, P>,
    ) -> Result<(), LogError> {
        let mut record = record;
        let until = Instant::now() + WITHIN;
        while let Err((error, returned)) = self.producer.send(record) {
            let full = rdkafka::error::RDKafkaErrorCode::QueueFull;
            if error.rdkafka_error_code() != Some(full) || until < Instant::now() {
                return Err(self.cluster.failed("publish events", error));
            }
            self.producer.poll(Duration::from_millis(5));
            record = returned;
        }
        Ok(())
    }
}

/// The position that the last committed transaction brought the fan-out of a partition to. It
/// may lie further back than its owner is: a run without records commits nothing.
///
/// # Errors
/// [`LogError::Cluster`], [`LogError::Unanswered`].
pub fn position(cluster: &Cluster, partition: u32) -> Result<u64, LogError> {
    let topic = cluster.topic(FANOUT);
    let failed = |error: KafkaError| cluster.failed(&format!("read {topic}"), error);
    let consumer: BaseConsumer = cluster.reader(Isolation::Committed).create().map_err(failed)?;
    let (low, high) = cluster.watermarks(&consumer, &topic, partition)?;
    let offset = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
    let (low, high) = (offset(low), offset(high));
    // Marks of transactions lie between the records, so the last one is looked for from ever
    // further back.
    let mut back = 16;
    loop {
        let start = (high - back).max(low);
        if let Some(last) = last_from(cluster, &consumer, partition, start..high)? {
            return Ok(last);
        }
        if start == low {
            return Ok(0);
        }
        back *= 8;
    }
}

fn last_from(
    cluster: &Cluster,
    consumer: &BaseConsumer,
    partition: u32,
    offsets: Range<i64>,
) -> Result<Option<u64>, LogError> {
    if offsets.is_empty() {
        return Ok(None);
    }
    let topic = cluster.topic(FANOUT);
    let failed = |error: KafkaError| cluster.failed(&format!("read {topic}"), error);
    let mut assignment = TopicPartitionList::new();
    let number = i32::try_from(partition).unwrap_or(i32::MAX);
    let offset = Offset::Offset(offsets.start);
    assignment.add_partition_offset(&topic, number, offset).map_err(failed)?;
    consumer.assign(&assignment).map_err(failed)?;
    let mut last = None;
    let until = Instant::now() + WITHIN;
    while Instant::now() < until {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                let value = message.payload().and_then(|it| it.try_into().ok());
                last = value.map(u64::from_be_bytes).or(last);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
            Some(Err(error)) => super::streams::transient(cluster, &error)?,
        }
    }
    Err(LogError::Unanswered { what: "read of the fan-out's position" })
}
