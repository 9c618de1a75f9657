//! Trust: how much a component may do alone, learnt from what its actions came to (spec 90).
//!
//! A component is a playbook, or `deployment` for rollouts. Trust is a moving average of
//! outcomes; a playbook's weight is (successes + 1) ÷ (attempts + 2), it orders proposals and
//! never passes a gate. Each change is a `kpi.trust.update`.
//!
//! Invariants:
//! - Only outcomes that execution or deployment derived count; a copy from outside never does.
//! - An outcome counts once, and one that nobody knows counts not at all.
//! - Trust stays within `FLOOR` and 1.
//! - Trust says how much a component may do alone, and never that it may not be asked for: the
//!   way back is successes that a person has approved, or a person's signed word.

use std::collections::BTreeMap;

use schemas::event::{ConfigActivated, KpiTrustUpdate, L3ExecutionResult, L3Outcome, SkillWeight};
use schemas::{Event, Kind, Ns};
use serde::{Deserialize, Serialize};

use crate::config::Vouch;
use crate::fold::{Folded, Output, Processor, View};
use crate::{config, deployment, execution, playbooks, proposals, said};

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "trust",
    reads: &[Kind::ConfigActivated, Kind::L3ExecutionResult],
    says: &[Kind::KpiTrustUpdate],
    step,
};

/// Share of a new outcome in the moving average (spec 90 §2).
const ALPHA: f64 = 0.1;
/// Trust before anything is known (spec 90 §2).
const START: f64 = 0.5;
/// Trust never falls below.
const FLOOR: f64 = 0.1;
/// After this time without an outcome trust falls by 1 % a day.
const DAY: Ns = Ns::from_s(24 * 3600);
/// Days without an outcome after which trust halves in [`HALF_LIFE_DAYS`].
const IDLE_DAYS_HALF_LIFE: u64 = 7;
/// See [`IDLE_DAYS_HALF_LIFE`].
const HALF_LIFE_DAYS: f64 = 30.0;
/// The reason under which a profile vouches for its components: no idle decay (spec 00 §2).
const VOUCHED: &str = "vouched_by_operator";

/// Where a component stands that an operator vouches for (spec 00 §2).
const VOUCHED_TRUST: f64 = 0.80;

/// What is known of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Component {
    trust: f64,
    successes: u64,
    attempts: u64,
    /// When it was started or last judged.
    judged_at: Ns,
    /// Whole days without an outcome.
    idle_days: u64,
}

/// Trust in that component, 0–1.
pub fn of(view: &View<'_>, component: &str) -> f64 {
    known(view, component).map_or_else(|| config::profile(view).trust_start, |it| it.trust)
}

/// The weight of a playbook: 0.5 before its first outcome.
pub fn weight(view: &View<'_>, playbook: &str) -> f64 {
    known(view, playbook).map_or(0.5, |it| it.weight())
}

impl Component {
    fn new(trust: f64, judged_at: Ns) -> Self {
        Component { trust, successes: 0, attempts: 0, judged_at, idle_days: 0 }
    }

    fn weight(&self) -> f64 {
        (self.successes + 1) as f64 / (self.attempts + 2) as f64
    }
}

fn known(view: &View<'_>, component: &str) -> Option<Component> {
    view.peek(PROCESSOR.name, &format!("component/{component}"))
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        let component = key.strip_prefix("component/").unwrap_or(key);
        return decay(view, component).into_iter().collect();
    }
    if let Event::L3ExecutionResult(result) = entry.event {
        return judge(view, entry, result).into_iter().collect();
    }
    let Some(activated) = config::activated(view, entry) else { return Vec::new() };
    if activated.name == "profile" {
        return start(view, entry);
    }
    let vouched = activated.name.strip_prefix(config::VOUCH);
    vouched.map(|name| vouch(view, entry, name, activated)).into_iter().collect()
}

/// A profile sets where components without a history start. What was earned stays; what was
/// lost, an operator who changes the profile may vouch for anew.
fn start(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let profile = config::profile(view);
    let (start, vouched) = (profile.trust_start, profile.trust_start_reason == VOUCHED);
    let names = playbooks::ALL.iter().map(|it| it.name).chain([deployment::PROCESSOR.name]);
    let mut said = Vec::new();
    for name in names {
        let mut component = known(view, name).unwrap_or_else(|| Component::new(START, entry.now()));
        let before = component.trust;
        let untried = component.attempts == 0 && config::vouched_at(view, name).is_none();
        if untried || vouched && before < start {
            component.trust = start;
        }
        keep(view, name, &component, &profile.trust_start_reason);
        if before != component.trust {
            let reason = match profile.trust_start_reason.as_str() {
                "" => format!("start of profile {}", profile.name),
                reason => reason.to_owned(),
            };
            said.push(update(view, name, before, reason, BTreeMap::new()));
        }
    }
    said
}

/// A person answers for a component. It then stands where a profile that vouches would start it;
/// what it earned beyond that stays.
fn vouch(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    name: &str,
    activated: &ConfigActivated,
) -> Output {
    let profile = config::profile(view);
    let mut component =
        known(view, name).unwrap_or_else(|| Component::new(profile.trust_start, entry.now()));
    let before = component.trust;
    component.trust = before.max(VOUCHED_TRUST);
    component.judged_at = entry.now();
    component.idle_days = 0;
    keep(view, name, &component, &profile.trust_start_reason);
    let body = activated.body.as_deref().unwrap_or_default();
    let Vouch { reason, .. } = serde_json::from_str(body).unwrap_or_default();
    let reason = format!("{VOUCHED}: {} says {reason}", activated.approved_by);
    update(view, name, before, reason, BTreeMap::new())
}

/// Where a playbook stands with the gate of unattended action, as the end of a sentence, and
/// what changes that.
pub(crate) fn standing(view: &View<'_>, playbook: &str) -> String {
    let (trust, minimum) = (of(view, playbook), config::profile(view).trust_min);
    if trust >= minimum {
        return format!(
            "; trust in {playbook} fell to {trust:.2}, and it acts alone from {minimum:.2} on"
        );
    }
    let n_more = successes_until(trust, minimum);
    format!(
        "; trust in {playbook} fell to {trust:.2}, and below {minimum:.2} a person approves what \
         it proposes: {n_more} approved repairs that help raise it again, or \
         `healwright trust vouch {playbook}`"
    )
}

/// Successes in a row that raise `trust` to `minimum`; at most 100 are counted.
pub fn successes_until(trust: f64, minimum: f64) -> u32 {
    let mut reached = trust;
    (0..100)
        .find(|_| {
            let enough = reached >= minimum;
            reached += ALPHA * (1.0 - reached);
            enough
        })
        .unwrap_or(100)
}

/// Keeps a component and, unless the operator vouches for it, the day on which it decays.
fn keep(view: &mut View<'_>, name: &str, component: &Component, start_reason: &str) {
    let key = format!("component/{name}");
    view.save(&key, component);
    if start_reason == VOUCHED {
        view.unwake(&key);
    } else {
        // Counted from the last outcome, so that late ticks do not add up.
        view.wake(&key, component.judged_at + Ns(DAY.0 * (component.idle_days + 1) + 1));
    }
}

fn judge(view: &mut View<'_>, entry: &Folded<'_>, result: &L3ExecutionResult) -> Option<Output> {
    let of_remediation = said::by(entry, execution::PROCESSOR.name);
    let of_release = said::by(entry, deployment::PROCESSOR.name);
    if !of_remediation && !of_release {
        return None;
    }
    let proposal = proposals::case(view, result.proposal_id).map(|it| it.proposal.playbook);
    // Nothing is known to have run: a refusal or an unknown is no outcome.
    if proposal.is_some() && result.deploy_ref.is_empty() {
        return None;
    }
    // A bad release that was rolled back is what rollouts are for, and one that was refused
    // never ran: neither speaks for or against them.
    if proposal.is_none() && result.outcome != L3Outcome::Promoted {
        return None;
    }
    let name = proposal.unwrap_or_else(|| deployment::PROCESSOR.name.to_owned());
    let succeeded = result.outcome == L3Outcome::Promoted;
    let profile = config::profile(view);
    let mut component =
        known(view, &name).unwrap_or_else(|| Component::new(profile.trust_start, entry.now()));
    let before = component.trust;
    let outcome = if succeeded { 1.0 } else { 0.0 };
    component.trust = (before + ALPHA * (outcome - before)).max(FLOOR);
    component.attempts += 1;
    component.successes += u64::from(succeeded);
    component.judged_at = entry.now();
    component.idle_days = 0;
    keep(view, &name, &component, &profile.trust_start_reason);
    let reason = result.reason.clone().unwrap_or_else(|| result.outcome.to_string());
    let mut deltas = BTreeMap::from([("success".to_owned(), outcome)]);
    let mttr = result.shadow_deltas.get("repair_s");
    deltas.extend(mttr.map(|it| ("mttr_s".to_owned(), *it)));
    let output = update(view, &name, before, reason, deltas);
    Some(output.of_incident(entry.envelope.correlation.clone()))
}

/// A day without an outcome: 1 %, from the seventh on the half-life; both below the 5 % a day
/// that is the most trust may lose.
fn decay(view: &mut View<'_>, name: &str) -> Option<Output> {
    let mut component = known(view, name)?;
    component.idle_days += 1;
    let before = component.trust;
    let factor = if component.idle_days < IDLE_DAYS_HALF_LIFE {
        0.99
    } else {
        libm::exp2(-1.0 / HALF_LIFE_DAYS)
    };
    component.trust = (before * factor).max(FLOOR);
    let start_reason = config::profile(view).trust_start_reason;
    if start_reason == VOUCHED {
        return None;
    }
    keep(view, name, &component, &start_reason);
    let reason = format!("idle for {} days", component.idle_days);
    (component.trust < before).then(|| update(view, name, before, reason, BTreeMap::new()))
}

fn update(
    view: &View<'_>,
    component: &str,
    before: f64,
    reason: String,
    kpi_deltas: BTreeMap<String, f64>,
) -> Output {
    let weights = playbooks::ALL
        .iter()
        .map(|it| SkillWeight { name: it.name.to_owned(), weight: weight(view, it.name) });
    let update = KpiTrustUpdate {
        component: component.to_owned(),
        before,
        after: of(view, component),
        reason,
        kpi_deltas,
        threshold_changes: Vec::new(),
        skill_weights: weights.collect(),
    };
    Output::new(component, update).with_priority(3)
}
