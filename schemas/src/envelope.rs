//! The envelope: what is hashed, who said it, and what it came from.
//!
//! The leaf of the Merkle tree is the hash of these bytes as they are stored. The payload lies
//! beside them and is bound by a salted commitment, so that a payload can be erased while every
//! proof still verifies (ledger.md, "Payload commitment").

use serde::Serialize;

use crate::event::Kind;
use crate::wire::{Reader, Writer};
use crate::{Error, EventId, Hash, Ns, Place, Uuid};

/// The format mark of version 1. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWE\x01";
/// Domain of the payload commitment. Persisted: frozen.
const COMMITMENT_DOMAIN: &[u8] = b"healwright/payload/v1\0";
/// An envelope stays far below the 64 KiB of a tlog tile entry (ledger.md).
pub const ENVELOPE_BYTES_MAX: usize = 16 * 1024;

/// Who caused an event. Spec 10 §2: mandatory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// Stable name, never empty.
    pub id: String,
    /// What sort of actor it is.
    pub kind: ActorKind,
    /// Short id of the key that signed the payload, where one did.
    pub key_id: Option<String>,
}

impl Actor {
    /// The control plane's own processor `id`.
    pub fn system(id: &str) -> Self {
        Actor { id: id.to_owned(), kind: ActorKind::System, key_id: None }
    }
}

/// Spec 10 §8. Numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A program that acts for somebody: a runner, a service, a voter.
    Agent = 1,
    /// A person.
    Human = 2,
    /// The control plane itself.
    System = 3,
}

/// The stream that an input was taken from. Numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Many writers: people, API, runners' results, other scopes.
    Inbox = 1,
    /// Freeze and its like; always drained first.
    Control = 2,
    /// Batches of samples, journaled by reference.
    Telemetry = 3,
}

/// Where an entry comes from: the edge of the timeline and the audit's answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Taken from outside.
    Observed {
        /// The stream it was taken from.
        stream: Stream,
        /// Its position there.
        position: u64,
    },
    /// Said by a processor when it folded another entry of this partition.
    Derived {
        /// Name of the processor.
        by: String,
        /// Sequence of the entry it folded.
        from: u64,
        /// Which of the things said while folding that entry, from 0.
        ordinal: u32,
    },
    /// Said by the partition's owner itself: elections, seals, ticks.
    Owner {
        /// Epoch of the owner.
        epoch: u64,
        /// Running number within the epoch, from 0.
        n: u64,
    },
}

impl Cause {
    fn encode(&self, out: &mut Writer) {
        match self {
            Cause::Observed { stream, position } => out.u8(1).u8(*stream as u8).u64(*position),
            Cause::Derived { by, from, ordinal } => out.u8(2).text(by).u64(*from).u32(*ordinal),
            Cause::Owner { epoch, n } => out.u8(3).u64(*epoch).u64(*n),
        };
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            1 => {
                let stream = match reader.u8()? {
                    1 => Stream::Inbox,
                    2 => Stream::Control,
                    3 => Stream::Telemetry,
                    n => return Err(Error::malformed("cause", format!("no stream {n}"))),
                };
                Cause::Observed { stream, position: reader.u64()? }
            }
            2 => Cause::Derived {
                by: reader.text()?.to_owned(),
                from: reader.u64()?,
                ordinal: reader.u32()?,
            },
            3 => Cause::Owner { epoch: reader.u64()?, n: reader.u64()? },
            n => return Err(Error::malformed("cause", format!("no cause {n}"))),
        })
    }

    /// The id of the event with this cause in the chain that starts at `genesis`.
    pub fn event_id(&self, genesis: &Hash) -> EventId {
        let mut out = Writer::new(&genesis.0);
        self.encode(&mut out);
        Uuid::from_hash(&Hash::of(&[&out.0]))
    }
}

/// How far a payload may be shown. Numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Redaction {
    /// Nothing was taken out.
    None = 0,
    /// Secrets were replaced at the source.
    Redacted = 1,
    /// The payload was over 8 KiB; this is its summary form.
    Summary = 2,
}

/// Everything about an event but its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Envelope {
    /// UUIDv8 of the cause.
    pub event_id: EventId,
    /// Topic name and version.
    pub kind: Kind,
    /// Partition of the journal.
    pub partition: u32,
    /// Gap-free sequence in the partition, from 0.
    pub seq: u64,
    /// Partition key of the typed topic (spec 10 §3).
    pub key: String,
    /// The tick time at which it was folded: the only time a fold sees.
    pub tick: Ns,
    /// The sequencer's wall clock, full precision, for people.
    pub wall: Ns,
    /// Who caused it.
    pub actor: Actor,
    /// What it came from.
    pub cause: Cause,
    /// Incident id, where there is one.
    pub correlation: Option<String>,
    /// W3C trace id of the whole loop, 32 hex digits.
    pub trace_id: Option<String>,
    /// 1–10, 10 is most urgent.
    pub priority: u8,
    /// After this many milliseconds it is history only; 0 is never.
    pub ttl_ms: u64,
    /// Whether the payload was cut or summarized.
    pub redaction: Redaction,
    /// SHA-256(domain ‖ salt ‖ payload).
    pub commitment: Hash,
}

impl Envelope {
    /// The stored and hashed bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(256));
        out.raw(MAGIC).raw(&self.event_id.0).text(self.kind.name()).u16(self.kind.version());
        out.u32(self.partition).u64(self.seq).text(&self.key).u64(self.tick.0).u64(self.wall.0);
        out.text(&self.actor.id).u8(self.actor.kind as u8);
        out.option_text(self.actor.key_id.as_deref());
        self.cause.encode(&mut out);
        out.option_text(self.correlation.as_deref()).option_text(self.trace_id.as_deref());
        out.u8(self.priority).u64(self.ttl_ms).u8(self.redaction as u8).raw(&self.commitment.0);
        out.0
    }

    /// Reads what [`Envelope::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// Any field out of its range, an unknown type, or bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("envelope", bytes);
        reader.expect(MAGIC)?;
        let event_id = Uuid(reader.array()?);
        let name = reader.text()?;
        let kind = Kind::named(name, reader.u16()?)?;
        let envelope = Envelope {
            event_id,
            kind,
            partition: reader.u32()?,
            seq: reader.u64()?,
            key: reader.text()?.to_owned(),
            tick: Ns(reader.u64()?),
            wall: Ns(reader.u64()?),
            actor: Actor {
                id: reader.text()?.to_owned(),
                kind: match reader.u8()? {
                    1 => ActorKind::Agent,
                    2 => ActorKind::Human,
                    3 => ActorKind::System,
                    n => return Err(Error::malformed("actor", format!("no kind {n}"))),
                },
                key_id: reader.option_text()?,
            },
            cause: Cause::decode(&mut reader)?,
            correlation: reader.option_text()?,
            trace_id: reader.option_text()?,
            priority: reader.u8()?,
            ttl_ms: reader.u64()?,
            redaction: match reader.u8()? {
                0 => Redaction::None,
                1 => Redaction::Redacted,
                2 => Redaction::Summary,
                n => return Err(Error::malformed("envelope", format!("no redaction class {n}"))),
            },
            commitment: Hash(reader.array()?),
        };
        reader.end()?;
        if envelope.actor.id.is_empty() {
            return Err(Error::malformed("envelope", "the actor has no id"));
        }
        Ok(envelope)
    }

    /// Where the entry stands.
    pub fn place(&self) -> Place {
        Place { partition: self.partition, seq: self.seq }
    }

    /// `immutable:log:<partition>/<seq>`, spec 80 §2.
    pub fn reference(&self) -> String {
        self.place().to_string()
    }
}

/// `immutable:log:<partition>/<seq>`, spec 80 §2.
pub fn reference(partition: u32, seq: u64) -> String {
    Place { partition, seq }.to_string()
}

/// The salted commitment of a payload.
pub fn commitment(salt: &[u8; 32], payload: &[u8]) -> Hash {
    Hash::of(&[COMMITMENT_DOMAIN, salt, payload])
}

/// The commitment in stored envelope bytes: what they end with.
pub(crate) fn committed(envelope: &[u8]) -> Option<Hash> {
    envelope.last_chunk().copied().map(Hash)
}

/// The RFC 6962 leaf hash of stored envelope bytes.
pub fn leaf(envelope: &[u8]) -> Hash {
    Hash::of(&[&[0], envelope])
}
