//! An operator stops a rollout: by one signature, at every step, and nothing else by it.

#![allow(clippy::unwrap_used)]

use expect_test::{Expect, expect};
use schemas::event::{AnnotationKind, L3Outcome, ReleaseRequested};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Event, Kind};

use super::traffic::SAME;
use super::world::{GOOD, World};
use crate::deployment::{NAME, committed, running};

fn at(phase: &str) -> World {
    let mut world = World::local(1, SAME);
    (0..4).for_each(|_| world.step());
    world.release("1.1.0");
    world.until(phase);
    world
}

/// The sentence of the newest refusal.
fn refusal(world: &World) -> String {
    match world.bench.of_kind(Kind::AnnotationAdded).last().map(|it| &it.event) {
        Some(Event::AnnotationAdded(it)) => {
            assert_eq!(it.kind, AnnotationKind::Correction);
            it.data.clone()
        }
        other => panic!("{other:?}"),
    }
}

fn refused(world: &mut World, request: ReleaseRequested, wanted: &Expect) {
    let said = world.bench.input("ann", "shop", request);
    assert_eq!(said.len(), 1, "the refusal, and nothing else");
    wanted.assert_eq(&refusal(world));
}

#[test]
fn an_operator_stops_a_rollout_at_every_step() {
    for phase in ["preflight", "apply", "shadow", "canary", "verify"] {
        let mut world = at(phase);
        world.abort("1.1.0");
        let end = world.until_ended(60_000).unwrap();
        let (wanted, ends) = match phase {
            "preflight" => (L3Outcome::Rejected, "; nothing was applied"),
            _ => (L3Outcome::RolledBack, ""),
        };
        assert_eq!(end.outcome, wanted, "{phase}");
        let why = format!("ann stopped it: the wrong branch{ends}");
        assert_eq!(World::reason(&end), why, "{phase}");
        let view = world.bench.view(NAME);
        assert_eq!(committed(&view, "shop").unwrap().digest, GOOD);
        assert!(!running(&view, "shop"));
        // A person's no is no evidence against the release: it may be asked for again.
        assert!(!world.is_barred(), "{phase}");
        assert_eq!(world.rolled_out("1.1.0").outcome, L3Outcome::Promoted, "{phase}");
    }
}

#[test]
fn a_stopped_rollout_is_told_as_a_story() {
    let mut world = at("canary");
    world.abort("1.1.0");
    world.until_ended(60_000);
    let story = world.bench.transcript();
    let from = story.find("canary/10").unwrap();
    let told: Vec<&str> = story[from..].lines().skip(2).collect();
    // The heading keeps expect-test from taking the first column for indentation.
    expect![[r#"
        seconds
            2.750 release.requested      shop         stop local://releases/shop/1.1.0 by ann
            2.750 deploy.state           shop         1.1.0 rollback 10 % in blue: ann stopped it: the wrong branch; 1.0.0 is put back
            2.750 runner.request         h            rollback:shop local://releases/shop/1.0.0
            3.000 deploy.state           shop         1.1.0 rolled_back 0 % in blue: 1.0.0 serves alone again 250 ms after the decision: the digest that runs is the one that ran before, and its probe passed
            3.000 l3.execution.result    afab09f1-b5d1-84b4-b987-60f81e30ac2a rolled_back: ann stopped it: the wrong branch
    "#]].assert_eq(&format!("seconds\n{}\n", told.join("\n")));
}

#[test]
fn where_nothing_runs_there_is_nothing_to_stop() {
    let mut world = World::local(1, SAME);
    let request = world.asked_for("1.1.0", ReleaseRequested::ABORT);
    let wanted = expect![[
        "nothing is being rolled out on shop; `healwright release status shop` shows what was"
    ]];
    refused(&mut world, request, &wanted);
}

#[test]
fn a_request_stops_the_release_that_it_names_and_no_other() {
    let mut world = at("shadow");
    let request = world.asked_for("1.2.0", ReleaseRequested::ABORT);
    let wanted = expect![[
        "1.1.0 is being rolled out on shop, and not sha256:1.2.0; `healwright release abort shop` stops what runs now"
    ]];
    refused(&mut world, request, &wanted);
    assert_eq!(world.until_ended(60_000).unwrap().outcome, L3Outcome::Promoted);
}

#[test]
fn only_a_signer_stops_a_rollout_and_a_signature_counts_once() {
    let mut world = at("shadow");
    let good = world.asked_for("1.1.0", ReleaseRequested::ABORT);
    let stranger = KeyPair::from_seed(&[66; 32]);
    let mut forged = good.clone();
    let domain = schemas::event::RELEASE_DOMAIN;
    forged.signature = Some(signature_text(&stranger.sign(domain, &forged.statement())));
    let wanted =
        expect![["the signature is not ann's over this request; ask with `healwright release`"]];
    refused(&mut world, forged, &wanted);
    let altered = ReleaseRequested { reason: None, ..good.clone() };
    refused(&mut world, altered, &wanted);
    world.bench.input("ann", "shop", good.clone());
    assert_eq!(world.until_ended(60_000).unwrap().outcome, L3Outcome::RolledBack);
    world.release("1.1.0");
    world.until("canary");
    let wanted =
        expect!["this very request was taken at 2026-03-02T10:00:01.75Z; sign another one"];
    refused(&mut world, good, &wanted);
}

#[test]
fn a_request_without_a_nonce_could_be_replayed_and_is_refused() {
    let mut world = at("shadow");
    let mut request = world.asked_for("1.1.0", ReleaseRequested::ABORT);
    request.nonce = None;
    let signature = world.operator().sign(schemas::event::RELEASE_DOMAIN, &request.statement());
    request.signature = Some(signature_text(&signature));
    let wanted = expect![[
        "the request has no nonce, so that it could be replayed later; sign it anew with `healwright release abort`"
    ]];
    refused(&mut world, request, &wanted);
}

#[test]
fn a_freeze_has_stopped_it_already() {
    let mut world = at("canary");
    world.freeze();
    let request = world.asked_for("1.1.0", ReleaseRequested::ABORT);
    let wanted = expect![[
        "1.1.0 goes back already: the mode is frozen (frozen by ann (SINGLE-SIGNER): something smells)"
    ]];
    refused(&mut world, request, &wanted);
    assert_eq!(world.until_ended(60_000).unwrap().outcome, L3Outcome::RolledBack);
}

#[test]
fn what_is_being_committed_has_passed_and_is_not_stopped() {
    let mut world = at("verify");
    while world.asked("apply_patch:commit/shop") == 0 {
        world.step();
    }
    let request = world.asked_for("1.1.0", ReleaseRequested::ABORT);
    let wanted = expect![[
        "1.1.0 has passed every check and is being committed; `healwright release start shop 1.0.0` goes back from there"
    ]];
    refused(&mut world, request, &wanted);
    assert_eq!(world.until_ended(60_000).unwrap().outcome, L3Outcome::Promoted);
}
