//! What an onlooker sees of a running system: who is in the owners' group, and where the streams
//! end. Nothing is joined, taken or committed, so looking changes nothing.

use std::time::Duration;

use kafka_calls::groups;
use rdkafka::consumer::BaseConsumer;
use schemas::{Positions, Stream};

use super::cluster::{Cluster, Isolation};
use super::group::{self, Protocol};
use super::streams::at;
use crate::LogError;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The owners' group as its coordinator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What nodes that start now would use.
    pub protocol: Protocol,
    /// `Stable`, `Empty` and the like.
    pub state: String,
    /// Who is in it.
    pub members: Vec<Member>,
}

/// One process in the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it calls itself.
    pub client: String,
    /// Where it connects from.
    pub host: String,
    /// Partitions that it should try to hold.
    pub partitions: Vec<u32>,
}

/// How many records of each stream the chain has not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Changes, releases, approvals and results.
    pub inbox: u64,
    /// Freezes, configuration and skips.
    pub control: u64,
    /// Samples.
    pub telemetry: u64,
}

/// A client that looks on.
pub struct Onlooker {
    cluster: Cluster,
    consumer: BaseConsumer,
}

impl Onlooker {
    /// An onlooker of `cluster`.
    ///
    /// # Errors
    /// [`LogError::Cluster`].
    pub fn of(cluster: &Cluster) -> Result<Self, LogError> {
        let made = cluster.reader(Isolation::Committed).create();
        let consumer = made.map_err(|error| cluster.failed("start a client", error))?;
        Ok(Onlooker { cluster: cluster.clone(), consumer })
    }

    /// How far the streams of `partition` are ahead of `taken`. Marks of foreign transactions
    /// count until the chain has taken what follows them.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn lag(&self, partition: u32, taken: Positions) -> Result<Lag, LogError> {
        let behind = |stream| {
            let topic = self.cluster.stream(stream);
            let (_, end) = self.cluster.watermarks(&self.consumer, &topic, partition)?;
            Ok::<u64, LogError>(end.saturating_sub(at(taken, stream)))
        };
        Ok(Lag {
            inbox: behind(Stream::Inbox)?,
            control: behind(Stream::Control)?,
            telemetry: behind(Stream::Telemetry)?,
        })
    }

    /// The owners' group.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub fn group(&self) -> Result<Group, LogError> {
        let name = group::name(&self.cluster);
        let failed = |error| self.cluster.failed("describe the owners' group", error);
        let found = groups::describe(&self.consumer, &name, ANSWER_WITHIN).map_err(failed)?;
        let protocol = Protocol::permitted(&self.cluster);
        let Some(found) = found else {
            return Ok(Group { name, protocol, state: "Empty".to_owned(), members: Vec::new() });
        };
        let topic = self.cluster.stream(Stream::Control);
        let members = found.members.into_iter().map(|it| Member {
            client: it.client,
            host: it.host.trim_start_matches('/').to_owned(),
            partitions: partitions(&it.assigned, &topic),
        });
        Ok(Group { name, protocol, state: found.state, members: members.collect() })
    }
}

fn partitions(assigned: &[(String, i32)], topic: &str) -> Vec<u32> {
    let of = assigned.iter().filter(|(it, _)| it == topic);
    of.filter_map(|(_, partition)| u32::try_from(*partition).ok()).collect()
}
