//! The batch: one journal record, in the chain whole or not at all.
//!
//! ```text
//! record  := header(length-prefixed) signature[64] entry*
//! entry   := len32 envelope  salt[32]  len32 payload
//! header  := "HWB\x01" deployment partition32 epoch64 prev[32] first_seq64 count32
//!            inbox64 control64 telemetry64 wall64 body_hash[32]
//! body_hash := SHA-256("healwright/body/v1\0" ‖ leaf(envelope)*)
//! hash    := SHA-256("healwright/batch/v1\0" ‖ header ‖ signature)
//! ```
//!
//! The body hash covers the leaves and not the payloads: a payload is bound by the commitment in
//! its envelope, so destroying salt and payload later leaves the chain verifiable.

mod stored;

pub use self::stored::Stored;

use serde::Serialize;

use crate::cap::{PAYLOAD_BYTES_MAX, Summary};
use crate::envelope::{ENVELOPE_BYTES_MAX, Redaction, commitment, leaf};
use crate::signature::{KeyPair, SIGNATURE_BYTES};
use crate::wire::{Reader, Writer};
use crate::{Entries, Envelope, Error, Event, Hash, Ns};

const MAGIC: &[u8; 4] = b"HWB\x01";
const BODY_DOMAIN: &[u8] = b"healwright/body/v1\0";
const BATCH_DOMAIN: &[u8] = b"healwright/batch/v1\0";
/// Domain of the epoch key's signature over a header.
pub const HEADER_DOMAIN: &str = "healwright/header/v1";
/// Brokers take records of 1 MiB by default; protocol.md §1 keeps a margin.
pub const BATCH_BYTES_MAX: usize = 900 * 1024;
/// Salt and payload lengths beside the envelope of each entry.
const ENTRY_OVERHEAD: usize = 4 + 32 + 4;

/// Positions up to which a chain has taken each stream (exclusive).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Positions {
    /// Next position of `inbox`.
    pub inbox: u64,
    /// Next position of `inbox.control`.
    pub control: u64,
    /// Next position of `telemetry`.
    pub telemetry: u64,
}

impl Positions {
    /// Whether no stream goes backwards from `earlier` to here.
    pub fn continues(&self, earlier: &Positions) -> bool {
        earlier.inbox <= self.inbox
            && earlier.control <= self.control
            && earlier.telemetry <= self.telemetry
    }
}

/// What a batch says about itself; the signed part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Deployment id; binds the root key ([`crate::signature::deployment_id`]).
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// Epoch of the owner that wrote it.
    pub epoch: u64,
    /// Hash of the batch before, or the genesis value.
    pub prev: Hash,
    /// Sequence of its first entry.
    pub first_seq: u64,
    /// Number of entries, at least 1.
    pub count: u32,
    /// Positions up to which inputs have been taken, this batch included.
    pub positions: Positions,
    /// The sequencer's wall clock.
    pub wall: Ns,
    /// Hash over the leaves of its entries.
    pub body: Hash,
}

/// One event as it is stored: envelope bytes, salt, payload bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The decoded envelope.
    pub envelope: Envelope,
    /// Its stored bytes: what is hashed.
    pub envelope_bytes: Vec<u8>,
    /// Salt of the payload commitment.
    pub salt: [u8; 32],
    /// The payload, Avro single-object encoded.
    pub payload: Vec<u8>,
}

impl Entry {
    /// An entry from an envelope whose commitment is filled in here.
    pub fn new(mut envelope: Envelope, salt: [u8; 32], payload: Vec<u8>) -> Self {
        envelope.commitment = commitment(&salt, &payload);
        let envelope_bytes = envelope.encode();
        Entry { envelope, envelope_bytes, salt, payload }
    }

    /// The leaf of the Merkle tree.
    pub fn leaf(&self) -> Hash {
        leaf(&self.envelope_bytes)
    }

    /// Bytes that it takes in a batch.
    pub fn size(&self) -> usize {
        self.envelope_bytes.len() + self.payload.len() + ENTRY_OVERHEAD
    }

    /// Whether envelope and payload are within their bounds. An author refuses what is not; a
    /// reader takes whatever a chain holds.
    pub fn fits(&self) -> bool {
        self.envelope_bytes.len() <= ENVELOPE_BYTES_MAX && self.payload.len() <= PAYLOAD_BYTES_MAX
    }

    /// Checks that the payload is the one the envelope commits to.
    ///
    /// # Errors
    /// [`Error::Commitment`].
    pub fn check(&self) -> Result<(), Error> {
        if commitment(&self.salt, &self.payload) == self.envelope.commitment {
            return Ok(());
        }
        Err(Error::Commitment)
    }

    /// The typed payload.
    ///
    /// # Errors
    /// [`Error::Payload`] when it does not decode as its type, [`Error::Summarized`] when it
    /// was above the cap and only its summary is here.
    pub fn event(&self) -> Result<Event, Error> {
        match self.envelope.redaction {
            Redaction::None | Redaction::Redacted => {
                Event::decode(self.envelope.kind, &self.payload)
            }
            Redaction::Summary => {
                let hash_of_full = Summary::decode(&self.payload)?.hash_of_full;
                Err(Error::Summarized { kind: self.envelope.kind.topic(), hash_of_full })
            }
        }
    }

    fn encode(&self, out: &mut Writer) {
        out.bytes(&self.envelope_bytes).raw(&self.salt).bytes(&self.payload);
    }

    /// The stored form alone, as it travels in proofs and dispatches.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.encode(&mut out);
        out.0
    }

    /// Reads what [`Entry::to_bytes`] wrote and checks the commitment.
    ///
    /// # Errors
    /// Malformed bytes, or a payload that is not the committed one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("entry", bytes);
        let entry = Entry::decode(&mut reader)?;
        reader.end()?;
        entry.check()?;
        Ok(entry)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let envelope_bytes = reader.bytes()?.to_vec();
        Ok(Entry {
            envelope: Envelope::decode(&envelope_bytes)?,
            envelope_bytes,
            salt: reader.array()?,
            payload: reader.bytes()?.to_vec(),
        })
    }
}

/// One journal record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What it says about itself.
    pub header: Header,
    /// The header as stored: what is signed.
    pub header_bytes: Vec<u8>,
    /// The epoch key's signature over the header.
    pub signature: [u8; SIGNATURE_BYTES],
    /// The inputs taken and all their consequences.
    pub entries: Entries,
}

/// Where in a record decoding stopped, so that damage is named and not only noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Index of the entry within the batch; `None` is the header.
    pub entry: Option<u32>,
    /// What is wrong there.
    pub error: Error,
}

impl Batch {
    /// Signs `entries` as the batch that follows `prev`.
    ///
    /// `header.count` and `header.body` are filled in here.
    pub fn sign(header: Header, entries: Vec<Entry>, key: &KeyPair) -> Self {
        let leaves: Vec<Hash> = entries.iter().map(Entry::leaf).collect();
        Batch::sign_leaves(header, entries, leaves, key)
    }

    /// As [`Batch::sign`] with the leaves of `entries`, for an author who has them already.
    ///
    /// Leaves of anything else make a batch that no reader links.
    pub fn sign_leaves(
        mut header: Header,
        entries: Vec<Entry>,
        leaves: Vec<Hash>,
        key: &KeyPair,
    ) -> Self {
        header.count = entries.len() as u32;
        header.body = body_hash(&leaves);
        let header_bytes = header.encode();
        let signature = key.sign(HEADER_DOMAIN, &header_bytes);
        let entries = Entries::made(entries, leaves);
        Batch { header, header_bytes, signature, entries }
    }

    /// The hash that the next batch names as `prev`.
    pub fn hash(&self) -> Hash {
        batch_hash(&self.header_bytes, &self.signature)
    }

    /// The stored record.
    pub fn encode(&self) -> Vec<u8> {
        let size: usize = self.entries.iter().map(Entry::size).sum();
        let mut out = Writer::default();
        out.0.reserve(size + self.header_bytes.len() + SIGNATURE_BYTES + 4);
        out.bytes(&self.header_bytes).raw(&self.signature);
        for entry in &self.entries {
            entry.encode(&mut out);
        }
        out.0
    }

    /// Reads a record; checks structure only ([`Batch::check_body`] and
    /// [`crate::link()`] check the rest).
    ///
    /// # Errors
    /// [`Damage`] names the entry that does not decode.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let at_header = |error| Damage { entry: None, error };
        let mut reader = Reader::new("batch", bytes);
        let header_bytes = reader.bytes().map_err(at_header)?.to_vec();
        let header = Header::decode(&header_bytes).map_err(at_header)?;
        let signature = reader.array().map_err(at_header)?;
        let mut entries = Vec::with_capacity((header.count as usize).min(bytes.len() / 64));
        for index in 0..header.count {
            let at_entry = |error| Damage { entry: Some(index), error };
            entries.push(Entry::decode(&mut reader).map_err(at_entry)?);
        }
        let last = header.count.checked_sub(1);
        reader.end().map_err(|error| Damage { entry: last, error })?;
        let entries = Entries::unchecked(entries);
        Ok(Batch { header, header_bytes, signature, entries })
    }

    /// Checks every payload against its commitment, every place against the header, and the
    /// leaves against the body hash.
    ///
    /// # Errors
    /// The first payload that is another, or else the first entry that stands elsewhere, or else
    /// the batch.
    pub fn check_body(&self) -> Result<(), Damage> {
        let leaves = self.entries.leaves()?;
        for (index, entry) in (0u32..).zip(&self.entries) {
            let seq = self.header.first_seq.checked_add(u64::from(index));
            let envelope = &entry.envelope;
            if seq != Some(envelope.seq) || envelope.partition != self.header.partition {
                let error = Error::malformed("entry", "its place is not its batch's");
                return Err(Damage { entry: Some(index), error });
            }
        }
        self.header.check_leaves(leaves)
    }

    /// The sequence after its last entry.
    pub fn next_seq(&self) -> u64 {
        self.header.next_seq()
    }
}

fn batch_hash(header_bytes: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> Hash {
    Hash::of(&[BATCH_DOMAIN, header_bytes, signature])
}

fn body_hash(leaves: &[Hash]) -> Hash {
    let mut bytes = Vec::with_capacity(leaves.len() * 32);
    leaves.iter().for_each(|leaf| bytes.extend_from_slice(&leaf.0));
    Hash::of(&[BODY_DOMAIN, &bytes])
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MAGIC);
        out.text(&self.deployment).u32(self.partition).u64(self.epoch).raw(&self.prev.0);
        out.u64(self.first_seq).u32(self.count);
        let Positions { inbox, control, telemetry } = self.positions;
        out.u64(inbox).u64(control).u64(telemetry).u64(self.wall.0).raw(&self.body.0);
        out.0
    }

    /// The sequence after its last entry.
    pub fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.count))
    }

    /// Checks that the leaves are those that were signed.
    fn check_leaves(&self, leaves: &[Hash]) -> Result<(), Damage> {
        if body_hash(leaves) == self.body {
            return Ok(());
        }
        let error = Error::malformed("batch", "its entries are not the ones that were signed");
        Err(Damage { entry: None, error })
    }

    /// Reads a stored header.
    ///
    /// # Errors
    /// Malformed or surplus bytes, or a count of 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("batch header", bytes);
        reader.expect(MAGIC)?;
        let header = Header {
            deployment: reader.text()?.to_owned(),
            partition: reader.u32()?,
            epoch: reader.u64()?,
            prev: Hash(reader.array()?),
            first_seq: reader.u64()?,
            count: reader.u32()?,
            positions: Positions {
                inbox: reader.u64()?,
                control: reader.u64()?,
                telemetry: reader.u64()?,
            },
            wall: Ns(reader.u64()?),
            body: Hash(reader.array()?),
        };
        reader.end()?;
        if header.count == 0 {
            return Err(Error::malformed("batch header", "it counts no entries"));
        }
        Ok(header)
    }
}
