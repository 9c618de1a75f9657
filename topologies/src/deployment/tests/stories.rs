//! Rollouts as stories, told by their transcripts.

use expect_test::{Expect, expect};
use schemas::event::L3Outcome;

use super::traffic::{BASELINE_FAILS, Behaviour, SAME};
use super::world::World;

fn story(mut world: World, expected: &Expect) -> World {
    world.rolled_out("1.1.0");
    expected.assert_eq(&world.bench.transcript());
    world
}

#[test]
fn a_good_release_is_promoted_ring_by_ring() {
    story(
        World::local(1, SAME),
        &expect![[r#"
            seconds   event                  key          what
                0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
                1.000 release.requested      shop         local://releases/shop/1.1.0 by ann
                1.000 governance.decision    afab09f1-b5d1-84b4-b987-60f81e30ac2a approved (operator):
                1.000 deploy.state           shop         1.1.0 plan 0 % in blue: 1.1.0 goes to the blue slot of shop: sandbox, shadow, then 10, 50 and 100 % of requests; 1.0.0 stays ready
                1.000 deploy.state           shop         1.1.0 preflight 0 % in blue: 1.1.0 runs in the sandbox (bwrap) before it may start
                1.000 runner.request         h            sandbox:shop local://releases/shop/1.1.0
                1.250 sandbox.result         afab09f1-b5d1-84b4-b987-60f81e30ac2a in bwrap: smoke:health passed
                1.250 deploy.state           shop         1.1.0 apply 0 % in blue: the sandbox is green (smoke:health): 1.1.0 starts in the blue slot, which serves nobody
                1.250 runner.request         h            apply_patch:shop local://releases/shop/1.1.0
                1.500 runner.request         h            apply_patch:route/shop/shadow local://releases/shop/1.1.0
                1.750 deploy.state           shop         1.1.0 shadow 0 % in blue: 1.1.0 answers copies of safe requests and nobody sees its answers
                2.500 runner.request         h            apply_patch:route/shop/canary/10 local://releases/shop/1.1.0
                2.750 deploy.state           shop         1.1.0 canary 10 % in blue: 0 of 32 mirrored answers of 1.1.0 differ from 1.0.0's (0.0 %): 1.1.0 serves 10 % of requests
               11.750 runner.request         h            apply_patch:route/shop/canary/50 local://releases/shop/1.1.0
               12.000 deploy.state           shop         1.1.0 canary 50 % in blue: 1 of 42 answers of 1.1.0 failed (2.4 %), 2 of 420 of 1.0.0 (0.5 %): 1.1.0 serves 50 % of requests
               13.250 runner.request         h            apply_patch:route/shop/canary/100 local://releases/shop/1.1.0
               13.500 deploy.state           shop         1.1.0 verify 100 % in blue: 0 of 34 answers of 1.1.0 failed (0.0 %), 0 of 41 of 1.0.0 (0.0 %): 1.1.0 serves all requests and is checked, 1.0.0 stays ready
               15.500 runner.request         h            apply_patch:commit/shop local://releases/shop/1.1.0
               15.750 deploy.state           shop         1.1.0 commit 100 % in blue: 0 of 113 answers of 1.1.0 failed (0.0 %) while it served alone; 3 checks in a row were green: 1.1.0 is committed
               15.750 l3.execution.result    afab09f1-b5d1-84b4-b987-60f81e30ac2a promoted: 0 of 113 answers of 1.1.0 failed (0.0 %) while it served alone; 3 checks in a row were green: 1.1.0 is committed
        "#]],
    );
}

#[test]
fn a_bad_release_is_rolled_back_from_the_shadow() {
    let bad = Behaviour { shadow_fails: 0.17, fails: |_| 0.6, slow: 0.0, noise: 0.0 };
    story(
        World::local(2, bad),
        &expect![[r#"
            seconds   event                  key          what
                0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
                1.000 release.requested      shop         local://releases/shop/1.1.0 by ann
                1.000 governance.decision    afab09f1-b5d1-84b4-b987-60f81e30ac2a approved (operator):
                1.000 deploy.state           shop         1.1.0 plan 0 % in blue: 1.1.0 goes to the blue slot of shop: sandbox, shadow, then 10, 50 and 100 % of requests; 1.0.0 stays ready
                1.000 deploy.state           shop         1.1.0 preflight 0 % in blue: 1.1.0 runs in the sandbox (bwrap) before it may start
                1.000 runner.request         h            sandbox:shop local://releases/shop/1.1.0
                1.250 sandbox.result         afab09f1-b5d1-84b4-b987-60f81e30ac2a in bwrap: smoke:health passed
                1.250 deploy.state           shop         1.1.0 apply 0 % in blue: the sandbox is green (smoke:health): 1.1.0 starts in the blue slot, which serves nobody
                1.250 runner.request         h            apply_patch:shop local://releases/shop/1.1.0
                1.500 runner.request         h            apply_patch:route/shop/shadow local://releases/shop/1.1.0
                1.750 deploy.state           shop         1.1.0 shadow 0 % in blue: 1.1.0 answers copies of safe requests and nobody sees its answers
                4.000 deploy.state           shop         1.1.0 rollback 0 % in blue: 11 of 85 mirrored answers of 1.1.0 differ from 1.0.0's (12.9 %): more failures than allowed, with evidence 180 past the bound of 111; 1.0.0 is put back
                4.000 runner.request         h            rollback:shop local://releases/shop/1.0.0
                4.250 deploy.state           shop         1.1.0 rolled_back 0 % in blue: 1.0.0 serves alone again 250 ms after the decision: the digest that runs is the one that ran before, and its probe passed; 1.1.0 is barred until a person clears it
                4.250 l3.execution.result    afab09f1-b5d1-84b4-b987-60f81e30ac2a rolled_back: 11 of 85 mirrored answers of 1.1.0 differ from 1.0.0's (12.9 %): more failures than allowed, with evidence 180 past the bound of 111
        "#]],
    );
}

#[test]
fn a_release_that_is_bad_only_when_live_is_rolled_back_from_the_first_ring() {
    let sly = Behaviour { shadow_fails: BASELINE_FAILS, fails: |_| 0.6, slow: 0.0, noise: 0.0 };
    story(
        World::local(3, sly),
        &expect![[r#"
            seconds   event                  key          what
                0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
                1.000 release.requested      shop         local://releases/shop/1.1.0 by ann
                1.000 governance.decision    afab09f1-b5d1-84b4-b987-60f81e30ac2a approved (operator):
                1.000 deploy.state           shop         1.1.0 plan 0 % in blue: 1.1.0 goes to the blue slot of shop: sandbox, shadow, then 10, 50 and 100 % of requests; 1.0.0 stays ready
                1.000 deploy.state           shop         1.1.0 preflight 0 % in blue: 1.1.0 runs in the sandbox (bwrap) before it may start
                1.000 runner.request         h            sandbox:shop local://releases/shop/1.1.0
                1.250 sandbox.result         afab09f1-b5d1-84b4-b987-60f81e30ac2a in bwrap: smoke:health passed
                1.250 deploy.state           shop         1.1.0 apply 0 % in blue: the sandbox is green (smoke:health): 1.1.0 starts in the blue slot, which serves nobody
                1.250 runner.request         h            apply_patch:shop local://releases/shop/1.1.0
                1.500 runner.request         h            apply_patch:route/shop/shadow local://releases/shop/1.1.0
                1.750 deploy.state           shop         1.1.0 shadow 0 % in blue: 1.1.0 answers copies of safe requests and nobody sees its answers
                2.500 runner.request         h            apply_patch:route/shop/canary/10 local://releases/shop/1.1.0
                2.750 deploy.state           shop         1.1.0 canary 10 % in blue: 0 of 35 mirrored answers of 1.1.0 differ from 1.0.0's (0.0 %): 1.1.0 serves 10 % of requests
                5.500 deploy.state           shop         1.1.0 rollback 10 % in blue: 8 of 20 answers of 1.1.0 failed (40.0 %), 1 of 130 of 1.0.0 (0.8 %): more failures than allowed, with evidence 3385 past the bound of 111; 1.0.0 is put back
                5.500 runner.request         h            rollback:shop local://releases/shop/1.0.0
                5.750 deploy.state           shop         1.1.0 rolled_back 0 % in blue: 1.0.0 serves alone again 250 ms after the decision: the digest that runs is the one that ran before, and its probe passed; 1.1.0 is barred until a person clears it
                5.750 l3.execution.result    afab09f1-b5d1-84b4-b987-60f81e30ac2a rolled_back: 8 of 20 answers of 1.1.0 failed (40.0 %), 1 of 130 of 1.0.0 (0.8 %): more failures than allowed, with evidence 3385 past the bound of 111
        "#]],
    );
}

#[test]
fn no_data_in_the_shadow_extends_it_once_and_then_rolls_back() {
    let mut world = World::local(4, SAME);
    world.requests_per_s = 0;
    story(
        world,
        &expect![[r#"
            seconds   event                  key          what
                0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
                1.000 release.requested      shop         local://releases/shop/1.1.0 by ann
                1.000 governance.decision    afab09f1-b5d1-84b4-b987-60f81e30ac2a approved (operator):
                1.000 deploy.state           shop         1.1.0 plan 0 % in blue: 1.1.0 goes to the blue slot of shop: sandbox, shadow, then 10, 50 and 100 % of requests; 1.0.0 stays ready
                1.000 deploy.state           shop         1.1.0 preflight 0 % in blue: 1.1.0 runs in the sandbox (bwrap) before it may start
                1.000 runner.request         h            sandbox:shop local://releases/shop/1.1.0
                1.250 sandbox.result         afab09f1-b5d1-84b4-b987-60f81e30ac2a in bwrap: smoke:health passed
                1.250 deploy.state           shop         1.1.0 apply 0 % in blue: the sandbox is green (smoke:health): 1.1.0 starts in the blue slot, which serves nobody
                1.250 runner.request         h            apply_patch:shop local://releases/shop/1.1.0
                1.500 runner.request         h            apply_patch:route/shop/shadow local://releases/shop/1.1.0
                1.750 deploy.state           shop         1.1.0 shadow 0 % in blue: 1.1.0 answers copies of safe requests and nobody sees its answers
               11.750 deploy.state           shop         1.1.0 shadow 0 % in blue: no data in the shadow: not one answer of 1.1.0: its time is extended once
               21.750 deploy.state           shop         1.1.0 rollback 0 % in blue: no data in the shadow: not one answer of 1.1.0, also after one extension; 1.0.0 is put back
               21.750 runner.request         h            rollback:shop local://releases/shop/1.0.0
               22.000 deploy.state           shop         1.1.0 rolled_back 0 % in blue: 1.0.0 serves alone again 250 ms after the decision: the digest that runs is the one that ran before, and its probe passed
               22.000 l3.execution.result    afab09f1-b5d1-84b4-b987-60f81e30ac2a rolled_back: no data in the shadow: not one answer of 1.1.0, also after one extension
        "#]],
    );
}

#[test]
fn every_end_carries_what_was_measured() {
    let bad = Behaviour { shadow_fails: 0.17, fails: |_| 0.6, ..SAME };
    let end = World::local(2, bad).rolled_out("1.1.0");
    let measured = |name: &str| end.shadow_deltas[name];
    assert!(measured("shadow_n") >= measured("shadow_differ"));
    assert!(measured("shadow_differ") >= 5.0 && measured("baseline_n") >= 50.0);
    assert!((measured("error_rate") + measured("success_rate")).abs() < 1e-12);
    assert!(measured("error_rate") > 0.05 && measured("p95_new_ms") > 0.0);
    assert!(!end.shadow_deltas.contains_key("canary_n"), "nobody was served");
}

#[test]
fn a_slow_release_is_rolled_back() {
    let end = World::local(5, Behaviour { slow: 0.9, ..SAME }).rolled_out("1.1.0");
    assert_eq!(end.outcome, L3Outcome::RolledBack);
    expect!["0 of 19 mirrored answers of 1.1.0 differ from 1.0.0's (0.0 %); 11 of 11 took longer than 20 ms: more slow answers than allowed, with evidence 7815 past the bound of 111"].assert_eq(&end.reason.unwrap_or_default());
    assert!(end.shadow_deltas["p95_ms"] > 100.0);
}

#[test]
fn a_freeze_in_the_middle_returns_to_the_last_good_slot() {
    let mut world = World::local(6, SAME);
    world.step();
    world.release("1.1.0");
    world.until("canary");
    world.freeze();
    world.until_ended(60_000);
    expect![[r#"
        seconds   event                  key          what
            0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
            0.250 release.requested      shop         local://releases/shop/1.1.0 by ann
            0.250 governance.decision    6a9ca46f-890c-8249-8331-e5417c7d8e16 approved (operator):
            0.250 deploy.state           shop         1.1.0 plan 0 % in blue: 1.1.0 goes to the blue slot of shop: sandbox, shadow, then 10, 50 and 100 % of requests; 1.0.0 stays ready
            0.250 deploy.state           shop         1.1.0 preflight 0 % in blue: 1.1.0 runs in the sandbox (bwrap) before it may start
            0.250 runner.request         h            sandbox:shop local://releases/shop/1.1.0
            0.500 sandbox.result         6a9ca46f-890c-8249-8331-e5417c7d8e16 in bwrap: smoke:health passed
            0.500 deploy.state           shop         1.1.0 apply 0 % in blue: the sandbox is green (smoke:health): 1.1.0 starts in the blue slot, which serves nobody
            0.500 runner.request         h            apply_patch:shop local://releases/shop/1.1.0
            0.750 runner.request         h            apply_patch:route/shop/shadow local://releases/shop/1.1.0
            1.000 deploy.state           shop         1.1.0 shadow 0 % in blue: 1.1.0 answers copies of safe requests and nobody sees its answers
            1.750 runner.request         h            apply_patch:route/shop/canary/10 local://releases/shop/1.1.0
            2.000 deploy.state           shop         1.1.0 canary 10 % in blue: 0 of 36 mirrored answers of 1.1.0 differ from 1.0.0's (0.0 %): 1.1.0 serves 10 % of requests
            2.000 freeze.command         deployment   freeze by ann: something smells
            2.000 mode.changed           deployment   normal → frozen epoch 2: frozen by ann (SINGLE-SIGNER): something smells
            2.000 deploy.state           shop         1.1.0 rollback 10 % in blue: the mode is frozen (frozen by ann (SINGLE-SIGNER): something smells); 1.0.0 is put back
            2.000 runner.request         h            rollback:shop local://releases/shop/1.0.0
            2.250 deploy.state           shop         1.1.0 rolled_back 0 % in blue: 1.0.0 serves alone again 250 ms after the decision: the digest that runs is the one that ran before, and its probe passed
            2.250 l3.execution.result    6a9ca46f-890c-8249-8331-e5417c7d8e16 rolled_back: the mode is frozen (frozen by ann (SINGLE-SIGNER): something smells)
    "#]].assert_eq(&world.bench.transcript());
}
