//! The two built-in voters. Each is a pure function of the state at the place of the proposal,
//! and gives its reasons as sentences.

use schemas::event::{Check, CheckStatus, Outcome, RemediationProposed, Vote, Voter};

use crate::config;
use crate::fold::View;
use crate::playbooks::{self, Playbook};
use crate::{deployment, rules, trust};

/// Trust from which the first rules approved an author's proposal (spec 50 §2).
const TRUST_APPROVES: f64 = 0.8;
/// Trust from which it is looked at; below it is rejected.
const TRUST_REVIEWS: f64 = 0.5;
/// Violations from which the voter on policy rejects by count alone.
const VIOLATIONS_REJECT: usize = 3;

/// A check that is red.
pub(super) fn failed(detail: &str) -> Check {
    Check { status: CheckStatus::Failed, detail: detail.to_owned(), duration_ms: 0 }
}

fn vote(voter: Voter, verdict: Outcome, confidence: f64, reasons: Vec<String>) -> Vote {
    Vote { voter, verdict, confidence, reasons }
}

/// Preconditions, digest history and blast radius (spec 00 §2: where nothing new is built, the
/// rule voter checks these instead). How far a playbook is trusted is no question of whether the
/// step is right: policy asks it, and a person may answer (decision 0009).
pub(super) fn rule(view: &View<'_>, proposal: &RemediationProposed) -> Vote {
    let broken = broken_preconditions(view, proposal);
    if !broken.is_empty() {
        return vote(Voter::Rule, Outcome::Reject, 0.90, broken);
    }
    if rules::are_second(view) {
        let reasons = vec![format!("the preconditions of {} hold", proposal.playbook)];
        return vote(Voter::Rule, Outcome::Accept, 0.85, reasons);
    }
    by_trust(view, proposal)
}

/// The first rules: the trust of the author, which is the playbook.
fn by_trust(view: &View<'_>, proposal: &RemediationProposed) -> Vote {
    let (author, trust) = (&proposal.playbook, trust::of(view, &proposal.playbook));
    let (verdict, confidence, what) = if trust >= TRUST_APPROVES {
        (Outcome::Accept, 0.85, "is enough: approve")
    } else if trust >= TRUST_REVIEWS {
        (
            Outcome::Abstain,
            0.70,
            "asks for review, which is no acceptance; a changed profile vouches for it anew",
        )
    } else {
        (Outcome::Reject, 0.90, "is too low")
    };
    vote(Voter::Rule, verdict, confidence, vec![format!("trust {trust:.2} in {author} {what}")])
}

fn broken_preconditions(view: &View<'_>, proposal: &RemediationProposed) -> Vec<String> {
    let name = proposal.service.clone().unwrap_or_default();
    let Some(playbook) = Playbook::named(&proposal.playbook) else {
        return vec![format!("{:?} is no playbook", proposal.playbook)];
    };
    let Some(service) = config::service(view, &name) else {
        return vec![format!("{name:?} is not under care")];
    };
    let mut broken = Vec::new();
    match playbook.plan(view, &service) {
        Err(why) => broken.push(why),
        Ok(plan) if plan.ops != proposal.ops || plan.artifact_ref != proposal.artifact_ref => {
            broken.push(format!("the steps are not those of {}", playbook.name));
        }
        Ok(_) => {}
    }
    let affected = playbooks::blast_radius(view, &name);
    if proposal.blast_radius < affected {
        let said = proposal.blast_radius;
        broken.push(format!("it affects {affected} services and says {said}"));
    }
    broken
}

/// What a policy knows about the proposal: nothing but a clean sheet is an acceptance.
pub(super) fn security(view: &View<'_>, proposal: &RemediationProposed) -> Vote {
    let hard = violations(view, proposal);
    if !hard.is_empty() {
        return vote(Voter::Security, Outcome::Reject, 0.85, hard);
    }
    let soft = concerns(view, proposal);
    let (verdict, confidence) = match soft.len() {
        0 => (Outcome::Accept, 0.80),
        n if n < VIOLATIONS_REJECT => (Outcome::Abstain, 0.75),
        _ => (Outcome::Reject, 0.85),
    };
    let clean = || vec!["digests known, parameters whitelisted, rollback named".to_owned()];
    vote(Voter::Security, verdict, confidence, if soft.is_empty() { clean() } else { soft })
}

/// Hard rules of policy: each of them blocks, whatever the votes say.
pub(crate) fn violations(view: &View<'_>, proposal: &RemediationProposed) -> Vec<String> {
    let name = proposal.service.clone().unwrap_or_default();
    let mut broken = Vec::new();
    if proposal.rollback.is_empty() {
        broken.push("no rollback is named".to_owned());
    }
    if proposal.plan_digest.as_deref() != Some(&proposal.plan_digest_of()) {
        broken.push("the plan is not the one that its digest names".to_owned());
    }
    let allowed = Playbook::named(&proposal.playbook).map_or(&[][..], |it| it.parameters);
    for parameter in proposal.parameters.keys().filter(|it| !allowed.contains(&it.as_str())) {
        broken.push(format!("parameter {parameter:?} is not on the whitelist"));
    }
    if let Some(digest) = digest(proposal)
        && deployment::is_denied(view, &name, digest)
    {
        broken.push(format!(
            "{digest} is on the deny list of {name}; only a signer's approval clears it"
        ));
    }
    broken
}

/// Rules that ask for a person's look.
fn concerns(view: &View<'_>, proposal: &RemediationProposed) -> Vec<String> {
    let name = proposal.service.clone().unwrap_or_default();
    let service = config::service(view, &name).unwrap_or_default();
    let mut asked = Vec::new();
    if config::host(view, &service.host).is_none() {
        asked.push(format!("no runner is registered for host {:?}", service.host));
    }
    let environment = service.environment.as_ref().map(|it| it.digest.as_str());
    if let Some(digest) = digest(proposal)
        && !deployment::was_committed(view, &name, digest)
        && environment != Some(digest)
    {
        asked.push(format!("{digest} was never committed on {name}"));
    }
    asked
}

/// Digest of what the proposal puts in place, where it puts anything.
fn digest(proposal: &RemediationProposed) -> Option<&str> {
    let names = ["to_digest", "environment_digest"];
    names.iter().find_map(|it| proposal.parameters.get(*it)).map(String::as_str)
}
