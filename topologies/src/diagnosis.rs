//! Why a service is ill: the pattern whose evidence is there, with its confidence, what was ruled
//! out, and what is not known (spec 30).
//!
//! It proposes nothing and decides nothing. A hypothesis is said when an incident opens, when
//! what is known changes it, and when a repair has ended without making the service well; an
//! incident whose evidence fits no pattern is said to be *unknown*, which is an answer.
//!
//! Invariants:
//! - A hypothesis without evidence is never said, and no sentence of it without a fact.
//! - Confidence is the ladder times coverage (spec 30 §4); nothing else enters it.
//! - Nothing is said of a service that is not red now.

mod evidence;
mod facts;
mod hypothesis;
mod patterns;

#[cfg(test)]
mod tests;

use schemas::event::{Health, IncidentChanged, IncidentStatus, L3Outcome, Pattern, RcaHypothesis};
use schemas::{Event, Kind, Ns};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, Output, Processor, View};
use crate::{config, detection, execution, said, triggers};

pub use evidence::Evidence;
pub(crate) use facts::breach;
pub use patterns::confidence;

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "diagnosis",
    reads: &[
        Kind::ConfigActivated,
        Kind::ChangeObserved,
        Kind::DeployState,
        Kind::SloAnomalyDetected,
        Kind::IncidentChanged,
        Kind::L3ExecutionResult,
    ],
    says: &[Kind::RcaHypothesis],
    step,
};

/// The class that goes to people at once.
const CRITICAL: u8 = 6;
/// Hypotheses of one incident; further news is for people.
const SAID_MAX: u32 = 50;

/// How long an incident of `class` may last from its hypothesis to the validated recovery
/// (spec 30 §2); class 6 is handed over at once.
pub const fn class_timeout(class: u8) -> Ns {
    let minutes = match class {
        0 | 1 => 5,
        2 => 10,
        3 => 15,
        4 => 30,
        5 => 60,
        _ => 0,
    };
    Ns::from_s(minutes * 60)
}

/// An open incident as diagnosis sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Case {
    incident_id: String,
    opened_at: Ns,
    /// What was said last.
    last: Option<Gist>,
    /// Whether what was said last still waits for its attempt to end.
    is_answered: bool,
    n_said: u32,
}

/// What makes one hypothesis differ from another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Gist {
    pattern: Pattern,
    class: u8,
    confidence: f64,
}

impl Gist {
    fn of(it: &RcaHypothesis) -> Self {
        Gist { pattern: it.pattern, class: it.failure_class, confidence: it.confidence }
    }

    /// Whether saying the other one would be news.
    fn differs(&self, other: &Gist) -> bool {
        (self.pattern, self.class) != (other.pattern, other.class)
            || (self.confidence - other.confidence).abs() > 0.01
    }
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(service) = entry.due.and_then(|it| it.strip_prefix("look/")) {
        look_again(view, entry, service);
        return hypothesise(view, entry, service);
    }
    facts::take(view, entry);
    let service = if let Event::IncidentChanged(it) = entry.event {
        changed(view, entry, it)
    } else if let Event::SloAnomalyDetected(it) = entry.event {
        let is_red = it.health_to == Health::Red;
        (is_red && said::by(entry, detection::PROCESSOR.name)).then(|| it.service.clone())
    } else if let Event::L3ExecutionResult(it) = entry.event {
        let is_over = it.outcome != L3Outcome::Promoted;
        let by_execution = said::by(entry, execution::PROCESSOR.name);
        it.service.clone().filter(|service| is_over && by_execution && reopen(view, service))
    } else {
        None
    };
    service.map_or_else(Vec::new, |it| hypothesise(view, entry, &it))
}

/// Opens and closes the case of an incident; the service to look at, if any.
fn changed(view: &mut View<'_>, entry: &Folded<'_>, it: &IncidentChanged) -> Option<String> {
    if !said::by(entry, crate::incidents::PROCESSOR.name) {
        return None;
    }
    let service = it.service.clone()?;
    if it.status == IncidentStatus::Resolved {
        view.remove(&case_key(&service));
        view.unwake(&format!("look/{service}"));
        return None;
    }
    if it.change != "opened" {
        return None;
    }
    let incident_id = it.incident_id.clone();
    let opened_at = entry.now();
    let case = Case { incident_id, opened_at, last: None, is_answered: false, n_said: 0 };
    view.save(&case_key(&service), &case);
    look_again(view, entry, &service);
    Some(service)
}

/// The attempt on `service` has ended without success: what is said next is a new answer.
fn reopen(view: &mut View<'_>, service: &str) -> bool {
    let Some(mut case) = view.load::<Case>(&case_key(service)) else { return false };
    case.is_answered = false;
    view.save(&case_key(service), &case);
    true
}

/// While an incident lasts, what is known of it changes: a second signal, a failed start.
fn look_again(view: &mut View<'_>, entry: &Folded<'_>, service: &str) {
    let period = config::profile(view).probe_period_ms.max(250).saturating_mul(2);
    view.wake(&format!("look/{service}"), entry.now() + Ns::from_ms(period));
}

fn hypothesise(view: &mut View<'_>, entry: &Folded<'_>, service: &str) -> Vec<Output> {
    let Some(mut case) = view.load::<Case>(&case_key(service)) else {
        view.unwake(&format!("look/{service}"));
        return Vec::new();
    };
    if case.n_said >= SAID_MAX {
        view.unwake(&format!("look/{service}"));
        return Vec::new();
    }
    let is_running = case.is_answered && triggers::open_for(view, service).is_some();
    if is_running {
        return Vec::new();
    }
    let Some(found) = hypothesis::of(view, entry, service) else { return Vec::new() };
    if is_gathering(view, entry, &case, &found) {
        return Vec::new();
    }
    let gist = Gist::of(&found);
    let is_news = case.last.is_none_or(|last| last.differs(&gist)) || !case.is_answered;
    if !is_news || found.evidence_refs.is_empty() {
        return Vec::new();
    }
    case.last = Some(gist);
    case.is_answered = true;
    case.n_said += 1;
    view.save(&case_key(service), &case);
    let urgency = found.impact.urgency;
    let output = Output::new(case.incident_id.clone(), found).with_priority(urgency);
    vec![output.of_incident(case.incident_id)]
}

/// Signals of one fault do not turn red together: users fail before the probes have. What
/// could not act anyway waits for as long as probes take to tell, so that nobody is called for
/// a fault that is about to be understood.
fn is_gathering(view: &View<'_>, entry: &Folded<'_>, case: &Case, found: &RcaHypothesis) -> bool {
    let profile = config::profile(view);
    let could_act =
        found.confidence >= profile.hypothesis_confidence_min || found.failure_class == CRITICAL;
    let probes = u64::from(profile.probe_misses_red) + 3;
    let gathered = Ns::from_ms(profile.probe_period_ms.saturating_mul(probes));
    !could_act && case.last.is_none() && entry.now().since(case.opened_at) < gathered
}

fn case_key(service: &str) -> String {
    format!("case/{service}")
}
