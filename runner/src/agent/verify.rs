//! The offline check of a dispatch: a pure function of its bytes and of what the runner knows.
//!
//! The head has been verified and kept before ([`super::witness`]). Everything here is read from
//! entries that stand under it; nothing is taken from the message around them.

use std::collections::BTreeSet;

use ledger::{EntryProof, EpochKey};
use schemas::event::{ApprovalVerdict, Binding, Decision, Event, Op, Outcome, RunnerRequest};
use schemas::{Entry, Ns};

use super::gate::check_mode;
use super::policy::Policy;
use super::refusal::Refusal;
use crate::wire::{Evidence, ModeEpoch, Proven};

/// What the runner knows when it is asked.
#[derive(Clone, Debug)]
pub struct Knowledge<'a> {
    /// The pinned deployment.
    pub deployment: &'a str,
    /// The partition whose owner speaks.
    pub partition: u32,
    /// Name of this host.
    pub host: &'a str,
    /// The wall clock.
    pub now: Ns,
    /// Requests that expire until then are expired, whatever the clock says.
    pub expired_until: Ns,
    /// Mode and epoch; `None` before the first was told.
    pub known: Option<ModeEpoch>,
    /// The runner's own allow lists.
    pub policy: &'a Policy,
    /// Services under supervision.
    pub services: &'a BTreeSet<String>,
}

/// A request that may be carried out, once lease and mode are checked again.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The request.
    pub request: RunnerRequest,
    /// What it rests on.
    pub binding: Binding,
}

impl Verified {
    /// Whether every operation goes back to what was good before.
    pub fn is_rollback(&self) -> bool {
        is_rollback(&self.request)
    }
}

/// The request of the evidence, if its bytes say one: to know which receipt to look for, and
/// which request a refusal is about. Nothing is verified.
pub fn claimed(evidence: &Evidence) -> Option<RunnerRequest> {
    let entry = Entry::from_bytes(&evidence.entries.first()?.entry.0).ok()?;
    match entry.event() {
        Ok(Event::RunnerRequest(request)) => Some(request),
        _ => None,
    }
}

/// Verifies the request of `evidence`, whose head is already kept.
///
/// # Errors
/// The first rule that it breaks, in the order of [`Refusal`].
pub fn verify(evidence: &Evidence, knowledge: &Knowledge<'_>) -> Result<Verified, Refusal> {
    let entry = proven_request(evidence, knowledge)?;
    let request = request_of(&entry)?;
    let binding = request.binding.clone().ok_or(Refusal::Unbound)?;
    check_approvals(evidence, knowledge, &entry, &request, &binding)?;
    if binding.expires_at <= knowledge.now || binding.expires_at <= knowledge.expired_until {
        return Err(Refusal::Expired);
    }
    let ops = || request.ops.iter().map(|op| Op::parse(op));
    let forbidden = ops().find(|op| !knowledge.policy.allows(op, knowledge.services));
    if request.ops.is_empty() {
        return Err(Refusal::Forbidden("a request without operations".to_owned()));
    }
    if let Some(Op { method, target }) = forbidden {
        return Err(Refusal::Forbidden(format!("{method}:{target}")));
    }
    if entry.envelope.key != knowledge.host {
        return Err(Refusal::OtherHost(entry.envelope.key));
    }
    check_mode(knowledge.known, binding.mode_epoch, is_rollback(&request))?;
    Ok(Verified { request, binding })
}

/// The one entry of evidence that brings a service, proven.
///
/// # Errors
/// [`Refusal::RequestUnproven`].
pub fn proven_first(evidence: &Evidence, knowledge: &Knowledge<'_>) -> Result<Entry, Refusal> {
    let first = evidence.entries.first();
    let first = first.ok_or(Refusal::RequestUnproven(ledger::Error::Subject("entry")))?;
    prove(evidence, first, knowledge).map_err(Refusal::RequestUnproven)
}

fn proven_request(evidence: &Evidence, knowledge: &Knowledge<'_>) -> Result<Entry, Refusal> {
    proven_first(evidence, knowledge)
}

fn request_of(entry: &Entry) -> Result<RunnerRequest, Refusal> {
    match entry.event() {
        Ok(Event::RunnerRequest(request)) => Ok(request),
        Ok(_) | Err(_) => Err(Refusal::NotARequest(entry.envelope.kind.topic())),
    }
}

fn is_rollback(request: &RunnerRequest) -> bool {
    request.ops.iter().all(|op| Op::parse(op).method == "rollback")
}

fn prove(
    evidence: &Evidence,
    proven: &Proven,
    knowledge: &Knowledge<'_>,
) -> Result<Entry, ledger::Error> {
    let epoch_key = EpochKey::decode(&evidence.epoch_key.0)?;
    let head = ledger::SignedHead::open(&evidence.checkpoint.0, &epoch_key)?;
    let proof = EntryProof {
        index: proven.index,
        size: head.checkpoint.size,
        path: proven.path.clone(),
        checkpoint: evidence.checkpoint.0.clone(),
        epoch_key,
    };
    let proven = proof.verify(&proven.entry.0, knowledge.deployment, knowledge.partition)?;
    Ok(proven.entry)
}

/// Each entry that the binding names must stand under the head, before the request, and say yes
/// to the same plan; a request that changes something needs a governance decision among them.
fn check_approvals(
    evidence: &Evidence,
    knowledge: &Knowledge<'_>,
    entry: &Entry,
    request: &RunnerRequest,
    binding: &Binding,
) -> Result<(), Refusal> {
    let mut is_decided = false;
    for reference in &binding.approvals {
        let approval = proven_approval(evidence, knowledge, reference)?;
        if entry.envelope.seq <= approval.envelope.seq {
            let why = "it stands behind the request".to_owned();
            return Err(Refusal::NotApproved { reference: reference.clone(), why });
        }
        is_decided |= check_approval(&approval, reference, binding, knowledge.now)?;
    }
    let is_mutating = request.ops.iter().any(|op| Op::parse(op).is_mutating());
    if is_mutating && !is_decided { Err(Refusal::Undecided) } else { Ok(()) }
}

fn proven_approval(
    evidence: &Evidence,
    knowledge: &Knowledge<'_>,
    reference: &str,
) -> Result<Entry, Refusal> {
    let unproven = |why: String| Refusal::ApprovalUnproven { reference: reference.to_owned(), why };
    let named = |proven: &&Proven| {
        schemas::envelope::reference(knowledge.partition, proven.index) == reference
    };
    let proven = evidence.entries.iter().skip(1).find(named);
    let proven = proven.ok_or_else(|| unproven("it was not shown".to_owned()))?;
    prove(evidence, proven, knowledge).map_err(|error| unproven(error.to_string()))
}

/// Whether the entry is a governance decision; any other kind that says yes only adds to one.
fn check_approval(
    approval: &Entry,
    reference: &str,
    binding: &Binding,
    now: Ns,
) -> Result<bool, Refusal> {
    let reference = || reference.to_owned();
    let no = |why: String| Err(Refusal::NotApproved { reference: reference(), why });
    match approval.event() {
        Ok(Event::GovernanceDecision(it)) => {
            if it.decision != Decision::Approved {
                return no(format!("it says {}", it.decision));
            }
            if it.plan_digest.as_deref() != Some(binding.plan_digest.as_str()) {
                return Err(Refusal::OtherPlan { reference: reference() });
            }
            if it.expires_at.is_some_and(|at| at <= now) {
                return no("it has expired".to_owned());
            }
            Ok(true)
        }
        Ok(Event::ApprovalGiven(it)) => {
            if it.verdict != ApprovalVerdict::Approve {
                return no(format!("it says {}", it.verdict));
            }
            if it.plan_digest != binding.plan_digest {
                return Err(Refusal::OtherPlan { reference: reference() });
            }
            if it.expires_at <= now {
                return no("it has expired".to_owned());
            }
            Ok(false)
        }
        Ok(Event::L1ConsensusResult(it)) if it.outcome == Outcome::Accept => Ok(false),
        Ok(Event::L2ConsensusResult(it)) if it.outcome == Outcome::Accept => Ok(false),
        Ok(_) | Err(_) => no(format!("it is {}", approval.envelope.kind.topic())),
    }
}
