//! Our codec beside apache-avro's, over generated payloads of every kind, and under hostile
//! bytes.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::collection::vec;
use proptest::prelude::*;
use schemas::{Error, Event, Kind, avro, codec};

use crate::generate;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(2_000, 200_000)))]

    #[test]
    fn every_payload_that_a_schema_allows_decodes_and_encodes_to_its_bytes(
        (kind, bytes) in generate::payload()
    ) {
        let event = Event::decode(kind, &bytes).unwrap();
        prop_assert_eq!(event.kind(), kind);
        prop_assert_eq!(event.encode().unwrap(), bytes);
    }

    /// apache-avro reads ours as its own values, checks them against the schema, and writes
    /// the same bytes.
    #[test]
    fn apache_avro_writes_the_same_bytes((kind, bytes) in generate::payload_with_maps_of(1)) {
        let event = Event::decode(kind, &bytes).unwrap();
        prop_assert_eq!(rewritten_by_apache_avro(kind, &event.encode().unwrap()), bytes);
    }

    #[test]
    fn what_apache_avro_writes_is_read((kind, bytes) in generate::payload()) {
        let theirs = rewritten_by_apache_avro(kind, &bytes);
        prop_assert_eq!(Event::decode(kind, &theirs).unwrap().encode().unwrap(), bytes);
    }

    /// Payloads with doubles are left out: JSON has no NaN, and its reader may be off by the
    /// last bit. JSON is how people and clients speak, never how a payload is kept.
    #[test]
    fn a_payload_without_doubles_goes_through_json_and_back((kind, bytes) in generate::payload()) {
        if kind.avsc().contains("\"double\"") {
            return Ok(());
        }
        let event = Event::decode(kind, &bytes).unwrap();
        let json = serde_json::to_string(&event).unwrap();
        prop_assert_eq!(Event::from_json(kind, &json).unwrap().encode().unwrap(), bytes);
    }

    #[test]
    fn hostile_bytes_never_panic_and_never_decode_to_more_than_they_say(
        kind in proptest::sample::select(Kind::ALL),
        bytes in vec(any::<u8>(), 0..300),
        marked in any::<bool>(),
    ) {
        let mut hostile = Vec::new();
        if marked {
            hostile.extend_from_slice(&[0xC3, 0x01]);
            hostile.extend_from_slice(&codec::fingerprint(kind));
        }
        hostile.extend_from_slice(&bytes);
        // Whatever decodes has a form of its own that decodes to the same.
        if let Ok(event) = Event::decode(kind, &hostile) {
            let again = event.encode().unwrap();
            prop_assert_eq!(Event::decode(kind, &again).unwrap().encode().unwrap(), again);
        }
    }

    #[test]
    fn a_mutated_payload_never_panics(
        (kind, bytes) in generate::payload(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut mutated = bytes;
        for (at, to) in flips {
            let at = at.index(mutated.len());
            mutated[at] = to;
        }
        mutated.truncate(cut.index(mutated.len() + 1));
        let _ = Event::decode(kind, &mutated);
    }

    #[test]
    fn a_payload_with_a_byte_more_or_less_is_refused((kind, bytes) in generate::payload()) {
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert!(Event::decode(kind, &longer).is_err());
        prop_assert!(Event::decode(kind, &bytes[..bytes.len() - 1]).is_err());
    }
}

/// A payload after apache-avro has read and written it.
pub(crate) fn rewritten_by_apache_avro(kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let schema = codec::schema(kind);
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let mut rest = &bytes[10..];
    let value = reader.read_value(&mut rest).unwrap();
    assert!(rest.is_empty());
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    let mut theirs = bytes[..10].to_vec();
    theirs.extend(writer.write_value_to_vec(value).unwrap());
    theirs
}

#[test]
fn a_payload_under_a_schema_that_nobody_released_is_refused_by_fingerprint() {
    let error = Event::decode(Kind::Tick, &[0xC3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]).unwrap_err();
    let Error::Payload { kind, why } = error else { panic!("{error}") };
    assert_eq!(kind, "tick.v1");
    assert_eq!(why, "no released schema has fingerprint 0102030405060708");
}

#[test]
fn a_payload_without_the_mark_is_refused() {
    for bytes in [&b""[..], &[0xC3], &[0xC3, 1, 0, 0, 0, 0, 0, 0, 0], &[0; 20]] {
        assert!(Event::decode(Kind::Tick, bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_number_above_the_range_of_an_avro_long_is_refused() {
    let tick = schemas::event::Tick { partition: 0, now: schemas::Ns(1 << 63) };
    let why = Event::from(tick).encode().unwrap_err().to_string();
    assert!(why.contains("9223372036854775808 is above the range of an Avro long"), "{why}");
}

#[test]
fn integers_keep_every_bit_at_the_edges() {
    for value in [0, 1, 63, 64, 127, 128, 8191, 8192, (1 << 53) + 1, i64::MAX as u64] {
        let bytes = avro::to_bytes(&value).unwrap();
        assert_eq!(avro::from_bytes::<u64>(&bytes), Ok(value));
    }
    for value in [i64::MIN, -1, -64, -65] {
        let bytes = avro::to_bytes(&value).unwrap();
        assert_eq!(avro::from_bytes::<i64>(&bytes), Ok(value));
        assert!(avro::from_bytes::<u64>(&bytes).is_err());
    }
}

/// Ten groups of seven bits are 70: what is above 64 must not be dropped in silence.
#[test]
fn a_varint_above_64_bits_is_refused() {
    let widest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(avro::from_bytes::<i64>(&widest), Ok(i64::MIN));
    for last in [0x02, 0x03, 0x7f, 0x80, 0x81] {
        let mut wider = widest;
        wider[9] = last;
        assert!(avro::from_bytes::<i64>(&wider).is_err(), "{last:#x}");
    }
}

/// Arrays and maps may come in several blocks, with or without their sizes: another writer may
/// do so, and one value has one meaning.
#[test]
fn blocks_of_another_writer_are_read() {
    let expected = Ok(vec![1u32, 2, 3]);
    assert_eq!(avro::from_bytes::<Vec<u32>>(&[6, 2, 4, 6, 0]), expected);
    assert_eq!(avro::from_bytes::<Vec<u32>>(&[2, 2, 4, 4, 6, 0]), expected);
    assert_eq!(avro::from_bytes::<Vec<u32>>(&[5, 6, 2, 4, 6, 0]), expected);
}

#[test]
fn a_count_above_the_bytes_that_are_left_reserves_nothing() {
    let huge = avro::to_bytes(&i64::MAX).unwrap();
    assert!(avro::from_bytes::<Vec<u64>>(&huge).is_err());
    assert!(avro::from_bytes::<String>(&huge).is_err());
    assert!(avro::from_bytes::<std::collections::BTreeMap<String, f64>>(&huge).is_err());
    let negative = avro::to_bytes(&i64::MIN).unwrap();
    assert!(avro::from_bytes::<Vec<u64>>(&negative).is_err());
    assert!(avro::from_bytes::<String>(&negative).is_err());
}
