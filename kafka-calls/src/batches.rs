//! Records of a Kafka partition, many at a call.
//!
//! rdkafka hands out one message a call, and each call is a message built, a lock taken and a
//! time-out computed. librdkafka itself hands out a whole run at about half the cost, by
//! `rd_kafka_consume_batch_queue`; this is that one function (docs/decisions/0013 has the
//! measurement).
//!
//! What the unsafe code rests on:
//! - the queue belongs to a client that lives as long as the handle: [`Batches`] holds it;
//! - a message belongs to whoever took it until it is destroyed: a `Taken` destroys it once;
//! - what a message points to lives as long as the message: a [`Record`] borrows from it.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

/// Messages taken in one call at most.
const RUN: usize = 1024;

/// The queue of one partition that a consumer is assigned to.
pub struct Batches {
    queue: NonNull<bindings::rd_kafka_queue_t>,
    /// Keeps the client alive: the queue is a part of it.
    _consumer: Arc<BaseConsumer>,
    run: Vec<*mut bindings::rd_kafka_message_t>,
}

/// One thing that lay in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A record.
    At {
        /// Its offset.
        offset: i64,
        /// Its value; empty where it has none.
        value: &'a [u8],
    },
    /// The broker's word that nothing more is there.
    End,
    /// What the client could not do.
    Failed(RDKafkaErrorCode),
}

impl Batches {
    /// Reads partition `partition` of `topic`, which `consumer` is assigned to and which has been
    /// split off its own queue (`BaseConsumer::split_partition_queue`).
    ///
    /// `None`: the topic's name holds a zero byte, or the client has no such partition.
    pub fn of(consumer: &Arc<BaseConsumer>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: the client is alive, for `consumer` holds it; the name ends with a zero byte.
        // The answer is a reference of our own, or null.
        let queue =
            unsafe { bindings::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        Some(Batches { queue, _consumer: consumer.clone(), run: vec![std::ptr::null_mut(); RUN] })
    }

    /// Hands what lies in the queue to `each`, `n_max` records and a thousand at most, and answers
    /// how many things there were. It does not wait: librdkafka would wait until the run is full.
    pub fn take(&mut self, n_max: usize, mut each: impl FnMut(Record<'_>)) -> usize {
        let (first, room) = (self.run.as_mut_ptr(), self.run.len().min(n_max));
        // SAFETY: the queue is alive until `drop`; there is room for `room` pointers at `first`.
        let taken =
            unsafe { bindings::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, first, room) };
        // Less than zero is an error of the call itself; nothing was taken then.
        let n = usize::try_from(taken).unwrap_or(0);
        let messages = self.run[..n].iter().filter_map(|it| NonNull::new(*it)).map(Taken);
        // Collected first, so that all are given back even when `each` panics.
        let messages: Vec<Taken> = messages.collect();
        messages.iter().for_each(|message| each(message.record()));
        n
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // SAFETY: the reference was ours from `of` on and is given back once. The consumer is
        // dropped after it, as a field.
        unsafe { bindings::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

// SAFETY: librdkafka's queues may be used from any thread (INTRODUCTION.md, "Threads and
// callbacks"), and the pointers of a run are null or stale between two calls and never followed.
unsafe impl Send for Batches {}

/// A message that was taken and is destroyed when dropped.
struct Taken(NonNull<bindings::rd_kafka_message_t>);

impl Taken {
    fn record(&self) -> Record<'_> {
        // SAFETY: the message is ours until `drop`, and nobody writes to it.
        let message = unsafe { self.0.as_ref() };
        match message.err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => return Record::End,
            other => return Record::Failed(RDKafkaErrorCode::from(other)),
        }
        let value = match NonNull::new(message.payload.cast::<u8>()) {
            // SAFETY: librdkafka keeps `len` bytes at `payload` for as long as the message, which
            // the answer borrows from.
            Some(bytes) => unsafe { std::slice::from_raw_parts(bytes.as_ptr(), message.len) },
            None => &[],
        };
        Record::At { offset: message.offset, value }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: taken once, destroyed once.
        unsafe { bindings::rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}
