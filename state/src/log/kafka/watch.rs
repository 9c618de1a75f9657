//! What an onlooker sees of a running system: who is in the owners' group, and where the streams
//! end. Nothing is joined, taken or committed, so looking changes nothing.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
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
    /// Who is in it. `None`: the coordinator does not say it of a group of this protocol.
    pub members: Option<Vec<Member>>,
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
        let failed = |error: KafkaError| self.cluster.failed("describe the owners' group", error);
        let found = self.consumer.fetch_group_list(Some(&name), ANSWER_WITHIN).map_err(failed)?;
        let protocol = Protocol::permitted(&self.cluster);
        // `Dead` is said of a group that is not there, and of every group of the newer protocol,
        // which answers another request than librdkafka's safe interface makes.
        let found = found.groups().iter().find(|it| it.name() == name && it.state() != "Dead");
        let Some(found) = found else {
            let (state, members) = match protocol {
                Protocol::Classic => ("Empty", Some(Vec::new())),
                Protocol::Consumer => ("not told", None),
            };
            return Ok(Group { name, protocol, state: state.to_owned(), members });
        };
        let topic = self.cluster.stream(Stream::Control);
        let members = found.members().iter().map(|it| Member {
            client: it.client_id().to_owned(),
            host: it.client_host().trim_start_matches('/').to_owned(),
            partitions: it.assignment().and_then(|it| assigned(it, &topic)).unwrap_or_default(),
        });
        let members = Some(members.collect());
        Ok(Group { name, protocol, state: found.state().to_owned(), members })
    }
}

/// The partitions of `topic` in an assignment of Kafka's consumer protocol: a version, then for
/// each topic its name and its partitions, all numbers big-endian.
fn assigned(bytes: &[u8], topic: &str) -> Option<Vec<u32>> {
    let mut rest = bytes.get(2..)?;
    let mut partitions = Vec::new();
    for _ in 0..number(&mut rest)? {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (name, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        rest = after;
        for _ in 0..number(&mut rest)? {
            let partition = number(&mut rest)?;
            if name == topic.as_bytes() {
                partitions.push(partition);
            }
        }
    }
    Some(partitions)
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_assignment_is_read_and_a_broken_one_is_nobodys() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (topic, partitions) in [("a", vec![7u32]), ("bc", vec![0, 3])] {
            bytes.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend(u32::try_from(partitions.len()).unwrap().to_be_bytes());
            partitions.iter().for_each(|it| bytes.extend(it.to_be_bytes()));
        }
        assert_eq!(assigned(&bytes, "bc"), Some(vec![0, 3]));
        assert_eq!(assigned(&bytes, "x"), Some(vec![]));
        for end in 0..bytes.len() {
            assert_eq!(assigned(&bytes[..end], "bc"), None, "cut at {end}");
        }
    }
}
