//! The whole loop over a simulated host: telemetry in, signed answers of a runner back, and
//! nothing dictated between them. The transcripts are the product's stories.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use expect_test::expect;
use schemas::event::{
    Check, CheckStatus, RESULT_DOMAIN, RunnerRequest, RunnerResult, RunnerStatus,
};
use schemas::signature::{KeyPair, signature_text};
use schemas::{Event, Kind, Ns};
use topologies::config::{Environment, Host, Service, Signers};
use topologies::profile::Profile;
use topologies::testing::{Bench, OPERATOR, operator, series};
use topologies::{PROCESSORS, detection, incidents};

/// What is wrong with the simulated process.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Hung,
    Gone,
    /// Gone, and every start fails, because of the environment.
    Broken,
}

/// One host with one service, `api`.
struct World {
    bench: Bench,
    runner: KeyPair,
    service: Service,
    fault: Fault,
    env_ok: bool,
    start_failed: bool,
    started_at: Ns,
    /// Records that were looked through for requests.
    seen: usize,
    /// Requests and when they are carried out.
    pending: Vec<(Ns, RunnerRequest)>,
}

impl World {
    fn new(service: Service) -> Self {
        let quiet = [
            Kind::ConfigActivated,
            Kind::ModeChanged,
            Kind::KpiTrustUpdate,
            Kind::VoteCast,
            Kind::L2ConsensusResult,
            Kind::AnnotationAdded,
        ];
        let mut bench = Bench::new(PROCESSORS).quiet(&quiet);
        let runner = KeyPair::from_seed(&[2; 32]);
        let keys = BTreeMap::from([(OPERATOR.to_owned(), operator().public())]);
        bench.activate("signers", &Signers { keys });
        let sandbox = vec!["bwrap".to_owned()];
        let host = Host { host: "box".to_owned(), key: runner.public(), sandbox };
        bench.activate("runner/box", &host);
        bench.activate("service/api", &service);
        bench.activate("profile", &Profile::local());
        let started_at = bench.now();
        World {
            bench,
            runner,
            service,
            fault: Fault::None,
            env_ok: true,
            start_failed: false,
            started_at,
            seen: 0,
            pending: Vec::new(),
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            self.bench.advance(250);
            self.act();
            if self.bench.now().as_ms().is_multiple_of(500) {
                self.measure();
            }
        }
    }

    /// What the runner sends twice a second.
    fn measure(&mut self) {
        let one = |key, holds: bool| (series("api", key, &[]), f64::from(u8::from(holds)));
        let is_up = matches!(self.fault, Fault::None | Fault::Hung);
        let mut samples = vec![one("probe", self.fault == Fault::None), one("process_up", is_up)];
        if is_up {
            let uptime = self.bench.now().since(self.started_at).as_s();
            samples.push((series("api", "svc_uptime", &[]), uptime));
        }
        if self.service.environment.is_some() {
            samples.push(one("env_ok", self.env_ok));
            samples.push(one("start_failed", self.start_failed));
        }
        self.bench.feed(&samples);
    }

    /// Carries out what was asked a quarter second ago.
    fn act(&mut self) {
        let now = self.bench.now();
        for record in &self.bench.records()[self.seen..] {
            if let Event::RunnerRequest(it) = &record.event {
                self.pending.push((now + Ns::from_ms(250), it.clone()));
            }
        }
        self.seen = self.bench.records().len();
        let due: Vec<RunnerRequest> =
            self.pending.extract_if(.., |it| it.0 <= now).map(|it| it.1).collect();
        for request in due {
            let explanation = request.ops.iter().map(|op| self.carry_out(op)).collect::<Vec<_>>();
            let checks = request.ops[0].starts_with("sandbox").then(|| {
                let detail = "imports what it needs".to_owned();
                let check = Check { status: CheckStatus::Passed, detail, duration_ms: 900 };
                BTreeMap::from([("start".to_owned(), check)])
            });
            let mut result = RunnerResult {
                id: request.id,
                status: RunnerStatus::Success,
                metrics: BTreeMap::new(),
                logs_ref: String::new(),
                snapshot: String::new(),
                explanation: explanation.join("; "),
                kind: None,
                host: Some("box".to_owned()),
                checks,
                known: None,
                signature: None,
            };
            let signature = self.runner.sign(RESULT_DOMAIN, &result.statement());
            result.signature = Some(signature_text(&signature));
            self.bench.input("runner:box", "box", result);
        }
    }

    fn carry_out(&mut self, op: &str) -> String {
        match op {
            "restart:api" if self.env_ok => {
                self.fault = Fault::None;
                self.start_failed = false;
                self.started_at = self.bench.now();
                "killed the process group and started it anew".to_owned()
            }
            "restart:api" => {
                self.fault = Fault::Broken;
                self.start_failed = true;
                "started it; it ended at once".to_owned()
            }
            "apply_patch:env/api" => {
                self.env_ok = true;
                "rebuilt the environment from the wheel store".to_owned()
            }
            other => format!("{other} done"),
        }
    }

    fn is_green(&mut self) -> bool {
        detection::health(&self.bench.view("test"), "api").is_some_and(|it| it.is_green())
    }
}

fn plain() -> Service {
    Service { name: "api".to_owned(), host: "box".to_owned(), ..Service::default() }
}

#[test]
fn a_healthy_service_is_left_alone() {
    let mut world = World::new(plain());
    world.run(600_000);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
    "#]].assert_eq(&world.bench.transcript());
}

#[test]
fn a_hung_process_is_restarted() {
    let mut world = World::new(plain());
    world.run(5_000);
    world.fault = Fault::Hung;
    world.run(10_000);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            6.500 slo.anomaly.detected   api          heartbeat green → red critical: 3 against 3 in 2 s (probe)
            6.500 incident.changed       inc-00c2e48a opened critical open: api: 3 probes in a row failed
            6.500 rca.hypothesis         inc-00c2e48a class 3 code_bugs 0.80: api: 3 probes in a row failed; its process runs; it depends on no other service. Hypothesis (0.80): it hangs. Class 3, because it does not live.
            6.500 incident.changed       inc-00c2e48a diagnosed critical open: api: 3 probes in a row failed
            6.500 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 1 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
            6.500 remediation.proposed   fe4a2d8b-02b3-80c1-a885-fc101e284d89 1. restart_service restart:api (low impact, 0.80) else local://services/api
            6.500 l1.consensus.result    fe4a2d8b-02b3-80c1-a885-fc101e284d89 accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
            6.500 sandbox.result         fe4a2d8b-02b3-80c1-a885-fc101e284d89 in none: nothing_new not_applicable
            6.500 governance.decision    fe4a2d8b-02b3-80c1-a885-fc101e284d89 approved (unattended):
            6.500 runner.request         box          restart:api
            7.000 runner.result          box          success: killed the process group and started it anew
            7.000 incident.changed       inc-00c2e48a acted critical mitigating: api: 3 probes in a row failed [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew]
            8.000 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
            9.000 l3.execution.result    fe4a2d8b-02b3-80c1-a885-fc101e284d89 promoted: api is well: 3 probes passed, 2 s after restart_service
            9.000 incident.changed       inc-00c2e48a resolved critical resolved: api: 3 probes in a row failed [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew; promoted: api is well: 3 probes passed, 2 s after restart_service; healed after 2.5 s: api is well: 3 probes passed, 2 s after restart_service]
    "#]].assert_eq(&world.bench.transcript());
    assert!(world.is_green() && incidents::all_open(&world.bench.view("test")).is_empty());
}

#[test]
fn a_broken_environment_is_rebuilt() {
    let environment = Environment {
        kind: "venv".to_owned(),
        artifact_ref: "local://environments/api/1".to_owned(),
        digest: "sha256:1e".to_owned(),
    };
    let mut world = World::new(Service { environment: Some(environment), ..plain() });
    world.run(5_000);
    world.env_ok = false;
    world.fault = Fault::Broken;
    world.run(20_000);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            6.000 slo.anomaly.detected   api          heartbeat green → red critical: 2 against 2 in 1 s (drift_lock)
            6.000 incident.changed       inc-cc2177fc opened critical open: api: it failed with a changed environment
            6.000 rca.hypothesis         inc-cc2177fc class 5 configuration_errors 0.80: api: it failed with a changed environment; its process does not run; the digest of its environment is not the desired one. Hypothesis (0.80): its environment is broken, so it cannot run. Class 5, because its environment has drifted.
            6.000 incident.changed       inc-cc2177fc diagnosed critical open: api: it failed with a changed environment
            6.000 heal.trigger.evaluated rebuild_environment rebuild_environment fired (0 of 2 open): rebuild_environment on api: attempt 1 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
            6.000 remediation.proposed   0ce46eb8-331d-80fa-ab58-33dbed0ab079 1. rebuild_environment apply_patch:env/api, restart:api (medium impact, 0.80) else local://environments/api/previous
            6.000 remediation.proposed   226c68c3-8ca3-8e58-aec2-44e97fc6eade 2. restart_service restart:api (low impact, 0.72) else local://services/api
            6.000 l1.consensus.result    0ce46eb8-331d-80fa-ab58-33dbed0ab079 accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
            6.000 runner.request         box          sandbox:env/api local://environments/api/1
            6.500 runner.result          box          success: sandbox:env/api done
            6.500 incident.changed       inc-cc2177fc acted critical mitigating: api: it failed with a changed environment [asked: sandbox:env/api; done: sandbox:env/api done]
            6.500 sandbox.result         0ce46eb8-331d-80fa-ab58-33dbed0ab079 in bwrap: start passed
            6.500 governance.decision    0ce46eb8-331d-80fa-ab58-33dbed0ab079 approved (unattended):
            6.500 runner.request         box          apply_patch:env/api, restart:api local://environments/api/1
            7.000 runner.result          box          success: rebuilt the environment from the wheel store; killed the process group and started it anew
            7.000 incident.changed       inc-cc2177fc acted critical mitigating: api: it failed with a changed environment [asked: sandbox:env/api; done: sandbox:env/api done; approved (unattended) under policy 1; asked: apply_patch:env/api, restart:api; done: rebuilt the environment from the wheel store; killed the process group and started it anew]
            8.000 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
            9.000 l3.execution.result    0ce46eb8-331d-80fa-ab58-33dbed0ab079 promoted: api is well: 3 probes passed, 2 s after rebuild_environment
            9.000 incident.changed       inc-cc2177fc resolved critical resolved: api: it failed with a changed environment [asked: sandbox:env/api; done: sandbox:env/api done; approved (unattended) under policy 1; asked: apply_patch:env/api, restart:api; done: rebuilt the environment from the wheel store; killed the process group and started it anew; promoted: api is well: 3 probes passed, 2 s after rebuild_environment; healed after 3 s: api is well: 3 probes passed, 2 s after rebuild_environment]
    "#]].assert_eq(&world.bench.transcript());
    assert!(world.is_green() && incidents::all_open(&world.bench.view("test")).is_empty());
}

#[test]
fn a_process_that_is_killed_again_and_again_is_healed_until_its_budget_is_spent() {
    let mut world = World::new(plain());
    world.run(5_000);
    for _ in 0..5 {
        world.fault = Fault::Gone;
        world.run(15_000);
    }
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            6.000 slo.anomaly.detected   api          heartbeat green → red critical: 2 against 2 in 1 s (process)
            6.000 incident.changed       inc-cc2177fc opened critical open: api: its process is gone
            6.000 rca.hypothesis         inc-cc2177fc class 3 code_bugs 0.80: api: its process is gone; it ended without a request; it has no environment of its own; it depends on no other service. Hypothesis (0.80): it crashed or was killed. Class 3, because it does not live.
            6.000 incident.changed       inc-cc2177fc diagnosed critical open: api: its process is gone
            6.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 1 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
            6.000 remediation.proposed   226c68c3-8ca3-8e58-aec2-44e97fc6eade 1. restart_service restart:api (low impact, 0.80) else local://services/api
            6.000 l1.consensus.result    226c68c3-8ca3-8e58-aec2-44e97fc6eade accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
            6.000 sandbox.result         226c68c3-8ca3-8e58-aec2-44e97fc6eade in none: nothing_new not_applicable
            6.000 governance.decision    226c68c3-8ca3-8e58-aec2-44e97fc6eade approved (unattended):
            6.000 runner.request         box          restart:api
            6.500 runner.result          box          success: killed the process group and started it anew
            6.500 incident.changed       inc-cc2177fc acted critical mitigating: api: its process is gone [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew]
            7.500 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
            8.500 l3.execution.result    226c68c3-8ca3-8e58-aec2-44e97fc6eade promoted: api is well: 3 probes passed, 2 s after restart_service
            8.500 incident.changed       inc-cc2177fc resolved critical resolved: api: its process is gone [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew; promoted: api is well: 3 probes passed, 2 s after restart_service; healed after 2.5 s: api is well: 3 probes passed, 2 s after restart_service]
           21.000 slo.anomaly.detected   api          heartbeat green → red critical: 2 against 2 in 1 s (process)
           21.000 incident.changed       inc-81161326 opened critical open: api: its process is gone
           21.000 rca.hypothesis         inc-81161326 class 3 code_bugs 0.80: api: its process is gone; it ended without a request; it has no environment of its own; it depends on no other service. Hypothesis (0.80): it crashed or was killed. Class 3, because it does not live.
           21.000 incident.changed       inc-81161326 diagnosed critical open: api: its process is gone
           21.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 2 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
           21.000 remediation.proposed   b2a0641d-e076-87b2-8ae5-0313f1008616 1. restart_service restart:api (low impact, 0.80) else local://services/api
           21.000 l1.consensus.result    b2a0641d-e076-87b2-8ae5-0313f1008616 accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
           21.000 sandbox.result         b2a0641d-e076-87b2-8ae5-0313f1008616 in none: nothing_new not_applicable
           21.000 governance.decision    b2a0641d-e076-87b2-8ae5-0313f1008616 approved (unattended):
           21.000 runner.request         box          restart:api
           21.500 runner.result          box          success: killed the process group and started it anew
           21.500 incident.changed       inc-81161326 acted critical mitigating: api: its process is gone [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew]
           22.500 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
           23.500 l3.execution.result    b2a0641d-e076-87b2-8ae5-0313f1008616 promoted: api is well: 3 probes passed, 2 s after restart_service
           23.500 incident.changed       inc-81161326 resolved critical resolved: api: its process is gone [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew; promoted: api is well: 3 probes passed, 2 s after restart_service; healed after 2.5 s: api is well: 3 probes passed, 2 s after restart_service]
           36.000 slo.anomaly.detected   api          heartbeat green → red critical: 2 against 2 in 1 s (process)
           36.000 incident.changed       inc-d544d6a5 opened critical open: api: its process is gone
           36.000 rca.hypothesis         inc-d544d6a5 class 3 code_bugs 0.80: api: its process is gone; it ended without a request; it has no environment of its own; it depends on no other service. Hypothesis (0.80): it crashed or was killed. Class 3, because it does not live.
           36.000 incident.changed       inc-d544d6a5 diagnosed critical open: api: its process is gone
           36.000 heal.trigger.evaluated restart_service restart_service fired (0 of 2 open): restart_service on api: attempt 3 of 3 in 10 min; open are 0 of 2 of this type and 0 of 8 in all
           36.000 remediation.proposed   c49440f8-3990-8561-8b64-6905b5ef1adb 1. restart_service restart:api (low impact, 0.80) else local://services/api
           36.000 l1.consensus.result    c49440f8-3990-8561-8b64-6905b5ef1adb accept by 2 of 3 accept; rule and security may veto; no llm is an abstention
           36.000 sandbox.result         c49440f8-3990-8561-8b64-6905b5ef1adb in none: nothing_new not_applicable
           36.000 governance.decision    c49440f8-3990-8561-8b64-6905b5ef1adb approved (unattended):
           36.000 runner.request         box          restart:api
           36.500 runner.result          box          success: killed the process group and started it anew
           36.500 incident.changed       inc-d544d6a5 acted critical mitigating: api: its process is gone [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew]
           37.500 slo.anomaly.detected   api          heartbeat red → green info: 0 against 3 in 0 s (probe)
           38.500 l3.execution.result    c49440f8-3990-8561-8b64-6905b5ef1adb promoted: api is well: 3 probes passed, 2 s after restart_service
           38.500 incident.changed       inc-d544d6a5 resolved critical resolved: api: its process is gone [approved (unattended) under policy 1; asked: restart:api; done: killed the process group and started it anew; promoted: api is well: 3 probes passed, 2 s after restart_service; healed after 2.5 s: api is well: 3 probes passed, 2 s after restart_service]
           51.000 slo.anomaly.detected   api          heartbeat green → red critical: 2 against 2 in 1 s (process)
           51.000 incident.changed       inc-22fc68b3 opened critical open: api: its process is gone
           51.000 rca.hypothesis         inc-22fc68b3 class 3 code_bugs 0.80: api: its process is gone; it ended without a request; it has no environment of its own; it depends on no other service. Hypothesis (0.80): it crashed or was killed. Class 3, because it does not live.
           51.000 incident.changed       inc-22fc68b3 diagnosed critical open: api: its process is gone
           51.000 heal.trigger.evaluated restart_service restart_service over_budget (0 of 2 open): budget spent: 3 of 3 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:06Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration
           51.000 heal.escalated         inc-22fc68b3 level 4 budget_ceiling: budget spent: 3 of 3 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:06Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration
           51.000 incident.changed       inc-22fc68b3 escalated critical open: api: its process is gone [not tried (over_budget): budget spent: 3 of 3 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:06Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration; handed to people (level 4): budget spent: 3 of 3 attempts for api in 10 min; the next one is possible at 2026-03-02T10:10:06Z, or raise it with `healwright watch --budget` or `attempts_max` of the configuration]
    "#]].assert_eq(&world.bench.transcript());
    assert!(!world.is_green());
}

#[test]
fn a_service_that_falls_silent_is_not_touched() {
    let mut world = World::new(plain());
    world.run(5_000);
    world.bench.advance(600_000);
    expect![[r#"
        seconds   event                  key          what
            2.500 slo.anomaly.detected   api          heartbeat unknown → green info: 0 against 3 in 0 s (probe)
            8.250 slo.anomaly.detected   api          heartbeat green → unknown warning: 3.25 against 3 in 3 s (silence)
    "#]].assert_eq(&world.bench.transcript());
}
