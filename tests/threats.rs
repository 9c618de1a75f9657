//! Threats by id, through the real engine on a log in memory: what an adversary repeats or when a
//! person freezes must not lead to one effect more. Other ids stand with the part that meets
//! them.

#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code, reason = "each test binary looks for its own part of the invariants")]
#[path = "simulation/check.rs"]
mod check;
#[allow(dead_code, reason = "each test binary plays with its own part of the world")]
#[path = "simulation/seed.rs"]
mod seed;
#[allow(dead_code, reason = "each test binary plays with its own part of the world")]
#[path = "simulation/world.rs"]
mod world;

use healwright::engine::{EngineError, Input};
use schemas::event::{FreezeVerb, HeadCosigned, Mode};
use schemas::signature::KeyPair;
use schemas::{Cause, Entry, Event, Ns};
use state::Log;

use check::check;
use world::{Condition, Crash, World};

const STEPS: u32 = 40;

fn entries(world: &World) -> Vec<Entry> {
    check::entries(&*world.memory as &dyn Log).unwrap()
}

/// A hang and its repair; `meddle` may do something before each step.
fn story(meddle: impl Fn(u32, &mut World)) -> World {
    let mut world = World::new(7);
    world.restarts_help = true;
    for step in 0..STEPS {
        if step == 16 {
            world.condition = Condition::Hung;
        }
        meddle(step, &mut world);
        world.now = world.now + Ns::from_ms(250);
        world.probe();
        world.cycle();
    }
    world.settle(8);
    world
}

#[test]
fn a04_no_recorded_input_has_a_second_effect_at_any_position() {
    let calm = story(|_, _| {});
    assert_eq!(calm.started.len(), 1, "the story holds one repair");
    let recorded = entries(&calm).into_iter().filter(|it| {
        let outside = matches!(it.envelope.cause, Cause::Observed { .. });
        outside && !matches!(it.envelope.kind, schemas::Kind::ConfigActivated)
    });
    let inputs: Vec<Input> = recorded
        .map(|it| Input::new(it.envelope.actor.clone(), &*it.envelope.key, it.event().unwrap()))
        .collect();
    assert!(!inputs.is_empty());
    for at in 0..STEPS {
        let world = story(|step, world| {
            if step == at {
                inputs.iter().chain(&inputs).for_each(|input| world.send(input));
            }
        });
        check(&world).unwrap_or_else(|why| panic!("again at {at}: {why}"));
        assert_eq!(world.started.len(), 1, "again at {at}");
    }
}

#[test]
fn b10_no_request_follows_a_freeze_at_any_boundary() {
    for at in 0..STEPS {
        let world = story(|step, world| {
            if step == at {
                world.command(FreezeVerb::Freeze);
            }
        });
        check(&world).unwrap_or_else(|why| panic!("frozen at {at}: {why}"));
        if at <= 16 {
            assert!(world.started.is_empty(), "frozen at {at}: nothing starts");
        }
    }
}

/// A freeze whose append fails is not in force, and nobody is told that it is.
#[test]
fn freeze_storage_failure_stays_unfrozen() {
    let is_freeze = |it: Entry| match it.event() {
        Ok(Event::ModeChanged(changed)) => changed.to == Mode::Frozen,
        _ => false,
    };
    let mut world = World::new(7);
    world.now = world.now + Ns::from_ms(250);
    world.command(FreezeVerb::Freeze);
    world.cycle_until(Some(Crash::NotPersisted));
    assert!(!entries(&world).into_iter().any(is_freeze));
    assert_eq!((world.n_crashes, world.n_unanswered()), (1, 1));
    // Sent again, it is.
    world.settle(4);
    assert!(entries(&world).into_iter().any(is_freeze));
    assert_eq!(world.n_unanswered(), 0);
}

/// The runner's answer to a head that is signed now, under `key`.
fn cosign(world: &mut World, key: &KeyPair) -> Result<(), EngineError> {
    let now = world.now;
    let owner = world.owner.as_mut().unwrap();
    owner.sign_head(now, true).unwrap();
    let (head, _) = owner.heads().signed().unwrap();
    let (size, mut note) = (head.checkpoint.size, head.note.clone());
    note.cosign("runner/h1", key, now.0 / 1_000_000_000).unwrap();
    let line = note.lines().last().unwrap().encode();
    owner.cosigned("h1", size, &line)
}

/// The cosigned heads of the chain, with the ticks at which they were journaled.
fn cosigned(world: &World) -> Vec<(Ns, HeadCosigned)> {
    let found = entries(world).into_iter().filter_map(|it| match it.event() {
        Ok(Event::HeadCosigned(cosigned)) => Some((it.envelope.tick, cosigned)),
        _ => None,
    });
    found.collect()
}

#[test]
fn a_cosigned_head_is_journaled_once_a_minute_while_something_happens() {
    let mut world = World::new(11);
    let key = KeyPair::from_seed(&[4; 32]);
    for _ in 0..520 {
        world.now = world.now + Ns::from_ms(250);
        world.probe();
        world.cycle();
        cosign(&mut world, &key).unwrap();
    }
    let found = cosigned(&world);
    assert_eq!(found.len(), 3, "in 130 s: {found:?}");
    assert!(found.windows(2).all(|it| it[0].0 + Ns::from_s(60) <= it[1].0), "{found:?}");
    check(&world).unwrap();
    world.condition = Condition::Silent;
    for _ in 0..40 {
        world.now = world.now + Ns::from_s(5);
        world.cycle();
        cosign(&mut world, &key).unwrap();
    }
    let still = cosigned(&world).len();
    assert!(still <= found.len() + 1, "a cosigned head is no reason for the next: {still}");
}

#[test]
fn a11_a_cosignature_by_another_key_or_of_another_head_is_refused() {
    let mut world = World::new(12);
    let (own, other) = (KeyPair::from_seed(&[4; 32]), KeyPair::from_seed(&[5; 32]));
    assert!(cosign(&mut world, &other).is_err(), "a key that is not registered");
    let owner = world.owner.as_mut().unwrap();
    assert!(owner.cosigned("h2", 1, "").is_err(), "a host that is not registered");
    let size = owner.head().next_seq;
    let mut forged = ledger::Note::new("another\n").unwrap();
    forged.cosign("runner/h1", &own, 1).unwrap();
    let line = forged.lines().last().unwrap().encode();
    assert!(owner.cosigned("h1", size, &line).is_err(), "a line over another text");
    cosign(&mut world, &own).unwrap();
    assert!(cosigned(&world).is_empty(), "none of them is a reason for a batch");
}
