//! The consumer group: which process should try to hold which partition.
//!
//! It assigns and nothing else. What is read, and from where, stands in the chain; the group's
//! positions are for those who watch. So every partition it gives is paused at once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use schemas::Stream;

use super::cluster::Cluster;
use crate::LogError;
use crate::memory::lock;

/// A member that is silent for this long is replaced (the shortest that brokers permit by
/// default).
const SESSION_MS: &str = "6000";
const HEARTBEAT_MS: &str = "1500";
/// A partition that is taken away is given up within this, or taken all the same.
const YIELD_WITHIN: Duration = Duration::from_secs(2);

/// Membership of a process, until it is dropped.
pub struct Membership {
    seats: Arc<Seats>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Which partitions are this process's, and which it still holds.
struct Seats {
    given: Mutex<Given>,
    changed: Condvar,
    news: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Given {
    assigned: BTreeSet<u32>,
    held: BTreeSet<u32>,
}

struct Context(Arc<Seats>);

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(revoked) = rebalance {
            // A partition that was lost is somebody else's already: there is nothing to wait for.
            let within = if consumer.assignment_lost() { Duration::ZERO } else { YIELD_WITHIN };
            self.0.revoke(&partitions(revoked), within);
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(assigned) = rebalance {
            // Nothing is read through the group. A pause that fails costs a little traffic.
            let _ = consumer.pause(assigned);
            self.0.assign(&partitions(assigned));
        }
    }
}

fn partitions(list: &TopicPartitionList) -> BTreeSet<u32> {
    list.elements().iter().filter_map(|it| u32::try_from(it.partition()).ok()).collect()
}

impl Seats {
    fn assign(&self, partitions: &BTreeSet<u32>) {
        lock(&self.given).assigned.extend(partitions);
        (self.news)();
    }

    /// Takes partitions away and waits until their owner has closed its batch.
    fn revoke(&self, partitions: &BTreeSet<u32>, within: Duration) {
        let mut given = lock(&self.given);
        given.assigned.retain(|it| !partitions.contains(it));
        (self.news)();
        let until = Instant::now() + within;
        while given.held.iter().any(|it| partitions.contains(it)) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(given, left);
            given = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

impl Membership {
    /// Joins the owners' group of `cluster`. `news` is called whenever the assignment changes.
    ///
    /// # Errors
    /// [`LogError::Cluster`].
    pub fn join(
        cluster: &Cluster,
        instance: &str,
        news: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<Self, LogError> {
        let seats = Arc::new(Seats { given: Mutex::default(), changed: Condvar::new(), news });
        let mut config = cluster.client();
        config.set("group.id", cluster.topic("owners")).set("client.id", instance);
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("session.timeout.ms", SESSION_MS).set("heartbeat.interval.ms", HEARTBEAT_MS);
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "latest");
        let failed = |error| cluster.failed("join the owners' group", error);
        let consumer: BaseConsumer<Context> =
            config.create_with_context(Context(seats.clone())).map_err(failed)?;
        consumer.subscribe(&[&cluster.stream(Stream::Control)]).map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let spawned = std::thread::Builder::new().name("group".to_owned()).spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                // Records of a partition that is not paused yet are nobody's business here, and
                // librdkafka joins again by itself after an error.
                let _ = consumer.poll(Duration::from_millis(100));
            }
            // Leaving at once lets the others go on without waiting for the session to end.
            consumer.unsubscribe();
            let until = Instant::now() + YIELD_WITHIN;
            while Instant::now() < until && consumer.assignment().is_ok_and(|it| it.count() > 0) {
                let _ = consumer.poll(Duration::from_millis(50));
            }
        });
        let thread = spawned.map_err(|error| LogError::Cluster {
            what: "start a thread".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Membership { seats, stop, thread: Some(thread) })
    }

    /// Whether the group says that `partition` is this process's.
    pub fn is_assigned(&self, partition: u32) -> bool {
        lock(&self.seats.given).assigned.contains(&partition)
    }

    /// This process holds `partition`, or no longer does.
    pub fn hold(&self, partition: u32, held: bool) {
        let mut given = lock(&self.seats.given);
        if held {
            given.held.insert(partition);
        } else {
            given.held.remove(&partition);
        }
        drop(given);
        self.seats.changed.notify_all();
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by itself.
            let _ = thread.join();
        }
    }
}
