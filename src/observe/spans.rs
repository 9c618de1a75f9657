//! The seven spans of the loop through `tracing`, one trace for each incident (spec 90 §14).
//!
//! A span is derived from the journal: it ends at the entry that ends its step and began at the
//! entry which that step folded. Both times are the sequencer's and stand in the attributes
//! `start_ns` and `end_ns`; a collector that knows only its own clock would date a span with the
//! moment at which it was told. A span of the name `incident` holds the seven of one trace
//! together; it is open for as long as the incident is.
//!
//! Invariants:
//! - Nothing is told that is not in the journal.
//! - What is kept is bounded: [`OPEN_MAX`] open traces and [`BEGUN_MAX`] beginnings.
//! - A trace is told in the order of its entries. What an incident was opened for is told when
//!   the incident is, because only then its trace is known; both stand in one batch.

use std::collections::VecDeque;

use schemas::event::{IncidentChanged, IncidentStatus};
use schemas::{Cause, Envelope, Event, Ns};
use tracing::{Span, info_span};

/// The names, in the order of the loop. They are frozen.
pub const SPANS: [&str; 7] = [
    "AVN.detect",
    "RCA.infer",
    "L1.vote",
    "L2.vote",
    "Sandbox.run",
    "Governance.validate",
    "Deploy.compare",
];

/// Traces that are open at once; the oldest is closed for a new one.
const OPEN_MAX: usize = 256;
/// Times of entries from which a step may have come.
const BEGUN_MAX: usize = 4096;

/// A step of the loop, as its entry tells it.
#[derive(Clone, Debug)]
struct Step {
    name: &'static str,
    proposal: String,
    entry: String,
    began: Ns,
    ended: Ns,
    outcome: String,
}

/// An incident that is not over.
#[derive(Clone)]
struct Trace {
    root: Span,
    id: String,
    incident: String,
    service: String,
}

/// The open traces, oldest first.
#[derive(Default)]
pub struct Spans {
    open: VecDeque<Trace>,
    begun: VecDeque<(u64, Ns)>,
    /// Steps of this batch for which an incident may still be opened.
    waiting: Vec<(u64, Step)>,
}

impl Spans {
    /// Takes one entry of the journal, in its order.
    pub fn tell(&mut self, envelope: &Envelope, event: &Event) {
        let began = self.began(envelope);
        self.begun.push_back((envelope.seq, envelope.wall));
        if self.begun.len() > BEGUN_MAX {
            self.begun.pop_front();
        }
        if let Event::IncidentChanged(it) = event {
            self.open(envelope, it);
            if it.status == IncidentStatus::Resolved {
                self.open.retain(|open| open.incident != it.incident_id);
            }
            return;
        }
        let Some(step) = step(envelope, event, began) else { return };
        match self.trace(envelope, event) {
            Some(trace) => step.tell(Some(trace)),
            None => self.waiting.push((envelope.seq, step)),
        }
    }

    /// The batch is over: what no incident was opened for is told for itself.
    pub fn rest(&mut self) {
        self.waiting.drain(..).for_each(|(_, step)| step.tell(None));
    }

    /// The open trace that a step belongs to: by its incident, or by its service.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other steps name their incident")]
    fn trace(&self, envelope: &Envelope, event: &Event) -> Option<&Trace> {
        if let Some(incident) = &envelope.correlation {
            return self.open.iter().find(|it| it.incident == *incident);
        }
        let service = match event {
            Event::SloAnomalyDetected(it) => &it.service,
            Event::DeployState(it) => &it.service,
            _ => return None,
        };
        self.open.iter().find(|it| it.service == *service)
    }

    /// When the entry was written that this one came from; its own time where it came from none.
    fn began(&self, envelope: &Envelope) -> Ns {
        let Cause::Derived { from, .. } = &envelope.cause else { return envelope.wall };
        let at = self.begun.binary_search_by_key(from, |(seq, _)| *seq);
        at.map_or(envelope.wall, |at| self.begun[at].1)
    }

    /// Opens the trace of an incident, unless it is open, and tells what it was opened for.
    fn open(&mut self, envelope: &Envelope, it: &IncidentChanged) {
        let incident = it.incident_id.as_str();
        if self.open.iter().any(|it| it.incident == incident) {
            return;
        }
        let id = envelope.trace_id.clone().unwrap_or_default();
        let root = info_span!(
            target: "healwright::trace",
            parent: None,
            "incident",
            trace_id = id,
            incident,
            entry = envelope.reference(),
        );
        let service = it.service.clone().unwrap_or_default();
        let trace = Trace { root, id, incident: incident.to_owned(), service };
        if let Cause::Derived { from, .. } = &envelope.cause
            && let Some(at) = self.waiting.iter().position(|(seq, _)| seq == from)
        {
            self.waiting.remove(at).1.tell(Some(&trace));
        }
        self.open.push_back(trace);
        if self.open.len() > OPEN_MAX {
            self.open.pop_front();
        }
    }
}

/// A span whose name is a literal, as `tracing` wants it.
macro_rules! told {
    ($step:expr, $trace:expr, $($name:literal)*) => {
        match $step.name {
            $($name => info_span!(
                target: "healwright::trace",
                parent: $trace.and_then(|it| it.root.id()),
                $name,
                trace_id = $trace.map_or("", |it| &it.id),
                incident = $trace.map_or("", |it| &it.incident),
                proposal = $step.proposal,
                entry = $step.entry,
                start_ns = $step.began.0,
                end_ns = $step.ended.0,
                outcome = $step.outcome,
            ),)*
            _ => Span::none(),
        }
    };
}

impl Step {
    /// Opens and closes the span, in a trace or for itself.
    fn tell(&self, trace: Option<&Trace>) {
        let span = told!(
            self, trace,
            "AVN.detect" "RCA.infer" "L1.vote" "L2.vote" "Sandbox.run" "Governance.validate"
            "Deploy.compare"
        );
        // For those who read logs and collect no spans.
        tracing::info!(target: "healwright::trace", parent: &span, "{}", self.outcome);
    }
}

/// The step that an entry ends, if it ends one.
#[expect(clippy::wildcard_enum_match_arm, reason = "of all events only seven end a step")]
fn step(envelope: &Envelope, event: &Event, began: Ns) -> Option<Step> {
    let (name, proposal) = match event {
        Event::SloAnomalyDetected(_) => (SPANS[0], None),
        Event::RcaHypothesis(_) => (SPANS[1], None),
        Event::L1ConsensusResult(it) => (SPANS[2], Some(it.proposal_id)),
        Event::L2ConsensusResult(it) => (SPANS[3], Some(it.proposal_id)),
        Event::SandboxResult(it) => (SPANS[4], Some(it.proposal_id)),
        Event::GovernanceDecision(it) => (SPANS[5], Some(it.proposal_id)),
        Event::DeployState(_) => (SPANS[6], None),
        _ => return None,
    };
    Some(Step {
        name,
        proposal: proposal.map(|it| it.to_string()).unwrap_or_default(),
        entry: envelope.reference(),
        began,
        ended: envelope.wall,
        outcome: crate::words::sentence(event),
    })
}

#[cfg(test)]
mod tests;
