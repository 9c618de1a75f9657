//! What is seen becomes colours: samples in, one anomaly event for each change of a service's
//! signal out (spec 20).
//!
//! It judges; it explains nothing and repairs nothing. A signal has three sorts of answer:
//! good, bad and *unknown*, and unknown is the answer to silence, to a few requests and to a
//! service that has not been seen healthy yet. Only registered services have colours; every
//! other series gets a baseline and is watched.
//!
//! Invariants:
//! - An anomaly is said when a colour changes, never while it lasts, and rests on a sealed range
//!   of telemetry.
//! - Silence makes a signal unknown. It turns nothing green and nothing red.
//! - A service is judged only after it was seen healthy for the profile's learning time.
//! - The state of a series has a fixed size, and their number is bounded.

mod generic;
mod health;
mod judge;
mod known;
mod points;
mod say;
mod shard;
mod window;

#[cfg(test)]
mod tests;

use schemas::{Event, Kind, Ns};

use crate::config;
use crate::fold::{Folded, Output, Processor, View};
use crate::profile::Profile;

pub use generic::{SeriesState, all_series, series_state};
pub use health::{Fact, Phase, ServiceHealth, SignalHealth};

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "detection",
    reads: &[Kind::ConfigActivated, Kind::TelemetrySealed],
    says: &[Kind::SloAnomalyDetected],
    step,
};

/// Anomalies said for one entry; a thousand services turning red at once are said over as many
/// wakes as it takes, each of them within [`crate::fold::SAID_BYTES_MAX`].
const SAID_MAX: usize = 100;

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(due) = entry.due {
        return woken(view, entry, due);
    }
    if let Some(it) = config::activated(view, entry)
        && it.name.starts_with("service/")
    {
        generic::classify_anew(view);
    }
    let Event::TelemetrySealed(seal) = entry.event else { return Vec::new() };
    let points = generic::fold(view, entry.samples);
    let mut outputs = Vec::new();
    if points.is_empty() {
        return outputs;
    }
    let profile = config::profile(view);
    let partition = entry.envelope.partition;
    let range = format!("telemetry:{partition}/{}-{}#{}", seal.from, seal.to, seal.digest);
    for (service, points) in points {
        let mut health = load(view, &service);
        let mut window = view.load(&window_key(&service)).unwrap_or_default();
        points::take(&mut health, &mut window, &points, entry.now(), &profile);
        health.evidence.clone_from(&range);
        judge::judge(&mut health, &mut window, &profile, entry.now());
        view.save(&window_key(&service), &window);
        tell(view, entry, &mut health, &mut outputs);
        save(view, &mut health, &profile);
    }
    outputs
}

/// A signal may have gone silent, or something is still to be said.
fn woken(view: &mut View<'_>, entry: &Folded<'_>, due: &str) -> Vec<Output> {
    let mut outputs = Vec::new();
    let Some((_, service)) = due.split_once('/') else { return outputs };
    let Some(mut health) = health(view, service) else { return outputs };
    let mut window = view.load(&window_key(service)).unwrap_or_default();
    let profile = config::profile(view);
    if due.starts_with("stale/") {
        health.stale_at = None;
    }
    judge::judge(&mut health, &mut window, &profile, entry.now());
    tell(view, entry, &mut health, &mut outputs);
    save(view, &mut health, &profile);
    outputs
}

fn tell(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    health: &mut ServiceHealth,
    outputs: &mut Vec<Output>,
) {
    let again = match outputs.len() < SAID_MAX {
        true => say::say(health, entry, outputs),
        false => Some(entry.now()),
    };
    if let Some(at) = again {
        view.wake(&format!("tell/{}", health.service), at);
    }
}

/// Keeps the health and sees to it that silence is noticed. One wake per service stands at any
/// time: when it fires too early it is set anew, so a busy service moves none.
fn save(view: &mut View<'_>, health: &mut ServiceHealth, profile: &Profile) {
    if health.stale_at.is_none() {
        let known = health.signals.iter().filter(|it| !it.is_stale);
        let first = known.map(|it| it.seen_at).min();
        let after = Ns::from_ms(profile.stale_after_ms) + Ns(1);
        if let Some(seen_at) = first {
            health.stale_at = Some(seen_at + after);
            view.wake(&format!("stale/{}", health.service), seen_at + after);
        }
    }
    view.save(&health_key(&health.service), health);
}

fn load(view: &View<'_>, service: &str) -> ServiceHealth {
    health(view, service).unwrap_or_else(|| ServiceHealth::new(service))
}

fn health_key(service: &str) -> String {
    format!("health/{service}")
}

fn window_key(service: &str) -> String {
    format!("window/{service}")
}

/// How `service` is, as of the last sample; `None` before the first.
pub fn health(view: &View<'_>, service: &str) -> Option<ServiceHealth> {
    view.peek(PROCESSOR.name, &health_key(service))
}
