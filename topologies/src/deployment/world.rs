//! A small world for tests: a service under load, a proxy, and a runner that answers what it is
//! asked. Everything random comes from a seed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use schemas::event::{
    ChangeKind, ChangeObserved, Check, ConfigActivated, ConfigKind, Decision, FREEZE_DOMAIN,
    FreezeCommand, FreezeVerb, GovernanceDecision, Health, L3ExecutionResult, Preflight,
    RESULT_DOMAIN, ReleaseRequested, Rollback, RunnerRequest, RunnerResult, RunnerStatus, Series,
    Severity, Sign, Signal, SloAnomalyDetected, TelemetrySample,
};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Event, Kind, Uuid};
use serde_json::json;

use super::{PROCESSOR, proposal_id};
use crate::fold::{Folded, Output, Processor, View};
use crate::profile::Profile;
use crate::testing::Bench;
use crate::{config, mode};

pub(super) const GOOD: &str = "sha256:1.0.0";
pub(super) const NEXT: &str = "sha256:1.1.0";
const TICK_MS: u64 = 250;

/// Approves every release, as governance does after an operator's signature.
const GOVERNANCE: Processor = Processor {
    name: "governance",
    reads: &[Kind::ReleaseRequested],
    says: &[Kind::GovernanceDecision],
    step: approve,
};

fn approve(_: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let Event::ReleaseRequested(request) = entry.event else { return Vec::new() };
    let proposal_id = proposal_id(request, entry.envelope.seq);
    let decision = GovernanceDecision {
        decision_id: proposal_id,
        proposal_id,
        decision: Decision::Approved,
        failure_modes: Vec::new(),
        reasons: Vec::new(),
        policy_version: 1,
        quorum_type: "operator".to_owned(),
        ballots: Vec::new(),
        compliance_score: 1.0,
        cache_used: false,
        ratified_by: None,
        expires_at: None,
        plan_digest: None,
    };
    vec![Output::new(proposal_id.to_string(), decision)]
}

/// Calls the service red when a change says `burns`.
const DETECTION: Processor = Processor {
    name: "detection",
    reads: &[Kind::ChangeObserved],
    says: &[Kind::SloAnomalyDetected],
    step: |_, entry| {
        let Event::ChangeObserved(change) = entry.event else { return Vec::new() };
        let burns = change.summary == "burns";
        burns.then(|| Output::new("shop", burning())).into_iter().collect()
    },
};

pub(super) fn burning() -> SloAnomalyDetected {
    SloAnomalyDetected {
        anomaly_id: Uuid::default(),
        service: "shop".to_owned(),
        signal: Signal::ErrorRate,
        observed: 0.31,
        threshold: 0.10,
        window_s: 5,
        severity: Severity::Critical,
        health_from: Health::Green,
        health_to: Health::Red,
        detector: "test".to_owned(),
        fallback: false,
        evidence_refs: Vec::new(),
    }
}

/// Returns the service to the artifact that a change names when it says `returns`.
const EXECUTION: Processor = Processor {
    name: "execution",
    reads: &[Kind::ChangeObserved],
    says: &[Kind::RunnerRequest],
    step: |_, entry| {
        let Event::ChangeObserved(change) = entry.event else { return Vec::new() };
        let returns = change.summary == "returns";
        returns.then(|| Output::new("h", returning(&change.reference))).into_iter().collect()
    },
};

fn returning(artifact: &str) -> RunnerRequest {
    RunnerRequest {
        id: crate::testing::id("a remediation"),
        artifact_ref: artifact.to_owned(),
        ops: vec!["rollback:shop".to_owned()],
        preflight: Preflight { sandbox: false, tests: Vec::new() },
        rollback: Rollback { artifact: artifact.to_owned() },
        sign: Sign { algo: "ed25519-manifest".to_owned(), digest: GOOD.to_owned() },
        binding: None,
    }
}

/// Chance from a seed (xorshift64*).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn hits(&mut self, share: f64) -> bool {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        (bits as f64) / ((1u64 << 53) as f64) < share
    }
}

/// What the new version does.
#[derive(Clone, Copy)]
pub(super) struct Behaviour {
    /// Share of answers that fail while it is mirrored to.
    pub(super) shadow_fails: f64,
    /// Share of answers that fail at a ring of so many percent.
    pub(super) fails: fn(u32) -> f64,
    /// Share of answers that take half a second.
    pub(super) slow: f64,
}

pub(super) const BASELINE_FAILS: f64 = 0.004;
/// Fails as often as the old version.
pub(super) const SAME: Behaviour =
    Behaviour { shadow_fails: BASELINE_FAILS, fails: |_| BASELINE_FAILS, slow: 0.0 };

/// What the runner does with a request.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Answer {
    Done,
    Fails,
    Unknown,
    Silent,
    /// Says that it is done but measured that it is not.
    NotProven,
}

pub(super) struct World {
    pub(super) bench: Bench,
    pub(super) behaviour: Behaviour,
    /// How requests whose op starts so are answered; anything else is done.
    pub(super) answers: BTreeMap<&'static str, Answer>,
    pub(super) requests_per_s: u64,
    /// Whether probes pass while the new version serves so many percent.
    pub(super) probe_passes: fn(u32) -> bool,
    chance: Chance,
    runner: KeyPair,
    operator: KeyPair,
    /// Share that the proxy sends to the new version; `None` while it gets nothing.
    ring: Option<u32>,
    mirrors: bool,
    slot: &'static str,
    n_seen: usize,
    due: Vec<(u64, RunnerResult)>,
    load_left: u64,
    ms: u64,
}

impl World {
    pub(super) fn new(seed: u64, profile: &Profile, behaviour: Behaviour) -> Self {
        let processors =
            [config::PROCESSOR, mode::PROCESSOR, DETECTION, GOVERNANCE, PROCESSOR, EXECUTION];
        let bench = Bench::new(&processors).quiet(&[Kind::ConfigActivated, Kind::RunnerResult]);
        let mut world = World {
            bench,
            behaviour,
            answers: BTreeMap::new(),
            requests_per_s: 50,
            probe_passes: |_| true,
            chance: Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            runner: KeyPair::from_seed(&[7; 32]),
            operator: KeyPair::from_seed(&[9; 32]),
            ring: None,
            mirrors: false,
            slot: "blue",
            n_seen: 0,
            due: Vec::new(),
            load_left: 0,
            ms: 0,
        };
        let runner = world.runner.public();
        world.configure("signers", &json!({"keys": {"ann": world.operator.public()}}));
        world.configure("runner/h", &json!({"host": "h", "key": runner, "sandbox": ["bwrap"]}));
        world.configure("profile", &serde_json::to_value(profile).unwrap());
        world.configure(
            "service/shop",
            &json!({
                "name": "shop", "host": "h", "proxy": "127.0.0.1:8000",
                "probe_url": "http://127.0.0.1:{port}/healthz",
                "release": {"version": "1.0.0", "digest": GOOD,
                            "artifact_ref": "local://releases/shop/1.0.0"}
            }),
        );
        world
    }

    pub(super) fn local(seed: u64, behaviour: Behaviour) -> Self {
        World::new(seed, &Profile::local(), behaviour)
    }

    pub(super) fn configure(&mut self, name: &str, body: &serde_json::Value) {
        let body = body.to_string();
        let config = ConfigActivated {
            kind: ConfigKind::Policy,
            name: name.to_owned(),
            version: 1,
            digest: ConfigActivated::digest_of(&body),
            approved_by: "ann".to_owned(),
            audit_log_id: None,
            body: Some(body),
            signature: None,
        };
        self.bench.input("ann", "deployment", config);
    }

    pub(super) fn release(&mut self, version: &str) {
        let request = ReleaseRequested {
            service: "shop".to_owned(),
            artifact_ref: format!("local://releases/shop/{version}"),
            digest: format!("sha256:{version}"),
            requested_by: "ann".to_owned(),
            strategy: "blue_green".to_owned(),
            version: Some(version.to_owned()),
            signature: None,
        };
        self.bench.input("ann", "shop", request);
    }

    pub(super) fn freeze(&mut self) {
        let mut command = FreezeCommand {
            scope: "deployment".to_owned(),
            command: FreezeVerb::Freeze,
            signer_id: "ann".to_owned(),
            reason: "something smells".to_owned(),
            signature: String::new(),
            audit_confirmation: None,
            signers: Vec::new(),
            nonce: "1".to_owned(),
        };
        let signature = self.operator.sign(FREEZE_DOMAIN, &command.statement());
        command.signature = signature_text(&signature);
        self.bench.input("ann", "deployment", command);
    }

    /// Lets one of the stubs speak.
    pub(super) fn change(&mut self, summary: &str, reference: &str) {
        let change = ChangeObserved {
            id: summary.to_owned(),
            service: "shop".to_owned(),
            kind: ChangeKind::Config,
            version: "1".to_owned(),
            reference: reference.to_owned(),
            author: "ann".to_owned(),
            summary: summary.to_owned(),
            at: None,
        };
        self.bench.input("ann", "shop", change);
    }

    pub(super) fn operator(&self) -> &KeyPair {
        &self.operator
    }

    /// Goes on until the rollout is in `phase`.
    pub(super) fn until(&mut self, phase: &str) {
        for _ in 0..4_000 {
            if self.phases().last().is_some_and(|it| it.0 == phase) {
                return;
            }
            self.step();
        }
        panic!("never in {phase}:\n{}", self.bench.transcript());
    }

    /// A release asked for after a second of load, and its end.
    pub(super) fn rolled_out(&mut self, version: &str) -> L3ExecutionResult {
        (0..4).for_each(|_| self.step());
        self.release(version);
        let end = self.until_ended(1_000_000);
        end.unwrap_or_else(|| panic!("no end:\n{}", self.bench.transcript()))
    }

    /// Lets a quarter second pass: answers, traffic, ticks.
    pub(super) fn step(&mut self) {
        self.take_requests();
        self.ms += TICK_MS;
        self.bench.advance(TICK_MS);
        self.take_requests();
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= self.ms);
        self.due = later;
        for (_, result) in now {
            self.bench.input("runner:h", "h", result);
        }
        self.take_requests();
        let sample = self.traffic();
        self.bench.samples(&sample);
    }

    /// Goes on until the rollout has ended; `None` when it has not within `ms`.
    pub(super) fn until_ended(&mut self, ms: u64) -> Option<L3ExecutionResult> {
        let until = self.ms + ms;
        let ended_before = self.bench.of_kind(Kind::L3ExecutionResult).len();
        while self.ms < until {
            self.step();
            if let Some(record) = self.bench.of_kind(Kind::L3ExecutionResult).get(ended_before) {
                let Event::L3ExecutionResult(it) = &record.event else { unreachable!() };
                return Some(it.clone());
            }
        }
        None
    }

    /// Seconds at which each `deploy.state` was said, by its phase.
    pub(super) fn phases(&self) -> Vec<(String, u32, f64)> {
        let start = crate::testing::START.parse().unwrap();
        let states = self.bench.of_kind(Kind::DeployState).into_iter();
        states
            .map(|record| {
                let Event::DeployState(it) = &record.event else { unreachable!() };
                let at = record.envelope.tick.since(start).as_s();
                (it.state.to_string(), it.ring_pct, at)
            })
            .collect()
    }

    pub(super) fn requests(&self) -> Vec<RunnerRequest> {
        let records = self.bench.of_kind(Kind::RunnerRequest).into_iter();
        records
            .map(|record| {
                let Event::RunnerRequest(it) = &record.event else { unreachable!() };
                it.clone()
            })
            .collect()
    }

    fn take_requests(&mut self) {
        let requests = self.requests();
        for request in &requests[self.n_seen..] {
            let op = request.ops[0].as_str();
            let scripted = self.answers.iter().find(|(prefix, _)| op.starts_with(*prefix));
            let answer = scripted.map_or(Answer::Done, |(_, answer)| *answer);
            if answer == Answer::Done {
                self.carry_out(op);
            }
            if answer != Answer::Silent {
                let result = self.result(request.id, op, answer);
                self.due.push((self.ms + TICK_MS, result));
            }
        }
        self.n_seen = requests.len();
    }

    fn carry_out(&mut self, op: &str) {
        if let Some(pct) = op.strip_prefix("apply_patch:route/shop/canary/") {
            (self.mirrors, self.ring) = (false, Some(pct.parse().unwrap()));
        } else if op == "apply_patch:route/shop/shadow" {
            self.mirrors = true;
        } else if op.starts_with("apply_patch:commit") {
            self.slot = if self.slot == "blue" { "green" } else { "blue" };
            self.ring = None;
        } else if op.starts_with("rollback:") {
            (self.mirrors, self.ring) = (false, None);
        }
    }

    /// A signed answer.
    pub(super) fn result(&self, id: Uuid, op: &str, answer: Answer) -> RunnerResult {
        let done = matches!(answer, Answer::Done | Answer::NotProven);
        let mut metrics = BTreeMap::new();
        if op.starts_with("rollback:") {
            metrics.insert("digest_equal".to_owned(), f64::from(answer == Answer::Done));
            metrics.insert("probe".to_owned(), 1.0);
        }
        let smoke = Check {
            duration_ms: 40,
            ..if done { Check::passed("200 in 3 ms") } else { failed("it answers 500") }
        };
        let mut result = RunnerResult {
            id,
            status: if done { RunnerStatus::Success } else { RunnerStatus::Failed },
            metrics,
            logs_ref: String::new(),
            snapshot: String::new(),
            explanation: if done { "done" } else { "port in use" }.to_owned(),
            kind: None,
            host: Some("h".to_owned()),
            checks: op.starts_with("sandbox:").then(|| [("smoke:health".to_owned(), smoke)].into()),
            known: (answer == Answer::Unknown).then_some(false),
            signature: None,
        };
        let signature = self.runner.sign(RESULT_DOMAIN, &result.statement());
        result.signature = Some(signature_text(&signature));
        result
    }

    /// What the proxy and the prober saw in the last quarter second.
    fn traffic(&mut self) -> TelemetrySample {
        let mut rows = Rows::default();
        self.load_left += self.requests_per_s * TICK_MS;
        let n = self.load_left / 1000;
        self.load_left %= 1000;
        let old = if self.slot == "blue" { "green" } else { "blue" };
        for _ in 0..n {
            let ring = self.ring.unwrap_or(0);
            if self.chance.hits(f64::from(ring) / 100.0) {
                let share = (self.behaviour.fails)(ring);
                self.answer(&mut rows, self.slot, "live", share, self.behaviour.slow);
                continue;
            }
            let old_failed = self.answer(&mut rows, old, "live", BASELINE_FAILS, 0.0);
            if self.mirrors && self.chance.hits(0.7) {
                let Behaviour { shadow_fails, slow, .. } = self.behaviour;
                let new_failed = self.answer(&mut rows, self.slot, "shadow", shadow_fails, slow);
                rows.add("shadow_compared", self.slot, "shadow", "", 1.0);
                let differs = f64::from(u8::from(old_failed != new_failed));
                rows.add("shadow_differ", self.slot, "shadow", "", differs);
            }
        }
        if self.ms % 500 == 0 {
            let passed = (self.probe_passes)(self.ring.unwrap_or(0));
            rows.add("probe", "", "", "", f64::from(u8::from(passed)));
        }
        rows.sample(self.ms)
    }

    fn answer(&mut self, rows: &mut Rows, slot: &str, role: &str, fails: f64, slow: f64) -> bool {
        let failed = self.chance.hits(fails);
        rows.add("requests", slot, role, "", 1.0);
        rows.add("errors", slot, role, "", f64::from(u8::from(failed)));
        let le = match (self.chance.hits(slow), self.chance.hits(0.03)) {
            (true, _) => "500",
            (false, true) => "20",
            (false, false) => "5",
        };
        rows.add("latency_bucket", slot, role, le, 1.0);
        failed
    }
}

fn failed(detail: &str) -> Check {
    Check { status: schemas::event::CheckStatus::Failed, detail: detail.to_owned(), duration_ms: 0 }
}

#[derive(Default)]
struct Rows(BTreeMap<Series, f64>);

impl Rows {
    fn add(&mut self, key: &str, slot: &str, role: &str, le: &str, value: f64) {
        let labels = [("slot", slot), ("role", role), ("le", le)].into_iter();
        let labels = labels.filter(|(_, it)| !it.is_empty());
        let series = Series {
            service: "shop".to_owned(),
            host: "h".to_owned(),
            key: key.to_owned(),
            labels: labels.map(|(name, it)| (name.to_owned(), it.to_owned())).collect(),
        };
        *self.0.entry(series).or_default() += value;
    }

    fn sample(self, ms: u64) -> TelemetrySample {
        let n = self.0.len();
        let (series, value): (Vec<Series>, Vec<f64>) = self.0.into_iter().unzip();
        TelemetrySample {
            source: "proxy".to_owned(),
            exporter: String::new(),
            series,
            series_idx: (0..n as u32).collect(),
            ts_ns: vec![ms * 1_000_000; n],
            value,
            snapshot: None,
        }
    }
}
