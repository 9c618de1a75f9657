//! The colour of each signal, and of the service.
//!
//! A signal turns bad on evidence and good on evidence; between the two it keeps its colour, so
//! that a share hovering at a limit does not flap.

use schemas::Ns;
use schemas::event::{Health, Signal};

use super::health::{Phase, ServiceHealth, SignalHealth, Sustained};
use super::window::Window;
use crate::profile::Profile;
use crate::stats::{Answer, latency_exceeds};

/// Samples in a row without a process until the service is red: one alone may be taken between
/// the end of the old and the start of the new.
const DOWNS_RED: u32 = 2;
/// How long CPU or memory must stay above its limit (spec 20 §3).
const SUSTAINED: Ns = Ns::from_s(120);
/// Answers in the baseline below which p95 is held against fixed limits only. On 20 samples
/// "twice the baseline" fires in 17 % of windows, on 300 in none.
const BASELINE_MIN: u64 = 300;

/// What a detector found.
struct Finding {
    colour: Health,
    observed: f64,
    threshold: f64,
    window_s: u32,
    detector: &'static str,
}

/// Judges every signal that was ever seen, then the service.
pub(super) fn judge(health: &mut ServiceHealth, window: &mut Window, profile: &Profile, now: Ns) {
    window.roll(now, health.colour, profile);
    let stale_after = Ns::from_ms(profile.stale_after_ms);
    for index in 0..health.signals.len() {
        let signal = &health.signals[index];
        let is_stale = now.since(signal.seen_at) > stale_after;
        if is_stale && signal.signal == Signal::Heartbeat {
            // Silence breaks a row of probes, passed or failed.
            health.passes.clear();
            health.misses = 0;
            health.downs = 0;
        }
        let finding = if is_stale { None } else { find(health, window, profile, index, now) };
        let signal = &mut health.signals[index];
        signal.is_stale = is_stale;
        signal.turn(finding.as_ref().map_or(Health::Unknown, |it| it.colour), now);
        if let Some(finding) = finding {
            signal.observed = finding.observed;
            signal.threshold = finding.threshold;
            signal.window_s = finding.window_s;
            signal.detector = finding.detector.to_owned();
        } else if is_stale {
            signal.threshold = stale_after.as_s();
            signal.window_s = stale_after.as_s() as u32;
        }
    }
    learn(health, profile, now);
    let colour = overall(health);
    if colour != health.colour {
        health.colour = colour;
        health.since = now;
    }
}

fn find(
    health: &ServiceHealth,
    window: &Window,
    profile: &Profile,
    index: usize,
    now: Ns,
) -> Option<Finding> {
    let signal = &health.signals[index];
    match signal.signal {
        Signal::Heartbeat => heartbeat(health, signal, profile),
        Signal::ErrorRate => error_rate(window, signal.colour, profile),
        Signal::ApiP95Ms => latency(window, signal.colour, profile),
        Signal::CpuLoad => sustained(health.cpu, now, (0.80, 0.90)),
        Signal::MemPressure => sustained(health.memory, now, (0.80, 0.95)),
        Signal::QueueLag | Signal::DlqDepth | Signal::DiskIo | Signal::NetErrors => None,
    }
}

/// Probes, the process, its start and its environment. Red needs misses in a row, and so does
/// the way back: as many passes as a repair is validated by.
fn heartbeat(health: &ServiceHealth, signal: &SignalHealth, profile: &Profile) -> Option<Finding> {
    let is_drifted = health.env_ok.is_some_and(|it| !it.holds && it.since < it.at);
    let is_down = health.downs >= DOWNS_RED;
    let has_ended = is_down || (health.downs > 0 && health.start_failed.is_some());
    let passes = health.passes.len() as u32;
    let passes_needed = if signal.known == Health::Red { profile.validation_passes } else { 1 };
    let colour = if has_ended || health.misses >= profile.probe_misses_red {
        Health::Red
    } else if passes >= passes_needed.max(1) {
        if is_drifted { Health::Amber } else { Health::Green }
    } else if signal.colour == Health::Unknown {
        return None;
    } else {
        signal.colour
    };
    let misses = health.misses.max(health.downs);
    Some(Finding {
        colour,
        observed: f64::from(misses),
        threshold: f64::from(if has_ended { DOWNS_RED } else { profile.probe_misses_red }),
        window_s: u64::from(misses).saturating_mul(profile.probe_period_ms).div_ceil(1000) as u32,
        detector: match (is_drifted, has_ended) {
            (true, _) => "drift_lock",
            (false, true) => "process",
            (false, false) => "probe",
        },
    })
}

fn error_rate(window: &Window, before: Health, profile: &Profile) -> Option<Finding> {
    let share = window.errors();
    let n_min = u64::from(profile.window_requests_min);
    let ratio = share.ratio().filter(|_| share.n >= n_min)?;
    let red = share.exceeds(profile.error_rate_red, n_min);
    let amber = share.exceeds(profile.error_rate_amber, n_min);
    let colour = between(red, amber, before)?;
    let is_red = colour == Health::Red;
    Some(Finding {
        colour,
        observed: ratio,
        threshold: if is_red { profile.error_rate_red } else { profile.error_rate_amber },
        window_s: profile.error_window_ms.div_ceil(1000) as u32,
        detector: "slo_burn",
    })
}

fn latency(window: &Window, before: Health, profile: &Profile) -> Option<Finding> {
    let n_min = u64::from(profile.window_requests_min);
    let current = window.latency();
    let p95 = current.quantile(0.95, n_min)?;
    let above = |limit: f64| current.slower_than(limit).exceeds(0.05, n_min);
    let baseline = window.baseline();
    let (_, relative) = latency_exceeds(&current, &baseline, profile.p95_ratio_red, BASELINE_MIN);
    // Twice next to nothing is next to nothing: below the floor no user feels it.
    let relative = relative.map(|it| it.max(profile.p95_floor_ms));
    let red_ms = relative.map_or(profile.p95_red_ms, |it| it.min(profile.p95_red_ms));
    let amber_ms = profile.p95_amber_ms.min(red_ms);
    let colour = between(above(red_ms), above(amber_ms), before)?;
    let is_red = colour == Health::Red;
    Some(Finding {
        colour,
        observed: p95,
        threshold: if is_red { red_ms } else { amber_ms },
        window_s: profile.error_window_ms.div_ceil(1000) as u32,
        detector: if is_red && red_ms < profile.p95_red_ms { "latency_ratio" } else { "slo_burn" },
    })
}

/// The colour from the answers to "above red?" and "above amber?". Where the evidence is thin the
/// colour stays what it was; `None` where it had none.
fn between(red: Answer, amber: Answer, before: Health) -> Option<Health> {
    match (red, amber, before) {
        (Answer::Yes, ..) => Some(Health::Red),
        (_, Answer::No, _) => Some(Health::Green),
        (Answer::Unknown, _, Health::Red) => Some(Health::Red),
        (_, Answer::Yes, _) | (_, _, Health::Red | Health::Amber) => Some(Health::Amber),
        (_, Answer::Unknown, Health::Green) => Some(Health::Green),
        (_, Answer::Unknown, Health::Unknown) => None,
    }
}

fn sustained(level: Option<Sustained>, now: Ns, (amber, red): (f64, f64)) -> Option<Finding> {
    let level = level?;
    let lasts = |since: Option<Ns>| since.is_some_and(|it| now.since(it) > SUSTAINED);
    let colour = match (lasts(level.red_since), lasts(level.amber_since)) {
        (true, _) => Health::Red,
        (false, true) => Health::Amber,
        (false, false) => Health::Green,
    };
    Some(Finding {
        colour,
        observed: level.value,
        threshold: if colour == Health::Red { red } else { amber },
        window_s: SUSTAINED.as_s() as u32,
        detector: "resources",
    })
}

/// A service is judged only once it was seen healthy for a while: before, its faults are those of
/// a service that nobody has put right yet, and there is nothing to return to.
fn learn(health: &mut ServiceHealth, profile: &Profile, now: Ns) {
    if health.phase == Phase::Ready {
        return;
    }
    let colours = || health.signals.iter().map(|it| it.colour);
    let is_well = health.misses == 0
        && health.downs == 0
        && colours().any(|it| it == Health::Green)
        && colours().all(|it| matches!(it, Health::Green | Health::Unknown))
        && health.signal(Signal::Heartbeat).is_none_or(|it| it.colour == Health::Green);
    if !is_well {
        health.healthy_since = None;
        return;
    }
    let since = *health.healthy_since.get_or_insert(now);
    if now.since(since) >= Ns::from_ms(profile.learning_ms) {
        health.phase = Phase::Ready;
    }
}

/// The worst of its signals. An unknown signal weighs when it was bad before (silence heals
/// nothing) and when it is the heartbeat (a service that nobody hears is not known to live).
fn overall(health: &ServiceHealth) -> Health {
    if health.phase == Phase::Learning {
        return Health::Unknown;
    }
    let rank = |colour: Health| match colour {
        Health::Green => 1,
        Health::Unknown => 2,
        Health::Amber => 3,
        Health::Red => 4,
    };
    let counts = health.signals.iter().filter(|it| {
        it.colour != Health::Unknown
            || it.signal == Signal::Heartbeat
            || matches!(it.known, Health::Amber | Health::Red)
    });
    counts.map(|it| it.colour).max_by_key(|it| rank(*it)).unwrap_or(Health::Unknown)
}
