//! The public contract of spec 10 by its acceptance names: topics, the two remediation
//! contracts, closed vocabularies, and what signatures are made over.

use proptest::prelude::*;
use schemas::event::{
    ApprovalGiven, Class, ConfigActivated, FreezeCommand, Op, ReleaseRequested, RunnerResult,
    RunnerStatus,
};
use schemas::{Event, Kind, codec};
use serde_json::{Value, json};

use crate::generate;

/// Spec 10 §3, verbatim, without the topics that later issues bring.
const TOPICS: [&str; 25] = [
    "telemetry.sample.v1",
    "slo.anomaly.detected.v1",
    "rca.hypothesis.v1",
    "heal.trigger.evaluated.v1",
    "heal.escalated.v1",
    "remediation.proposed.v1",
    "l1.consensus.result.v1",
    "l2.consensus.result.v1",
    "l3.execution.result.v1",
    "governance.decision.v1",
    "runner.request.v1",
    "runner.result.v1",
    "deploy.state.v1",
    "kpi.trust.update.v1",
    "mode.changed.v1",
    "freeze.command.v1",
    "incident.changed.v1",
    "config.activated.v1",
    "tick.v1",
    "change.observed.v1",
    "release.requested.v1",
    "vote.cast.v1",
    "approval.given.v1",
    "sandbox.result.v1",
    "annotation.added.v1",
];

/// Records of the log itself: no topic, documented with the log.
const LOG_RECORDS: [&str; 4] =
    ["owner.elected.v1", "telemetry.sealed.v1", "input.refused.v1", "head.cosigned.v1"];

#[test]
fn topic_names_are_verbatim() {
    let control: Vec<String> =
        Kind::ALL.iter().filter(|it| it.class() == Class::Control).map(|it| it.topic()).collect();
    for topic in &TOPICS {
        assert!(control.iter().any(|it| it == topic), "{topic} is missing");
        assert_eq!(Kind::of_topic(topic).map(|it| it.topic()).as_deref(), Ok(*topic));
    }
    for topic in &control {
        assert!(TOPICS.contains(&topic.as_str()), "{topic} is no topic of spec 10 §3");
    }
    for record in LOG_RECORDS {
        assert_eq!(Kind::of_topic(record).map(Kind::class), Ok(Class::Log), "{record}");
    }
    for other in ["heal.trigger", "slo.anomaly.detected.v2", "payload.summary.v1", ""] {
        assert!(Kind::of_topic(other).is_err(), "{other} is refused");
        assert!(Kind::named(other, 1).is_err(), "{other} is refused");
    }
}

/// Numbers stand in state keys and names in every journal: both are frozen.
#[test]
fn numbers_and_names_of_kinds_are_frozen() {
    let numbered: Vec<String> =
        Kind::ALL.iter().map(|it| format!("{} {}", *it as u16, it.topic())).collect();
    expect_test::expect![[r#"
        1 owner.elected.v1
        2 telemetry.sealed.v1
        3 tick.v1
        4 input.refused.v1
        5 head.cosigned.v1
        10 config.activated.v1
        11 telemetry.sample.v1
        12 change.observed.v1
        13 release.requested.v1
        20 slo.anomaly.detected.v1
        21 rca.hypothesis.v1
        30 heal.trigger.evaluated.v1
        31 heal.escalated.v1
        32 remediation.proposed.v1
        40 vote.cast.v1
        41 l1.consensus.result.v1
        42 l2.consensus.result.v1
        43 l3.execution.result.v1
        44 governance.decision.v1
        45 approval.given.v1
        46 sandbox.result.v1
        50 runner.request.v1
        51 runner.result.v1
        52 deploy.state.v1
        60 kpi.trust.update.v1
        70 mode.changed.v1
        71 freeze.command.v1
        80 incident.changed.v1
        81 annotation.added.v1
    "#]]
    .assert_eq(&(numbered.join("\n") + "\n"));
}

/// Spec 10 §4, verbatim.
const FIELDS: &str = "
slo.anomaly.detected: anomaly_id service signal observed threshold window_s severity health_from health_to detector fallback evidence_refs
rca.hypothesis: hypothesis_id anomaly_ids failure_class pattern confidence evidence_refs causal_chain counterfactuals explanation_nl impact
l1.consensus.result: proposal_id file_refs artifact_refs votes checks quorum_rule outcome
l2.consensus.result: proposal_id integration chaos perf_budget compliance_veto fitness_ref outcome
kpi.trust.update: component before after reason kpi_deltas threshold_changes skill_weights
telemetry.sample: source exporter series series_idx ts_ns value snapshot
change.observed: id service kind version ref author summary at
release.requested: service artifact_ref digest requested_by strategy
vote.cast: proposal_id level voter verdict confidence reasons plan_digest signature
approval.given: proposal_id plan_digest approver scope expires_at verdict reason signature
sandbox.result: proposal_id checks sandbox_kind digest
annotation.added: id log_id kind author data created_at
heal.trigger.evaluated: attempt_id trigger_id trigger_type cause_hash raised_by fired verdict active_before ceiling debounce_until audit_log_id coalesced_count window_start window_end
heal.escalated: escalation_id incident_id trigger_type level reason tried roles evidence_refs audit_log_id
remediation.proposed: proposal_id incident_id hypothesis_id rank strategy playbook artifact_ref ops rollback blast_radius impact confidence parameters
l3.execution.result: proposal_id sandbox governance_ref deploy_ref shadow_deltas rollback_ms outcome kpi_ref
governance.decision: decision_id proposal_id decision failure_modes reasons policy_version quorum_type ballots compliance_score cache_used ratified_by expires_at
runner.request: id artifact_ref ops preflight rollback sign binding
runner.result: id status metrics logs_ref snapshot explanation
deploy.state: deployment_id service state slot ring_pct deltas slo_burn reason
mode.changed: scope from to cause composite invariants incident_id
freeze.command: scope command signer_id reason signature audit_confirmation signers
incident.changed: incident_id severity type summary detected_at resolved_at status actions_taken coherence_score_at_detection coherence_score_at_resolution change
config.activated: kind name version digest approved_by audit_log_id
tick: partition now
";

/// Every field of spec 10 §4 is in its schema under its own name, before ours.
#[test]
fn payload_fields_are_verbatim() {
    let mut n_topics = 0;
    for line in FIELDS.lines().filter(|it| !it.is_empty()) {
        let (topic, stated) = line.split_once(": ").unwrap();
        let kind = Kind::of_topic(topic).unwrap();
        let stated: Vec<&str> = stated.split(' ').collect();
        let schema: Value = serde_json::from_str(kind.avsc()).unwrap();
        let fields = schema["fields"].as_array().unwrap();
        let ours: Vec<&str> = fields.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(ours[..stated.len()], stated, "{topic}");
        n_topics += 1;
    }
    let n_control = Kind::ALL.iter().filter(|it| it.class() == Class::Control).count();
    assert_eq!(n_topics, n_control, "each control event is held to the spec");
}

#[test]
fn remediation_request_round_trip_verbatim() {
    let text = r#"{
        "id": "8f14e45f-ceea-867a-9a36-dedd4bea2543",
        "artifact_ref": "local://repo/python/wheels/serviceA-1.2.3.whl",
        "ops": ["apply_patch", "restart:serviceA"],
        "preflight": {"sandbox": true, "tests": ["smoke:health", "e2e:login"]},
        "rollback": {"artifact": "local://snapshots/serviceA@2025-10-03"},
        "sign": {"algo": "cosign", "digest": "sha256:00"}
    }"#;
    let event = Event::from_json(Kind::RunnerRequest, text).unwrap();
    let bytes = event.encode().unwrap();
    let again = Event::decode(Kind::RunnerRequest, &bytes).unwrap();
    let mut printed = serde_json::to_value(&again).unwrap();
    assert_eq!(printed.as_object_mut().unwrap().remove("binding"), Some(Value::Null));
    assert_eq!(printed, serde_json::from_str::<Value>(text).unwrap());
}

#[test]
fn runner_result_round_trip_verbatim() {
    let text = r#"{
        "id": "8f14e45f-ceea-867a-9a36-dedd4bea2543",
        "status": "success",
        "metrics": {"p95_ms": 240.0, "error_rate": 0.003},
        "logs_ref": "immutable:log:12345",
        "snapshot": "local://snapshots/serviceA@2025-10-04T12:00",
        "explanation": "Applied wheel offline; shadow stable; committed."
    }"#;
    let event = Event::from_json(Kind::RunnerResult, text).unwrap();
    let printed = serde_json::to_value(&event).unwrap();
    let stated: Value = serde_json::from_str(text).unwrap();
    for (name, value) in stated.as_object().unwrap() {
        assert_eq!(&printed[name], value, "{name}");
    }
}

#[test]
fn runner_result_status_enum_closed() {
    assert_eq!(RunnerStatus::ALL.map_to_texts(), ["success", "failed", "rolled_back"]);
    let with = |status: &str| {
        let json = json!({
            "id": "8f14e45f-ceea-867a-9a36-dedd4bea2543", "status": status, "metrics": {},
            "logs_ref": "", "snapshot": "", "explanation": "",
        });
        Event::from_json(Kind::RunnerResult, &json.to_string())
    };
    assert!(with("rolled_back").is_ok());
    for other in ["timeout", "killed", "unknown", "SUCCESS", "success ", ""] {
        assert!(with(other).is_err(), "{other:?}");
        assert!(other.parse::<RunnerStatus>().is_err(), "{other:?}");
    }
    // And in bytes: the status stands behind the id, 36 characters and their length.
    let mut bytes = with("failed").unwrap().encode().unwrap();
    let status = &mut bytes[10 + 1 + 36];
    assert_eq!(*status, 2, "index 1, zigzag");
    for other in [6, 8, 1, 0x7f] {
        let mut bytes = bytes.clone();
        bytes[10 + 1 + 36] = other;
        assert!(Event::decode(Kind::RunnerResult, &bytes).is_err(), "index {other}");
    }
}

trait MapToTexts {
    fn map_to_texts(&self) -> Vec<&'static str>;
}

impl MapToTexts for [RunnerStatus] {
    fn map_to_texts(&self) -> Vec<&'static str> {
        self.iter().map(|it| it.as_str()).collect()
    }
}

#[test]
fn ops_string_restart_target_parsed() {
    assert_eq!(Op::parse("restart:serviceA"), Op { method: "restart", target: "serviceA" });
    assert_eq!(Op::parse("apply_patch"), Op { method: "apply_patch", target: "" });
    let canary = Op::parse("apply_patch:route/shop/canary/5");
    assert_eq!((canary.method, canary.target), ("apply_patch", "route/shop/canary/5"));
    assert_eq!(Op::parse("restart:a:b").target, "a:b", "only the first colon splits");
    let mutating = ["apply_patch:a", "restart:a", "rollback:a"];
    assert!(mutating.iter().all(|it| Op::parse(it).is_mutating()));
    let reading = ["metrics:a", "sandbox:a", "inventory", "cache_info"];
    assert!(!reading.iter().any(|it| Op::parse(it).is_mutating()));
}

#[test]
fn a_field_that_the_api_does_not_know_or_lacks_is_named() {
    let error = Event::from_json(Kind::ChangeObserved, r#"{"id": "a", "service": "b"}"#);
    let why = error.unwrap_err().to_string();
    assert!(why.contains("kind") && why.contains("change.observed"), "{why}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(2_000, 100_000)))]

    /// A signature covers every field: two payloads that differ have different statements.
    #[test]
    fn two_signed_payloads_never_share_a_statement(
        which in 0..4usize,
        one in prop::collection::vec(any::<u8>(), 0..64),
        other in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let kinds =
            [Kind::ApprovalGiven, Kind::FreezeCommand, Kind::ReleaseRequested, Kind::RunnerResult];
        let (one, one_said) = statement(kinds[which], &one);
        let (other, other_said) = statement(kinds[which], &other);
        prop_assert_eq!(one == other, one_said == other_said);
    }
}

/// A generated payload without its signature, and what is signed of it.
#[allow(clippy::wildcard_enum_match_arm)] // of 29 kinds, four are asked for
fn statement(kind: Kind, tape: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let datum = generate::datum(codec::schema(kind), tape, 3);
    let bytes = [&[0xC3, 0x01], &codec::fingerprint(kind)[..], &datum].concat();
    let (event, statement) = match Event::decode(kind, &bytes).unwrap() {
        Event::ApprovalGiven(it) => {
            let it = ApprovalGiven { signature: String::new(), ..it };
            (Event::from(it.clone()), it.statement())
        }
        Event::FreezeCommand(it) => {
            let it = FreezeCommand { signature: String::new(), ..it };
            (Event::from(it.clone()), it.statement())
        }
        Event::ReleaseRequested(it) => {
            let it = ReleaseRequested { signature: None, ..it };
            (Event::from(it.clone()), it.statement())
        }
        Event::RunnerResult(it) => {
            let it = RunnerResult { signature: None, ..it };
            (Event::from(it.clone()), it.statement())
        }
        other => panic!("{} is not signed", other.kind().topic()),
    };
    (event.encode().unwrap(), statement)
}

/// Without the mark for "none", the bits of a confirmation could pass for a list of signers.
#[test]
fn an_absent_confirmation_is_part_of_what_is_signed() {
    let Event::FreezeCommand(with) = crate::golden::event(Kind::FreezeCommand) else {
        unreachable!()
    };
    let without = FreezeCommand { audit_confirmation: None, ..with.clone() };
    assert_ne!(with.statement(), without.statement());
    assert_eq!(with.statement().len(), without.statement().len() + 24);
}

#[test]
fn a_configuration_is_signed_by_its_digest() {
    let body = r#"{"name":"checkout"}"#;
    assert_eq!(ConfigActivated::digest_of(body).len(), "sha256:".len() + 64);
    assert_ne!(ConfigActivated::digest_of(body), ConfigActivated::digest_of("{}"));
}

/// What a release request was before it had a nonce, as journals hold it.
const FORMER_RELEASE: &str = "\
c301bf95846f4cf13f0b10636865636b6f75743e6c6f63616c3a2f2f72656c65\
617365732f636865636b6f75742f312e312e308e017368613235363a30623932\
3964646161633133643134666265306165626431613439313839386237633435\
35323863333439633538363135663265333638363236303565376439106f7065\
7261746f7214626c75655f677265656e020a312e312e30028002363934633234\
6334323966396266366633353865663064306332373662326135333437356334\
6433303333613333383133663866336264393533383261623331653063343864\
6565343037663865363365616638376632326232343734616363323762333731\
3930303365616436663233636239633637616638653638333936";

#[test]
fn a_release_request_of_the_first_form_reads_and_is_signed_as_before() {
    let bytes: Vec<u8> = (0..FORMER_RELEASE.len() / 2)
        .map(|at| u8::from_str_radix(&FORMER_RELEASE[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let Ok(Event::ReleaseRequested(former)) = Event::decode(Kind::ReleaseRequested, &bytes) else {
        panic!("the first form is not read");
    };
    assert_eq!((&former.nonce, &former.reason), (&None, &None));
    assert_eq!(former.version.as_deref(), Some("1.1.0"));
    let mut signed = schemas::wire::Writer::default();
    signed.text(&former.service).text(&former.artifact_ref).text(&former.digest);
    signed.text(&former.requested_by).text(&former.strategy).option_text(Some("1.1.0"));
    assert_eq!(former.statement(), signed.0);
}

#[test]
fn two_deliberate_requests_of_one_release_are_signed_apart() {
    let Event::ReleaseRequested(one) = crate::golden::event(Kind::ReleaseRequested) else {
        unreachable!()
    };
    let other = ReleaseRequested { nonce: Some("another".to_owned()), ..one.clone() };
    let without = ReleaseRequested { nonce: None, reason: None, ..one.clone() };
    assert_ne!(one.statement(), other.statement());
    assert_ne!(one.statement(), without.statement());
}
