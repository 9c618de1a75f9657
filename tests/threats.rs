//! Threats by id, through the real engine on a log in memory: what an adversary repeats or when a
//! person freezes must not lead to one effect more. Other ids stand with the part that meets
//! them.

#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code, reason = "each test binary looks for its own part of the invariants")]
#[path = "simulation/check.rs"]
mod check;
#[allow(dead_code, reason = "each test binary plays with its own part of the world")]
#[path = "simulation/world.rs"]
mod world;

use healwright::engine::Input;
use schemas::event::FreezeVerb;
use schemas::{Cause, Entry, Ns};
use state::Log;

use check::check;
use world::{Condition, World};

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
