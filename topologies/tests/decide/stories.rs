//! Golden transcripts: the stories of the gate, readable without the code.

use expect_test::{expect, expect_file};
use schemas::Kind;
use schemas::event::RunnerStatus;
use topologies::config::Service;
use topologies::profile::Profile;

use crate::world::World;

#[test]
fn a_hung_process_is_restarted_and_proven_well() {
    let mut world = World::local();
    world.service("api");
    world.bench.at(1_000);
    world.heal("api");
    expect![[r#"
        seconds   event                  key          what
            0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
            0.000 kpi.trust.update       rollback_release rollback_release 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       rebuild_environment rebuild_environment 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       restart_service restart_service 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       deployment   deployment 0.500 → 0.800: vouched_by_operator
            0.000 slo.anomaly.detected   api          heartbeat unknown → green info: 3 against 3 in 1 s (probe)
            1.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
            1.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
            1.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 1 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
            1.000 remediation.proposed   p1           1. restart_service restart:api (low impact, 0.80) else local://services/api
            1.000 vote.cast              p1           rule says accept: the preconditions of restart_service hold
            1.000 vote.cast              p1           security says accept: digests known, parameters whitelisted, rollback named
            1.000 l1.consensus.result    p1           accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
            1.000 l2.consensus.result    p1           accept
            1.000 sandbox.result         p1           in none: nothing_new not_applicable
            1.000 governance.decision    p1           approved (unattended):
            1.000 runner.request         box          restart:api
            1.000 runner.result          box          success: restarted
            1.000 slo.anomaly.detected   api          heartbeat red → green info: 3 against 3 in 1 s (probe)
            3.000 l3.execution.result    p1           promoted: api is well: 3 probes passed, 2 s after restart_service
            3.000 kpi.trust.update       restart_service restart_service 0.800 → 0.820: api is well: 3 probes passed, 2 s after restart_service
    "#]].assert_eq(&world.story());
}

#[test]
fn the_same_fault_keeps_coming_until_the_budget_is_spent_and_the_playbook_latched() {
    let mut world = World::local();
    let quiet = [Kind::VoteCast, Kind::L1ConsensusResult, Kind::L2ConsensusResult];
    world.bench = std::mem::replace(&mut world.bench, topologies::testing::Bench::new(&[]))
        .quiet(&[quiet[0], quiet[1], quiet[2], Kind::SandboxResult, Kind::KpiTrustUpdate]);
    world.service("api");
    for n in 1..=4 {
        world.bench.at(n * 8_000);
        world.hang("api");
        if n < 4 {
            world.bench.advance(500);
            world.answer(RunnerStatus::Success, "killed the process group, started anew");
            world.recover("api");
        }
    }
    expect![[r#"
        seconds   event                  key          what
            0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
            0.000 slo.anomaly.detected   api          heartbeat unknown → green info: 3 against 3 in 1 s (probe)
            8.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
            8.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
            8.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 1 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
            8.000 remediation.proposed   p1           1. restart_service restart:api (low impact, 0.80) else local://services/api
            8.000 governance.decision    p1           approved (unattended):
            8.000 runner.request         box          restart:api
            8.500 runner.result          box          success: killed the process group, started anew
            8.500 slo.anomaly.detected   api          heartbeat red → green info: 3 against 3 in 1 s (probe)
           10.500 l3.execution.result    p1           promoted: api is well: 3 probes passed, 2 s after restart_service
           16.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
           16.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
           16.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 2 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
           16.000 remediation.proposed   p2           1. restart_service restart:api (low impact, 0.80) else local://services/api
           16.000 governance.decision    p2           approved (unattended):
           16.000 runner.request         box          restart:api
           16.500 runner.result          box          success: killed the process group, started anew
           16.500 slo.anomaly.detected   api          heartbeat red → green info: 3 against 3 in 1 s (probe)
           18.500 l3.execution.result    p2           promoted: api is well: 3 probes passed, 2 s after restart_service
           24.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
           24.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
           24.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 3 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
           24.000 remediation.proposed   p3           1. restart_service restart:api (low impact, 0.80) else local://services/api
           24.000 governance.decision    p3           approved (unattended):
           24.000 runner.request         box          restart:api
           24.500 runner.result          box          success: killed the process group, started anew
           24.500 slo.anomaly.detected   api          heartbeat red → green info: 3 against 3 in 1 s (probe)
           26.500 l3.execution.result    p3           promoted: api is well: 3 probes passed, 2 s after restart_service
           32.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
           32.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
           32.000 heal.trigger.evaluated restart_service restart_service over_budget (0 of 2 open): budget spent: 3 of 3 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:08Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration; and latched: 3 repairs of api by restart_service had no lasting effect; a changed configuration of api lifts it, or `healwright trust vouch restart_service --service api`
           32.000 heal.escalated         inc-api      level 4 budget_ceiling: budget spent: 3 of 3 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:08Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration; and latched: 3 repairs of api by restart_service had no lasting effect; a changed configuration of api lifts it, or `healwright trust vouch restart_service --service api`
    "#]].assert_eq(&world.story());
}

#[test]
fn a_freeze_during_a_repair_stops_everything_that_has_not_begun() {
    let mut world = World::under(Profile { attempts_max: 10, ..Profile::local() });
    world.service("api");
    world.service("db");
    world.bench.at(1_000);
    world.hang("api");
    world.bench.at(1_250);
    world.freeze();
    world.hang("db");
    world.bench.at(1_500);
    world.answer(RunnerStatus::Failed, "mode epoch 1 is not the current one: not started");
    world.bench.at(20_000);
    world.unfreeze();
    expect![[r#"
        seconds   event                  key          what
            0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
            0.000 kpi.trust.update       rollback_release rollback_release 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       rebuild_environment rebuild_environment 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       restart_service restart_service 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       deployment   deployment 0.500 → 0.800: vouched_by_operator
            0.000 slo.anomaly.detected   api          heartbeat unknown → green info: 3 against 3 in 1 s (probe)
            0.000 slo.anomaly.detected   db           heartbeat unknown → green info: 3 against 3 in 1 s (probe)
            1.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
            1.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
            1.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 1 of 10 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
            1.000 remediation.proposed   p1           1. restart_service restart:api (low impact, 0.80) else local://services/api
            1.000 vote.cast              p1           rule says accept: the preconditions of restart_service hold
            1.000 vote.cast              p1           security says accept: digests known, parameters whitelisted, rollback named
            1.000 l1.consensus.result    p1           accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
            1.000 l2.consensus.result    p1           accept
            1.000 sandbox.result         p1           in none: nothing_new not_applicable
            1.000 governance.decision    p1           approved (unattended):
            1.000 runner.request         box          restart:api
            1.250 freeze.command         deployment   freeze by alice: something is wrong
            1.250 mode.changed           deployment   normal → frozen epoch 2: frozen by alice (SINGLE-SIGNER): something is wrong
            1.250 slo.anomaly.detected   db           heartbeat green → red critical: 3 against 3 in 1 s (probe)
            1.250 rca.hypothesis         inc-db       class 3 code_bugs 0.80: db exists and does not answer
            1.250 heal.trigger.evaluated none         none not_fired (0 of 2 open): the mode is frozen since 2026-03-02T10:00:01.25Z (frozen by alice (SINGLE-SIGNER): something is wrong); `healwright unfreeze` lifts it
            1.250 heal.escalated         inc-db       level 4 repair_exhausted: the mode is frozen since 2026-03-02T10:00:01.25Z (frozen by alice (SINGLE-SIGNER): something is wrong); `healwright unfreeze` lifts it
            1.500 runner.result          box          failed: mode epoch 1 is not the current one: not started
            1.500 l3.execution.result    p1           rejected: not done: mode epoch 1 is not the current one: not started
           20.000 freeze.command         deployment   unfreeze by alice: something is wrong
           20.000 mode.changed           deployment   frozen → normal epoch 3: unfrozen by alice (SINGLE-SIGNER): something is wrong
           20.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on db: attempt 1 of 10 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
           20.000 remediation.proposed   p2           1. restart_service restart:db (low impact, 0.80) else local://services/db
           20.000 vote.cast              p2           rule says accept: the preconditions of restart_service hold
           20.000 vote.cast              p2           security says accept: digests known, parameters whitelisted, rollback named
           20.000 l1.consensus.result    p2           accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
           20.000 l2.consensus.result    p2           accept
           20.000 sandbox.result         p2           in none: nothing_new not_applicable
           20.000 governance.decision    p2           approved (unattended):
           20.000 runner.request         box          restart:db
    "#]].assert_eq(&world.story());
}

#[test]
fn what_needs_review_waits_for_a_person_and_runs_once_approved() {
    let mut world = World::local();
    let name = "api".to_owned();
    world.configured(Service { name, propose_only: true, ..Service::default() });
    world.bench.at(1_000);
    world.hang("api");
    world.bench.at(60_000);
    world.approve();
    world.answer(RunnerStatus::Success, "restarted");
    world.recover("api");
    expect![[r#"
        seconds   event                  key          what
            0.000 mode.changed           deployment   frozen → normal epoch 1: profile local activated
            0.000 kpi.trust.update       rollback_release rollback_release 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       rebuild_environment rebuild_environment 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       restart_service restart_service 0.500 → 0.800: vouched_by_operator
            0.000 kpi.trust.update       deployment   deployment 0.500 → 0.800: vouched_by_operator
            0.000 slo.anomaly.detected   api          heartbeat unknown → green info: 3 against 3 in 1 s (probe)
            1.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
            1.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
            1.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 1 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
            1.000 remediation.proposed   p1           1. restart_service restart:api (low impact, 0.80) else local://services/api
            1.000 vote.cast              p1           rule says accept: the preconditions of restart_service hold
            1.000 vote.cast              p1           security says accept: digests known, parameters whitelisted, rollback named
            1.000 l1.consensus.result    p1           accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
            1.000 l2.consensus.result    p1           accept
            1.000 sandbox.result         p1           in none: nothing_new not_applicable
            1.000 governance.decision    p1           needs_review (none): api is watched with --propose-only
            1.000 heal.escalated         inc-api      level 4 repair_exhausted: a person decides, because api is watched with --propose-only; `healwright approve p1` or `healwright reject p1`
           60.000 approval.given         p1           approve by alice: looked at it
           60.000 governance.decision    p1           approved (simple):
           60.000 runner.request         box          restart:api
           60.000 runner.result          box          success: restarted
           60.000 slo.anomaly.detected   api          heartbeat red → green info: 3 against 3 in 1 s (probe)
           62.000 l3.execution.result    p1           promoted: api is well: 3 probes passed, 2 s after restart_service
           62.000 kpi.trust.update       restart_service restart_service 0.800 → 0.820: api is well: 3 probes passed, 2 s after restart_service
    "#]].assert_eq(&world.story());
}

/// Votes, sandbox and alternatives are left out: the story is about what stops and what goes on.
fn hushed(profile: Profile) -> World {
    let mut world = World::under(profile);
    world.bench =
        std::mem::replace(&mut world.bench, topologies::testing::Bench::new(&[])).quiet(&[
            Kind::VoteCast,
            Kind::L1ConsensusResult,
            Kind::L2ConsensusResult,
            Kind::SandboxResult,
        ]);
    world
}

#[test]
fn repairs_that_fail_cost_trust_then_a_person_s_consent_then_the_playbook_on_that_service() {
    let mut world = hushed(Profile { attempts_max: 10, ..Profile::local() });
    world.service("api");
    for n in 1..=4 {
        world.bench.at(n * 8_000);
        world.hang("api");
        if n == 3 {
            world.bench.advance(1_000);
            world.approve();
        }
        if n < 4 {
            world.bench.advance(500);
            world.answer(RunnerStatus::Failed, "the command was not found");
        }
    }
    world.bench.at(60_000);
    world.vouch("restart_service", "api");
    world.bench.advance(500);
    world.answer(RunnerStatus::Success, "restarted");
    world.recover("api");
    expect_file!["golden/repairs_that_fail.txt"].assert_eq(&world.story());
}

/// The spec's numbers with an operator who lets proven playbooks act: each repair first waits
/// for a person, every one that helps raises trust, and from 0.72 on the playbook acts alone.
#[test]
fn under_production_a_playbook_earns_that_it_may_act_alone() {
    let mut world = hushed(Profile {
        triggers_repair: true,
        auto_apply: true,
        signers_min: 1,
        ..Profile::production()
    });
    world.service("api");
    for n in 0..7 {
        world.bench.at(1_000 + n * 31 * 60_000);
        world.hang("api");
        if world.last(Kind::GovernanceDecision).starts_with("needs_review") {
            world.bench.advance(60_000);
            world.approve();
        }
        world.bench.advance(2_000);
        world.answer(RunnerStatus::Success, "restarted");
        world.bench.advance(2_000);
        world.see("api", "green");
        world.bench.advance(5_000);
        world.see("api", "pass");
        world.bench.advance(10_000);
        world.resolve("api");
    }
    expect_file!["golden/a_playbook_earns_it.txt"].assert_eq(&world.story());
}

#[test]
fn production_as_it_ships_only_detects_and_says_what_would_change_that() {
    let mut world = World::under(Profile::production());
    world.service("api");
    world.hang("api");
    expect![[r#"
        seconds   event                  key          what
            0.000 mode.changed           deployment   frozen → normal epoch 1: profile production activated
            0.000 slo.anomaly.detected   api          heartbeat unknown → green info: 3 against 3 in 1 s (probe)
            0.000 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 1 s (probe)
            0.000 rca.hypothesis         inc-api      class 3 code_bugs 0.80: api exists and does not answer
            0.000 heal.trigger.evaluated restart_service restart_service not_fired (0 of 2 open): detect_only: under profile production the trigger restart_service only detects; set `triggers_repair = true` under `numbers` of the configuration once it is proven
            0.000 heal.escalated         inc-api      level 4 repair_exhausted: detect_only: under profile production the trigger restart_service only detects; set `triggers_repair = true` under `numbers` of the configuration once it is proven
    "#]].assert_eq(&world.story());
}
