//! Blue/green rollouts: from an approved release to its commit or its way back (spec 60 §12–§18,
//! §20).
//!
//! ```text
//! plan ─► preflight ─► apply ─► shadow ─► canary per ring ─► verify ─► commit
//!   │         │          └────────┴──────────┴────────────────┴─► rollback ─► rolled_back
//!   └─────────┴─► rejected: nothing was applied
//! ```
//!
//! An operator may take a running rollout back at any moment before its commit (`abort`).
//!
//! One `deploy.state` for each step, with what was measured and a sentence why; one
//! `l3.execution.result` at the end. The new version lives in the idle slot and serves users
//! only by rings, after its mirrored answers have been compared; what ran before stays ready
//! until the commit.
//!
//! Deliberately absent: whether a release may be rolled out at all (governance), what a request
//! does on a host (the runner), the incident around a rolled-back release (incidents).
//!
//! Invariants:
//! - No evidence is not good evidence: silence extends a stage once and then rolls back.
//! - A service has at most one rollout, and a rollout at most one request in flight.
//! - Only the answer to the request in flight, signed by the host's runner, moves a rollout;
//!   late, repeated and foreign answers change nothing.
//! - It is rolled back only when the runner has proven by digest and probe that what ran before
//!   runs again.
//! - What a fold said never comes from outside: decisions count only from their processor.

mod abort;
mod gate;
mod history;
mod judge;
mod measure;
mod rollout;
mod stage;
mod turn;
mod words;

#[cfg(test)]
mod tests;

use schemas::event::{
    Check, Decision, DeployPhase, DeployState, GovernanceDecision, L3ExecutionResult, L3Outcome,
    ReleaseRequested,
};
use schemas::{Event, Kind, Ns, Uuid};

pub use history::{Denial, committed, denial, denial_id, is_denied, releases, was_committed};
pub use turn::longest;
pub use words::bars;

use crate::config::{self, Release, Service};
use crate::fold::{Folded, Output, Processor, View};
use crate::{mode, said};
use gate::Gate;
use rollout::{Rollout, Step};
use turn::{Turn, back_by, rings};

/// Persisted in causes and state keys: frozen.
const NAME: &str = "deployment";

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: NAME,
    reads: &[
        Kind::TelemetrySealed,
        Kind::ReleaseRequested,
        Kind::SloAnomalyDetected,
        Kind::GovernanceDecision,
        Kind::ApprovalGiven,
        Kind::RunnerRequest,
        Kind::RunnerResult,
        Kind::DeployState,
        Kind::ModeChanged,
    ],
    says: &[
        Kind::DeployState,
        Kind::RunnerRequest,
        Kind::SandboxResult,
        Kind::L3ExecutionResult,
        Kind::AnnotationAdded,
    ],
    step,
};

/// The id under which governance decides on a release request that stands at `seq`.
pub fn proposal_id(request: &ReleaseRequested, seq: u64) -> Uuid {
    let name: [&[u8]; 3] =
        [request.service.as_bytes(), request.digest.as_bytes(), &seq.to_be_bytes()];
    Uuid::named("healwright/release/v1", &name)
}

/// Whether a rollout of `service` is under way.
pub fn running(view: &View<'_>, service: &str) -> bool {
    rollout::load(view, service).is_some()
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let now = entry.now();
    if let Some(service) = entry.due {
        return judge::due(view, now, service);
    }
    if let Event::TelemetrySealed(_) = entry.event {
        return judge::sealed(view, now, entry.samples);
    }
    if let Event::RunnerResult(result) = entry.event {
        return judge::answered(view, now, result);
    }
    if let Event::ReleaseRequested(request) = entry.event {
        if request.is_abort() {
            let said = abort::take_back(view, now, request);
            return said.unwrap_or_else(|why| vec![said::refusal(entry, NAME, why)]);
        }
        view.save(&requested_key(proposal_id(request, entry.envelope.seq)), request);
    }
    if let Event::ApprovalGiven(approval) = entry.event {
        let refused = history::clear(view, approval, now).and_then(Result::err);
        return refused.into_iter().map(|why| said::refusal(entry, NAME, why)).collect();
    }
    overheard(view, entry)
}

/// What other processors said, and what this one did. The same words from outside count nothing.
#[expect(clippy::wildcard_enum_match_arm, reason = "the guards leave every kind over")]
fn overheard(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let now = entry.now();
    match entry.event {
        Event::GovernanceDecision(it) if said::by(entry, "governance") => decided(view, entry, it),
        Event::DeployState(it) if said::by(entry, NAME) => ended(view, entry, it),
        Event::ModeChanged(it) if said::by(entry, "mode") => judge::mode_changed(view, now, it),
        Event::SloAnomalyDetected(it) if said::by(entry, "detection") => {
            judge::anomaly(view, now, it)
        }
        Event::RunnerRequest(it) if said::by(entry, "execution") => {
            history::note_return(view, it);
            Vec::new()
        }
        _ => Vec::new(),
    }
}

fn requested_key(id: Uuid) -> String {
    format!("requested/{id}")
}

/// Governance has answered a release request.
fn decided(view: &mut View<'_>, entry: &Folded<'_>, decision: &GovernanceDecision) -> Vec<Output> {
    let key = requested_key(decision.proposal_id);
    let Some(request) = view.load::<ReleaseRequested>(&key) else { return Vec::new() };
    match decision.decision {
        Decision::NeedsReview => Vec::new(),
        Decision::Rejected => {
            view.remove(&key);
            Vec::new()
        }
        Decision::Approved => {
            view.remove(&key);
            begin(view, entry, decision, &request)
        }
    }
}

fn begin(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    decision: &GovernanceDecision,
    request: &ReleaseRequested,
) -> Vec<Output> {
    let service = config::service(view, &request.service);
    let refused = may_begin(view, entry.now(), decision, request, service.as_ref()).err();
    let rollout = planned(view, entry, decision, request, &service.unwrap_or_default());
    let mut turn = Turn::new(view, entry.now(), rollout);
    match refused {
        Some(why) => turn.reject(why),
        None => turn.plan(),
    }
    turn.end()
}

/// Governance has asked most of this; the fold that acts asks again, because between the two a
/// freeze, a denial or another release may stand.
fn may_begin(
    view: &View<'_>,
    now: Ns,
    decision: &GovernanceDecision,
    request: &ReleaseRequested,
    service: Option<&Service>,
) -> Result<(), String> {
    let name = &request.service;
    let service = service.ok_or_else(|| format!("{name} is no service under care"))?;
    mode::allows_action(view)?;
    if decision.expires_at.is_some_and(|it| it <= now) {
        return Err("the decision that allowed it has expired".to_owned());
    }
    if request.strategy != "blue_green" {
        return Err(format!("there is no strategy {:?}, only blue_green", request.strategy));
    }
    if service.proxy.is_empty() {
        return Err(format!("{name} has no proxy, and without one there is no second slot"));
    }
    if let Some(other) = rollout::load(view, name) {
        return Err(format!("{} is being rolled out on {name}", other.release.version));
    }
    if let Some(denial) = denial(view, name, &request.digest) {
        return Err(format!("{} is barred: {}", request.digest, denial.reason));
    }
    committed(view, name)
        .map(|_| ())
        .ok_or_else(|| format!("no release of {name} was ever committed: there is no way back"))
}

fn planned(
    view: &View<'_>,
    entry: &Folded<'_>,
    decision: &GovernanceDecision,
    request: &ReleaseRequested,
    service: &Service,
) -> Rollout {
    let slot = if history::live_slot(view, &request.service) == "green" { "blue" } else { "green" };
    let version = request
        .version
        .clone()
        .unwrap_or_else(|| request.artifact_ref.rsplit('/').next().unwrap_or_default().to_owned());
    let digest = request.digest.clone();
    Rollout {
        id: Uuid::named("healwright/deployment/v1", &[&decision.proposal_id.0]),
        proposal_id: decision.proposal_id,
        service: request.service.clone(),
        host: service.host.clone(),
        back_to: committed(view, &request.service).unwrap_or_default(),
        back_by: decision.expires_at.map(|it| back_by(entry.now(), it)),
        approvals: vec![entry.reference()],
        plan_digest: decision.plan_digest.clone().unwrap_or_else(|| digest.clone()),
        release: Release { version, digest, artifact_ref: request.artifact_ref.clone() },
        step: Step::Preflight,
        slot: slot.to_owned(),
        ring_idx: 0,
        ring_pct: 0,
        stage: stage::Stage::default(),
        totals: stage::Totals::default(),
        // The shadow, and each ring; the last of them is the verification.
        gate: Gate::new(1 + rings(&config::profile(view)).len() as u32),
        pending: None,
        sandbox: Check::not_applicable("no preflight was run"),
        decided_at: None,
        rollback_ms: None,
        n_rollbacks: 0,
        retry_at: None,
        is_denied: false,
        reason: String::new(),
        ended_as: None,
    }
}

/// The last `deploy.state` of a rollout stands in the journal: its result names that entry.
fn ended(view: &mut View<'_>, entry: &Folded<'_>, state: &DeployState) -> Vec<Output> {
    let Some(rollout) = rollout::retired(view, state.deployment_id, state.state) else {
        return Vec::new();
    };
    let outcome = match state.state {
        DeployPhase::Commit => L3Outcome::Promoted,
        DeployPhase::RolledBack => L3Outcome::RolledBack,
        DeployPhase::Rejected => L3Outcome::Rejected,
        DeployPhase::Plan
        | DeployPhase::Preflight
        | DeployPhase::Apply
        | DeployPhase::Shadow
        | DeployPhase::Canary
        | DeployPhase::Verify
        | DeployPhase::Rollback => L3Outcome::Quarantined,
    };
    let result = L3ExecutionResult {
        proposal_id: rollout.proposal_id,
        sandbox: rollout.sandbox,
        governance_ref: rollout.approvals.first().cloned().unwrap_or_default(),
        deploy_ref: entry.reference(),
        shadow_deltas: state.deltas.clone(),
        rollback_ms: rollout.rollback_ms,
        outcome,
        kpi_ref: String::new(),
        reason: Some(rollout.reason),
        service: Some(rollout.service),
    };
    vec![Output::new(rollout.proposal_id.to_string(), result)]
}
