//! Metrics and spans of the loop, from the journal: what is counted has happened, and is counted
//! once. Names are fixed (spec 90 §13, §14).

use metrics::{counter, gauge, histogram};
use schemas::event::{L3Outcome, Outcome};
use schemas::{Entry, Event, Kind};

use crate::engine::Handle;
use crate::follow::Follower;

/// The seven spans of the loop, by the entry that ends each.
const SPANS: &[(Kind, &str)] = &[
    (Kind::SloAnomalyDetected, "AVN.detect"),
    (Kind::RcaHypothesis, "RCA.infer"),
    (Kind::L1ConsensusResult, "L1.vote"),
    (Kind::L2ConsensusResult, "L2.vote"),
    (Kind::SandboxResult, "Sandbox.run"),
    (Kind::GovernanceDecision, "Governance.validate"),
    (Kind::DeployState, "Deploy.compare"),
];

/// Counts the whole journal, so that a restart loses no count; spans are told from now on.
pub fn follow(engine: &Handle) {
    let mut follower = Follower::from_zero(engine);
    let told_from = engine.follow().borrow().next_seq;
    tokio::spawn(async move {
        let mut votes = Votes::default();
        while let Some(batches) = follower.next().await {
            for entry in batches.iter().flat_map(|it| &it.entries) {
                if told_from <= entry.envelope.seq {
                    span(entry);
                }
                if let Ok(event) = entry.event() {
                    count(&event, &mut votes);
                }
            }
        }
    });
}

/// First-layer results so far.
#[derive(Default)]
struct Votes {
    n: u32,
    n_accepted: u32,
}

/// One trace per incident: the trace id stands in the envelope.
fn span(entry: &Entry) {
    let Some((_, name)) = SPANS.iter().find(|(kind, _)| *kind == entry.envelope.kind) else {
        return;
    };
    let envelope = &entry.envelope;
    tracing::info!(
        target: "healwright::trace",
        span = *name,
        trace_id = envelope.trace_id.as_deref().unwrap_or_default(),
        incident = envelope.correlation.as_deref().unwrap_or_default(),
        key = envelope.key,
        entry = envelope.reference(),
    );
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of all events only these are counted")]
fn count(event: &Event, votes: &mut Votes) {
    match event {
        Event::SloAnomalyDetected(it) => counter!(
            "avn_anomalies_total",
            "service" => it.service.clone(),
            "signal" => it.signal.as_str(),
            "severity" => it.severity.as_str()
        )
        .increment(1),
        Event::RcaHypothesis(it) => {
            histogram!("rca_confidence", "pattern" => it.pattern.as_str()).record(it.confidence);
        }
        Event::L1ConsensusResult(it) => {
            votes.n += 1;
            votes.n_accepted += u32::from(it.outcome == Outcome::Accept);
            gauge!("l1_accept_ratio").set(f64::from(votes.n_accepted) / f64::from(votes.n));
        }
        Event::L3ExecutionResult(it) => {
            let service = it.service.clone().unwrap_or_default();
            match it.outcome {
                L3Outcome::Promoted => {
                    counter!("deploy_promotions_total", "service" => service).increment(1);
                }
                L3Outcome::RolledBack => {
                    counter!("deploy_rollbacks_total", "service" => service).increment(1);
                }
                L3Outcome::Quarantined | L3Outcome::Rejected => {}
            }
        }
        Event::KpiTrustUpdate(it) => {
            gauge!("trust_score", "component" => it.component.clone()).set(it.after);
        }
        _ => {}
    }
}
