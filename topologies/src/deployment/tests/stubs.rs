//! What other processors would say, at a word from a test.

use schemas::event::{
    Decision, GovernanceDecision, Health, Preflight, Rollback, RunnerRequest, Severity, Sign,
    Signal, SloAnomalyDetected,
};
use schemas::{Event, Kind, Uuid};

use super::world::GOOD;
use crate::config;
use crate::deployment::{longest, proposal_id};
use crate::fold::{Folded, Output, Processor, View};

/// Approves every release, as governance does after an operator's signature.
pub(super) const GOVERNANCE: Processor = Processor {
    name: "governance",
    reads: &[Kind::ReleaseRequested],
    says: &[Kind::GovernanceDecision],
    step: approve,
};

fn approve(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let Event::ReleaseRequested(request) = entry.event else { return Vec::new() };
    if request.is_abort() {
        return Vec::new();
    }
    let proposal_id = proposal_id(request, entry.envelope.seq);
    let decision = GovernanceDecision {
        decision_id: proposal_id,
        proposal_id,
        decision: Decision::Approved,
        failure_modes: Vec::new(),
        reasons: Vec::new(),
        policy_version: 1,
        quorum_type: "operator".to_owned(),
        ballots: Vec::new(),
        compliance_score: 1.0,
        cache_used: false,
        ratified_by: None,
        expires_at: Some(entry.now() + longest(&config::profile(view))),
        plan_digest: Some(request.digest.clone()),
    };
    vec![Output::new(proposal_id.to_string(), decision)]
}

/// Calls the service red when a change says `burns`.
pub(super) const DETECTION: Processor = Processor {
    name: "detection",
    reads: &[Kind::ChangeObserved],
    says: &[Kind::SloAnomalyDetected],
    step: |_, entry| {
        let Event::ChangeObserved(change) = entry.event else { return Vec::new() };
        let burns = change.summary == "burns";
        burns.then(|| Output::new("shop", burning())).into_iter().collect()
    },
};

pub(super) fn burning() -> SloAnomalyDetected {
    SloAnomalyDetected {
        anomaly_id: Uuid::default(),
        service: "shop".to_owned(),
        signal: Signal::ErrorRate,
        observed: 0.31,
        threshold: 0.10,
        window_s: 5,
        severity: Severity::Critical,
        health_from: Health::Green,
        health_to: Health::Red,
        detector: "test".to_owned(),
        fallback: false,
        evidence_refs: Vec::new(),
    }
}

/// Returns the service to the artifact that a change names when it says `returns`.
pub(super) const EXECUTION: Processor = Processor {
    name: "execution",
    reads: &[Kind::ChangeObserved],
    says: &[Kind::RunnerRequest],
    step: |_, entry| {
        let Event::ChangeObserved(change) = entry.event else { return Vec::new() };
        let returns = change.summary == "returns";
        returns.then(|| Output::new("h", returning(&change.reference))).into_iter().collect()
    },
};

fn returning(artifact: &str) -> RunnerRequest {
    RunnerRequest {
        id: crate::testing::id("a remediation"),
        artifact_ref: artifact.to_owned(),
        ops: vec!["rollback:shop".to_owned()],
        preflight: Preflight { sandbox: false, tests: Vec::new() },
        rollback: Rollback { artifact: artifact.to_owned() },
        sign: Sign { algo: "ed25519-manifest".to_owned(), digest: GOOD.to_owned() },
        binding: None,
    }
}
