//! Governance: deny by default (spec 50 §7–§8).
//!
//! A proposal that both layers accepted and a sandbox tried is approved unattended only when
//! every condition holds; otherwise it waits for a person's signature over its plan digest, or is
//! rejected where a hard rule forbids it, whatever the votes say. A release is an operator's own
//! signed request and needs no vote. Nothing is done here: execution and deployment act, and a
//! runner verifies what stands in the journal.
//!
//! Invariants:
//! - Each proposal is decided once; a review is answered once, by one valid signature.
//! - An approval covers exactly the plan whose digest it names, until it expires.
//! - A signature that does not hold changes nothing and is said.

mod policy;

use schemas::event::{
    APPROVAL_DOMAIN, ApprovalGiven, ApprovalVerdict, Ballot, Decision, GovernanceDecision, Health,
    RELEASE_DOMAIN, ReleaseRequested, SandboxResult,
};
use schemas::signature::signature_from_text;
use schemas::{Event, Kind, Ns, Uuid};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, Output, Processor, View};
use crate::proposals::Case;
use crate::{config, consensus, deployment, detection, execution, mode, proposals, rules, said};

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "governance",
    reads: &[
        Kind::SandboxResult,
        Kind::ApprovalGiven,
        Kind::ReleaseRequested,
        Kind::SloAnomalyDetected,
    ],
    says: &[Kind::GovernanceDecision, Kind::AnnotationAdded],
    step,
};

/// A person's answer is awaited this long; then the proposal is too old to be acted on.
const REVIEW: Ns = Ns::from_s(3600);
/// The only scope of an approval: this plan, one time.
const SCOPE: &str = "once";

/// A proposal that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// The proposal.
    pub proposal_id: Uuid,
    /// Service concerned.
    pub service: String,
    /// The plan that an approval must name.
    pub plan_digest: String,
    /// Why a person must look.
    pub reasons: Vec<String>,
    /// After it nothing can be approved.
    pub expires_at: Ns,
}

/// Proposals that wait for a person, in order of id.
pub fn reviews(view: &View<'_>) -> Vec<Review> {
    view.peek_list(PROCESSOR.name, "review/").into_iter().map(|(_, it)| it).collect()
}

/// What a decision says beside what it is about.
struct Answer {
    decision: Decision,
    failure_modes: Vec<String>,
    reasons: Vec<String>,
    quorum_type: &'static str,
    ballots: Vec<Ballot>,
    compliance: f64,
    expires_at: Option<Ns>,
}

impl Answer {
    fn rejected(failure_modes: Vec<String>) -> Self {
        Answer {
            decision: Decision::Rejected,
            failure_modes,
            reasons: Vec::new(),
            quorum_type: "none",
            ballots: Vec::new(),
            compliance: 0.0,
            expires_at: None,
        }
    }

    fn approved(quorum_type: &'static str, expires_at: Ns) -> Self {
        Answer {
            decision: Decision::Approved,
            quorum_type,
            compliance: 1.0,
            expires_at: Some(expires_at),
            ..Answer::rejected(Vec::new())
        }
    }

    fn with_ballot(mut self, member: &str, verdict: ApprovalVerdict) -> Self {
        self.ballots.push(Ballot { member: member.to_owned(), ballot: verdict.to_string() });
        self
    }
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        return due(view, entry, key);
    }
    if let Event::SandboxResult(sandbox) = entry.event {
        if said::by(entry, execution::PROCESSOR.name) {
            return decide(view, entry, sandbox).into_iter().collect();
        }
    } else if let Event::ApprovalGiven(approval) = entry.event {
        let answer = approve(view, entry, approval).transpose();
        let say = |it: Result<Output, String>| {
            it.unwrap_or_else(|why| said::refusal(entry, PROCESSOR.name, why))
        };
        return answer.map(say).into_iter().collect();
    } else if let Event::ReleaseRequested(request) = entry.event {
        // What takes a rollout back needs no permission: it only reduces.
        return match request.is_abort() {
            true => Vec::new(),
            false => vec![release(view, entry, request)],
        };
    } else if let Event::SloAnomalyDetected(anomaly) = entry.event
        && said::by(entry, detection::PROCESSOR.name)
        && anomaly.health_to == Health::Green
    {
        return withdraw(view, entry, &anomaly.service);
    }
    Vec::new()
}

fn due(view: &mut View<'_>, entry: &Folded<'_>, key: &str) -> Vec<Output> {
    if !key.starts_with("review/") {
        view.remove(key);
        return Vec::new();
    }
    let Some(review) = view.load::<Review>(key) else { return Vec::new() };
    let waited = said::span(REVIEW);
    let why = format!("nobody answered within {waited}, and the plan is too old to be acted on");
    end_review(view, entry, &review, Answer::rejected(vec![why])).into_iter().collect()
}

/// The condition is gone: what waits for a person would act on a service that is well.
fn withdraw(view: &mut View<'_>, entry: &Folded<'_>, service: &str) -> Vec<Output> {
    if !detection::health(view, service).is_some_and(|it| it.is_green()) {
        return Vec::new();
    }
    let waiting = reviews(view).into_iter().filter(|it| it.service == service);
    let why = format!("{service} is well again without it");
    let said = waiting
        .collect::<Vec<_>>()
        .into_iter()
        .filter_map(|it| end_review(view, entry, &it, Answer::rejected(vec![why.clone()])));
    said.collect()
}

fn decide(view: &mut View<'_>, entry: &Folded<'_>, sandbox: &SandboxResult) -> Option<Output> {
    let id = sandbox.proposal_id;
    let case = proposals::case(view, id)?;
    let decided = format!("decided/{id}");
    if view.load::<String>(&decided).is_some() {
        return None;
    }
    view.save(&decided, &entry.reference());
    view.wake(&decided, entry.now() + proposals::KEPT_AFTER);
    let now = entry.now();
    let votes = consensus::votes(view, id);
    let hard = policy::hard_rules(view, &case, votes.as_ref(), Some(sandbox));
    let soft = policy::unattended(view, now, &case, votes.as_ref());
    view.save(&policy::equal_key(&case), &now);
    let broken = |rules: &[policy::Rule]| -> Vec<String> {
        rules.iter().filter_map(|it| it.clone().err()).collect()
    };
    let (failure_modes, reasons) = (broken(&hard), broken(&soft));
    let n_rules = (hard.len() + soft.len()) as f64;
    let compliance = 1.0 - (failure_modes.len() + reasons.len()) as f64 / n_rules;
    let answer = if !failure_modes.is_empty() {
        Answer { compliance, ..Answer::rejected(failure_modes) }
    } else if !reasons.is_empty() {
        await_person(view, entry, &case, &reasons);
        let expires_at = Some(now + REVIEW);
        let decision = Decision::NeedsReview;
        Answer { decision, reasons, compliance, expires_at, ..Answer::rejected(Vec::new()) }
    } else {
        let run_cap = Ns::from_ms(config::profile(view).run_cap_ms);
        Answer::approved("unattended", now + run_cap)
    };
    Some(say(view, entry, &case, answer))
}

fn await_person(view: &mut View<'_>, entry: &Folded<'_>, case: &Case, reasons: &[String]) {
    let review = Review {
        proposal_id: case.proposal.proposal_id,
        service: case.raised.service.clone(),
        plan_digest: case.proposal.plan_digest_of(),
        reasons: reasons.to_vec(),
        expires_at: entry.now() + REVIEW,
    };
    let key = review_key(review.proposal_id);
    view.save(&key, &review);
    view.wake(&key, review.expires_at);
}

fn review_key(proposal_id: Uuid) -> String {
    format!("review/{proposal_id}")
}

fn end_review(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    review: &Review,
    answer: Answer,
) -> Option<Output> {
    let key = review_key(review.proposal_id);
    view.remove(&key);
    view.unwake(&key);
    let case = proposals::case(view, review.proposal_id)?;
    Some(say(view, entry, &case, answer))
}

/// What a person's answer comes to. `None` where it answers something else: an approval may
/// also clear a denial, which is deployment's.
fn approve(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    approval: &ApprovalGiven,
) -> Result<Option<Output>, String> {
    let Some(review) = view.load::<Review>(&review_key(approval.proposal_id)) else {
        if names_denial(view, approval.proposal_id) {
            return Ok(None);
        }
        return Err("no proposal of that id waits for an answer: it was decided, withdrawn or \
                    has expired; `healwright proposals list` shows what waits"
            .to_owned());
    };
    holds(view, entry, approval, &review)?;
    let Some(case) = proposals::case(view, approval.proposal_id) else { return Ok(None) };
    let by = &approval.approver;
    if approval.verdict == ApprovalVerdict::Reject {
        let answer = Answer::rejected(vec![format!("{by} rejected it: {}", approval.reason)]);
        let answer = answer.with_ballot(by, ApprovalVerdict::Reject);
        return Ok(end_review(view, entry, &review, answer));
    }
    mode::allows_action(view)?;
    let votes = consensus::votes(view, approval.proposal_id);
    let hard = policy::hard_rules(view, &case, votes.as_ref(), None);
    let failure_modes: Vec<String> = hard.into_iter().filter_map(Result::err).collect();
    let answer = if failure_modes.is_empty() {
        let run_cap = Ns::from_ms(config::profile(view).run_cap_ms);
        Answer::approved("simple", approval.expires_at.min(entry.now() + run_cap))
    } else {
        Answer::rejected(failure_modes)
    };
    let answer = answer.with_ballot(by, ApprovalVerdict::Approve);
    Ok(end_review(view, entry, &review, answer))
}

/// Whether this is the registered signer's own word on this very plan, now.
fn holds(
    view: &View<'_>,
    entry: &Folded<'_>,
    approval: &ApprovalGiven,
    review: &Review,
) -> Result<(), String> {
    let by = &approval.approver;
    let signers = config::signers(view).keys;
    let key = signers.get(by).ok_or_else(|| format!("{by:?} is no registered signer"))?;
    let signed = signature_from_text(&approval.signature)
        .is_some_and(|it| key.verify(APPROVAL_DOMAIN, &approval.statement(), &it));
    if !signed {
        return Err(format!("the signature is not {by}'s over this approval"));
    }
    if approval.plan_digest != review.plan_digest {
        return Err(format!(
            "the approval is for plan {}, and what waits is plan {}; look at it again with \
             `healwright proposals show {}`",
            approval.plan_digest, review.plan_digest, approval.proposal_id
        ));
    }
    if approval.expires_at <= entry.now() {
        return Err(format!("the approval expired at {}; sign a new one", approval.expires_at));
    }
    if approval.scope != SCOPE {
        return Err(format!("there is no scope {:?}, only {SCOPE}", approval.scope));
    }
    Ok(())
}

fn names_denial(view: &View<'_>, id: Uuid) -> bool {
    let denials = view.peek_list::<deployment::Denial>(deployment::PROCESSOR.name, "denied/");
    denials.iter().any(|(_, it)| deployment::denial_id(&it.service, &it.release.digest) == id)
}

/// An operator's release: the signature is the approval, and the hard rules bind it all the same.
fn release(view: &mut View<'_>, entry: &Folded<'_>, request: &ReleaseRequested) -> Output {
    let id = deployment::proposal_id(request, entry.envelope.seq);
    let rules = policy::release_rules(view, request, signed(view, request));
    let failure_modes: Vec<String> = rules.iter().filter_map(|it| it.clone().err()).collect();
    let compliance = 1.0 - failure_modes.len() as f64 / rules.len() as f64;
    let answer = if failure_modes.is_empty() {
        view.save(&policy::used_key(request), &entry.reference());
        let answer = Answer::approved("operator", entry.now() + longest(view));
        answer.with_ballot(&request.requested_by, ApprovalVerdict::Approve)
    } else {
        Answer { compliance, ..Answer::rejected(failure_modes) }
    };
    output(view, entry, id, request.digest.clone(), None, answer)
}

/// How long the permission for a rollout lasts: as long as every stage may take. Under the first
/// rules it was the cap of a repair, which ended slow rollouts early.
fn longest(view: &View<'_>) -> Ns {
    let profile = config::profile(view);
    if rules::are_second(view) {
        return deployment::longest(&profile);
    }
    Ns::from_ms(profile.run_cap_ms)
}

/// Whether a registered signer has signed this request, or why that does not hold.
pub(crate) fn signed(view: &View<'_>, request: &ReleaseRequested) -> Result<(), String> {
    let by = &request.requested_by;
    let signers = config::signers(view).keys;
    let key = signers.get(by).ok_or_else(|| format!("{by:?} is no registered signer"))?;
    let signature = request.signature.as_deref().and_then(signature_from_text);
    if signature.is_some_and(|it| key.verify(RELEASE_DOMAIN, &request.statement(), &it)) {
        return Ok(());
    }
    Err(format!("the signature is not {by}'s over this request; ask with `healwright release`"))
}

fn say(view: &View<'_>, entry: &Folded<'_>, case: &Case, answer: Answer) -> Output {
    let digest = case.proposal.plan_digest_of();
    let incident = Some(case.raised.incident_id.clone());
    output(view, entry, case.proposal.proposal_id, digest, incident, answer)
}

fn output(
    view: &View<'_>,
    entry: &Folded<'_>,
    proposal_id: Uuid,
    plan_digest: String,
    incident: Option<String>,
    answer: Answer,
) -> Output {
    let decision = GovernanceDecision {
        decision_id: Uuid::named("healwright/decision/v1", &[&proposal_id.0, &said::place(entry)]),
        proposal_id,
        decision: answer.decision,
        failure_modes: answer.failure_modes,
        reasons: answer.reasons,
        policy_version: config::policy_version(view),
        quorum_type: answer.quorum_type.to_owned(),
        ballots: answer.ballots,
        compliance_score: answer.compliance,
        cache_used: false,
        ratified_by: None,
        expires_at: answer.expires_at,
        plan_digest: Some(plan_digest),
    };
    Output::new(proposal_id.to_string(), decision).of_incident(incident)
}
