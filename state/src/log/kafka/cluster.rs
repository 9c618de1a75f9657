//! Where a Kafka cluster is, how it is spoken to, and which topics lie there.
//!
//! One partition of the system is the partition of that number in each of four topics; `nodes`
//! is shared by all. A start creates the topics that are missing and refuses, with a sentence,
//! those that would lose what must be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;
use schemas::Stream;

use super::behind::Sharers;
use super::sender::Sender;
use crate::LogError;
use crate::memory::lock;

/// The chain. Persisted: frozen, like all names of topics here.
pub(crate) const JOURNAL: &str = "journal";
/// Who belongs to the deployment; one partition.
pub(crate) const NODES: &str = "nodes";
/// Signed tree heads, for whoever watches or exports.
pub(crate) const HEADS: &str = "heads";
/// How far the fan-out to typed topics has come.
pub(crate) const FANOUT: &str = "fanout";
/// Records that could not be decoded.
pub(crate) const QUARANTINE: &str = "quarantine";

/// Replicas of each topic where the cluster has as many brokers (protocol.md §2).
const REPLICAS: usize = 3;
/// So many of them must have what is acknowledged.
const IN_SYNC_MIN: usize = 2;
const IN_SYNC: &str = "min.insync.replicas";
/// How long telemetry and typed topics are kept where this process makes them. Beyond it, replay
/// takes recorded anomalies as inputs.
const EXPIRING_MS: &str = "604800000";
/// Why checkpoints do not let the journal expire (protocol.md §5).
const NO_EXPIRY: &str = ", with `checkpoints.url` as well: entries may expire only behind a \
     checkpoint that every witness has seen, which nothing here makes sure of yet";
/// How long a question about a partition may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long the cluster may take to answer at the start.
pub(crate) const START_WITHIN: Duration = Duration::from_secs(20);

/// A cluster and the part of it that belongs to one system.
#[derive(Clone)]
pub struct Cluster {
    brokers: String,
    prefix: String,
    /// librdkafka's settings for TLS and SASL. Secrets: never printed.
    security: BTreeMap<String, String>,
    /// The way to write, while somebody does; clones share it.
    sender: Arc<Mutex<Weak<Sender>>>,
    /// The states of its partitions that this process has open; clones share them.
    pub(super) sharers: Sharers,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka://{} prefix {:?}", self.brokers, self.prefix)
    }
}

impl Cluster {
    /// The cluster of `kafka://HOST:PORT[,HOST:PORT…]` with topics that begin with `prefix`.
    ///
    /// # Errors
    /// [`LogError::Cluster`] says what is expected instead.
    pub fn parse(url: &str, prefix: &str) -> Result<Self, LogError> {
        let refused = |why: String| LogError::Cluster { what: format!("use {url:?}"), why };
        let form = "kafka://HOST:PORT[,HOST:PORT…] is expected";
        let brokers = url.strip_prefix("kafka://").ok_or_else(|| refused(form.to_owned()))?;
        let brokers = brokers.trim_end_matches('/');
        let named = |it: &str| {
            let parts = it.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(wrong) = brokers.split(',').find(|it| !named(it)) {
            return Err(refused(format!("{wrong:?} is no HOST:PORT; {form}")));
        }
        let legal = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '_' | '-');
        if prefix.len() > 100 || !prefix.chars().all(legal) {
            let why = "a prefix has at most 100 letters, digits, `.`, `_` and `-`".to_owned();
            return Err(LogError::Cluster { what: format!("use the prefix {prefix:?}"), why });
        }
        let (brokers, prefix) = (brokers.to_owned(), prefix.to_owned());
        Ok(Cluster {
            brokers,
            prefix,
            security: BTreeMap::new(),
            sender: Arc::default(),
            sharers: Sharers::default(),
        })
    }

    /// The same cluster, spoken to with librdkafka's settings for TLS and SASL.
    #[must_use]
    pub fn secured(self, security: BTreeMap<String, String>) -> Self {
        Cluster { security, ..self }
    }

    /// Another system on the same cluster: one whose prefix goes on with `part`.
    #[must_use]
    pub fn beside(&self, part: &str) -> Self {
        Cluster { prefix: format!("{}{part}", self.prefix), ..self.clone() }
    }

    /// `HOST:PORT[,…]`.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Full name of a topic.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn stream(&self, stream: Stream) -> String {
        self.topic(match stream {
            Stream::Inbox => "inbox",
            Stream::Control => "inbox.control",
            Stream::Telemetry => "telemetry",
        })
    }

    /// Adds a record to a stream of one partition, for a command that has no log open; it is
    /// durable when this returns.
    ///
    /// # Errors
    /// [`LogError::Unanswered`]: it may or may not be in the stream.
    pub fn send(&self, stream: Stream, partition: u32, record: Vec<u8>) -> Result<(), LogError> {
        self.sender()?.send(&self.stream(stream), partition, &[record]).map(|_| ())
    }

    /// The process's way to write: one producer for all partitions.
    pub(crate) fn sender(&self) -> Result<Arc<Sender>, LogError> {
        let mut shared = lock(&self.sender);
        if let Some(sender) = shared.upgrade() {
            return Ok(sender);
        }
        let sender = Arc::new(Sender::new(self)?);
        *shared = Arc::downgrade(&sender);
        Ok(sender)
    }

    /// Settings that every client shares.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", "healwright");
        // A broker that comes back is found within a second.
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        config.set("socket.nagle.disable", "true").set("socket.keepalive.enable", "true");
        for (key, value) in &self.security {
            config.set(key, value);
        }
        config
    }

    /// A reader that is told where it starts and never moves on by itself: a position that the
    /// broker does not have is an error and not a jump (protocol.md §2, "Truncation").
    pub(crate) fn reader(&self, isolation: Isolation) -> ClientConfig {
        let mut config = self.client();
        // Never subscribed: librdkafka wants a name for every consumer that is assigned to.
        config.set("group.id", self.topic("reader"));
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error").set("enable.partition.eof", "true");
        config.set("isolation.level", isolation.name()).set("check.crcs", "true");
        // A queue is as long as it takes to have the next answer, and it is looked after soon: a
        // small record takes four times its size there, and every partition has its queues.
        config.set("fetch.queue.backoff.ms", "2").set("queued.max.messages.kbytes", "1024");
        config.set("queued.min.messages", "5000").set("fetch.message.max.bytes", "524288");
        config.set("fetch.wait.max.ms", "100").set("fetch.error.backoff.ms", "100");
        config
    }

    pub(crate) fn failed(&self, what: &str, error: impl fmt::Display) -> LogError {
        let what = format!("{what} on {}", self.brokers);
        LogError::Cluster { what, why: error.to_string() }
    }

    /// First offset of a partition and the one after its last. A leader that is being chosen is
    /// waited for.
    pub(crate) fn watermarks<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        topic: &str,
        partition: u32,
    ) -> Result<(u64, u64), LogError> {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let until = Instant::now() + ANSWER_WITHIN;
        loop {
            match consumer.fetch_watermarks(topic, number, ANSWER_WITHIN) {
                Ok((low, high)) => {
                    let offset = |it| u64::try_from(it).unwrap_or(0);
                    return Ok((offset(low), offset(high)));
                }
                Err(error) if until < Instant::now() => {
                    return Err(self.failed(&format!("read {topic}"), error));
                }
                // Asked again at once where nobody leads; an answer that does not come has
                // waited already.
                Err(_) => std::thread::sleep(ASK_AGAIN),
            }
        }
    }

    /// Creates the topics that are missing, and checks the ones that are there. `typed` are the
    /// topics that the fan-out writes; how long those are kept is their readers' affair. Without a
    /// wanted number of partitions a system has as many as it was founded with, and a new one
    /// has one. Answers how many there are.
    ///
    /// # Errors
    /// [`LogError::Cluster`]: the cluster does not answer, or a topic is not what it must be.
    pub fn prepare(&self, partitions: Option<u32>, typed: &[String]) -> Result<u32, LogError> {
        let (consumer, metadata) = self.reached()?;
        let replicas = metadata.brokers().len().min(REPLICAS);
        let there: BTreeMap<&str, Found> =
            metadata.topics().iter().map(|it| (it.name(), Found::of(it))).collect();
        let founded = there.get(self.topic(JOURNAL).as_str()).map(|it| it.partitions);
        let partitions = partitions.map(|it| it as usize).or(founded).unwrap_or(1);
        let wanted = self.wanted(partitions, typed);
        let missing: Vec<&Wanted> =
            wanted.iter().filter(|it| !there.contains_key(it.name.as_str())).collect();
        self.create(&missing, replicas)?;
        for topic in wanted.iter().filter(|it| there.contains_key(it.name.as_str())) {
            let found = there[topic.name.as_str()].partitions;
            if found != topic.partitions {
                let why = format!(
                    "it has {found} partitions and {} are wanted; a chain belongs to its partition, \
                     so use another `--topic-prefix` or the number that is there",
                    topic.partitions
                );
                return Err(self.failed(&format!("use the topic {}", topic.name), why));
            }
        }
        let copies = |topic: &Wanted| {
            // One that was missing has as many as it was made with.
            there.get(topic.name.as_str()).map_or(replicas, |it| it.replicas)
        };
        self.check(&wanted, copies)?;
        missing.iter().try_for_each(|topic| self.await_leader(&consumer, topic))?;
        Ok(u32::try_from(partitions).unwrap_or(u32::MAX))
    }

    /// How many partitions the system has that was prepared here.
    ///
    /// # Errors
    /// [`LogError::Cluster`]: the cluster does not answer, or does not know the system.
    pub fn n_partitions(&self) -> Result<u32, LogError> {
        let (_, metadata) = self.reached()?;
        let journal = self.topic(JOURNAL);
        let found = metadata.topics().iter().find(|it| it.name() == journal);
        match found.map_or(0, |it| it.partitions().len()) {
            0 => Err(self.failed("count the partitions", format!("{journal} is not there"))),
            n => Ok(u32::try_from(n).unwrap_or(u32::MAX)),
        }
    }

    /// Topics that fewer brokers have a copy of than could, `typed` ones among them: they were made
    /// while there were fewer brokers, or by somebody else, and only a person gives them more.
    ///
    /// # Errors
    /// [`LogError::Cluster`]: the cluster does not answer.
    pub fn thin(&self, typed: &[String]) -> Result<Vec<String>, LogError> {
        let (_, metadata) = self.reached()?;
        let replicas = metadata.brokers().len().min(REPLICAS);
        let ours: BTreeSet<String> = self.wanted(1, typed).into_iter().map(|it| it.name).collect();
        let found = metadata.topics().iter().filter(|it| ours.contains(it.name()));
        let thin = found.filter(|it| Found::of(it).replicas < replicas);
        Ok(thin.map(|it| it.name().to_owned()).collect())
    }

    fn wanted(&self, partitions: usize, typed: &[String]) -> Vec<Wanted> {
        let kept = |name: String, partitions| Wanted { name, partitions, retention_ms: "-1" };
        let telemetry = self.stream(Stream::Telemetry);
        let expiring = |name: String| Wanted { name, partitions, retention_ms: EXPIRING_MS };
        let mut wanted = vec![
            kept(self.topic(JOURNAL), partitions),
            kept(self.stream(Stream::Inbox), partitions),
            kept(self.stream(Stream::Control), partitions),
            expiring(telemetry),
            expiring(self.topic(HEADS)),
            kept(self.topic(QUARANTINE), partitions),
            kept(self.topic(FANOUT), partitions),
            kept(self.topic(NODES), 1),
        ];
        wanted.extend(typed.iter().map(|it| expiring(self.topic(it))));
        wanted
    }

    pub(crate) fn admin(&self) -> Result<AdminClient<DefaultClientContext>, LogError> {
        self.client().create().map_err(|error| self.failed("start a client", error))
    }

    fn create(&self, missing: &[&Wanted], replicas: usize) -> Result<(), LogError> {
        if missing.is_empty() {
            return Ok(());
        }
        let in_sync = if replicas >= REPLICAS { IN_SYNC_MIN } else { 1 }.to_string();
        let copies = i32::try_from(replicas).unwrap_or(1);
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|topic| {
                let partitions = i32::try_from(topic.partitions).unwrap_or(1);
                NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(copies))
                    .set("cleanup.policy", "delete")
                    .set("retention.ms", topic.retention_ms)
                    .set("retention.bytes", "-1")
                    .set(IN_SYNC, &in_sync)
                    .set("unclean.leader.election.enable", "false")
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(START_WITHIN));
        let admin = self.admin()?;
        let created = pollster::block_on(admin.create_topics(&topics, &options));
        for outcome in created.map_err(|error| self.failed("create topics", error))? {
            match outcome {
                // Another node was faster; what it made is checked like any other.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    return Err(self.failed(&format!("create the topic {name}"), code));
                }
            }
        }
        Ok(())
    }

    fn check(&self, wanted: &[Wanted], copies: impl Fn(&Wanted) -> usize) -> Result<(), LogError> {
        let admin = self.admin()?;
        let until = Instant::now() + START_WITHIN;
        loop {
            let specifiers: Vec<ResourceSpecifier<'_>> =
                wanted.iter().map(|it| ResourceSpecifier::Topic(&it.name)).collect();
            let options = AdminOptions::new();
            let asked = admin.describe_configs(&specifiers, &options);
            let described = pollster::block_on(asked);
            let described = described.map_err(|error| self.failed("read the topics", error))?;
            let settings: Result<Vec<ConfigResource>, _> = described.into_iter().collect();
            // A topic that was made a moment ago is not known to every broker yet: asked for its
            // settings, one says so or answers none at all.
            let policy = |it: &ConfigResource| it.get("cleanup.policy")?.value.clone();
            let known = |it: &ConfigResource| policy(it).is_some_and(|it| !it.is_empty());
            match settings {
                Ok(settings) if settings.iter().all(known) || until <= Instant::now() => {
                    let mut pairs = wanted.iter().zip(&settings);
                    return pairs.try_for_each(|(topic, settings)| {
                        self.fits(topic, copies(topic), settings)
                    });
                }
                Ok(_) => {}
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) if Instant::now() < until => {}
                Err(code) => return Err(self.failed("read the settings of the topics", code)),
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// A journal whose tail or head may vanish, or that is compacted, is no journal; nor is one of
    /// three copies whose newest entries may lie in one of them.
    fn fits(
        &self,
        topic: &Wanted,
        replicas: usize,
        settings: &ConfigResource,
    ) -> Result<(), LogError> {
        let value = |name| settings.get(name).and_then(|it| it.value.clone()).unwrap_or_default();
        let refuse = |name: &str, found: &str, wanted: &str| {
            let journal = topic.name == self.topic(JOURNAL);
            let why = format!(
                "its {name} is {found} and must be {wanted}, or acknowledged events would be \
                 lost{}; change it with `kafka-configs --alter --topic {} --add-config \
                 {name}={wanted}`",
                if journal && name.starts_with("retention") { NO_EXPIRY } else { "" },
                topic.name
            );
            Err(self.failed(&format!("use the topic {}", topic.name), why))
        };
        let mut must = vec![("cleanup.policy", "delete")];
        if topic.retention_ms == "-1" {
            must.extend([("retention.ms", "-1"), ("retention.bytes", "-1")]);
        }
        must.push(("unclean.leader.election.enable", "false"));
        for (name, wanted) in must {
            let found = value(name);
            if found != wanted {
                return refuse(name, &found, wanted);
            }
        }
        let in_sync = value(IN_SYNC);
        if REPLICAS <= replicas && in_sync.parse().is_ok_and(|it: usize| it < IN_SYNC_MIN) {
            return refuse(IN_SYNC, &in_sync, &IN_SYNC_MIN.to_string());
        }
        Ok(())
    }

    fn await_leader<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        topic: &Wanted,
    ) -> Result<(), LogError> {
        let until = Instant::now() + START_WITHIN;
        let mut last = "no partition has a leader yet".to_owned();
        while Instant::now() < until {
            match consumer.fetch_metadata(Some(&topic.name), Duration::from_secs(5)) {
                Ok(found) => {
                    let found = found.topics().first();
                    let partitions = found.map(|it| it.partitions()).unwrap_or_default();
                    let led = partitions.iter().filter(|it| it.leader() >= 0).count();
                    if led == topic.partitions {
                        return Ok(());
                    }
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(self.failed(&format!("use the topic {}", topic.name), last))
    }
}

/// What a reader sees of transactions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Isolation {
    /// The journal: the chain decides what counts, and nobody's open transaction may hide it.
    Uncommitted,
    /// Streams that others write to: what a sender took back is not read.
    Committed,
}

impl Isolation {
    fn name(self) -> &'static str {
        match self {
            Isolation::Uncommitted => "read_uncommitted",
            Isolation::Committed => "read_committed",
        }
    }
}

/// A topic that was there before.
struct Found {
    partitions: usize,
    /// Copies of the partition that has the fewest.
    replicas: usize,
}

impl Found {
    fn of(topic: &MetadataTopic) -> Self {
        let replicas = topic.partitions().iter().map(|it| it.replicas().len());
        Found { partitions: topic.partitions().len(), replicas: replicas.min().unwrap_or(0) }
    }
}

struct Wanted {
    name: String,
    partitions: usize,
    retention_ms: &'static str,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_is_brokers_with_ports_and_anything_else_is_refused_with_the_form() {
        let cluster = Cluster::parse("kafka://a:9092,b:9093", "P.").unwrap();
        assert_eq!((cluster.brokers(), cluster.topic("x")), ("a:9092,b:9093", "P.x".to_owned()));
        for (url, prefix) in
            [("kafka:/a:1", ""), ("kafka://a", ""), ("kafka://", ""), ("kafka://a:1", "a b")]
        {
            let error = Cluster::parse(url, prefix).unwrap_err().to_string();
            assert!(error.contains("expected") || error.contains("prefix"), "{error}");
        }
    }

    #[test]
    fn no_secret_is_printed() {
        let secret = BTreeMap::from([("sasl.password".to_owned(), "hunter2".to_owned())]);
        let cluster = Cluster::parse("kafka://a:1", "").unwrap().secured(secret);
        assert!(!format!("{cluster:?}").contains("hunter2"));
    }
}
