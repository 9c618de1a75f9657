//! The proof of one entry, checked offline from the deployment's id alone.
//!
//! [`EntryProof::verify`] takes the object: the stored bytes of the entry. It derives the leaf
//! itself and compares every field that is bound, so that no valid proof about one entry can
//! stand beside another (A15). Twice a well-known client verified a bundle whose log entry was
//! about something else.

use schemas::wire::{Reader, Writer};
use schemas::{Entry, Hash};

use crate::checkpoint::SignedHead;
use crate::epoch::EpochKey;
use crate::{Error, proof};

/// The format mark of version 1. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWP\x01";

/// What shows that an entry stands under a signed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryProof {
    /// Sequence of the entry.
    pub index: u64,
    /// Size of the tree under the head.
    pub size: u64,
    /// The hashes from the leaf to the root.
    pub path: Vec<Hash>,
    /// The signed head, as bytes of its note.
    pub checkpoint: Vec<u8>,
    /// The key that signed the head.
    pub epoch_key: EpochKey,
}

/// An entry that is proven, with the head that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The entry.
    pub entry: Entry,
    /// The head that it stands under.
    pub head: SignedHead,
}

impl EntryProof {
    /// Checks that the entry of these stored bytes ([`Entry::to_bytes`]) stands in the chain of
    /// `deployment` and `partition`.
    ///
    /// # Errors
    /// [`Error::Subject`] names the field that is about something else; the others say which
    /// part of the proof does not hold.
    pub fn verify(&self, entry: &[u8], deployment: &str, partition: u32) -> Result<Proven, Error> {
        let entry = Entry::from_bytes(entry)?;
        let subject = [
            (self.epoch_key.deployment == deployment, "deployment"),
            (self.epoch_key.partition == partition, "partition"),
            (entry.envelope.partition == partition, "partition"),
            (entry.envelope.seq == self.index, "entry"),
        ];
        if let Some((_, field)) = subject.iter().find(|(holds, _)| !holds) {
            return Err(Error::Subject(field));
        }
        let head = SignedHead::open(&self.checkpoint, &self.epoch_key)?;
        if head.checkpoint.size != self.size {
            return Err(Error::Subject("head"));
        }
        let (leaf, root) = (entry.leaf(), &head.checkpoint.root);
        proof::verify_inclusion(&leaf, self.index, self.size, &self.path, root)?;
        Ok(Proven { entry, head })
    }

    /// The bytes that travel in a dispatch.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MAGIC);
        out.u64(self.index).u64(self.size).u32(self.path.len() as u32);
        for hash in &self.path {
            out.raw(&hash.0);
        }
        out.bytes(&self.checkpoint).bytes(&self.epoch_key.encode());
        out.0
    }

    /// Reads what [`EntryProof::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Error::Bytes`] for malformed or surplus bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("entry proof", bytes);
        reader.expect(MAGIC)?;
        let (index, size) = (reader.u64()?, reader.u64()?);
        let n_hashes = reader.u32()?;
        let path = (0..n_hashes).map(|_| reader.array().map(Hash)).collect::<Result<_, _>>()?;
        let checkpoint = reader.bytes()?.to_vec();
        let epoch_key = EpochKey::decode(reader.bytes()?)?;
        reader.end()?;
        Ok(EntryProof { index, size, path, checkpoint, epoch_key })
    }
}
