//! What a witness remembers of a log, and the rule by which it accepts the next head.
//!
//! A witness accepts a head only when it extends the one it knows and its epoch has not ended.
//! The order of durable steps is the caller's: accept, fsync what [`Witness::encode`] gives,
//! then cosign. A crash between the last two leaves a head without this cosignature, which is
//! harmless; the other order would let a witness vouch for two histories.

use schemas::Hash;
use schemas::wire::{Reader, Writer};

use crate::checkpoint::SignedHead;
use crate::{Error, checkpoint, proof};

/// The format mark of version 1. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWW\x01";

/// The last head of one log that a witness accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The log: `<deployment>/<partition>`.
    pub origin: String,
    /// Number of entries under the head.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Epoch that signed the head.
    pub epoch: u64,
}

impl Witness {
    /// A witness that has seen nothing of this partition yet.
    pub fn new(deployment: &str, partition: u32) -> Self {
        let origin = checkpoint::origin(deployment, partition);
        Witness { origin, size: 0, root: crate::tree::empty_root(), epoch: 0 }
    }

    /// The witness after `head`, if `path` shows that `head` extends what it knows.
    ///
    /// # Errors
    /// [`Error::Fork`] for two roots of one size (keep both heads: together they are a portable
    /// proof), [`Error::Behind`], [`Error::EpochEnded`], [`Error::Subject`] for another log,
    /// else [`Error::Proof`].
    pub fn accept(&self, head: &SignedHead, path: &[Hash]) -> Result<Witness, Error> {
        let offered = &head.checkpoint;
        if offered.origin != self.origin {
            return Err(Error::Subject("origin"));
        }
        if self.size > 0 || offered.size == 0 {
            let (known, next) = ((self.size, &self.root), (offered.size, &offered.root));
            proof::verify_consistency(known, next, path)?;
        } else if !path.is_empty() {
            // The first head is taken on trust; a proof from nothing can show nothing.
            return Err(Error::Proof("consistency"));
        }
        if head.epoch < self.epoch {
            return Err(Error::EpochEnded { known: self.epoch, offered: head.epoch });
        }
        Ok(Witness {
            origin: self.origin.clone(),
            size: offered.size,
            root: offered.root,
            epoch: head.epoch,
        })
    }

    /// The bytes to keep: everything, and a checksum over it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MAGIC);
        out.text(&self.origin).u64(self.size).raw(&self.root.0).u64(self.epoch);
        let checksum = Hash::of(&[&out.0]);
        out.raw(&checksum.0);
        out.0
    }

    /// Reads what [`Witness::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Error::Bytes`]: a witness that cannot read its head must not start from nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("witness head", bytes);
        reader.expect(MAGIC)?;
        let witness = Witness {
            origin: reader.text()?.to_owned(),
            size: reader.u64()?,
            root: Hash(reader.array()?),
            epoch: reader.u64()?,
        };
        let checksum = Hash::of(&[&bytes[..reader.position()]]);
        reader.expect(&checksum.0)?;
        reader.end()?;
        Ok(witness)
    }
}
