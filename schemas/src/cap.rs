//! The payload cap: above 8 KiB a topic carries the summary form of a payload (spec 10 §2).
//!
//! The journal keeps every payload whole beside its commitment, because folds read it again on
//! each replay and runners check it offline (docs/decisions/0008). So the cap is for whoever
//! reads topics: [`crate::view::topic`] applies it, and `hash_of_full` names the bytes that
//! stand at the entry's place.
//!
//! The summary is an Avro record of its own, `payload.summary.v1.avsc`. It is no event: it has
//! no topic and no kind, and the envelope around it keeps the kind of what it stands for, with
//! [`Redaction::Summary`](crate::envelope::Redaction::Summary). A fold never sees it, because
//! the typed payload is not there to be seen.

use std::sync::LazyLock;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::codec::{self, Form};
use crate::{Error, Event, Hash, Kind, avro};

/// Spec 10 §2. Every reader of a topic relies on it.
pub const PAYLOAD_BYTES_MAX: usize = 8192;
/// The schema of the summary form, verbatim.
pub const SUMMARY_AVSC: &str = include_str!("../payload.summary.v1.avsc");
/// Bytes of the sentence in a summary: enough for every short field, far below the cap.
const SUMMARY_TEXT_MAX: usize = 1024;
/// Characters of one field's value in that sentence.
const VALUE_CHARS_MAX: usize = 64;

static FORM: LazyLock<Form> = LazyLock::new(|| {
    let schema = Schema::parse_str(SUMMARY_AVSC).expect("the schema is part of this crate");
    Form::of(&schema, SUMMARY_AVSC)
});

/// The schema under which summaries are written, on every topic.
pub fn form() -> Form {
    FORM.clone()
}

/// What stands in place of a payload above the cap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The event and its short fields, in a sentence.
    pub summary: String,
    /// SHA-256 of the full payload, `sha256:<hex>`; it stands in the journal at its place.
    pub hash_of_full: String,
    /// Always true: what is here is less than what was said.
    pub redacted: bool,
}

/// A payload as a topic may carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capped {
    /// At most [`PAYLOAD_BYTES_MAX`]: as it was.
    Inline(Vec<u8>),
    /// Its summary form, and the full bytes.
    Summarized {
        /// The encoded [`Summary`].
        payload: Vec<u8>,
        /// What it stands for, as the journal keeps it.
        full: Vec<u8>,
    },
}

/// `payload` of `kind`, or its summary form when it is above the cap.
pub fn cap(kind: Kind, payload: Vec<u8>) -> Capped {
    if payload.len() <= PAYLOAD_BYTES_MAX {
        return Capped::Inline(payload);
    }
    let summary = Summary {
        summary: sentence(kind, &payload),
        hash_of_full: Hash::of(&[&payload]).to_digest(),
        redacted: true,
    };
    Capped::Summarized { payload: summary.encode(), full: payload }
}

impl Summary {
    /// The stored bytes, Avro single-object encoded.
    pub fn encode(&self) -> Vec<u8> {
        let datum = avro::to_bytes(self).expect("two texts and a boolean have an Avro form");
        codec::single_object(&FORM.fingerprint, &datum)
    }

    /// Reads what [`Summary::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const WHAT: &str = "payload summary";
        let (written, datum) = codec::split(bytes)
            .ok_or_else(|| Error::malformed(WHAT, "it has no Avro single-object mark"))?;
        if written != FORM.fingerprint {
            return Err(Error::malformed(WHAT, "it was written under another schema"));
        }
        avro::from_bytes(datum).map_err(|error| Error::malformed(WHAT, error.to_string()))
    }
}

/// `incident.changed.v1, 9000 bytes: change=opened, incident_id=inc-1 …`
fn sentence(kind: Kind, payload: &[u8]) -> String {
    let mut text = format!("{}, {} bytes", kind.topic(), payload.len());
    let json = Event::decode(kind, payload).ok().and_then(|it| serde_json::to_value(it).ok());
    let Some(Value::Object(mut fields)) = json else { return text };
    fields.sort_keys();
    let mut separator = ": ";
    for (name, value) in &fields {
        let Some(value) = short(value) else { continue };
        if text.len() + name.len() + value.len() + separator.len() + 1 > SUMMARY_TEXT_MAX {
            break;
        }
        text.push_str(separator);
        text.push_str(name);
        text.push('=');
        text.push_str(&value);
        separator = ", ";
    }
    text
}

/// The value of a field that fits into a sentence.
fn short(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.chars().count() <= VALUE_CHARS_MAX => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
