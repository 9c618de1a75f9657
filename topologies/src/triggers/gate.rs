//! The rules of the gate, in order, and the evaluation that names the one that decided.

use schemas::event::{HealTriggerEvaluated, TriggerVerdict};
use schemas::{Ns, Uuid};

use super::{Gate, Held, OPEN, Open, Raised, WaitsFor, all_open, gate_of, save_gate};
use crate::config::{self, Service};
use crate::fold::{Folded, Output, View};
use crate::playbooks::{self, Playbook};
use crate::profile::Profile;
use crate::{escalation, mode, rules, said};

/// How a service's budget of attempts stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Attempts in the window that ends now.
    pub used: u32,
    /// Attempts allowed in it.
    pub max: u32,
    /// Its length.
    pub window: Ns,
    /// When the oldest of them leaves it; `None` where none is in it.
    pub next_at: Option<Ns>,
}

impl Budget {
    /// Whether nothing is left of it.
    pub fn is_spent(&self) -> bool {
        self.used >= self.max
    }
}

/// The budget of `service` as it stands at `now`: its own numbers, or the profile's.
pub fn budget(view: &View<'_>, now: Ns, service: &str) -> Budget {
    let configured = config::service(view, service).unwrap_or_default();
    of_gate(&config::profile(view), &configured, &gate_of(view, service), now)
}

fn of_gate(profile: &Profile, service: &Service, gate: &Gate, now: Ns) -> Budget {
    let own = |own: u64, profile: u64| if own == 0 { profile } else { own };
    let window = Ns::from_ms(own(service.attempts_window_ms, profile.attempts_window_ms));
    let max = own(service.attempts_max.into(), profile.attempts_max.into()) as u32;
    let mut within = gate.fired.iter().filter(|it| now.since(**it) < window);
    let oldest = within.next();
    let used = within.count() as u32 + u32::from(oldest.is_some());
    Budget { used, max, window, next_at: oldest.map(|it| *it + window) }
}

/// What the rules come to.
struct Ruling {
    verdict: TriggerVerdict,
    trigger_type: &'static str,
    reason: String,
    debounce_until: Option<Ns>,
    /// What lets the cause be looked at again; `None` where it joined or was answered for good.
    waits_for: Option<WaitsFor>,
}

impl Ruling {
    fn new(verdict: TriggerVerdict, trigger_type: &'static str, reason: String) -> Self {
        let waits_for = Some(WaitsFor::Person);
        Ruling { verdict, trigger_type, reason, debounce_until: None, waits_for }
    }

    fn not_fired(trigger_type: &'static str, reason: String) -> Self {
        Ruling::new(TriggerVerdict::NotFired, trigger_type, reason)
    }

    fn waiting_for(mut self, waits_for: impl Into<Option<WaitsFor>>) -> Self {
        self.waits_for = waits_for.into();
        self
    }
}

/// The trigger type of an evaluation that ended before one was chosen.
const NO_TYPE: &str = "none";

/// Evaluates a cause and, where every rule lets it, opens an attempt in the same step.
pub(super) fn evaluate(view: &mut View<'_>, entry: &Folded<'_>, raised: &Raised) -> Output {
    let now = entry.now();
    let profile = config::profile(view);
    let open = all_open(view);
    let mut gate = gate_of(view, &raised.service);
    let ruling = rule(view, now, &profile, &open, &gate, raised);
    let attempt_id = attempt_id(entry, raised);
    let output = evaluation(entry, &profile, &open, raised, attempt_id, &ruling);
    if ruling.verdict == TriggerVerdict::Fired {
        fire(view, entry, &mut gate, raised, attempt_id, &ruling);
    } else if let Some(waits_for) = ruling.waits_for {
        gate.held = Some(Held { raised: raised.clone(), waits_for });
        if let Some(until) = ruling.debounce_until {
            view.wake(&format!("held/{}", raised.service), until);
        }
    }
    save_gate(view, &raised.service, &gate);
    output
}

/// The answer to a cause whose provenance does not hold; it changes nothing.
pub(super) fn reject(entry: &Folded<'_>, raised: &Raised, why: String) -> Output {
    let ruling = Ruling::new(TriggerVerdict::RejectedProvenance, NO_TYPE, why);
    let profile = Profile { ceiling_per_type: 0, ..Profile::default() };
    evaluation(entry, &profile, &[], raised, attempt_id(entry, raised), &ruling)
}

/// One attempt for each cause and place at which it is evaluated.
fn attempt_id(entry: &Folded<'_>, raised: &Raised) -> Uuid {
    Uuid::named("healwright/attempt/v1", &[&raised.hypothesis_id.0, &said::place(entry)])
}

fn rule(
    view: &View<'_>,
    now: Ns,
    profile: &Profile,
    open: &[Open],
    gate: &Gate,
    raised: &Raised,
) -> Ruling {
    let name = raised.service.as_str();
    let Some(service) = config::service(view, name) else {
        return Ruling::not_fired(
            NO_TYPE,
            format!("{name:?} is not under care; `healwright watch` takes it under care"),
        );
    };
    if let Some(it) = open.iter().find(|it| it.raised.service == name) {
        let (what, since) = (&it.trigger_type, said::span(now.since(it.since)));
        let reason = format!("joins the attempt by {what} that is open on {name} for {since}");
        return Ruling::not_fired(NO_TYPE, reason).waiting_for(None);
    }
    if let Err(why) = mode::allows_action(view) {
        return Ruling::not_fired(NO_TYPE, why).waiting_for(WaitsFor::Mode);
    }
    if raised.failure_class >= 6 {
        let reason = "class 6: nothing acts by itself on a critical failure; it is a person's";
        return Ruling::not_fired(NO_TYPE, reason.to_owned());
    }
    let (candidates, ruled_out) = playbooks::candidates(view, now, &service, raised.pattern);
    let latched = |it: &Playbook| ineffective(gate, it) >= profile.latch_after;
    let free = candidates.iter().find(|it| !latched(it)).or_else(|| candidates.first());
    let Some(playbook) = free else {
        let reason = format!("no playbook may act: {}", ruled_out.join("; "));
        return Ruling::not_fired(NO_TYPE, reason);
    };
    let playbook: &Playbook = playbook;
    only_detects(view, profile, playbook, raised)
        .or_else(|| brakes(view, profile, &service, gate, now, playbook))
        .or_else(|| cools(gate, now, playbook, name))
        .or_else(|| ceilings(profile, open, playbook))
        .unwrap_or_else(|| fires(profile, &service, gate, now, open, playbook))
}

fn ineffective(gate: &Gate, playbook: &Playbook) -> u32 {
    gate.effects.get(playbook.name).map_or(0, |it| it.ineffective)
}

/// Detection ships before repair, and a weak hypothesis goes to a person.
fn only_detects(
    view: &View<'_>,
    profile: &Profile,
    playbook: &Playbook,
    raised: &Raised,
) -> Option<Ruling> {
    let name = playbook.name;
    if !profile.triggers_repair {
        let reason = format!(
            "detect_only: under profile {} the trigger {name} only detects; set \
             `triggers_repair = true` under `numbers` of the configuration once it is proven",
            profile.name
        );
        return Some(Ruling::not_fired(name, reason));
    }
    if let Some(corrective) = escalation::corrective(view, name) {
        let what_now = match rules::are_second(view) {
            true => format!("vouch for it with `healwright trust vouch {name}`"),
            false => "change the profile".to_owned(),
        };
        let reason = format!(
            "detect_only: {name} was escalated {} times within 7 days and only detects since {}; \
             remove the cause and {what_now}",
            corrective.recurrence_count, corrective.opened_at
        );
        return Some(Ruling::not_fired(name, reason));
    }
    let minimum = profile.hypothesis_confidence_min;
    // Not `<`: a confidence that is no number is no confidence.
    if raised.confidence >= minimum {
        return None;
    }
    let reason = format!(
        "confidence {:.2} is below {minimum:.2}, so a person decides; \
         `healwright incident show {}` shows the evidence",
        raised.confidence, raised.incident_id
    );
    Some(Ruling::not_fired(name, reason))
}

/// The budget of the service and the latch of the playbook. Both are named where both hold,
/// because lifting one of them would not help.
fn brakes(
    view: &View<'_>,
    profile: &Profile,
    service: &Service,
    gate: &Gate,
    now: Ns,
    playbook: &Playbook,
) -> Option<Ruling> {
    let name = &service.name;
    let budget = of_gate(profile, service, gate, now);
    let mut reasons = Vec::new();
    if let Some(next_at) = budget.next_at.filter(|_| budget.is_spent()) {
        reasons.push(format!(
            "budget spent: {} of {} attempts for {name} in {}; the next one is possible at \
             {next_at}, or raise it with `healwright watch --budget` or `attempts_max` of the \
             configuration",
            budget.used,
            budget.max,
            said::span(budget.window),
        ));
    } else if budget.is_spent() {
        reasons.push(format!("budget is 0 attempts for {name}; `attempts_max` allows some"));
    }
    let ineffective = ineffective(gate, playbook);
    if ineffective >= profile.latch_after {
        let vouch = match rules::are_second(view) {
            true => format!(", or `healwright trust vouch {} --service {name}`", playbook.name),
            false => String::new(),
        };
        reasons.push(format!(
            "latched: {ineffective} repairs of {name} by {} had no lasting effect; a changed \
             configuration of {name} lifts it{vouch}",
            playbook.name
        ));
    }
    let reason = (!reasons.is_empty()).then(|| reasons.join("; and "))?;
    Some(Ruling::new(TriggerVerdict::OverBudget, playbook.name, reason))
}

fn cools(gate: &Gate, now: Ns, playbook: &Playbook, service: &str) -> Option<Ruling> {
    let until = *gate.cooling.get(playbook.name).filter(|it| now < **it)?;
    let left = said::span(until.since(now));
    let reason = format!(
        "debounced: {} ran on {service} and is looked at again in {left}, if {service} is still \
         red then",
        playbook.name
    );
    let ruling = Ruling::new(TriggerVerdict::Debounced, playbook.name, reason);
    Some(Ruling { debounce_until: Some(until), ..ruling.waiting_for(WaitsFor::Cooling) })
}

fn ceilings(profile: &Profile, open: &[Open], playbook: &Playbook) -> Option<Ruling> {
    let name = playbook.name;
    let of_type = of_type(open, name);
    let (what, n, ceiling) = if of_type >= profile.ceiling_per_type {
        (format!("of type {name}"), of_type, profile.ceiling_per_type)
    } else if open.len() as u32 >= profile.ceiling_global {
        ("in all".to_owned(), open.len() as u32, profile.ceiling_global)
    } else {
        return None;
    };
    let reason = format!(
        "over the ceiling: {n} of {ceiling} attempts {what} are open; one ends with its outcome, \
         `healwright incident list` shows them"
    );
    Some(Ruling::new(TriggerVerdict::OverBudget, name, reason))
}

fn fires(
    profile: &Profile,
    service: &Service,
    gate: &Gate,
    now: Ns,
    open: &[Open],
    playbook: &Playbook,
) -> Ruling {
    let budget = of_gate(profile, service, gate, now);
    let reason = format!(
        "{} on {}: attempt {} of {} in {}; open are {} of {} of this type and {} of {} in all",
        playbook.name,
        service.name,
        budget.used + 1,
        budget.max,
        said::span(budget.window),
        of_type(open, playbook.name),
        profile.ceiling_per_type,
        open.len(),
        profile.ceiling_global
    );
    let until = now + Ns::from_ms(profile.debounce_ms);
    let ruling = Ruling::new(TriggerVerdict::Fired, playbook.name, reason);
    Ruling { debounce_until: Some(until), ..ruling }
}

/// The counter of the type and the global pool rise here, in the step that says so.
fn fire(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    gate: &mut Gate,
    raised: &Raised,
    attempt_id: Uuid,
    ruling: &Ruling,
) {
    let now = entry.now();
    let service = config::service(view, &raised.service).unwrap_or_default();
    let window = of_gate(&config::profile(view), &service, gate, now).window;
    gate.held = None;
    gate.fired.retain(|it| now.since(*it) < window);
    gate.fired.push(now);
    gate.cooling.retain(|_, until| now < *until);
    gate.cooling.extend(ruling.debounce_until.map(|it| (ruling.trigger_type.to_owned(), it)));
    let mut open = all_open(view);
    let trigger_type = ruling.trigger_type.to_owned();
    open.push(Open { attempt_id, trigger_type, since: now, raised: raised.clone() });
    view.save(OPEN, &open);
}

fn of_type(open: &[Open], trigger_type: &str) -> u32 {
    open.iter().filter(|it| it.trigger_type == trigger_type).count() as u32
}

fn evaluation(
    entry: &Folded<'_>,
    profile: &Profile,
    open: &[Open],
    raised: &Raised,
    attempt_id: Uuid,
    ruling: &Ruling,
) -> Output {
    let evaluated = HealTriggerEvaluated {
        attempt_id,
        trigger_id: ruling.trigger_type.to_owned(),
        trigger_type: ruling.trigger_type.to_owned(),
        cause_hash: raised.cause_hash.clone(),
        raised_by: raised.raised_by.clone(),
        fired: ruling.verdict == TriggerVerdict::Fired,
        verdict: ruling.verdict,
        active_before: of_type(open, ruling.trigger_type),
        ceiling: profile.ceiling_per_type,
        debounce_until: ruling.debounce_until,
        audit_log_id: raised.entry.clone(),
        coalesced_count: 1,
        window_start: Some(entry.now()),
        window_end: Some(entry.now()),
        service: Some(raised.service.clone()),
        reason: Some(ruling.reason.clone()),
        hypothesis_id: Some(raised.hypothesis_id),
    };
    let incident = Some(raised.incident_id.clone()).filter(|it| !it.is_empty());
    Output::new(ruling.trigger_type, evaluated).of_incident(incident)
}
