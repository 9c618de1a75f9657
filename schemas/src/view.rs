//! The JSON view of an entry: one object, sorted keys, no white space (spec 10 §2, 80 §4).
//!
//! It is for people and for tools that read lines. It is never signed and never hashed: two
//! parsers may read one JSON text differently, and the stored bytes are the truth.
//!
//! Integers that a double cannot hold (above 2^53) are decimal strings, so that no reader
//! rounds them (threat A03). Times are RFC 3339 with all nine digits where they are not zero.

use serde_json::{Map, Number, Value, json};

use crate::batch::Entry;
use crate::cap::{Capped, PAYLOAD_BYTES_MAX, Summary, cap};
use crate::envelope::{Actor, Cause, Redaction, reference};
use crate::event::stream_name;

/// Largest integer that every JSON reader keeps exact.
const EXACT_MAX: u64 = 1 << 53;

/// The entry as a JSON object.
///
/// A payload that this version cannot decode is shown as
/// `{"undecodable": <why>, "bytes": <hex>}`: a view is never a reason to hide an entry.
pub fn entry(entry: &Entry) -> Value {
    let envelope = &entry.envelope;
    let mut view = json!({
        "event_id": envelope.event_id,
        "type": envelope.kind.name(),
        "version": envelope.kind.version(),
        "key": envelope.key,
        "place": envelope.reference(),
        "partition": envelope.partition,
        "seq": envelope.seq,
        "ts": envelope.wall,
        "tick": envelope.tick,
        "actor": actor(&envelope.actor),
        "cause": envelope.cause,
        "causation_id": causation_id(envelope.partition, &envelope.cause),
        "correlation_id": envelope.correlation,
        "trace_id": envelope.trace_id,
        "priority": envelope.priority,
        "ttl": ttl(envelope.ttl_ms),
        "redaction": envelope.redaction,
        "payload": payload(entry),
    });
    exact(&mut view);
    // Another crate of the build may have switched serde_json's maps to insertion order.
    view.sort_all_objects();
    view
}

/// The entry as its topic carries it: with the summary form of a payload above the cap, and the
/// id under which a client said it, so that whoever looks for that still finds it (spec 10 §2).
pub fn topic(entry: &Entry) -> Value {
    let mut view = self::entry(entry);
    if entry.payload.len() <= PAYLOAD_BYTES_MAX {
        return view;
    }
    let Capped::Summarized { payload, .. } = cap(entry.envelope.kind, entry.payload.clone()) else {
        return view;
    };
    let id = view["payload"].get("id").cloned();
    view["payload"] = Summary::decode(&payload).and_then(|it| to_value(&it)).unwrap_or_default();
    if let Some(id) = id {
        view["payload"]["id"] = id;
    }
    view["redaction"] = json!(Redaction::Summary);
    view.sort_all_objects();
    view
}

/// The entry as one line of canonical JSON, without the line's end.
pub fn line(entry: &Entry) -> String {
    self::entry(entry).to_string()
}

fn actor(actor: &Actor) -> Value {
    let mut view = json!({ "id": actor.id, "kind": actor.kind });
    if let Some(key_id) = &actor.key_id {
        view["key_id"] = json!(key_id);
    }
    view
}

/// Where the entry comes from, as a reference: an entry, a position of a stream, or the owner.
fn causation_id(partition: u32, cause: &Cause) -> String {
    match cause {
        Cause::Observed { stream, position } => format!("{}/{position}", stream_name(*stream)),
        Cause::Derived { from, .. } => reference(partition, *from),
        Cause::Owner { epoch, n } => format!("owner/{epoch}/{n}"),
    }
}

/// ISO 8601, null for never.
fn ttl(ms: u64) -> Option<String> {
    if ms == 0 {
        return None;
    }
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Some(jiff::SignedDuration::from_millis(ms).to_string())
}

fn payload(entry: &Entry) -> Value {
    let shown = match entry.envelope.redaction {
        Redaction::None | Redaction::Redacted => entry.event().and_then(|event| to_value(&event)),
        Redaction::Summary => Summary::decode(&entry.payload).and_then(|it| to_value(&it)),
    };
    shown.unwrap_or_else(|error| {
        json!({ "undecodable": error.to_string(), "bytes": crate::ids::hex(&entry.payload) })
    })
}

fn to_value(value: &impl serde::Serialize) -> Result<Value, crate::Error> {
    serde_json::to_value(value)
        .map_err(|error| crate::Error::malformed("JSON view", error.to_string()))
}

/// Turns integers that a double cannot hold into decimal strings.
fn exact(value: &mut Value) {
    match value {
        Value::Number(number) if is_inexact(number) => *value = number.to_string().into(),
        Value::Array(items) => items.iter_mut().for_each(exact),
        Value::Object(fields) => Map::values_mut(fields).for_each(exact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_inexact(number: &Number) -> bool {
    let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    magnitude.is_some_and(|it| it > EXACT_MAX)
}
