//! Escalation: each rule once, with what was tried and what would change it.

use expect_test::expect;
use schemas::event::{EscalationReason, HealEscalated, Pattern, RunnerStatus};
use schemas::{Event, Kind};
use topologies::escalation;
use topologies::profile::Profile;

use crate::world::World;

fn escalations(world: &World) -> Vec<HealEscalated> {
    let records = world.bench.of_kind(Kind::HealEscalated).into_iter();
    let typed = records.filter_map(|it| match &it.event {
        Event::HealEscalated(it) => Some(it.clone()),
        _ => None,
    });
    typed.collect()
}

fn spend(world: &mut World, service: &str) {
    world.service(service);
    world.heal(service);
    world.hang(service);
}

/// One attempt, then the budget is spent.
fn short_budget() -> World {
    World::under(Profile { attempts_max: 1, debounce_ms: 0, ..Profile::local() })
}

#[test]
fn a_spent_budget_goes_to_people_once_with_what_was_tried() {
    let mut world = short_budget();
    spend(&mut world, "api");
    world.suspect("api", Pattern::CodeBugs, 0.8);
    world.suspect("api", Pattern::CodeBugs, 0.9);
    let said = escalations(&world);
    assert_eq!(said.len(), 1);
    let said = expect![[r#"
        HealEscalated {
            escalation_id: 8495a1e0-ae76-8fac-bc54-9b41d4a8e9f3,
            incident_id: "inc-api",
            trigger_type: "restart_service",
            level: 4,
            reason: BudgetCeiling,
            tried: [
                "restart_service: api is well: 3 probes passed, 2 s after restart_service",
            ],
            roles: [
                "all approver roles",
                "human",
            ],
            evidence_refs: [
                "immutable:log:0/39",
            ],
            audit_log_id: "immutable:log:0/40",
            explanation: Some(
                "budget spent: 1 of 1 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:00Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration",
            ),
            service: Some(
                "api",
            ),
        }"#]];
    said.assert_eq(&format!("{:#?}", escalations(&world)[0]));
}

#[test]
fn a_failed_validation_moves_an_incident_one_level_up() {
    let mut world = World::under(Profile { debounce_ms: 0, trust_start: 1.0, ..Profile::local() });
    world.service("api");
    for level in 1..=2 {
        world.hang("api");
        world.answer(RunnerStatus::Failed, "the command was not found");
        assert_eq!(escalations(&world).last().unwrap().level, level);
    }
    let tried = &escalations(&world)[1].tried;
    assert_eq!(tried.len(), 2, "{tried:?}");
}

/// A class that runs out of time moves up until people have it.
#[test]
fn class_timeout_moves_level() {
    let mut world = World::under(Profile { auto_apply: false, ..Profile::local() });
    world.service("api");
    world.see("api", "red");
    world.suspect_class("api", Pattern::ResourceExhaustion, 2, 0.8);
    world.bench.at(600_000);
    let why = expect![[
        r#"level 4 class_timeout: api has not recovered within the 10 min of class 2; `healwright incident show inc-api`"#
    ]];
    why.assert_eq(&world.last(Kind::HealEscalated));
    assert_eq!(world.count(Kind::HealEscalated), 2, "the review, and the class");
    world.bench.at(7_200_000);
    let timeouts = escalations(&world).len();
    assert!(timeouts <= 6, "{timeouts}");
}

/// The time of each class, to the tick.
#[test]
fn class_timeouts_escalate() {
    let n_timeouts = |world: &World| {
        let all = escalations(world).into_iter();
        all.filter(|it| it.reason == EscalationReason::ClassTimeout).count()
    };
    for (class, minutes) in [(1, 5), (2, 10), (3, 15), (4, 30), (5, 60)] {
        let mut world = World::under(Profile { auto_apply: false, ..Profile::local() });
        world.service("api");
        world.see("api", "red");
        world.suspect_class("api", Pattern::ResourceExhaustion, class, 0.8);
        world.bench.at(minutes * 60_000 - 250);
        assert_eq!(n_timeouts(&world), 0, "class {class}");
        world.bench.at(minutes * 60_000);
        assert_eq!(n_timeouts(&world), 1, "class {class}");
    }
}

/// Class 6 has no clock: it begins at the level of people.
#[test]
fn class_6_goes_to_human() {
    let mut world = World::local();
    world.service("api");
    world.see("api", "red");
    world.suspect_class("api", Pattern::CodeBugs, 6, 1.0);
    let first = escalations(&world).remove(0);
    assert_eq!((first.level, first.reason), (4, EscalationReason::CriticalFailure));
    assert!(first.roles.contains(&"human".to_owned()), "{:?}", first.roles);
    assert_eq!((world.open(), world.count(Kind::RemediationProposed)), (0, 0));
}

#[test]
fn a_resolved_incident_does_not_run_out_of_time() {
    let mut world = World::local();
    world.service("api");
    world.heal("api");
    world.resolve("api");
    world.bench.at(7_200_000);
    assert_eq!(escalations(&world), []);
}

#[test]
fn the_third_spent_budget_of_a_trigger_makes_it_detect_only_until_a_person_decides() {
    let mut world = short_budget();
    for service in ["a", "b", "c"] {
        spend(&mut world, service);
    }
    let why = expect![
        "level 4 budget_ceiling: budget spent: 1 of 1 attempts for c in 10 min; the next one is possible at 2026-03-02T10:10:04Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration; this is escalation 3 of restart_service within 7 days, so it only detects from now on, until a person vouches for it (`healwright trust vouch restart_service`)"
    ];
    why.assert_eq(&world.last(Kind::HealEscalated));
    let open = escalation::corrective(&world.bench.view("escalation"), "restart_service");
    assert_eq!(open.unwrap().recurrence_count, 3);
    world.service("d");
    world.hang("d");
    let why = expect![
        "not_fired: detect_only: restart_service was escalated 3 times within 7 days and only detects since 2026-03-02T10:00:06Z; remove the cause and vouch for it with `healwright trust vouch restart_service`"
    ];
    why.assert_eq(&world.verdict());
    // Changing the profile is a person's decision, and what waited for one is looked at again.
    world.activate("profile", &Profile { attempts_max: 2, debounce_ms: 0, ..Profile::local() });
    assert_eq!(world.open(), 2, "as many as the ceiling lets");
}

#[test]
fn a_person_s_word_for_a_playbook_ends_its_corrective_entry() {
    let mut world = short_budget();
    for service in ["a", "b", "c"] {
        spend(&mut world, service);
    }
    world.service("d");
    world.hang("d");
    assert_eq!(world.evaluation().verdict.as_str(), "not_fired");
    world.bench.advance(1_000);
    world.vouch("restart_service", "");
    let open = escalation::corrective(&world.bench.view("escalation"), "restart_service");
    assert_eq!(open, None);
    assert_eq!(world.open(), 1, "what waited for a person is tried; the others have no budget");
}

#[test]
fn a_storm_over_the_ceiling_is_no_recurring_failure() {
    let mut world = World::local();
    for n in 0..20 {
        world.service(&format!("s{n}"));
        world.hang(&format!("s{n}"));
    }
    assert_eq!(escalations(&world).len(), 18);
    let open = escalation::corrective(&world.bench.view("escalation"), "restart_service");
    assert_eq!(open, None);
}

#[test]
fn none_is_safe_is_said_and_escalated() {
    let mut world = World::local();
    world.service("api");
    world.see("api", "red");
    world.suspect("api", Pattern::DependencyFailures, 0.9);
    let why = expect![[
        r#"level 4 repair_exhausted: no playbook may act: rollback_release is nothing against dependency_failures; rebuild_environment is nothing against dependency_failures; restart_service is nothing against dependency_failures"#
    ]];
    why.assert_eq(&world.last(Kind::HealEscalated));
    assert_eq!(world.open(), 0);
}
