//! What is told, what is not told again, and what is given up.

#![allow(clippy::unwrap_used)]

use schemas::batch::Header;
use schemas::envelope::{Redaction, commitment};
use schemas::signature::KeyPair;
use schemas::{Cause, Envelope, Hash, Positions, Stream};
use serde_json::json;

use super::*;

const HOUR: u64 = 3600;

fn entry(seq: u64, actor: Actor, event: &Event) -> Entry {
    let payload = event.encode().unwrap();
    let salt = [0; 32];
    let envelope = Envelope {
        event_id: Uuid::named("a test", &[&seq.to_be_bytes()]),
        kind: event.kind(),
        partition: 0,
        seq,
        key: String::new(),
        tick: Ns(0),
        wall: Ns(0),
        actor,
        cause: Cause::Observed { stream: Stream::Inbox, position: seq },
        correlation: Some("inc-1".to_owned()),
        trace_id: None,
        priority: 5,
        ttl_ms: 0,
        redaction: Redaction::None,
        commitment: commitment(&salt, &payload),
    };
    Entry::new(envelope, salt, payload)
}

fn escalated(seq: u64) -> Entry {
    let body = json!({
        "escalation_id": Uuid::named("an escalation", &[&seq.to_be_bytes()]),
        "incident_id": "inc-1", "trigger_type": "", "level": 4, "reason": "class_timeout",
        "tried": [], "roles": [], "evidence_refs": [], "audit_log_id": "",
    });
    let event = Event::from_json(Kind::HealEscalated, &body.to_string()).unwrap();
    entry(seq, Actor::system("escalation"), &event)
}

/// A journal whose batches have an epoch, a second and entries.
#[derive(Default)]
struct Journal {
    untold: Untold,
    in_office: bool,
}

impl Journal {
    fn batch(&mut self, epoch: u64, second: u64, entries: Vec<Entry>) {
        let header = Header {
            deployment: "test".to_owned(),
            partition: 0,
            epoch,
            prev: Hash::default(),
            first_seq: 0,
            count: 0,
            positions: Positions::default(),
            wall: Ns::from_s(second),
            body: Hash::default(),
        };
        let key = KeyPair::from_seed(&[1; 32]);
        self.untold.fold(&Batch::sign(header, entries, &key));
        self.untold.settle(self.in_office);
    }

    /// Sequences that are told now, in their order, and what is recorded of each.
    fn told(&mut self, second: u64) -> Vec<(u64, Option<Outcome>)> {
        let mut told = Vec::new();
        while let Some(waiting) = self.untold.due(Ns::from_s(second)) {
            told.push((waiting.entry.envelope.seq, waiting.outcome));
            waiting.sent();
        }
        told
    }

    /// The record of the first one that is due.
    fn record(&mut self, outcome: Outcome) -> Input {
        self.untold.due(Ns(u64::MAX)).unwrap().record(outcome, Ns(0))
    }
}

#[test]
fn what_is_recorded_is_told_by_nobody_else() {
    let mut first = Journal::default();
    first.batch(1, 0, vec![escalated(1), escalated(2)]);
    let record = first.record(Outcome::Told);
    assert_eq!(record.correlation.as_deref(), Some("inc-1"));
    // Somebody else's note about it is no record.
    first.batch(1, 1, vec![entry(3, Actor::system("mode"), &record.event)]);
    first.batch(1, 2, vec![entry(4, record.actor, &record.event)]);
    first.batch(2, 3, Vec::new());
    assert_eq!(first.told(3), [(2, None)]);
    assert_eq!(first.told(9), [], "it is on its way into the journal");
}

#[test]
fn an_hour_begins_anew_when_somebody_takes_office() {
    let mut journal = Journal::default();
    journal.batch(1, 0, vec![escalated(1)]);
    // Nobody is in office for a day; then somebody is, and dies, and another one comes.
    journal.batch(2, 24 * HOUR, Vec::new());
    journal.batch(2, 25 * HOUR - 1, Vec::new());
    journal.batch(3, 25 * HOUR, Vec::new());
    assert_eq!(journal.told(25 * HOUR), [(1, None)]);
}

#[test]
fn what_had_its_hour_is_dropped_by_a_standby_and_given_up_in_office() {
    for in_office in [false, true] {
        let mut journal = Journal { in_office, ..Journal::default() };
        journal.batch(1, 0, vec![escalated(1)]);
        let waiting = journal.untold.due(Ns(0)).unwrap();
        waiting.failure = "webhook: nobody is there".to_owned();
        waiting.try_later(Ns(0));
        journal.batch(1, HOUR, Vec::new());
        let given_up = (1, Some(Outcome::GivenUp));
        let expected = if in_office { vec![given_up] } else { Vec::new() };
        if in_office {
            let record = journal.record(Outcome::GivenUp);
            let Event::AnnotationAdded(it) = record.event else { panic!("{record:?}") };
            assert_eq!(it.kind, AnnotationKind::Drop);
            assert_eq!(it.data, "given up after 1 tries in 1 h: webhook: nobody is there");
        }
        assert_eq!(journal.told(HOUR), expected);
        // A record that never arrives is not waited for without end.
        journal.batch(1, 2 * HOUR, Vec::new());
        assert_eq!(journal.untold.waiting.len(), 0);
    }
}

#[test]
fn pauses_grow_up_to_five_minutes_and_a_new_one_goes_before_what_failed() {
    let mut journal = Journal::default();
    journal.batch(1, 0, vec![escalated(1)]);
    let mut now = Ns(0);
    let mut pauses = Vec::new();
    for _ in 0..11 {
        journal.untold.due(now).unwrap().try_later(now);
        let pause = journal.untold.pause(now).unwrap();
        pauses.push(pause.as_secs());
        now = now + Ns(u64::try_from(pause.as_nanos()).unwrap());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    journal.batch(1, 1, vec![escalated(2)]);
    let second = now.0 / 1_000_000_000;
    assert_eq!(journal.told(second), [(2, None), (1, None)]);
}
