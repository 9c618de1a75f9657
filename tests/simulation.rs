//! The whole decision system from a seed: a real owner on a log in memory, with crashes at every
//! step of protocol.md §2 in every form, and the invariants looked for in the chain afterwards.
//!
//! A failing seed is printed; `HEALWRIGHT_SEED=N` runs it alone and `HEALWRIGHT_FULL=1` runs
//! many more. No thread, no clock, no disk but a head record.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "simulation/broken.rs"]
mod broken;
#[path = "simulation/check.rs"]
mod check;
#[allow(dead_code, reason = "each test binary plays with its own part of the world")]
#[path = "simulation/seed.rs"]
mod seed;
#[path = "simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use healwright::engine::EngineError;
use healwright::engine::owner::Owner;
use healwright::evidence::replay_log;
use schemas::event::FreezeVerb;
use state::Log;
use state::memory::Fault;

use broken::{Broken, Wrapped};
use check::check;
use world::{Breaks, CRASHES, Condition, Crash, World};

fn full() -> bool {
    std::env::var_os("HEALWRIGHT_FULL").is_some()
}

/// Steps by chance, with crashes, overtaking, takeovers and a freeze.
fn stormy(world: &mut World, steps: u32) {
    for step in 0..steps {
        let crash = match world.seed.below(60) {
            n @ 0..6 => Some(CRASHES[n as usize]),
            6 => {
                world.memory.plan([Some(Fault::Overtaken)]);
                None
            }
            _ => None,
        };
        if crash.is_some() && world.seed.one_in(3) {
            // The next process does not get into office at once either.
            world.memory.plan([None, Some(Fault::Unanswered)]);
        }
        if step == steps / 2 {
            world.command(FreezeVerb::Freeze);
        } else if step == steps * 3 / 4 {
            world.command(FreezeVerb::Unfreeze);
        }
        world.step(crash);
    }
}

fn run(seed: u64) -> Result<World, String> {
    let mut world = World::new(seed);
    stormy(&mut world, 120);
    world.settle(40);
    // A runner may have answered in the last of them.
    if 0 < world.n_unanswered() {
        world.settle(1);
    }
    check(&world)?;
    match world.n_unanswered() {
        0 => Ok(world),
        n => Err(format!("{n} inputs are never answered")),
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    let only = std::env::var("HEALWRIGHT_SEED").ok().and_then(|it| it.parse().ok());
    let n = if full() { 20_000 } else { 200 };
    let seeds = only.map_or(0..n, |seed: u64| seed..seed + 1);
    let (mut crashes, mut starts) = (0, 0);
    for seed in seeds {
        let ran = catch_unwind(|| run(seed)).unwrap_or_else(|_| Err("it panicked".to_owned()));
        let world = ran.unwrap_or_else(|why| panic!("HEALWRIGHT_SEED={seed}: {why}"));
        crashes += world.n_crashes;
        starts += world.started.len();
    }
    assert!(only.is_some() || crashes > 1000, "the weather was bad enough: {crashes} crashes");
    assert!(only.is_some() || starts > 100, "something was repaired: {starts} starts");
}

/// One fault and its repair, with a crash in cycle `at`.
fn story(at: Option<(u32, Crash)>) -> World {
    let mut world = World::new(7);
    world.restarts_help = true;
    for step in 0..60 {
        if step == 16 {
            world.condition = Condition::Hung;
        }
        if step % 6 == 0 {
            world.change();
        }
        world.now = world.now + schemas::Ns::from_ms(250);
        world.probe();
        world.cycle_until(at.filter(|it| it.0 == step).map(|it| it.1));
    }
    world.settle(8);
    world
}

/// A crash in any cycle in any form changes no effect.
#[test]
fn kill_anywhere_then_recover() {
    let calm = story(None);
    check(&calm).unwrap();
    assert!(!calm.started.is_empty(), "the story holds a repair");
    for step in 0..60 {
        for crash in CRASHES {
            let world = story(Some((step, crash)));
            let told = |why: String| panic!("{crash:?} in cycle {step}: {why}");
            check(&world).unwrap_or_else(told);
            let n = world.n_crashes;
            assert_eq!((n, world.n_unanswered()), (1, 0), "{crash:?} in cycle {step}");
            assert_eq!(world.acknowledged.len(), calm.acknowledged.len(), "{crash:?} in {step}");
            assert_eq!(world.condition, Condition::Up, "{crash:?} in cycle {step}: healed");
        }
    }
}

/// After a crash of any form the chain verifies up to where its replay ends, and the replay
/// folds to the state.
#[test]
fn chain_verify_after_crash() {
    for crash in CRASHES {
        let world = story(Some((20, crash)));
        let log = &*world.memory as &dyn Log;
        let verified = check::entries(log).unwrap();
        let replay = replay_log(log).unwrap();
        assert_eq!((world.n_crashes, replay.replayed.identical()), (1, true), "{crash:?}");
        assert_eq!(replay.next_seq, verified.len() as u64, "{crash:?}");
        assert_eq!(replay.state_matches(&*world.disk.1).unwrap(), Some(true), "{crash:?}");
    }
}

/// Two replays of one chain give the same keys with the same values.
#[test]
fn replay_is_byte_equal() {
    let mut world = World::new(13);
    stormy(&mut world, 120);
    world.settle(20);
    let replay = || replay_log(&*world.memory as &dyn Log).unwrap();
    let (one, two) = (replay(), replay());
    assert!(one.replayed.identical() && two.replayed.identical());
    assert_eq!((one.next_seq, one.digest), (two.next_seq, two.digest));
}

/// A node whose clock is a year on derives every decision as it was taken.
#[test]
fn replay_uses_ticks_not_clock() {
    let mut world = story(None);
    let entries = check::entries(&*world.memory as &dyn Log).unwrap();
    let is_decision = |it: &schemas::Entry| it.envelope.kind == schemas::Kind::HealTriggerEvaluated;
    assert!(entries.iter().any(is_decision), "the story holds a decision");
    world.now = world.now + schemas::Ns::from_s(365 * 24 * 3600);
    // An owner that derives anything else does not take office.
    let beside = world.memory.beside();
    world.move_to(beside);
    world.settle(1);
    check(&world).unwrap();
}

/// How many of some seeds the checker, or the owner itself, refuses.
fn caught(build: impl Fn(u64) -> World) -> usize {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let refused = |seed: &u64| {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let mut world = build(*seed);
            stormy(&mut world, 400);
            world.settle(20);
            check(&world)
        }));
        !matches!(ran, Ok(Ok(())))
    };
    let n = (0..8).filter(refused).count();
    std::panic::set_hook(hook);
    n
}

#[test]
fn deliberately_broken_builds_are_caught() {
    for broken in
        [Broken::AnswersUnpersisted, Broken::KeepsOverlayAfterLost, Broken::ForgetsRepeats]
    {
        let n = caught(|seed| World::with(seed, |memory| Wrapped::disk(memory, broken)));
        assert!(n >= 3, "{broken:?} is caught on {n} of 8 seeds");
    }
    let early = Breaks { acknowledges_early: true, ..Breaks::default() };
    let forgetful = Breaks { forgets_receipts: true, ..Breaks::default() };
    let hasty = Breaks { tells_begun: true, ..Breaks::default() };
    for breaks in [early, forgetful, hasty] {
        let n = caught(|seed| {
            let mut world = World::new(seed);
            world.breaks = breaks;
            world
        });
        assert!(n >= 3, "{breaks:?} is caught on {n} of 8 seeds");
    }
    assert_eq!(caught(World::new), 0, "and a good build is not");
}

#[test]
fn a07_two_owners_on_one_chain_write_one_history() {
    for seed in 0..if full() { 10_000 } else { 1_000 } {
        let mut world = World::new(seed);
        let beside = std::sync::Arc::new(world.memory.beside());
        let folder = tempfile::tempdir().unwrap();
        let now = world.now;
        let office = world.office((beside.clone(), beside.clone()), &folder.path().join("head"));
        let mut second = Owner::elect(office, now).unwrap();
        let mut former = world.owner.take().unwrap();
        let epoch = second.head().epoch;
        world.change();
        let later = now + schemas::Ns::from_s(1);
        if seed % 2 == 0 {
            // The new owner has said nothing yet: its election alone ends the former one.
            let lost = former.cycle(later);
            assert!(matches!(lost, Err(EngineError::Superseded { .. })), "{:?}", lost.err());
            second.cycle(later).unwrap();
        } else {
            second.cycle(later).unwrap();
            let lost = former.cycle(later);
            assert!(matches!(lost, Err(EngineError::Superseded { .. })), "{:?}", lost.err());
        }
        let entries = check::entries(&*world.memory as &dyn Log).unwrap();
        let head = Log::head(&*world.memory).unwrap();
        assert_eq!((head.epoch, &head), (epoch, second.head()), "seed {seed}");
        let changes = entries.iter().filter(|it| it.envelope.kind == schemas::Kind::ChangeObserved);
        assert_eq!(changes.count(), 1, "seed {seed}: taken once, by one of them");
    }
}

/// A node with an empty disk takes over and folds to the same state.
#[test]
fn replay_equals_live() {
    let mut world = World::new(11);
    stormy(&mut world, 400);
    world.settle(20);
    // What was folded entry by entry, against a replay from nothing.
    check(&world).unwrap();
    let beside = world.memory.beside();
    world.move_to(beside);
    stormy(&mut world, 400);
    world.settle(20);
    check(&world).unwrap();
}

#[test]
fn a07_the_embedded_log_refuses_a_second_process_by_name_and_pid() {
    let folder = tempfile::tempdir().unwrap();
    let _held = state::embedded::EmbeddedLog::open(folder.path(), "d", 0).unwrap();
    let refused = state::embedded::EmbeddedLog::open(folder.path(), "d", 0).err().unwrap();
    let told = refused.to_string();
    assert!(told.contains(&std::process::id().to_string()), "{told}");
}
