//! Escalation: what the healer hands to people, once, with what was tried (spec 40 §11–§12).
//!
//! It deliberately repairs nothing and retries nothing. Each rule that ends in people says one
//! `heal.escalated` for an incident, whose explanation names the rule and the command that would
//! change it; a level only rises while an incident lasts.

mod ladder;
mod reasons;

use schemas::event::{EscalationReason, HealEscalated, IncidentChanged, IncidentStatus};
use schemas::{Event, Kind, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, Output, Processor, View};
use crate::{config, diagnosis, incidents, rules, said};

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "escalation",
    reads: &[
        Kind::RcaHypothesis,
        Kind::HealTriggerEvaluated,
        Kind::L1ConsensusResult,
        Kind::L2ConsensusResult,
        Kind::L3ExecutionResult,
        Kind::GovernanceDecision,
        Kind::IncidentChanged,
        Kind::AnnotationAdded,
    ],
    says: &[Kind::HealEscalated],
    step,
};

/// Escalations of one trigger type that make a corrective entry.
const CORRECTIVE_AFTER: usize = 3;
/// Within this time (spec 40 §12).
const CORRECTIVE_WINDOW: Ns = Ns::from_s(7 * 24 * 3600);
/// An incident is forgotten this long after its end.
const KEPT_AFTER: Ns = Ns::from_s(24 * 3600);
/// The level at which people act.
const LEVEL_PEOPLE: u8 = 4;

/// An incident as escalation sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Case {
    incident_id: String,
    service: String,
    level: u8,
    failure_class: u8,
    /// Attempts so far, in words.
    tried: Vec<String>,
    /// Rules that were already handed over, so that each is said once.
    said: Vec<String>,
}

/// A failure that needs a structural change instead of a repair (spec 40 §1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corrective {
    /// Trigger type that only detects while this is open.
    pub trigger_type: String,
    /// Escalations that led here.
    pub recurrence_count: u32,
    /// Since when.
    pub opened_at: Ns,
    /// Version of the profile under which it opened.
    policy_version: u64,
}

/// The open corrective entry of a trigger type. It closes with the profile under which it came
/// about, or when a person vouches for the playbook: both are a person's signed decision.
pub fn corrective(view: &View<'_>, trigger_type: &str) -> Option<Corrective> {
    let entry: Corrective = view.peek(PROCESSOR.name, &format!("corrective/{trigger_type}"))?;
    let vouched = config::vouched_at(view, trigger_type).is_some_and(|it| it > entry.opened_at);
    (entry.policy_version == config::policy_version(view) && !vouched).then_some(entry)
}

/// Something that ends in people.
struct Reached<'a> {
    incident_id: String,
    service: String,
    /// Empty where no trigger took part.
    trigger_type: &'a str,
    reason: EscalationReason,
    /// The rule, so that each is said once for an incident.
    rule: String,
    explanation: String,
    /// Whether it moves the incident a level up.
    climbs: Climbs,
    /// Whether it counts as a recurring failure of the trigger.
    recurs: bool,
}

/// How a level changes.
#[derive(Clone, Copy, PartialEq)]
enum Climbs {
    /// By one.
    One,
    /// To people at once.
    ToPeople,
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        return due(view, entry, key);
    }
    if let Event::IncidentChanged(changed) = entry.event {
        changed_incident(view, entry, changed);
    }
    reasons::reached(view, entry).and_then(|it| escalate(view, entry, it)).into_iter().collect()
}

fn due(view: &mut View<'_>, entry: &Folded<'_>, key: &str) -> Vec<Output> {
    if key.starts_with("incident/") {
        view.remove(key);
        return Vec::new();
    }
    let Some(incident) = key.strip_prefix("class/") else { return Vec::new() };
    let Some(case) = view.load::<Case>(&incident_key(incident)) else { return Vec::new() };
    let timeout = diagnosis::class_timeout(case.failure_class);
    if case.level < LEVEL_PEOPLE {
        view.wake(key, entry.now() + timeout);
    }
    let service = case.service.clone();
    let explanation = format!(
        "{service} has not recovered within the {} of class {}; \
         `healwright incident show {incident}`",
        said::span(timeout),
        case.failure_class
    );
    let reached = Reached {
        incident_id: incident.to_owned(),
        service,
        trigger_type: "",
        reason: EscalationReason::ClassTimeout,
        rule: format!("class_timeout/{}", case.level),
        explanation,
        climbs: Climbs::One,
        recurs: false,
    };
    escalate(view, entry, reached).into_iter().collect()
}

fn incident_key(incident: &str) -> String {
    format!("incident/{incident}")
}

fn changed_incident(view: &mut View<'_>, entry: &Folded<'_>, changed: &IncidentChanged) {
    if !said::by(entry, incidents::PROCESSOR.name) || changed.status != IncidentStatus::Resolved {
        return;
    }
    view.unwake(&format!("class/{}", changed.incident_id));
    let key = incident_key(&changed.incident_id);
    view.wake(&key, entry.now() + KEPT_AFTER);
}

fn escalate(view: &mut View<'_>, entry: &Folded<'_>, reached: Reached<'_>) -> Option<Output> {
    let key = incident_key(&reached.incident_id);
    let mut case = view.load::<Case>(&key).unwrap_or_default();
    if case.said.contains(&reached.rule) {
        return None;
    }
    case.said.push(reached.rule.clone());
    case.incident_id.clone_from(&reached.incident_id);
    case.level = match reached.climbs {
        Climbs::ToPeople => LEVEL_PEOPLE,
        Climbs::One => (case.level + 1).min(LEVEL_PEOPLE),
    };
    view.save(&key, &case);
    let mut explanation = reached.explanation;
    if reached.recurs && opens_corrective(view, entry.now(), reached.trigger_type) {
        let trigger_type = reached.trigger_type;
        let until = match rules::are_second(view) {
            true => format!("a person vouches for it (`healwright trust vouch {trigger_type}`)"),
            false => "the profile is changed".to_owned(),
        };
        explanation.push_str(&format!(
            "; this is escalation {CORRECTIVE_AFTER} of {trigger_type} within 7 days, so it only \
             detects from now on, until {until}"
        ));
    }
    let rule = reached.rule.as_bytes();
    let id = [reached.incident_id.as_bytes(), rule, &said::place(entry)];
    let escalated = HealEscalated {
        escalation_id: Uuid::named("healwright/escalation/v1", &id),
        incident_id: reached.incident_id.clone(),
        trigger_type: reached.trigger_type.to_owned(),
        level: case.level,
        reason: reached.reason,
        tried: case.tried,
        roles: ladder::roles(case.level),
        evidence_refs: said::from_reference(entry).into_iter().collect(),
        audit_log_id: entry.reference(),
        explanation: Some(explanation),
        service: Some(reached.service),
    };
    let priority = 5 + case.level;
    let output = Output::new(reached.incident_id.clone(), escalated);
    Some(output.of_incident(reached.incident_id).with_priority(priority))
}

/// Counts an escalation of that trigger; the third within the window opens a corrective entry.
fn opens_corrective(view: &mut View<'_>, now: Ns, trigger_type: &str) -> bool {
    let key = format!("recent/{trigger_type}");
    let mut recent: Vec<Ns> = view.load(&key).unwrap_or_default();
    recent.retain(|it| now.since(*it) < CORRECTIVE_WINDOW);
    recent.push(now);
    view.save(&key, &recent);
    if recent.len() < CORRECTIVE_AFTER || corrective(view, trigger_type).is_some() {
        return false;
    }
    let entry = Corrective {
        trigger_type: trigger_type.to_owned(),
        recurrence_count: recent.len() as u32,
        opened_at: now,
        policy_version: config::policy_version(view),
    };
    // The count begins anew with whatever the person decides.
    view.remove(&key);
    view.save(&format!("corrective/{trigger_type}"), &entry);
    true
}
