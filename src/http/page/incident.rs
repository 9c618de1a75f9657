//! Incident: the causal chain as a vertical line, oldest on top, and beside it what users got,
//! with the moments marked.
//!
//! The onset is inferred: it is the beginning of the slot in which the indicator left its
//! objective before the incident was detected. Where that cannot be seen, time runs from the
//! detection, and the page says so.

use std::fmt::Write as _;

use schemas::event::IncidentStatus;
use schemas::{Event, Kind, Ns, Place};
use topologies::profile::Profile;

use super::html::{BYTES_MAX, clip, esc, shell, status};
use super::svg::{Drawn, Moment, Span, chart, since};
use crate::out::local_time;
use crate::projection::sli::{Curve, Indicator};
use crate::projection::{IncidentView, Line};
use crate::words;

/// Lines shown at the beginning and at the end of a long incident.
const LINES: usize = 60;
/// Good slots between the onset and the detection that do not end the fault: what was rolled back
/// is detected when it is over.
const GOOD_MAX: usize = 3;
/// Items of a list that unfolds.
const ITEMS: usize = 12;

/// What the page is rendered from.
pub(super) struct Incident<'a> {
    pub(super) view: &'a IncidentView,
    pub(super) profile: &'a Profile,
    /// The curve, or why there is none.
    pub(super) curve: Result<&'a Curve, &'a str>,
    /// Entries that unfold in place, by sequence.
    pub(super) folds: &'a [(Place, Event)],
    pub(super) now: Ns,
}

/// Whether an entry of this kind has something to unfold.
pub(super) fn unfolds(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::SloAnomalyDetected
            | Kind::RcaHypothesis
            | Kind::RemediationProposed
            | Kind::HealEscalated
    )
}

/// The lines that are shown: all, or the first and the last.
pub(super) fn shown(view: &IncidentView) -> (&[Line], &[Line]) {
    let n = view.lines.len();
    if n <= 2 * LINES {
        return (&view.lines, &[]);
    }
    (&view.lines[..LINES], &view.lines[n - LINES..])
}

impl Incident<'_> {
    /// The page.
    pub(super) fn render(&self) -> String {
        let it = &self.view.incident;
        let onset = self.onset();
        let began = onset.unwrap_or(it.detected_at);
        let mut main = format!("<h1>{}</h1><p>{}", clip(&it.summary), status(self.view));
        let _ = write!(main, " · {} · detected {}", it.severity, local_time(it.detected_at));
        match it.resolved_at {
            Some(at) => {
                let _ = write!(main, " · over after {}", words::took(at.since(began)));
            }
            None => {
                let lasts = words::span(self.now.since(began).as_s());
                let _ = write!(main, " · for {lasts} now");
            }
        }
        main.push_str("</p><div class=\"beside\"><section>");
        self.curve(&mut main, onset);
        main.push_str("</section><section><h2>What happened</h2><ol class=\"chain\">");
        self.chain(&mut main, began);
        main.push_str("</ol></section></div>");
        shell(&esc(&it.incident_id), &main)
    }

    fn indicator(&self) -> Option<(Indicator, f64)> {
        let curve = self.curve.ok()?;
        let (of, limit) = match self.view.signal {
            Some((signal, limit)) => (Indicator::of(signal), Some(limit)),
            None => (None, None),
        };
        // What an incident was judged against may be tighter than the profile's own number.
        let objective = |of: Indicator| match (of, limit) {
            (Indicator::Latency, Some(limit)) if limit > 0.0 => limit,
            (Indicator::Answers, Some(limit)) if (0.0..1.0).contains(&limit) => 1.0 - limit,
            _ => of.objective(self.profile),
        };
        let seen = |of: &Indicator| curve.values(*of).iter().any(Option::is_some);
        if let Some(of) = of.filter(seen) {
            return Some((of, objective(of)));
        }
        curve.indicator().map(|of| (of, of.objective(self.profile)))
    }

    /// The beginning of the last run outside the objective that reaches the detection, or nearly.
    fn onset(&self) -> Option<Ns> {
        let (of, objective) = self.indicator()?;
        let curve = self.curve.ok()?;
        let detected = self.view.incident.detected_at;
        let (mut onset, mut n_good) = (None, 0);
        let mut at = curve.from();
        for value in curve.values(of) {
            if at > detected {
                break;
            }
            match value {
                Some(value) if of.keeps(value, objective) => {
                    n_good += 1;
                    onset = onset.filter(|_| n_good <= GOOD_MAX);
                }
                Some(_) => {
                    onset = onset.or(Some(at));
                    n_good = 0;
                }
                // A gap says neither.
                None => {}
            }
            at = at + curve.width();
        }
        onset.map(|it: Ns| it.min(detected))
    }

    fn moments(&self, onset: Option<Ns>) -> Vec<Moment> {
        let it = &self.view.incident;
        let first = |kinds: &[Kind]| {
            self.view.lines.iter().find(|it| kinds.contains(&it.kind)).map(|it| it.at)
        };
        let is_healed = it.actions_taken.last().is_some_and(|it| it.starts_with("healed"));
        let over = it.resolved_at.filter(|_| it.status == IncidentStatus::Resolved);
        let marks = [
            ("onset", onset),
            ("detected", Some(it.detected_at)),
            ("decided", first(&[Kind::GovernanceDecision])),
            ("acted", first(&[Kind::RunnerResult])),
            (if is_healed { "healed" } else { "over" }, over),
        ];
        let marks = marks.into_iter();
        marks.filter_map(|(name, at)| at.map(|at| Moment { name, at })).collect()
    }

    fn curve(&self, main: &mut String, onset: Option<Ns>) {
        let is_probed = self.indicator().is_some_and(|(of, _)| of == Indicator::Probes);
        let heading = if is_probed { "What its probes saw" } else { "What users got" };
        let _ = write!(main, "<h2>{heading}</h2>");
        let curve = match self.curve {
            Ok(curve) => curve,
            Err(why) => {
                let _ = write!(main, "<p class=\"card unknown\">? {}</p>", esc(why));
                return;
            }
        };
        let Some((of, objective)) = self.indicator() else {
            main.push_str(
                "<p class=\"card unknown\">? no data: no answer and no probe of that time is \
                 kept.</p>",
            );
            return;
        };
        let values = curve.values(of);
        let span = Span { from: curve.from(), to: curve.to() };
        // The future of an open incident is no gap.
        let n_past =
            values.len().min((self.now.since(span.from).0 / curve.width().0.max(1)) as usize + 1);
        let span = Span { to: span.from + Ns(curve.width().0 * n_past as u64), ..span };
        let drawn = Drawn { of, values: &values[..n_past], objective };
        let _ = write!(
            main,
            "{}<p class=\"dim\">{}, one step for {}; grey: no data.{}{}</p>",
            chart(&drawn, span, &self.moments(onset)),
            capital(of.name()),
            words::span(curve.width().as_s()),
            if onset.is_none() {
                " No onset can be seen: times run from the detection."
            } else {
                ""
            },
            if curve.cut().is_some() || self.is_longer(span) {
                " Only its beginning is drawn; the rest lies in the telemetry."
            } else {
                ""
            },
        );
    }

    fn is_longer(&self, span: Span) -> bool {
        self.view.incident.resolved_at.unwrap_or(self.now) > span.to + Ns::from_s(1)
    }

    fn chain(&self, main: &mut String, began: Ns) {
        let (first, last) = shown(self.view);
        let left_out = self.view.lines.len() - first.len() - last.len();
        let id = esc(&self.view.incident.incident_id);
        let mut n_shown = 0;
        for line in first.iter().chain(last) {
            if n_shown == first.len() && left_out > 0 {
                let _ = write!(
                    main,
                    "<li>… {left_out} entries are left out here; \
                     <code>healwright incident timeline {id}</code> prints them."
                );
            }
            if main.len() > BYTES_MAX {
                let more = first.len() + last.len() - n_shown;
                let _ = write!(
                    main,
                    "<li>… {more} more: <code>healwright incident timeline {id}</code> prints \
                     them."
                );
                return;
            }
            self.step(main, line, began);
            n_shown += 1;
        }
        if n_shown == 0 {
            main.push_str("<li>Nothing is known of it yet.");
        }
    }

    fn step(&self, main: &mut String, line: &Line, began: Ns) {
        let place = line.place.short();
        let from = line.from.map_or_else(String::new, |it| {
            let from = it.short();
            format!(" · from <a href=\"/entries/{from}\">{from}</a>")
        });
        let _ = write!(
            main,
            "<li class=\"{}\"><span class=\"at\">{}</span> <span>{}</span> \
             <span class=\"by\">{} · <a data-row id=\"e{place}\" \
             href=\"/entries/{place}\">entry {place}</a>{from} · <a \
             href=\"/entries/{place}#proof\">proof</a></span>",
            class(line.kind),
            since(line.at, began),
            clip(&line.text),
            clip(&line.by),
        );
        let fold = self.folds.iter().find(|(of, _)| *of == line.place);
        if let Some((_, event)) = fold.filter(|_| main.len() < BYTES_MAX * 3 / 4) {
            unfold(main, &place, event);
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string()).unwrap_or_default();
    first + letters.as_str()
}

fn class(kind: Kind) -> &'static str {
    if matches!(kind, Kind::SloAnomalyDetected | Kind::HealEscalated) {
        "seen"
    } else if matches!(kind, Kind::RunnerResult | Kind::L3ExecutionResult) {
        "done"
    } else if matches!(
        kind,
        Kind::GovernanceDecision | Kind::HealTriggerEvaluated | Kind::RemediationProposed
    ) {
        "decided"
    } else {
        "said"
    }
}

/// What an entry rests on, in place.
fn unfold(main: &mut String, place: &str, event: &Event) {
    let mut lists: Vec<(&str, &[String])> = Vec::new();
    if let Event::RcaHypothesis(it) = event {
        lists.push(("how it hangs together", &it.causal_chain));
        lists.push(("what it ruled out", &it.counterfactuals));
        lists.push(("what it rests on", &it.evidence_refs));
    } else if let Event::SloAnomalyDetected(it) = event {
        lists.push(("what it rests on", &it.evidence_refs));
    } else if let Event::RemediationProposed(it) = event {
        lists.push(("what would be done", &it.ops));
    } else if let Event::HealEscalated(it) = event {
        lists.push(("what was tried", &it.tried));
        lists.push(("who should act", &it.roles));
        lists.push(("what it rests on", &it.evidence_refs));
    }
    lists.retain(|(_, items)| !items.is_empty());
    if lists.is_empty() {
        return;
    }
    let names: Vec<&str> = lists.iter().map(|(name, _)| *name).collect();
    let _ = write!(main, "<details id=\"d{place}\"><summary>{}</summary>", names.join(", "));
    for (name, items) in lists {
        let _ = write!(main, "<p class=\"dim\">{name}</p><ul>");
        for item in items.iter().take(ITEMS) {
            let _ = write!(main, "<li>{}", reference(item));
        }
        if items.len() > ITEMS {
            let _ = write!(main, "<li>… {} more in the entry", items.len() - ITEMS);
        }
        main.push_str("</ul>");
    }
    main.push_str("</details>");
}

/// A reference to an entry as a link; anything else as text.
fn reference(text: &str) -> String {
    let place = text.starts_with("immutable:").then(|| text.parse::<Place>().ok()).flatten();
    match place.map(Place::short) {
        Some(place) => format!("<a href=\"/entries/{place}\">entry {place}</a>"),
        None => clip(text),
    }
}
