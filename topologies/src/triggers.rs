//! The trigger gate: whether a cause may be acted on at all (spec 40 §1–§6).
//!
//! Each hypothesis is answered by exactly one `heal.trigger.evaluated`, fired or not, with the
//! rule that decided and the command that would change it. The gate deliberately knows nothing
//! of votes, policy or runners; what it hands out is a permit, and what it keeps is who holds one.
//!
//! Invariants (LOCK-HEAL-1 to 5):
//! - An evaluation names the entry that it rests on: audit before insert.
//! - Permits are counted by trigger type and in all, never by cause, in the step that fires.
//! - Only an outcome gives a permit back; an attempt of unknown outcome keeps it.
//! - Over a ceiling, a budget or a latch nothing is tried again by itself.

mod cause;
mod effect;
mod gate;

use std::collections::BTreeMap;

use schemas::event::{ConfigActivated, Health, Pattern};
use schemas::{Event, Kind, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::config::{self, Vouch};
use crate::fold::{Folded, Output, Processor, View};
use crate::{detection, mode, said};

pub use gate::{Budget, budget};

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "triggers",
    reads: &[
        Kind::ConfigActivated,
        Kind::SloAnomalyDetected,
        Kind::RcaHypothesis,
        Kind::L3ExecutionResult,
        Kind::ModeChanged,
    ],
    says: &[Kind::HealTriggerEvaluated],
    step,
};

/// Held causes that are looked at again for one entry; the rest follow at the next tick, so that
/// what is said stays within [`crate::fold::SAID_BYTES_MAX`].
const AGAIN_MAX: usize = 50;
/// State key of the open attempts. Persisted: frozen.
const OPEN: &str = "open";

/// A cause as the gate takes it from a hypothesis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Raised {
    /// The hypothesis.
    pub hypothesis_id: Uuid,
    /// Its incident.
    pub incident_id: String,
    /// Service concerned.
    pub service: String,
    /// Which pattern leads.
    pub pattern: Pattern,
    /// 1–6.
    pub failure_class: u8,
    /// Of the hypothesis.
    pub confidence: f64,
    /// The hypothesis' entry.
    pub entry: String,
    /// Who raised it.
    pub raised_by: String,
    /// SHA-256 of the canonical cause, hex.
    pub cause_hash: String,
}

/// An attempt that holds a permit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The attempt.
    pub attempt_id: Uuid,
    /// Its type: the name of its playbook.
    pub trigger_type: String,
    /// When it fired.
    pub since: Ns,
    /// What it answers.
    pub raised: Raised,
}

/// What the gate remembers of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Gate {
    /// When its attempts fired, within the window of its budget, oldest first.
    fired: Vec<Ns>,
    /// End of the cooling window, by trigger type.
    cooling: BTreeMap<String, Ns>,
    /// What repairs came to, by playbook.
    effects: BTreeMap<String, Effect>,
    /// The newest cause that did not fire.
    held: Option<Held>,
    /// Digest of the configuration under which the latches stand.
    config: String,
}

/// What the repairs of one playbook came to on one service, judged by its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Effect {
    /// Repairs in a row without lasting effect.
    ineffective: u32,
    /// Until then a validated repair may still turn out to have had none; zero is settled.
    settling_until: Ns,
}

/// A cause that did not fire, and what it waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    raised: Raised,
    waits_for: WaitsFor,
}

/// What lets a held cause be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum WaitsFor {
    /// The end of its cooling window.
    Cooling,
    /// A mode that allows action.
    Mode,
    /// A person: a changed configuration.
    Person,
}

/// All open attempts, oldest first. Their number is bounded by the global ceiling.
pub fn all_open(view: &View<'_>) -> Vec<Open> {
    view.peek(PROCESSOR.name, OPEN).unwrap_or_default()
}

/// The open attempt with that id.
pub fn open(view: &View<'_>, attempt_id: Uuid) -> Option<Open> {
    all_open(view).into_iter().find(|it| it.attempt_id == attempt_id)
}

/// The open attempt on `service`.
pub fn open_for(view: &View<'_>, service: &str) -> Option<Open> {
    all_open(view).into_iter().find(|it| it.raised.service == service)
}

/// Playbooks that are latched on `service`, with the number of their ineffective repairs.
pub fn latched(view: &View<'_>, service: &str) -> Vec<(String, u32)> {
    let limit = config::profile(view).latch_after;
    let effects = gate_of(view, service).effects.into_iter();
    effects.map(|(name, it)| (name, it.ineffective)).filter(|(_, n)| *n >= limit).collect()
}

/// Repairs in a row of `service` by `playbook` that had no lasting effect.
pub fn ineffective(view: &View<'_>, service: &str, playbook: &str) -> u32 {
    gate_of(view, service).effects.get(playbook).map_or(0, |it| it.ineffective)
}

fn gate_of(view: &View<'_>, service: &str) -> Gate {
    view.peek(PROCESSOR.name, &format!("service/{service}")).unwrap_or_default()
}

fn save_gate(view: &mut View<'_>, service: &str, gate: &Gate) {
    view.save(&format!("service/{service}"), gate);
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        return due(view, entry, key);
    }
    if let Event::RcaHypothesis(hypothesis) = entry.event {
        return vec![match cause::raised(entry, hypothesis) {
            Ok(raised) => gate::evaluate(view, entry, &raised),
            Err((raised, why)) => gate::reject(entry, &raised, why),
        }];
    }
    if let Event::L3ExecutionResult(result) = entry.event {
        effect::close(view, entry, result);
    } else if let Event::SloAnomalyDetected(anomaly) = entry.event {
        if said::by(entry, detection::PROCESSOR.name) && anomaly.health_to == Health::Red {
            effect::came_back(view, &anomaly.service);
        }
    } else if let Event::ModeChanged(changed) = entry.event {
        if said::by(entry, mode::PROCESSOR.name) && changed.to.allows_action() {
            return again(view, entry, "", |it| it == WaitsFor::Mode);
        }
    } else if let Some(activated) = config::activated(view, entry) {
        return configured(view, entry, activated);
    }
    Vec::new()
}

fn due(view: &mut View<'_>, entry: &Folded<'_>, key: &str) -> Vec<Output> {
    if let Some(service) = key.strip_prefix("held/") {
        return again(view, entry, service, |it| it == WaitsFor::Cooling);
    }
    if let Some((playbook, service)) =
        key.strip_prefix("settled/").and_then(|it| it.split_once('/'))
    {
        effect::settle(view, service, playbook);
    }
    Vec::new()
}

/// A person changed the numbers or the service, so what waited for a person is looked at again.
/// A latch on a service goes with the configuration under which it came about.
fn configured(view: &mut View<'_>, entry: &Folded<'_>, activated: &ConfigActivated) -> Vec<Output> {
    if activated.name == "profile" {
        return again(view, entry, "", |it| it == WaitsFor::Person);
    }
    if let Some(playbook) = activated.name.strip_prefix(config::VOUCH) {
        return vouched(view, entry, playbook, activated);
    }
    let Some(service) = activated.name.strip_prefix("service/") else { return Vec::new() };
    let mut gate = gate_of(view, service);
    if gate.config == activated.digest {
        return Vec::new();
    }
    gate.config.clone_from(&activated.digest);
    gate.effects.clear();
    save_gate(view, service, &gate);
    again(view, entry, service, |it| it == WaitsFor::Person)
}

/// A person has done something about the cause and answers for the playbook: on the service
/// that is named its latch is lifted, and what waited for a person is looked at again.
fn vouched(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    playbook: &str,
    activated: &ConfigActivated,
) -> Vec<Output> {
    let body = activated.body.as_deref().unwrap_or_default();
    let Vouch { service, .. } = serde_json::from_str(body).unwrap_or_default();
    if !service.is_empty() {
        let mut gate = gate_of(view, &service);
        gate.effects.remove(playbook);
        save_gate(view, &service, &gate);
    }
    again(view, entry, &service, |it| it == WaitsFor::Person)
}

/// Looks again at causes that were held, of `service` or, where that is empty, of all. A cause
/// whose service is not red now is history: missing data never heals.
fn again(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    service: &str,
    freed: impl Fn(WaitsFor) -> bool,
) -> Vec<Output> {
    let gates: Vec<(String, Gate)> = match service {
        "" => view.list("service/"),
        name => vec![(format!("service/{name}"), gate_of(view, name))],
    };
    let mut said = Vec::new();
    for (key, mut gate) in gates {
        let Some(mut held) = gate.held.take_if(|it| freed(it.waits_for)) else { continue };
        if said.len() >= AGAIN_MAX {
            held.waits_for = WaitsFor::Cooling;
            view.wake(&format!("held/{}", held.raised.service), entry.now());
            gate.held = Some(held);
            view.save(&key, &gate);
            continue;
        }
        view.save(&key, &gate);
        let health = detection::health(view, &held.raised.service);
        if health.is_some_and(|it| it.colour == Health::Red) {
            said.push(gate::evaluate(view, entry, &held.raised));
        }
    }
    said
}
