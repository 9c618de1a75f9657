//! What detection says, as stories. Transcripts leave out telemetry: only changes are told.
#![allow(clippy::unwrap_used)]

use expect_test::expect;
use schemas::event::{Health, Signal};
use schemas::{Kind, Ns};

use super::*;
use crate::config::Service;
use crate::profile::Profile;
use crate::testing::{Bench, series};

const SECOND: u64 = 1000;

/// A bench with the service `api` under `profile`.
fn bench(profile: &Profile) -> Bench {
    let mut bench = Bench::new(&[config::PROCESSOR, PROCESSOR]).quiet(&[Kind::ConfigActivated]);
    bench.activate("profile", profile);
    register(&mut bench, "api");
    bench
}

fn register(bench: &mut Bench, name: &str) {
    let service = Service { name: name.to_owned(), ..Service::default() };
    bench.activate(&format!("service/{name}"), &service);
}

fn probe(bench: &mut Bench, passed: bool) {
    bench.feed(&[(series("api", "probe", &[]), f64::from(u8::from(passed)))]);
}

/// A probe every `period_ms` for `for_ms`.
fn probes(bench: &mut Bench, passed: bool, period_ms: u64, for_ms: u64) {
    for _ in 0..for_ms / period_ms {
        bench.advance(period_ms);
        probe(bench, passed);
    }
}

/// Passing probes until the service may be judged.
fn learn(bench: &mut Bench) {
    probes(bench, true, 500, 3 * SECOND);
    assert_eq!(health(&bench.view("test"), "api").unwrap().phase, Phase::Ready);
}

/// `n` answers with `errors` among them, all within 10 ms, and a passed probe.
fn answers(bench: &mut Bench, n: u64, errors: u64, le: &str) {
    let live = [("role", "live"), ("slot", "green")];
    bench.feed(&[
        (series("api", "probe", &[]), 1.0),
        (series("api", "requests", &live), n as f64),
        (series("api", "errors", &live), errors as f64),
        (series("api", "latency_bucket", &[("role", "live"), ("le", le)]), n as f64),
    ]);
}

fn colour(bench: &mut Bench) -> Health {
    health(&bench.view("test"), "api").unwrap().colour
}

#[test]
fn a_hung_service_is_red_after_three_misses_and_green_after_three_passes() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    probes(&mut bench, false, 500, 5 * SECOND);
    probes(&mut bench, true, 500, 5 * SECOND);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            4.500 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 2 s (probe)
            9.500 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn heartbeat_30s_fails_once() {
    let mut bench = bench(&Profile::production());
    probes(&mut bench, true, 10 * SECOND, 120 * SECOND);
    probes(&mut bench, false, 10 * SECOND, 600 * SECOND);
    expect![[r#"
        seconds   event                  key          what
           70.000 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 4 in 0 s (probe)
          160.000 slo.anomaly.detected   api          heartbeat green → red critical: 4 against 4 in 40 s (probe)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn a_killed_process_is_red_with_its_second_sample() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    for _ in 0..3 {
        bench.advance(250);
        bench.feed(&[(series("api", "process_up", &[]), 0.0)]);
    }
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            3.500 slo.anomaly.detected   api          heartbeat green → red critical: 2 against 2 in 1 s (process)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn silence_is_unknown_and_heals_nothing() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    bench.advance(10 * SECOND);
    probes(&mut bench, true, 500, 2 * SECOND);
    probes(&mut bench, false, 500, 2 * SECOND);
    bench.advance(10 * SECOND);
    probes(&mut bench, true, 500, 2 * SECOND);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            6.250 slo.anomaly.detected   api          heartbeat green → unknown warning: 3.25 against 3 in 3 s (silence)
           13.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
           16.500 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 2 s (probe)
           28.500 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn a_service_that_was_never_well_is_not_judged() {
    let mut bench = bench(&Profile::local());
    probes(&mut bench, false, 500, 60 * SECOND);
    assert_eq!((colour(&mut bench), bench.transcript()), (Health::Unknown, String::new()));
}

#[test]
fn unknown_never_promotes_never_heals() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    bench.advance(60 * SECOND);
    let health = health(&bench.view("test"), "api").unwrap();
    assert_eq!((health.colour, health.is_green()), (Health::Unknown, false));
    assert_eq!((health.passes_since(Ns(0)), health.score()), (0, None));
}

#[test]
fn errors_turn_it_amber_then_red_and_a_restart_begins_anew() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    let mut step = |errors| {
        for _ in 0..24 {
            bench.advance(250);
            answers(&mut bench, 12, errors, "10");
        }
    };
    step(0);
    step(1);
    step(6);
    bench.feed(&[(series("api", "svc_uptime", &[]), 100.0)]);
    bench.feed(&[(series("api", "svc_uptime", &[]), 0.0)]);
    for _ in 0..8 {
        bench.advance(250);
        answers(&mut bench, 12, 0, "10");
    }
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            3.750 slo.anomaly.detected   api          api_p95_ms unknown → green info: 9.75 against 2000 in 5 s (slo_burn)
            3.750 slo.anomaly.detected   api          error_rate unknown → green info: 0 against 0.05 in 5 s (slo_burn)
           15.250 slo.anomaly.detected   api          error_rate green → amber warning: 0.103 against 0.05 in 5 s (slo_burn)
           16.250 slo.anomaly.detected   api          error_rate amber → red critical: 0.183 against 0.1 in 5 s (slo_burn)
           21.000 slo.anomaly.detected   api          error_rate red → unknown warning: 0.5 against 0.1 in 5 s (slo_burn)
           22.000 slo.anomaly.detected   api          error_rate unknown → green info: 0 against 0.05 in 5 s (slo_burn)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn latency_is_held_against_its_own_past() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    for le in ["20", "50", "200", "20"] {
        for _ in 0..60 {
            bench.advance(250);
            answers(&mut bench, 12, 0, le);
        }
    }
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            3.750 slo.anomaly.detected   api          api_p95_ms unknown → green info: 19.5 against 2000 in 5 s (slo_burn)
            3.750 slo.anomaly.detected   api          error_rate unknown → green info: 0 against 0.05 in 5 s (slo_burn)
           33.750 slo.anomaly.detected   api          api_p95_ms green → red critical: 165 against 100 in 5 s (latency_ratio)
           53.000 slo.anomaly.detected   api          api_p95_ms red → green info: 19.975 against 100 in 5 s (slo_burn)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn alerts_are_rate_limited() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    // A share of errors that goes over the first limit and back a hundred times.
    for round in 0..100 {
        for _ in 0..24 {
            bench.advance(250);
            answers(&mut bench, 100, if round % 2 == 0 { 7 } else { 0 }, "10");
        }
    }
    let amber = |bench: &Bench| bench.transcript().matches("→ amber").count();
    let minutes = 100 * 6 / 60;
    assert_eq!(amber(&bench), minutes / 5, "{}", bench.transcript());
    let before = bench.transcript().lines().count();
    for _ in 0..24 {
        bench.advance(250);
        answers(&mut bench, 100, 90, "10");
    }
    let worse: Vec<String> = bench.transcript().lines().skip(before).map(str::to_owned).collect();
    assert_eq!(worse.iter().filter(|it| it.contains("→ red")).count(), 1, "{worse:?}");
}

#[test]
fn resource_needs_two_minutes() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    let mut memory = |share: f64, seconds: u64| {
        for _ in 0..seconds {
            bench.advance(SECOND);
            bench.feed(&[(series("api", "probe", &[]), 1.0)]);
            bench.feed(&[(series("api", "mem_used", &[]), share)]);
        }
    };
    memory(0.5, 10);
    memory(0.96, 120);
    memory(0.5, 10);
    memory(0.96, 122);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            4.000 slo.anomaly.detected   api          mem_pressure unknown → green info: 0.5 against 0.8 in 120 s (resources)
          264.250 slo.anomaly.detected   api          mem_pressure green → red critical: 0.96 against 0.95 in 120 s (resources)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn a_healthy_service_with_little_traffic_raises_nothing_all_day() {
    // One request in five seconds, one error in a hundred, one slow answer in sixteen.
    for (profile, period_ms) in [(Profile::local(), 2_500), (Profile::production(), 10_000)] {
        let mut bench = bench(&profile);
        let mut chance = 1u64;
        for passed_ms in (0..24 * 3600 * SECOND).step_by(period_ms as usize) {
            bench.advance(period_ms);
            let n = (passed_ms + period_ms) / 5_000 - passed_ms / 5_000;
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let errors = u64::from(n > 0 && chance >> 33 & 127 == 0);
            let le = if chance >> 40 & 15 == 0 { "200" } else { "10" };
            answers(&mut bench, n, errors, le);
        }
        let said = bench.transcript();
        let bad = said.lines().skip(1).filter(|it| !it.contains("→ green info"));
        assert_eq!(bad.count(), 0, "{said}");
    }
}

#[test]
fn drift_alone_is_amber_and_a_failed_start_is_red() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    for _ in 0..4 {
        bench.advance(500);
        let env = (series("api", "env_ok", &[]), 0.0);
        bench.feed(&[(series("api", "probe", &[]), 1.0), env]);
    }
    bench.advance(500);
    let down = (series("api", "process_up", &[]), 0.0);
    bench.feed(&[(series("api", "start_failed", &[]), 1.0), down]);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            4.000 slo.anomaly.detected   api          heartbeat green → amber warning: 0 against 3 in 0 s (drift_lock)
            5.500 slo.anomaly.detected   api          heartbeat amber → red critical: 1 against 2 in 1 s (drift_lock)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn a_worker_without_a_probe_is_known_by_its_process() {
    let mut bench = bench(&Profile::local());
    let mut worker = |up: f64, n: u32| {
        for _ in 0..n {
            bench.advance(500);
            bench.feed(&[(series("api", "process_up", &[]), up)]);
        }
    };
    worker(1.0, 14);
    worker(0.0, 3);
    worker(1.0, 10);
    expect![[r#"
        seconds   event                  key          what
            4.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            8.000 slo.anomaly.detected   api          heartbeat green → red critical: 2 against 2 in 1 s (process)
           12.000 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn a_thousand_services_turning_red_at_once_are_all_said() {
    let mut bench = bench(&Profile::local());
    let names: Vec<String> = (0..1000).map(|it| format!("s{it:03}")).collect();
    names.iter().for_each(|it| register(&mut bench, it));
    let mut all = |value: f64, n: u32| {
        for _ in 0..n {
            bench.advance(500);
            let samples: Vec<_> =
                names.iter().map(|it| (series(it, "probe", &[]), value)).collect();
            bench.feed(&samples);
        }
    };
    all(1.0, 8);
    all(0.0, 4);
    bench.advance(250);
    let said = bench.of_kind(Kind::SloAnomalyDetected);
    let red = said.iter().filter(|it| describe_is_red(&it.event)).count();
    assert_eq!((said.len(), red), (2000, 1000));
}

fn describe_is_red(event: &Event) -> bool {
    crate::testing::describe(event).contains("→ red")
}

#[test]
fn an_unregistered_service_is_watched_and_not_judged() {
    let mut bench = bench(&Profile::local());
    let stranger = series("stranger", "cpu_load", &[]);
    for step in 0..200 {
        bench.advance(250);
        bench.feed(&[(stranger.clone(), if step < 190 { 0.2 } else { 0.9 })]);
    }
    let bytes = schemas::avro::to_bytes(&stranger).unwrap();
    let state = series_state(&bench.view("test"), &bytes).unwrap();
    assert!(state.is_unusual() && health(&bench.view("test"), "stranger").is_none());
    assert_eq!(bench.transcript(), "");
    // Registered later, the same series counts from then on.
    register(&mut bench, "stranger");
    bench.feed(&[(stranger, 0.9)]);
    let health = health(&bench.view("test"), "stranger").unwrap();
    assert!(health.signal(Signal::CpuLoad).is_some());
}

#[test]
fn impossible_samples_turn_nothing_red() {
    let mut bench = bench(&Profile::local());
    learn(&mut bench);
    for value in [f64::NAN, f64::INFINITY, -1e300, 1e300] {
        bench.feed(&[(series("api", "requests", &[]), value)]);
        bench.feed(&[(series("api", "svc_uptime", &[]), value)]);
        bench.feed(&[(series("api", "other", &[]), value)]);
    }
    probes(&mut bench, true, 500, 10 * SECOND);
    assert_eq!(colour(&mut bench), Health::Green);
}
