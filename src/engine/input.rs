//! An input: what the edge hands to the owner, and how it lies in `inbox` and
//! `inbox.control`.
//!
//! The edge has validated it and given it an actor. Nothing here is trusted by a fold beyond
//! that: signatures inside payloads are verified where they decide.

use schemas::wire::{Reader, Writer};
use schemas::{Actor, ActorKind, Error, Event, Kind, Stream};

/// The format mark. Kafka inboxes persist it: frozen.
const MAGIC: &[u8; 4] = b"HWI\x01";

/// Something from outside that wants a place in the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// What is said.
    pub event: Event,
    /// Key of its typed topic.
    pub key: String,
    /// Who says it.
    pub actor: Actor,
    /// Incident id, where there is one.
    pub correlation: Option<String>,
    /// 1–10.
    pub priority: u8,
}

impl Input {
    /// An input without a client's id, of normal priority.
    pub fn new(actor: Actor, key: impl Into<String>, event: impl Into<Event>) -> Self {
        Input { event: event.into(), key: key.into(), actor, correlation: None, priority: 5 }
    }

    /// The stream it belongs to: what stops the system is always drained first.
    pub fn stream(&self) -> Stream {
        if self.event.kind() == Kind::FreezeCommand { Stream::Control } else { Stream::Inbox }
    }

    /// The record as it lies in the stream.
    ///
    /// # Errors
    /// A number outside the range of an Avro long.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let kind = self.event.kind();
        let mut out = Writer::new(MAGIC);
        out.text(kind.name()).u16(kind.version()).text(&self.key);
        out.text(&self.actor.id).u8(self.actor.kind as u8);
        out.option_text(self.actor.key_id.as_deref());
        out.option_text(self.correlation.as_deref()).u8(self.priority);
        out.bytes(&self.event.encode()?);
        Ok(out.0)
    }

    /// Reads what [`Input::encode`] wrote.
    ///
    /// # Errors
    /// Anything else; the record then goes to quarantine.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Input::read(bytes).map(|(input, _)| input)
    }

    /// The same, and the payload as its sender wrote it.
    ///
    /// # Errors
    /// As [`Input::decode`].
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let malformed = |why: &str| Error::Malformed { what: "input", why: why.to_owned() };
        let mut reader = Reader::new("input", bytes);
        reader.expect(MAGIC)?;
        let name = reader.text()?;
        let kind = Kind::named(name, reader.u16()?)?;
        let key = reader.text()?.to_owned();
        let id = reader.text()?.to_owned();
        let actor_kind = match reader.u8()? {
            1 => ActorKind::Agent,
            2 => ActorKind::Human,
            3 => ActorKind::System,
            _ => return Err(malformed("no such actor kind")),
        };
        let actor = Actor { id, kind: actor_kind, key_id: reader.option_text()? };
        if actor.id.is_empty() {
            return Err(malformed("the actor has no id"));
        }
        let correlation = reader.option_text()?;
        let priority = reader.u8()?;
        let payload = reader.bytes()?;
        let event = Event::decode(kind, payload)?;
        reader.end()?;
        Ok((Input { event, key, actor, correlation, priority }, payload))
    }
}
