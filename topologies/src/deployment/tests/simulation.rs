//! How often the gate is wrong, and how soon it is right: whole rollouts through the fold, at 50
//! requests a second, looked at every 250 ms.
//!
//! `HEALWRIGHT_FULL=1` runs the full bar (10⁴ harmless rollouts); CI runs a part of it.

#![allow(clippy::print_stderr)] // The figures are for whoever runs it with `--nocapture`.

use schemas::event::L3Outcome;

use super::full;
use super::traffic::{BASELINE_FAILS, Behaviour, SAME};
use super::world::World;

/// Ends of harmless rollouts that were not promoted, as `seed: reason`.
fn wrong(n: u64, behaviour: Behaviour) -> Vec<String> {
    let ends = (1..=n).filter_map(|seed| {
        let mut world = World::local(seed, behaviour);
        let end = world.rolled_out("1.1.0");
        let why = || format!("{seed}: {}", end.reason.clone().unwrap_or_default());
        (end.outcome != L3Outcome::Promoted).then(why)
    });
    ends.collect()
}

/// Seconds from the first of `phase` to the decision to roll back, for each of `n` rollouts;
/// `None` where the release was promoted.
fn delays(n: u64, phase: &str, behaviour: Behaviour) -> Vec<Option<f64>> {
    let delay = |seed| {
        let mut world = World::local(seed, behaviour);
        world.rolled_out("1.1.0");
        let phases = world.phases();
        let at = |name: &str| phases.iter().find(|it| it.0 == name).map(|it| it.2);
        Some(at("rollback")? - at(phase)?)
    };
    (1..=n).map(delay).collect()
}

fn quantile(delays: &[Option<f64>], q: f64) -> f64 {
    let mut sorted: Vec<f64> = delays.iter().map(|it| it.unwrap_or(f64::INFINITY)).collect();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

#[test]
fn of_200_rollouts_of_the_same_version_none_is_rolled_back() {
    let n = if full() { 10_000 } else { 200 };
    let wrong = wrong(n, SAME);
    eprintln!("A/A: {} of {n} rolled back: {wrong:#?}", wrong.len());
    let allowed = if full() { n as usize / 100 } else { 0 };
    assert!(wrong.len() <= allowed, "{} of {n}", wrong.len());
}

/// Detection delays in simulated seconds. A release that fails everywhere is found in the
/// shadow; one that behaves there is found in the first ring, with 5 requests a second.
#[test]
fn a_bad_release_is_found_within_seconds() {
    let n = if full() { 1_000 } else { 60 };
    let mut shadow_17 = f64::INFINITY;
    let at_17: fn(u32) -> f64 = |_| 0.17;
    for (share, fails) in [(0.05, (|_| 0.05) as _), (0.17, at_17), (0.60, |_| 0.60)] {
        let everywhere = Behaviour { shadow_fails: share, fails, slow: 0.0, noise: 0.0 };
        let live_only = Behaviour { shadow_fails: BASELINE_FAILS, fails, slow: 0.0, noise: 0.0 };
        let shadow = told(n, "shadow", &format!("{share} fail"), everywhere);
        told(n, "canary", &format!("{share} fail"), live_only);
        if share > 0.1 && share < 0.2 {
            shadow_17 = shadow;
        }
    }
    let slow = told(n, "shadow", "0.3 slow", Behaviour { slow: 0.3, ..SAME });
    assert!(shadow_17 < 3.0 && slow < 3.0, "{shadow_17} {slow}");
}

/// Prints the delays' quantiles and returns their median.
fn told(n: u64, phase: &str, what: &str, behaviour: Behaviour) -> f64 {
    let delays = delays(n, phase, behaviour);
    let n_missed = delays.iter().filter(|it| it.is_none()).count();
    let (p50, p95) = (quantile(&delays, 0.5), quantile(&delays, 0.95));
    eprintln!("{what} in {phase}: p50 {p50} s, p95 {p95} s, {n_missed} of {n} missed");
    p50
}
