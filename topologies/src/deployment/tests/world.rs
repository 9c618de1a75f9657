//! A small world for tests: a service under load, a proxy, and a runner that answers what it is
//! asked. Everything random comes from a seed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use schemas::event::{
    ChangeKind, ChangeObserved, Check, ConfigActivated, FREEZE_DOMAIN, FreezeCommand, FreezeVerb,
    L3ExecutionResult, RELEASE_DOMAIN, RESULT_DOMAIN, ReleaseRequested, RunnerRequest,
    RunnerResult, RunnerStatus, TelemetrySample,
};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Event, Kind, Uuid};
use serde_json::json;

use super::stubs::{DETECTION, EXECUTION, GOVERNANCE};
use super::traffic::{BASELINE_FAILS, Behaviour, Chance, Rows, SAME};
use crate::deployment::{NAME, PROCESSOR, is_denied};
use crate::profile::Profile;
use crate::testing::Bench;
use crate::{Processor, config, mode, rules};

pub(super) const GOOD: &str = "sha256:1.0.0";
pub(super) const NEXT: &str = "sha256:1.1.0";
const TICK_MS: u64 = 250;

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
    n_ended: usize,
    due: Vec<(u64, RunnerResult)>,
    load_left: u64,
    ms: u64,
    n_asked: u64,
    versions: BTreeMap<String, u64>,
}

impl World {
    pub(super) fn new(seed: u64, profile: &Profile, behaviour: Behaviour) -> Self {
        World::under(seed, profile, behaviour, GOVERNANCE, rules::CURRENT)
    }

    /// A world in which `governance` decides, under those rules.
    pub(super) fn under(
        seed: u64,
        profile: &Profile,
        behaviour: Behaviour,
        governance: Processor,
        version: u32,
    ) -> Self {
        let processors =
            [config::PROCESSOR, mode::PROCESSOR, DETECTION, governance, PROCESSOR, EXECUTION];
        let bench = Bench::under_rules(&processors, version)
            .quiet(&[Kind::ConfigActivated, Kind::RunnerResult]);
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
            n_ended: 0,
            due: Vec::new(),
            load_left: 0,
            ms: 0,
            n_asked: 0,
            versions: BTreeMap::new(),
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

    /// A world whose runner answers requests that start with `op` so.
    pub(super) fn answering(op: &'static str, answer: Answer) -> Self {
        let mut world = World::local(1, SAME);
        world.answers.insert(op, answer);
        world
    }

    pub(super) fn configure(&mut self, name: &str, body: &serde_json::Value) {
        let body = body.to_string();
        let version = self.versions.entry(name.to_owned()).or_default();
        *version += 1;
        let config = ConfigActivated::signed(name, *version, body, "ann", &self.operator);
        self.bench.input("ann", "deployment", config);
    }

    pub(super) fn release(&mut self, version: &str) {
        let request = self.asked_for(version, "blue_green");
        self.bench.input("ann", "shop", request);
    }

    /// The operator stops the rollout of `version`.
    pub(super) fn abort(&mut self, version: &str) {
        let request = self.asked_for(version, ReleaseRequested::ABORT);
        self.bench.input("ann", "shop", request);
    }

    /// A request that the operator has signed.
    pub(super) fn asked_for(&mut self, version: &str, strategy: &str) -> ReleaseRequested {
        self.n_asked += 1;
        let stops = strategy == ReleaseRequested::ABORT;
        let mut request = ReleaseRequested {
            service: "shop".to_owned(),
            artifact_ref: format!("local://releases/shop/{version}"),
            digest: format!("sha256:{version}"),
            requested_by: "ann".to_owned(),
            strategy: strategy.to_owned(),
            version: Some(version.to_owned()),
            signature: None,
            nonce: Some(format!("n{}", self.n_asked)),
            reason: stops.then(|| "the wrong branch".to_owned()),
        };
        let signature = self.operator.sign(RELEASE_DOMAIN, &request.statement());
        request.signature = Some(signature_text(&signature));
        request
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

    /// Goes on until the next rollout has ended; `None` when it has not within `ms`.
    pub(super) fn until_ended(&mut self, ms: u64) -> Option<L3ExecutionResult> {
        let until = self.ms + ms;
        loop {
            if let Some(record) = self.bench.of_kind(Kind::L3ExecutionResult).get(self.n_ended) {
                let Event::L3ExecutionResult(it) = &record.event else { unreachable!() };
                self.n_ended += 1;
                return Some(it.clone());
            }
            if self.ms >= until {
                return None;
            }
            self.step();
        }
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

    /// Requests so far whose op starts with `prefix`.
    pub(super) fn asked(&self, prefix: &str) -> usize {
        self.requests().iter().filter(|it| it.ops[0].starts_with(prefix)).count()
    }

    /// Whether the next release is on the deny list.
    pub(super) fn is_barred(&mut self) -> bool {
        is_denied(&self.bench.view(NAME), "shop", NEXT)
    }

    /// Why it ended.
    pub(super) fn reason(end: &L3ExecutionResult) -> &str {
        end.reason.as_deref().unwrap()
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
            // Where the old version failed there is nothing to compare with.
            if self.mirrors && !old_failed && self.chance.hits(0.7) {
                let Behaviour { shadow_fails, slow, noise, .. } = self.behaviour;
                let new_failed = self.answer(&mut rows, self.slot, "shadow", shadow_fails, slow);
                rows.add("shadow_compared", self.slot, "shadow", "", 1.0);
                let differs = f64::from(u8::from(new_failed || self.chance.hits(noise)));
                rows.add("shadow_differ", self.slot, "shadow", "", differs);
            }
        }
        if self.ms.is_multiple_of(500) {
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
