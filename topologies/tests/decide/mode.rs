//! The mode: freeze by one signature, unfreeze by all, unknown closes.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use schemas::Kind;
use schemas::event::{AuditConfirmation, FreezeVerb, Mode};
use schemas::signature::KeyPair;
use topologies::config::{self, Signers};
use topologies::testing::Bench;

use crate::world::{OPERATOR, PROCESSORS, World, sign_command};

fn check_note(world: &World, wanted: Expect) {
    wanted.assert_eq(&world.note());
}

/// Three signers under a profile that asks for three.
fn three() -> (World, [KeyPair; 3]) {
    let mut world = World::local();
    let keys = [1, 3, 4].map(|seed| KeyPair::from_seed(&[seed; 32]));
    let names = [OPERATOR, "bob", "carol"];
    let public = names.iter().zip(&keys).map(|(name, key)| ((*name).to_owned(), key.public()));
    world.activate("signers", &Signers { keys: public.collect() });
    (world, keys)
}

fn agree(world: &mut World, name: &str, key: &KeyPair, nonce: &str) {
    let mut command = world.command(FreezeVerb::UnfreezeSign, nonce);
    command.signer_id = name.to_owned();
    world.bench.input(name, "deployment", sign_command(command, key));
}

#[test]
fn the_first_profile_starts_the_deployment_and_a_second_changes_no_mode() {
    let mut world = World::local();
    assert_eq!(world.mode(), Some((Mode::Normal, 1)));
    world.activate("profile", &topologies::profile::Profile::production());
    assert_eq!(world.mode(), Some((Mode::Normal, 1)));
    assert_eq!(world.count(Kind::ModeChanged), 1);
}

#[test]
fn freeze_single_signer_succeeds() {
    let mut world = World::local();
    world.freeze();
    assert_eq!(world.mode(), Some((Mode::Frozen, 2)));
    let said = expect![[
        r#"normal → frozen epoch 2: frozen by alice (SINGLE-SIGNER): something is wrong"#
    ]];
    said.assert_eq(&world.last(Kind::ModeChanged));
}

#[test]
fn freeze_invalid_signer_rejected() {
    let mut world = World::local();
    let mut stranger = world.command(FreezeVerb::Freeze, "n1");
    stranger.signer_id = "mallory".to_owned();
    world.bench.input("mallory", "deployment", stranger);
    check_note(&world, expect![[r#""mallory" is no registered signer; registered are: alice"#]]);

    let forged = world.command(FreezeVerb::Freeze, "n2");
    let forged = sign_command(forged, &KeyPair::from_seed(&[9; 32]));
    world.bench.input("mallory", "deployment", forged);
    check_note(
        &world,
        expect![[
            r#"the signature is not alice's over this command; sign it anew with `healwright freeze`"#
        ]],
    );

    let mut altered = world.command(FreezeVerb::Freeze, "n3");
    altered.reason = "another reason".to_owned();
    world.bench.input("mallory", "deployment", altered);
    assert_eq!(world.mode(), Some((Mode::Normal, 1)));
    assert_eq!(world.count(Kind::AnnotationAdded), 3);
}

#[test]
fn freeze_already_frozen_409() {
    let mut world = World::local();
    world.freeze();
    world.freeze();
    assert_eq!(world.mode(), Some((Mode::Frozen, 2)));
    check_note(
        &world,
        expect![[
            r#"already frozen since 2026-03-02T10:00:00Z (frozen by alice (SINGLE-SIGNER): something is wrong); the first one counts"#
        ]],
    );
}

#[test]
fn a_freeze_works_before_a_profile_is_active_and_a_profile_does_not_lift_it() {
    let mut world = World::local();
    let signers =
        Signers { keys: BTreeMap::from([(OPERATOR.to_owned(), world.operator.public())]) };
    world.bench = Bench::new(PROCESSORS);
    assert_eq!(world.mode(), None);
    world.activate("signers", &signers);
    world.freeze();
    assert_eq!(world.mode(), Some((Mode::Frozen, 1)));
    world.activate("profile", &topologies::profile::Profile::local());
    assert_eq!(world.mode(), Some((Mode::Frozen, 1)));
}

/// Somebody who may say no.
type Guard = fn(&mut World);

/// Requests of three hangs, of which the ceiling lets two through, with `guard` before one.
fn n_requests(guard: Option<(usize, Guard)>) -> usize {
    let mut world = World::local();
    for (at, service) in ["a", "b", "c"].into_iter().enumerate() {
        world.service(service);
        if let Some((_, guard)) = guard.filter(|it| it.0 == at) {
            guard(&mut world);
        }
        world.hang(service);
    }
    world.requests().len()
}

/// Whenever the guard speaks, no more happens than would without it.
#[test]
fn guard_only_reduces() {
    let freeze: Guard = |world| drop(world.freeze());
    let others: [Guard; 2] = [
        |world| drop(world.unfreeze()),
        |world| {
            world.freeze();
            world.unfreeze();
        },
    ];
    let calm = n_requests(None);
    assert_eq!(calm, 2);
    for at in 0..3 {
        assert_eq!(n_requests(Some((at, freeze))), calm.min(at), "frozen before {at}");
        for other in others {
            assert!(n_requests(Some((at, other))) <= calm, "before {at}");
        }
    }
}

#[test]
fn the_epoch_grows_with_each_change_and_never_otherwise() {
    let mut world = World::local();
    for round in 0..5 {
        world.freeze();
        world.freeze();
        world.unfreeze();
        world.unfreeze();
        assert_eq!(world.mode(), Some((Mode::Normal, 3 + 2 * round)));
    }
    check_note(&world, expect![[r#"nothing is frozen"#]]);
}

#[test]
fn a_replayed_command_changes_nothing() {
    let mut world = World::local();
    let freeze = world.command(FreezeVerb::Freeze, "n1");
    let unfreeze = world.command(FreezeVerb::Unfreeze, "n2");
    world.bench.input(OPERATOR, "deployment", freeze.clone());
    world.bench.input(OPERATOR, "deployment", unfreeze.clone());
    world.bench.input("mallory", "deployment", freeze);
    assert_eq!(world.mode(), Some((Mode::Normal, 3)));
    world.freeze();
    world.bench.input("mallory", "deployment", unfreeze);
    assert_eq!(world.mode(), Some((Mode::Frozen, 4)));
    check_note(
        &world,
        expect![[r#"this very command was already taken at immutable:log:0/10; sign a new one"#]],
    );

    let mut without = world.command(FreezeVerb::Unfreeze, "");
    without = sign_command(without, &world.operator);
    world.bench.input(OPERATOR, "deployment", without);
    assert_eq!(world.mode(), Some((Mode::Frozen, 4)));
}

#[test]
fn unfreeze_requires_full_quorum() {
    let (mut world, keys) = three();
    world.freeze();
    agree(&mut world, OPERATOR, &keys[0], "u1");
    check_note(
        &world,
        expect![[r#"received 1 of 3 signatures; the others sign with `healwright unfreeze`"#]],
    );
    agree(&mut world, "bob", &keys[1], "u2");
    assert_eq!(world.mode(), Some((Mode::Frozen, 2)));
    agree(&mut world, "carol", &keys[2], "u3");
    assert_eq!(world.mode(), Some((Mode::Normal, 3)));
}

#[test]
fn unfreeze_insufficient_quorum_403() {
    let (mut world, keys) = three();
    world.freeze();
    agree(&mut world, OPERATOR, &keys[0], "u1");
    agree(&mut world, "bob", &keys[1], "u2");
    check_note(
        &world,
        expect![[r#"received 2 of 3 signatures; the others sign with `healwright unfreeze`"#]],
    );
    assert_eq!(world.mode(), Some((Mode::Frozen, 2)));
}

#[test]
fn duplicate_signatures_count_once() {
    let (mut world, keys) = three();
    world.freeze();
    for nonce in ["u1", "u2", "u3", "u4"] {
        agree(&mut world, OPERATOR, &keys[0], nonce);
    }
    check_note(
        &world,
        expect![[r#"received 1 of 3 signatures; the others sign with `healwright unfreeze`"#]],
    );

    // One key under two names is one signer.
    let both = ["alice", "also-alice"].map(|it| (it.to_owned(), keys[0].public()));
    world.activate("signers", &Signers { keys: both.into() });
    agree(&mut world, "also-alice", &keys[0], "u5");
    assert_eq!(world.mode(), Some((Mode::Normal, 3)));
}

#[test]
fn a_new_freeze_forgets_what_was_agreed_before() {
    let (mut world, keys) = three();
    world.freeze();
    agree(&mut world, OPERATOR, &keys[0], "u1");
    agree(&mut world, "bob", &keys[1], "u2");
    agree(&mut world, "carol", &keys[2], "u3");
    world.freeze();
    agree(&mut world, OPERATOR, &keys[0], "u4");
    check_note(
        &world,
        expect![[r#"received 1 of 3 signatures; the others sign with `healwright unfreeze`"#]],
    );
}

#[test]
fn fewer_signers_than_the_profile_asks_for_cannot_unfreeze() {
    let mut world = World::under(topologies::profile::Profile::production());
    world.freeze();
    world.unfreeze();
    assert_eq!(world.mode(), Some((Mode::Frozen, 2)));
    check_note(
        &world,
        expect![[
            r#"an unfreeze needs 3 signers and 1 are registered; register more in the configuration named `signers`"#
        ]],
    );
}

#[test]
fn unfreeze_rejected_below_coherence_1() {
    let mut world = World::local();
    world.freeze();
    let confirm = |balance, score| AuditConfirmation {
        on_chain_balance_usd: balance,
        ledger_cc_outstanding: 138_000.0,
        coherence_score: score,
    };
    for (nonce, confirmation) in
        [("u1", confirm(135_240.0, 1.05)), ("u2", confirm(145_000.0, 0.98))]
    {
        let mut command = world.command(FreezeVerb::Unfreeze, nonce);
        command.audit_confirmation = Some(confirmation);
        let command = sign_command(command, &world.operator);
        world.bench.input(OPERATOR, "deployment", command);
        check_note(
            &world,
            expect![[r#"the confirmed backing ratio is 0.9800, and an unfreeze needs 1.0"#]],
        );
    }
    let mut command = world.command(FreezeVerb::Unfreeze, "u3");
    command.audit_confirmation = Some(confirm(145_000.0, 1.05));
    let command = sign_command(command, &world.operator);
    world.bench.input(OPERATOR, "deployment", command);
    assert_eq!(world.mode(), Some((Mode::Normal, 3)));
}

#[test]
fn unknown_mode_fails_closed() {
    let mut world = World::local();
    let signers =
        Signers { keys: BTreeMap::from([(OPERATOR.to_owned(), world.operator.public())]) };
    world.bench = Bench::new(PROCESSORS);
    world.activate("signers", &signers);
    world.host(crate::world::HOST, &[]);
    world.service("api");
    world.hang("api");
    assert_eq!(world.mode(), None);
    assert_eq!(world.count(Kind::RunnerRequest), 0);
    let why = expect![[
        r#"not_fired: the mode is unknown, and unknown allows nothing; `healwright up` activates a profile and with it a mode"#
    ]];
    why.assert_eq(&world.verdict());
}

#[test]
fn only_a_signer_names_signers() {
    let mut world = World::local();
    let stranger = KeyPair::from_seed(&[99; 32]);
    let known = config::signers(&world.bench.view("test"));
    let theirs = std::mem::replace(&mut world.operator, KeyPair::from_seed(&[99; 32]));
    let keys = BTreeMap::from([(OPERATOR.to_owned(), stranger.public())]);
    world.activate("signers", &Signers { keys: keys.clone() });
    assert_eq!(config::signers(&world.bench.view("test")), known);
    check_note(
        &world,
        expect![[
            "configuration signers version 2 changes nothing: the signature is not alice's over it"
        ]],
    );
    world.operator = theirs;
    world.activate("signers", &Signers { keys: keys.clone() });
    assert_eq!(config::signers(&world.bench.view("test")).keys, keys);
}
