//! The payload cap, at its edge (spec 10 §12).

use schemas::cap::{Capped, PAYLOAD_BYTES_MAX, Summary, cap};
use schemas::event::ChangeObserved;
use schemas::{Event, Hash, Kind};

/// A change whose encoded payload has exactly `n` bytes.
fn change_of(n: usize) -> Vec<u8> {
    let json = r#"{"id": "ci-1", "service": "checkout", "kind": "deploy", "version": "1.1.0"}"#;
    let Ok(Event::ChangeObserved(change)) = Event::from_json(Kind::ChangeObserved, json) else {
        unreachable!()
    };
    let encode = |summary: usize| {
        let change = ChangeObserved { summary: "s".repeat(summary), ..change.clone() };
        Event::from(change).encode().unwrap()
    };
    (0..n).rev().map(encode).find(|it| it.len() == n).unwrap()
}

#[test]
fn payload_cap_8192_exact_kept() {
    assert_eq!(PAYLOAD_BYTES_MAX, 8192);
    let payload = change_of(8192);
    assert_eq!(cap(Kind::ChangeObserved, payload.clone()), Capped::Inline(payload));
}

#[test]
fn payload_cap_8192_summarized() {
    let full = change_of(8193);
    let Capped::Summarized { payload, full: kept } = cap(Kind::ChangeObserved, full.clone()) else {
        panic!("8193 bytes are above the cap")
    };
    assert_eq!(kept, full, "the full bytes are the caller's");
    let expected = Summary {
        summary: "change.observed.v1, 8193 bytes: author=, id=ci-1, kind=deploy, ref=, \
                  service=checkout, version=1.1.0"
            .to_owned(),
        hash_of_full: Hash::of(&[&full]).to_digest(),
        redacted: true,
    };
    assert_eq!(Summary::decode(&payload), Ok(expected));
    assert!(payload.len() <= PAYLOAD_BYTES_MAX);
}

#[test]
fn payload_cap_8192_summary_is_itself_below_the_cap() {
    let Capped::Summarized { payload, .. } = cap(Kind::Tick, vec![0; 900 * 1024]) else {
        panic!("far above the cap")
    };
    let summary = Summary::decode(&payload).unwrap();
    assert_eq!(summary.summary, "tick.v1, 921600 bytes", "what does not decode is only counted");
    assert!(payload.len() < 200);
}

#[test]
fn payload_cap_8192_summary_is_no_event() {
    let Capped::Summarized { payload, .. } = cap(Kind::ChangeObserved, change_of(8193)) else {
        panic!("8193 bytes are above the cap")
    };
    assert!(Event::decode(Kind::ChangeObserved, &payload).is_err());
    assert!(Summary::decode(&change_of(8192)).is_err());
    assert!(Summary::decode(&payload[..payload.len() - 1]).is_err());
    assert!(Summary::decode(&[]).is_err());
}
