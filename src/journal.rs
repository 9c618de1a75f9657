//! What followers and commands read: the chain and its telemetry, behind the owner or beside a
//! running process. Everything that only reads takes this, and so cannot append.

use schemas::{Batch, Head, Stream};
use state::embedded::Reader;
use state::kafka::KafkaReader;
use state::{Log, LogError, Records};

/// A chain that can be read.
pub trait Journal {
    /// The end of the linked chain.
    ///
    /// # Errors
    /// The log is damaged.
    fn head(&self) -> Result<Head, LogError>;

    /// Linked batches in order, the first of which holds `from_seq`.
    ///
    /// # Errors
    /// The log is damaged.
    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError>;

    /// Telemetry records with their positions, from `from` on.
    ///
    /// # Errors
    /// The log is damaged.
    fn telemetry(&self, from: u64, bytes_max: usize) -> Result<Records, LogError>;

    /// Takes in what has been appended since.
    ///
    /// # Errors
    /// The log cannot be read.
    fn catch_up(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// The first place before `end` where something holds that holds from there on, or `end`.
pub(crate) fn first_where(
    end: u64,
    mut holds: impl FnMut(u64) -> Result<bool, LogError>,
) -> Result<u64, LogError> {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle)? { high = middle } else { low = middle + 1 }
    }
    Ok(low)
}

impl Journal for dyn Log + '_ {
    fn head(&self) -> Result<Head, LogError> {
        Log::head(self)
    }
    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        Log::read(self, from_seq, bytes_max)
    }
    fn telemetry(&self, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        Log::take(self, Stream::Telemetry, from, bytes_max)
    }
}

impl Journal for Reader {
    fn head(&self) -> Result<Head, LogError> {
        Reader::head(self)
    }
    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        Reader::read(self, from_seq, bytes_max)
    }
    fn telemetry(&self, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        Reader::take(self, from, bytes_max)
    }
    fn catch_up(&self) -> Result<(), LogError> {
        Reader::catch_up(self)
    }
}

impl Journal for KafkaReader {
    fn head(&self) -> Result<Head, LogError> {
        Ok(KafkaReader::head(self))
    }
    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        KafkaReader::read(self, from_seq, bytes_max)
    }
    fn telemetry(&self, from: u64, bytes_max: usize) -> Result<Records, LogError> {
        KafkaReader::telemetry(self, from, bytes_max)
    }
    fn catch_up(&self) -> Result<(), LogError> {
        KafkaReader::catch_up(self)
    }
}
