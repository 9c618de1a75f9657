//! The log on a Kafka cluster: several processes, one chain a partition (protocol.md §2).
//!
//! ```text
//! P.inbox, P.inbox.control, P.telemetry   many writers; positions are offsets
//! P.journal                               batches; the link rule says which are in the chain
//! P.quarantine                            what could not be decoded
//! DATA/journal/                           a copy of the chain, and the state (LAYOUT.md)
//! ```
//!
//! Safety rests on the chain and on nothing that a broker promises beyond order: an append is
//! done when it has been read back linked, a zombie's batch does not link, and a certified
//! election makes every other owner stop. The consumer group ([`group`]) only says who should
//! try. Durability is `acks=all` with `min.insync.replicas`.
//!
//! Threads: one follows the journal, the producer reports on one, librdkafka fetches
//! on its own; `take` and `append` run on the owner's.
//!
//! What a crash leaves: the copy may lack its end and is read again; the state may lag the copy
//! and is folded on; a batch that was sent and not answered may link later, which the next owner
//! sees because it reads to the end before it appends.

mod behind;
mod cluster;
pub mod fanout;
pub mod group;
mod history;
mod reach;
mod reader;
mod roster;
mod sender;
mod streams;
mod tail;
pub mod verdict;
pub mod watch;

pub use cluster::Cluster;
pub use reader::KafkaReader;
pub use roster::Roster;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use schemas::event::OwnerElected;
use schemas::{Batch, Hash, Head, Stream};

use self::behind::Behind;
use self::cluster::{HEADS, JOURNAL, QUARANTINE};
use self::history::History;
use self::sender::Sender;
use self::streams::{Streams, at};
use self::tail::Tail;
use self::verdict::Waiting;
use crate::checkpoint::{self, Checkpoint};
use crate::embedded::{EmbeddedLog, Quarantined};
use crate::log::RECORD_BYTES_MAX;
use crate::memory::{lock, within_limit};
use crate::{Append, Changes, Log, LogError, Records, Resident, Store};

/// The same bytes are sent again when they have not been read back after this.
const RESEND_AFTER: Duration = Duration::from_secs(3);

/// Log and store of one partition on a cluster.
pub struct KafkaLog {
    cluster: Cluster,
    partition: u32,
    copy: Arc<EmbeddedLog>,
    state: Behind,
    tail: Tail,
    sender: Arc<Sender>,
    streams: Mutex<Option<Streams>>,
    history: History,
    /// Position after the last record that this process has sent to a stream.
    ends: Mutex<BTreeMap<Stream, u64>>,
    news: Arc<dyn Fn() + Send + Sync>,
    closed: AtomicBool,
}

impl KafkaLog {
    /// Opens partition `partition` of `cluster` with the copy in `dir`, which is made when
    /// missing. `news` is called from other threads whenever there is something to take or the
    /// chain has grown.
    ///
    /// # Errors
    /// [`LogError::Cluster`], and what opening a data directory answers.
    pub fn open(
        cluster: &Cluster,
        dir: &Path,
        deployment: &str,
        partition: u32,
        news: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, LogError> {
        let copy = Arc::new(EmbeddedLog::open(dir, deployment, partition)?);
        let tail = Tail::follow(cluster, partition, copy.clone(), news.clone())?;
        Ok(KafkaLog {
            cluster: cluster.clone(),
            partition,
            state: Behind::of(copy.clone(), &cluster.sharers),
            copy,
            tail,
            sender: cluster.sender()?,
            streams: Mutex::default(),
            history: History::of(cluster, partition),
            ends: Mutex::default(),
            news,
            closed: AtomicBool::new(false),
        })
    }

    /// The end of the chain as far as this process has read it.
    ///
    /// # Errors
    /// Why following has ended, [`LogError::Diverged`] above all.
    pub fn followed(&self) -> Result<Head, LogError> {
        let known = self.tail.known();
        known.fault.map_or(Ok(known.head), Err)
    }

    /// The election that opened the current epoch, if there was one.
    ///
    /// # Errors
    /// The copy is damaged.
    pub fn elected(&self) -> Result<Option<OwnerElected>, LogError> {
        self.copy.elected()
    }

    /// Makes a checkpoint of copy and state in `dir`, which must not exist, while the owner goes
    /// on. Called from a thread that may take its time.
    ///
    /// # Errors
    /// As [`checkpoint::create`].
    pub fn checkpoint(&self, dir: &Path) -> Result<Checkpoint, LogError> {
        // As new as can be: what is restored from it need not be folded again.
        self.state.flush()?;
        checkpoint::create(&self.copy, dir)
    }

    /// What is in quarantine.
    ///
    /// # Errors
    /// [`LogError::Corrupt`].
    pub fn quarantined(&self) -> Result<Vec<Quarantined>, LogError> {
        self.copy.quarantined()
    }

    /// Records of the journal's topic that were never linked.
    pub fn n_skipped(&self) -> u64 {
        self.tail.known().n_skipped
    }

    /// Office is over: the streams are let go.
    pub fn release(&self) {
        // What cannot be written now waits for the next batch, or is folded again after a start.
        let _ = self.state.flush();
        *lock(&self.streams) = None;
    }

    /// Ends every wait; the process is about to end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        (self.news)();
    }

    /// Shows a signed tree head to whoever watches. It is not waited for: the next one follows.
    pub fn publish_head(&self, note: &[u8]) {
        // A broker that is away is noticed by whatever must be durable.
        let _ = self.sender.post(&self.cluster.topic(HEADS), self.partition, &[note]);
    }

    /// Sends `record` until it is read back linked or cannot be any more.
    fn persist(&self, batch: &Batch, record: &[u8]) -> Result<Append, LogError> {
        let topic = self.cluster.topic(JOURNAL);
        let waiting = Waiting::of(batch);
        let outcome = |known: &tail::Known| match &known.fault {
            Some(fault) => Some(Err(fault.clone())),
            None => waiting.outcome(&known.head, known.claimed),
        };
        let unanswered = Err(LogError::Unanswered { what: "append" });
        let mut n_sent = 0u32;
        loop {
            // Asked before every sending: whoever has read a higher claim sends nothing more.
            if let Some(answer) = self.tail.wait(Duration::ZERO, outcome) {
                return answer;
            }
            // While the head is unchanged, the same bytes are sent again; a second copy does not
            // link. What the producer reports is not waited for: reading back is the answer.
            match self.sender.post(&topic, self.partition, &[record]) {
                Ok(_) => n_sent += 1,
                Err(error) if n_sent == 0 => return Err(error),
                Err(_) => return unanswered,
            }
            let until = Instant::now() + RESEND_AFTER;
            while Instant::now() < until {
                if let Some(answer) = self.tail.wait(Duration::from_millis(100), outcome) {
                    return answer;
                }
                if self.closed.load(Ordering::SeqCst) {
                    return unanswered;
                }
            }
        }
    }

    /// Position after the last record that is known to be in `stream`.
    fn end(&self, stream: Stream) -> u64 {
        lock(&self.ends).get(&stream).copied().unwrap_or(0)
    }
}

impl Log for KafkaLog {
    fn head(&self) -> Result<Head, LogError> {
        self.tail.caught_up()
    }

    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        self.copy.read(from_seq, bytes_max)
    }

    fn append(
        &self,
        expected: &Head,
        batch: &Batch,
        changes: &Changes,
    ) -> Result<Append, LogError> {
        changes.sound()?;
        let record = batch.encode();
        let appended = match verdict::offered(&self.followed()?, expected, batch, record.len())? {
            Some(appended) => appended,
            None => self.persist(batch, &record)?,
        };
        // Elsewhere it stands when the batch was sent again, or its author has not folded so far.
        if let Append::Appended(head) = &appended
            && self.state.position()? == batch.header.first_seq
        {
            self.state.commit(head.next_seq, changes)?;
        }
        Ok(appended)
    }

    fn send(&self, stream: Stream, records: &[Vec<u8>]) -> Result<Range<u64>, LogError> {
        within_limit(records)?;
        if records.is_empty() {
            let end = self.end(stream);
            return Ok(end..end);
        }
        let topic = self.cluster.stream(stream);
        let (first, last) = self.sender.send(&topic, self.partition, records)?;
        let mut ends = lock(&self.ends);
        let end = ends.entry(stream).or_default();
        *end = (last + 1).max(*end);
        Ok(first..last + 1)
    }

    fn take(&self, stream: Stream, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        let positions = self.followed()?.positions;
        let taken = at(positions, stream);
        let floor = if stream == Stream::Telemetry { self.copy.floor()? } else { taken };
        let from = from.max(floor);
        if from < taken {
            return self.history.read(stream, from, bytes_max);
        }
        let mut streams = lock(&self.streams);
        let streams = match &mut *streams {
            Some(streams) => streams,
            none => {
                none.insert(Streams::open(&self.cluster, self.partition, positions, &self.news)?)
            }
        };
        let end = self.end(stream);
        match streams.take(stream, from, bytes_max, taken, end)? {
            Some(records) => Ok(records),
            None => self.history.read(stream, from, bytes_max),
        }
    }

    fn quarantine(&self, record: &[u8], reason: &str) -> Result<Hash, LogError> {
        let hash = Hash::of(&[record]);
        if self.copy.has_quarantined(&hash)? {
            return Ok(hash);
        }
        let kept = crate::embedded::encode_quarantined_within(record, reason, RECORD_BYTES_MAX);
        self.sender.send(&self.cluster.topic(QUARANTINE), self.partition, &[kept])?;
        self.copy.quarantine(record, reason)
    }

    fn forget(&self, stream: Stream, before: u64) -> Result<(), LogError> {
        // Retention is the broker's; what lies below is no longer read.
        match stream {
            Stream::Inbox | Stream::Control => Ok(()),
            Stream::Telemetry => self.copy.raise_floor(before),
        }
    }
}

impl Store for KafkaLog {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        self.state.get(key)
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        self.state.scan(prefix, each)
    }

    fn look(&self, key: &[u8], look: &mut dyn FnMut(&[u8])) -> Result<(), LogError> {
        self.state.look(key, look)
    }

    fn resident(&self) -> Option<&dyn Resident> {
        self.state.resident()
    }

    fn position(&self) -> Result<u64, LogError> {
        self.state.position()
    }

    fn commit(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError> {
        self.state.commit(next_seq, changes)
    }
}
