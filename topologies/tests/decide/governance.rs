//! Policy: deny by default, one approval for one plan, an operator's release.

use expect_test::expect;
use schemas::event::{
    APPROVAL_DOMAIN, ApprovalVerdict, CheckStatus, Pattern, RELEASE_DOMAIN, ReleaseRequested,
    RunnerStatus,
};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Event, Kind};
use topologies::config::{Environment, Service, Signers};
use topologies::profile::Profile;
use topologies::testing::Bench;
use topologies::{Processor, consensus, governance};

use crate::world::{HOST, OPERATOR, PROCESSORS, World, release, sign_approval};

fn named(name: &str) -> Service {
    Service { name: name.to_owned(), ..Service::default() }
}

/// A world whose `api` waits for a person.
fn waiting() -> World {
    let mut world = World::local();
    world.configured(Service { propose_only: true, ..named("api") });
    world.hang("api");
    assert_eq!(world.count(Kind::RunnerRequest), 0);
    world
}

/// Where nobody votes, a proposal stays one.
#[test]
fn quorum_no_votes_means_no_heal() {
    let votes = |it: &&Processor| it.name == consensus::PROCESSOR.name;
    let silent: Vec<Processor> = PROCESSORS.iter().filter(|it| !votes(it)).copied().collect();
    let mut world = World::local();
    let keys = [(OPERATOR.to_owned(), world.operator.public())].into();
    world.bench = Bench::new(&silent);
    world.activate("signers", &Signers { keys });
    world.host(HOST, &["bwrap"]);
    world.activate("profile", &Profile::local());
    world.service("api");
    world.hang("api");
    world.bench.advance(60_000);
    assert!(world.count(Kind::RemediationProposed) > 0);
    assert_eq!(world.count(Kind::RunnerRequest), 0);
}

#[test]
fn unattended_approval_needs_every_condition_and_names_each_that_fails() {
    let local = Profile::local;
    let api = named("api");
    let hang = (Pattern::CodeBugs, 0.8);
    let cases = [
        (local(), api.clone(), hang, expect![[r#"approved (unattended): "#]]),
        (
            Profile { auto_apply: false, ..local() },
            api.clone(),
            hang,
            expect![[r#"needs_review (none): auto_apply is off in profile local"#]],
        ),
        (
            local(),
            Service { propose_only: true, ..api.clone() },
            hang,
            expect![[r#"needs_review (none): api is watched with --propose-only"#]],
        ),
        (
            Profile { blast_radius_max: 0, ..local() },
            api.clone(),
            hang,
            expect![[
                r#"needs_review (none): it can affect 1 of the services, and 0 is the most without a person"#
            ]],
        ),
        (
            local(),
            api.clone(),
            (Pattern::ResourceExhaustion, 0.76),
            expect![[r#"needs_review (none): proposal confidence 0.68 is below 0.70"#]],
        ),
        (
            Profile { trust_min: 0.9, ..local() },
            api.clone(),
            hang,
            expect![[r#"needs_review (none): trust in restart_service 0.80 is below 0.90"#]],
        ),
        (
            Profile { window_hours: Some((11, 18)), ..local() },
            api.clone(),
            hang,
            expect![[r#"needs_review (none): it is outside the window, weekdays 11 to 18 UTC"#]],
        ),
        (
            Profile { run_cap_ms: 600_001, ..local() },
            api.clone(),
            hang,
            expect![[r#"needs_review (none): runs of up to 10.0 min need a person"#]],
        ),
        (
            Profile { auto_apply: false, trust_min: 0.9, ..local() },
            api,
            hang,
            expect![[
                r#"needs_review (none): auto_apply is off in profile local trust in restart_service 0.80 is below 0.90"#
            ]],
        ),
    ];
    for (profile, service, (pattern, confidence), decision) in cases {
        let mut world = World::under(profile);
        world.configured(service);
        world.see("api", "red");
        world.suspect("api", pattern, confidence);
        decision.assert_eq(&world.last(Kind::GovernanceDecision));
    }
}

#[test]
fn an_action_that_affects_many_services_waits_for_a_person() {
    let mut world = World::local();
    world.service("db");
    for (name, on) in [("api", "db"), ("web", "api")] {
        world.configured(Service { depends_on: vec![on.to_owned()], ..named(name) });
    }
    world.hang("db");
    let why = expect![[
        r#"needs_review (none): it can affect 3 of the services, and 2 is the most without a person"#
    ]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
}

#[test]
fn an_equal_proposal_within_the_duplicate_window_waits_for_a_person() {
    let mut world =
        World::under(Profile { duplicate_ms: 600_000, debounce_ms: 0, ..Profile::local() });
    world.service("api");
    world.heal("api");
    world.hang("api");
    let why = expect![[
        r#"needs_review (none): an equal proposal by restart_service was made within 10 min"#
    ]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn governance_hard_stop() {
    let mut world = World::local();
    let environment = Environment {
        kind: "venv".to_owned(),
        artifact_ref: "local://environments/worker/1".to_owned(),
        digest: release("worker", "env").digest,
    };
    world.configured(Service { environment: Some(environment), ..named("worker") });
    world.see("worker", "red");
    world.suspect("worker", Pattern::ConfigurationErrors, 0.9);
    let accepts = world.last(Kind::L2ConsensusResult);
    assert_eq!(accepts, "accept", "all votes accept");
    let mut result = world.result(RunnerStatus::Success, "imported");
    let failed = schemas::event::Check {
        status: CheckStatus::Failed,
        detail: "ModuleNotFoundError".to_owned(),
        duration_ms: 7,
    };
    result.checks = Some([("import".to_owned(), failed)].into());
    let result = world.signed(result);
    world.bench.input("runner:box", HOST, result);
    let why =
        expect![[r#"rejected (none): the sandbox's check import is failed: ModuleNotFoundError"#]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    assert_eq!(world.requests().len(), 1, "the sandbox run, and nothing after it");
    assert_eq!(world.open(), 0);
}

#[test]
fn an_approval_of_this_plan_lets_it_run_once() {
    let mut world = waiting();
    assert_eq!(governance::reviews(&world.bench.view("governance")).len(), 1);
    world.approve();
    let decision = expect![[r#"approved (simple): "#]];
    decision.assert_eq(&world.last(Kind::GovernanceDecision));
    let approvals = world.request().binding.unwrap().approvals;
    assert_eq!(approvals.len(), 2, "the decision and the person's approval: {approvals:?}");
    world.approve();
    assert_eq!(world.requests().len(), 1);
    let why = expect![[
        r#"no proposal of that id waits for an answer: it was decided, withdrawn or has expired; `healwright proposals list` shows what waits"#
    ]];
    why.assert_eq(&world.note());
}

#[test]
fn a_person_s_no_ends_the_proposal() {
    let mut world = waiting();
    let approval = world.approval(ApprovalVerdict::Reject);
    world.bench.input(OPERATOR, "p", approval);
    let decision = expect![[r#"rejected (none): alice rejected it: looked at it"#]];
    decision.assert_eq(&world.last(Kind::GovernanceDecision));
    assert_eq!((world.open(), world.count(Kind::RunnerRequest)), (0, 0));
}

#[test]
fn an_approval_that_does_not_hold_changes_nothing_and_is_said() {
    let mut world = waiting();
    let good = world.approval(ApprovalVerdict::Approve);
    let operator = KeyPair::from_seed(&[1; 32]);
    let stranger = KeyPair::from_seed(&[9; 32]);
    let mut refused = |approval, wanted: expect_test::Expect| {
        world.bench.input(OPERATOR, "p", approval);
        wanted.assert_eq(&world.note());
        assert_eq!(world.count(Kind::RunnerRequest), 0);
    };
    refused(
        sign_approval(good.clone(), &stranger),
        expect![[r#"the signature is not alice's over this approval"#]],
    );
    let mut unknown = good.clone();
    unknown.approver = "mallory".to_owned();
    refused(sign_approval(unknown, &stranger), expect![[r#""mallory" is no registered signer"#]]);
    let mut other = good.clone();
    other.plan_digest = release("x", "y").digest;
    refused(
        sign_approval(other, &operator),
        expect![[
            r#"the approval is for plan sha256:a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa, and what waits is plan sha256:ade6f0afaef5aaf76d8a1b4d6193088e958a50ff344a50bef06ab456ea4ad537; look at it again with `healwright proposals show f179c5e9-2f6b-8601-8596-471b8c4706dc`"#
        ]],
    );
    let mut old = good.clone();
    old.expires_at = "2026-03-02T10:00:00Z".parse().unwrap();
    refused(
        sign_approval(old, &operator),
        expect![[r#"the approval expired at 2026-03-02T10:00:00Z; sign a new one"#]],
    );
    let mut wide = good.clone();
    wide.scope = "always".to_owned();
    refused(sign_approval(wide, &operator), expect![[r#"there is no scope "always", only once"#]]);
    let mut elsewhere = good.clone();
    elsewhere.proposal_id = topologies::testing::id("elsewhere");
    refused(
        sign_approval(elsewhere, &operator),
        expect![[
            r#"no proposal of that id waits for an answer: it was decided, withdrawn or has expired; `healwright proposals list` shows what waits"#
        ]],
    );
    // Signed for another purpose: the domain is part of what is signed.
    let mut foreign = good.clone();
    foreign.signature = signature_text(&operator.sign(RELEASE_DOMAIN, &foreign.statement()));
    refused(foreign, expect![[r#"the signature is not alice's over this approval"#]]);
    assert_ne!(APPROVAL_DOMAIN, RELEASE_DOMAIN);
    world.bench.input(OPERATOR, "p", good);
    assert_eq!(world.count(Kind::RunnerRequest), 1);
}

#[test]
fn an_approval_while_frozen_is_refused_and_the_review_stays() {
    let mut world = waiting();
    world.freeze();
    world.approve();
    let why = expect![[
        r#"the mode is frozen since 2026-03-02T10:00:00Z (frozen by alice (SINGLE-SIGNER): something is wrong); `healwright unfreeze` lifts it"#
    ]];
    why.assert_eq(&world.note());
    assert_eq!(world.count(Kind::RunnerRequest), 0);
    world.unfreeze();
    world.approve();
    assert_eq!(world.count(Kind::RunnerRequest), 1);
}

#[test]
fn a_review_that_nobody_answers_ends_and_gives_its_permit_back() {
    let mut world = waiting();
    world.bench.advance(3_600_000);
    let why = expect![[
        r#"rejected (none): nobody answered within 1 h, and the plan is too old to be acted on"#
    ]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    assert_eq!(world.open(), 0);
    world.approve();
    assert_eq!(world.count(Kind::RunnerRequest), 0);
}

#[test]
fn a_review_is_withdrawn_when_the_service_is_well_again() {
    let mut world = waiting();
    world.see("api", "green");
    let why = expect![[r#"rejected (none): api is well again without it"#]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    assert_eq!(world.open(), 0);
}

pub fn asked(world: &World, version: &str) -> ReleaseRequested {
    let it = release("api", version);
    let mut request = ReleaseRequested {
        service: "api".to_owned(),
        artifact_ref: it.artifact_ref,
        digest: it.digest,
        requested_by: OPERATOR.to_owned(),
        strategy: "blue_green".to_owned(),
        version: Some(version.to_owned()),
        signature: None,
        nonce: None,
        reason: None,
    };
    let signature = world.operator.sign(RELEASE_DOMAIN, &request.statement());
    request.signature = Some(signature_text(&signature));
    request
}

fn shop() -> World {
    let mut world = World::local();
    shop_in(&mut world);
    world
}

/// A proxied service with a release.
pub fn shop_in(world: &mut World) {
    let proxy = "127.0.0.1:0".to_owned();
    let first = Some(release("api", "1.0.0"));
    world.configured(Service { proxy, release: first, ..named("api") });
}

#[test]
fn a_release_runs_by_its_operator_s_signature() {
    let mut world = shop();
    let request = asked(&world, "1.1.0");
    world.bench.input(OPERATOR, "api", request.clone());
    let decision = expect![[r#"approved (operator): "#]];
    decision.assert_eq(&world.last(Kind::GovernanceDecision));
    let Event::GovernanceDecision(it) = &world.bench.of_kind(Kind::GovernanceDecision)[0].event
    else {
        unreachable!()
    };
    assert_eq!(it.plan_digest.as_ref(), Some(&request.digest));
    assert_eq!(
        it.expires_at,
        Some(world.bench.now() + topologies::deployment::longest(&Profile::local()))
    );
    assert_eq!(world.request().ops, ["sandbox:api"]);
    world.bench.input(OPERATOR, "api", request);
    let again = expect![[
        r#"rejected (none): another release of api is being rolled out; `healwright status` shows it"#
    ]];
    again.assert_eq(&world.last(Kind::GovernanceDecision));
}

#[test]
fn a_release_that_a_rule_forbids_is_rejected_with_the_rule() {
    let mut world = shop();
    let good = asked(&world, "1.1.0");
    let mut forged = good.clone();
    forged.digest = release("api", "evil").digest;
    world.bench.input(OPERATOR, "api", forged);
    let why = expect![[
        r#"rejected (none): the signature is not alice's over this request; ask with `healwright release`"#
    ]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    let unsigned = ReleaseRequested { signature: None, ..good.clone() };
    world.bench.input(OPERATOR, "api", unsigned);
    let serving = asked(&world, "1.0.0");
    world.bench.input(OPERATOR, "api", serving);
    let why = expect![[
        r#"rejected (none): sha256:92521fc3cbd964bdc9f584a991b89fddaa5754ed1cc96d6d42445338669c1305 is what api already runs"#
    ]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    world.freeze();
    world.bench.input(OPERATOR, "api", good);
    let why = expect![[
        r#"rejected (none): the mode is frozen since 2026-03-02T10:00:00Z (frozen by alice (SINGLE-SIGNER): something is wrong); `healwright unfreeze` lifts it"#
    ]];
    why.assert_eq(&world.last(Kind::GovernanceDecision));
    assert_eq!(world.count(Kind::RunnerRequest), 0);
}
