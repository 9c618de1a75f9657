//! Reading a chain from the cluster alone, for commands: no data directory, nothing is written.
//!
//! The whole topic is read once and linked; after that, batches are read again by their offsets.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use schemas::event::OwnerElected;
use schemas::link::election;
use schemas::{Batch, Head, Stream, link};

use super::cluster::{Cluster, HEADS, Isolation, JOURNAL};
use super::history::History;
use super::streams::transient;
use crate::memory::lock;
use crate::{LogError, Records};

const READ_WITHIN: Duration = Duration::from_secs(20);
/// The broker's word that nothing more is there counts after this long without a record.
const SETTLED: Duration = Duration::from_secs(1);

/// The chain of one partition as the cluster holds it.
pub struct KafkaReader {
    cluster: Cluster,
    partition: u32,
    consumer: BaseConsumer,
    chain: Mutex<Chain>,
    history: History,
}

struct Chain {
    head: Head,
    /// First sequence and offset of each linked batch.
    index: Vec<(u64, i64)>,
    n_skipped: u64,
    /// The election that opened the current epoch.
    elected: Option<OwnerElected>,
    /// Offset of the next record that has not been linked or skipped yet.
    next_offset: i64,
}

impl KafkaReader {
    /// Reads the chain of `partition` to its present end.
    ///
    /// # Errors
    /// [`LogError::Cluster`], [`LogError::Unanswered`].
    pub fn open(cluster: &Cluster, deployment: &str, partition: u32) -> Result<Self, LogError> {
        let config = cluster.reader(Isolation::Uncommitted);
        let consumer = config.create().map_err(|error| cluster.failed("start a client", error))?;
        let head = Head::genesis(deployment, partition);
        let chain = Chain { head, index: Vec::new(), n_skipped: 0, elected: None, next_offset: 0 };
        let chain = Mutex::new(chain);
        let history = History::of(cluster, partition);
        let reader = KafkaReader { cluster: cluster.clone(), partition, consumer, chain, history };
        reader.catch_up()?;
        Ok(reader)
    }

    /// Takes in what has been appended since.
    ///
    /// # Errors
    /// As [`KafkaReader::open`].
    pub fn catch_up(&self) -> Result<(), LogError> {
        let mut chain = lock(&self.chain);
        let from = chain.next_offset;
        self.walk(from, |batch, offset| {
            chain.next_offset = offset + 1;
            match batch.as_ref().map(|batch| (batch, link(&chain.head, batch))) {
                Some((batch, Ok(head))) => {
                    if let Some(elected) = election(batch) {
                        chain.elected = Some(elected);
                    }
                    let first_seq = chain.head.next_seq;
                    chain.index.push((first_seq, offset));
                    chain.head = head;
                }
                Some((_, Err(_))) | None => chain.n_skipped += 1,
            }
            true
        })
    }

    /// The end of the chain.
    pub fn head(&self) -> Head {
        lock(&self.chain).head.clone()
    }

    /// The election that opened the current epoch, if there was one.
    pub fn elected(&self) -> Option<OwnerElected> {
        lock(&self.chain).elected.clone()
    }

    /// Records of the topic that were never linked.
    pub fn n_skipped(&self) -> u64 {
        lock(&self.chain).n_skipped
    }

    /// As [`crate::Log::read`].
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        let chain = lock(&self.chain);
        if chain.head.next_seq <= from_seq {
            return Ok(Vec::new());
        }
        let first = chain.index.partition_point(|(first_seq, _)| *first_seq <= from_seq) - 1;
        let mut wanted = chain.index[first..].iter().peekable();
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let start = wanted.peek().map_or(0, |(_, offset)| *offset);
        self.walk(start, |batch, offset| {
            if wanted.next_if(|(_, at)| *at == offset).is_none() {
                return wanted.peek().is_some();
            }
            let Some(batch) = batch else { return false };
            bytes += batch.entries.iter().map(schemas::Entry::size).sum::<usize>();
            if !batches.is_empty() && bytes > bytes_max {
                return false;
            }
            batches.push(batch);
            bytes < bytes_max && wanted.peek().is_some()
        })?;
        Ok(batches)
    }

    /// Telemetry records, as [`crate::Log::take`].
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn telemetry(&self, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        self.history.read(Stream::Telemetry, from, bytes_max)
    }

    /// The last tree head that an owner has signed and shown.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn signed_head(&self) -> Result<Option<Vec<u8>>, LogError> {
        let topic = self.cluster.topic(HEADS);
        let failed = |error: KafkaError| self.cluster.failed(&format!("read {topic}"), error);
        let number = i32::try_from(self.partition).unwrap_or(i32::MAX);
        let (low, high) = self.cluster.watermarks(&self.consumer, &topic, self.partition)?;
        if high <= low {
            return Ok(None);
        }
        let mut assignment = TopicPartitionList::new();
        let last = Offset::Offset(i64::try_from(high - 1).unwrap_or(i64::MAX));
        assignment.add_partition_offset(&topic, number, last).map_err(failed)?;
        self.consumer.assign(&assignment).map_err(failed)?;
        let began = Instant::now();
        while began.elapsed() < READ_WITHIN {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => return Ok(message.payload().map(<[u8]>::to_vec)),
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => transient(&self.cluster, &error)?,
            }
        }
        Err(LogError::Unanswered { what: "read of the signed heads" })
    }

    /// Hands the topic's records from `start` on to `each`, until it answers `false` or the end
    /// that the topic has now is reached.
    fn walk(
        &self,
        start: i64,
        mut each: impl FnMut(Option<Batch>, i64) -> bool,
    ) -> Result<(), LogError> {
        let topic = self.cluster.topic(JOURNAL);
        let failed = |error: KafkaError| self.cluster.failed(&format!("read {topic}"), error);
        let number = i32::try_from(self.partition).unwrap_or(i32::MAX);
        let (_, end) = self.cluster.watermarks(&self.consumer, &topic, self.partition)?;
        let end = i64::try_from(end).unwrap_or(i64::MAX);
        if end <= start {
            return Ok(());
        }
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&topic, number, Offset::Offset(start)).map_err(failed)?;
        self.consumer.assign(&assignment).map_err(failed)?;
        let (mut last, mut at_end) = (Instant::now(), false);
        while last.elapsed() < READ_WITHIN {
            match self.consumer.poll(Duration::from_millis(100)) {
                // Marks of a foreign transaction lie before the end and never arrive.
                None if at_end && last.elapsed() > SETTLED => return Ok(()),
                None => {}
                Some(Ok(message)) => {
                    (last, at_end) = (Instant::now(), false);
                    let offset = message.offset();
                    let batch = Batch::decode(message.payload().unwrap_or_default()).ok();
                    if !each(batch, offset) || end <= offset + 1 {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => at_end = true,
                Some(Err(error)) => transient(&self.cluster, &error)?,
            }
        }
        Err(LogError::Unanswered { what: "read of the journal" })
    }
}
