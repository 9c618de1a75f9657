//! The JSON view of entries, as `events list -o json` prints it.

use expect_test::expect_file;
use schemas::cap::{Capped, cap};
use schemas::envelope::Redaction;
use schemas::event::ChangeObserved;
use schemas::{Actor, ActorKind, Cause, Entry, Event, Kind, Ns, Stream, view};
use serde_json::Value;

use crate::chain::{envelope, tick};
use crate::golden;

fn entry_of(event: &Event) -> Entry {
    Entry::new(envelope(event, 7), [0; 32], event.encode().unwrap())
}

#[test]
fn an_observed_change_reads_as_one_line_of_sorted_json() {
    let mut entry = entry_of(&golden::event(Kind::ChangeObserved));
    entry.envelope.key = "checkout".to_owned();
    entry.envelope.cause = Cause::Observed { stream: Stream::Inbox, position: 12 };
    entry.envelope.actor = Actor {
        id: "ci".to_owned(),
        kind: ActorKind::Agent,
        key_id: Some("0123456789abcdef".to_owned()),
    };
    entry.envelope.ttl_ms = 90_500;
    let line = view::line(&entry);
    assert!(!line.contains('\n'));
    let json: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["type"], "change.observed");
    assert_eq!(json["payload"]["id"], "ci-8841");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/entry.view.json");
    expect_file![golden].assert_eq(&(line + "\n"));
}

#[test]
fn a_derived_entry_names_the_entry_it_came_from() {
    let mut entry = entry_of(&tick(1));
    entry.envelope.cause = Cause::Derived { by: "triggers".to_owned(), from: 3, ordinal: 1 };
    entry.envelope.correlation = Some("inc-5f3a91c2".to_owned());
    let json = view::entry(&entry);
    assert_eq!(json["causation_id"], "immutable:log:0/3");
    assert_eq!(json["cause"]["derived"]["by"], "triggers");
    assert_eq!(json["correlation_id"], "inc-5f3a91c2");
    assert_eq!(json["ttl"], Value::Null, "zero is never");
}

/// A JSON reader keeps integers as doubles: above 2^53 they would become others (A03).
#[test]
fn integers_above_2_to_the_53_are_decimal_strings() {
    let exact = 1u64 << 53;
    for (value, shown) in [
        (exact, serde_json::json!(exact)),
        (exact + 1, serde_json::json!("9007199254740993")),
        (u64::MAX, serde_json::json!("18446744073709551615")),
    ] {
        let mut entry = entry_of(&tick(1));
        entry.envelope.seq = value;
        entry.envelope.cause = Cause::Owner { epoch: value, n: 0 };
        let json = view::entry(&entry);
        assert_eq!(json["seq"], shown);
        assert_eq!(json["cause"]["owner"]["epoch"], shown);
    }
    let json = view::entry(&entry_of(&golden::event(Kind::TelemetrySample)));
    assert_eq!(json["payload"]["ts_ns"][1], "1772366400000000001", "in payloads too");
}

#[test]
fn every_kind_has_a_view_with_its_payload() {
    for kind in Kind::ALL {
        let event = golden::event(*kind);
        let json = view::entry(&entry_of(&event));
        assert_eq!(json["type"], kind.name());
        assert_eq!(json["version"], kind.version());
        let payload = json["payload"].as_object().unwrap();
        assert!(!payload.contains_key("undecodable"), "{}", kind.topic());
        assert!(!payload.is_empty(), "{}", kind.topic());
        sorted(&json);
    }
}

fn sorted(json: &Value) {
    match json {
        Value::Object(fields) => {
            assert!(fields.keys().is_sorted(), "{json}");
            fields.values().for_each(sorted);
        }
        Value::Array(items) => items.iter().for_each(sorted),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_summarized_payload_shows_its_summary() {
    let Capped::Summarized { payload, .. } = cap(Kind::Tick, vec![0; 9000]) else {
        panic!("9000 bytes are above the cap")
    };
    let mut envelope = envelope(&tick(1), 7);
    envelope.redaction = Redaction::Summary;
    let json = view::entry(&Entry::new(envelope, [0; 32], payload));
    assert_eq!(json["redaction"], "summary");
    assert_eq!(json["payload"]["redacted"], true);
    assert_eq!(json["payload"]["summary"], "tick.v1, 9000 bytes");
}

#[test]
fn payload_cap_8192_on_topics_and_whole_in_the_journal() {
    let Event::ChangeObserved(change) = golden::event(Kind::ChangeObserved) else { unreachable!() };
    let of = |n: usize| {
        let summary = "s".repeat(n);
        entry_of(&Event::from(ChangeObserved { summary, ..change.clone() }))
    };
    let large = of(9000);
    let (journal, topic) = (view::entry(&large), view::topic(&large));
    assert_eq!(journal["payload"]["summary"].as_str().unwrap().len(), 9000);
    assert_eq!(journal["redaction"], "none");
    let hash_of_full = schemas::Hash::of(&[&large.payload]).to_digest();
    assert_eq!(topic["payload"]["hash_of_full"], hash_of_full);
    assert_eq!(topic["payload"]["redacted"], true);
    assert_eq!(topic["payload"]["id"], journal["payload"]["id"], "a client finds its own");
    assert_eq!(topic["redaction"], "summary");
    assert_eq!(topic["place"], journal["place"]);
    let small = of(100);
    assert_eq!(view::topic(&small), view::entry(&small));
}

#[test]
fn a_payload_that_does_not_decode_is_shown_and_not_hidden() {
    let entry = Entry::new(envelope(&tick(1), 7), [0; 32], vec![1, 2, 3]);
    let json = view::entry(&entry);
    assert_eq!(json["type"], "tick");
    assert_eq!(json["payload"]["bytes"], "010203");
    let why = json["payload"]["undecodable"].as_str().unwrap();
    assert!(why.contains("Avro single-object mark"), "{why}");
}

#[test]
fn times_that_no_calendar_has_are_shown_as_nanoseconds() {
    let mut entry = entry_of(&tick(1));
    entry.envelope.wall = Ns(u64::MAX);
    let json = view::entry(&entry);
    assert!(json["ts"].as_str().unwrap().starts_with("2554-"), "{}", json["ts"]);
}
