//! What lies below the chain's positions, read again: for folding a gap and for replay.
//!
//! A standby folds every sealed range as it is journaled, one after the other, so the reader
//! stays open and goes on where it stopped; only a jump assigns anew.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use schemas::Stream;

use super::cluster::{Cluster, Isolation};
use super::streams::{read, transient};
use crate::memory::lock;
use crate::{LogError, Records};

/// How long a record that is known to be there may take to arrive.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);
/// The broker's word that nothing more is there counts after this long without a record: it may
/// tell of an end that lay before what has been added since.
const SETTLED: Duration = Duration::from_millis(500);

/// The reader of one partition's past.
pub(crate) struct History {
    cluster: Cluster,
    partition: u32,
    open: Mutex<Option<Open>>,
}

struct Open {
    stream: Stream,
    consumer: BaseConsumer,
    /// Position of the next record, and that record where it did not fit in the last answer.
    next: u64,
    left: Option<(u64, Vec<u8>)>,
}

impl History {
    pub(crate) fn of(cluster: &Cluster, partition: u32) -> Self {
        History { cluster: cluster.clone(), partition, open: Mutex::default() }
    }

    /// Records of `stream` from `from` on as the broker has them now; see [`crate::Log::take`].
    pub(crate) fn read(
        &self,
        stream: Stream,
        from: u64,
        bytes_max: usize,
    ) -> Result<Records, LogError> {
        let mut open = lock(&self.open);
        let reusable = open.take().filter(|it| it.stream == stream);
        let mut reader = match reusable {
            Some(reader) => reader,
            None => self.start(stream)?,
        };
        let topic = self.cluster.stream(stream);
        let (low, high) = self.cluster.watermarks(&reader.consumer, &topic, self.partition)?;
        let from = from.max(low);
        if high <= from {
            *open = Some(reader);
            return Ok(Records::default());
        }
        if reader.next != from {
            self.jump(&mut reader, &topic, from)?;
        }
        let records = reader.gather(&self.cluster, high, bytes_max)?;
        *open = Some(reader);
        Ok(records)
    }

    fn start(&self, stream: Stream) -> Result<Open, LogError> {
        let made = self.cluster.reader(Isolation::Committed).create();
        let consumer = made.map_err(|error| self.cluster.failed("start a client", error))?;
        Ok(Open { stream, consumer, next: u64::MAX, left: None })
    }

    fn jump(&self, reader: &mut Open, topic: &str, from: u64) -> Result<(), LogError> {
        let failed = |error: KafkaError| self.cluster.failed(&format!("read {topic}"), error);
        let number = i32::try_from(self.partition).unwrap_or(i32::MAX);
        let offset = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, number, offset).map_err(failed)?;
        reader.consumer.assign(&assignment).map_err(failed)?;
        (reader.next, reader.left) = (from, None);
        Ok(())
    }
}

impl Open {
    fn gather(
        &mut self,
        cluster: &Cluster,
        high: u64,
        bytes_max: usize,
    ) -> Result<Records, LogError> {
        let mut records = Records::default();
        let (mut at_end, mut last) = (false, Instant::now());
        while last.elapsed() < ARRIVE_WITHIN {
            if let Some((at, record)) = self.left.take() {
                if !records.is_empty() && records.n_bytes() + record.len() > bytes_max {
                    (self.next, self.left) = (at, Some((at, record)));
                    return Ok(records);
                }
                self.next = at + 1;
                records.push(at, &record);
                if high <= self.next || bytes_max <= records.n_bytes() {
                    return Ok(records);
                }
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    (self.left, at_end, last) = (Some(read(&message)), false, Instant::now());
                }
                Some(Err(KafkaError::PartitionEOF(_))) => at_end = true,
                Some(Err(error)) => transient(cluster, &error)?,
                None if at_end && last.elapsed() > SETTLED => return Ok(records),
                None => {}
            }
        }
        Err(LogError::Unanswered { what: "read of a stream" })
    }
}
