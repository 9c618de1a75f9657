//! Golden payloads: one of each kind as JSON that a person reads, and its bytes.
//!
//! Bytes that change here are a format change: readers of old journals depend on them.

use std::path::PathBuf;

use expect_test::expect_file;
use schemas::{Event, Kind};

use crate::codec::rewritten_by_apache_avro;

fn path(kind: Kind, extension: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    directory.join(format!("{}.{extension}", kind.topic()))
}

/// The sample of a kind.
pub(crate) fn event(kind: Kind) -> Event {
    let path = path(kind, "json");
    let json = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    Event::from_json(kind, &json).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Lines of 32 bytes, so that a difference is seen where it is.
fn hex_lines(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| schemas::ids::hex(line) + "\n").collect()
}

#[test]
fn every_kind_has_its_golden_bytes() {
    for kind in Kind::ALL {
        let bytes = event(*kind).encode().unwrap();
        expect_file![path(*kind, "hex")].assert_eq(&hex_lines(&bytes));
    }
}

#[test]
fn golden_bytes_decode_to_the_golden_json() {
    for kind in Kind::ALL {
        let hex = std::fs::read_to_string(path(*kind, "hex")).unwrap().replace('\n', "");
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let mut json = serde_json::to_value(Event::decode(*kind, &bytes).unwrap()).unwrap();
        json.sort_all_objects();
        let text = serde_json::to_string_pretty(&json).unwrap() + "\n";
        expect_file![path(*kind, "json")].assert_eq(&text);
    }
}

#[test]
fn apache_avro_reads_and_writes_the_golden_bytes() {
    for kind in Kind::ALL {
        let bytes = event(*kind).encode().unwrap();
        let theirs = rewritten_by_apache_avro(*kind, &bytes);
        // Its maps have no order, so the value is compared.
        assert_eq!(Event::decode(*kind, &theirs), Ok(event(*kind)), "{}", kind.topic());
        assert_eq!(theirs.len(), bytes.len(), "{}", kind.topic());
    }
}
