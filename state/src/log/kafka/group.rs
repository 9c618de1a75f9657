//! The consumer group: which process should try to hold which partition.
//!
//! It assigns and nothing else. What is read, and from where, stands in the chain, and the group
//! commits no positions. So every partition it gives is paused at once.
//!
//! Two protocols do the same. In the classic one a member says how long it may be silent; in the
//! newer one (KIP-848) the broker says it, 45 s by default, which is too long to be without an
//! owner. So the newer one is used only where every broker has set it as short.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::{ClientConfig, ClientContext};
use schemas::Stream;

use super::cluster::Cluster;
use crate::LogError;
use crate::memory::lock;

/// A member that is silent for this long is replaced (the shortest that brokers permit by
/// default).
pub const SESSION_MS: u64 = 6_000;
const HEARTBEAT_MS: &str = "1500";
/// The broker's word on how long a member of a group of the newer protocol may be silent.
const BROKERS_SESSION: &str = "group.consumer.session.timeout.ms";
/// Brokers may take this long to tell it; without an answer the classic protocol is used.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// A partition that is taken away is given up within this, or taken all the same.
const YIELD_WITHIN: Duration = Duration::from_secs(2);

/// How the group assigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Members agree among themselves, cooperatively; each says how long it may be silent.
    Classic,
    /// The broker assigns (KIP-848).
    Consumer,
}

impl Protocol {
    /// The newer one where every broker permits a session as short as [`SESSION_MS`].
    pub fn permitted(cluster: &Cluster) -> Self {
        match brokers_session_ms(cluster) {
            Some(longest) if longest <= SESSION_MS => Protocol::Consumer,
            Some(_) | None => Protocol::Classic,
        }
    }

    /// As librdkafka and Kafka's tools call it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Classic => "classic",
            Protocol::Consumer => "consumer",
        }
    }

    fn settings(self, config: &mut ClientConfig) {
        config.set("group.protocol", self.name());
        match self {
            Protocol::Classic => {
                config.set("partition.assignment.strategy", "cooperative-sticky");
                config.set("session.timeout.ms", SESSION_MS.to_string());
                config.set("heartbeat.interval.ms", HEARTBEAT_MS);
            }
            // Everything else is the broker's to say.
            Protocol::Consumer => {}
        }
    }
}

/// The longest session that a broker has set; `None` when one does not say it, because it is too
/// old or this process may not ask.
fn brokers_session_ms(cluster: &Cluster) -> Option<u64> {
    let (_, metadata) = cluster.reached().ok()?;
    let brokers = metadata.brokers().iter().map(|it| ResourceSpecifier::Broker(it.id()));
    let brokers: Vec<ResourceSpecifier<'_>> = brokers.collect();
    let options = AdminOptions::new().request_timeout(Some(TOLD_WITHIN));
    let admin = cluster.admin().ok()?;
    // A resource for each request: librdkafka sends one to the broker that it is about.
    let told = brokers.iter().map(|broker| {
        let described = pollster::block_on(admin.describe_configs([broker], &options)).ok()?;
        let settings = described.into_iter().next()?.ok()?;
        settings.get(BROKERS_SESSION)?.value.as_ref()?.parse::<u64>().ok()
    });
    told.collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// The group's name.
pub(crate) fn name(cluster: &Cluster) -> String {
    cluster.topic("owners")
}

/// Membership of a process, until it is dropped.
pub struct Membership {
    protocol: Protocol,
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
    /// Until then this process stays out of the group.
    away_until: Option<Instant>,
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
    fn is_away(&self) -> bool {
        lock(&self.given).away_until.is_some_and(|it| Instant::now() < it)
    }

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

/// Leaves the group at once, so that the others go on without waiting for the session to end.
fn leave(consumer: &BaseConsumer<Context>, seats: &Seats) {
    consumer.unsubscribe();
    let until = Instant::now() + YIELD_WITHIN;
    while Instant::now() < until && consumer.assignment().is_ok_and(|it| it.count() > 0) {
        let _ = consumer.poll(Duration::from_millis(50));
    }
    // Who has left must not look as if it were still assigned.
    lock(&seats.given).assigned.clear();
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
        config.set("group.id", name(cluster)).set("client.id", instance);
        let protocol = Protocol::permitted(cluster);
        protocol.settings(&mut config);
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "latest");
        let failed = |error| cluster.failed("join the owners' group", error);
        let consumer: BaseConsumer<Context> =
            config.create_with_context(Context(seats.clone())).map_err(failed)?;
        let topic = cluster.stream(Stream::Control);
        consumer.subscribe(&[&topic]).map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, given) = (stop.clone(), seats.clone());
        let spawned = std::thread::Builder::new().name("group".to_owned()).spawn(move || {
            let mut is_member = true;
            while !stopped.load(Ordering::SeqCst) {
                match given.is_away() {
                    true if is_member => {
                        leave(&consumer, &given);
                        is_member = false;
                    }
                    // Where it does not succeed, the next round tries again.
                    false if !is_member => is_member = consumer.subscribe(&[&topic]).is_ok(),
                    true | false => {}
                }
                // Records of a partition that is not paused yet are nobody's business here, and
                // librdkafka joins again by itself after an error.
                let _ = consumer.poll(Duration::from_millis(100));
            }
            leave(&consumer, &given);
        });
        let thread = spawned.map_err(|error| LogError::Cluster {
            what: "start a thread".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Membership { protocol, seats, stop, thread: Some(thread) })
    }

    /// Leaves the group, without waiting for it; nothing is assigned to this process any more.
    pub fn leave(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Leaves the group and joins it again after `pause`.
    pub fn leave_for(&self, pause: Duration) {
        lock(&self.seats.given).away_until = Some(Instant::now() + pause);
    }

    /// How the group assigns.
    pub fn protocol(&self) -> Protocol {
        self.protocol
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
