//! Samples of a registered service become facts, counts and probes.

use schemas::Ns;
use schemas::event::{Series, Signal};

use super::health::{Fact, ServiceHealth, Sustained};
use super::window::Window;
use crate::profile::Profile;

/// Seconds for which a process must have been up to count as started (contract of the runner's
/// `start_failed`: it ended within two).
const START_GRACE: Ns = Ns::from_s(2);
/// A restart ends what the old process was asked and had not answered; those failures are counted
/// at the end of an interval in which the new one already runs.
const IN_FLIGHT: Ns = Ns::from_ms(500);
/// By so much an uptime may go backwards without a restart, seconds: clocks are read twice.
const UPTIME_JITTER_S: f64 = 0.25;
/// A sample whose time lies further ahead of the last tick is dated with the tick: its host's
/// clock is wrong. Ticks themselves may be 5 s old while nothing happens.
const AHEAD_MAX: Ns = Ns::from_s(10);
/// No interval holds more answers than this; a larger number is a mistake or a lie.
const COUNT_MAX: f64 = 1e9;
/// Shares of CPU and memory above which time begins to count: amber, red (spec 20 §2).
const CPU: (f64, f64) = (0.80, 0.90);
const MEMORY: (f64, f64) = (0.80, 0.95);

/// What a series speaks of. Any other key of a service is watched like any other series.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    Probe,
    ProcessUp,
    Uptime,
    EnvOk,
    StartFailed,
    Requests,
    Errors,
    Latency { le: String },
    Cpu,
    Memory,
}

impl Meaning {
    /// The meaning of a series for its service's health; `None` for one that is only watched.
    /// A shadow answers nobody, so it says nothing of its service.
    pub(super) fn of(series: &Series) -> Option<Self> {
        if series.labels.get("role").is_some_and(|role| role == "shadow") {
            return None;
        }
        Some(match series.key.as_str() {
            "probe" => Meaning::Probe,
            "process_up" => Meaning::ProcessUp,
            "svc_uptime" => Meaning::Uptime,
            "env_ok" => Meaning::EnvOk,
            "start_failed" => Meaning::StartFailed,
            "requests" => Meaning::Requests,
            "errors" => Meaning::Errors,
            "latency_bucket" => {
                Meaning::Latency { le: series.labels.get("le").cloned().unwrap_or_default() }
            }
            "cpu_load" => Meaning::Cpu,
            "mem_used" => Meaning::Memory,
            _ => return None,
        })
    }
}

/// One sample of a registered service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) meaning: Meaning,
    pub(super) slot: String,
    pub(super) at: Ns,
    pub(super) value: f64,
}

/// Takes the points of one sealed range, in their order.
pub(super) fn take(
    health: &mut ServiceHealth,
    window: &mut Window,
    points: &[Point],
    now: Ns,
    profile: &Profile,
) {
    for point in points {
        let at = if point.at > now + AHEAD_MAX { now } else { point.at };
        if now.since(at) > Ns::from_ms(profile.stale_after_ms) {
            // Nothing is healed on what was true a while ago, however late it comes.
            continue;
        }
        health.seen_at = health.seen_at.max(at.min(now));
        take_one(health, window, point, at, now, profile);
    }
}

fn take_one(
    health: &mut ServiceHealth,
    window: &mut Window,
    point: &Point,
    at: Ns,
    now: Ns,
    profile: &Profile,
) {
    let holds = point.value >= 0.5;
    let count = point.value.clamp(0.0, COUNT_MAX) as u64;
    // A probe or a count is of the time when it was measured, and never later than the tick.
    let seen = at.min(now);
    match &point.meaning {
        Meaning::Probe => {
            health.is_probed = true;
            if holds {
                health.pass(seen)
            } else {
                health.miss()
            }
            see(health, Signal::Heartbeat, seen);
        }
        Meaning::ProcessUp => process(health, window, holds, at, seen),
        Meaning::Uptime => uptime(health, window, point, at),
        Meaning::EnvOk => health.env_ok = Some(Fact::after(health.env_ok, holds, at)),
        Meaning::StartFailed if holds => health.start_failed = Some(at),
        Meaning::StartFailed => {}
        Meaning::Requests => {
            if let Some(part) = window.part(at, profile) {
                part.requests(count);
            }
            see(health, Signal::ErrorRate, seen);
        }
        Meaning::Errors => {
            if let Some(part) = window.part(at, profile) {
                part.errors(count);
            }
        }
        Meaning::Latency { le } => {
            if let Some(part) = window.part(at, profile) {
                part.latency(le, count);
            }
            see(health, Signal::ApiP95Ms, seen);
        }
        Meaning::Cpu => {
            health.cpu = Some(sustain(health.cpu, point.value, at, CPU));
            see(health, Signal::CpuLoad, seen);
        }
        Meaning::Memory => {
            health.memory = Some(sustain(health.memory, point.value, at, MEMORY));
            see(health, Signal::MemPressure, seen);
        }
    }
}

fn process(health: &mut ServiceHealth, window: &mut Window, up: bool, at: Ns, seen: Ns) {
    let before = health.process_up;
    let fact = Fact::after(before, up, at);
    health.process_up = Some(fact);
    if up && before.is_some_and(|it| !it.holds) {
        window.reset(at);
    }
    health.downs = if up { 0 } else { health.downs.saturating_add(1) };
    if !up {
        health.passes.clear();
    }
    let is_settled = up && at.since(fact.since) >= START_GRACE;
    if is_settled && health.start_failed.is_some_and(|it| it < fact.since) {
        health.start_failed = None;
    }
    if !health.is_probed && is_settled {
        // Nobody probes it: a process that has stayed up stands for a passed probe.
        health.pass(seen);
    }
    // A process that is gone is as good as a failed probe, and nobody may be probing it any more.
    // One that exists says nothing of whether it answers.
    if !up || !health.is_probed {
        see(health, Signal::Heartbeat, seen);
    }
}

/// A counter that goes backwards is a new start: the answers before it say nothing of it.
fn uptime(health: &mut ServiceHealth, window: &mut Window, point: &Point, at: Ns) {
    let before = health.uptime_s.insert(point.slot.clone(), point.value);
    if before.is_none_or(|it| point.value + UPTIME_JITTER_S > it) {
        return;
    }
    let started = at.since(Ns((point.value.max(0.0) * 1e9) as u64));
    window.reset(started + IN_FLIGHT);
    if let Some(fact) = &mut health.process_up
        && fact.holds
    {
        fact.since = started;
    }
}

fn sustain(before: Option<Sustained>, value: f64, at: Ns, (amber, red): (f64, f64)) -> Sustained {
    let before = before.unwrap_or_default();
    let since = |limit: f64, since: Option<Ns>| (value > limit).then(|| since.unwrap_or(at));
    Sustained {
        value,
        amber_since: since(amber, before.amber_since),
        red_since: since(red, before.red_since),
    }
}

fn see(health: &mut ServiceHealth, signal: Signal, seen: Ns) {
    let signal = health.signal_mut(signal);
    signal.seen_at = signal.seen_at.max(seen);
}
