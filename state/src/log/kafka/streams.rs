//! Reading `inbox`, `inbox.control` and `telemetry` as their owner, from the chain's positions
//! on.
//!
//! Records are kept from what the chain has taken until it has taken them, so that after a lost
//! append everything can be taken again without asking the broker. What lies below is
//! [`super::history`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_calls::{Batches, Record};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use schemas::{Positions, Stream};

use super::cluster::{Cluster, Isolation};
use crate::{LogError, Records};

/// How long a record that is known to be there may take to arrive.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);
/// Buffered at most, beyond what one call asks for.
const BUFFER_BYTES: usize = 6 * 1024 * 1024;
/// What each client reads. A broker is asked for one answer at a time, and where nothing has come
/// in it waits with that for 100 ms: telemetry whose queue was full for a moment would wait behind
/// an empty inbox, unless it had a queue that lasts as long.
const CLIENTS: [&[Stream]; 2] = [&[Stream::Control, Stream::Inbox], &[Stream::Telemetry]];

/// The three streams of one partition, read by their owner.
pub(crate) struct Streams {
    cluster: Cluster,
    consumers: Vec<Arc<BaseConsumer>>,
    lanes: Vec<Lane>,
}

struct Lane {
    stream: Stream,
    topic: String,
    /// Rings when something has come in; the records are read in runs.
    queue: PartitionQueue<DefaultConsumerContext>,
    batches: Batches,
    records: Records,
    /// Bytes of the largest record seen: with them a run ends before an answer is too large, and
    /// the answer is what is here and no copy of a part.
    largest: usize,
    /// Position of the next record to arrive, at least.
    next: u64,
    /// Records below have never been here.
    start: u64,
    /// Records below this are known to be on the broker.
    end: u64,
    /// Whether the broker has said that nothing more is there.
    at_end: bool,
}

impl Streams {
    /// Reads from `positions` on; `news` is called when something has come in.
    pub(crate) fn open(
        cluster: &Cluster,
        partition: u32,
        positions: Positions,
        news: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, LogError> {
        let mut streams =
            Streams { cluster: cluster.clone(), consumers: Vec::new(), lanes: Vec::new() };
        CLIENTS.iter().try_for_each(|it| streams.client(it, partition, positions, news))?;
        Ok(streams)
    }

    /// Opens a client that reads these.
    fn client(
        &mut self,
        streams: &[Stream],
        partition: u32,
        positions: Positions,
        news: &Arc<dyn Fn() + Send + Sync>,
    ) -> Result<(), LogError> {
        let cluster = &self.cluster;
        let failed = |error: KafkaError| cluster.failed("read the streams", error);
        let consumer: BaseConsumer =
            cluster.reader(Isolation::Committed).create().map_err(failed)?;
        let consumer = Arc::new(consumer);
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let mut assignment = TopicPartitionList::new();
        for stream in streams {
            let offset = Offset::Offset(i64::try_from(at(positions, *stream)).unwrap_or(0));
            let topic = cluster.stream(*stream);
            assignment.add_partition_offset(&topic, number, offset).map_err(failed)?;
        }
        consumer.assign(&assignment).map_err(failed)?;
        let mut lanes = Vec::new();
        // At once: what is fetched before this comes by the consumer's own queue.
        for stream in streams.iter().copied() {
            let topic = cluster.stream(stream);
            let queue = consumer.split_partition_queue(&topic, number);
            let mut queue = queue.ok_or_else(|| cluster.failed("read", &topic))?;
            let news = news.clone();
            queue.set_nonempty_callback(move || news());
            let batches = Batches::of(&consumer, &topic, number);
            let batches = batches.ok_or_else(|| cluster.failed("read", &topic))?;
            lanes.push(Lane::at(stream, topic, queue, batches, at(positions, stream)));
        }
        for lane in &mut lanes {
            lane.end = cluster.watermarks(&consumer, &lane.topic, partition)?.1;
        }
        self.consumers.push(consumer);
        self.lanes.extend(lanes);
        Ok(())
    }

    /// Records from `from` on; see [`crate::Log::take`]. `None`: they lie below what is kept
    /// here. Those below `taken` are let go. A record below `end` is known to be there and
    /// waited for.
    pub(crate) fn take(
        &mut self,
        stream: Stream,
        from: u64,
        bytes_max: usize,
        taken: u64,
        end: u64,
    ) -> Result<Option<Records>, LogError> {
        self.drain()?;
        let lane = self.lanes.iter_mut().find(|it| it.stream == stream);
        let Some(lane) = lane.filter(|it| it.start <= from) else { return Ok(None) };
        lane.forget(taken);
        lane.end = lane.end.max(end);
        let began = Instant::now();
        loop {
            lane.gather(&self.cluster, bytes_max)?;
            let is_full = lane.room(bytes_max) <= lane.records.n_bytes_from(from);
            if lane.end <= lane.next || is_full || lane.has_ended(began) {
                return Ok(Some(lane.records.select(from, bytes_max)));
            }
            if began.elapsed() > ARRIVE_WITHIN {
                return Err(LogError::Unanswered { what: "read of a stream" });
            }
            lane.await_one(&self.cluster)?;
        }
    }

    /// Serves errors and reconnections, and takes in what was fetched before the streams had
    /// queues of their own: it comes before anything that lies there.
    fn drain(&mut self) -> Result<(), LogError> {
        for consumer in &self.consumers {
            while let Some(polled) = consumer.poll(Duration::ZERO) {
                match polled {
                    Ok(message) => {
                        let lane = self.lanes.iter_mut().find(|it| it.topic == message.topic());
                        if let Some(lane) = lane {
                            lane.push(&message);
                        }
                    }
                    Err(error) => transient(&self.cluster, &error)?,
                }
            }
        }
        Ok(())
    }
}

impl Lane {
    fn at(
        stream: Stream,
        topic: String,
        queue: PartitionQueue<DefaultConsumerContext>,
        batches: Batches,
        next: u64,
    ) -> Self {
        let (records, largest) = (Records::default(), 1);
        let (start, end) = (next, next);
        Lane { stream, topic, queue, batches, records, largest, next, start, end, at_end: false }
    }

    /// The broker's word that nothing more is there, given again after a wait: the marks of a
    /// foreign transaction have positions and never arrive.
    fn has_ended(&self, began: Instant) -> bool {
        let patience = Duration::from_millis(500);
        self.at_end && began.elapsed() > patience
    }

    fn forget(&mut self, taken: u64) {
        self.records.forget(taken);
        self.start = self.start.max(taken.min(self.next));
    }

    /// Moves what has arrived into the buffer.
    fn gather(&mut self, cluster: &Cluster, bytes_max: usize) -> Result<(), LogError> {
        loop {
            let room = self.room(bytes_max.min(BUFFER_BYTES));
            let left = room.saturating_sub(self.records.n_bytes());
            if left > self.largest && !self.records.is_empty() {
                // An eighth more for the lengths, of which small records have many.
                self.records.reserve(room + room / 8);
            }
            if left == 0 || !self.poll(cluster, left.div_ceil(self.largest))? {
                return Ok(());
            }
        }
    }

    /// Bytes with which an answer of at most `bytes_max` is full: one more record might not fit.
    fn room(&self, bytes_max: usize) -> usize {
        bytes_max.saturating_sub(self.largest).max(1)
    }

    /// Waits a moment for the next record.
    fn await_one(&mut self, cluster: &Cluster) -> Result<(), LogError> {
        match self.queue.poll(Duration::from_millis(50)) {
            None => {}
            Some(Ok(message)) => {
                let at = u64::try_from(message.offset()).unwrap_or(0);
                self.records.push(at, message.payload().unwrap_or_default());
                (self.next, self.at_end) = (at + 1, false);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => self.at_end = true,
            Some(Err(error)) => transient(cluster, &error)?,
        }
        Ok(())
    }

    /// Buffers a run of at most `n_max` records; whether there was anything.
    fn poll(&mut self, cluster: &Cluster, n_max: usize) -> Result<bool, LogError> {
        let (records, next, at_end) = (&mut self.records, &mut self.next, &mut self.at_end);
        let largest = &mut self.largest;
        let mut failed = None;
        let n = self.batches.take(n_max, |record| match record {
            Record::At { offset, value } => {
                let at = u64::try_from(offset).unwrap_or(0);
                records.push(at, value);
                *largest = value.len().max(*largest);
                (*next, *at_end) = (at + 1, false);
            }
            Record::End => *at_end = true,
            Record::Failed(code) => failed = failed.or(Some(code)),
        });
        failed.map_or(Ok(()), |code| refusal(cluster, code, &code))?;
        Ok(n > 0)
    }

    fn push(&mut self, message: &BorrowedMessage<'_>) {
        let at = u64::try_from(message.offset()).unwrap_or(0);
        self.records.push(at, message.payload().unwrap_or_default());
        (self.next, self.at_end) = (at + 1, false);
    }
}

/// Position and bytes of a record.
pub(crate) fn read(message: &BorrowedMessage<'_>) -> (u64, Vec<u8>) {
    let at = u64::try_from(message.offset()).unwrap_or(0);
    (at, message.payload().unwrap_or_default().to_vec())
}

/// Where a stream's reader is not allowed to go on is an error; a broker that is away comes
/// back, and librdkafka goes on by itself.
pub(crate) fn transient(cluster: &Cluster, error: &KafkaError) -> Result<(), LogError> {
    error.rdkafka_error_code().map_or(Ok(()), |code| refusal(cluster, code, error))
}

fn refusal(
    cluster: &Cluster,
    code: RDKafkaErrorCode,
    error: &dyn std::fmt::Display,
) -> Result<(), LogError> {
    let gone = [RDKafkaErrorCode::AutoOffsetReset, RDKafkaErrorCode::OffsetOutOfRange];
    if gone.contains(&code) {
        return Err(cluster.failed("read from the recorded position", error));
    }
    Ok(())
}

pub(crate) fn at(positions: Positions, stream: Stream) -> u64 {
    match stream {
        Stream::Inbox => positions.inbox,
        Stream::Control => positions.control,
        Stream::Telemetry => positions.telemetry,
    }
}
