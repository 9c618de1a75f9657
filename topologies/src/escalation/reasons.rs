//! What of an entry ends in people, and in which words.

use schemas::event::{
    AnnotationKind, Decision, EscalationReason, GovernanceDecision, HealTriggerEvaluated,
    L3ExecutionResult, L3Outcome, Outcome, RcaHypothesis, TriggerVerdict,
};
use schemas::{Event, Uuid};

use super::{Case, Climbs, Reached, incident_key, ladder};
use crate::fold::{Folded, View};
use crate::{config, consensus, diagnosis, execution, governance, proposals, rules, said};
use crate::{triggers, trust};

/// From this class on a person acts, and nobody else.
const CLASS_CRITICAL: u8 = 6;

/// What of this entry ends in people, if anything.
pub(super) fn reached<'a>(view: &mut View<'_>, entry: &'a Folded<'_>) -> Option<Reached<'a>> {
    if let Event::RcaHypothesis(hypothesis) = entry.event {
        return hypothesised(view, entry, hypothesis);
    }
    if let Event::HealTriggerEvaluated(evaluated) = entry.event {
        return said::by(entry, triggers::PROCESSOR.name)
            .then(|| evaluation(view, entry, evaluated))
            .flatten();
    }
    if let Event::L3ExecutionResult(result) = entry.event {
        return said::by(entry, execution::PROCESSOR.name)
            .then(|| executed(view, result))
            .flatten();
    }
    if let Event::GovernanceDecision(decision) = entry.event {
        return said::by(entry, governance::PROCESSOR.name)
            .then(|| governed(view, decision))
            .flatten();
    }
    if let Event::AnnotationAdded(annotation) = entry.event {
        // What execution notes of an incident is an attempt of unknown outcome.
        let incident_id = entry.envelope.correlation.clone()?;
        let case = view.load::<Case>(&incident_key(&incident_id))?;
        let unknown = annotation.kind == AnnotationKind::RunnerAction;
        return (unknown && said::by(entry, execution::PROCESSOR.name)).then(|| Reached {
            incident_id,
            service: case.service,
            trigger_type: "",
            reason: EscalationReason::ValidationFailed,
            rule: format!("unknown/{}", entry.envelope.seq),
            explanation: annotation.data.clone(),
            climbs: Climbs::One,
            recurs: false,
        });
    }
    said::by(entry, consensus::PROCESSOR.name).then(|| voted(view, entry)).flatten()
}

/// The class' clock runs from the hypothesis to the validated recovery.
fn hypothesised<'a>(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    hypothesis: &RcaHypothesis,
) -> Option<Reached<'a>> {
    let incident_id = entry.envelope.correlation.clone()?;
    if !said::by(entry, diagnosis::PROCESSOR.name) {
        return None;
    }
    let key = incident_key(&incident_id);
    let service = hypothesis.service.clone().unwrap_or_default();
    let mut case = view.load::<Case>(&key).unwrap_or_default();
    // A critical failure has no clock: people have it at once.
    if case.incident_id.is_empty() && hypothesis.failure_class < CLASS_CRITICAL {
        let timeout = diagnosis::class_timeout(hypothesis.failure_class);
        view.wake(&format!("class/{incident_id}"), entry.now() + timeout);
    }
    case.incident_id.clone_from(&incident_id);
    case.service.clone_from(&service);
    case.failure_class = hypothesis.failure_class;
    view.save(&key, &case);
    (hypothesis.failure_class >= CLASS_CRITICAL).then(|| Reached {
        explanation: format!("class 6 on {service}: {}", hypothesis.explanation_nl),
        incident_id,
        service,
        trigger_type: "",
        reason: EscalationReason::CriticalFailure,
        rule: "class_6".to_owned(),
        climbs: Climbs::ToPeople,
        recurs: false,
    })
}

fn evaluation<'a>(
    view: &View<'_>,
    entry: &Folded<'_>,
    evaluated: &'a HealTriggerEvaluated,
) -> Option<Reached<'a>> {
    let service = evaluated.service.clone().unwrap_or_default();
    let over = match evaluated.verdict {
        TriggerVerdict::OverBudget => true,
        // One that joined an open attempt waits for that one's outcome.
        TriggerVerdict::NotFired if triggers::open_for(view, &service).is_none() => false,
        TriggerVerdict::NotFired
        | TriggerVerdict::Fired
        | TriggerVerdict::Debounced
        | TriggerVerdict::RejectedProvenance => return None,
    };
    let latched = triggers::latched(view, &service).iter().any(|it| it.0 == evaluated.trigger_type);
    let budget_spent = triggers::budget(view, entry.now(), &service).is_spent();
    let reason = match (over, latched && !budget_spent) {
        (true, false) => EscalationReason::BudgetCeiling,
        (true, true) | (false, _) => EscalationReason::RepairExhausted,
    };
    Some(Reached {
        incident_id: entry.envelope.correlation.clone()?,
        service,
        trigger_type: &evaluated.trigger_type,
        reason,
        rule: format!("{}/{reason}", evaluated.verdict),
        explanation: evaluated.reason.clone().unwrap_or_default(),
        climbs: Climbs::ToPeople,
        // A ceiling is about how much happens at once, not about a failure that recurs.
        recurs: over && (latched || budget_spent),
    })
}

fn voted<'a>(view: &View<'_>, entry: &Folded<'_>) -> Option<Reached<'a>> {
    let (proposal_id, outcome, why) = if let Event::L1ConsensusResult(it) = entry.event {
        let of_votes = it.votes.iter().filter(|it| it.verdict != Outcome::Accept);
        let reasons: Vec<String> =
            of_votes.map(|it| format!("{}: {}", it.voter, it.reasons.join(", "))).collect();
        (it.proposal_id, it.outcome, format!("L1 came to {}: {}", it.outcome, reasons.join("; ")))
    } else if let Event::L2ConsensusResult(it) = entry.event {
        let why = format!("L2 came to {}: {}", it.outcome, it.compliance_veto.detail);
        (it.proposal_id, it.outcome, why)
    } else {
        return None;
    };
    let reached = of_proposal(view, proposal_id, "votes", why)?;
    (outcome != Outcome::Accept).then_some(reached)
}

fn governed<'a>(view: &View<'_>, decision: &GovernanceDecision) -> Option<Reached<'a>> {
    let id = decision.proposal_id;
    match decision.decision {
        Decision::Approved => None,
        Decision::Rejected => {
            let why = format!("policy rejected it: {}", decision.failure_modes.join("; "));
            of_proposal(view, id, "policy", why)
        }
        Decision::NeedsReview => {
            let why = format!(
                "a person decides, because {}; `healwright approve {id}` or \
                 `healwright reject {id}`",
                decision.reasons.join("; ")
            );
            of_proposal(view, id, &format!("review/{id}"), why)
        }
    }
}

/// A step of a proposal that stopped before it ran.
fn of_proposal<'a>(
    view: &View<'_>,
    proposal_id: Uuid,
    rule: &str,
    explanation: String,
) -> Option<Reached<'a>> {
    let case = proposals::case(view, proposal_id)?;
    Some(Reached {
        incident_id: case.raised.incident_id,
        service: case.raised.service,
        trigger_type: ladder::trigger_type(&case.proposal.playbook),
        reason: EscalationReason::RepairExhausted,
        rule: rule.to_owned(),
        explanation,
        climbs: Climbs::ToPeople,
        recurs: false,
    })
}

/// A repair ended. One that ran and did not help moves the incident up.
fn executed<'a>(view: &mut View<'_>, result: &L3ExecutionResult) -> Option<Reached<'a>> {
    let case = proposals::case(view, result.proposal_id)?;
    let key = incident_key(&case.raised.incident_id);
    let why = result.reason.clone().unwrap_or_else(|| result.outcome.to_string());
    let mut kept = view.load::<Case>(&key).unwrap_or_default();
    kept.tried.push(format!("{}: {why}", case.proposal.playbook));
    view.save(&key, &kept);
    if result.outcome == L3Outcome::Promoted {
        return None;
    }
    let none_is_safe = case.proposal.playbook == "none";
    if result.deploy_ref.is_empty() && !none_is_safe {
        return None;
    }
    let mut reached = of_proposal(view, result.proposal_id, "none_is_safe", why)?;
    if !none_is_safe {
        reached.reason = EscalationReason::ValidationFailed;
        reached.rule = format!("validation/{}", result.proposal_id);
        reached.climbs = Climbs::One;
        if rules::are_second(view) {
            // The latch counts repairs without effect; what recurs is a brake that people got.
            reached.explanation.push_str(&trust::standing(view, &case.proposal.playbook));
            reached.explanation.push_str(&latch(view, &case));
        } else {
            reached.recurs = true;
        }
    }
    Some(reached)
}

/// How near the playbook's latch on this service is.
fn latch(view: &View<'_>, case: &proposals::Case) -> String {
    let (service, playbook) = (&case.raised.service, &case.proposal.playbook);
    let n = triggers::ineffective(view, service, playbook);
    let limit = config::profile(view).latch_after;
    if n < limit {
        return format!("; {n} of {limit} repairs without effect until it is latched on {service}");
    }
    format!("; after {n} repairs without effect it is latched on {service}")
}
