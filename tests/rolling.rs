//! A rolling upgrade, and its way back: two programs of different schemas take turns on one journal
//! on a real Kafka. Nothing acknowledged is lost, nothing stands twice, and both read all of it.
//!
//! The other program is this one with the schemas of the next release (`schemas/upcoming/`): a
//! field more in `change.observed`. What the one before reads is what lets them share a journal.

#![allow(clippy::unwrap_used)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "blackbox/ask.rs"]
mod http;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleet::Fleet;
use schemas::{Kind, codec};
use serde_json::Value;

/// The program of today.
const NOW: &str = env!("CARGO_BIN_EXE_healwright");

/// The program of the next release, built where this one was built and with the same profile. Only
/// our own crates are built for it, and that once: some minutes on a small machine.
fn next() -> PathBuf {
    let profile = Path::new(NOW).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--workspace", "--features", "next-schemas"]);
    cargo.args(["--example", "healwright-next", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(built.success(), "{cargo:?}");
    profile.join("examples").join("healwright-next")
}

/// Both programs list every acknowledged change once, verify an export, and replay to the same.
fn agree(fleet: &mut Fleet, programs: [&Path; 2]) -> [Vec<Value>; 2] {
    let told = programs.map(|program| {
        fleet.runs(program);
        fleet.check();
        fleet.verify_export();
        let replayed: Value =
            serde_json::from_str(&fleet.answer(&["replay", "-o", "json"])).unwrap();
        (fleet.changes(), replayed)
    });
    let [(before, here), (after, there)] = told;
    for key in ["identical", "compared", "events", "state_digest"] {
        assert_eq!(here[key], there[key], "{key}: {here} {there}");
    }
    let places = |of: &[Value]| of.iter().map(|it| it["place"].clone()).collect::<Vec<_>>();
    assert_eq!(places(&before), places(&after));
    [before, after]
}

/// Changes to both nodes; each answers with the place that whoever is in office gave.
fn tell_both(fleet: &mut Fleet, stage: &str) {
    for n in 0..6 {
        fleet.change(n % 2, &format!("{stage}-{n}"));
    }
    let id = format!("{stage}-1");
    let place = fleet.place(0, &id);
    assert_eq!(fleet.place(1, &id), place);
}

/// Turns of two nodes: the first begins with the older program, the second with the newer one.
fn take_turns(fleet: &mut Fleet, older: &Path, newer: &Path) {
    fleet.runs(newer);
    assert_eq!((fleet.add(), fleet.owner()), (1, 0), "the older one is in office");
    tell_both(fleet, "older-decides");
    assert!(fleet.stop(0).success());
    fleet.await_decision(1, "newer-has-it");
    fleet.runs(older);
    fleet.restart(0);
    tell_both(fleet, "newer-decides");
    // And back again: first the other one decides, then this one on its own data directory.
    assert!(fleet.stop(1).success());
    fleet.await_decision(0, "older-has-it");
    fleet.restart(1);
    tell_both(fleet, "taken-back");
    assert!(fleet.stop(0).success());
    fleet.await_decision(1, "taken-back-has-it");
    // And a node is upgraded where it is.
    fleet.runs(newer);
    fleet.restart(0);
    tell_both(fleet, "upgraded-in-place");
    fleet.await_taken();
    (0..2).for_each(|node| assert!(fleet.stop(node).success()));
}

#[test]
fn programs_of_two_schema_versions_take_turns_and_both_read_everything() {
    assert_eq!(codec::forms(Kind::ChangeObserved).len(), 2, "one that is read is not written yet");
    let (older, newer) = (PathBuf::from(NOW), next());
    let mut fleet = Fleet::start(bed::shared(), 1);
    take_turns(&mut fleet, &older, &newer);
    let [before, after] = agree(&mut fleet, [&older, &newer]);
    assert!(before.iter().all(|it| it["payload"].get("region").is_none()), "it knows no regions");
    // What a newer node took keeps what it said, whoever was in office.
    let payloads = after.iter().map(|it| &it["payload"]);
    let regions: BTreeMap<&str, &Value> =
        payloads.map(|it| (it["id"].as_str().unwrap(), &it["region"])).collect();
    for (id, region) in [
        ("older-decides-0", Value::Null),
        ("older-decides-1", "north".into()),
        ("newer-decides-0", Value::Null),
        ("newer-decides-1", "north".into()),
        ("taken-back-0", Value::Null),
        ("taken-back-1", Value::Null),
        ("upgraded-in-place-0", "north".into()),
        ("upgraded-in-place-1", Value::Null),
    ] {
        assert_eq!(*regions[id], region, "{id}");
    }
}
