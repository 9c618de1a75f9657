//! A node on a cluster: its place in the deployment, and engines that share their partitions
//! with other processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use schemas::signature::KeyPair;
use state::kafka::group::Membership;
use state::kafka::{Cluster, KafkaLog};
use tokio::sync::watch;

use super::layout::head_record_beside;
use super::parts::{Part, Parts};
use super::{Layout, LogChoice, NodeConfig, Started, head_record_default, os_chance};
use crate::checkpoints::Depot;
use crate::checkpoints::keeper::Keeper;
use crate::checkpoints::start::{self, Expected};
use crate::config::{CHECKPOINT_EVERY_S, Checkpoints};
use crate::engine::heads::Heads;
use crate::engine::owner::{Office, Owner};
use crate::engine::{Bell, Engine, Member};
use crate::fanout::Values;
use crate::join::Candidate;
use crate::keys::{Identity, KeyDir};
use crate::{fanout, join, parallel};

/// Between two looks whether a partition has stopped.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that has gone is replaced within this, and its partitions are in office elsewhere: the
/// group's session, and an election.
const SETTLED_WITHIN: Duration = Duration::from_secs(12);
/// How long a node steps aside the first time, and at most.
const ASIDE_FIRST: Duration = Duration::from_secs(30);
const ASIDE_MAX: Duration = Duration::from_secs(3600);

/// What a lost or exchanged key of the operator means.
pub(super) const NO_OPERATOR: &str = "without the operator's key nobody here could freeze or \
     change this system, so it does not start; put the key file back from where it was kept";

/// What few copies mean, and what to do.
const FEW_COPIES: &str = "fewer brokers have a copy of these topics than could, and what is \
     acknowledged there may go with a disk; give them more with `kafka-reassign-partitions` and, \
     before the next start, two in sync with `kafka-configs --alter --add-config \
     min.insync.replicas=2`";

/// A node's place in its deployment.
pub(super) struct Joined {
    /// Who it is.
    pub(super) identity: Identity,
    /// The operator's key, where it is kept here.
    pub(super) operator: Option<KeyPair>,
    /// Partitions of the system.
    pub(super) n_partitions: u32,
    /// Runners that nodes ask for, where they are answered here without a person.
    pub(super) asked: Option<watch::Receiver<Vec<Candidate>>>,
}

/// Takes this node's place in the deployment, which is founded where there is none.
pub(super) async fn identities(config: &NodeConfig) -> anyhow::Result<Joined> {
    let keys = KeyDir::of(&config.data);
    match &config.log {
        LogChoice::Embedded => {
            let identity = keys.identity()?;
            // Where a deployment has its operator, a key that is made now would be nobody's.
            let is_founded = Layout(config.data.clone()).deployment().exists();
            let operator = if is_founded { keys.existing_operator() } else { keys.operator() };
            let operator = Some(operator.context(NO_OPERATOR)?);
            Ok(Joined { identity, operator, n_partitions: 1, asked: None })
        }
        LogChoice::Kafka(cluster) => {
            let (cluster, data) = (cluster.clone(), config.data.clone());
            let wanted = config.partitions;
            let joined = tokio::task::spawn_blocking(move || {
                let n_partitions = cluster.prepare(wanted, &fanout::topics())?;
                let thin = cluster.thin(&fanout::topics())?;
                if !thin.is_empty() {
                    let topics = thin.join(", ");
                    tracing::warn!(topics, "{FEW_COPIES}");
                }
                let identity = join::identity(&cluster, &keys, &data)?;
                let root = keys.existing_root().ok();
                // The operator's key is made where the deployment was founded, and stays when the
                // root key is taken elsewhere.
                let has_operator = root.is_some() || keys.has_operator();
                let operator = has_operator.then(|| keys.operator()).transpose()?;
                let answers = has_operator && join::is_local(&cluster);
                let asked = answers.then(|| join::attend(cluster, root));
                anyhow::Ok(Joined { identity, operator, n_partitions, asked })
            });
            joined.await.context("joining the cluster")?
        }
    }
}

/// How values of typed topics are framed, once the registry has agreed where there is one.
pub(super) async fn agree(config: &NodeConfig) -> anyhow::Result<Values> {
    let (LogChoice::Kafka(cluster), Some(registry)) = (&config.log, &config.schema_registry) else {
        return Ok(Values::SingleObject);
    };
    let (cluster, registry) = (cluster.clone(), registry.clone());
    let agreed = tokio::task::spawn_blocking(move || {
        registry.agree(&fanout::subjects(&cluster)).context("agreeing with the schema registry")
    });
    Ok(Values::Registered(Arc::new(agreed.await.context("asking the schema registry")??)))
}

/// What an engine shares with other processes.
pub(super) struct Share {
    /// Its log.
    pub(super) log: Arc<KafkaLog>,
    /// This process's place in the group.
    pub(super) membership: Arc<Membership>,
}

/// Steps aside for a while when a partition that is this node's has stopped here, so that another
/// node takes it over. The group assigns to a process as a whole, so all its partitions go.
///
/// It may have stopped on every node that has read it. So a node goes only while another is in
/// office for one that is well, for longer than it takes to move the ones of a node that has just
/// gone; and it comes back, after pauses that grow, in case the others go for other reasons. The
/// last one stays and keeps what is well.
pub(super) fn step_aside_when_stopped(parts: &Parts, membership: Arc<Membership>) {
    let parts = parts.clone();
    tokio::spawn(async move {
        let is_stopped = |it: &Part| it.engine.follow().borrow().stopped.is_some();
        let is_ours = |it: &Part| is_stopped(it) && membership.is_assigned(it.number);
        let is_elsewhere = |it: &Part| {
            let seat = it.engine.seat().borrow().clone();
            !is_stopped(it) && !seat.here && !seat.endpoint.is_empty()
        };
        let (mut pause, mut since) = (ASIDE_FIRST, None);
        loop {
            let all = parts.all();
            let patience = if all.len() == 1 { Duration::ZERO } else { SETTLED_WITHIN };
            let others = all.len() == 1 || all.iter().any(is_elsewhere);
            if !(others && all.iter().any(is_ours)) {
                since = None;
            } else if patience <= since.get_or_insert_with(Instant::now).elapsed() {
                tracing::warn!(
                    pause_s = pause.as_secs(),
                    "a partition stands still here; this node steps aside for another"
                );
                membership.leave_for(pause);
                (pause, since) = ((2 * pause).min(ASIDE_MAX), None);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
}

/// Engines that share their partitions with other processes, one for each partition.
pub(super) async fn share(
    config: &NodeConfig,
    cluster: &Cluster,
    identity: &Arc<Identity>,
    n_partitions: u32,
    endpoint: &str,
) -> anyhow::Result<Vec<Started>> {
    // All logs first: a member that is assigned a partition while it restores another would keep
    // both without an owner.
    let opening = Opening {
        cluster: cluster.clone(),
        data: config.data.clone(),
        checkpoints: config.checkpoints.clone(),
        deployment: identity.deployment.clone(),
        n_partitions,
    };
    let opened = opening.all().await?;
    let bells: Vec<Bell> = opened.iter().map(|it| it.bell.clone()).collect();
    let news = Arc::new(move || bells.iter().for_each(Bell::ring));
    // What `healwright groups` shows of this process.
    let client = format!("healwright@{endpoint}");
    let membership = Arc::new(Membership::join(cluster, &client, news)?);
    tracing::info!(protocol = membership.protocol().name(), "joined the owners' group");
    let record = config.head_record.as_deref();
    let seat = Seat { record, membership: &membership, identity, endpoint };
    opened.into_iter().map(|it| seat.take(it)).collect()
}

/// One partition, before this process is in the group.
struct Opened {
    partition: u32,
    layout: Layout,
    bell: Bell,
    log: Arc<KafkaLog>,
    kept: Option<Kept>,
}

/// What a configured place for checkpoints comes to at the start.
struct Kept {
    depot: Depot,
    every: Duration,
    expected: Option<Expected>,
}

/// What it takes to open the logs of a node.
struct Opening {
    cluster: Cluster,
    data: PathBuf,
    checkpoints: Option<Checkpoints>,
    deployment: String,
    n_partitions: u32,
}

impl Opening {
    /// Opens them, some at once: what is brought back is waited for.
    async fn all(self) -> anyhow::Result<Vec<Opened>> {
        let runtime = tokio::runtime::Handle::current();
        let opened = tokio::task::spawn_blocking(move || {
            let depot = match &self.checkpoints {
                Some(Checkpoints { url: Some(url), .. }) => Some(Depot::make(url, runtime)?),
                _ => None,
            };
            let partitions: Vec<u32> = (0..self.n_partitions).collect();
            parallel::each(&partitions, |it| self.one(*it, depot.as_ref()))
        });
        opened.await.context("opening the logs")?
    }

    /// Opens one, which begins with the newest checkpoint where that is wanted.
    fn one(&self, partition: u32, depot: Option<&Depot>) -> anyhow::Result<Opened> {
        let layout = Layout(self.data.clone()).partition(partition);
        belongs(&layout, &self.deployment, self.n_partitions)?;
        let every_s = self.checkpoints.as_ref().and_then(|it| it.every_s);
        let every = Duration::from_secs(every_s.unwrap_or(CHECKPOINT_EVERY_S));
        let kept = depot.map(|depot| {
            let expected = start::begin(depot, &self.deployment, partition, &layout.0)?;
            anyhow::Ok(Kept { depot: depot.clone(), every, expected })
        });
        let kept = kept.transpose()?;
        let bell = Bell::default();
        let ringing = bell.clone();
        let news = Arc::new(move || ringing.ring());
        let log = KafkaLog::open(&self.cluster, &layout.0, &self.deployment, partition, news)?;
        Ok(Opened { partition, layout, bell, log: Arc::new(log), kept })
    }
}

/// What the engines of a process have in common.
struct Seat<'a> {
    record: Option<&'a Path>,
    membership: &'a Arc<Membership>,
    identity: &'a Arc<Identity>,
    endpoint: &'a str,
}

impl Seat<'_> {
    /// One partition's engine.
    fn take(&self, opened: Opened) -> anyhow::Result<Started> {
        let Opened { partition, layout, bell, log, kept } = opened;
        let name = format!("{}-{}", self.identity.deployment, self.identity.node.public().id());
        let record = match self.record {
            Some(path) => head_record_beside(path, partition),
            None => head_record_default(&name, partition),
        };
        let (office_log, endpoint) = (log.clone(), self.endpoint.to_owned());
        let (identity, checkpoint) = (self.identity.clone(), layout.checkpoint());
        let elect = move || {
            let shown = office_log.clone();
            let heads = Heads::open(&record, Some(checkpoint.clone()))?
                .shown(Box::new(move |note| shown.publish_head(note)));
            let office = Office {
                log: office_log.clone(),
                store: office_log.clone(),
                identity: &identity,
                endpoint: endpoint.clone(),
                heads,
                chance: os_chance(),
            };
            Owner::elect(office, crate::engine::wall_now())
        };
        let membership = self.membership.clone();
        let mut member = Member::new(log.clone(), membership, partition, Box::new(elect))?;
        let shared = Some(Share { log: log.clone(), membership: self.membership.clone() });
        let Some(Kept { depot, every, expected }) = kept else {
            return Ok(Started { engine: Engine::join(member, &bell)?, shared });
        };
        member.expect(expected);
        let engine = Engine::join(member, &bell)?;
        let (identity, data) = (self.identity.clone(), layout.0);
        Keeper { depot, log, identity, data, every }.follow(&engine.handle());
        Ok(Started { engine, shared })
    }
}

/// Refuses a data directory that holds another log's history, and marks this one.
fn belongs(layout: &Layout, deployment: &str, n_partitions: u32) -> anyhow::Result<()> {
    std::fs::create_dir_all(&layout.0)
        .with_context(|| format!("creating {}", layout.0.display()))?;
    let mark = layout.0.join("shared-log");
    if layout.journal().exists() && !mark.exists() {
        anyhow::bail!(
            "{} holds an embedded log, which is a history of its own; name another data \
             directory for `--log kafka://…`",
            layout.0.display()
        );
    }
    let kept = std::fs::read_to_string(&mark).unwrap_or_default();
    let founded = kept.lines().nth(1).and_then(|it| it.strip_prefix("partitions "));
    if let Some(founded) = founded.filter(|it| **it != n_partitions.to_string()) {
        anyhow::bail!(
            "this system had {founded} partitions and its topics have {n_partitions} now: services \
             would be looked for where their history is not. Kafka cannot take partitions away, so \
             start again under another `--topic-prefix`; what was journaled can be exported with \
             `--partition N`"
        );
    }
    std::fs::write(&mark, format!("{deployment}\npartitions {n_partitions}\n"))
        .with_context(|| format!("writing {}", mark.display()))?;
    std::fs::write(layout.deployment(), format!("{deployment}\n"))
        .with_context(|| format!("writing {}", layout.deployment().display()))
}
