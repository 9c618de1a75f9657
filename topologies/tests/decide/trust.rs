//! Trust: moved by outcomes that execution derived, and by nothing else.

use expect_test::expect;
use schemas::event::{KpiTrustUpdate, L3ExecutionResult, L3Outcome, RunnerStatus};
use schemas::{Event, Kind};
use topologies::profile::Profile;
use topologies::trust;

use crate::world::World;

const DAY_MS: u64 = 24 * 3_600_000;

fn of(world: &mut World, component: &str) -> f64 {
    trust::of(&world.bench.view("trust"), component)
}

fn updates(world: &World) -> Vec<KpiTrustUpdate> {
    let records = world.bench.of_kind(Kind::KpiTrustUpdate).into_iter();
    let typed = records.filter_map(|it| match &it.event {
        Event::KpiTrustUpdate(it) => Some(it.clone()),
        _ => None,
    });
    typed.collect()
}

fn fail(world: &mut World, service: &str) {
    world.hang(service);
    world.answer(RunnerStatus::Failed, "the command was not found");
}

#[test]
fn new_component_cannot_act() {
    let mut world = World::under(Profile { trust_start: 0.5, ..Profile::local() });
    world.service("api");
    world.hang("api");
    assert_eq!(of(&mut world, "restart_service"), 0.5);
    assert_eq!(world.count(Kind::RunnerRequest), 0);
    let why = expect![
        "level 4 repair_exhausted: L1 came to abstain: rule: trust 0.50 in restart_service asks for review, which is no acceptance; a changed profile vouches for it anew; llm: no language model takes part"
    ];
    why.assert_eq(&world.last(Kind::HealEscalated));
}

#[test]
fn the_operator_s_word_is_the_start_and_is_said() {
    let world = World::local();
    let said = updates(&world);
    assert_eq!(said.len(), 4);
    assert!(said.iter().all(|it| it.reason == "vouched_by_operator" && it.after == 0.80));
    // The spec's own start is no change.
    assert_eq!(updates(&World::under(Profile::production())), []);
}

#[test]
fn trust_below_gate_never_acts_alone() {
    // Below 0.8 the rule voter asks for review, and without a language model that is no
    // acceptance; the gate of 0.72 stands behind it.
    for (start, acts) in [(0.70, false), (0.79, false), (0.80, true)] {
        let mut world = World::under(Profile { trust_start: start, ..Profile::local() });
        world.service("api");
        world.hang("api");
        assert_eq!(world.count(Kind::RunnerRequest) == 1, acts, "{start}");
    }
}

#[test]
fn weights_follow_outcomes() {
    let mut world = World::under(Profile { debounce_ms: 0, ..Profile::local() });
    world.service("api");
    let mut seen = vec![trust::weight(&world.bench.view("trust"), "restart_service")];
    world.heal("api");
    seen.push(trust::weight(&world.bench.view("trust"), "restart_service"));
    fail(&mut world, "api");
    seen.push(trust::weight(&world.bench.view("trust"), "restart_service"));
    assert_eq!(seen, [0.5, 2.0 / 3.0, 0.5]);
    let last = updates(&world).pop().unwrap();
    let of_playbook = last.skill_weights.iter().find(|it| it.name == "restart_service").unwrap();
    assert_eq!(of_playbook.weight, 0.5);
}

#[test]
fn kpi_trust_update_logged() {
    let mut world = World::under(Profile { debounce_ms: 0, ..Profile::local() });
    world.service("api");
    let mut before = of(&mut world, "restart_service");
    for step in 0..3 {
        let said = updates(&world).len();
        if step == 2 {
            fail(&mut world, "api")
        } else {
            world.heal("api")
        }
        let update = updates(&world).pop().unwrap();
        assert_eq!(updates(&world).len(), said + 1);
        let after = of(&mut world, "restart_service");
        assert_eq!((update.before, update.after), (before, after));
        before = after;
    }
    let last = expect![[r#"restart_service 0.838 → 0.754: not done: the command was not found"#]];
    last.assert_eq(&world.last(Kind::KpiTrustUpdate));
}

#[test]
fn an_operator_who_changes_the_profile_vouches_anew_for_what_was_lost() {
    let mut world = World::local();
    world.service("api");
    fail(&mut world, "api");
    assert!((of(&mut world, "restart_service") - 0.72).abs() < 1e-9);
    world.bench.advance(6_000);
    world.suspect("api", schemas::event::Pattern::CodeBugs, 0.8);
    assert_eq!(world.requests().len(), 1, "trust asks for review, and nothing runs");
    world.activate("profile", &Profile { latch_after: 4, ..Profile::local() });
    assert_eq!(of(&mut world, "restart_service"), 0.80);
    assert_eq!(trust::weight(&world.bench.view("trust"), "restart_service"), 1.0 / 3.0);
}

#[test]
fn only_signed_whitelisted_streams_count() {
    let mut world = World::local();
    world.service("api");
    world.heal("api");
    let Event::L3ExecutionResult(genuine) =
        world.bench.of_kind(Kind::L3ExecutionResult)[0].event.clone()
    else {
        unreachable!()
    };
    let said = updates(&world).len();
    for outcome in L3Outcome::ALL {
        let forged = L3ExecutionResult { outcome: *outcome, ..genuine.clone() };
        world.bench.input("execution", "p", forged.clone());
        world.bench.input_of("execution", "p", "inc-api", forged);
    }
    assert_eq!(updates(&world).len(), said);
}

#[test]
fn decay_one_percent_then_half_life() {
    let profile = Profile { trust_start: 0.9, ..Profile::production() };
    let mut world = World::under(profile);
    let mut before = of(&mut world, "restart_service");
    for day in 1..=40u64 {
        world.bench.at(day * DAY_MS + 1_000);
        let after = of(&mut world, "restart_service");
        let loss = 1.0 - after / before;
        let wanted = if day < 7 { 0.01 } else { 1.0 - libm::exp2(-1.0 / 30.0) };
        assert!((loss - wanted).abs() < 1e-9, "day {day}: {loss}");
        assert!(loss <= 0.05);
        before = after;
    }
    world.bench.at(200 * DAY_MS);
    assert_eq!(of(&mut world, "restart_service"), 0.1);
}

#[test]
fn what_an_operator_vouches_for_does_not_decay() {
    let mut world = World::local();
    world.bench.at(10 * DAY_MS);
    assert_eq!(of(&mut world, "restart_service"), 0.80);
}
