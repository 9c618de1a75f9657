//! Incidents: what is wrong with a service, from the first red signal to its end (spec 80 §19).
//!
//! It judges nothing and repairs nothing: it gathers what others said into one account. An
//! incident opens when a signal turns red, and ends when the service is green and no repair is
//! under way; its end says whether a repair was validated or it recovered by itself.
//!
//! Invariants:
//! - A service has at most one open incident.
//! - It ends on green, never on silence and never on a runner's word.
//! - Every action in it was said by the entry it came from.

mod account;

#[cfg(test)]
mod tests;

use schemas::event::{
    DeployPhase, DeployState, Health, IncidentChanged, IncidentStatus, IncidentType, L3Outcome,
    Severity, SloAnomalyDetected,
};
use schemas::{Event, Kind, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, Output, Processor, View};
use crate::{config, deployment, detection, execution, said, triggers};

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "incidents",
    reads: &[
        Kind::SloAnomalyDetected,
        Kind::RcaHypothesis,
        Kind::HealTriggerEvaluated,
        Kind::HealEscalated,
        Kind::GovernanceDecision,
        Kind::RunnerRequest,
        Kind::RunnerResult,
        Kind::L3ExecutionResult,
        Kind::DeployState,
    ],
    says: &[Kind::IncidentChanged],
    step,
};

/// A warning open for longer becomes critical (spec 80 §19).
const WARNING_MAX: Ns = Ns::from_s(3600);
/// Actions kept in an incident; an endless one says no more than that.
const ACTIONS_MAX: usize = 64;

/// An incident under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// `inc-<8 hex>`.
    pub incident_id: String,
    /// Service concerned.
    pub service: String,
    /// How bad.
    pub severity: Severity,
    /// What sort.
    pub incident_type: IncidentType,
    /// One line.
    pub summary: String,
    /// When it was detected.
    pub detected_at: Ns,
    /// Where it stands.
    pub status: IncidentStatus,
    /// What was done, in order.
    pub actions: Vec<String>,
    /// Pattern of the last hypothesis that was taken in.
    pattern: String,
    /// What the last validated repair came to.
    validated: Option<String>,
    /// Requests that are not answered yet, with the host that was asked.
    asked: Vec<(Uuid, String)>,
}

/// The open incident of `service`.
pub fn open(view: &View<'_>, service: &str) -> Option<Incident> {
    view.peek(PROCESSOR.name, &open_key(service))
}

/// All open incidents, in order of service.
pub fn all_open(view: &View<'_>) -> Vec<Incident> {
    view.peek_list(PROCESSOR.name, "open/").into_iter().map(|(_, it)| it).collect()
}

fn open_key(service: &str) -> String {
    format!("open/{service}")
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(due) = entry.due {
        return woken(view, entry, due);
    }
    if let Event::SloAnomalyDetected(it) = entry.event {
        return match said::by(entry, detection::PROCESSOR.name) {
            true => anomaly(view, entry, it),
            false => Vec::new(),
        };
    }
    if let Event::DeployState(it) = entry.event {
        return match said::by(entry, deployment::PROCESSOR.name) {
            true => released(view, entry, it),
            false => Vec::new(),
        };
    }
    let Some(mut incident) = concerned(view, entry) else { return Vec::new() };
    let Some(change) = account::take(entry, &mut incident) else {
        view.save(&open_key(&incident.service), &incident);
        return Vec::new();
    };
    let mut outputs = vec![said(view, entry, &incident, change)];
    if let Event::L3ExecutionResult(it) = entry.event
        && said::by(entry, execution::PROCESSOR.name)
    {
        // Its attempt ends with this entry: what is green now is green after it.
        let is_over = it.outcome == L3Outcome::Promoted || !has_other(view, &incident);
        if is_over && is_green(view, &incident.service) {
            outputs = vec![resolve(view, entry, incident)];
        }
    }
    outputs
}

/// Whether more than the attempt that ends now is open on the service; one at a time may be.
fn has_other(view: &View<'_>, incident: &Incident) -> bool {
    triggers::all_open(view).iter().filter(|it| it.raised.service == incident.service).count() > 1
}

/// The open incident that an entry belongs to: by its correlation, or by the request it answers.
fn concerned(view: &View<'_>, entry: &Folded<'_>) -> Option<Incident> {
    let all = all_open(view);
    if let Event::RunnerResult(it) = entry.event {
        // Only the signed answer of the host that was asked tells what was done (C12).
        let host = it.host.clone().unwrap_or_default();
        let asked = (it.id, host);
        let found = all.into_iter().find(|incident| incident.asked.contains(&asked));
        return found.filter(|_| execution::refused(view, it).is_none());
    }
    let id = entry.envelope.correlation.as_deref()?;
    all.into_iter().find(|it| it.incident_id == id)
}

fn anomaly(view: &mut View<'_>, entry: &Folded<'_>, it: &SloAnomalyDetected) -> Vec<Output> {
    match (it.health_to, open(view, &it.service)) {
        (Health::Red, None) => {
            let what = crate::diagnosis::breach(it);
            let summary = format!("{}: {what}", it.service);
            vec![begin(
                view,
                entry,
                &it.service,
                it.severity,
                summary,
                IncidentType::ServiceAnomaly,
            )]
        }
        (Health::Green, Some(incident)) if is_green(view, &it.service) => {
            well(view, entry, incident)
        }
        (Health::Red, Some(mut incident)) if incident.severity < it.severity => {
            incident.severity = it.severity;
            vec![said(view, entry, &incident, "worsened")]
        }
        (Health::Green | Health::Amber | Health::Red | Health::Unknown, _) => Vec::new(),
    }
}

/// The service is green. While a repair is under way its validation has the word; one that never
/// comes to an end is not waited for longer than a validation may take.
fn well(view: &mut View<'_>, entry: &Folded<'_>, incident: Incident) -> Vec<Output> {
    if triggers::open_for(view, &incident.service).is_none() {
        return vec![resolve(view, entry, incident)];
    }
    let wait = Ns::from_ms(config::profile(view).validation_timeout_ms);
    view.wake(&format!("well/{}", incident.service), entry.now() + wait);
    Vec::new()
}

fn woken(view: &mut View<'_>, entry: &Folded<'_>, due: &str) -> Vec<Output> {
    let Some((what, service)) = due.split_once('/') else { return Vec::new() };
    let Some(mut incident) = open(view, service) else { return Vec::new() };
    match what {
        "well" if is_green(view, service) => vec![resolve(view, entry, incident)],
        "hour" if incident.severity == Severity::Warning => {
            incident.severity = Severity::Critical;
            incident.actions.push("open for an hour: now critical".to_owned());
            vec![said(view, entry, &incident, "worsened")]
        }
        _ => Vec::new(),
    }
}

/// A release that was rolled back is an incident of its own, or a step of the one under way.
fn released(view: &mut View<'_>, entry: &Folded<'_>, it: &DeployState) -> Vec<Output> {
    if it.state != DeployPhase::RolledBack {
        return Vec::new();
    }
    let version = it.version.as_deref().unwrap_or("a release");
    let action = format!("version {version} was rolled back: {}", it.reason);
    if let Some(mut incident) = open(view, &it.service) {
        act(&mut incident, action);
        return vec![said(view, entry, &incident, "acted")];
    }
    let summary = format!("{}: version {version} was bad", it.service);
    let sort = IncidentType::RemediationFailure;
    let opened = begin(view, entry, &it.service, Severity::Warning, summary, sort);
    let Some(mut incident) = open(view, &it.service) else { return vec![opened] };
    act(&mut incident, action);
    if is_green(view, &it.service) {
        incident.validated = Some("what ran before serves alone again".to_owned());
        return vec![opened, resolve(view, entry, incident)];
    }
    vec![opened, said(view, entry, &incident, "acted")]
}

fn begin(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    service: &str,
    severity: Severity,
    summary: String,
    incident_type: IncidentType,
) -> Output {
    let incident = Incident {
        incident_id: new_id(view, entry, service),
        service: service.to_owned(),
        severity,
        incident_type,
        summary,
        detected_at: entry.now(),
        status: IncidentStatus::Open,
        actions: Vec::new(),
        pattern: String::new(),
        validated: None,
        asked: Vec::new(),
    };
    view.wake(&format!("hour/{service}"), entry.now() + WARNING_MAX);
    said(view, entry, &incident, "opened")
}

/// `inc-` and as many digits of the derived id as no earlier incident has: eight, almost always.
fn new_id(view: &mut View<'_>, entry: &Folded<'_>, service: &str) -> String {
    let name: [&[u8]; 2] = [service.as_bytes(), &said::place(entry)];
    let digits = Uuid::named("healwright/incident/v1", &name).to_string().replace('-', "");
    let ids = [8, 12, 16, 32].map(|n| format!("inc-{}", &digits[..n]));
    let is_free = |it: &&String| view.load::<bool>(&format!("taken/{it}")).is_none();
    let id = ids.iter().find(is_free).unwrap_or(&ids[3]).clone();
    view.save(&format!("taken/{id}"), &true);
    id
}

fn resolve(view: &mut View<'_>, entry: &Folded<'_>, mut incident: Incident) -> Output {
    let lasted = Ns::from_ms(entry.now().since(incident.detected_at).as_ms());
    let after = match lasted {
        Ns(0) => "at once".to_owned(),
        lasted => format!("after {}", said::span(lasted)),
    };
    let how = match &incident.validated {
        Some(reason) => format!("healed {after}: {reason}"),
        None => format!("recovered by itself {after}: no repair of it was validated"),
    };
    act(&mut incident, how);
    incident.status = IncidentStatus::Resolved;
    let output = said(view, entry, &incident, "resolved");
    view.remove(&open_key(&incident.service));
    view.unwake(&format!("hour/{}", incident.service));
    view.unwake(&format!("well/{}", incident.service));
    output
}

fn act(incident: &mut Incident, action: String) {
    if incident.actions.len() < ACTIONS_MAX {
        incident.actions.push(action);
    }
}

/// Keeps the incident and says it as it stands after `change`.
fn said(view: &mut View<'_>, entry: &Folded<'_>, incident: &Incident, change: &str) -> Output {
    view.save(&open_key(&incident.service), incident);
    let is_over = incident.status == IncidentStatus::Resolved;
    let changed = IncidentChanged {
        incident_id: incident.incident_id.clone(),
        severity: incident.severity,
        incident_type: incident.incident_type,
        summary: incident.summary.clone(),
        detected_at: incident.detected_at,
        resolved_at: is_over.then(|| entry.now()),
        status: incident.status,
        actions_taken: incident.actions.clone(),
        coherence_score_at_detection: None,
        coherence_score_at_resolution: None,
        change: change.to_owned(),
        service: Some(incident.service.clone()),
    };
    let priority = match incident.severity {
        Severity::Info => 3,
        Severity::Warning => 5,
        Severity::Critical => 7,
        Severity::Emergency => 9,
    };
    let output = Output::new(incident.incident_id.clone(), changed).with_priority(priority);
    output.of_incident(incident.incident_id.clone())
}

fn is_green(view: &View<'_>, service: &str) -> bool {
    detection::health(view, service).is_some_and(|it| it.is_green())
}
