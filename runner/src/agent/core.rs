//! The agent as a machine: messages, finished work and ticks in; effects out, in the order in
//! which they must be carried out.
//!
//! It touches the runner's own small files and nothing else: no socket, no thread, no host. The
//! durable steps of protocol.md §7 all lie here, in `Agent::dispatch`, `Agent::granted` and
//! `Agent::finished`, and every way through them is a test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use schemas::event::{Event, RunnerResult};
use schemas::signature::PublicKey;
use schemas::{Hash, Ns, Uuid};

use super::answer::{done, refused, sign, unknown};
use super::gate::{Gate, Ticket};
use super::identity::Identity;
use super::receipts::Receipts;
use super::refusal::Refusal;
use super::verify::{Knowledge, Verified, claimed, verify};
use super::witness::{Accepted, Heads, cosign, witness_name};
use super::{Clock, Error};
use crate::wire::{Base64, Evidence, FromRunner, ModeEpoch, Seen, ToRunner, Welcome};

mod job;
mod services;

pub use job::{Finished, Job, Work};
pub use services::Registration;

/// An unanswered lease is asked for again after so long.
const LEASE_RETRY: Duration = Duration::from_secs(1);
/// An answer that is not journaled is sent again after so long.
const ANSWER_RETRY: Duration = Duration::from_secs(2);

/// What the shell has to do.
#[derive(Debug)]
pub enum Effect {
    /// Send it, where there is a conversation.
    Say(FromRunner),
    /// Do it on a thread of its own and give back what came of it.
    Work(Box<Job>),
    /// Take artifacts that were signed by one of these keys, and by no other.
    Trust(Vec<PublicKey>),
    /// End the conversation; the reason is for people.
    Close(String),
}

/// A request that stands in the receipts and waits for its lease.
#[derive(Debug)]
struct Waiting {
    verified: Verified,
    nonce: u64,
    asked: Duration,
}

/// One runner.
pub struct Agent {
    identity: Identity,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    receipts: Receipts,
    partition: Option<(u32, Heads)>,
    registry: services::Registry,
    waiting: BTreeMap<Uuid, Waiting>,
    running: BTreeSet<Uuid>,
    nonce: u64,
    owes_confirmation: bool,
    answers_sent: Duration,
}

impl Agent {
    /// The runner of `identity`, with what it knew in its former life. What it had begun and not
    /// finished is answered as unknown.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn open(identity: Identity, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let dir = identity.dir.clone();
        let partition = Heads::open_only(&dir, &identity.deployment)?;
        let mut agent = Agent {
            gate: Gate::open(&dir)?,
            receipts: Receipts::open(&dir)?,
            registry: services::Registry::open(&dir)?,
            identity,
            clock,
            partition,
            waiting: BTreeMap::new(),
            running: BTreeSet::new(),
            nonce: 0,
            owes_confirmation: false,
            answers_sent: Duration::ZERO,
        };
        for (id, expires_at) in agent.receipts.unanswered() {
            let result = unknown(id, &agent.identity.host);
            agent.keep_answer(expires_at, true, result)?;
        }
        Ok(agent)
    }

    /// How a conversation begins.
    pub fn hello(&self, sandbox: &[String]) -> FromRunner {
        FromRunner::Hello {
            host: self.identity.host.clone(),
            key: self.identity.key.public(),
            seen: self.seen(),
            mode_epoch: self.gate.known().map_or(0, |known| known.epoch),
            sandbox: sandbox.to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The services under supervision.
    pub fn services(&self) -> BTreeSet<String> {
        self.registry.services()
    }

    /// Takes a message.
    ///
    /// # Errors
    /// The disk cannot keep what has to be kept: the runner must end.
    pub fn take(&mut self, message: ToRunner) -> Result<Vec<Effect>, Error> {
        match message {
            ToRunner::Welcome(welcome) => self.welcome(&welcome),
            ToRunner::Service { evidence } => self.service(&evidence),
            ToRunner::Dispatch { evidence, mode } => {
                let mut effects = self.raise(mode)?;
                effects.extend(self.dispatch(&evidence)?);
                Ok(effects)
            }
            ToRunner::LeaseGrant { request_id, nonce, remaining_ms, mode } => {
                let mut effects = self.raise(mode)?;
                effects.extend(self.granted(request_id, nonce, remaining_ms));
                Ok(effects)
            }
            ToRunner::LeaseDenied { request_id, nonce, reason } => {
                self.denied(request_id, nonce, &Refusal::LeaseDenied(reason))
            }
            ToRunner::ModeEpoch(mode) => {
                let mut effects = self.raise(mode)?;
                // An epoch that is confirmed already is confirmed again: the asker may be new.
                self.owes_confirmation = true;
                effects.extend(self.confirm());
                Ok(effects)
            }
            ToRunner::Head { evidence } => self.head(&evidence),
            ToRunner::ResultJournaled { request_id, .. } => {
                self.receipts.journaled(request_id)?;
                Ok(Vec::new())
            }
            // Telemetry has its own book beside this machine.
            ToRunner::TelemetryStored { .. } => Ok(Vec::new()),
        }
    }

    /// Takes what came of a job.
    ///
    /// # Errors
    /// As `Agent::take`.
    pub fn finished(&mut self, finished: Finished) -> Result<Vec<Effect>, Error> {
        let mut effects = match finished.work {
            Work::Request { id, expires_at, outcome } => {
                self.running.remove(&id);
                let host = &self.identity.host;
                let (ran, result) = match outcome {
                    Ok(Some(outcomes)) => (true, done(id, host, outcomes)),
                    Ok(None) => (true, unknown(id, host)),
                    Err(refusal) => {
                        (false, refused(id, host, refusal.rule(), &refusal.to_string()))
                    }
                };
                vec![self.keep_answer(expires_at, ran, result)?]
            }
            Work::Registration { registration, outcome } => {
                self.registered(registration, outcome)?
            }
        };
        effects.extend(self.confirm());
        Ok(effects)
    }

    /// Does what is due.
    ///
    /// # Errors
    /// As `Agent::take`.
    pub fn tick(&mut self) -> Result<Vec<Effect>, Error> {
        let now = self.clock.monotone();
        let mut effects = Vec::new();
        let wall = self.clock.wall();
        let expired = |it: &Waiting| it.verified.binding.expires_at <= wall;
        let over: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, it)| expired(it))
            .map(|(id, it)| (*id, it.nonce))
            .collect();
        for (id, nonce) in over {
            effects.extend(self.denied(id, nonce, &Refusal::Expired)?);
        }
        effects.extend(self.ask_leases(|it| it.asked + LEASE_RETRY <= now));
        if self.answers_sent + ANSWER_RETRY <= now {
            effects.extend(self.answers());
        }
        self.receipts.prune(wall)?;
        effects.extend(self.confirm());
        Ok(effects)
    }

    fn welcome(&mut self, welcome: &Welcome) -> Result<Vec<Effect>, Error> {
        let pinned = &self.identity.deployment;
        if welcome.deployment != *pinned {
            let told = welcome.deployment.clone();
            let error = Error::OtherDeployment { pinned: pinned.clone(), told };
            return Ok(vec![Effect::Close(error.to_string())]);
        }
        let partition = welcome.partition;
        match &self.partition {
            // Receipts and heads in the folder are of one chain: whoever speaks for another one
            // is answered by another runner.
            Some((kept, _)) if *kept != partition => {
                let why = format!("this runner follows partition {kept}, not {partition}");
                return Ok(vec![Effect::Close(why)]);
            }
            Some(_) => {}
            None => {
                let heads = Heads::open(&self.identity.dir, pinned, partition)?;
                self.partition = Some((partition, heads));
            }
        }
        let mut effects = match welcome.mode {
            Some(mode) => self.raise(mode)?,
            None => Vec::new(),
        };
        self.owes_confirmation = true;
        effects.extend(self.confirm());
        effects.extend(self.answers());
        // A grant of the former conversation may be lost; its nonce is void from here on.
        effects.extend(self.ask_leases(|_| true));
        Ok(effects)
    }

    /// Verifies a dispatch and begins it, or refuses it.
    ///
    /// Order: repeat? → head verified and kept → request verified → `started` kept → lease
    /// asked for. A crash before `started` leaves nothing but the newer head.
    fn dispatch(&mut self, evidence: &Evidence) -> Result<Vec<Effect>, Error> {
        let id = claimed(evidence).map(|request| request.id);
        if let Some(effects) = id.and_then(|id| self.repeat(&id)) {
            return Ok(effects);
        }
        match self.accept(evidence, id)? {
            Ok(()) => (),
            Err(effects) => return Ok(effects),
        }
        let verified = match self.verified(evidence) {
            Ok(verified) => verified,
            Err(refusal) => return self.refuse(evidence, &refusal),
        };
        let (id, expires_at) = (verified.request.id, verified.binding.expires_at);
        if !self.receipts.start(id, expires_at)? {
            return self.refuse(evidence, &Refusal::Expired);
        }
        self.nonce += 1;
        let (nonce, asked) = (self.nonce, self.clock.monotone());
        self.waiting.insert(id, Waiting { verified, nonce, asked });
        Ok(vec![Effect::Say(FromRunner::Lease { request_id: id, nonce })])
    }

    /// What a repeat is answered with; `None` when the request is new.
    fn repeat(&self, id: &Uuid) -> Option<Vec<Effect>> {
        let receipt = self.receipts.get(id)?;
        // Without an answer it waits or runs: the answer comes when there is one.
        let Some(payload) = receipt.answer.clone() else { return Some(Vec::new()) };
        Some(vec![Effect::Say(FromRunner::Result { request_id: *id, payload })])
    }

    fn verified(&self, evidence: &Evidence) -> Result<Verified, Refusal> {
        let services = self.registry.services();
        let Some(knowledge) = self.knowledge(&services) else {
            return Err(Refusal::UnsignedHead(ledger::Error::Subject("partition")));
        };
        verify(evidence, &knowledge)
    }

    fn knowledge<'a>(&'a self, services: &'a BTreeSet<String>) -> Option<Knowledge<'a>> {
        Some(Knowledge {
            deployment: &self.identity.deployment,
            partition: self.partition.as_ref()?.0,
            host: &self.identity.host,
            now: self.clock.wall(),
            expired_until: self.receipts.expired_until(),
            known: self.gate.known(),
            policy: &self.identity.policy,
            services,
        })
    }

    /// Verifies and keeps the head of `evidence`; in `Err` is what to do when there is none.
    fn accept(
        &mut self,
        evidence: &Evidence,
        request_id: Option<Uuid>,
    ) -> Result<Result<(), Vec<Effect>>, Error> {
        let Some((_, heads)) = &mut self.partition else {
            return Ok(Err(vec![Effect::Close("evidence came before a welcome".to_owned())]));
        };
        match heads.accept(&self.identity.deployment, evidence) {
            Ok(Accepted::Head(_)) => Ok(Ok(())),
            Ok(Accepted::Elsewhere) => {
                let seen = heads.seen();
                Ok(Err(vec![Effect::Say(FromRunner::EvidenceWanted { request_id, seen })]))
            }
            Err(Error::Refused(refusal)) => self.refuse(evidence, &refusal).map(Err),
            Err(error) => Err(error),
        }
    }

    /// Answers a request that breaks a rule. A final refusal is kept like any answer; one that
    /// is about what was shown leaves no receipt, and names the digest of the shown bytes.
    fn refuse(&mut self, evidence: &Evidence, refusal: &Refusal) -> Result<Vec<Effect>, Error> {
        let request = claimed(evidence);
        let request_id = request.as_ref().map(|it| it.id);
        let bytes = evidence.entries.first().map(|it| it.entry.0.as_slice()).unwrap_or_default();
        let digest = Hash::of(&[bytes]);
        let id = request_id.unwrap_or_else(|| Uuid::from_hash(&digest));
        tracing::warn!(%id, rule = refusal.rule(), %refusal, "a request is refused");
        let host = &self.identity.host;
        if refusal.is_final() {
            let expires_at = request.and_then(|it| it.binding).map_or(Ns(0), |it| it.expires_at);
            let result = refused(id, host, refusal.rule(), &refusal.to_string());
            return Ok(vec![self.keep_answer(expires_at, false, result)?]);
        }
        let why = format!("{refusal}; the bytes shown were {}", digest.to_digest());
        let result = sign(refused(id, host, refusal.rule(), &why), &self.identity.key);
        let payload = encoded(&result);
        Ok(vec![
            Effect::Say(FromRunner::EvidenceRefused { request_id, why, seen: self.seen() }),
            Effect::Say(FromRunner::Result { request_id: id, payload }),
        ])
    }

    fn ask_leases(&mut self, is_due: impl Fn(&Waiting) -> bool) -> Vec<Effect> {
        let asked = self.clock.monotone();
        let mut effects = Vec::new();
        for (id, waiting) in self.waiting.iter_mut().filter(|(_, it)| is_due(it)) {
            self.nonce += 1;
            (waiting.nonce, waiting.asked) = (self.nonce, asked);
            let lease = FromRunner::Lease { request_id: *id, nonce: self.nonce };
            effects.push(Effect::Say(lease));
        }
        effects
    }

    /// The lease holds: the job goes to the host, with what the gate checks once more. The
    /// lease is counted from the asking, so a grant that was long under way is worth less.
    fn granted(&mut self, id: Uuid, nonce: u64, remaining_ms: u64) -> Vec<Effect> {
        if self.waiting.get(&id).is_none_or(|waiting| waiting.nonce != nonce) {
            return Vec::new();
        }
        let Some(Waiting { verified, asked, .. }) = self.waiting.remove(&id) else {
            return Vec::new();
        };
        self.running.insert(id);
        let ticket = Ticket {
            mode_epoch: verified.binding.mode_epoch,
            lease_end: asked.saturating_add(Duration::from_millis(remaining_ms)),
            is_rollback: verified.is_rollback(),
        };
        let job = Job::request(verified, ticket, Arc::clone(&self.gate), Arc::clone(&self.clock));
        vec![Effect::Work(Box::new(job))]
    }

    /// The request must not start; that is kept, and final.
    fn denied(&mut self, id: Uuid, nonce: u64, why: &Refusal) -> Result<Vec<Effect>, Error> {
        if self.waiting.get(&id).is_none_or(|waiting| waiting.nonce != nonce) {
            return Ok(Vec::new());
        }
        let Some(waiting) = self.waiting.remove(&id) else { return Ok(Vec::new()) };
        let result = refused(id, &self.identity.host, why.rule(), &why.to_string());
        Ok(vec![self.keep_answer(waiting.verified.binding.expires_at, false, result)?])
    }

    /// Signs an answer, keeps it, and then says it.
    fn keep_answer(
        &mut self,
        expires_at: Ns,
        ran: bool,
        result: RunnerResult,
    ) -> Result<Effect, Error> {
        let id = result.id;
        let payload = encoded(&sign(result, &self.identity.key));
        self.receipts.answer(id, expires_at, ran, payload.clone())?;
        // Where an answer was kept before, that one is final.
        let kept = self.receipts.get(&id).and_then(|it| it.answer.clone());
        let payload = kept.unwrap_or(payload);
        Ok(Effect::Say(FromRunner::Result { request_id: id, payload }))
    }

    fn answers(&mut self) -> Vec<Effect> {
        self.answers_sent = self.clock.monotone();
        let open = self.receipts.unjournaled();
        let say = |(request_id, payload): (Uuid, &Base64)| {
            Effect::Say(FromRunner::Result { request_id, payload: payload.clone() })
        };
        open.map(say).collect()
    }

    fn head(&mut self, evidence: &Evidence) -> Result<Vec<Effect>, Error> {
        let Some((_, heads)) = &mut self.partition else {
            return Ok(vec![Effect::Close("a head came before a welcome".to_owned())]);
        };
        let seen = heads.seen();
        let effect = match heads.accept(&self.identity.deployment, evidence) {
            Ok(Accepted::Elsewhere) => FromRunner::EvidenceWanted { request_id: None, seen },
            Ok(Accepted::Head(head)) => {
                let time_s = self.clock.wall().0 / 1_000_000_000;
                let Identity { host, key, .. } = &self.identity;
                match cosign(&head, host, key, time_s) {
                    Ok(cosignature) => {
                        let Seen { size, root } = heads.seen();
                        let witness = witness_name(host);
                        FromRunner::HeadSeen { size, root, witness, cosignature }
                    }
                    Err(error) => return Ok(vec![Effect::Close(error.to_string())]),
                }
            }
            Err(Error::Refused(refusal)) => {
                tracing::error!(%refusal, "a tree head is refused");
                let why = refusal.to_string();
                FromRunner::EvidenceRefused { request_id: None, why, seen }
            }
            Err(error) => return Err(error),
        };
        Ok(vec![Effect::Say(effect)])
    }

    fn raise(&mut self, mode: ModeEpoch) -> Result<Vec<Effect>, Error> {
        if !self.gate.raise(mode)? {
            return Ok(Vec::new());
        }
        self.owes_confirmation = true;
        let mut effects = self.confirm();
        if mode.mode.allows_action() {
            effects.extend(self.deferred_services());
        }
        Ok(effects)
    }

    /// Confirms the kept mode epoch, once no start is between its check and its instruction.
    fn confirm(&mut self) -> Vec<Effect> {
        let Some(mode_epoch) = self.gate.confirmable().filter(|_| self.owes_confirmation) else {
            return Vec::new();
        };
        self.owes_confirmation = false;
        vec![Effect::Say(FromRunner::EpochConfirmed { mode_epoch })]
    }

    fn seen(&self) -> Seen {
        let empty = || Seen { size: 0, root: ledger::tree::empty_root() };
        self.partition.as_ref().map_or_else(empty, |(_, heads)| heads.seen())
    }
}

fn encoded(result: &RunnerResult) -> Base64 {
    let event = Event::from(result.clone());
    Base64(event.encode().expect("a runner result holds no number over the range of a long"))
}
