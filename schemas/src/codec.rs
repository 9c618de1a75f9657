//! The one codec: Avro single-object encoding, `C3 01 ‖ fingerprint ‖ datum`.
//!
//! A payload under the current schema takes the direct path ([`crate::avro`]); one under a
//! released former schema is resolved by apache-avro, writer's schema to reader's.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use apache_avro::{Schema, rabin::Rabin};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::Kind;
use crate::{Error, avro};

/// Avro specification, "Single-object encoding".
const MARK: [u8; 2] = [0xC3, 0x01];
/// Mark and CRC-64-AVRO fingerprint.
const PREFIX_BYTES: usize = 10;

/// Former schemas of a kind that were ever released, newest last: `(kind, schema text)`.
/// They stand in `released/` and are never edited.
const RELEASED: &[(Kind, &str)] = &[];

struct Known {
    schema: Schema,
    fingerprint: [u8; 8],
    former: BTreeMap<[u8; 8], Schema>,
}

static KNOWN: LazyLock<BTreeMap<Kind, Known>> = LazyLock::new(|| {
    Kind::ALL.iter().map(|kind| (*kind, Known::of(*kind))).collect()
});

impl Known {
    fn of(kind: Kind) -> Self {
        let schema = parse(kind, kind.avsc());
        let former = RELEASED.iter().filter(|(of, _)| *of == kind).map(|(of, text)| {
            let schema = parse(*of, text);
            (fingerprint_of(&schema), schema)
        });
        Known { fingerprint: fingerprint_of(&schema), former: former.collect(), schema }
    }
}

fn parse(kind: Kind, text: &str) -> Schema {
    Schema::parse_str(text)
        .unwrap_or_else(|error| panic!("schema of {} is part of this crate: {error}", kind.name()))
}

fn fingerprint_of(schema: &Schema) -> [u8; 8] {
    let mut fingerprint = [0; 8];
    fingerprint.copy_from_slice(&schema.fingerprint::<Rabin>().bytes);
    fingerprint
}

/// The parsed schema of a kind.
pub fn schema(kind: Kind) -> &'static Schema {
    &KNOWN[&kind].schema
}

/// The CRC-64-AVRO fingerprint of a kind's current schema, in wire order.
pub fn fingerprint(kind: Kind) -> [u8; 8] {
    KNOWN[&kind].fingerprint
}

/// `payload` under the current schema of `kind`.
///
/// # Errors
/// [`Error::Payload`] for a number outside the range of an Avro long.
pub fn encode<T: Serialize>(kind: Kind, payload: &T) -> Result<Vec<u8>, Error> {
    let datum = avro::to_bytes(payload).map_err(|error| wrong(kind, error.to_string()))?;
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + datum.len());
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&fingerprint(kind));
    bytes.extend_from_slice(&datum);
    Ok(bytes)
}

/// The payload of `kind`, written under its current or a released former schema.
///
/// # Errors
/// [`Error::Payload`] names the fingerprint that nobody released, or what does not decode.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Error> {
    let (written, datum) = split(kind, bytes)?;
    let known = &KNOWN[&kind];
    if written == known.fingerprint {
        return avro::from_bytes(datum).map_err(|error| wrong(kind, error.to_string()));
    }
    let Some(writer) = known.former.get(&written) else {
        let hex = crate::ids::hex(&written);
        return Err(wrong(kind, format!("no released schema has fingerprint {hex}")));
    };
    let avro_error = |error: apache_avro::Error| wrong(kind, error.to_string());
    let value = apache_avro::from_avro_datum(writer, &mut &datum[..], Some(&known.schema))
        .map_err(avro_error)?;
    apache_avro::from_value(&value).map_err(avro_error)
}

/// The datum of a payload under the current schema, without decoding it.
///
/// # Errors
/// [`Error::Payload`] when it was written under another schema.
pub fn datum(kind: Kind, bytes: &[u8]) -> Result<&[u8], Error> {
    let (written, datum) = split(kind, bytes)?;
    if written == fingerprint(kind) {
        return Ok(datum);
    }
    Err(wrong(kind, "it was written under another schema"))
}

fn split(kind: Kind, bytes: &[u8]) -> Result<([u8; 8], &[u8]), Error> {
    if bytes.len() < PREFIX_BYTES || bytes[..2] != MARK {
        return Err(wrong(kind, "it does not start with the Avro single-object mark"));
    }
    let mut written = [0; 8];
    written.copy_from_slice(&bytes[2..PREFIX_BYTES]);
    Ok((written, &bytes[PREFIX_BYTES..]))
}

fn wrong(kind: Kind, why: impl Into<String>) -> Error {
    Error::Payload { kind: kind.topic(), why: why.into() }
}
