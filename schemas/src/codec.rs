//! The one codec: Avro single-object encoding, `C3 01 ‖ fingerprint ‖ datum`.
//!
//! A payload under the current schema takes the direct path ([`crate::avro`]); one under a
//! released former schema, or under that of the next release, is first resolved by apache-avro,
//! writer's schema to reader's. Either way the stored bytes stay what they are: decoding is for
//! reading, never for hashing.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::event::Kind;
use crate::{Error, avro};

/// Avro specification, "Single-object encoding".
const MARK: [u8; 2] = [0xC3, 0x01];
/// Mark and CRC-64-AVRO fingerprint.
const PREFIX_BYTES: usize = 10;

/// What apache-avro may allocate for one length field of a hostile datum. Records of telemetry
/// are the largest payloads, at most 1 MiB.
const ALLOCATION_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Former schemas of a kind that were ever released, newest last: `(kind, schema text)`.
///
/// Every released form stands in `released/` and is never edited. When a schema changes, the
/// form before the change is named here and the new one is added there; a test refuses a form
/// in `released/` that nobody can read.
const RELEASED: &[(Kind, &str)] = &[
    #[cfg(feature = "next-schemas")]
    (Kind::ChangeObserved, include_str!("../released/change.observed.v1.avsc")),
    (Kind::HeadCosigned, include_str!("../released/head.cosigned.v1.avsc")),
    (Kind::ReleaseRequested, include_str!("../released/release.requested.v1.avsc")),
];

/// Schemas that the next release writes, and that this one only reads.
///
/// A form is read one release before it is written. So two releases that follow each other read
/// all that either writes, and nodes of both may share a journal: while they are upgraded one
/// after the other, and when they are taken back. What is written in a form that a node does not
/// know, it refuses to guess, and it stops.
const UPCOMING: &[(Kind, &str)] = &[
    #[cfg(not(feature = "next-schemas"))]
    (Kind::ChangeObserved, include_str!("../upcoming/change.observed.v1.avsc")),
];

/// The schema that this build writes in place of the one beside this crate's manifest.
#[cfg(feature = "next-schemas")]
pub(crate) const fn next(kind: Kind) -> Option<&'static str> {
    if matches!(kind, Kind::ChangeObserved) {
        return Some(include_str!("../upcoming/change.observed.v1.avsc"));
    }
    None
}

/// One schema under which payloads were ever written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// CRC-64-AVRO fingerprint, in wire order.
    pub fingerprint: [u8; 8],
    /// Full name of its record.
    pub name: String,
    /// The schema, verbatim.
    pub avsc: &'static str,
}

impl Form {
    pub(crate) fn of(schema: &Schema, avsc: &'static str) -> Self {
        let name = schema.name().expect("every payload is a record").fullname(None);
        Form { fingerprint: fingerprint_of(schema), name, avsc }
    }
}

struct Known {
    schema: Schema,
    fingerprint: [u8; 8],
    /// Other schemas under which it may have been written.
    others: BTreeMap<[u8; 8], Schema>,
}

static KNOWN: LazyLock<BTreeMap<Kind, Known>> =
    LazyLock::new(|| Kind::ALL.iter().map(|kind| (*kind, Known::of(*kind))).collect());

impl Known {
    fn of(kind: Kind) -> Self {
        let schema = parse(kind, kind.avsc());
        let others = RELEASED.iter().chain(UPCOMING).filter(|(of, _)| *of == kind);
        let others = others.map(|(of, text)| {
            let schema = parse(*of, text);
            (fingerprint_of(&schema), schema)
        });
        Known { fingerprint: fingerprint_of(&schema), others: others.collect(), schema }
    }
}

fn parse(kind: Kind, text: &str) -> Schema {
    Schema::parse_str(text)
        .unwrap_or_else(|error| panic!("schema of {} is part of this crate: {error}", kind.name()))
}

pub(crate) fn fingerprint_of(schema: &Schema) -> [u8; 8] {
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

/// Every schema of `kind` that an entry of a journal may have been written under, oldest first:
/// the former ones, the current one, and the one of the next release where it has another.
pub fn forms(kind: Kind) -> Vec<Form> {
    let of_kind = |forms: &'static [(Kind, &'static str)]| {
        forms.iter().filter(move |(of, _)| *of == kind).map(|(_, text)| *text)
    };
    let all = of_kind(RELEASED).chain([kind.avsc()]).chain(of_kind(UPCOMING));
    all.map(|text| Form::of(&parse(kind, text), text)).collect()
}

/// Whether payloads of `kind` under the schema of this fingerprint can be read.
pub fn reads(kind: Kind, fingerprint: &[u8; 8]) -> bool {
    let known = &KNOWN[&kind];
    known.fingerprint == *fingerprint || known.others.contains_key(fingerprint)
}

/// `payload` under the current schema of `kind`.
///
/// # Errors
/// [`Error::Payload`] for a number outside the range of an Avro long.
pub fn encode<T: Serialize>(kind: Kind, payload: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&fingerprint(kind));
    avro::append(payload, &mut bytes).map_err(|error| wrong(kind, error.to_string()))?;
    Ok(bytes)
}

/// The payload of `kind`, written under its current schema, a released former one, or that of
/// the next release.
///
/// # Errors
/// [`Error::Payload`] names the fingerprint that nobody released, or what does not decode.
pub fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, Error> {
    let (written, datum) = split(bytes).ok_or_else(|| unmarked(kind))?;
    let known = &KNOWN[&kind];
    if written == known.fingerprint {
        return avro::from_bytes(datum).map_err(|error| wrong(kind, error.to_string()));
    }
    let Some(writer) = known.others.get(&written) else {
        let hex = crate::ids::hex(&written);
        return Err(wrong(kind, format!("no released schema has fingerprint {hex}")));
    };
    resolve(writer, &known.schema, datum).map_err(|why| wrong(kind, why))
}

/// A datum of `writer`'s schema as a value of `reader`'s.
///
/// The resolved value is written under the reader's schema and read by the direct path, so that
/// one decoder alone says what bytes mean.
fn resolve<T: DeserializeOwned>(
    writer: &Schema,
    reader: &Schema,
    datum: &[u8],
) -> Result<T, String> {
    apache_avro::util::max_allocation_bytes(ALLOCATION_BYTES_MAX);
    let says = |error: apache_avro::Error| error.to_string();
    let from = GenericDatumReader::builder(writer).reader_schema(reader).build().map_err(says)?;
    let to = GenericDatumWriter::builder(reader).build().map_err(says)?;
    let mut rest = datum;
    let value = from.read_value(&mut rest).map_err(says)?;
    if !rest.is_empty() {
        return Err(format!("{} bytes follow the value", rest.len()));
    }
    let current = to.write_value_to_vec(value).map_err(says)?;
    avro::from_bytes(&current).map_err(|error| error.to_string())
}

/// The datum of a payload under the current schema, without decoding it.
///
/// # Errors
/// [`Error::Payload`] when it was written under another schema.
pub fn datum(kind: Kind, bytes: &[u8]) -> Result<&[u8], Error> {
    let (written, datum) = split(bytes).ok_or_else(|| unmarked(kind))?;
    if written == fingerprint(kind) {
        return Ok(datum);
    }
    Err(wrong(kind, "it was written under another schema"))
}

/// `datum` behind the mark and the fingerprint of its schema.
pub(crate) fn single_object(fingerprint: &[u8; 8], datum: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + datum.len());
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(fingerprint);
    bytes.extend_from_slice(datum);
    bytes
}

/// The fingerprint of the schema and the datum of a single-object encoding, where it is one.
pub fn split(bytes: &[u8]) -> Option<([u8; 8], &[u8])> {
    let (fingerprint, datum) = bytes.strip_prefix(&MARK)?.split_first_chunk()?;
    Some((*fingerprint, datum))
}

fn unmarked(kind: Kind) -> Error {
    wrong(kind, "it does not start with the Avro single-object mark")
}

fn wrong(kind: Kind, why: impl Into<String>) -> Error {
    Error::Payload { kind: kind.topic(), why: why.into() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use apache_avro::Schema;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::{fingerprint_of, resolve, single_object, split};
    use crate::avro;

    /// A pair of forms, as a release would leave them: the newer has a field more.
    const OLDER: &str = r#"{"type": "record", "name": "Moved", "fields": [
        {"name": "service", "type": "string"},
        {"name": "deltas", "type": {"type": "map", "values": "double"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-nanos"}}]}"#;
    const NEWER: &str = r#"{"type": "record", "name": "Moved", "fields": [
        {"name": "service", "type": "string"},
        {"name": "region", "type": ["null", "string"], "default": null},
        {"name": "deltas", "type": {"type": "map", "values": "double"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-nanos"}}]}"#;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Older {
        service: String,
        deltas: std::collections::BTreeMap<String, f64>,
        at: crate::Ns,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newer {
        service: String,
        region: Option<String>,
        deltas: std::collections::BTreeMap<String, f64>,
        at: crate::Ns,
    }

    fn deltas() -> std::collections::BTreeMap<String, f64> {
        [("p95_ms", 2.5), ("error_rate", -0.01), ("n", 7.0)].map(|(k, v)| (k.to_owned(), v)).into()
    }

    fn older() -> Older {
        Older { service: "checkout".to_owned(), deltas: deltas(), at: crate::Ns(i64::MAX as u64) }
    }

    fn newer(region: Option<&str>) -> Newer {
        let Older { service, deltas, at } = older();
        Newer { service, region: region.map(str::to_owned), deltas, at }
    }

    fn forms() -> (Schema, Schema) {
        (Schema::parse_str(OLDER).unwrap(), Schema::parse_str(NEWER).unwrap())
    }

    #[test]
    fn a_new_reader_reads_an_old_writer() {
        let (old, new) = forms();
        let datum = avro::to_bytes(&older()).unwrap();
        assert_eq!(resolve::<Newer>(&old, &new, &datum), Ok(newer(None)));
    }

    #[test]
    fn an_old_reader_reads_a_new_writer() {
        let (old, new) = forms();
        let datum = avro::to_bytes(&newer(Some("eu"))).unwrap();
        assert_eq!(resolve::<Older>(&new, &old, &datum), Ok(older()));
    }

    #[test]
    fn forms_are_told_apart_by_fingerprint() {
        let (old, new) = forms();
        assert_ne!(fingerprint_of(&old), fingerprint_of(&new));
        let bytes = single_object(&fingerprint_of(&old), b"datum");
        assert_eq!(split(&bytes), Some((fingerprint_of(&old), &b"datum"[..])));
    }

    #[test]
    fn a_former_datum_with_a_byte_more_or_less_is_refused() {
        let (old, new) = forms();
        let mut datum = avro::to_bytes(&older()).unwrap();
        datum.push(0);
        assert!(resolve::<Newer>(&old, &new, &datum).unwrap_err().contains("1 bytes follow"));
        assert!(resolve::<Newer>(&old, &new, &datum[..datum.len() - 2]).is_err());
    }

    #[test]
    fn a_huge_length_in_a_former_datum_is_refused_and_not_allocated() {
        let (old, new) = forms();
        let datum = avro::to_bytes(&(64u64 << 20)).unwrap();
        let why = resolve::<Newer>(&old, &new, &datum).unwrap_err();
        assert!(why.contains("llocat"), "{why}");
    }

    proptest! {
        #[test]
        fn hostile_former_data_never_panics(
            bytes in vec(any::<u8>(), 0..80),
            at in any::<prop::sample::Index>(),
            to in any::<u8>(),
        ) {
            let (old, new) = forms();
            let _ = resolve::<Newer>(&old, &new, &bytes);
            let mut datum = avro::to_bytes(&older()).unwrap();
            let at = at.index(datum.len());
            datum[at] = to;
            let _ = resolve::<Newer>(&old, &new, &datum);
        }
    }
}
