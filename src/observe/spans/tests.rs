//! The spans as a collector sees them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use expect_test::{Expect, expect};
use schemas::envelope::Redaction;
use schemas::{Actor, Hash, Kind, Stream, Uuid};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use super::*;

/// Keeps each span as `parent > name field=value …`, and notes when it closes.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<String>>>);

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let parent = span.parent().map_or("-", |it| it.name());
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        fields.0.retain(|name, value| *name != "outcome" && !value.is_empty());
        let fields = fields.0.iter().map(|(name, value)| format!("{name}={value}"));
        let fields = fields.collect::<Vec<_>>().join(" ");
        self.0.lock().unwrap().push(format!("{parent} > {} {fields}", span.name()));
    }
    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let name = context.span(&id).unwrap().name();
        if name == "incident" {
            self.0.lock().unwrap().push("incident closed".to_owned());
        }
    }
}

/// What a collector gets from these batches of entries.
fn collected(batches: &[&[(Envelope, Event)]]) -> String {
    let collector = Collector::default();
    let subscriber = tracing_subscriber::registry().with(collector.clone());
    tracing::subscriber::with_default(subscriber, || {
        let mut spans = Spans::default();
        for batch in batches {
            batch.iter().for_each(|(envelope, event)| spans.tell(envelope, event));
            spans.rest();
        }
    });
    collector.0.lock().unwrap().iter().map(|it| format!("{it}\n")).collect()
}

fn check(batches: &[&[(Envelope, Event)]], told: &Expect) {
    told.assert_eq(&collected(batches));
}

/// Entry `seq`, said at second `seq`, derived from the one before.
fn entry(seq: u64, incident: &str, kind: Kind, body: &Value) -> (Envelope, Event) {
    let event = Event::from_json(kind, &body.to_string()).unwrap();
    let cause = match seq {
        1 => Cause::Observed { stream: Stream::Telemetry, position: 0 },
        _ => Cause::Derived { by: "it".to_owned(), from: seq - 1, ordinal: 0 },
    };
    let envelope = Envelope {
        event_id: Uuid::default(),
        kind,
        partition: 0,
        seq,
        key: "shop".to_owned(),
        tick: Ns::from_s(seq),
        wall: Ns::from_s(seq),
        actor: Actor::system("it"),
        cause,
        correlation: (!incident.is_empty()).then(|| incident.to_owned()),
        trace_id: (!incident.is_empty()).then(|| "0af7".to_owned()),
        priority: 5,
        ttl_ms: 0,
        redaction: Redaction::None,
        commitment: Hash::default(),
    };
    (envelope, event)
}

fn anomaly(seq: u64, to: &str) -> (Envelope, Event) {
    let body = json!({
        "anomaly_id": Uuid::default(), "service": "shop", "signal": "error_rate", "observed": 0.2,
        "threshold": 0.1, "window_s": 5, "severity": "critical", "health_from": "green",
        "health_to": to, "detector": "slo_burn", "fallback": false, "evidence_refs": [],
    });
    entry(seq, "", Kind::SloAnomalyDetected, &body)
}

fn incident(seq: u64, status: &str) -> (Envelope, Event) {
    let body = json!({
        "incident_id": "inc-1", "severity": "critical", "type": "service_anomaly",
        "summary": "shop: errors", "detected_at": Ns::from_s(2), "resolved_at": null,
        "status": status, "actions_taken": [], "coherence_score_at_detection": null,
        "coherence_score_at_resolution": null, "change": "opened", "service": "shop",
    });
    entry(seq, "inc-1", Kind::IncidentChanged, &body)
}

fn deploy(seq: u64) -> (Envelope, Event) {
    let body = json!({
        "deployment_id": Uuid::default(), "service": "shop", "state": "rolled_back",
        "slot": "green", "ring_pct": 0, "deltas": {}, "slo_burn": 0.0, "reason": "it was bad",
    });
    entry(seq, "", Kind::DeployState, &body)
}

/// The whole loop on one incident, in the order in which it is journaled.
fn healed() -> Vec<(Envelope, Event)> {
    let id = Uuid::named("a proposal", &[]);
    let none = json!({ "status": "not_applicable", "detail": "" });
    let of = |seq, kind, body| entry(seq, "inc-1", kind, &body);
    let hypothesis = json!({
        "hypothesis_id": id, "anomaly_ids": [], "failure_class": 2, "pattern": "code_bugs",
        "confidence": 0.9, "evidence_refs": ["a"], "causal_chain": [], "counterfactuals": [],
        "explanation_nl": "it is so",
        "impact": { "severity": "critical", "urgency": 7, "blast_radius": 1 },
    });
    let first = json!({
        "proposal_id": id, "file_refs": [], "artifact_refs": [], "votes": [], "outcome": "accept",
        "checks": { "unit": none, "lint": none, "sast": none, "dep_scan": none,
                    "invariants": none },
        "quorum_rule": "all",
    });
    let second = json!({
        "proposal_id": id, "integration": none, "chaos": none, "perf_budget": none,
        "compliance_veto": none, "fitness_ref": "", "outcome": "accept",
    });
    let preflight =
        json!({ "proposal_id": id, "checks": {}, "sandbox_kind": "bwrap", "digest": "" });
    let decision = json!({
        "decision_id": id, "proposal_id": id, "decision": "approved", "failure_modes": [],
        "reasons": [], "policy_version": 1, "quorum_type": "unattended", "ballots": [],
        "compliance_score": 1.0, "cache_used": false, "ratified_by": null, "expires_at": null,
    });
    vec![
        anomaly(1, "red"),
        incident(2, "open"),
        of(3, Kind::RcaHypothesis, hypothesis),
        of(4, Kind::L1ConsensusResult, first),
        of(5, Kind::L2ConsensusResult, second),
        of(6, Kind::SandboxResult, preflight),
        of(7, Kind::GovernanceDecision, decision),
        deploy(8),
        incident(9, "resolved"),
    ]
}

#[test]
fn an_incident_is_one_trace_of_the_seven_spans_in_order() {
    let healed = healed();
    let told = collected(&[&healed]);
    let names: Vec<&str> =
        told.lines().filter_map(|it| it.strip_prefix("incident > ")?.split(' ').next()).collect();
    assert_eq!(names, SPANS);
    check(
        &[&healed[..2], &healed[2..]],
        &expect![[r#"
            - > incident entry=immutable:log:0/2 incident=inc-1 trace_id=0af7
            incident > AVN.detect end_ns=1000000000 entry=immutable:log:0/1 incident=inc-1 start_ns=1000000000 trace_id=0af7
            incident > RCA.infer end_ns=3000000000 entry=immutable:log:0/3 incident=inc-1 start_ns=2000000000 trace_id=0af7
            incident > L1.vote end_ns=4000000000 entry=immutable:log:0/4 incident=inc-1 proposal=21a21325-c2f3-836e-97fc-b27aa05c4f8e start_ns=3000000000 trace_id=0af7
            incident > L2.vote end_ns=5000000000 entry=immutable:log:0/5 incident=inc-1 proposal=21a21325-c2f3-836e-97fc-b27aa05c4f8e start_ns=4000000000 trace_id=0af7
            incident > Sandbox.run end_ns=6000000000 entry=immutable:log:0/6 incident=inc-1 proposal=21a21325-c2f3-836e-97fc-b27aa05c4f8e start_ns=5000000000 trace_id=0af7
            incident > Governance.validate end_ns=7000000000 entry=immutable:log:0/7 incident=inc-1 proposal=21a21325-c2f3-836e-97fc-b27aa05c4f8e start_ns=6000000000 trace_id=0af7
            incident > Deploy.compare end_ns=8000000000 entry=immutable:log:0/8 incident=inc-1 start_ns=7000000000 trace_id=0af7
            incident closed
        "#]],
    );
}

#[test]
fn what_no_incident_was_opened_for_is_a_trace_of_its_own() {
    check(
        &[&[anomaly(1, "amber")], &[deploy(2)]],
        &expect![[r#"
            - > AVN.detect end_ns=1000000000 entry=immutable:log:0/1 start_ns=1000000000
            - > Deploy.compare end_ns=2000000000 entry=immutable:log:0/2 start_ns=1000000000
        "#]],
    );
}

#[test]
fn what_is_kept_of_traces_that_never_end_is_bounded() {
    let mut spans = Spans::default();
    for seq in 0..(2 * BEGUN_MAX as u64) {
        let (mut envelope, event) = incident(seq + 2, "open");
        let Event::IncidentChanged(mut it) = event else { continue };
        it.incident_id = format!("inc-{seq}");
        envelope.correlation = Some(it.incident_id.clone());
        spans.tell(&envelope, &it.into());
        spans.rest();
    }
    assert_eq!((spans.open.len(), spans.begun.len()), (OPEN_MAX, BEGUN_MAX));
}
