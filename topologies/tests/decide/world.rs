//! A world of one host, played by hand: colours and hypotheses are dictated, a runner signs what
//! the test says, and an operator signs freezes, approvals and releases.
//!
//! Two stand-ins speak as `detection` and `diagnosis`, because what those say never counts when
//! it comes from outside.

use std::collections::BTreeMap;

use schemas::event::*;
use schemas::signature::{KeyPair, signature_text};
use schemas::{Cause, Event, Kind, Ns};
use serde::Serialize;
use topologies::config::{Host, Release, Service, Signers, VOUCH, Vouch};
use topologies::detection::{self, Phase, ServiceHealth};
use topologies::profile::Profile;
use topologies::testing::{Bench, Record, id};
use topologies::{Folded, Output, Processor, View};
use topologies::{
    config, consensus, deployment, escalation, execution, governance, mode, proposals, rules,
    triggers, trust,
};

pub const HOST: &str = "box";
pub const OPERATOR: &str = "alice";

/// Everything but the eyes, in the loop's order.
pub const PROCESSORS: &[Processor] = &[
    config::PROCESSOR,
    mode::PROCESSOR,
    EYES,
    DIAGNOSIS,
    INCIDENTS,
    triggers::PROCESSOR,
    proposals::PROCESSOR,
    consensus::PROCESSOR,
    governance::PROCESSOR,
    deployment::PROCESSOR,
    execution::PROCESSOR,
    trust::PROCESSOR,
    escalation::PROCESSOR,
];

const EYES: Processor = Processor {
    name: detection::PROCESSOR.name,
    reads: &[Kind::ChangeObserved],
    says: &[Kind::SloAnomalyDetected],
    step: see,
};

const DIAGNOSIS: Processor = Processor {
    name: "diagnosis",
    reads: &[Kind::ChangeObserved],
    says: &[Kind::RcaHypothesis],
    step: suspect,
};

const INCIDENTS: Processor = Processor {
    name: "incidents",
    reads: &[Kind::ChangeObserved],
    says: &[Kind::IncidentChanged],
    step: resolve,
};

fn told<'a>(entry: &Folded<'a>, what: &str) -> Option<(&'a ChangeObserved, Vec<&'a str>)> {
    let Event::ChangeObserved(change) = entry.event else { return None };
    let mut words = change.summary.split(' ');
    (words.next() == Some(what)).then(|| (change, words.collect()))
}

fn see(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let Some((change, words)) = told(entry, "see") else { return Vec::new() };
    let name = change.service.as_str();
    let mut health = detection::health(view, name).unwrap_or_else(|| ServiceHealth::new(name));
    health.phase = Phase::Ready;
    if words[0] == "pass" {
        health.passes.push(entry.now());
        view.save(&format!("health/{name}"), &health);
        return Vec::new();
    }
    let from = health.colour;
    health.colour = words[0].parse().unwrap();
    health.since = entry.now();
    health.passes.clear();
    view.save(&format!("health/{name}"), &health);
    let anomaly = SloAnomalyDetected {
        anomaly_id: id(&change.id),
        service: name.to_owned(),
        signal: Signal::Heartbeat,
        observed: 3.0,
        threshold: 3.0,
        window_s: 1,
        severity: if health.is_green() { Severity::Info } else { Severity::Critical },
        health_from: from,
        health_to: health.colour,
        detector: "probe".to_owned(),
        fallback: false,
        evidence_refs: vec!["telemetry:0/0-1".to_owned()],
    };
    vec![Output::new(name, anomaly)]
}

fn suspect(_: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let Some((change, words)) = told(entry, "suspect") else { return Vec::new() };
    let confidence = words[2].parse().unwrap();
    let mut hypothesis = hypothesis(&change.service, words[0].parse().unwrap(), confidence);
    hypothesis.hypothesis_id = id(&change.id);
    hypothesis.failure_class = words[1].parse().unwrap();
    let incident = change.reference.clone();
    vec![Output::new(incident.clone(), hypothesis).of_incident(incident)]
}

fn resolve(_: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let Some((change, _)) = told(entry, "resolve") else { return Vec::new() };
    let incident = change.reference.clone();
    let changed = IncidentChanged {
        incident_id: incident.clone(),
        severity: Severity::Critical,
        incident_type: IncidentType::ServiceAnomaly,
        summary: "over".to_owned(),
        detected_at: entry.now(),
        resolved_at: Some(entry.now()),
        status: IncidentStatus::Resolved,
        actions_taken: Vec::new(),
        coherence_score_at_detection: None,
        coherence_score_at_resolution: None,
        change: "resolved".to_owned(),
        service: Some(change.service.clone()),
    };
    vec![Output::new(incident.clone(), changed).of_incident(incident)]
}

pub fn hypothesis(service: &str, pattern: Pattern, confidence: f64) -> RcaHypothesis {
    RcaHypothesis {
        hypothesis_id: id("hypothesis"),
        anomaly_ids: vec![id("anomaly")],
        failure_class: 3,
        pattern,
        confidence,
        evidence_refs: vec!["telemetry:0/0-1".to_owned()],
        causal_chain: Vec::new(),
        counterfactuals: Vec::new(),
        explanation_nl: format!("{service} exists and does not answer"),
        impact: Impact { severity: Severity::Critical, urgency: 7, blast_radius: 1 },
        service: Some(service.to_owned()),
    }
}

pub struct World {
    pub bench: Bench,
    pub operator: KeyPair,
    pub runner: KeyPair,
    n: u64,
    versions: BTreeMap<String, u64>,
}

impl World {
    /// One host, one operator, profile `local`.
    pub fn local() -> Self {
        World::under(Profile::local())
    }

    pub fn under(profile: Profile) -> Self {
        World::under_rules(profile, rules::CURRENT)
    }

    /// The same world as an older program's journal holds it.
    pub fn under_rules(profile: Profile, version: u32) -> Self {
        let quiet = [Kind::ChangeObserved, Kind::ConfigActivated];
        let mut world = World {
            bench: Bench::under_rules(PROCESSORS, version).quiet(&quiet),
            operator: KeyPair::from_seed(&[1; 32]),
            runner: KeyPair::from_seed(&[2; 32]),
            n: 0,
            versions: BTreeMap::new(),
        };
        let keys = BTreeMap::from([(OPERATOR.to_owned(), world.operator.public())]);
        world.activate("signers", &Signers { keys });
        world.host(HOST, &["bwrap"]);
        world.activate("profile", &profile);
        world
    }

    pub fn host(&mut self, host: &str, sandbox: &[&str]) {
        let sandbox = sandbox.iter().map(|it| (*it).to_owned()).collect();
        let key = self.runner.public();
        self.activate(&format!("runner/{host}"), &Host { host: host.to_owned(), key, sandbox });
    }

    pub fn activate(&mut self, name: &str, body: &impl Serialize) -> Vec<Record> {
        let body = serde_json::to_string(body).unwrap();
        let version = self.versions.entry(name.to_owned()).or_default();
        *version += 1;
        let activated = ConfigActivated::signed(name, *version, body, OPERATOR, &self.operator);
        self.bench.input(OPERATOR, name, activated)
    }

    /// The operator's signed word for a playbook.
    pub fn vouch(&mut self, playbook: &str, service: &str) -> Vec<Record> {
        let reason = "the disk was full and is not any more".to_owned();
        let word = Vouch { service: service.to_owned(), reason };
        self.activate(&format!("{VOUCH}{playbook}"), &word)
    }

    /// Takes a service under care and sees it well.
    pub fn service(&mut self, name: &str) {
        self.configured(Service { name: name.to_owned(), ..Service::default() });
    }

    pub fn configured(&mut self, service: Service) {
        let name = service.name.clone();
        let host = HOST.to_owned();
        self.activate(&format!("service/{name}"), &Service { host, ..service });
        self.see(&name, "green");
    }

    /// Colour by hand: `green`, `red`, `amber`, `unknown`; `pass` is one passed probe.
    pub fn see(&mut self, service: &str, what: &str) -> Vec<Record> {
        self.tell(service, "", format!("see {what}"))
    }

    /// Diagnosis by hand, in incident `inc-<service>`.
    pub fn suspect(&mut self, service: &str, pattern: Pattern, confidence: f64) -> Vec<Record> {
        self.suspect_class(service, pattern, 3, confidence)
    }

    pub fn suspect_class(
        &mut self,
        service: &str,
        pattern: Pattern,
        class: u8,
        confidence: f64,
    ) -> Vec<Record> {
        let incident = format!("inc-{service}");
        self.tell(service, &incident, format!("suspect {pattern} {class} {confidence}"))
    }

    pub fn resolve(&mut self, service: &str) {
        self.tell(service, &format!("inc-{service}"), "resolve".to_owned());
    }

    fn tell(&mut self, service: &str, incident: &str, summary: String) -> Vec<Record> {
        self.n += 1;
        let change = ChangeObserved {
            id: format!("{service}-{}", self.n),
            service: service.to_owned(),
            kind: ChangeKind::Flag,
            version: String::new(),
            reference: incident.to_owned(),
            author: String::new(),
            summary,
            at: None,
        };
        self.bench.input("test", service, change)
    }

    /// The service turns red, and a hang is suspected.
    pub fn hang(&mut self, service: &str) -> Vec<Record> {
        self.see(service, "red");
        self.suspect(service, Pattern::CodeBugs, 0.8)
    }

    /// A hang, the runner's success, and health: a repair that helps.
    pub fn heal(&mut self, service: &str) {
        self.hang(service);
        self.answer(RunnerStatus::Success, "restarted");
        self.recover(service);
    }

    /// Green, and as many passed probes as `local` asks for.
    pub fn recover(&mut self, service: &str) {
        self.see(service, "green");
        for _ in 0..3 {
            self.bench.advance(500);
            self.see(service, "pass");
        }
        self.bench.advance(500);
    }

    /// The newest request that was said.
    pub fn request(&self) -> RunnerRequest {
        self.requests().pop().unwrap()
    }

    /// Every request that was said; a copy from outside is none.
    pub fn requests(&self) -> Vec<RunnerRequest> {
        let requests = self.derived(Kind::RunnerRequest);
        let typed = requests.filter_map(|it| match &it.event {
            Event::RunnerRequest(it) => Some(it.clone()),
            _ => None,
        });
        typed.collect()
    }

    /// The runner's signed answer to the newest request.
    pub fn answer(&mut self, status: RunnerStatus, explanation: &str) -> Vec<Record> {
        let result = self.result(status, explanation);
        self.bench.input("runner:box", HOST, result)
    }

    pub fn result(&self, status: RunnerStatus, explanation: &str) -> RunnerResult {
        self.signed(RunnerResult {
            id: self.request().id,
            status,
            metrics: BTreeMap::new(),
            logs_ref: String::new(),
            snapshot: String::new(),
            explanation: explanation.to_owned(),
            kind: None,
            host: Some(HOST.to_owned()),
            checks: None,
            known: None,
            signature: None,
        })
    }

    pub fn signed(&self, mut result: RunnerResult) -> RunnerResult {
        result.signature = None;
        let signature = self.runner.sign(RESULT_DOMAIN, &result.statement());
        result.signature = Some(signature_text(&signature));
        result
    }

    /// The operator's signed freeze or unfreeze.
    pub fn command(&mut self, command: FreezeVerb, nonce: &str) -> FreezeCommand {
        let command = FreezeCommand {
            scope: "deployment".to_owned(),
            command,
            signer_id: OPERATOR.to_owned(),
            reason: "something is wrong".to_owned(),
            signature: String::new(),
            audit_confirmation: None,
            signers: Vec::new(),
            nonce: nonce.to_owned(),
        };
        sign_command(command, &self.operator)
    }

    pub fn freeze(&mut self) -> Vec<Record> {
        self.n += 1;
        let command = self.command(FreezeVerb::Freeze, &format!("nonce-{}", self.n));
        self.bench.input(OPERATOR, "deployment", command)
    }

    pub fn unfreeze(&mut self) -> Vec<Record> {
        self.n += 1;
        let command = self.command(FreezeVerb::Unfreeze, &format!("nonce-{}", self.n));
        self.bench.input(OPERATOR, "deployment", command)
    }

    /// The operator's signed answer to the newest proposal of rank 1.
    pub fn approval(&self, verdict: ApprovalVerdict) -> ApprovalGiven {
        let proposal = self.proposal();
        sign_approval(
            ApprovalGiven {
                proposal_id: proposal.proposal_id,
                plan_digest: proposal.plan_digest.unwrap(),
                approver: OPERATOR.to_owned(),
                scope: "once".to_owned(),
                expires_at: self.bench.now() + Ns::from_s(600),
                verdict,
                reason: "looked at it".to_owned(),
                signature: String::new(),
            },
            &self.operator,
        )
    }

    pub fn approve(&mut self) -> Vec<Record> {
        let approval = self.approval(ApprovalVerdict::Approve);
        self.bench.input(OPERATOR, &approval.proposal_id.to_string(), approval)
    }

    fn derived(&self, kind: Kind) -> impl DoubleEndedIterator<Item = &Record> {
        let all = self.bench.records().iter().filter(move |it| it.envelope.kind == kind);
        all.filter(|it| matches!(it.envelope.cause, Cause::Derived { .. }))
    }

    /// The newest proposal of rank 1.
    pub fn proposal(&self) -> RemediationProposed {
        let mut typed =
            self.derived(Kind::RemediationProposed).rev().filter_map(|it| match &it.event {
                Event::RemediationProposed(it) if it.rank == 1 => Some(it.clone()),
                _ => None,
            });
        typed.next().unwrap()
    }

    /// The newest evaluation.
    pub fn evaluation(&self) -> HealTriggerEvaluated {
        match &self.bench.of_kind(Kind::HealTriggerEvaluated).last().unwrap().event {
            Event::HealTriggerEvaluated(it) => it.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Verdict and reason of the newest evaluation, on one line.
    pub fn verdict(&self) -> String {
        let it = self.evaluation();
        format!("{}: {}", it.verdict, it.reason.unwrap())
    }

    /// The newest event of a kind, described.
    pub fn last(&self, kind: Kind) -> String {
        let records = self.bench.of_kind(kind);
        records.last().map_or_else(String::new, |it| topologies::testing::describe(&it.event))
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.bench.of_kind(kind).len()
    }

    /// The sentence of the newest annotation.
    pub fn note(&self) -> String {
        match self.bench.of_kind(Kind::AnnotationAdded).last().map(|it| &it.event) {
            Some(Event::AnnotationAdded(it)) => it.data.clone(),
            Some(_) | None => String::new(),
        }
    }

    /// The transcript with proposals called p1, p2, … in order of appearance.
    pub fn story(&self) -> String {
        let mut story = self.bench.transcript();
        let mut n = 0;
        for record in self.bench.of_kind(Kind::RemediationProposed) {
            let long = record.envelope.key.clone();
            n += 1;
            story = story.replace(&format!("{long} "), &format!("{:<12} ", format!("p{n}")));
            story = story.replace(&long, &format!("p{n}"));
        }
        story
    }

    pub fn open(&mut self) -> usize {
        triggers::all_open(&self.bench.view("triggers")).len()
    }

    pub fn mode(&mut self) -> Option<(Mode, u64)> {
        mode::current(&self.bench.view("mode"))
    }
}

pub fn sign_command(mut command: FreezeCommand, key: &KeyPair) -> FreezeCommand {
    command.signature = signature_text(&key.sign(FREEZE_DOMAIN, &command.statement()));
    command
}

pub fn sign_approval(mut approval: ApprovalGiven, key: &KeyPair) -> ApprovalGiven {
    approval.signature = signature_text(&key.sign(APPROVAL_DOMAIN, &approval.statement()));
    approval
}

pub fn release(service: &str, version: &str) -> Release {
    Release {
        version: version.to_owned(),
        digest: ConfigActivated::digest_of(version),
        artifact_ref: format!("local://releases/{service}/{version}"),
    }
}
