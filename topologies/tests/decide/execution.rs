//! Execution: one request, judged by health, and honest about what nobody knows.

use expect_test::expect;
use schemas::event::{Check, Pattern, RunnerResult, RunnerStatus};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Event, Kind};
use topologies::config::{Environment, Service};
use topologies::execution::{self, Stage};
use topologies::profile::Profile;

use crate::world::{HOST, World, release};

fn hung() -> World {
    let mut world = World::local();
    world.service("api");
    world.hang("api");
    world
}

fn worker() -> Service {
    let environment = Environment {
        kind: "venv".to_owned(),
        artifact_ref: "local://environments/worker/1".to_owned(),
        digest: release("worker", "env").digest,
    };
    Service { name: "worker".to_owned(), environment: Some(environment), ..Service::default() }
}

fn stage(world: &mut World) -> Option<Stage> {
    let id = world.proposal().proposal_id;
    execution::run(&world.bench.view("execution"), id).map(|it| it.stage)
}

#[test]
fn a_request_names_what_it_rests_on() {
    let world = hung();
    let request = world.request();
    let binding = request.binding.unwrap();
    assert_eq!(request.ops, ["restart:api"]);
    assert_eq!(Some(binding.plan_digest), world.proposal().plan_digest);
    assert_eq!((binding.mode_epoch, binding.policy_version), (1, 1));
    let decision = world.bench.of_kind(Kind::GovernanceDecision)[0];
    assert_eq!(binding.approvals, [decision.envelope.reference()]);
    assert_eq!(binding.expires_at.since(world.bench.now()).as_ms(), 600_000);
    assert_eq!(world.bench.of_kind(Kind::RunnerRequest)[0].envelope.key, HOST);
}

#[test]
fn the_runner_s_word_alone_heals_nothing() {
    let mut world = hung();
    world.answer(RunnerStatus::Success, "restarted");
    world.bench.advance(9_000);
    assert_eq!(world.count(Kind::L3ExecutionResult), 0);
    world.bench.advance(2_000);
    let outcome = expect!["rejected: api is not well, 10 s after restart_service"];
    outcome.assert_eq(&world.last(Kind::L3ExecutionResult));
    assert_eq!(world.open(), 0);
}

#[test]
fn a_time_without_an_owner_does_not_count_against_a_repair() {
    let mut world = hung();
    world.answer(RunnerStatus::Success, "restarted");
    world.bench.advance(1_000);
    world.bench.leap(60_000);
    assert_eq!(world.count(Kind::L3ExecutionResult), 0, "nothing was seen, so nothing is known");
    world.recover("api");
    assert!(world.last(Kind::L3ExecutionResult).starts_with("promoted: "));
    // And where it is not well afterwards either, that is told in its time.
    let mut world = hung();
    world.answer(RunnerStatus::Success, "restarted");
    world.bench.leap(60_000);
    world.bench.advance(11_000);
    assert!(world.last(Kind::L3ExecutionResult).starts_with("rejected: "));
}

#[test]
fn a_failed_repair_ends_with_the_runner_s_sentence() {
    let mut world = hung();
    world.answer(RunnerStatus::Failed, "the command was not found");
    let outcome = expect![[r#"rejected: not done: the command was not found"#]];
    outcome.assert_eq(&world.last(Kind::L3ExecutionResult));
    let told = expect![
        "level 1 validation_failed: not done: the command was not found; trust in restart_service fell to 0.72, and it acts alone from 0.72 on; 1 of 3 repairs without effect until it is latched on api"
    ];
    told.assert_eq(&world.last(Kind::HealEscalated));
}

#[test]
fn a_repeated_result_is_taken_once() {
    let mut world = hung();
    let result = world.result(RunnerStatus::Success, "restarted");
    for _ in 0..5 {
        world.bench.input("runner:box", HOST, result.clone());
    }
    world.recover("api");
    for _ in 0..5 {
        world.bench.input("runner:box", HOST, result.clone());
    }
    assert_eq!(world.count(Kind::L3ExecutionResult), 1);
    assert_eq!(world.count(Kind::AnnotationAdded), 0);
}

#[test]
fn c12_a_forged_result_changes_nothing_and_is_said() {
    let mut world = hung();
    let good = world.result(RunnerStatus::Success, "restarted");
    let stranger = KeyPair::from_seed(&[9; 32]);
    let signed = |mut result: RunnerResult, key: &KeyPair, domain: &str| {
        result.signature = None;
        result.signature = Some(signature_text(&key.sign(domain, &result.statement())));
        result
    };
    let mut forgeries = vec![
        RunnerResult { signature: None, ..good.clone() },
        RunnerResult { status: RunnerStatus::Failed, ..good.clone() },
        RunnerResult { host: None, ..good.clone() },
        RunnerResult { host: Some("other".to_owned()), ..good.clone() },
        RunnerResult { known: Some(false), ..good.clone() },
        RunnerResult { id: topologies::testing::id("other"), ..good.clone() },
        signed(good.clone(), &stranger, schemas::event::RESULT_DOMAIN),
        signed(good.clone(), &world.runner, schemas::event::APPROVAL_DOMAIN),
    ];
    let n = if std::env::var_os("HEALWRIGHT_FULL").is_some() { 100_000 } else { 1_000 };
    let signature = good.signature.clone().unwrap();
    for at in 0..n {
        // One hex digit of the signature is another.
        let mut digits = signature.clone().into_bytes();
        let place = at % digits.len();
        let digit = (digits[place] as char).to_digit(16).unwrap();
        let other = (digit + 1 + (at / digits.len()) as u32 % 15) % 16;
        digits[place] = char::from_digit(other, 16).unwrap() as u8;
        let signature = Some(String::from_utf8(digits).unwrap());
        forgeries.push(RunnerResult { signature, ..good.clone() });
    }
    let n = forgeries.len();
    for forgery in forgeries {
        let said = world.bench.input("runner:box", HOST, forgery);
        assert_eq!(said.len(), 1, "an annotation and nothing else");
        assert_eq!(said[0].envelope.kind, Kind::AnnotationAdded);
    }
    assert_eq!(world.count(Kind::AnnotationAdded), n);
    assert_eq!(stage(&mut world), Some(Stage::Running));
    let why = expect![[r#"the result changes nothing: the signature is not that of box's runner"#]];
    why.assert_eq(&world.note());
}

#[test]
fn silence_beyond_the_run_cap_is_unknown_and_keeps_the_attempt_open() {
    let mut world = World::under(Profile { run_cap_ms: 60_000, ..Profile::local() });
    world.service("api");
    world.hang("api");
    world.bench.advance(60_000);
    assert_eq!(stage(&mut world), Some(Stage::Unknown));
    let why = expect![[
        r#"unknown whether the repair of api ran: host box has not answered within 1 min; the attempt stays open until api is well"#
    ]];
    why.assert_eq(&world.note());
    assert_eq!((world.open(), world.count(Kind::L3ExecutionResult)), (1, 0));
    assert_eq!(world.count(Kind::HealEscalated), 1);
    // The late answer still counts.
    world.answer(RunnerStatus::Success, "restarted");
    world.recover("api");
    assert_eq!(world.open(), 0);
}

#[test]
fn an_unknown_outcome_ends_when_the_service_is_well_and_proves_nothing() {
    let mut world = hung();
    let lost = world.result(RunnerStatus::Failed, "it was killed in between");
    let lost = world.signed(RunnerResult { known: Some(false), ..lost });
    world.bench.input("runner:box", HOST, lost);
    assert_eq!(stage(&mut world), Some(Stage::Unknown));
    let before = world.count(Kind::KpiTrustUpdate);
    world.see("api", "green");
    let outcome = expect![[r#"promoted: api is well again; whether the repair ran is not known"#]];
    outcome.assert_eq(&world.last(Kind::L3ExecutionResult));
    assert_eq!(world.count(Kind::KpiTrustUpdate), before);
}

#[test]
fn an_environment_is_tried_in_the_sandbox_before_it_is_rebuilt() {
    let mut world = World::local();
    world.configured(worker());
    world.see("worker", "red");
    world.suspect("worker", Pattern::ConfigurationErrors, 0.8);
    assert_eq!(world.request().ops, ["sandbox:env/worker"]);
    let mut result = world.result(RunnerStatus::Success, "imports work");
    result.checks = Some([("import".to_owned(), Check::passed("all of 3 modules"))].into());
    let result = world.signed(result);
    world.bench.input("runner:box", HOST, result);
    assert_eq!(world.request().ops, ["apply_patch:env/worker", "restart:worker"]);
    assert_eq!(world.request().sign.digest, release("worker", "env").digest);
    world.answer(RunnerStatus::Success, "flipped");
    world.recover("worker");
    let outcome =
        expect!["promoted: worker is well: 3 probes passed, 2 s after rebuild_environment"];
    outcome.assert_eq(&world.last(Kind::L3ExecutionResult));
}

#[test]
fn without_a_sandbox_what_needs_one_is_refused_and_the_rest_goes_on() {
    let mut world = World::local();
    world.host(HOST, &[]);
    world.configured(worker());
    world.service("api");
    world.see("worker", "red");
    world.suspect("worker", Pattern::ConfigurationErrors, 0.8);
    let why = expect![[
        r#"rejected: policy rejected it: the sandbox's check sandbox is unknown: this host has no sandbox; `healwright doctor` says how to get bubblewrap"#
    ]];
    why.assert_eq(&world.last(Kind::L3ExecutionResult));
    assert_eq!(world.count(Kind::RunnerRequest), 0);
    world.heal("api");
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn a_sandbox_that_does_not_answer_is_never_green() {
    let mut world = World::under(Profile { run_cap_ms: 60_000, ..Profile::local() });
    world.configured(worker());
    world.see("worker", "red");
    world.suspect("worker", Pattern::ConfigurationErrors, 0.8);
    world.bench.advance(60_000);
    let why = expect![[
        r#"rejected (none): the sandbox's check sandbox is unknown: no answer within 1 min, at 2026-03-02T10:01:00Z"#
    ]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    assert_eq!(world.open(), 0);
}

#[test]
fn a_release_that_broke_the_service_is_rolled_back_to_the_one_before() {
    let mut world = World::local();
    let service = |version: &str| Service {
        name: "api".to_owned(),
        proxy: "127.0.0.1:0".to_owned(),
        release: Some(release("api", version)),
        ..Service::default()
    };
    world.configured(service("1.0.0"));
    let committed = vec![release("api", "1.0.0"), release("api", "1.1.0")];
    world.bench.view("deployment").save("committed/api", &committed);
    let now = world.bench.now();
    world.bench.view("proposals").save("changed/api", &now);
    world.hang("api");
    let proposal = world.proposal();
    assert_eq!(proposal.playbook, "rollback_release");
    let request = world.request();
    assert_eq!(request.ops, ["rollback:api"]);
    assert_eq!(request.rollback.artifact, release("api", "1.0.0").artifact_ref);
    assert_eq!(proposal.rollback, release("api", "1.1.0").artifact_ref);
    let ranks = world.bench.of_kind(Kind::RemediationProposed).len();
    assert_eq!(ranks, 2, "the restart is the second choice");
}

#[test]
fn a_freeze_between_the_decision_and_its_request_leaves_no_request() {
    let mut world = World::local();
    world.configured(worker());
    world.see("worker", "red");
    world.suspect("worker", Pattern::ConfigurationErrors, 0.8);
    world.freeze();
    let mut result = world.result(RunnerStatus::Success, "imports work");
    result.checks = Some([("import".to_owned(), Check::passed("all"))].into());
    let result = world.signed(result);
    world.bench.input("runner:box", HOST, result);
    assert_eq!(world.requests().len(), 1, "the sandbox run and no other");
    let why = expect![[
        r#"rejected: policy rejected it: the mode is frozen since 2026-03-02T10:00:00Z (frozen by alice (SINGLE-SIGNER): something is wrong); `healwright unfreeze` lifts it"#
    ]];
    why.assert_eq(&world.last(Kind::L3ExecutionResult));
}

#[test]
fn what_the_runner_refuses_under_a_new_mode_is_no_verdict_on_the_playbook() {
    let mut world = hung();
    world.freeze();
    let before = world.count(Kind::KpiTrustUpdate);
    world.answer(RunnerStatus::Failed, "mode epoch 1 is not the current one");
    assert_eq!(world.count(Kind::KpiTrustUpdate), before);
    let latched = topologies::triggers::latched(&world.bench.view("triggers"), "api");
    assert!(latched.is_empty());
    assert_eq!(world.open(), 0);
}

/// Class 6 is never repaired.
#[test]
fn class_6_is_never_automatic() {
    let mut world = World::local();
    world.service("api");
    world.see("api", "red");
    for pattern in Pattern::ALL {
        let said = world.suspect_class("api", *pattern, 6, 1.0);
        let mut after = said.iter().map(|it| it.envelope.kind);
        use Kind::{HealEscalated, HealTriggerEvaluated, RcaHypothesis};
        let expected = [RcaHypothesis, HealTriggerEvaluated, HealEscalated];
        assert!(after.all(|it| expected.contains(&it)), "{pattern}: nothing but escalation");
    }
    assert_eq!(world.count(Kind::RemediationProposed), 0);
    assert_eq!(world.count(Kind::RunnerRequest), 0);
    let why =
        expect![[r#"level 4 critical_failure: class 6 on api: api exists and does not answer"#]];
    let escalated = world.bench.of_kind(Kind::HealEscalated);
    why.assert_eq(&topologies::testing::describe(&escalated[0].event));
    assert!(matches!(escalated[0].event, Event::HealEscalated(ref it) if it.level == 4));
}
