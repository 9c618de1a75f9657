//! What must hold however a rollout ends: safely, once, and by the right people's word.

#![allow(clippy::unwrap_used)]

use schemas::event::{APPROVAL_DOMAIN, ApprovalGiven, ApprovalVerdict, DeployPhase, L3Outcome};
use schemas::signature::signature_text;
use schemas::telemetry::Samples;
use schemas::{Event, Kind, Ns};
use serde_json::json;

use super::stubs::burning;
use super::traffic::{BAD, Behaviour, SAME};
use super::world::{Answer, GOOD, NEXT, World};
use crate::deployment::{
    NAME, committed, denial_id, judge, releases, rollout, running, was_committed,
};

use crate::profile::Profile;

/// Whatever the runner does at whatever step, the service ends with what it had, and no end is
/// called a success.
#[test]
fn trouble_at_any_step_ends_safely() {
    let steps = [
        "sandbox:",
        "apply_patch:shop",
        "apply_patch:route/shop/shadow",
        "apply_patch:route/shop/canary/10",
        "apply_patch:route/shop/canary/100",
        "apply_patch:commit/shop",
    ];
    for (idx, op) in steps.into_iter().enumerate() {
        for answer in [Answer::Fails, Answer::Unknown, Answer::Silent] {
            let mut world = World::answering(op, answer);
            let end = world.rolled_out("1.1.0");
            let wanted = if idx == 0 { L3Outcome::Rejected } else { L3Outcome::RolledBack };
            assert_eq!(end.outcome, wanted, "{op}");
            let view = world.bench.view(NAME);
            assert_eq!(committed(&view, "shop").unwrap().digest, GOOD);
            assert!(!running(&view, "shop"));
            // Silence and doubt bar nothing: they say nothing about the release.
            let is_bad = answer == Answer::Fails && op == "apply_patch:shop";
            assert_eq!(world.is_barred(), is_bad, "{op}");
        }
    }
}

#[test]
fn a_rollback_counts_only_with_digest_and_probe() {
    let mut world = World::local(1, BAD);
    world.answers.insert("rollback:", Answer::NotProven);
    let end = world.rolled_out("1.1.0");
    assert_eq!(end.outcome, L3Outcome::Quarantined);
    assert!(
        World::reason(&end).contains("could not be proven in 5 tries"),
        "{}",
        World::reason(&end)
    );
    let phases = world.phases();
    assert!(!phases.iter().any(|it| it.0 == "rolled_back"));
    // Five tries, with 1, 2, 4 and 8 s between them.
    let first = phases.iter().find(|it| it.0 == "rollback").unwrap().2;
    assert!(phases.last().unwrap().2 - first >= 15.0, "{phases:?}");
    assert_eq!(world.asked("rollback:"), 5);
    assert!(world.is_barred());
}

#[test]
fn two_rollouts_of_one_service_never_run_at_the_same_time() {
    let mut world = World::local(1, SAME);
    world.step();
    world.release("1.1.0");
    world.until("canary");
    world.release("1.2.0");
    let refused = world.until_ended(500).unwrap();
    assert_eq!(refused.outcome, L3Outcome::Rejected);
    assert_eq!(World::reason(&refused), "1.1.0 is being rolled out on shop");
    assert!(running(&world.bench.view(NAME), "shop"));
    assert_eq!(world.until_ended(60_000).unwrap().outcome, L3Outcome::Promoted);
}

#[test]
fn late_repeated_foreign_and_forged_answers_change_nothing() {
    let mut world = World::local(1, BAD);
    world.step();
    world.release("1.1.0");
    let unsigned = |world: &World| {
        let request = world.requests().last().unwrap().clone();
        let mut result = world.result(request.id, &request.ops[0], Answer::Done);
        result.signature = None;
        result
    };
    while world.bench.of_kind(Kind::L3ExecutionResult).is_empty() {
        let forged = unsigned(&world);
        assert!(world.bench.input("runner:h", "h", forged).is_empty());
        world.step();
        // Everything asked before the last request is answered once more, in every way.
        let requests = world.requests();
        let pending = rollout::load(&world.bench.view(NAME), "shop").and_then(|it| it.pending);
        for request in requests.iter().filter(|it| pending.as_ref().map(|it| it.id) != Some(it.id))
        {
            for answer in [Answer::Done, Answer::Fails, Answer::Unknown] {
                let again = world.result(request.id, &request.ops[0], answer);
                assert!(world.bench.input("runner:h", "h", again).is_empty());
            }
        }
    }
    let n = world.bench.records().len();
    for request in world.requests() {
        let again = world.result(request.id, &request.ops[0], Answer::Done);
        world.bench.input("runner:h", "h", again);
    }
    let said = &world.bench.records()[n..];
    assert!(said.iter().all(|it| it.envelope.kind == Kind::RunnerResult));
}

#[test]
fn what_a_processor_says_counts_only_from_that_processor() {
    let mut world = World::local(1, SAME);
    world.step();
    world.release("1.1.0");
    world.until("canary");
    assert!(world.bench.input("ann", "shop", burning()).is_empty());
    let states = world.bench.of_kind(Kind::DeployState);
    let forged = states.last().unwrap().event.clone();
    let Event::DeployState(mut forged) = forged else { unreachable!() };
    forged.state = DeployPhase::Commit;
    assert!(world.bench.input("ann", "shop", forged).is_empty());
    let decided = world.bench.of_kind(Kind::GovernanceDecision)[0].event.clone();
    assert!(world.bench.input("ann", "shop", decided).is_empty());
}

/// A service whose answers hold the time of day differs from itself, and is told so.
#[test]
fn answers_that_differ_without_an_error_are_named() {
    let noisy = Behaviour { shadow_fails: 0.0, noise: 1.0, ..SAME };
    let end = World::local(1, noisy).rolled_out("1.1.0");
    assert_eq!(end.outcome, L3Outcome::RolledBack);
    let reason = World::reason(&end);
    assert!(reason.ends_with("see whether its answers hold the time or a random id"), "{reason}");
}

/// The runner refuses what a decision that has expired allowed, a rollback too.
#[test]
fn it_turns_back_while_its_permission_lasts() {
    let mut world = World::local(1, SAME);
    world.configure("profile", &json!(Profile { ring_timeout_ms: 60_000, ..Profile::local() }));
    world.step();
    world.release("1.1.0");
    world.until("canary");
    world.requests_per_s = 0;
    world.configure("profile", &json!(Profile { ring_timeout_ms: 9_000_000, ..Profile::local() }));
    world.bench.advance(1_000);
    let end = world.until_ended(4_000_000).unwrap();
    assert_eq!(World::reason(&end), "the permission for this rollout ends before it is done");
    assert_eq!(end.outcome, L3Outcome::RolledBack);
    let decided = world.bench.of_kind(Kind::GovernanceDecision);
    let Event::GovernanceDecision(decision) = &decided[0].event else { unreachable!() };
    assert!(world.bench.now() < decision.expires_at.unwrap());
}

#[test]
fn a_burning_objective_rolls_back_and_bars_only_what_served_alone() {
    for (phase, barred) in [("shadow", false), ("canary", false), ("verify", true)] {
        let mut world = World::local(1, SAME);
        world.step();
        world.release("1.1.0");
        world.until(phase);
        world.change("burns", "");
        let end = world.until_ended(1_000).unwrap();
        assert_eq!(end.outcome, L3Outcome::RolledBack);
        assert!(World::reason(&end).contains("burns its objective: error_rate is 0.31"), "{end:?}");
        assert_eq!(world.is_barred(), barred, "{phase}");
    }
}

#[test]
fn a_freeze_ends_each_step_at_its_last_good_slot() {
    for (phase, outcome) in [
        ("preflight", L3Outcome::Rejected),
        ("apply", L3Outcome::RolledBack),
        ("shadow", L3Outcome::RolledBack),
        ("verify", L3Outcome::RolledBack),
    ] {
        let mut world = World::local(1, SAME);
        world.step();
        world.release("1.1.0");
        world.until(phase);
        world.freeze();
        let end = world.until_ended(60_000).unwrap();
        assert_eq!(end.outcome, outcome, "{phase}");
        assert!(!world.is_barred());
        // And nothing begins while it is frozen.
        world.release("1.2.0");
        let refused = world.until_ended(1_000).unwrap();
        assert_eq!(refused.outcome, L3Outcome::Rejected);
        assert!(World::reason(&refused).contains("the mode is frozen"), "{refused:?}");
    }
}

/// A rollout that has passed its health gate is at its nearest safe end when it commits.
#[test]
fn a_freeze_lets_a_commit_in_flight_end() {
    let mut world = World::local(1, SAME);
    world.step();
    world.release("1.1.0");
    while world.asked("apply_patch:commit") == 0 {
        world.step();
    }
    world.freeze();
    assert_eq!(world.until_ended(60_000).unwrap().outcome, L3Outcome::Promoted);
}

#[test]
fn the_next_release_takes_the_other_slot_and_returns_to_the_last_one() {
    let mut world = World::local(1, SAME);
    assert_eq!(world.rolled_out("1.1.0").outcome, L3Outcome::Promoted);
    world.behaviour = BAD;
    assert_eq!(world.rolled_out("1.2.0").outcome, L3Outcome::RolledBack);
    let last = world.requests().pop().unwrap();
    assert_eq!(last.rollback.artifact, "local://releases/shop/1.1.0");
    let phases = world.bench.of_kind(Kind::DeployState);
    let Event::DeployState(state) = &phases.last().unwrap().event else { unreachable!() };
    assert_eq!(state.slot, "green");
    let view = world.bench.view(NAME);
    assert_eq!(committed(&view, "shop").unwrap().digest, NEXT);
    assert!(was_committed(&view, "shop", GOOD));
    assert!(!was_committed(&view, "shop", "sha256:1.2.0"));
}

/// A remediation that returns to an earlier release makes that one what serves.
#[test]
fn a_return_by_remediation_moves_what_serves() {
    let mut world = World::local(1, SAME);
    world.rolled_out("1.1.0");
    world.change("returns", "local://releases/shop/1.0.0");
    let request = world.requests().pop().unwrap();
    let mut forged = world.result(request.id, "rollback:", Answer::Done);
    forged.signature = None;
    world.bench.input("runner:h", "h", forged);
    assert_eq!(committed(&world.bench.view(NAME), "shop").unwrap().digest, NEXT);
    world.step();
    world.step();
    let view = world.bench.view(NAME);
    let digests: Vec<String> = releases(&view, "shop").into_iter().map(|it| it.digest).collect();
    assert_eq!(digests, [NEXT, GOOD]);
}

#[test]
fn only_a_signed_approval_clears_a_barred_digest_and_only_once() {
    let mut world = World::local(1, BAD);
    world.rolled_out("1.1.0");
    world.behaviour = SAME;
    let refused = world.rolled_out("1.1.0");
    assert_eq!(refused.outcome, L3Outcome::Rejected);
    assert!(World::reason(&refused).starts_with("sha256:1.1.0 is barred: "), "{refused:?}");
    let mut approval = ApprovalGiven {
        proposal_id: denial_id("shop", NEXT),
        plan_digest: NEXT.to_owned(),
        approver: "ann".to_owned(),
        scope: "once".to_owned(),
        expires_at: world.bench.now() + Ns::from_s(600),
        verdict: ApprovalVerdict::Approve,
        reason: "the test was wrong".to_owned(),
        signature: "00".repeat(64),
    };
    let said = world.bench.input("ann", "shop", approval.clone());
    assert_eq!(said.len(), 1, "a refusal is said");
    assert!(world.is_barred());
    let signature = world.operator().sign(APPROVAL_DOMAIN, &approval.statement());
    approval.signature = signature_text(&signature);
    assert!(world.bench.input("ann", "shop", approval.clone()).is_empty());
    assert!(!world.is_barred());
    assert_eq!(world.rolled_out("1.1.0").outcome, L3Outcome::Promoted);
    world.behaviour = BAD;
    assert_eq!(world.rolled_out("1.2.0").outcome, L3Outcome::RolledBack);
    // The former approval is about a former denial.
    world.answers.insert("apply_patch:shop", Answer::Fails);
    world.rolled_out("1.1.0");
    assert!(world.is_barred());
    world.bench.input("ann", "shop", approval);
    assert!(world.is_barred());
}

#[test]
fn nothing_but_history_is_left_after_a_rollout() {
    let mut world = World::local(1, SAME);
    world.rolled_out("1.1.0");
    let view = world.bench.view(NAME);
    let left = |prefix: &str| view.list::<serde::de::IgnoredAny>(prefix).len();
    assert_eq!((left("rollout/"), left("ended/"), left("requested/")), (0, 0, 0));
    let n = world.bench.store().len();
    world.rolled_out("1.2.0");
    assert_eq!(world.bench.store().len(), n);
}

#[test]
fn every_request_is_bound_and_void_after_its_time() {
    let mut world = World::local(1, BAD);
    world.rolled_out("1.1.0");
    let decision = world.bench.of_kind(Kind::GovernanceDecision)[0].envelope.reference();
    for record in world.bench.of_kind(Kind::RunnerRequest) {
        let Event::RunnerRequest(request) = &record.event else { unreachable!() };
        let binding = request.binding.as_ref().unwrap();
        assert_eq!(binding.approvals, std::slice::from_ref(&decision));
        assert_eq!((binding.plan_digest.as_str(), binding.mode_epoch), (NEXT, 1));
        assert!(binding.expires_at > record.envelope.tick);
        assert!(binding.expires_at <= record.envelope.tick + Ns::from_s(60));
        assert_eq!(request.rollback.artifact, "local://releases/shop/1.0.0");
    }
}

#[test]
fn a_sealed_range_costs_nothing_while_nothing_is_rolled_out() {
    let mut world = World::local(1, SAME);
    assert!(judge::sealed(&mut world.bench.view(NAME), Ns(1), &Samples::default()).is_empty());
    assert_eq!(rollout::active(&world.bench.view(NAME)), Vec::<String>::new());
}
