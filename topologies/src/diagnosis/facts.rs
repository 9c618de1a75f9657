//! What diagnosis remembers of a service: recent changes, and the anomalies that stand.

use std::collections::BTreeMap;

use schemas::event::{ChangeKind, DeployPhase, Health, L3Outcome, Signal, SloAnomalyDetected};
use schemas::{Event, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, View};
use crate::{config, deployment, detection, execution, said};

/// Changes that are remembered of one service.
const CHANGES_MAX: usize = 6;

/// Somebody or something changed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) kind: ChangeKind,
    pub(super) at: Ns,
    /// The entry that says so.
    pub(super) reference: String,
    /// What changed, as a sentence without its full stop.
    pub(super) sentence: String,
}

/// An anomaly that was said and not taken back by a return to green.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) id: Uuid,
    pub(super) signal: Signal,
    pub(super) colour: Health,
    pub(super) at: Ns,
    /// The anomaly's entry, then what it rests on.
    pub(super) refs: Vec<String>,
    pub(super) sentence: String,
}

/// What is remembered of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) changes: Vec<Change>,
    pub(super) anomalies: BTreeMap<String, Standing>,
    /// Repairs in a row that ended without making it well.
    pub(super) failed_attempts: u32,
}

/// What is remembered of `service`.
pub(super) fn of(view: &View<'_>, service: &str) -> Facts {
    view.load(&key(service)).unwrap_or_default()
}

fn key(service: &str) -> String {
    format!("facts/{service}")
}

/// Remembers what an entry says of a service.
pub(super) fn take(view: &mut View<'_>, entry: &Folded<'_>) {
    if let Event::SloAnomalyDetected(it) = entry.event {
        if said::by(entry, detection::PROCESSOR.name) {
            anomaly(view, entry, it);
        }
    } else if let Event::L3ExecutionResult(it) = entry.event {
        let Some(service) = it.service.clone() else { return };
        if said::by(entry, execution::PROCESSOR.name) {
            let mut facts = of(view, &service);
            facts.failed_attempts = match it.outcome {
                L3Outcome::Promoted => 0,
                L3Outcome::RolledBack | L3Outcome::Quarantined | L3Outcome::Rejected => {
                    facts.failed_attempts.saturating_add(1)
                }
            };
            view.save(&key(&service), &facts);
        }
    } else if let Some((service, change)) = change(view, entry) {
        let mut facts = of(view, &service);
        facts.changes.push(change);
        facts.changes.sort_by_key(|it| it.at);
        if facts.changes.len() > CHANGES_MAX {
            facts.changes.remove(0);
        }
        view.save(&key(&service), &facts);
    }
}

fn anomaly(view: &mut View<'_>, entry: &Folded<'_>, it: &SloAnomalyDetected) {
    let mut facts = of(view, &it.service);
    let signal = it.signal.to_string();
    if it.health_to == Health::Green {
        facts.anomalies.remove(&signal);
    } else {
        let mut refs = vec![entry.reference()];
        refs.extend(it.evidence_refs.iter().cloned());
        let standing = Standing {
            id: it.anomaly_id,
            signal: it.signal,
            colour: it.health_to,
            at: entry.now(),
            refs,
            sentence: breach(it),
        };
        facts.anomalies.insert(signal, standing);
    }
    view.save(&key(&it.service), &facts);
}

/// The change that an entry speaks of.
fn change(view: &View<'_>, entry: &Folded<'_>) -> Option<(String, Change)> {
    let reference = entry.reference();
    if let Event::ChangeObserved(it) = entry.event {
        let at = it.at.unwrap_or_else(|| entry.now()).min(entry.now());
        let what = match it.kind {
            ChangeKind::Deploy => "was deployed",
            ChangeKind::Flag => "flags were switched to",
            ChangeKind::Config => "configuration was changed to",
            ChangeKind::Commit => "code was committed as",
        };
        let sentence = match it.kind {
            ChangeKind::Deploy => format!("version {} {what}", it.version),
            ChangeKind::Flag | ChangeKind::Config | ChangeKind::Commit => {
                format!("its {what} {}", it.version)
            }
        };
        return Some((it.service.clone(), Change { kind: it.kind, at, reference, sentence }));
    }
    if let Event::DeployState(it) = entry.event {
        let is_commit = it.state == DeployPhase::Commit;
        if !is_commit || !said::by(entry, deployment::PROCESSOR.name) {
            return None;
        }
        let version = it.version.as_deref().unwrap_or("a release");
        let sentence = format!("version {version} was committed");
        let change = Change { kind: ChangeKind::Deploy, at: entry.now(), reference, sentence };
        return Some((it.service.clone(), change));
    }
    let it = config::activated(view, entry)?;
    let service = it.name.strip_prefix("service/")?;
    // The first version is its registration.
    if it.version < 2 {
        return None;
    }
    let sentence = format!("its configuration was activated in version {}", it.version);
    let change = Change { kind: ChangeKind::Config, at: entry.now(), reference, sentence };
    Some((service.to_owned(), change))
}

/// What an anomaly says, in words, without a full stop.
pub(crate) fn breach(it: &SloAnomalyDetected) -> String {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let (observed, threshold) = (it.observed, it.threshold);
    let (is, limit) = (percent(observed), percent(threshold));
    if it.health_to == Health::Unknown {
        return format!("its {} is not known any more", it.signal);
    }
    match it.signal {
        Signal::Heartbeat => match it.detector.as_str() {
            "process" => "its process is gone".to_owned(),
            "drift_lock" if it.health_to == Health::Amber => {
                "its environment is not the desired one".to_owned()
            }
            "drift_lock" => "it failed with a changed environment".to_owned(),
            _ => format!("{observed:.0} probes in a row failed"),
        },
        Signal::ErrorRate => format!("{is} of its answers fail, the limit is {limit}"),
        Signal::ApiP95Ms => {
            format!("its p95 is {observed:.0} ms, the limit is {threshold:.0} ms")
        }
        Signal::CpuLoad => format!("it takes {is} of the CPU, the limit is {limit} for 2 min"),
        Signal::MemPressure => format!("it takes {is} of memory, the limit is {limit} for 2 min"),
        Signal::QueueLag | Signal::DlqDepth => {
            format!("{observed:.0} items wait, the limit is {threshold:.0}")
        }
        Signal::DiskIo => format!("its disk is at {observed:.0}, the limit is {threshold:.0}"),
        Signal::NetErrors => format!("{is} of its network operations fail, the limit is {limit}"),
    }
}
