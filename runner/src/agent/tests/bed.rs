//! A small control plane with real keys, entries, tree and proofs, and a host that only counts.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ledger::{Checkpoint, EpochKey, Tree, proof};
use schemas::event::{
    Ballot, Binding, ConfigActivated, ConfigKind, Decision, Event, GovernanceDecision, Mode,
    Preflight, Rollback, RunnerRequest, RunnerResult, Sign, TelemetrySample,
};
use schemas::signature::{EpochClaim, KeyPair, PublicKey, certify_node, deployment_id};
use schemas::{Actor, Cause, Entry, Envelope, Kind, Ns, Stream, Uuid, envelope};
use tempfile::TempDir;

use crate::agent::core::{Agent, Effect, Job};
use crate::agent::{Clock, Identity};
use crate::error::Error as HostError;
use crate::host::{Call, Host, Installed, Outcome};
use crate::proxy::Router;
use crate::store::Listed;
use crate::wire::{Base64, Evidence, FromRunner, ModeEpoch, Proven, Seen, ToRunner, Welcome};

pub(super) const HOST: &str = "here";
pub(super) const PLAN: &str = "sha256:plan";
/// Where the wall clock of a test stands at first.
pub(super) const NOON: Ns = Ns::from_s(1_800_000_000);

/// The control plane: one partition, one epoch key.
#[derive(Clone)]
pub(super) struct Plane {
    pub(super) deployment: String,
    pub(super) partition: u32,
    pub(super) epoch: u64,
    pub(super) seed: u8,
    pub(super) entries: Vec<Entry>,
    pub(super) tree: Tree,
}

impl Plane {
    pub(super) fn new(seed: u8) -> Self {
        let root = KeyPair::from_seed(&[seed; 32]);
        Plane {
            deployment: deployment_id("shop", &root.public()),
            partition: 0,
            epoch: 1,
            seed,
            entries: Vec::new(),
            tree: Tree::new(),
        }
    }

    /// The key of the current epoch.
    pub(super) fn key(&self) -> KeyPair {
        KeyPair::from_seed(&[self.seed ^ 0x80 ^ (self.epoch as u8); 32])
    }

    /// The epoch key, certified under the root of `seed`.
    pub(super) fn epoch_key(&self) -> EpochKey {
        let root = KeyPair::from_seed(&[self.seed; 32]);
        let node = KeyPair::from_seed(&[self.seed ^ 0x40; 32]);
        let (deployment, key) = (self.deployment.clone(), self.key().public());
        let (partition, epoch) = (self.partition, self.epoch);
        let claim = EpochClaim { deployment: &deployment, partition, epoch, key };
        let node_signature = certify_node(&root, &deployment, &node.public());
        let certificate = claim.certify(root.public(), &node_signature, &node);
        EpochKey { deployment, partition, epoch, key, certificate }
    }

    pub(super) fn append(&mut self, key: &str, event: impl Into<Event>) -> u64 {
        let (event, seq) = (event.into(), self.entries.len() as u64);
        let entry = self.entry(seq, key, &event);
        self.tree.push(entry.leaf());
        self.entries.push(entry);
        seq
    }

    /// An entry as the chain would hold it; appending it is another matter.
    pub(super) fn entry(&self, seq: u64, key: &str, event: &Event) -> Entry {
        let envelope = Envelope {
            event_id: Uuid::named("test", &[&seq.to_be_bytes()]),
            kind: event.kind(),
            partition: self.partition,
            seq,
            key: key.to_owned(),
            tick: NOON,
            wall: NOON,
            actor: Actor::system("test"),
            cause: Cause::Observed { stream: Stream::Inbox, position: seq },
            correlation: None,
            trace_id: None,
            priority: 5,
            ttl_ms: 0,
            redaction: envelope::Redaction::None,
            commitment: Default::default(),
        };
        Entry::new(envelope, [7; 32], event.encode().unwrap())
    }

    pub(super) fn reference(&self, seq: u64) -> String {
        envelope::reference(self.partition, seq)
    }

    /// A governance decision about [`PLAN`].
    pub(super) fn decision(&self, decision: Decision) -> GovernanceDecision {
        GovernanceDecision {
            decision_id: Uuid::default(),
            proposal_id: Uuid::default(),
            decision,
            failure_modes: Vec::new(),
            reasons: Vec::new(),
            policy_version: 1,
            quorum_type: "unattended".into(),
            ballots: vec![Ballot { member: "rule".into(), ballot: "approve".into() }],
            compliance_score: 1.0,
            cache_used: false,
            ratified_by: None,
            expires_at: None,
            plan_digest: Some(PLAN.into()),
        }
    }

    /// A request that rests on the entry `approval`.
    pub(super) fn request(&self, n: u64, ops: &[&str], approval: u64) -> RunnerRequest {
        RunnerRequest {
            id: Uuid::named("request", &[&n.to_be_bytes()]),
            artifact_ref: String::new(),
            ops: ops.iter().map(|op| (*op).to_owned()).collect(),
            preflight: Preflight { sandbox: false, tests: Vec::new() },
            rollback: Rollback { artifact: String::new() },
            sign: Sign { algo: String::new(), digest: String::new() },
            binding: Some(Binding {
                plan_digest: PLAN.into(),
                approvals: vec![self.reference(approval)],
                expires_at: NOON + Ns::from_s(60),
                mode_epoch: 1,
                policy_version: 1,
            }),
        }
    }

    /// Evidence of the entries `seqs` under the newest head, for a runner that has seen `from`.
    pub(super) fn evidence(&self, from: u64, seqs: &[u64]) -> Evidence {
        let (size, none) = (self.tree.size(), |_| None);
        let head = Checkpoint::new(&self.deployment, self.partition, size, self.tree.root());
        let note = head.sign(self.epoch, &self.key()).unwrap().encode();
        let consistency =
            proof::consistency(&self.tree, from.min(size), size, &none).unwrap_or_default();
        let mut evidence = Evidence::new(note, &self.epoch_key(), from, consistency);
        evidence.entries = seqs.iter().map(|seq| self.proven(*seq)).collect();
        evidence
    }

    fn proven(&self, seq: u64) -> Proven {
        let path = proof::inclusion(&self.tree, seq, self.tree.size(), &|_| None).unwrap();
        let entry = Base64(self.entries[seq as usize].to_bytes());
        Proven { entry, index: seq, path }
    }

    /// The definition of a service on [`HOST`].
    pub(super) fn service(&self, name: &str, host: &str) -> ConfigActivated {
        let body = format!(r#"{{"name":"{name}","host":"{host}","command":["{name}"]}}"#);
        ConfigActivated {
            kind: ConfigKind::Policy,
            name: format!("service/{name}"),
            version: 1,
            digest: ConfigActivated::digest_of(&body),
            approved_by: "test".into(),
            audit_log_id: None,
            body: Some(body),
            signature: None,
        }
    }
}

/// Clocks that stand until a test moves them.
#[derive(Default)]
pub(super) struct TestClock {
    monotone_ms: AtomicU64,
    pub(super) wall: Mutex<Ns>,
}

impl TestClock {
    pub(super) fn pass(&self, ms: u64) {
        self.monotone_ms.fetch_add(ms, Ordering::SeqCst);
        let mut wall = self.wall.lock().unwrap();
        *wall = *wall + Ns::from_ms(ms);
    }
}

impl Clock for TestClock {
    fn monotone(&self) -> Duration {
        Duration::from_millis(self.monotone_ms.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Ns {
        *self.wall.lock().unwrap()
    }
}

type Hook = Box<dyn Fn(&Call<'_>) + Send + Sync>;

/// A host that writes down what it was told, and does nothing.
#[derive(Default)]
pub(super) struct Counting {
    pub(super) calls: Mutex<Vec<(Uuid, String)>>,
    pub(super) registered: Mutex<Vec<String>>,
    pub(super) trusted: Mutex<Vec<PublicKey>>,
    /// Called within each call, before its first instruction.
    pub(super) hook: Mutex<Option<Hook>>,
}

impl Counting {
    pub(super) fn n_calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    fn call(&self, call: &Call<'_>) -> Outcome {
        let op = format!("{}:{}", call.op.method, call.op.target);
        if let Some(hook) = &*self.hook.lock().unwrap() {
            hook(call);
        }
        self.calls.lock().unwrap().push((call.request.id, op.clone()));
        Outcome::success(format!("Did {op}."))
    }
}

impl Host for Counting {
    fn apply_patch(&self, call: &Call<'_>) -> Outcome {
        self.call(call)
    }

    fn restart(&self, call: &Call<'_>) -> Outcome {
        self.call(call)
    }

    fn metrics(&self) -> Result<TelemetrySample, HostError> {
        Err(HostError::CapabilityGap("nothing is measured".into()))
    }

    fn rollback(&self, call: &Call<'_>) -> Outcome {
        self.call(call)
    }

    fn sandbox(&self, call: &Call<'_>) -> Outcome {
        self.call(call)
    }

    fn inventory(&self) -> Result<Vec<Installed>, HostError> {
        Ok(Vec::new())
    }

    fn cache_info(&self) -> Result<Vec<Listed>, HostError> {
        Ok(Vec::new())
    }
}

impl crate::agent::Machine for Counting {
    fn host(&self) -> &dyn Host {
        self
    }

    fn register(&self, body: &str) -> Result<(), String> {
        self.registered.lock().unwrap().push(body.to_owned());
        Ok(())
    }

    fn trust(&self, keys: Vec<PublicKey>) {
        *self.trusted.lock().unwrap() = keys;
    }

    fn sandbox_kinds(&self) -> Vec<String> {
        Vec::new()
    }

    fn router(&self) -> Option<Arc<dyn Router>> {
        None
    }
}

/// A runner that has met the plane, supervises `shop`, and is told mode `normal` of epoch 1.
pub(super) struct Bed {
    pub(super) plane: Plane,
    pub(super) dir: TempDir,
    pub(super) clock: Arc<TestClock>,
    pub(super) machine: Arc<Counting>,
    pub(super) mode: ModeEpoch,
    agent: Option<Agent>,
}

impl Bed {
    pub(super) fn new() -> Self {
        let clock = Arc::new(TestClock::default());
        *clock.wall.lock().unwrap() = NOON;
        let mut bed = Bed {
            plane: Plane::new(1),
            dir: folder(),
            clock,
            machine: Arc::new(Counting::default()),
            mode: ModeEpoch { epoch: 1, mode: Mode::Normal },
            agent: None,
        };
        bed.restart();
        let seq = bed.plane.append("shop", bed.plane.service("shop", HOST));
        let evidence = Box::new(bed.plane.evidence(0, &[seq]));
        let said = bed.say(ToRunner::Service { evidence });
        assert!(matches!(&said[..], [FromRunner::Registered { error: None, .. }]), "{said:?}");
        bed
    }

    /// Ends the runner, without a word to it, and starts it again on its folder.
    pub(super) fn restart(&mut self) -> Vec<FromRunner> {
        self.agent = None;
        let identity = Identity::open(self.dir.path(), HOST, &self.plane.deployment).unwrap();
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        self.agent = Some(Agent::open(identity, clock).unwrap());
        self.welcome()
    }

    pub(super) fn welcome(&mut self) -> Vec<FromRunner> {
        let (deployment, partition) = (self.plane.deployment.clone(), self.plane.partition);
        let mode = Some(self.mode);
        self.say(ToRunner::Welcome(Welcome { deployment, partition, mode }))
    }

    pub(super) fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().unwrap()
    }

    /// What the runner says to a message, its work done at once.
    pub(super) fn say(&mut self, message: ToRunner) -> Vec<FromRunner> {
        let effects = self.agent().take(message).unwrap();
        self.carry_out(effects)
    }

    pub(super) fn tick(&mut self) -> Vec<FromRunner> {
        let effects = self.agent().tick().unwrap();
        self.carry_out(effects)
    }

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) -> Vec<FromRunner> {
        let mut said = Vec::new();
        for effect in effects {
            match effect {
                Effect::Say(message) => said.push(message),
                Effect::Work(job) => said.extend(self.work(*job)),
                Effect::Trust(keys) => *self.machine.trusted.lock().unwrap() = keys,
                Effect::Close(why) => panic!("{why}"),
            }
        }
        said
    }

    pub(super) fn work(&mut self, job: Job) -> Vec<FromRunner> {
        let finished = job.run(&*Arc::clone(&self.machine));
        let effects = self.agent().finished(finished).unwrap();
        self.carry_out(effects)
    }

    pub(super) fn seen(&mut self) -> Seen {
        let FromRunner::Hello { seen, .. } = self.agent().hello(&[]) else { panic!() };
        seen
    }

    /// Appends an approved request and gives its evidence.
    pub(super) fn decided(&mut self, n: u64, ops: &[&str]) -> Evidence {
        let approval = self.plane.append("p", self.plane.decision(Decision::Approved));
        let request = self.plane.request(n, ops, approval);
        self.journaled(request, approval)
    }

    /// Appends a request and gives its evidence.
    pub(super) fn journaled(&mut self, request: RunnerRequest, approval: u64) -> Evidence {
        let seq = self.plane.append(HOST, request);
        let from = self.seen().size;
        self.plane.evidence(from, &[seq, approval])
    }

    /// What the runner says to a dispatch.
    pub(super) fn dispatch(&mut self, evidence: &Evidence) -> Vec<FromRunner> {
        let (evidence, mode) = (Box::new(evidence.clone()), self.mode);
        self.say(ToRunner::Dispatch { evidence, mode })
    }

    /// The same from the head that the runner keeps now, as a control plane does that is asked.
    pub(super) fn dispatch_again(&mut self, evidence: &Evidence) -> Vec<FromRunner> {
        let seqs: Vec<u64> = evidence.entries.iter().map(|it| it.index).collect();
        let from = self.seen().size;
        let evidence = self.plane.evidence(from, &seqs);
        self.dispatch(&evidence)
    }

    /// The effects of a grant of `remaining_ms` for the lease that was asked for in `said`.
    pub(super) fn grant(&mut self, said: &[FromRunner], remaining_ms: u64) -> Vec<Effect> {
        let (request_id, nonce) = lease(said);
        let mode = self.mode;
        let grant = ToRunner::LeaseGrant { request_id, nonce, remaining_ms, mode };
        self.agent().take(grant).unwrap()
    }

    /// Dispatches and grants: the result.
    pub(super) fn carried(&mut self, evidence: &Evidence) -> RunnerResult {
        let said = self.dispatch(evidence);
        let effects = self.grant(&said, 2_000);
        result(&self.carry_out(effects))
    }
}

/// A folder in memory where there is one: these tests sync some thousand times.
pub(super) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The lease that is asked for.
pub(super) fn lease(said: &[FromRunner]) -> (Uuid, u64) {
    let asked = said.iter().find_map(|message| {
        let FromRunner::Lease { request_id, nonce } = message else { return None };
        Some((*request_id, *nonce))
    });
    asked.unwrap_or_else(|| panic!("no lease is asked for: {said:?}"))
}

/// The results that are said.
pub(super) fn results(said: &[FromRunner]) -> Vec<RunnerResult> {
    let decode = |message: &FromRunner| {
        let FromRunner::Result { payload, .. } = message else { return None };
        let event = Event::decode(Kind::RunnerResult, &payload.0).unwrap();
        let Event::RunnerResult(result) = event else { panic!("{event:?}") };
        Some(result)
    };
    said.iter().filter_map(decode).collect()
}

/// The one result that is said.
pub(super) fn result(said: &[FromRunner]) -> RunnerResult {
    let results = results(said);
    assert_eq!(results.len(), 1, "{said:?}");
    results.into_iter().next().unwrap()
}

/// The rule by which a request was refused, in a signed result.
pub(super) fn rule(bed: &mut Bed, said: &[FromRunner]) -> String {
    let FromRunner::Hello { key, .. } = bed.agent().hello(&[]) else { panic!() };
    let result = result(said);
    assert!(crate::agent::answer::is_by(&result, &result.id, HOST, &key), "{result:?}");
    assert_eq!(result.kind.as_deref(), Some("REJECTED"), "{result:?}");
    let rest = result.explanation.strip_prefix("Refused (").unwrap();
    rest.split_once(')').unwrap().0.to_owned()
}

/// How often each request was started, as the host counted.
pub(super) fn starts(machine: &Counting) -> BTreeMap<Uuid, usize> {
    let mut starts = BTreeMap::new();
    for (id, _) in machine.calls.lock().unwrap().iter() {
        *starts.entry(*id).or_insert(0) += 1;
    }
    starts
}
