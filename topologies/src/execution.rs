//! Execution: from an accepted proposal to a validated repair (spec 50 §4, spec 40 §8).
//!
//! It asks for the sandbox run, says the one mutating request of an approved proposal, and judges
//! what came of it by the service's health, never by the runner's word. It deliberately holds no
//! policy: that a request may be said was decided before, and the runner verifies it again.
//!
//! Invariants:
//! - A proposal has at most one mutating request, said only under a mode that allows it.
//! - Every proposal that was voted on ends in one `l3.execution.result`, or stands open as
//!   unknown, which is said; an unknown one ends when the service is well.
//! - Only the asked host's signed answer counts; any other changes nothing and is said (C12).

mod answer;
mod request;
mod validate;

use schemas::event::{
    Check, Decision, GovernanceDecision, Health, L3ExecutionResult, L3Outcome, Outcome,
    RemediationProposed, Strategy,
};
use schemas::{Event, Kind, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, Output, Processor, View};
use crate::proposals::{self, Case};
use crate::{config, consensus, detection, governance, said};

pub use answer::refused;

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "execution",
    reads: &[
        Kind::SloAnomalyDetected,
        Kind::RemediationProposed,
        Kind::L1ConsensusResult,
        Kind::L2ConsensusResult,
        Kind::GovernanceDecision,
        Kind::RunnerResult,
    ],
    says: &[
        Kind::RunnerRequest,
        Kind::SandboxResult,
        Kind::L3ExecutionResult,
        Kind::AnnotationAdded,
    ],
    step,
};

/// Where a proposal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The runner was asked to try it in the sandbox.
    Sandbox,
    /// Policy, or a person, decides.
    Decision,
    /// The runner was asked to do it.
    Running,
    /// It was done; the service's health judges it.
    Validating,
    /// Whether it was done is not known; the attempt stays open until the service is well.
    Unknown,
}

/// A proposal on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The proposal.
    pub proposal_id: Uuid,
    /// Service concerned.
    pub service: String,
    /// Host whose runner acts.
    pub host: String,
    /// Where it is.
    pub stage: Stage,
    /// When it was said that it may be done; zero before.
    pub asked_at: Ns,
    /// Mode epoch under which that was said.
    mode_epoch: u64,
    /// When the runner answered; zero before.
    answered_at: Ns,
    /// The entry of that answer, empty before.
    answer_ref: String,
    /// What the sandbox came to.
    sandbox: Check,
    /// Entry of the decision, empty before.
    governance_ref: String,
}

/// The proposal with that id, while it is on its way.
pub fn run(view: &View<'_>, proposal_id: Uuid) -> Option<Run> {
    view.peek(PROCESSOR.name, &run_key(proposal_id))
}

fn run_key(proposal_id: Uuid) -> String {
    format!("run/{proposal_id}")
}

fn runs(view: &View<'_>) -> Vec<Run> {
    view.list("run/").into_iter().map(|(_, it)| it).collect()
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        return due(view, entry, key);
    }
    if let Event::RunnerResult(result) = entry.event {
        return answer::take(view, entry, result);
    }
    if let Event::SloAnomalyDetected(anomaly) = entry.event {
        let green = anomaly.health_to == Health::Green;
        if green && said::by(entry, detection::PROCESSOR.name) {
            return validate::well_again(view, entry, &anomaly.service);
        }
    } else if let Event::GovernanceDecision(decision) = entry.event {
        if said::by(entry, governance::PROCESSOR.name) {
            return decided(view, entry, decision);
        }
    } else if said::by(entry, proposals::PROCESSOR.name) {
        if let Event::RemediationProposed(proposal) = entry.event {
            return proposed(view, entry, proposal).into_iter().collect();
        }
    } else if said::by(entry, consensus::PROCESSOR.name) {
        return voted(view, entry);
    }
    Vec::new()
}

/// "None is safe" ends where it began.
fn proposed(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    proposal: &RemediationProposed,
) -> Option<Output> {
    if proposal.rank != 1 || proposal.strategy != Strategy::Escalate {
        return None;
    }
    let ruled_out = proposal.parameters.get("ruled_out").cloned().unwrap_or_default();
    refuse(view, entry, proposal.proposal_id, format!("none is safe: {ruled_out}"))
}

/// A layer that does not accept ends the proposal; after both, it is tried.
fn voted(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let (proposal_id, layer, outcome) = if let Event::L1ConsensusResult(it) = entry.event {
        (it.proposal_id, "first", it.outcome)
    } else if let Event::L2ConsensusResult(it) = entry.event {
        if it.outcome == Outcome::Accept {
            return request::preflight(view, entry, it.proposal_id);
        }
        (it.proposal_id, "second", it.outcome)
    } else {
        return Vec::new();
    };
    if outcome == Outcome::Accept {
        return Vec::new();
    }
    let why = format!("the {layer} layer came to {outcome}");
    refuse(view, entry, proposal_id, why).into_iter().collect()
}

fn due(view: &mut View<'_>, entry: &Folded<'_>, key: &str) -> Vec<Output> {
    if !key.starts_with("run/") {
        view.remove(key);
        return Vec::new();
    }
    let Some(run) = view.load::<Run>(key) else { return Vec::new() };
    match run.stage {
        Stage::Sandbox => answer::no_sandbox_answer(view, entry, run),
        Stage::Running => answer::no_answer(view, entry, run),
        Stage::Validating => validate::look(view, entry, &run),
        Stage::Decision | Stage::Unknown => Vec::new(),
    }
}

fn decided(view: &mut View<'_>, entry: &Folded<'_>, decision: &GovernanceDecision) -> Vec<Output> {
    let waiting = run(view, decision.proposal_id).filter(|it| it.stage == Stage::Decision);
    let Some(mut run) = waiting else { return Vec::new() };
    run.governance_ref = entry.reference();
    match decision.decision {
        Decision::NeedsReview => Vec::new(),
        Decision::Rejected => {
            let why = format!("policy rejected it: {}", decision.failure_modes.join("; "));
            vec![end(view, entry, &run, L3Outcome::Rejected, why)]
        }
        Decision::Approved => request::act(view, entry, run, decision),
    }
}

/// Ends a proposal that never got as far as a run.
fn refuse(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    proposal_id: Uuid,
    why: String,
) -> Option<Output> {
    let case = proposals::case(view, proposal_id)?;
    let run = begun(view, &case);
    Some(end(view, entry, &run, L3Outcome::Rejected, why))
}

fn begun(view: &View<'_>, case: &Case) -> Run {
    let service = case.raised.service.clone();
    Run {
        proposal_id: case.proposal.proposal_id,
        host: config::service(view, &service).unwrap_or_default().host,
        service,
        stage: Stage::Decision,
        asked_at: Ns(0),
        mode_epoch: 0,
        answered_at: Ns(0),
        answer_ref: String::new(),
        sandbox: Check::not_applicable("nothing new is built"),
        governance_ref: String::new(),
    }
}

/// Says the outcome, which is final.
fn end(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    run: &Run,
    outcome: L3Outcome,
    why: String,
) -> Output {
    let key = run_key(run.proposal_id);
    view.remove(&key);
    view.unwake(&key);
    validate::forget(view, run.proposal_id);
    let incident = proposals::case(view, run.proposal_id).map(|it| it.raised.incident_id);
    let asked = (run.asked_at > Ns(0)).then(|| entry.now().since(run.asked_at).as_s());
    let result = L3ExecutionResult {
        proposal_id: run.proposal_id,
        sandbox: run.sandbox.clone(),
        governance_ref: run.governance_ref.clone(),
        // A repair has no deployment; the runner's answer stands in its place, and where there
        // is none nothing is known to have run.
        deploy_ref: run.answer_ref.clone(),
        shadow_deltas: asked.map(|it| ("repair_s".to_owned(), it)).into_iter().collect(),
        rollback_ms: None,
        outcome,
        kpi_ref: String::new(),
        reason: Some(why),
        service: Some(run.service.clone()),
    };
    Output::new(run.proposal_id.to_string(), result).of_incident(incident)
}
