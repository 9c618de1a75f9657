//! Rules: what an older program's journal holds is folded as that program did, up to the entry
//! from which the newer rules are in force (decision 0010).

use expect_test::expect;
use schemas::event::{ConfigActivated, RunnerStatus};
use schemas::signature::KeyPair;
use schemas::{Kind, Ns};
use topologies::profile::Profile;
use topologies::rules::{self, Rules};
use topologies::{config, trust};

use crate::world::{OPERATOR, World};

fn old(profile: Profile) -> World {
    let mut world = World::under_rules(profile, rules::FIRST);
    world.service("api");
    world
}

fn fail(world: &mut World) {
    world.hang("api");
    world.answer(RunnerStatus::Failed, "the command was not found");
}

#[test]
fn under_the_first_rules_an_unsigned_configuration_took_effect() {
    let mut world = old(Profile::local());
    let body = serde_json::to_string(&Profile { latch_after: 4, ..Profile::local() }).unwrap();
    let config = ConfigActivated::signed("profile", 2, body, OPERATOR, &world.operator);
    let config = ConfigActivated { signature: None, ..config };
    world.bench.input("somebody", "profile", config);
    assert_eq!(config::profile(&world.bench.view("test")).latch_after, 4);
    assert_eq!(world.count(Kind::AnnotationAdded), 0);
}

#[test]
fn under_the_first_rules_one_failed_repair_left_the_playbook_to_the_profile() {
    let mut world = old(Profile::local());
    fail(&mut world);
    let said = expect!["level 1 validation_failed: not done: the command was not found"];
    said.assert_eq(&world.last(Kind::HealEscalated));
    world.bench.advance(6_000);
    world.suspect("api", schemas::event::Pattern::CodeBugs, 0.8);
    assert_eq!(world.requests().len(), 1);
    let why = expect![
        "level 4 repair_exhausted: L1 came to abstain: rule: trust 0.72 in restart_service asks for review, which is no acceptance; a changed profile vouches for it anew; llm: no language model takes part"
    ];
    why.assert_eq(&world.last(Kind::HealEscalated));
}

#[test]
fn under_the_first_rules_a_release_was_permitted_for_the_cap_of_a_repair() {
    let mut world = World::under_rules(Profile::local(), rules::FIRST);
    crate::governance::shop_in(&mut world);
    let request = crate::governance::asked(&world, "1.1.0");
    world.bench.input(OPERATOR, "api", request);
    let schemas::Event::GovernanceDecision(it) =
        &world.bench.of_kind(Kind::GovernanceDecision)[0].event
    else {
        unreachable!()
    };
    assert_eq!(it.expires_at, Some(world.bench.now() + Ns::from_s(600)));
}

#[test]
fn newer_rules_hold_from_their_entry_on() {
    let mut world = old(Profile { debounce_ms: 0, ..Profile::local() });
    fail(&mut world);
    world.activate("rules", &Rules::current());
    assert_eq!(rules::of(&world.bench.view("test")), rules::CURRENT);
    // What was learnt before stays, and is asked in policy now.
    assert!((trust::of(&world.bench.view("trust"), "restart_service") - 0.72).abs() < 1e-9);
    world.hang("api");
    assert_eq!(world.requests().len(), 2);
}

#[test]
fn rules_are_a_signer_s_and_never_go_back() {
    let mut world = old(Profile::local());
    let rules = |version: u32, n: u64, key: &KeyPair| {
        let body = format!(r#"{{"version":{version}}}"#);
        ConfigActivated::signed("rules", n, body, OPERATOR, key)
    };
    let stranger = KeyPair::from_seed(&[66; 32]);
    world.bench.input("mallory", "rules", rules(2, 1, &stranger));
    assert_eq!(rules::of(&world.bench.view("test")), rules::FIRST);
    let key = KeyPair::from_seed(&[1; 32]);
    world.bench.input(OPERATOR, "rules", rules(2, 1, &key));
    world.bench.input(OPERATOR, "rules", rules(1, 2, &key));
    let why = expect![
        "configuration rules version 2 changes nothing: rules 2 are in force, and rules never go back"
    ];
    why.assert_eq(&world.note());
    world.bench.input(OPERATOR, "rules", rules(4, 2, &key));
    let why =
        expect!["configuration rules version 2 changes nothing: this program knows rules up to 3"];
    why.assert_eq(&world.note());
    assert_eq!(rules::of(&world.bench.view("test")), 2);
}
