//! Proposals: a fired trigger becomes one to three ranked repairs, or an explicit "none is
//! safe" (spec 40 §7).
//!
//! It deliberately neither votes nor runs anything. It keeps each proposal while it is open, and
//! when a service last changed, because most failures follow a change.

use schemas::event::{
    ActionImpact, DeployPhase, HealTriggerEvaluated, RemediationProposed, Strategy, TriggerVerdict,
};
use schemas::{Event, Kind, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::config::{self, Service};
use crate::fold::{Folded, Output, Processor, View};
use crate::playbooks::{self, Playbook};
use crate::triggers::{self, Raised};
use crate::{deployment, said};

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "proposals",
    reads: &[Kind::HealTriggerEvaluated, Kind::DeployState, Kind::L3ExecutionResult],
    says: &[Kind::RemediationProposed],
    step,
};

/// Ranked proposals for one hypothesis.
const PROPOSALS_MAX: usize = 3;
/// A closed proposal is kept this long, so that what speaks of it late is still understood.
pub(crate) const KEPT_AFTER: Ns = Ns::from_s(24 * 3600);

/// A proposal and the cause behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// As it was said.
    pub proposal: RemediationProposed,
    /// What it answers.
    pub raised: Raised,
}

/// The proposal with that id.
pub fn case(view: &View<'_>, proposal_id: Uuid) -> Option<Case> {
    view.peek(PROCESSOR.name, &format!("case/{proposal_id}"))
}

/// When a rollout on `service` was last committed.
pub fn changed_at(view: &View<'_>, service: &str) -> Option<Ns> {
    view.peek(PROCESSOR.name, &format!("changed/{service}"))
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        view.remove(key);
    } else if let Event::HealTriggerEvaluated(evaluated) = entry.event {
        if evaluated.verdict == TriggerVerdict::Fired && said::by(entry, triggers::PROCESSOR.name) {
            return propose(view, entry, evaluated);
        }
    } else if let Event::L3ExecutionResult(result) = entry.event {
        if case(view, result.proposal_id).is_some() {
            view.wake(&format!("case/{}", result.proposal_id), entry.now() + KEPT_AFTER);
        }
    } else if let Event::DeployState(state) = entry.event
        && state.state == DeployPhase::Commit
        && said::by(entry, deployment::PROCESSOR.name)
    {
        view.save(&format!("changed/{}", state.service), &entry.now());
    }
    Vec::new()
}

fn propose(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    evaluated: &HealTriggerEvaluated,
) -> Vec<Output> {
    let Some(open) = triggers::open(view, evaluated.attempt_id) else { return Vec::new() };
    let service = config::service(view, &open.raised.service).unwrap_or_default();
    let (mut found, ruled_out) =
        playbooks::candidates(view, entry.now(), &service, open.raised.pattern);
    // The permit is of one type, so the playbook of that type goes first.
    found.sort_by_key(|it| it.name != evaluated.trigger_type);
    if found.first().is_none_or(|it| it.name != evaluated.trigger_type) {
        let none = none_is_safe(&open, &ruled_out);
        return vec![keep(view, entry.now(), &open.raised, none)];
    }
    let ranked = found.into_iter().take(PROPOSALS_MAX).zip(1..);
    let proposals: Vec<RemediationProposed> = ranked
        .filter_map(|(playbook, rank)| proposal(view, &open, &service, playbook, rank))
        .collect();
    let said =
        proposals.into_iter().map(|proposal| keep(view, entry.now(), &open.raised, proposal));
    said.collect()
}

fn keep(
    view: &mut View<'_>,
    now: Ns,
    raised: &Raised,
    mut proposal: RemediationProposed,
) -> Output {
    proposal.plan_digest = Some(proposal.plan_digest_of());
    let case = Case { proposal, raised: raised.clone() };
    let key = case.proposal.proposal_id.to_string();
    view.save(&format!("case/{key}"), &case);
    // Only the first goes on to an outcome; the others are there to be read.
    if case.proposal.rank > 1 {
        view.wake(&format!("case/{key}"), now + KEPT_AFTER);
    }
    Output::new(key, case.proposal).of_incident(raised.incident_id.clone())
}

fn proposal(
    view: &View<'_>,
    open: &triggers::Open,
    service: &Service,
    playbook: &Playbook,
    rank: u8,
) -> Option<RemediationProposed> {
    let plan = playbook.plan(view, service).ok()?;
    Some(RemediationProposed {
        proposal_id: id(open.attempt_id, playbook.name),
        incident_id: open.raised.incident_id.clone(),
        hypothesis_id: open.raised.hypothesis_id,
        rank,
        strategy: playbook.strategy,
        playbook: playbook.name.to_owned(),
        artifact_ref: plan.artifact_ref,
        ops: plan.ops,
        rollback: plan.rollback,
        blast_radius: playbooks::blast_radius(view, &service.name),
        impact: playbook.impact,
        confidence: open.raised.confidence * playbook.carries(open.raised.pattern),
        parameters: plan.parameters,
        service: Some(service.name.clone()),
        plan_digest: None,
        attempt_id: Some(open.attempt_id),
    })
}

/// The explicit answer where no playbook's preconditions hold any more.
fn none_is_safe(open: &triggers::Open, ruled_out: &[String]) -> RemediationProposed {
    let parameters = [("ruled_out".to_owned(), ruled_out.join("; "))];
    RemediationProposed {
        proposal_id: id(open.attempt_id, "none"),
        incident_id: open.raised.incident_id.clone(),
        hypothesis_id: open.raised.hypothesis_id,
        rank: 1,
        strategy: Strategy::Escalate,
        playbook: "none".to_owned(),
        artifact_ref: String::new(),
        ops: Vec::new(),
        rollback: "nothing is done, so there is nothing to undo".to_owned(),
        blast_radius: 0,
        impact: ActionImpact::High,
        confidence: 0.0,
        parameters: parameters.into(),
        service: Some(open.raised.service.clone()),
        plan_digest: None,
        attempt_id: Some(open.attempt_id),
    }
}

/// One proposal for each attempt and playbook, so that a repeat is the same proposal.
fn id(attempt_id: Uuid, playbook: &str) -> Uuid {
    Uuid::named("healwright/proposal/v1", &[&attempt_id.0, playbook.as_bytes()])
}
