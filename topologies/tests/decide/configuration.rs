//! What is configured: only by a registered signer, never twice, and a refusal is said.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use schemas::event::{
    ConfigActivated, FreezeCommand, FreezeVerb, Mode, RunnerResult, RunnerStatus,
};
use schemas::signature::KeyPair;
use schemas::{Event, Kind, Ns};
use topologies::config::{self, Host, Service, Signers};
use topologies::profile::Profile;
use topologies::{rules, triggers, trust};

use crate::world::{HOST, OPERATOR, World, release};

/// What somebody with a way into the inbox would want to activate.
fn wishes() -> Vec<(&'static str, String)> {
    let command = vec!["/tmp/evil".to_owned()];
    let service = Service { name: "api".to_owned(), command, ..Service::default() };
    let stranger = KeyPair::from_seed(&[66; 32]).public();
    let keys = BTreeMap::from([("mallory".to_owned(), stranger)]);
    let host = Host { host: HOST.to_owned(), key: stranger, sandbox: Vec::new() };
    let loose = Profile { trust_min: 0.0, latch_after: 1_000, ..Profile::local() };
    vec![
        ("profile", serde_json::to_string(&loose).unwrap()),
        ("service/api", serde_json::to_string(&service).unwrap()),
        ("signers", serde_json::to_string(&Signers { keys }).unwrap()),
        ("runner/box", serde_json::to_string(&host).unwrap()),
        ("vouch/restart_service", "{}".to_owned()),
        ("rules", r#"{"version":9}"#.to_owned()),
    ]
}

/// A world in which everything that a configuration could lift stands: trust is low and the
/// playbook is latched.
fn braked() -> World {
    let profile = Profile { attempts_max: 10, debounce_ms: 0, latch_after: 2, ..Profile::local() };
    let mut world = World::under(profile);
    world.service("api");
    for _ in 0..2 {
        world.hang("api");
        world.answer(RunnerStatus::Failed, "the command was not found");
    }
    world.hang("api");
    assert_eq!(triggers::latched(&world.bench.view("test"), "api").len(), 1);
    world
}

/// Everything that configuration decides, as far as folds publish it.
fn standing(world: &mut World) -> String {
    let view = world.bench.view("test");
    let trust = trust::of(&view, "restart_service");
    let (signers, hosts) = (config::signers(&view), config::hosts(&view));
    let (profile, services) = (config::profile(&view), config::services(&view));
    let latched = triggers::latched(&view, "api");
    format!("{trust} {signers:?} {hosts:?} {profile:?} {services:?} {latched:?}")
}

fn refused(world: &mut World, config: ConfigActivated, wanted: &Expect) {
    let (before, name) = (standing(world), config.name.clone());
    let said = world.bench.input("mallory", &name, config);
    let kinds: Vec<Kind> = said.iter().map(|it| it.envelope.kind).collect();
    assert_eq!(kinds, [Kind::AnnotationAdded], "{name}: the refusal, and nothing else");
    assert_eq!(standing(world), before, "{name}");
    wanted.assert_eq(&world.note());
}

#[test]
fn an_unsigned_configuration_takes_no_effect_and_is_said() {
    for (name, body) in wishes() {
        let mut world = braked();
        let signed = ConfigActivated::signed(name, 99, body, OPERATOR, &world.operator);
        let unsigned = ConfigActivated { signature: None, ..signed };
        let wanted = format!(
            "configuration {name} version 99 changes nothing: nobody signed it; \
             `healwright up --config` signs what it activates"
        );
        let before = standing(&mut world);
        let said = world.bench.input("mallory", name, unsigned);
        assert_eq!(said.len(), 1, "{name}");
        assert_eq!((standing(&mut world), world.note()), (before, wanted));
    }
}

/// Freeze, signers and a runner's result: without their actor's signature each is refused.
#[test]
fn unsigned_entry_on_trust_boundary_refused() {
    let mut world = World::local();
    world.service("api");
    world.hang("api");
    let freeze = world.command(FreezeVerb::Freeze, "n1");
    let freeze = FreezeCommand { signature: String::new(), ..freeze };
    let result = world.result(RunnerStatus::Success, "restarted");
    let result = RunnerResult { signature: None, ..result };
    let (name, body) = wishes().swap_remove(2);
    let signers = ConfigActivated::signed(name, 99, body, OPERATOR, &world.operator);
    let signers = ConfigActivated { signature: None, ..signers };
    let unsigned: [(&str, &str, Event); 3] = [
        ("mallory", "deployment", freeze.into()),
        ("runner:box", HOST, result.into()),
        ("mallory", name, signers.into()),
    ];
    let before = standing(&mut world);
    for (actor, key, event) in unsigned {
        let said = world.bench.input(actor, key, event);
        let kinds: Vec<Kind> = said.iter().map(|it| it.envelope.kind).collect();
        assert_eq!(kinds, [Kind::AnnotationAdded], "the refusal, and nothing else");
    }
    assert_eq!(standing(&mut world), before);
    assert_eq!((world.mode(), world.open()), (Some((Mode::Normal, 1)), 1));
}

#[test]
fn a_configuration_with_another_s_signature_takes_no_effect_and_is_said() {
    let stranger = KeyPair::from_seed(&[66; 32]);
    for (name, body) in wishes() {
        let mut world = braked();
        let forged = ConfigActivated::signed(name, 99, body.clone(), OPERATOR, &stranger);
        let why = world.bench.input("mallory", name, forged).len();
        assert_eq!((why, world.note().contains("the signature is not alice's over it")), (1, true));
        let foreign = ConfigActivated::signed(name, 99, body, "mallory", &stranger);
        let before = standing(&mut world);
        world.bench.input("mallory", name, foreign);
        assert_eq!(standing(&mut world), before, "{name}");
        assert!(world.note().contains(r#""mallory" is no registered signer"#), "{}", world.note());
    }
}

#[test]
fn a_configuration_whose_body_was_exchanged_takes_no_effect() {
    let mut world = braked();
    let profile = serde_json::to_string(&Profile::local()).unwrap();
    let good = ConfigActivated::signed("profile", 2, profile, OPERATOR, &world.operator);
    let loose = Profile { trust_min: 0.0, ..Profile::local() };
    let body = Some(serde_json::to_string(&loose).unwrap());
    refused(
        &mut world,
        ConfigActivated { body, ..good },
        &expect![[
            "configuration profile version 2 changes nothing: its body is not the one that its digest names"
        ]],
    );
}

#[test]
fn a_configuration_that_was_signed_once_never_comes_back() {
    let mut world = World::under(Profile { attempts_max: 10, ..Profile::local() });
    let name = "api".to_owned();
    world.configured(Service { name, attempts_max: 9, ..Service::default() });
    let first = match &world.bench.of_kind(Kind::ConfigActivated).last().unwrap().event {
        schemas::Event::ConfigActivated(it) => it.clone(),
        other => panic!("{other:?}"),
    };
    let name = "api".to_owned();
    world.configured(Service { name, attempts_max: 2, ..Service::default() });
    refused(
        &mut world,
        first,
        &expect![[
            "configuration service/api version 1 changes nothing: version 2 is in force, and versions only rise"
        ]],
    );
    // Nor does the one in force: activating a profile anew would vouch anew.
    world.hang("api");
    world.answer(RunnerStatus::Failed, "the command was not found");
    let profile = world.bench.of_kind(Kind::ConfigActivated).into_iter().find_map(|it| {
        let schemas::Event::ConfigActivated(it) = &it.event else { return None };
        (it.name == "profile").then(|| it.clone())
    });
    refused(
        &mut world,
        profile.unwrap(),
        &expect![[
            "configuration profile version 1 changes nothing: version 1 is in force, and versions only rise"
        ]],
    );
}

#[test]
fn what_does_not_read_is_refused_with_the_reason() {
    let mut world = World::local();
    let signed = |world: &World, name: &str, body: &str| {
        ConfigActivated::signed(name, 7, body.to_owned(), OPERATOR, &world.operator)
    };
    let profile = signed(&world, "profile", r#"{"atempts_max":3}"#);
    world.bench.input(OPERATOR, "profile", profile);
    assert!(world.note().contains("unknown field `atempts_max`"), "{}", world.note());
    let nobody = signed(&world, "signers", r#"{"keys":{}}"#);
    refused(
        &mut world,
        nobody,
        &expect![[
            "configuration signers version 7 changes nothing: it names nobody, and nobody could ever sign again"
        ]],
    );
    let other = signed(&world, "vouch/restart", "{}");
    refused(
        &mut world,
        other,
        &expect![[
            r#"configuration vouch/restart version 7 changes nothing: "restart" is no playbook; `healwright trust list` shows them"#
        ]],
    );
}

#[test]
fn what_a_signer_activates_takes_effect() {
    let mut world = World::local();
    world.service("api");
    let host = HOST.to_owned();
    let service = Service { name: "api".to_owned(), host, attempts_max: 7, ..Service::default() };
    assert!(world.activate("service/api", &service).is_empty());
    let view = world.bench.view("test");
    assert_eq!(config::service(&view, "api").unwrap().attempts_max, 7);
    assert_eq!(triggers::budget(&view, Ns(0), "api").max, 7);
    assert_ne!(release("api", "1").digest, release("api", "2").digest);
}

#[test]
fn a_number_that_no_state_can_hold_changes_nothing_and_stops_nothing() {
    for version in [rules::FIRST, rules::CURRENT] {
        let mut world = World::under_rules(Profile::local(), version);
        world.service("api");
        let before = standing(&mut world);
        let (host, longest) = (HOST.to_owned(), u64::MAX);
        let name = "api".to_owned();
        let service = Service { name, host, attempts_window_ms: longest, ..Service::default() };
        world.activate("service/api", &service);
        world.activate("profile", &Profile { debounce_ms: longest, ..Profile::local() });
        assert_eq!(standing(&mut world), before);
        if version == rules::CURRENT {
            let note = world.note();
            assert!(note.contains("its body cannot be kept: 18446744073709551615"), "{note}");
        }
    }
}
