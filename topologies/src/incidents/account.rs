//! What others say, as lines of an incident's account.

use schemas::Event;
use schemas::event::{
    Decision, GovernanceDecision, IncidentStatus, L3Outcome, RunnerResult, RunnerStatus,
    TriggerVerdict,
};

use super::{Incident, act};
use crate::fold::Folded;
use crate::{diagnosis, escalation, execution, governance, said, triggers};

/// Takes an entry into the account; the change to be said, if it is one.
///
/// What only repeats or prepares is kept and said with the next change.
pub(super) fn take(entry: &Folded<'_>, incident: &mut Incident) -> Option<&'static str> {
    let by = |processor| said::by(entry, processor);
    if let Event::RcaHypothesis(it) = entry.event {
        let pattern = it.pattern.to_string();
        if !by(diagnosis::PROCESSOR.name) || incident.pattern == pattern {
            return None;
        }
        incident.pattern = pattern;
        return Some("diagnosed");
    }
    if let Event::HealTriggerEvaluated(it) = entry.event {
        if !by(triggers::PROCESSOR.name) {
            return None;
        }
        if it.verdict == TriggerVerdict::Fired {
            incident.status = IncidentStatus::Mitigating;
        } else if let Some(reason) = &it.reason {
            let line = format!("not tried ({}): {reason}", it.verdict);
            if incident.actions.last() != Some(&line) {
                act(incident, line);
            }
        }
        return None;
    }
    if let Event::GovernanceDecision(it) = entry.event {
        if by(governance::PROCESSOR.name) {
            act(incident, decided(it));
        }
        return None;
    }
    if let Event::RunnerRequest(it) = entry.event {
        if by(execution::PROCESSOR.name) {
            incident.asked.push((it.id, entry.envelope.key.clone()));
            act(incident, format!("asked: {}", it.ops.join(", ")));
        }
        return None;
    }
    if let Event::RunnerResult(it) = entry.event {
        if it.known != Some(false) {
            incident.asked.retain(|(id, _)| *id != it.id);
        }
        act(incident, format!("{}: {}", answered(it), it.explanation));
        return Some("acted");
    }
    if let Event::L3ExecutionResult(it) = entry.event {
        if !by(execution::PROCESSOR.name) {
            return None;
        }
        let reason = it.reason.clone().unwrap_or_else(|| it.outcome.to_string());
        incident.validated = (it.outcome == L3Outcome::Promoted).then(|| reason.clone());
        act(incident, format!("{}: {reason}", it.outcome));
        return Some("acted");
    }
    let Event::HealEscalated(it) = entry.event else { return None };
    if !by(escalation::PROCESSOR.name) {
        return None;
    }
    let why = it.explanation.clone().unwrap_or_else(|| it.reason.to_string());
    act(incident, format!("handed to people (level {}): {why}", it.level));
    Some("escalated")
}

fn decided(it: &GovernanceDecision) -> String {
    match it.decision {
        Decision::Approved => {
            format!("approved ({}) under policy {}", it.quorum_type, it.policy_version)
        }
        Decision::NeedsReview => format!("waits for a person: {}", it.reasons.join("; ")),
        Decision::Rejected => format!("rejected: {}", it.failure_modes.join("; ")),
    }
}

fn answered(it: &RunnerResult) -> &'static str {
    match (it.status, it.known) {
        (_, Some(false)) => "outcome unknown",
        (RunnerStatus::Success, _) => "done",
        (RunnerStatus::Failed, _) => "failed",
        (RunnerStatus::RolledBack, _) => "taken back",
    }
}
