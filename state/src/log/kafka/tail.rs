//! Following the journal's topic: every record is read in the order of the topic, linked by the
//! one rule or skipped, and what links goes into the copy. Owner, standby and election read
//! through this thread alone, so what the chain is has one answer in a process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use schemas::link::claim;
use schemas::{Batch, Head, Skip};

use super::cluster::{Cluster, Isolation, JOURNAL};
use super::verdict::contradicts;
use crate::LogError;
use crate::embedded::EmbeddedLog;
use crate::memory::lock;

/// The end of the topic is asked for this long.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// How long one poll may wait: bounds how late a stop is noticed.
const POLL: Duration = Duration::from_millis(100);

/// What the follower knows.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The end of the chain.
    pub(crate) head: Head,
    /// The highest epoch that a certified election claims, linked or not.
    pub(crate) claimed: u64,
    /// Records that were never linked.
    pub(crate) n_skipped: u64,
    /// Why following has ended.
    pub(crate) fault: Option<LogError>,
    /// Offset of the next record to read.
    next_offset: i64,
    /// Whether the broker has said that nothing more is there.
    at_end: bool,
    /// Whether the copy's last batch has yet to be read again where it stood.
    unproven: bool,
}

/// The follower of one partition's journal.
pub(crate) struct Tail {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer>,
    cluster: Cluster,
    partition: u32,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    known: Mutex<Known>,
    moved: Condvar,
    stop: AtomicBool,
    news: Arc<dyn Fn() + Send + Sync>,
}

impl Tail {
    /// Follows from where `copy` ends. `news` is called after every change.
    pub(crate) fn follow(
        cluster: &Cluster,
        partition: u32,
        copy: Arc<EmbeddedLog>,
        news: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, LogError> {
        let topic = cluster.topic(JOURNAL);
        let failed = |error: KafkaError| cluster.failed(&format!("read {topic}"), error);
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let consumer: BaseConsumer =
            cluster.reader(Isolation::Uncommitted).create().map_err(failed)?;
        let last = copy.offset()?;
        let start = last.map_or(0, |last| i64::try_from(last).unwrap_or(i64::MAX));
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&topic, number, Offset::Offset(start)).map_err(failed)?;
        consumer.assign(&assignment).map_err(failed)?;
        let head = crate::Log::head(&*copy)?;
        let known = Known {
            claimed: head.epoch,
            head,
            n_skipped: 0,
            fault: None,
            next_offset: start,
            at_end: false,
            unproven: last.is_some(),
        };
        let (consumer, moved, stop) = (Arc::new(consumer), Condvar::new(), AtomicBool::new(false));
        let shared = Arc::new(Shared { known: Mutex::new(known), moved, stop, news });
        let following = Following {
            shared: shared.clone(),
            consumer: consumer.clone(),
            copy,
            source: (topic, number),
            // The last record of the copy is read again: that it is still there is how a lost
            // tail is noticed by a node that was away.
            proof: last,
        };
        let thread = std::thread::Builder::new()
            .name(format!("journal-{partition}"))
            .spawn(move || following.run())
            .map_err(|error| LogError::Cluster {
                what: "start a thread".to_owned(),
                why: error.to_string(),
            })?;
        let (cluster, thread) = (cluster.clone(), Some(thread));
        Ok(Tail { shared, consumer, cluster, partition, thread })
    }

    /// What is known now, without asking the broker.
    pub(crate) fn known(&self) -> Known {
        lock(&self.shared.known).clone()
    }

    /// Waits until `done` answers something, or `within` has passed.
    pub(crate) fn wait<T>(
        &self,
        within: Duration,
        mut done: impl FnMut(&Known) -> Option<T>,
    ) -> Option<T> {
        let until = Instant::now() + within;
        let mut known = lock(&self.shared.known);
        loop {
            if let Some(answer) = done(&known) {
                return Some(answer);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.shared.moved.wait_timeout(known, left);
            known = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// The end of the chain as it stands on the broker at this call, or later.
    pub(crate) fn caught_up(&self) -> Result<Head, LogError> {
        let topic = self.cluster.topic(JOURNAL);
        let (_, end) = self.cluster.watermarks(&self.consumer, &topic, self.partition)?;
        let end = i64::try_from(end).unwrap_or(i64::MAX);
        let read = self.wait(ASK_WITHIN, |known| {
            let done = known.fault.is_some() || !known.unproven && end <= known.next_offset;
            done.then(|| known.clone())
        });
        // Control records of a foreign transaction have offsets and are never delivered; then
        // the broker's word that nothing more is there must do.
        let read = read.unwrap_or_else(|| self.known());
        match read.fault {
            Some(fault) => Err(fault),
            // The topic ends where the copy's last batch stood: its tail was lost.
            None if read.unproven && read.at_end => Err(LogError::Diverged {
                next_seq: read.head.next_seq,
                hash: read.head.hash,
                why: "the topic ends before its last batch".to_owned(),
            }),
            None if !read.unproven && (end <= read.next_offset || read.at_end) => Ok(read.head),
            None => Err(LogError::Unanswered { what: "read of the journal's end" }),
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by itself.
            let _ = thread.join();
        }
    }
}

struct Following {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer>,
    copy: Arc<EmbeddedLog>,
    /// Topic and partition.
    source: (String, i32),
    proof: Option<u64>,
}

impl Following {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let outcome = match self.consumer.poll(POLL) {
                None => continue,
                Some(Ok(message)) => {
                    let record = message.payload().unwrap_or_default().to_vec();
                    let offset = message.offset();
                    drop(message);
                    self.take(&record, offset)
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    lock(&self.shared.known).at_end = true;
                    Ok(())
                }
                Some(Err(error)) => self.unreadable(&error),
            };
            let ended = outcome.is_err();
            if let Err(fault) = outcome {
                lock(&self.shared.known).fault = Some(fault);
            }
            self.shared.moved.notify_all();
            (self.shared.news)();
            if ended {
                return;
            }
        }
    }

    fn take(&mut self, record: &[u8], offset: i64) -> Result<(), LogError> {
        let at = u64::try_from(offset).unwrap_or(0);
        let batch = Batch::decode(record).ok();
        if let Some(last) = self.proof.take() {
            self.same(batch.as_ref().filter(|_| last == at))?;
            self.advance(offset, |known| known.unproven = false);
            return Ok(());
        }
        let Some(batch) = batch else {
            self.advance(offset, |known| known.n_skipped += 1);
            return Ok(());
        };
        let adopted = self.copy.adopt(&batch, record, at)?;
        if let Err(skip) = adopted {
            self.contradicts(&batch, skip)?;
        }
        self.advance(offset, |known| {
            match adopted {
                Ok(head) => known.head = head,
                Err(_) => known.n_skipped += 1,
            }
            let claimed = claim(&known.head.deployment, known.head.partition, &batch);
            known.claimed = known.claimed.max(claimed.unwrap_or(0));
        });
        Ok(())
    }

    fn advance(&self, offset: i64, change: impl FnOnce(&mut Known)) {
        let mut known = lock(&self.shared.known);
        known.next_offset = offset + 1;
        known.at_end = false;
        change(&mut known);
    }

    /// The record at the copy's last offset is the copy's last batch, or the tail was lost while
    /// this node was away.
    fn same(&self, batch: Option<&Batch>) -> Result<(), LogError> {
        let hash = crate::Log::head(&*self.copy)?.hash;
        if batch.is_some_and(|batch| batch.hash() == hash) {
            return Ok(());
        }
        Err(self.diverged("another record stands where its last batch stood"))
    }

    /// A certified election that names a batch outside this chain: somebody follows another
    /// history (protocol.md §2, "Truncation").
    fn contradicts(&self, batch: &Batch, skip: Skip) -> Result<(), LogError> {
        let head = crate::Log::head(&*self.copy)?;
        let strays = contradicts(&head, batch, skip, |seq| {
            let before = crate::Log::read(&*self.copy, seq, 1)?;
            Ok(before.first().map_or_else(Default::default, Batch::hash))
        })?;
        if !strays {
            return Ok(());
        }
        Err(self.diverged("an election names a batch that is not in it"))
    }

    /// A broker that is away comes back; a position that it does not have is a lost tail.
    fn unreadable(&self, error: &KafkaError) -> Result<(), LogError> {
        let code = error.rdkafka_error_code();
        let gone = [RDKafkaErrorCode::AutoOffsetReset, RDKafkaErrorCode::OffsetOutOfRange];
        if !code.is_some_and(|it| gone.contains(&it)) {
            return Ok(());
        }
        let wanted = lock(&self.shared.known).next_offset;
        let (topic, partition) = &self.source;
        let marks = self.consumer.fetch_watermarks(topic, *partition, ASK_WITHIN);
        Err(match marks {
            // What lay before has expired or was deleted; a checkpoint ends before it, too.
            Ok((first, _)) if wanted < first => self.diverged(&format!(
                "it begins at offset {first}, and what comes after this copy stood at {wanted}"
            )),
            Ok(_) | Err(_) => {
                self.diverged(&format!("the broker no longer has what was read ({error})"))
            }
        })
    }

    fn diverged(&self, why: &str) -> LogError {
        match crate::Log::head(&*self.copy) {
            Ok(head) => {
                LogError::Diverged { next_seq: head.next_seq, hash: head.hash, why: why.to_owned() }
            }
            Err(error) => error,
        }
    }
}
