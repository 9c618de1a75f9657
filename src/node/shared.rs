//! A node on a cluster: its place in the deployment, and an engine that shares its partition.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use schemas::signature::KeyPair;
use state::kafka::group::Membership;
use state::kafka::{Cluster, KafkaLog};

use super::{Layout, LogChoice, NodeConfig, PARTITION, PARTITIONS, head_record_default, os_chance};
use crate::checkpoints::Depot;
use crate::checkpoints::keeper::Keeper;
use crate::checkpoints::start::{self, Expected};
use crate::config::{CHECKPOINT_EVERY_S, Checkpoints};
use crate::engine::heads::Heads;
use crate::engine::owner::{Office, Owner};
use crate::engine::{Bell, Engine, Member};
use crate::fanout::Values;
use crate::keys::{Identity, KeyDir};
use crate::{fanout, join};

/// Who this node is, and the operator's key where it is kept here.
pub(super) async fn identities(config: &NodeConfig) -> anyhow::Result<(Identity, Option<KeyPair>)> {
    let keys = KeyDir::of(&config.data);
    match &config.log {
        LogChoice::Embedded => Ok((keys.identity()?, Some(keys.operator()?))),
        LogChoice::Kafka(cluster) => {
            let (cluster, data) = (cluster.clone(), config.data.clone());
            let joined = tokio::task::spawn_blocking(move || {
                cluster.prepare(PARTITIONS, &fanout::topics())?;
                let identity = join::identity(&cluster, &keys, &data)?;
                let root = keys.existing_root().ok();
                // The operator's key is made where the deployment was founded.
                let operator = root.as_ref().map(|_| keys.operator()).transpose()?;
                if let Some(root) = root.filter(|_| join::is_local(&cluster)) {
                    join::admit_all(cluster, root);
                }
                anyhow::Ok((identity, operator))
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

/// An engine that shares its partition with other processes.
pub(super) async fn share(
    config: &NodeConfig,
    cluster: &Cluster,
    identity: Identity,
    endpoint: &str,
) -> anyhow::Result<(Engine, Arc<KafkaLog>)> {
    let layout = Layout(config.data.clone());
    let (deployment, identity) = (identity.deployment.clone(), Arc::new(identity));
    belongs(&layout, &deployment)?;
    let kept = kept_elsewhere(config, &deployment).await?;
    let bell = Bell::default();
    let ringing = bell.clone();
    let news: Arc<dyn Fn() + Send + Sync> = Arc::new(move || ringing.ring());
    let log = KafkaLog::open(cluster, &config.data, &deployment, PARTITION, news.clone())?;
    let log = Arc::new(log);
    let name = format!("{deployment}-{}", identity.node.public().id());
    let record = config.head_record.clone().unwrap_or_else(|| head_record_default(&name));
    // What `healwright groups` shows of this process.
    let client = format!("healwright@{endpoint}");
    let (office_log, endpoint, signer) = (log.clone(), endpoint.to_owned(), identity.clone());
    let elect = move || {
        let shown = office_log.clone();
        let heads = Heads::open(&record, Some(layout.checkpoint()))?
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
    let membership = Membership::join(cluster, &client, news)?;
    tracing::info!(protocol = membership.protocol().name(), "joined the owners' group");
    let mut member = Member::new(log.clone(), membership, PARTITION, Box::new(elect))?;
    let Some(Kept { depot, every, expected }) = kept else {
        return Ok((Engine::join(member, &bell)?, log));
    };
    member.expect(expected);
    let engine = Engine::join(member, &bell)?;
    let data = config.data.clone();
    Keeper { depot, log: log.clone(), identity: signer, data, every }.follow(&engine.handle());
    Ok((engine, log))
}

/// What a configured place for checkpoints comes to at the start.
struct Kept {
    depot: Depot,
    every: Duration,
    expected: Option<Expected>,
}

/// Opens the place for checkpoints, and begins with the newest one where that is wanted.
async fn kept_elsewhere(config: &NodeConfig, deployment: &str) -> anyhow::Result<Option<Kept>> {
    let Some(Checkpoints { url: Some(url), every_s }) = config.checkpoints.clone() else {
        return Ok(None);
    };
    let every = Duration::from_secs(every_s.unwrap_or(CHECKPOINT_EVERY_S));
    let (data, deployment) = (config.data.clone(), deployment.to_owned());
    let runtime = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || {
        let depot = Depot::make(&url, runtime).with_context(|| format!("opening {url}"))?;
        let expected = start::begin(&depot, &deployment, PARTITION, &data)?;
        anyhow::Ok(Some(Kept { depot, every, expected }))
    });
    opened.await.context("looking for a checkpoint")?
}

/// Refuses a data directory that holds another log's history, and marks this one.
fn belongs(layout: &Layout, deployment: &str) -> anyhow::Result<()> {
    let mark = layout.0.join("shared-log");
    if layout.journal().exists() && !mark.exists() {
        anyhow::bail!(
            "{} holds an embedded log, which is a history of its own; name another data \
             directory for `--log kafka://…`",
            layout.0.display()
        );
    }
    std::fs::write(&mark, format!("{deployment}\n"))
        .with_context(|| format!("writing {}", mark.display()))?;
    std::fs::write(layout.deployment(), format!("{deployment}\n"))
        .with_context(|| format!("writing {}", layout.deployment().display()))
}
