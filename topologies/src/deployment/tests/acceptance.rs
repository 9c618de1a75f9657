//! The acceptance tests of spec 60 §22 that a fold can answer, and attack B13.

#![allow(clippy::unwrap_used)]

use schemas::event::L3Outcome;
use schemas::{Event, Kind};
use serde_json::json;

use super::full;
use super::traffic::{BAD, BASELINE_FAILS, Behaviour, SAME};
use super::world::{Answer, World};
use crate::deployment::{NAME, longest};
use crate::profile::Profile;
use crate::{config, rules};

#[test]
fn rings_5_25_50_100() {
    let mut world = World::new(3, &Profile { window_hours: None, ..Profile::production() }, SAME);
    world.requests_per_s = 100;
    assert_eq!(world.rolled_out("1.1.0").outcome, L3Outcome::Promoted);
    let rings: Vec<(String, u32)> =
        world.phases().into_iter().filter(|it| it.1 > 0).map(|it| (it.0, it.1)).collect();
    let wanted = [("canary", 5), ("canary", 25), ("canary", 50), ("verify", 100), ("commit", 100)];
    assert_eq!(rings, wanted.map(|(phase, pct)| (phase.to_owned(), pct)));
}

#[test]
fn a_red_ring_stops_the_rest() {
    let red_at_25 = Behaviour { fails: |pct| if pct < 25 { BASELINE_FAILS } else { 0.3 }, ..SAME };
    let mut world = World::new(3, &Profile::production(), red_at_25);
    assert_eq!(world.rolled_out("1.1.0").outcome, L3Outcome::RolledBack);
    assert_eq!(world.asked("apply_patch:route/shop/canary/50"), 0);
    assert!(world.phases().iter().all(|it| it.1 <= 25));
}

/// From the decision until what ran before serves alone, also when the first try is lost.
#[test]
fn rollback_under_60s() {
    let end = World::local(1, BAD).rolled_out("1.1.0");
    assert!(end.rollback_ms.unwrap() < 1_000, "{end:?}");
    let mut lost = World::local(1, BAD);
    lost.answers.insert("rollback:", Answer::Silent);
    lost.step();
    lost.release("1.1.0");
    lost.until("rollback");
    lost.step();
    lost.answers.clear();
    let end = lost.until_ended(120_000).unwrap();
    assert_eq!(end.outcome, L3Outcome::RolledBack);
    assert!(end.rollback_ms.unwrap() < 60_000, "{end:?}");
    assert_eq!(lost.asked("rollback:"), 2);
}

#[test]
fn no_sandbox_no_apply() {
    let mut world = World::local(1, SAME);
    let key = json!(config::host(&world.bench.view(NAME), "h").unwrap().key);
    world.configure("runner/h", &json!({"host": "h", "key": key, "sandbox": []}));
    let end = world.rolled_out("1.1.0");
    assert_eq!(end.outcome, L3Outcome::Rejected);
    assert!(World::reason(&end).contains("h has no sandbox"), "{}", World::reason(&end));
    assert!(world.requests().is_empty());
    assert_eq!(world.bench.of_kind(Kind::SandboxResult).len(), 1);
}

#[test]
fn a_red_preflight_rejects_and_applies_nothing() {
    let mut world = World::answering("sandbox:", Answer::Fails);
    let end = world.rolled_out("1.1.0");
    assert_eq!(end.outcome, L3Outcome::Rejected);
    assert!(
        World::reason(&end).contains("smoke:health failed: it answers 500"),
        "{}",
        World::reason(&end)
    );
    assert_eq!(world.requests().len(), 1);
}

/// A production verification: the eighth failure rolls back, and not the seventh.
#[test]
fn verification_8_attempts_60s() {
    let mut world = World::new(3, &Profile::production(), SAME);
    world.probe_passes = |pct| pct < 100;
    let end = world.rolled_out("1.1.0");
    assert_eq!(end.outcome, L3Outcome::RolledBack);
    assert!(
        World::reason(&end).contains("check 8 of 8 did not verify it: its probe failed"),
        "{end:?}"
    );
    let phases = world.phases();
    let at = |phase: &str| phases.iter().find(|it| it.0 == phase).unwrap().2;
    assert!((at("rollback") - at("verify") - 480.0).abs() < 1.0, "{phases:?}");
    assert!(world.is_barred());
}

/// Until governance and the shadow have passed it, no user's request reaches it.
#[test]
fn quarantine_never_touches_green() {
    let mut world = World::local(1, BAD);
    world.rolled_out("1.1.0");
    assert_eq!(world.asked("apply_patch:route/shop/canary"), 0);
    for record in world.bench.of_kind(Kind::DeployState) {
        let Event::DeployState(state) = &record.event else { unreachable!() };
        assert_eq!(state.slot, "blue");
    }
    // Quarantine never ends by time.
    (0..400).for_each(|_| world.step());
    assert!(world.is_barred());
}

#[test]
fn partial_install_marks_bad() {
    let mut world = World::answering("apply_patch:shop", Answer::Fails);
    let end = world.rolled_out("1.1.0");
    assert_eq!(end.outcome, L3Outcome::RolledBack);
    assert!(World::reason(&end).contains("port in use"), "{}", World::reason(&end));
    assert!(world.is_barred());
}

/// B13: the candidate is perfect while it is mirrored to, and misbehaves once users reach it,
/// in the first ring or only when nothing else is left to compare it with.
#[test]
fn a_candidate_that_games_the_shadow_is_rolled_back_within_60s() {
    let n = if full() { 500 } else { 20 };
    let when_live: [fn(u32) -> f64; 3] =
        [|_| 0.2, |pct| if pct < 50 { 0.0 } else { 0.2 }, |pct| if pct < 100 { 0.0 } else { 0.2 }];
    for fails in when_live {
        for seed in 1..=n {
            let mut world =
                World::local(seed, Behaviour { shadow_fails: 0.0, fails, slow: 0.0, noise: 0.0 });
            let end = world.rolled_out("1.1.0");
            assert_eq!(end.outcome, L3Outcome::RolledBack, "seed {seed}: {end:?}");
            let phases = world.phases();
            let live = phases.iter().find(|it| fails(it.1) > 0.1).unwrap().2;
            let back = phases.iter().find(|it| it.0 == "rolled_back").unwrap().2;
            assert!(back - live < 60.0, "seed {seed}: {phases:?}");
        }
    }
}

/// Traffic that grows thin while a production rollout goes on, so that every stage takes its
/// time. Governance's own permission covers it to the end; a permission as long as a repair may
/// take, which the first rules gave, ends it half-way.
#[test]
fn a_slow_production_rollout_is_permitted_to_its_end() {
    let production = Profile { window_hours: None, ..Profile::production() };
    let roll_out = |version| {
        let governance = crate::governance::PROCESSOR;
        let mut world = World::under(3, &production, SAME, governance, version);
        world.release("1.1.0");
        loop {
            let ring = world.phases().last().map_or(0, |it| it.1);
            world.requests_per_s = match ring {
                0 => 100,
                5 => 28,
                25 => 6,
                50 => 3,
                _ => 4,
            };
            if let Some(end) = world.until_ended(1_000) {
                let took = world.phases().last().map_or(0.0, |it| it.2);
                return (end.outcome, took, World::reason(&end).to_owned());
            }
        }
    };
    let (outcome, took, why) = roll_out(rules::CURRENT);
    assert_eq!(outcome, L3Outcome::Promoted, "{why}");
    assert!(took > production.run_cap_ms as f64 / 1_000.0, "it was slow: {took} s");
    assert!(took < longest(&production).as_s());
    let (outcome, _, why) = roll_out(rules::FIRST);
    assert_eq!(outcome, L3Outcome::RolledBack);
    assert_eq!(why, "the permission for this rollout ends before it is done");
}
