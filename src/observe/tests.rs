//! The names that dashboards and collectors rest on.

#![allow(clippy::unwrap_used)]

use schemas::{Kind, Uuid};
use serde_json::{Value, json};

use super::*;

fn event(kind: Kind, body: &Value) -> Event {
    Event::from_json(kind, &body.to_string()).unwrap()
}

/// One event of each kind that is counted.
fn counted() -> Vec<Event> {
    let id = Uuid::named("a proposal", &[]);
    let none = json!({ "status": "not_applicable", "detail": "" });
    let ended = |outcome: &str| {
        let body = json!({
            "proposal_id": id, "sandbox": none, "governance_ref": "", "deploy_ref": "",
            "shadow_deltas": {}, "rollback_ms": null, "outcome": outcome, "kpi_ref": "",
            "service": "shop",
        });
        event(Kind::L3ExecutionResult, &body)
    };
    let anomaly = json!({
        "anomaly_id": id, "service": "shop", "signal": "error_rate", "observed": 0.2,
        "threshold": 0.1, "window_s": 5, "severity": "critical", "health_from": "green",
        "health_to": "red", "detector": "slo_burn", "fallback": false, "evidence_refs": [],
    });
    let hypothesis = json!({
        "hypothesis_id": id, "anomaly_ids": [], "failure_class": 2, "pattern": "code_bugs",
        "confidence": 0.9, "evidence_refs": ["a"], "causal_chain": [], "counterfactuals": [],
        "explanation_nl": "", "impact": { "severity": "info", "urgency": 7, "blast_radius": 1 },
    });
    let vote = json!({
        "proposal_id": id, "file_refs": [], "artifact_refs": [], "votes": [], "outcome": "accept",
        "checks": { "unit": none, "lint": none, "sast": none, "dep_scan": none,
                    "invariants": none },
        "quorum_rule": "all",
    });
    let trust = json!({
        "component": "restart", "before": 0.5, "after": 0.6, "reason": "it worked",
        "kpi_deltas": {}, "threshold_changes": [], "skill_weights": [],
    });
    vec![
        event(Kind::SloAnomalyDetected, &anomaly),
        event(Kind::RcaHypothesis, &hypothesis),
        event(Kind::L1ConsensusResult, &vote),
        ended("promoted"),
        ended("rolled_back"),
        event(Kind::KpiTrustUpdate, &trust),
    ]
}

#[test]
fn metric_and_span_names_verbatim() {
    let recorder = crate::up::exporter().unwrap().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let mut votes = Votes::default();
        counted().iter().for_each(|it| count(0, it, &mut votes));
    });
    let text = handle.render();
    for line in [
        "avn_anomalies_total{service=\"shop\",signal=\"error_rate\",severity=\"critical\"} 1",
        "rca_confidence_bucket{pattern=\"code_bugs\",le=",
        "l1_accept_ratio 1",
        "deploy_promotions_total{service=\"shop\"} 1",
        "deploy_rollbacks_total{service=\"shop\"} 1",
        "trust_score{partition=\"0\",component=\"restart\"} 0.6",
    ] {
        assert!(text.contains(&format!("\n{line}")), "{line}: {text}");
    }
    let loops = "AVN.detect RCA.infer L1.vote L2.vote Sandbox.run Governance.validate \
                 Deploy.compare";
    assert_eq!(SPANS.join(" "), loops);
}
