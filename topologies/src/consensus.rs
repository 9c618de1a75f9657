//! Consensus: the first and the second layer (spec 50 §2–§3).
//!
//! A proposal of rank 1 is voted on in the step that reads it. The two built-in voters are pure
//! functions of the state; a language model is advisory, and without one its voice is an
//! abstention. Nothing here approves anything: an accepted proposal still needs a sandbox, and
//! policy, and a runner that verifies all of it.

mod voters;

use schemas::event::{
    Check, L1Checks, L1ConsensusResult, L2ConsensusResult, Outcome, RemediationProposed, Strategy,
    Vote, VoteCast, Voter,
};
use schemas::{Event, Kind, Uuid};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, Output, Processor, View};
use crate::{proposals, said};

pub(crate) use voters::violations;

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "consensus",
    reads: &[Kind::RemediationProposed],
    says: &[Kind::VoteCast, Kind::L1ConsensusResult, Kind::L2ConsensusResult],
    step,
};

/// The rule in words, as `l1.consensus.result` names it.
const QUORUM_RULE: &str = "2 of 3 accept; rule and security may veto; no llm is an abstention";
/// Why the checks of changed code do not apply to a repair (spec 00 §2).
const NO_NEW_CODE: &str = "the repair builds no new code, so there is no change to measure";

/// What both layers came to, kept for the gate that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Votes {
    /// The plan that was voted on.
    pub plan_digest: String,
    /// First layer.
    pub first: Outcome,
    /// Second layer; `None` where the first did not accept.
    pub second: Option<Outcome>,
    /// The lowest confidence among the votes that accepted.
    pub confidence: f64,
}

impl Votes {
    /// Whether both layers accepted.
    pub fn accepted(&self) -> bool {
        self.first == Outcome::Accept && self.second == Some(Outcome::Accept)
    }
}

/// What the layers said to that proposal.
pub fn votes(view: &View<'_>, proposal_id: Uuid) -> Option<Votes> {
    view.peek(PROCESSOR.name, &format!("votes/{proposal_id}"))
}

/// The first layer's arithmetic: rule and security each hold a veto, two of three accept, and
/// everything else is an abstention, which is no acceptance.
pub fn first_layer(rule: Outcome, llm: Outcome, security: Outcome) -> Outcome {
    if rule == Outcome::Reject || security == Outcome::Reject {
        return Outcome::Reject;
    }
    let accepts = [rule, llm, security].iter().filter(|it| **it == Outcome::Accept).count();
    if accepts >= 2 { Outcome::Accept } else { Outcome::Abstain }
}

/// The second layer's arithmetic: all green accepts, a compliance veto rejects, and a check that
/// is red or unknown is an abstention, which escalates.
pub fn second_layer(checks: &[&Check; 3], compliance: &Check) -> Outcome {
    if compliance.status == schemas::event::CheckStatus::Failed {
        return Outcome::Reject;
    }
    let green = compliance.is_green() && checks.iter().all(|it| it.is_green());
    if green { Outcome::Accept } else { Outcome::Abstain }
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    if let Some(key) = entry.due {
        view.remove(key);
        return Vec::new();
    }
    let Event::RemediationProposed(proposal) = entry.event else { return Vec::new() };
    let voted_on = proposal.rank == 1 && proposal.strategy != Strategy::Escalate;
    if !voted_on || !said::by(entry, proposals::PROCESSOR.name) {
        return Vec::new();
    }
    vote(view, entry, proposal)
}

fn vote(view: &mut View<'_>, entry: &Folded<'_>, proposal: &RemediationProposed) -> Vec<Output> {
    let rule = voters::rule(view, proposal);
    let security = voters::security(view, proposal);
    let llm = Vote {
        voter: Voter::Llm,
        verdict: Outcome::Abstain,
        confidence: 0.5,
        reasons: vec!["no language model takes part".to_owned()],
    };
    let first = first_layer(rule.verdict, llm.verdict, security.verdict);
    let mut said: Vec<Event> = [&rule, &security].map(|it| cast(proposal, it).into()).into();
    let cast = [&rule, &security].into_iter().filter(|it| it.verdict == Outcome::Accept);
    let confidence = cast.map(|it| it.confidence).fold(1.0, f64::min);
    said.push(first_result(proposal, first, vec![rule, llm, security]).into());
    let second = (first == Outcome::Accept).then(|| second_result(view, proposal));
    let votes = Votes {
        plan_digest: proposal.plan_digest_of(),
        first,
        second: second.as_ref().map(|it| it.outcome),
        confidence,
    };
    said.extend(second.map(Event::from));
    let key = format!("votes/{}", proposal.proposal_id);
    view.save(&key, &votes);
    view.wake(&key, entry.now() + proposals::KEPT_AFTER);
    let incident = &entry.envelope.correlation;
    let outputs = said.into_iter().map(|event| {
        Output::new(proposal.proposal_id.to_string(), event).of_incident(incident.clone())
    });
    outputs.collect()
}

fn cast(proposal: &RemediationProposed, vote: &Vote) -> VoteCast {
    VoteCast {
        proposal_id: proposal.proposal_id,
        level: 1,
        voter: vote.voter,
        verdict: vote.verdict,
        confidence: vote.confidence,
        reasons: vote.reasons.clone(),
        plan_digest: proposal.plan_digest_of(),
        signature: None,
    }
}

fn first_result(
    proposal: &RemediationProposed,
    outcome: Outcome,
    votes: Vec<Vote>,
) -> L1ConsensusResult {
    let none = || Check::not_applicable(NO_NEW_CODE);
    let invariants = match votes.iter().find(|it| it.voter == Voter::Rule) {
        Some(it) if it.verdict == Outcome::Reject => voters::failed(&it.reasons.join("; ")),
        Some(_) | None => Check::passed("preconditions, digest history, RBAC and blast radius"),
    };
    L1ConsensusResult {
        proposal_id: proposal.proposal_id,
        file_refs: Vec::new(),
        artifact_refs: Some(proposal.artifact_ref.clone())
            .filter(|it| !it.is_empty())
            .into_iter()
            .collect(),
        votes,
        checks: L1Checks { unit: none(), lint: none(), sast: none(), dep_scan: none(), invariants },
        quorum_rule: QUORUM_RULE.to_owned(),
        outcome,
    }
}

fn second_result(view: &View<'_>, proposal: &RemediationProposed) -> L2ConsensusResult {
    let none = || Check::not_applicable(NO_NEW_CODE);
    let (integration, chaos, perf_budget) = (none(), none(), none());
    let violations = voters::violations(view, proposal);
    let compliance_veto = if violations.is_empty() {
        Check::passed("no rule of the policy is broken")
    } else {
        voters::failed(&violations.join("; "))
    };
    let outcome = second_layer(&[&integration, &chaos, &perf_budget], &compliance_veto);
    L2ConsensusResult {
        proposal_id: proposal.proposal_id,
        integration,
        chaos,
        perf_budget,
        compliance_veto,
        fitness_ref: format!("not_applicable: {NO_NEW_CODE}"),
        outcome,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Spec 50 §2 as the table stands there: the first row that matches decides.
    fn of_the_table(rule: Outcome, llm: Outcome, security: Outcome) -> Outcome {
        use Outcome::{Abstain, Accept, Reject};
        let rows = [
            (Some(Accept), None, Some(Accept), Accept),
            (Some(Accept), Some(Accept), Some(Abstain), Accept),
            (Some(Abstain), Some(Accept), Some(Accept), Accept),
            (Some(Reject), None, None, Reject),
            (None, None, Some(Reject), Reject),
        ];
        let matches = |wanted: Option<Outcome>, is: Outcome| wanted.is_none_or(|it| it == is);
        rows.iter()
            .find(|row| matches(row.0, rule) && matches(row.1, llm) && matches(row.2, security))
            .map_or(Abstain, |row| row.3)
    }

    #[test]
    fn l1_truth_table() {
        let mut seen = 0;
        for rule in Outcome::ALL {
            for llm in Outcome::ALL {
                for security in Outcome::ALL {
                    let wanted = of_the_table(*rule, *llm, *security);
                    let outcome = first_layer(*rule, *llm, *security);
                    assert_eq!(outcome, wanted, "{rule} {llm} {security}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 27);
    }

    #[test]
    fn l1_offline_without_llm() {
        let outcome = first_layer(Outcome::Accept, Outcome::Abstain, Outcome::Accept);
        assert_eq!(outcome, Outcome::Accept);
    }

    #[test]
    fn l2_compliance_veto_blocks() {
        let none = Check::not_applicable(NO_NEW_CODE);
        let veto = voters::failed("two services more than policy allows");
        assert_eq!(second_layer(&[&none, &none, &none], &veto), Outcome::Reject);
    }

    #[test]
    fn a_check_that_did_not_answer_is_never_an_acceptance() {
        let none = Check::not_applicable(NO_NEW_CODE);
        let status = schemas::event::CheckStatus::Unknown;
        let unknown = Check { status, ..Check::passed("") };
        let green = Check::passed("");
        assert_eq!(second_layer(&[&none, &unknown, &none], &green), Outcome::Abstain);
        assert_eq!(second_layer(&[&none, &none, &none], &unknown), Outcome::Abstain);
        assert_eq!(second_layer(&[&green, &none, &green], &green), Outcome::Accept);
    }
}
