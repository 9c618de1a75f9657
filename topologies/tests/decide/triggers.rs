//! The gate: LOCK-HEAL-1 to 5, the latch, and the threat shapes of spec 40 §4.

use expect_test::expect;
use schemas::event::{Pattern, RunnerStatus, TriggerVerdict};
use schemas::{Event, Kind, Ns};
use topologies::config::Service;
use topologies::profile::Profile;
use topologies::triggers;

use crate::world::{World, hypothesis};

/// Enough attempts that no budget stands in the way.
fn unbudgeted() -> Profile {
    Profile { attempts_max: 100_000, ..Profile::local() }
}

#[test]
fn lock_heal_1_no_attempt_without_audit_id() {
    let mut world = World::local();
    world.service("api");
    world.heal("api");
    world.hang("api");
    let records = world.bench.records();
    let evaluated = world.bench.of_kind(Kind::HealTriggerEvaluated);
    assert_eq!(evaluated.len(), 2);
    for record in evaluated {
        let Event::HealTriggerEvaluated(it) = &record.event else { unreachable!() };
        let audit = records.iter().find(|of| of.envelope.reference() == it.audit_log_id).unwrap();
        assert_eq!(audit.envelope.kind, Kind::RcaHypothesis);
        assert!(audit.envelope.seq < record.envelope.seq);
    }
}

#[test]
fn lock_heal_2_nfc_before_sha256() {
    let mut world = World::local();
    let mut hash = |service: &str| {
        world.bench.input("mallory", "i", hypothesis(service, Pattern::CodeBugs, 0.9));
        world.evaluation().cause_hash
    };
    assert_eq!(hash("caf\u{e9}"), hash("cafe\u{301}"));
    assert_ne!(hash("caf\u{e9}"), hash("cafe"));
}

#[test]
fn lock_heal_2_unregistered_principal_rejected() {
    let mut world = World::local();
    world.service("api");
    world.see("api", "red");
    world.bench.input("mallory", "i", hypothesis("api", Pattern::CodeBugs, 0.9));
    assert_eq!(world.evaluation().verdict, TriggerVerdict::RejectedProvenance);
    assert_eq!(world.evaluation().raised_by, "mallory");
    let why = expect![[
        r#"rejected_provenance: provenance: "mallory" is no registered principal for this cause; only diagnosis raises it, from telemetry under `healwright watch`"#
    ]];
    why.assert_eq(&world.verdict());
    assert_eq!(world.open(), 0);
}

#[test]
fn lock_heal_3_debounce_holds() {
    for (after_s, verdict) in [(1799, TriggerVerdict::Debounced), (1800, TriggerVerdict::Fired)] {
        let debounce_ms = Profile::production().debounce_ms;
        let mut world = World::under(Profile { debounce_ms, ..Profile::local() });
        world.service("api");
        world.heal("api");
        world.see("api", "red");
        world.bench.at(after_s * 1000);
        world.suspect("api", Pattern::CodeBugs, 0.8);
        assert_eq!(world.evaluation().verdict, verdict, "after {after_s} s");
    }
}

#[test]
fn a_debounced_cause_is_looked_at_again_when_it_has_cooled_if_the_service_is_still_red() {
    let mut world = World::local();
    world.service("api");
    world.heal("api");
    world.hang("api");
    let why = expect![[
        r#"debounced: debounced: restart_service ran on api and is looked at again in 3 s, if api is still red then"#
    ]];
    why.assert_eq(&world.verdict());
    world.bench.advance(3_000);
    assert_eq!(world.evaluation().verdict, TriggerVerdict::Fired);

    let mut world = World::local();
    world.service("api");
    world.heal("api");
    world.hang("api");
    world.see("api", "unknown");
    world.bench.advance(3_000);
    assert_eq!(world.evaluation().verdict, TriggerVerdict::Debounced);
}

#[test]
fn lock_heal_4_third_attempt_fails_at_ceiling() {
    let mut world = World::local();
    for service in ["a", "b", "c"] {
        world.service(service);
        world.hang(service);
    }
    assert_eq!(world.evaluation().verdict, TriggerVerdict::OverBudget);
    assert_eq!((world.evaluation().active_before, world.evaluation().ceiling), (2, 2));
    let why = expect![[
        r#"over_budget: over the ceiling: 2 of 2 attempts of type restart_service are open; one ends with its outcome, `healwright incident list` shows them"#
    ]];
    why.assert_eq(&world.verdict());
    assert_eq!(world.open(), 2);
}

#[test]
fn lock_heal_4_global_ceiling() {
    let mut world = World::under(Profile { ceiling_per_type: 100, ..Profile::local() });
    for n in 1..=9 {
        world.service(&format!("s{n}"));
        world.hang(&format!("s{n}"));
    }
    let why = expect![[
        r#"over_budget: over the ceiling: 8 of 8 attempts in all are open; one ends with its outcome, `healwright incident list` shows them"#
    ]];
    why.assert_eq(&world.verdict());
    assert_eq!(world.open(), 8);
}

#[test]
fn lock_heal_5_exhaustion_only_escalates() {
    let mut world = World::under(Profile { attempts_max: 1, debounce_ms: 0, ..Profile::local() });
    world.service("api");
    world.heal("api");
    let said = world.hang("api");
    let kinds: Vec<Kind> = said.iter().map(|it| it.envelope.kind).collect();
    use Kind::{HealEscalated, HealTriggerEvaluated, RcaHypothesis};
    assert_eq!(kinds, [RcaHypothesis, HealTriggerEvaluated, HealEscalated]);
    let requests = world.requests().len();
    world.bench.advance(60_000);
    assert_eq!(world.requests().len(), requests, "there is no silent retry");
}

#[test]
fn the_budget_slides_and_its_refusal_says_when_and_how() {
    let mut world = World::under(Profile { debounce_ms: 0, ..Profile::local() });
    world.service("api");
    for n in 0..3 {
        world.bench.at(n * 60_000);
        world.heal("api");
    }
    world.bench.at(180_000);
    world.hang("api");
    let why = expect![
        "over_budget: budget spent: 3 of 3 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:00Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration"
    ];
    why.assert_eq(&world.verdict());
    world.bench.at(600_000 - 250);
    world.suspect("api", Pattern::CodeBugs, 0.8);
    assert_eq!(world.evaluation().verdict, TriggerVerdict::OverBudget);
    world.bench.at(600_000);
    world.suspect("api", Pattern::CodeBugs, 0.8);
    assert_eq!(world.evaluation().verdict, TriggerVerdict::Fired);
}

/// Three attempts of a service in an hour; what would be the fourth goes to people.
#[test]
fn service_watch_3_per_hour() {
    let Profile { attempts_max, attempts_window_ms, .. } = Profile::production();
    assert_eq!((attempts_max, attempts_window_ms), (3, 3_600_000));
    let local = Profile { debounce_ms: 0, ..Profile::local() };
    let mut world = World::under(Profile { attempts_max, attempts_window_ms, ..local });
    world.service("api");
    for n in 0..3 {
        world.bench.at(n * 60_000);
        world.heal("api");
    }
    world.bench.at(180_000);
    world.hang("api");
    assert_eq!(world.evaluation().verdict, TriggerVerdict::OverBudget);
    assert_eq!((world.requests().len(), world.count(Kind::HealEscalated)), (3, 1));
}

#[test]
fn a_service_s_own_budget_goes_before_the_profile_s() {
    let mut world = World::under(Profile { debounce_ms: 0, ..Profile::local() });
    let own = Service { attempts_max: 1, attempts_window_ms: 5_000, ..Service::default() };
    world.configured(Service { name: "api".to_owned(), ..own.clone() });
    world.heal("api");
    world.hang("api");
    let why = expect![
        "over_budget: budget spent: 1 of 1 attempts for api in 5 s; the next one is possible at 2026-03-02T10:00:05Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration"
    ];
    why.assert_eq(&world.verdict());
    // A person raises it, and what was refused is looked at again.
    let host = crate::world::HOST.to_owned();
    let raised = Service { name: "api".to_owned(), host, attempts_max: 5, ..own };
    world.activate("service/api", &raised);
    assert_eq!(world.evaluation().verdict, TriggerVerdict::Fired);
    let now = world.bench.now();
    let budget = triggers::budget(&world.bench.view("triggers"), now, "api");
    assert_eq!((budget.used, budget.max, budget.window), (2, 5, Ns::from_s(5)));
}

#[test]
fn three_ineffective_repairs_latch_the_playbook_until_the_configuration_changes() {
    let mut world = World::under(Profile { debounce_ms: 0, attempts_max: 100, ..Profile::local() });
    world.service("api");
    for _ in 0..3 {
        // Well for less than the settle window, then red again: completed is not healed.
        world.heal("api");
        world.bench.advance(1_000);
        world.see("api", "red");
    }
    world.suspect("api", Pattern::CodeBugs, 0.8);
    let why = expect![
        "over_budget: latched: 3 repairs of api by restart_service had no lasting effect; a changed configuration of api lifts it, or `healwright trust vouch restart_service --service api`"
    ];
    why.assert_eq(&world.verdict());
    assert_eq!(
        triggers::latched(&world.bench.view("triggers"), "api"),
        [("restart_service".to_owned(), 3)]
    );
    // The same configuration again is no change, so a restart of the program lifts nothing.
    let host = crate::world::HOST.to_owned();
    let same = Service { name: "api".to_owned(), host, ..Service::default() };
    world.activate("service/api", &same);
    assert_eq!(world.evaluation().verdict, TriggerVerdict::OverBudget);
    world.activate("service/api", &Service { probe_timeout_ms: 9, ..same });
    assert_eq!(world.evaluation().verdict, TriggerVerdict::Fired);
}

#[test]
fn a_repair_that_lasts_ends_the_row_of_ineffective_ones() {
    let mut world = World::under(Profile { debounce_ms: 0, attempts_max: 100, ..Profile::local() });
    world.service("api");
    for _ in 0..5 {
        world.heal("api");
        world.bench.advance(1_000);
        world.heal("api");
        world.bench.advance(11_000);
    }
    world.hang("api");
    assert_eq!(world.evaluation().verdict, TriggerVerdict::Fired);
}

#[test]
fn adv_injection_crafted_body() {
    let mut world = World::local();
    world.service("api");
    world.see("api", "red");
    // The very event that diagnosis says, from outside, under its name, and variations of it.
    for service in ["api", "a\u{200b}pi", "\u{430}pi", "api\u{202e}", "\u{ff41}pi", ""] {
        let crafted = hypothesis(service, Pattern::CodeBugs, 1.0);
        world.bench.input_of("diagnosis", "inc-api", "inc-api", crafted);
        assert_eq!(world.evaluation().verdict, TriggerVerdict::RejectedProvenance);
    }
    assert_eq!(world.count(Kind::RunnerRequest), 0);
}

#[test]
fn adv_replay_same_counts_against_type() {
    let mut world = World::under(Profile { debounce_ms: 0, ..unbudgeted() });
    for service in ["a", "b", "c"] {
        world.service(service);
        world.see(service, "red");
    }
    // Equal evidence and equal text: were the budget per cause, the third would be "known".
    for service in ["a", "b"] {
        world.suspect(service, Pattern::CodeBugs, 0.8);
    }
    for _ in 0..3 {
        world.suspect("c", Pattern::CodeBugs, 0.8);
        assert_eq!(world.evaluation().verdict, TriggerVerdict::OverBudget);
    }
}

#[test]
fn adv_runaway_1000_in_one_second() {
    let mut world = World::under(Profile { debounce_ms: 0, ..unbudgeted() });
    for n in 0..1000 {
        world.service(&format!("s{n}"));
    }
    for n in 0..1000 {
        world.hang(&format!("s{n}"));
        assert!(world.open() <= 2);
        world.bench.advance(if n % 250 == 0 { 250 } else { 0 });
    }
    let evaluated = world.bench.of_kind(Kind::HealTriggerEvaluated);
    let of = |verdict| {
        let is = |it: &&&topologies::testing::Record| match &it.event {
            Event::HealTriggerEvaluated(it) => it.verdict == verdict,
            _ => false,
        };
        evaluated.iter().filter(is).count()
    };
    assert_eq!((of(TriggerVerdict::Fired), of(TriggerVerdict::OverBudget)), (2, 998));
}

#[test]
fn adv_c_f2_two_agents_one_winner() {
    let mut world = World::local();
    world.service("api");
    world.hang("api");
    assert_eq!(world.evaluation().verdict, TriggerVerdict::Fired);
    world.suspect("api", Pattern::CodeBugs, 0.8);
    let why = expect![[
        r#"not_fired: joins the attempt by restart_service that is open on api for 0 ms"#
    ]];
    why.assert_eq(&world.verdict());
    assert_eq!((world.open(), world.requests().len()), (1, 1));
}

#[test]
fn adv_c_f3_cross_tier_race() {
    let mut world = World::under(Profile { ceiling_per_type: 1, ..Profile::local() });
    world.host("other", &[]);
    world.service("api");
    world.configured(Service { name: "db".to_owned(), ..Service::default() });
    world.see("api", "red");
    world.see("db", "red");
    world.suspect("api", Pattern::CodeBugs, 0.8);
    world.suspect_class("db", Pattern::ResourceExhaustion, 2, 0.9);
    assert_eq!(world.evaluation().verdict, TriggerVerdict::OverBudget);
    assert_eq!(world.open(), 1, "one counter for both tiers");
}

#[test]
fn detect_only_never_repairs() {
    let profile = Profile { triggers_repair: false, ..Profile::local() };
    let mut world = World::under(profile);
    world.service("api");
    world.hang("api");
    let why = expect![
        "not_fired: detect_only: under profile local the trigger restart_service only detects; set `triggers_repair = true` under `numbers` of the configuration once it is proven"
    ];
    why.assert_eq(&world.verdict());
    assert_eq!((world.count(Kind::RunnerRequest), world.count(Kind::HealEscalated)), (0, 1));
    assert_eq!(world.count(Kind::RemediationProposed), 0);
}

#[test]
fn each_reason_names_its_rule() {
    let cases = [
        (
            Pattern::CodeBugs,
            3,
            0.74,
            expect![[
                r#"not_fired: confidence 0.74 is below 0.75, so a person decides; `healwright incident show inc-api` shows the evidence"#
            ]],
        ),
        (
            Pattern::CodeBugs,
            6,
            1.0,
            expect![[
                r#"not_fired: class 6: nothing acts by itself on a critical failure; it is a person's"#
            ]],
        ),
        (
            Pattern::DataCorruption,
            4,
            0.9,
            expect![[
                r#"not_fired: no playbook may act: rollback_release is nothing against data_corruption; rebuild_environment is nothing against data_corruption; restart_service is nothing against data_corruption"#
            ]],
        ),
        (
            Pattern::CodeBugs,
            3,
            0.75,
            expect![[
                r#"fired: restart_service on api: attempt 1 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all"#
            ]],
        ),
    ];
    for (pattern, class, confidence, why) in cases {
        let mut world = World::local();
        world.service("api");
        world.see("api", "red");
        world.suspect_class("api", pattern, class, confidence);
        why.assert_eq(&world.verdict());
    }
    let mut world = World::local();
    world.see("api", "red");
    world.suspect("api", Pattern::CodeBugs, 0.8);
    let why =
        expect![[r#"not_fired: "api" is not under care; `healwright watch` takes it under care"#]];
    why.assert_eq(&world.verdict());
}

#[test]
fn confidence_below_075_never_acts() {
    for (confidence, proposes) in [(0.0, false), (0.74, false), (0.75, true)] {
        let mut world = World::local();
        world.service("api");
        world.see("api", "red");
        world.suspect("api", Pattern::CodeBugs, confidence);
        assert_eq!(world.count(Kind::RemediationProposed) > 0, proposes, "{confidence}");
        assert!(proposes || world.requests().is_empty(), "{confidence}");
    }
}

/// How sure somebody says that he is counts for nothing; what diagnosis computed stands.
#[test]
fn self_reported_confidence_is_ignored() {
    let mut world = World::local();
    world.service("api");
    world.see("api", "red");
    world.suspect("api", Pattern::CodeBugs, 0.5);
    for who in ["mallory", "llm", "diagnosis"] {
        let sure = hypothesis("api", Pattern::CodeBugs, 1.0);
        world.bench.input_of(who, "inc-api", "inc-api", sure);
        assert_eq!(world.evaluation().verdict, TriggerVerdict::RejectedProvenance, "{who}");
    }
    assert_eq!(world.count(Kind::RemediationProposed), 0);
}

/// An unknown outcome keeps its permit and a known one gives it back.
#[test]
fn crash_between_intent_and_outcome() {
    let mut world = World::local();
    world.service("api");
    world.hang("api");
    let lost = schemas::event::RunnerResult {
        known: Some(false),
        ..world.result(RunnerStatus::Failed, "the runner was killed in between")
    };
    let lost = world.signed(lost);
    world.bench.input("runner:box", "box", lost);
    world.bench.advance(3_600_000);
    assert_eq!(world.open(), 1);
    world.see("api", "green");
    assert_eq!(world.open(), 0);
}

#[test]
fn hundreds_of_held_causes_are_looked_at_again_over_several_steps() {
    let mut world = World::local();
    for n in 0..300 {
        world.service(&format!("s{n}"));
    }
    world.freeze();
    for n in 0..300 {
        world.hang(&format!("s{n}"));
    }
    let before = world.count(Kind::HealTriggerEvaluated);
    // The bench refuses more than 64 KiB said for one entry.
    world.unfreeze();
    world.bench.advance(500);
    assert_eq!(world.count(Kind::HealTriggerEvaluated) - before, 300);
    assert_eq!(world.open(), 2);
}

#[test]
fn what_the_mode_held_back_is_looked_at_again_after_the_unfreeze() {
    let mut world = World::local();
    world.service("api");
    world.service("db");
    world.freeze();
    world.hang("api");
    world.hang("db");
    world.see("db", "green");
    let why = expect![[
        r#"not_fired: the mode is frozen since 2026-03-02T10:00:00Z (frozen by alice (SINGLE-SIGNER): something is wrong); `healwright unfreeze` lifts it"#
    ]];
    why.assert_eq(&world.verdict());
    assert_eq!(world.open(), 0);
    world.unfreeze();
    assert_eq!(world.open(), 1, "api is still red, db is well");
    assert_eq!(world.request().binding.unwrap().mode_epoch, 3);
}

#[test]
fn no_configured_span_is_too_long_for_the_fold() {
    // More than that is not kept; see configuration.rs.
    let longest = i64::MAX as u64;
    let mut world = World::under(Profile {
        probe_period_ms: longest,
        validation_after_ms: longest,
        validation_timeout_ms: longest,
        attempts_window_ms: longest,
        debounce_ms: longest,
        run_cap_ms: longest,
        shadow_timeout_ms: longest,
        ring_timeout_ms: longest,
        promotion_check_ms: longest,
        ..Profile::local()
    });
    world.service("api");
    let attempts_window_ms = longest;
    world.configured(Service { name: "api".to_owned(), attempts_window_ms, ..Service::default() });
    world.hang("api");
    let evaluation = world.evaluation();
    assert_eq!(evaluation.verdict, TriggerVerdict::Fired);
    assert_eq!(evaluation.debounce_until, Some(Ns::MAX));
    for record in world.bench.records() {
        record.event.encode().unwrap();
    }
}
