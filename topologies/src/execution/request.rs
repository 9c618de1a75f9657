//! What a runner is asked: a sandbox run, and the one request that acts.

use std::collections::BTreeMap;

use schemas::event::{
    Binding, Check, CheckStatus, GovernanceDecision, Health, L3Outcome, Preflight, Rollback,
    RunnerRequest, SandboxResult, Sign,
};
use schemas::{Ns, Uuid};

use super::answer::Asked;
use super::{Run, Stage, begun, end, run_key};
use crate::fold::{Folded, Output, View};
use crate::playbooks::Playbook;
use crate::proposals::{self, Case};
use crate::{config, detection, mode, rules, said};

/// Sandbox kind where none took part.
const NO_SANDBOX: &str = "none";
/// How artifacts of the local store are signed (spec 60 §8).
const SIGN_ALGO: &str = "ed25519-manifest";

/// After both layers accepted: tries what builds something, and passes on what does not.
pub(super) fn preflight(view: &mut View<'_>, entry: &Folded<'_>, proposal_id: Uuid) -> Vec<Output> {
    let Some(case) = proposals::case(view, proposal_id) else { return Vec::new() };
    if super::run(view, proposal_id).is_some() {
        return Vec::new();
    }
    let mut run = begun(view, &case);
    let needs_sandbox = Playbook::named(&case.proposal.playbook).is_none_or(|it| it.needs_sandbox);
    if !needs_sandbox {
        let check = run.sandbox.clone();
        view.save(&run_key(proposal_id), &run);
        return vec![sandbox_result(&case, "nothing_new", check, NO_SANDBOX)];
    }
    let kinds = config::host(view, &run.host).map(|it| it.sandbox).unwrap_or_default();
    let (refused, epoch) = match (kinds.is_empty(), mode::allows_action(view)) {
        (true, _) => {
            let why = "this host has no sandbox; `healwright doctor` says how to get bubblewrap";
            (Some(why.to_owned()), 0)
        }
        (false, Err(why)) => (Some(why), 0),
        (false, Ok(epoch)) => (None, epoch),
    };
    if let Some(why) = refused {
        run.sandbox = unknown(&why);
        let check = run.sandbox.clone();
        view.save(&run_key(proposal_id), &run);
        return vec![sandbox_result(&case, "sandbox", check, NO_SANDBOX)];
    }
    run.stage = Stage::Sandbox;
    let until = entry.now() + Ns::from_ms(config::profile(view).run_cap_ms);
    let binding = binding(view, &case, vec![entry.reference()], until, epoch);
    let ops = vec![format!("sandbox:env/{}", run.service)];
    let output = ask(view, &case, &run, "sandbox", ops, binding);
    view.wake(&run_key(proposal_id), until);
    view.save(&run_key(proposal_id), &run);
    vec![output]
}

/// A check without an answer, which is never green.
pub(super) fn unknown(why: &str) -> Check {
    Check { status: CheckStatus::Unknown, detail: why.to_owned(), duration_ms: 0 }
}

/// One check as a sandbox result.
pub(super) fn sandbox_result(case: &Case, name: &str, check: Check, kind: &str) -> Output {
    sandbox_results(case, BTreeMap::from([(name.to_owned(), check)]), kind)
}

/// What the sandbox measured.
pub(super) fn sandbox_results(case: &Case, checks: BTreeMap<String, Check>, kind: &str) -> Output {
    let result = SandboxResult {
        proposal_id: case.proposal.proposal_id,
        checks,
        sandbox_kind: kind.to_owned(),
        digest: digest(case),
    };
    let key = case.proposal.proposal_id.to_string();
    Output::new(key, result).of_incident(case.raised.incident_id.clone())
}

/// Says the request that acts, if everything that allowed it still holds at this place.
pub(super) fn act(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    mut run: Run,
    decision: &GovernanceDecision,
) -> Vec<Output> {
    let Some(case) = proposals::case(view, run.proposal_id) else { return Vec::new() };
    let epoch = match may_act(view, entry, &run, &case, decision) {
        Ok(epoch) => epoch,
        Err(why) => return vec![end(view, entry, &run, L3Outcome::Rejected, why)],
    };
    let now = entry.now();
    let until = now + Ns::from_ms(config::profile(view).run_cap_ms);
    let mut approvals = vec![entry.reference()];
    // A person's approval is the entry that the decision was derived from.
    if decision.quorum_type != "unattended" {
        approvals.extend(said::from_reference(entry));
    }
    run.stage = Stage::Running;
    run.asked_at = now;
    run.mode_epoch = epoch;
    let binding = binding(view, &case, approvals, until, epoch);
    let output = ask(view, &case, &run, "act", case.proposal.ops.clone(), binding);
    view.wake(&run_key(run.proposal_id), until);
    view.save(&run_key(run.proposal_id), &run);
    vec![output]
}

/// Every condition is asked again right before the request, because between decision and
/// request a freeze or the service's own recovery may stand.
fn may_act(
    view: &View<'_>,
    entry: &Folded<'_>,
    run: &Run,
    case: &Case,
    decision: &GovernanceDecision,
) -> Result<u64, String> {
    let epoch = mode::allows_action(view)?;
    if decision.plan_digest.as_deref() != Some(&case.proposal.plan_digest_of()) {
        return Err("the decision is about another plan".to_owned());
    }
    if decision.expires_at.is_some_and(|it| it <= entry.now()) {
        return Err("the decision has expired".to_owned());
    }
    if case.raised.failure_class >= 6 {
        return Err("class 6 is never repaired by the healer".to_owned());
    }
    if config::host(view, &run.host).is_none() {
        return Err(format!("no runner is registered for host {:?}", run.host));
    }
    let health = detection::health(view, &run.service);
    if health.as_ref().is_some_and(|it| it.is_green()) {
        return Err(format!("{} is well again without it", run.service));
    }
    let is_unknown = health.is_none_or(|it| it.colour == Health::Unknown);
    if is_unknown && rules::are_second(view) {
        return Err(format!(
            "nothing is known of {} now, and what is unknown is no reason to act",
            run.service
        ));
    }
    Ok(epoch)
}

fn binding(
    view: &View<'_>,
    case: &Case,
    approvals: Vec<String>,
    expires_at: Ns,
    mode_epoch: u64,
) -> Binding {
    Binding {
        plan_digest: case.proposal.plan_digest_of(),
        approvals,
        expires_at,
        mode_epoch,
        policy_version: config::policy_version(view),
    }
}

fn ask(
    view: &mut View<'_>,
    case: &Case,
    run: &Run,
    what: &str,
    ops: Vec<String>,
    binding: Binding,
) -> Output {
    let proposal = &case.proposal;
    let until = binding.expires_at;
    let id = Uuid::named("healwright/request/v1", &[&run.proposal_id.0, what.as_bytes()]);
    // A rollback reads what it returns to from the request's rollback.
    let returns = ops.iter().any(|op| op.starts_with("rollback:"));
    let rollback = if returns { &proposal.artifact_ref } else { &proposal.rollback };
    let request = RunnerRequest {
        id,
        artifact_ref: proposal.artifact_ref.clone(),
        ops,
        preflight: Preflight { sandbox: what == "sandbox", tests: vec!["smoke:health".to_owned()] },
        rollback: Rollback { artifact: rollback.clone() },
        sign: Sign { algo: SIGN_ALGO.to_owned(), digest: digest(case) },
        binding: Some(binding),
    };
    Asked::save(view, until, id, run);
    Output::new(run.host.clone(), request)
        .of_incident(case.raised.incident_id.clone())
        .with_priority(8)
}

/// Digest of what the plan puts in place, empty where it puts nothing.
fn digest(case: &Case) -> String {
    let names = ["to_digest", "environment_digest"];
    let found = names.iter().find_map(|it| case.proposal.parameters.get(*it));
    found.cloned().unwrap_or_default()
}
