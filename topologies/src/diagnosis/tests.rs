//! What diagnosis says in the cases that the loop is made for.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use expect_test::{Expect, expect};
use schemas::event::{ChangeKind, ChangeObserved, Health, RcaHypothesis};

use super::*;
use crate::config::{Environment, Service};
use crate::incidents;
use crate::profile::Profile;
use crate::testing::{Bench, series};

/// A bench with `services`, each probed and seen healthy.
fn bench(services: &[Service]) -> Bench {
    let loop_ = [config::PROCESSOR, detection::PROCESSOR, PROCESSOR, incidents::PROCESSOR];
    let mut bench = Bench::new(&loop_).quiet(&[Kind::ConfigActivated]);
    bench.activate("profile", &Profile::local());
    for service in services {
        bench.activate(&format!("service/{}", service.name), service);
    }
    for _ in 0..10 {
        bench.advance(500);
        for service in services {
            well(&mut bench, &service.name);
        }
    }
    bench
}

fn named(name: &str) -> Service {
    Service { name: name.to_owned(), host: "h1".to_owned(), ..Service::default() }
}

fn well(bench: &mut Bench, name: &str) {
    bench.feed(&[(series(name, "process_up", &[]), 1.0), (series(name, "probe", &[]), 1.0)]);
}

fn last(bench: &Bench) -> RcaHypothesis {
    let said = bench.of_kind(Kind::RcaHypothesis);
    match &said.last().unwrap().event {
        Event::RcaHypothesis(it) => it.clone(),
        _ => unreachable!("the kind says what it is"),
    }
}

/// The last hypothesis as a person reads it.
fn check(bench: &Bench, expect: &Expect) {
    let it = last(bench);
    let lead = format!("class {} {} {:.2}", it.failure_class, it.pattern, it.confidence);
    let text = format!("{lead}\n{}\n{}\n", it.explanation_nl, it.counterfactuals.join("\n"));
    expect.assert_eq(&text);
}

#[test]
fn a_hang_is_told_from_a_crash() {
    let mut bench = bench(&[named("api")]);
    bench.steady("api", &[("process_up", 1.0), ("probe", 0.0)], 500, 2000);
    check(
        &bench,
        &expect![[r#"
            class 3 code_bugs 0.80
            api: 3 probes in a row failed; its process runs; it depends on no other service. Hypothesis (0.80): it hangs. Class 3, because it does not live.
            a process that does not hang would answer its probe
        "#]],
    );
    let it = last(&bench);
    assert!(
        it.causal_chain
            .iter()
            .all(|step| step.contains("[immutable:log:0/") || step.contains("[telemetry:0/")),
        "{:#?}",
        it.causal_chain
    );
}

#[test]
fn a_killed_process_is_a_crash() {
    let mut bench = bench(&[named("api")]);
    bench.steady("api", &[("process_up", 0.0), ("probe", 0.0)], 500, 1000);
    check(
        &bench,
        &expect![[r#"
            class 3 code_bugs 0.80
            api: its process is gone; it ended without a request; it has no environment of its own; it depends on no other service. Hypothesis (0.80): it crashed or was killed. Class 3, because it does not live.
            had it not ended, its process would exist
            configuration_errors is ruled out: it has no environment of its own
        "#]],
    );
}

#[test]
fn a_broken_environment_is_told_from_a_crash() {
    let mut worker = named("worker");
    worker.environment = Some(Environment { kind: "venv".to_owned(), ..Environment::default() });
    let mut bench = bench(&[worker]);
    bench.steady("worker", &[("process_up", 1.0), ("env_ok", 0.0), ("probe", 1.0)], 500, 1000);
    let broken = [("process_up", 0.0), ("env_ok", 0.0), ("start_failed", 1.0), ("probe", 0.0)];
    bench.steady("worker", &broken, 500, 1000);
    check(
        &bench,
        &expect![[r#"
            class 5 configuration_errors 0.80
            worker: it failed with a changed environment; its process ended within 2 s of its start; the digest of its environment is not the desired one. Hypothesis (0.80): its environment is broken, so it cannot run. Class 5, because its environment has drifted.
            with the desired environment it would start and stay up
            code_bugs is ruled out: its process does not exist
        "#]],
    );
}

#[test]
fn errors_after_a_change_of_version_are_the_version() {
    let mut bench = bench(&[named("api")]);
    traffic(&mut bench, 0, 20);
    let change = ChangeObserved {
        id: "c1".to_owned(),
        service: "api".to_owned(),
        kind: ChangeKind::Deploy,
        version: "1.1.0".to_owned(),
        reference: String::new(),
        author: "ops".to_owned(),
        summary: String::new(),
        at: None,
    };
    bench.input("ops", "api", change);
    traffic(&mut bench, 6, 20);
    check(
        &bench,
        &expect![[r#"
            class 2 code_bugs 0.80
            api: 17 % of its answers fail, the limit is 10 %; version 1.1.0 was deployed 1 s before; its error_rate was good before that and is red since. Hypothesis (0.80): the new version is bad. Class 2, because it answers, and badly.
            with the former version its answers would be as before
            dependency_failures is ruled out: it depends on no other service
        "#]],
    );
}

#[test]
fn errors_alone_are_of_unknown_cause() {
    let mut bench = bench(&[named("api")]);
    traffic(&mut bench, 0, 20);
    traffic(&mut bench, 6, 20);
    check(
        &bench,
        &expect![[r#"
            class 2 unknown 0.00
            api: 17 % of its answers fail, the limit is 10 %. No pattern has its evidence, so the cause is unknown.
            dependency_failures is ruled out: it depends on no other service
        "#]],
    );
}

/// A quarter second after the other, 12 answers of which `errors` failed.
fn traffic(bench: &mut Bench, errors: u64, n: u32) {
    let live = [("role", "live")];
    for _ in 0..n {
        bench.advance(250);
        bench.feed(&[
            (series("api", "probe", &[]), 1.0),
            (series("api", "process_up", &[]), 1.0),
            (series("api", "requests", &live), 12.0),
            (series("api", "errors", &live), errors as f64),
        ]);
    }
}

#[test]
fn a_dependency_that_failed_first_is_to_blame() {
    let mut api = named("api");
    api.depends_on = vec!["db".to_owned()];
    let mut bench = bench(&[api, named("db"), named("cache"), named("mail")]);
    traffic(&mut bench, 0, 20);
    for _ in 0..20 {
        bench.feed(&[(series("db", "process_up", &[]), 0.0)]);
        traffic(&mut bench, 6, 1);
    }
    check(
        &bench,
        &expect![[r#"
            class 2 dependency_failures 0.80
            api: 17 % of its answers fail, the limit is 10 %; db, which it depends on, turned red before it. Hypothesis (0.80): what it depends on fails, and it with it. Class 2, because it answers, and badly.
            were its dependency well, its answers would be too
        "#]],
    );
}

#[test]
fn everything_lost_at_once_is_class_6() {
    // The first one's scope is named like what stands before every service's name.
    let names = ["service/api", "db", "worker"];
    let mut bench = bench(&names.map(named));
    for _ in 0..4 {
        bench.advance(500);
        for name in names {
            bench.feed(&[(series(name, "process_up", &[]), 0.0)]);
        }
    }
    let it = last(&bench);
    assert_eq!((it.failure_class, it.impact.urgency), (6, 9));
}

#[test]
fn a_service_is_found_by_the_name_that_it_is_registered_under() {
    let mut bench = bench(&[named("a"), named("b"), named("c")]);
    let depends_on = vec!["db".to_owned()];
    // The body is what was signed, and it need not repeat the name.
    bench.activate("service/c", &Service { name: String::new(), depends_on, ..named("c") });
    for service in ["a", "b", "c"] {
        bench.steady(service, &[("process_up", 0.0), ("probe", 0.0)], 500, 1000);
    }
    let it = last(&bench);
    assert_eq!((it.service.as_deref(), it.failure_class), (Some("c"), 6), "{it:#?}");
    assert!(!it.explanation_nl.contains("it depends on no other service"), "{it:#?}");
}

#[test]
fn a_later_fact_changes_the_hypothesis_and_a_repeated_one_does_not() {
    let mut worker = named("worker");
    worker.environment = Some(Environment { kind: "venv".to_owned(), ..Environment::default() });
    let mut bench = bench(&[worker]).quiet(&[Kind::SloAnomalyDetected, Kind::IncidentChanged]);
    bench.steady("worker", &[("process_up", 0.0), ("probe", 0.0)], 500, 3000);
    bench.steady("worker", &[("process_up", 0.0), ("probe", 0.0), ("env_ok", 0.0)], 500, 8000);
    expect![[r#"
        seconds   event                  key          what
            9.000 rca.hypothesis         inc-2337e679 class 5 configuration_errors 0.80: worker: its process is gone; its process does not run; the digest of its environment is not the desired one. Hypothesis (0.80): its environment is broken, so it cannot run. Class 5, because its environment has drifted.
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn confidence_ladder_table() {
    assert_eq!(confidence(&[], 0, 1), 0.0);
    assert_eq!(confidence(&[3.0], 2, 2), 0.8);
    assert_eq!(confidence(&[3.0, 1.4], 2, 2), 0.9);
    assert_eq!(confidence(&[3.0, 1.9], 2, 2), 0.8);
    assert_eq!(confidence(&[3.0, 2.0], 2, 2), 0.7);
    assert_eq!(confidence(&[3.0, 1.4], 1, 2), 0.45);
    assert_eq!(confidence(&[3.0], 2, 3), 0.8 * 2.0 / 3.0);
}

#[test]
fn hypothesis_without_evidence_refused() {
    let mut bench = bench(&[named("api"), named("other")]);
    // An incident that somebody else claims, and one of a service that nothing was said of.
    let claimed = schemas::event::IncidentChanged {
        incident_id: "inc-00000000".to_owned(),
        severity: schemas::event::Severity::Critical,
        incident_type: schemas::event::IncidentType::ServiceAnomaly,
        summary: "api: trust me".to_owned(),
        detected_at: bench.now(),
        resolved_at: None,
        status: IncidentStatus::Open,
        actions_taken: Vec::new(),
        coherence_score_at_detection: None,
        coherence_score_at_resolution: None,
        change: "opened".to_owned(),
        service: Some("api".to_owned()),
    };
    bench.input("mallory", "inc-00000000", claimed);
    bench.advance(10_000);
    assert_eq!(bench.of_kind(Kind::RcaHypothesis).len(), 0);
    bench.steady("api", &[("process_up", 0.0)], 500, 1000);
    assert!(bench.of_kind(Kind::RcaHypothesis).iter().all(|it| match &it.event {
        Event::RcaHypothesis(it) => !it.evidence_refs.is_empty() && !it.anomaly_ids.is_empty(),
        _ => false,
    }));
    assert_eq!(bench.of_kind(Kind::RcaHypothesis).len(), 1);
}

#[test]
fn nothing_is_said_of_a_service_that_fell_silent() {
    let mut bench = bench(&[named("api")]);
    bench.advance(60_000);
    let health = detection::health(&bench.view("test"), "api").unwrap();
    assert_eq!(health.colour, Health::Unknown);
    assert_eq!(bench.of_kind(Kind::RcaHypothesis).len(), 0);
}

#[test]
fn what_was_seen_before_the_owner_was_away_explains_nothing_and_what_is_seen_now_does() {
    let mut bench =
        bench(&[named("api")]).quiet(&[Kind::SloAnomalyDetected, Kind::IncidentChanged]);
    // Requests fail, and before anything else is known the owner ends; the process ends meanwhile.
    traffic(&mut bench, 0, 20);
    while bench.of_kind(Kind::IncidentChanged).is_empty() {
        traffic(&mut bench, 12, 1);
    }
    bench.leap(180_000);
    bench.steady("api", &[("process_up", 0.0), ("probe", 0.0)], 500, 4000);
    expect![[r#"
        seconds   event                  key          what
          192.000 rca.hypothesis         inc-15a56728 class 3 code_bugs 0.80: api: its error_rate is not known any more; its process is gone; it ended without a request; it has no environment of its own; it depends on no other service. Hypothesis (0.80): it crashed or was killed. Class 3, because it does not live.
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn class_timeouts_are_those_of_the_spec() {
    let minutes: Vec<u64> = (1..=6).map(|it| class_timeout(it).as_ms() / 60_000).collect();
    assert_eq!(minutes, [5, 10, 15, 30, 60, 0]);
}
