//! What is said: every event, the envelope around it, its bytes, and the one rule that links
//! batches into a chain.
//!
//! This crate is the vocabulary of all others and knows none of them. It deliberately holds no
//! I/O, no clock, no randomness and no async: each function here is a pure function of its
//! arguments, so that a reader on another machine, years later, gets the same answer.
//!
//! Invariants:
//! - Hashed bytes are stored bytes. Nothing is re-encoded in order to be verified.
//! - The names and numbers of events are persisted; they are never reused.
//! - The JSON form of anything is a view. It is never signed and never hashed.

pub mod avro;
pub mod batch;
pub mod canonical;
pub mod cap;
pub mod codec;
mod entries;
pub mod envelope;
pub mod event;
pub mod ids;
pub mod link;
mod place;
pub mod signature;
pub mod telemetry;
pub mod time;
pub mod view;
pub mod wire;

pub use batch::{Batch, Entry, Header, Positions};
pub use entries::Entries;
pub use envelope::{Actor, ActorKind, Cause, Envelope, Stream};
pub use event::{Event, Kind};
pub use ids::{EventId, Hash, Uuid};
pub use link::{Head, Skip, link};
pub use place::Place;
pub use time::Ns;

use thiserror::Error;

/// What can be wrong with bytes that claim to be ours.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Error {
    /// The bytes end before the field does.
    #[error("{what} is cut short at byte {at}")]
    Short {
        /// The thing being read.
        what: &'static str,
        /// Offset of the first missing byte.
        at: usize,
    },
    /// A field holds a value that the format does not allow.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// The thing being read.
        what: &'static str,
        /// Which rule it breaks.
        why: String,
    },
    /// The event type is none that this version knows.
    #[error("unknown event type {name} version {version}")]
    UnknownKind {
        /// Topic name without the version suffix.
        name: String,
        /// Version number.
        version: u16,
    },
    /// The payload does not decode as its type.
    #[error("payload of {kind} does not decode: {why}")]
    Payload {
        /// Topic name.
        kind: String,
        /// What the codec said.
        why: String,
    },
    /// The payload is in its summary form: what was said lies in the artifact store.
    #[error("payload of {kind} is summarized, the full one is {hash_of_full}")]
    Summarized {
        /// Topic name.
        kind: String,
        /// Its name in the artifact store, `sha256:<hex>`.
        hash_of_full: String,
    },
    /// The payload does not match the commitment in its envelope.
    #[error("payload does not match its commitment")]
    Commitment,
}

impl Error {
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Error::Malformed { what, why: why.into() }
    }
}
