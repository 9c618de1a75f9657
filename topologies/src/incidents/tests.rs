//! Incidents from their first red signal to their end, without the rest of the loop.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use expect_test::expect;
use schemas::event::{DeployState, L3ExecutionResult};

use super::*;
use crate::config::Service;
use crate::profile::Profile;
use crate::testing::{Bench, id, series};

/// A bench with the healthy service `api`.
fn bench() -> Bench {
    let mut bench = Bench::new(&[config::PROCESSOR, detection::PROCESSOR, PROCESSOR])
        .quiet(&[Kind::ConfigActivated, Kind::SloAnomalyDetected]);
    bench.activate("profile", &Profile::local());
    let service = Service { name: "api".to_owned(), ..Service::default() };
    bench.activate("service/api", &service);
    bench.steady("api", &[("probe", 1.0)], 500, 5000);
    bench
}

fn probes(bench: &mut Bench, passed: bool, for_ms: u64) {
    bench.steady("api", &[("probe", f64::from(u8::from(passed)))], 500, for_ms);
}

fn rolled_back() -> DeployState {
    DeployState {
        deployment_id: id("deployment"),
        service: "api".to_owned(),
        state: DeployPhase::RolledBack,
        slot: "blue".to_owned(),
        ring_pct: 0,
        deltas: BTreeMap::new(),
        slo_burn: 250.0,
        reason: "17 % of the canary's answers failed against 0.4 %".to_owned(),
        digest: None,
        version: Some("1.1.0".to_owned()),
    }
}

#[test]
fn an_outage_is_one_incident_that_ends_on_green() {
    let mut bench = bench();
    probes(&mut bench, false, 6000);
    probes(&mut bench, true, 3000);
    probes(&mut bench, false, 2000);
    probes(&mut bench, true, 3000);
    expect![[r#"
        seconds   event                  key          what
            6.500 incident.changed       inc-4afd4edc opened critical open: api: 3 probes in a row failed
           12.500 incident.changed       inc-4afd4edc resolved critical resolved: api: 3 probes in a row failed [recovered by itself after 6 s: no repair of it was validated]
           15.500 incident.changed       inc-15a56728 opened critical open: api: 3 probes in a row failed
           17.500 incident.changed       inc-15a56728 resolved critical resolved: api: 3 probes in a row failed [recovered by itself after 2 s: no repair of it was validated]
    "#]].assert_eq(&bench.transcript());
    assert_eq!(all_open(&bench.view("test")), []);
}

#[test]
fn silence_ends_no_incident() {
    let mut bench = bench();
    probes(&mut bench, false, 2000);
    bench.advance(600_000);
    assert!(open(&bench.view("test"), "api").is_some());
    assert_eq!(bench.of_kind(Kind::IncidentChanged).len(), 1);
}

#[test]
fn a_validated_repair_is_told_from_a_recovery() {
    let mut bench = bench();
    probes(&mut bench, false, 2000);
    let incident = open(&bench.view("test"), "api").unwrap();
    let result = L3ExecutionResult {
        proposal_id: id("proposal"),
        sandbox: schemas::event::Check::not_applicable("nothing to try"),
        governance_ref: String::new(),
        deploy_ref: "immutable:log:0/1".to_owned(),
        shadow_deltas: BTreeMap::new(),
        rollback_ms: None,
        outcome: L3Outcome::Promoted,
        kpi_ref: String::new(),
        reason: Some("3 probes passed after restart:api".to_owned()),
        service: Some("api".to_owned()),
    };
    bench.said_by("execution", "api", &incident.incident_id, result);
    probes(&mut bench, true, 2000);
    expect![[r#"
        seconds   event                  key          what
            6.500 incident.changed       inc-4afd4edc opened critical open: api: 3 probes in a row failed
            7.000 l3.execution.result    api          promoted: 3 probes passed after restart:api
            7.000 incident.changed       inc-4afd4edc acted critical open: api: 3 probes in a row failed [promoted: 3 probes passed after restart:api]
            8.500 incident.changed       inc-4afd4edc resolved critical resolved: api: 3 probes in a row failed [promoted: 3 probes passed after restart:api; healed after 2 s: 3 probes passed after restart:api]
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn a_rolled_back_release_is_an_incident_of_its_own() {
    let mut bench = bench();
    bench.said_by("deployment", "api", "", rolled_back());
    expect![[r#"
        seconds   event                  key          what
            5.000 deploy.state           api          1.1.0 rolled_back 0 % in blue: 17 % of the canary's answers failed against 0.4 %
            5.000 incident.changed       inc-51c849b1 opened warning open: api: version 1.1.0 was bad
            5.000 incident.changed       inc-51c849b1 resolved warning resolved: api: version 1.1.0 was bad [version 1.1.0 was rolled back: 17 % of the canary's answers failed against 0.4 %; healed at once: what ran before serves alone again]
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn warning_open_one_hour_is_critical() {
    let mut bench = bench();
    // Nobody knows how the service is when its release is rolled back, and nobody learns it.
    bench.advance(10_000);
    bench.said_by("deployment", "api", "", rolled_back());
    bench.advance(2 * 3_600_000);
    expect![[r#"
        seconds   event                  key          what
           15.000 deploy.state           api          1.1.0 rolled_back 0 % in blue: 17 % of the canary's answers failed against 0.4 %
           15.000 incident.changed       inc-4afd4edc opened warning open: api: version 1.1.0 was bad
           15.000 incident.changed       inc-4afd4edc acted warning open: api: version 1.1.0 was bad [version 1.1.0 was rolled back: 17 % of the canary's answers failed against 0.4 %]
         3615.000 incident.changed       inc-4afd4edc worsened critical open: api: version 1.1.0 was bad [version 1.1.0 was rolled back: 17 % of the canary's answers failed against 0.4 %; open for an hour: now critical]
    "#]].assert_eq(&bench.transcript());
}

#[test]
fn what_others_claim_opens_nothing() {
    let mut bench = bench();
    bench.input("mallory", "api", rolled_back());
    let anomaly = SloAnomalyDetected {
        anomaly_id: id("anomaly"),
        service: "api".to_owned(),
        signal: schemas::event::Signal::Heartbeat,
        observed: 9.0,
        threshold: 3.0,
        window_s: 2,
        severity: Severity::Emergency,
        health_from: Health::Green,
        health_to: Health::Red,
        detector: "probe".to_owned(),
        fallback: false,
        evidence_refs: vec!["telemetry:0/0-1#sha256:00".to_owned()],
    };
    bench.input("mallory", "api", anomaly);
    assert_eq!(bench.of_kind(Kind::IncidentChanged).len(), 0);
}

#[test]
fn a_second_red_signal_belongs_to_the_same_incident() {
    let mut bench = bench();
    let live = [("role", "live")];
    for _ in 0..20 {
        bench.advance(250);
        bench.feed(&[
            (series("api", "probe", &[]), 0.0),
            (series("api", "requests", &live), 12.0),
            (series("api", "errors", &live), 12.0),
        ]);
    }
    assert_eq!(bench.of_kind(Kind::IncidentChanged).len(), 1);
}
