//! The head record: the last signed head, kept outside the data directory.
//!
//! It is what a restored backup cannot bring back: start is refused when it is ahead of the log.
//! The file is replaced and fsynced by `state`, before the head it names is given to anybody.
//! Losing it costs that protection and nothing else.

use schemas::Hash;
use schemas::wire::{Reader, Writer};

use crate::Error;

/// The format mark of version 1. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWR\x01";

/// What is remembered of the last signed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadRecord {
    /// Deployment id.
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// Epoch that signed the head.
    pub epoch: u64,
    /// Number of entries under it.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Hash of the last batch under it.
    pub batch: Hash,
}

impl HeadRecord {
    /// Checks that a log which has `size` entries, and had `root_at(n)` at size `n`, continues
    /// this head.
    ///
    /// # Errors
    /// [`Error::Behind`] when the log is shorter, [`Error::Fork`] when it is another history;
    /// whatever `root_at` returns.
    pub fn check(
        &self,
        size: u64,
        root_at: impl FnOnce(u64) -> Result<Hash, Error>,
    ) -> Result<(), Error> {
        if size < self.size {
            return Err(Error::Behind { known: self.size, offered: size });
        }
        let root = root_at(self.size)?;
        if root != self.root {
            return Err(Error::Fork { size: self.size, known: self.root, offered: root });
        }
        Ok(())
    }

    /// The bytes to keep: everything, and a checksum over it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MAGIC);
        out.text(&self.deployment).u32(self.partition).u64(self.epoch);
        out.u64(self.size).raw(&self.root.0).raw(&self.batch.0);
        let checksum = Hash::of(&[&out.0]);
        out.raw(&checksum.0);
        out.0
    }

    /// Reads what [`HeadRecord::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Error::Bytes`]: a record that cannot be read is damage and not an absent record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("head record", bytes);
        reader.expect(MAGIC)?;
        let record = HeadRecord {
            deployment: reader.text()?.to_owned(),
            partition: reader.u32()?,
            epoch: reader.u64()?,
            size: reader.u64()?,
            root: Hash(reader.array()?),
            batch: Hash(reader.array()?),
        };
        let checksum = Hash::of(&[&bytes[..reader.position()]]);
        reader.expect(&checksum.0)?;
        reader.end()?;
        Ok(record)
    }
}
