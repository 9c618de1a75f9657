//! What a cluster may meet, on real processes and a real Kafka: records that are none, owners
//! that change in the middle of a batch, a broker whose disk is full. Everything acknowledged
//! stands in the journal once, and whoever reads it agrees.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "adversity/foreign.rs"]
mod foreign;
#[path = "adversity/full_disk.rs"]
mod full_disk;
#[path = "blackbox/ask.rs"]
mod http;
#[path = "adversity/poison.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod poison;
#[path = "adversity/rebalance.rs"]
mod rebalance;
#[path = "adversity/truncation.rs"]
mod truncation;

use std::collections::{BTreeMap, BTreeSet};

use fleet::Fleet;
use foreign::{Chain, Foreign};
use schemas::wire::Reader;
use schemas::{Hash, Skip};
use serde_json::Value;

/// Records of a stream: each poison, between good ones.
struct Mixed {
    stream: &'static str,
    records: Vec<Vec<u8>>,
    /// Indexes of those that are no records.
    poison: BTreeSet<usize>,
}

impl Mixed {
    /// `good(n)` before, between and after `poison`.
    fn new(stream: &'static str, poison: Vec<Vec<u8>>, good: impl Fn(usize) -> Vec<u8>) -> Self {
        let mut mixed = Mixed { stream, records: vec![good(0)], poison: BTreeSet::new() };
        for (n, record) in poison.into_iter().enumerate() {
            mixed.poison.insert(mixed.records.len());
            mixed.records.extend([record, good(n + 1)]);
        }
        mixed
    }

    fn n_good(&self) -> usize {
        self.records.len() - self.poison.len()
    }

    /// Position and digest of each poison, given where the first record came to lie.
    fn refused(&self, offsets: &[u64]) -> BTreeSet<(String, u64, String)> {
        let digest = |idx: usize| Hash::of(&[&self.records[idx]]).to_digest();
        self.poison
            .iter()
            .map(|idx| (self.stream.to_owned(), offsets[*idx], digest(*idx)))
            .collect()
    }
}

#[test]
fn poison_stands_in_quarantine_and_everything_around_it_is_delivered() {
    let mut fleet = Fleet::start(bed::shared(), 2);
    let foreign = Foreign::new(bed::shared());
    let id = |n: usize| format!("good-{n}");
    let mut wrong = poison::wrong(&poison::change("never", String::new()));
    // Well formed, and more than an input may hold.
    wrong.push(poison::change("too-large", "x".repeat(300_000)));
    let inbox = Mixed::new("inbox", wrong, |n| poison::change(&id(n), String::new()));
    let control = Mixed::new("control", poison::wrong(&poison::freeze("never")), |n| {
        poison::freeze(&n.to_string())
    });
    let telemetry =
        Mixed::new("telemetry", poison::wrong(&poison::sample(0)), |n| poison::sample(n as u64));
    let mut refused = BTreeSet::new();
    for (mixed, topic) in
        [(&inbox, "inbox"), (&control, "inbox.control"), (&telemetry, "telemetry")]
    {
        foreign::take_back(bed::shared(), &fleet.topic(topic), b"taken back");
        let offsets = foreign.write(&fleet.topic(topic), &mixed.records);
        refused.extend(mixed.refused(&offsets));
    }
    fleet.acknowledged((0..inbox.n_good()).map(id));
    fleet.change(0, "after-0");
    fleet.change(1, "after-1");
    fleet.await_taken();
    fleet.eventually("every poison is refused by name", || {
        (refusals(&fleet) == refused).then_some(())
    });
    let ids = fleet.listed();
    let good: Vec<&String> = ids.iter().filter(|it| it.starts_with("good-")).collect();
    assert_eq!(good, (0..inbox.n_good()).map(id).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    assert_eq!(n_samples(&fleet), telemetry.n_good() as u64);
    assert_eq!(fleet.events("freeze.command.v1").len(), 1, "one signature, one command");
    let modes = fleet.events("mode.changed.v1");
    assert!(modes.iter().all(|it| it["payload"]["to"] == "normal"), "nobody froze it: {modes:?}");
    check_quarantine(&fleet, &[&inbox, &control, &telemetry]);
    // Who takes over folds all of it, too.
    let owner = fleet.owner();
    fleet.kill(owner);
    fleet.await_decision(1 - owner, "after-poison");
    fleet.restart(owner);
    fleet.check();
    fleet.check_typed_topic();
    fleet.verify_export();
}

/// Stream, position and digest of everything that was refused.
fn refusals(fleet: &Fleet) -> BTreeSet<(String, u64, String)> {
    let events = fleet.events("input.refused.v1");
    let text = |it: &Value, field: &str| it["payload"][field].as_str().unwrap().to_owned();
    let told = events.iter().map(|it| {
        assert!(!text(it, "reason").is_empty(), "{it}");
        (text(it, "stream"), it["payload"]["position"].as_u64().unwrap(), text(it, "digest"))
    });
    let refused: BTreeSet<_> = told.collect();
    assert_eq!(refused.len(), events.len(), "a record was refused twice");
    refused
}

/// Samples of all seals, which lie side by side.
fn n_samples(fleet: &Fleet) -> u64 {
    let mut next = None;
    let seals = fleet.events("telemetry.sealed.v1");
    let counted = seals.iter().map(|it| {
        let number = |field: &str| it["payload"][field].as_u64().unwrap();
        assert!(next.is_none_or(|next| next <= number("from")), "{seals:?}");
        next = Some(number("to"));
        number("n_samples")
    });
    counted.sum()
}

/// The topic of what was refused holds every poison with its reason; of one that is too large
/// for it, the beginning.
fn check_quarantine(fleet: &Fleet, streams: &[&Mixed]) {
    let mut kept = BTreeMap::new();
    for record in foreign::read(bed::shared(), &fleet.topic("quarantine")) {
        let mut reader = Reader::new("quarantined record", &record);
        reader.expect(b"HWQ\x01").unwrap();
        let reason = reader.text().unwrap().to_owned();
        kept.insert(reader.bytes().unwrap().to_vec(), reason);
    }
    for mixed in streams {
        for idx in &mixed.poison {
            let record = &mixed.records[*idx];
            let found = kept.iter().find(|(it, reason)| match it.len() == record.len() {
                true => *it == record,
                false => 800_000 < it.len() && record.starts_with(it) && reason.contains("first"),
            });
            assert!(found.is_some_and(|it| !it.1.is_empty()), "{}/{idx}", mixed.stream);
        }
    }
}

#[test]
fn a_record_that_does_not_link_is_skipped_by_everybody_whatever_it_claims() {
    let mut fleet = Fleet::start(bed::shared(), 2);
    let foreign = Foreign::new(bed::shared());
    let journal = fleet.topic("journal");
    let wanted = [Some(Skip::Signature), Some(Skip::Certificate), Some(Skip::Prev), None];
    let mut round = 0;
    // A forgery that names the head must be faster than the next tick.
    let skipped = fleet_rounds(&mut fleet, |fleet| {
        round += 1;
        fleet.change(round % 2, &format!("between-{round}"));
        let chain = Chain::read(bed::shared(), &journal);
        foreign.write(&journal, &poison::forgeries(&chain));
        let skipped = Chain::read(bed::shared(), &journal).skipped;
        wanted.iter().all(|it| skipped.contains(it)).then_some(skipped.len())
    });
    assert!(poison::forgeries(&Chain::read(bed::shared(), &journal)).len() <= skipped);
    fleet.change(0, "after-0");
    fleet.change(1, "after-1");
    fleet.await_taken();
    let elected = fleet.events("owner.elected.v1");
    assert!(elected.iter().all(|it| it["payload"]["node"] != "usurper"), "{elected:?}");
    // Nodes and commands count what an independent reader counts.
    let skipped = Chain::read(bed::shared(), &journal).skipped.len();
    for node in 0..2 {
        fleet.eventually("a node counts what it skipped", || {
            let line = format!("healwright_unlinked_total{{partition=\"0\"}} {skipped}\n");
            fleet.metrics(node).contains(&line).then_some(())
        });
    }
    assert_eq!(unlinked(&fleet.groups()), Some(skipped as u64), "{}", fleet.groups());
    fleet.check();
    fleet.verify_export();
}

/// Tries a round until it answers.
fn fleet_rounds<T>(fleet: &mut Fleet, mut round: impl FnMut(&mut Fleet) -> Option<T>) -> T {
    (0..50).find_map(|_| round(fleet)).expect("a forgery that names the head")
}

/// The number of unlinked records, wherever it stands in the answer.
fn unlinked(groups: &Value) -> Option<u64> {
    match groups {
        Value::Object(fields) => fields
            .get("unlinked")
            .and_then(Value::as_u64)
            .or_else(|| fields.values().find_map(unlinked)),
        Value::Array(items) => items.iter().find_map(unlinked),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
