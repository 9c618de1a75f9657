//! Threat shape A04: every message of a recorded run, again, at every position after it. The bar
//! is no second effect.

use schemas::event::{Decision, RunnerStatus, TriggerVerdict};
use schemas::{Cause, Event, Kind};
use topologies::config::Service;
use topologies::testing::{Record, describe};

use crate::world::{HOST, World};

/// A run with everything that can be replayed: a repair, a review with its approval, a failure,
/// an unknown outcome, a freeze and its end.
const STEPS: &[fn(&mut World)] = &[
    |world| drop(world.hang("api")),
    |world| drop(world.answer(RunnerStatus::Success, "restarted")),
    |world| world.recover("api"),
    |world| drop(world.hang("shy")),
    |world| drop(world.approve()),
    |world| drop(world.answer(RunnerStatus::Failed, "the command was not found")),
    |world| world.bench.advance(6_000),
    |world| drop(world.hang("db")),
    |world| {
        let lost = world.result(RunnerStatus::Failed, "killed in between");
        let lost = world.signed(schemas::event::RunnerResult { known: Some(false), ..lost });
        world.bench.input("runner:box", HOST, lost);
    },
    |world| drop(world.freeze()),
    |world| drop(world.see("db", "green")),
    |world| drop(world.unfreeze()),
    |world| world.resolve("db"),
    |world| world.bench.advance(30_000),
];

fn begin() -> World {
    let mut world = World::local();
    for (name, propose_only) in [("api", false), ("db", false), ("shy", true)] {
        let name = name.to_owned();
        world.configured(Service { name, propose_only, ..Service::default() });
    }
    world
}

/// Everything that was derived and has or allows an effect, without ids.
fn effects(world: &World) -> Vec<String> {
    let derived = world.bench.records().iter();
    let derived = derived.filter(|it| matches!(it.envelope.cause, Cause::Derived { .. }));
    let told = derived.filter(|it| match &it.event {
        Event::AnnotationAdded(_) => false,
        Event::HealTriggerEvaluated(it) => it.verdict == TriggerVerdict::Fired,
        Event::GovernanceDecision(it) => it.decision == Decision::Approved,
        _ => true,
    });
    told.map(|it| match &it.event {
        // Its explanation holds places and ids, which move with everything before them.
        Event::HealEscalated(it) => format!("escalated {} {}", it.level, it.reason),
        event => format!("{} {}", it.envelope.kind.name(), describe(event)),
    })
    .collect()
}

/// The stand-ins for eyes and configuration are no messages of the run.
fn is_replayed(record: &Record) -> bool {
    !matches!(record.event.kind(), Kind::ChangeObserved | Kind::ConfigActivated)
}

#[test]
fn a04_no_message_has_a_second_effect_at_any_position() {
    let mut baseline = begin();
    STEPS.iter().for_each(|step| step(&mut baseline));
    let wanted = effects(&baseline);
    assert!(wanted.len() > 40, "the run is rich enough: {}", wanted.len());
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    let (mut n, stride) = (0, if full { 1 } else { 3 });
    for position in 1..=STEPS.len() {
        let mut until = begin();
        STEPS[..position].iter().for_each(|step| step(&mut until));
        let messages: Vec<Record> =
            until.bench.records().iter().filter(|it| is_replayed(it)).cloned().collect();
        for (at, message) in messages.iter().enumerate() {
            if (at + position) % stride != 0 {
                continue;
            }
            n += 1;
            let mut world = begin();
            STEPS[..position].iter().for_each(|step| step(&mut world));
            let it = &message.envelope;
            let correlation = it.correlation.clone().unwrap_or_default();
            for _ in 0..2 {
                world.bench.input_of(&it.actor.id, &it.key, &correlation, message.event.clone());
            }
            STEPS[position..].iter().for_each(|step| step(&mut world));
            let what = describe(&message.event);
            let name = it.kind.name();
            assert_eq!(effects(&world), wanted, "{name} {what} again after step {position}");
        }
    }
    assert!(n > 150, "{n} replays");
}
