//! The one list that all nodes of a deployment share: a topic of one partition, so that its
//! order settles who was first. What its records mean is not known here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::cluster::{Cluster, Isolation, NODES};
use super::sender::Sender;
use crate::LogError;

const READ_WITHIN: Duration = Duration::from_secs(15);

/// The list, read from its beginning and appended to.
pub struct Roster {
    cluster: Cluster,
    sender: Arc<Sender>,
    consumer: BaseConsumer,
}

impl Roster {
    /// Opens the list of `cluster`; [`Cluster::prepare`] has made its topic.
    ///
    /// # Errors
    /// [`LogError::Cluster`].
    pub fn open(cluster: &Cluster) -> Result<Self, LogError> {
        let topic = cluster.topic(NODES);
        let failed = |error: KafkaError| cluster.failed(&format!("read {topic}"), error);
        let consumer: BaseConsumer =
            cluster.reader(Isolation::Committed).create().map_err(failed)?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&topic, 0, Offset::Offset(0)).map_err(failed)?;
        consumer.assign(&assignment).map_err(failed)?;
        Ok(Roster { cluster: cluster.clone(), sender: cluster.sender()?, consumer })
    }

    /// Adds a record; it is durable when this returns.
    ///
    /// # Errors
    /// [`LogError::Unanswered`]: it may or may not be in the list.
    pub fn add(&self, record: Vec<u8>) -> Result<(), LogError> {
        self.sender.send(&self.cluster.topic(NODES), 0, &[record]).map(|_| ())
    }

    /// The records since the last call, in order; all that were there at this call.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn read(&self) -> Result<Vec<Vec<u8>>, LogError> {
        let topic = self.cluster.topic(NODES);
        let failed = |error: KafkaError| self.cluster.failed(&format!("read {topic}"), error);
        let (_, end) = self.cluster.watermarks(&self.consumer, &topic, 0)?;
        let mut records = Vec::new();
        let until = Instant::now() + READ_WITHIN;
        while Instant::now() < until {
            let next = self.consumer.position().map_err(failed)?;
            let next = next.elements().first().and_then(|it| it.offset().to_raw()).unwrap_or(0);
            if end <= u64::try_from(next).unwrap_or(0) {
                return Ok(records);
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(message.payload().unwrap_or_default().to_vec()),
                // It may tell of an end that lay before what has been added since.
                Some(Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(error)) => super::streams::transient(&self.cluster, &error)?,
            }
        }
        Err(LogError::Unanswered { what: "read of the list of nodes" })
    }
}
