//! Writing to the cluster: one idempotent producer for the process, whose reports come on a
//! thread of their own.
//!
//! A report says that a record is durable on `min.insync.replicas` brokers. That is enough for
//! the streams that many write to; for the chain it is not, which reads back what it wrote.

use std::sync::mpsc::{Receiver, Sender as Channel, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::cluster::Cluster;
use crate::LogError;
use crate::memory::lock;

/// A record that has not been reported durable after this may or may not be.
const DELIVER_WITHIN: Duration = Duration::from_secs(8);

/// One turn of the thread that takes reports in. rdkafka's `poll` runs its last millisecond
/// without waiting, so a turn must be long beside that; reports come at once in any case.
const POLL: Duration = Duration::from_secs(1);

/// What became of one record: its offset, or why nothing is known about it.
pub(crate) type Report = Result<i64, String>;

type Producer = Arc<BaseProducer<Reports>>;

/// The process's way into the cluster. May be called from any thread.
pub(crate) struct Sender {
    cluster: Cluster,
    producer: Mutex<Producer>,
    /// Held while the records of one `send` are handed over, so that they stay neighbours.
    order: Mutex<()>,
}

struct Reports;

pub(crate) struct Delivery {
    index: usize,
    to: Channel<(usize, Report)>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let report = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.to_string()),
        };
        // Who no longer waits reads the stream to learn what became of the record.
        let _ = delivery.to.send((delivery.index, report));
    }
}

impl Sender {
    pub(crate) fn new(cluster: &Cluster) -> Result<Self, LogError> {
        let producer = Mutex::new(start(cluster)?);
        Ok(Sender { cluster: cluster.clone(), producer, order: Mutex::default() })
    }

    /// Hands `records` over in order; their reports come in any.
    pub(crate) fn post(
        &self,
        topic: &str,
        partition: u32,
        records: &[impl AsRef<[u8]>],
    ) -> Result<Receiver<(usize, Report)>, LogError> {
        let (to, reports) = channel();
        let producer = self.producer()?;
        let _order = lock(&self.order);
        for (index, record) in records.iter().enumerate() {
            let delivery = Box::new(Delivery { index, to: to.clone() });
            let mut record: BaseRecord<'_, [u8], [u8], Box<Delivery>> =
                BaseRecord::with_opaque_to(topic, delivery)
                    .partition(i32::try_from(partition).unwrap_or(i32::MAX))
                    .payload(record.as_ref());
            let until = Instant::now() + DELIVER_WITHIN;
            while let Err((error, returned)) = producer.send(record) {
                let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                if !full || Instant::now() > until {
                    return Err(self.cluster.failed(&format!("write to {topic}"), error));
                }
                producer.poll(Duration::from_millis(5));
                record = returned;
            }
        }
        Ok(reports)
    }

    /// Sends `records` and waits until all are durable: the offsets of the first and the last.
    pub(crate) fn send(
        &self,
        topic: &str,
        partition: u32,
        records: &[Vec<u8>],
    ) -> Result<(u64, u64), LogError> {
        let reports = self.post(topic, partition, records)?;
        let (mut first, mut last) = (u64::MAX, 0);
        let until = Instant::now() + DELIVER_WITHIN;
        for _ in records {
            let left = until.saturating_duration_since(Instant::now());
            match reports.recv_timeout(left) {
                Ok((_, Ok(offset))) => {
                    let offset = u64::try_from(offset).unwrap_or(0);
                    (first, last) = (first.min(offset), last.max(offset));
                }
                Ok((_, Err(_))) | Err(_) => return Err(LogError::Unanswered { what: "send" }),
            }
        }
        Ok((first, last))
    }

    /// The producer; a new one after an error that ends a producer for good.
    fn producer(&self) -> Result<Producer, LogError> {
        let mut producer = lock(&self.producer);
        if producer.client().fatal_error().is_some() {
            *producer = start(&self.cluster)?;
        }
        Ok(producer.clone())
    }
}

fn start(cluster: &Cluster) -> Result<Producer, LogError> {
    let mut config = cluster.client();
    config.set("acks", "all").set("enable.idempotence", "true");
    config.set("linger.ms", "0").set("compression.type", "lz4");
    config.set("message.max.bytes", "1000000");
    config.set("message.timeout.ms", DELIVER_WITHIN.as_millis().to_string());
    let started: Result<_, KafkaError> = config.create_with_context(Reports);
    let started = started.map_err(|error| cluster.failed("start a producer", error))?;
    let producer: Producer = Arc::new(started);
    let polled = producer.clone();
    // Ends by itself once nobody else holds the producer.
    let reporting = move || {
        while Arc::strong_count(&polled) > 1 {
            polled.poll(POLL);
        }
    };
    let thread = std::thread::Builder::new().name("reports".to_owned()).spawn(reporting);
    thread.map_err(|error| cluster.failed("start a thread", error))?;
    Ok(producer)
}
