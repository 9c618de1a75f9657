//! One test per rule, in the order in which they are checked. In none of them does anything run.
#![allow(clippy::unwrap_used)]

use ledger::Tree;
use schemas::Ns;
use schemas::event::{ApprovalGiven, ApprovalVerdict, Decision, Mode, RunnerRequest, Tick};

use super::bed::{Bed, HOST, NOON, Plane, lease, result, results, rule};
use crate::wire::{Base64, Evidence, FromRunner, ModeEpoch, ToRunner};

/// The rule by which `evidence` is refused; nothing runs and the runner still works.
fn refused(mut bed: Bed, evidence: &Evidence) -> String {
    let said = bed.dispatch(evidence);
    let rule = rule(&mut bed, &said);
    assert_eq!(bed.machine.n_calls(), 0);
    rule
}

fn with_request(change: impl FnOnce(&mut RunnerRequest)) -> String {
    let mut bed = Bed::new();
    let approval = bed.plane.append("p", bed.plane.decision(Decision::Approved));
    let mut request = bed.plane.request(1, &["restart:shop"], approval);
    change(&mut request);
    let evidence = bed.journaled(request, approval);
    refused(bed, &evidence)
}

#[test]
fn what_is_proven_decided_and_current_is_carried_out() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let result = bed.carried(&evidence);
    assert_eq!(result.explanation, "Did restart:shop.");
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn bytes_that_are_no_evidence_are_malformed() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    evidence.epoch_key.0.pop();
    assert_eq!(refused(bed, &evidence), "malformed");
}

#[test]
fn a_head_by_another_key_is_not_signed() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    let mut other = bed.plane.clone();
    other.seed = 2;
    // The other root signs for our deployment's name.
    evidence.checkpoint = other.evidence(0, &[]).checkpoint;
    evidence.epoch_key = Base64(other.epoch_key().encode());
    assert_eq!(refused(bed, &evidence), "unsigned_head");
}

#[test]
fn a_head_of_another_deployment_is_not_signed_for_us() {
    let bed = Bed::new();
    let mut other = Plane::new(2);
    let approval = other.append("p", other.decision(Decision::Approved));
    let seq = other.append(HOST, other.request(1, &["restart:shop"], approval));
    let evidence = other.evidence(1, &[seq, approval]);
    assert_eq!(refused(bed, &evidence), "unsigned_head");
}

#[test]
fn a_head_that_does_not_extend_the_kept_one_is_a_rewritten_history() {
    let mut bed = Bed::new();
    let mut other = bed.plane.clone();
    (other.entries, other.tree) = (Vec::new(), Tree::new());
    let tick = Tick { partition: 0, now: NOON };
    other.append("tick", tick);
    bed.plane = other;
    let evidence = bed.decided(1, &["restart:shop"]);
    assert_eq!(refused(bed, &evidence), "rewritten_history");
}

#[test]
fn a_head_behind_the_kept_one_is_a_rewritten_history() {
    let mut bed = Bed::new();
    let old = bed.plane.clone();
    let evidence = bed.decided(1, &["restart:shop"]);
    bed.carried(&evidence);
    bed.plane = old;
    let mut evidence = bed.decided(2, &["restart:shop"]);
    evidence.from = bed.seen().size;
    let said = bed.dispatch(&evidence);
    assert_eq!(rule(&mut bed, &said), "rewritten_history");
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn a_head_of_an_ended_epoch_is_refused() {
    let mut bed = Bed::new();
    bed.plane.epoch = 2;
    let evidence = bed.decided(1, &["restart:shop"]);
    bed.carried(&evidence);
    bed.plane.epoch = 1;
    let evidence = bed.decided(2, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    assert_eq!(rule(&mut bed, &said), "rewritten_history");
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn evidence_from_elsewhere_is_asked_for_again_and_not_refused() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    evidence.from += 1;
    let said = bed.dispatch(&evidence);
    let seen = bed.seen();
    assert!(
        matches!(&said[..], [FromRunner::EvidenceWanted { seen: from, .. }] if *from == seen),
        "{said:?}"
    );
    evidence.from = seen.size;
    assert_eq!(bed.carried(&evidence).explanation, "Did restart:shop.");
}

#[test]
fn a_request_that_is_not_under_the_head_is_unproven() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    let approval = evidence.entries[1].index;
    let other = bed.plane.request(2, &["rollback:shop"], approval);
    let seq = evidence.entries[0].index;
    evidence.entries[0].entry = Base64(bed.plane.entry(seq, HOST, &other.into()).to_bytes());
    assert_eq!(refused(bed, &evidence), "request_unproven");
}

/// Every method that changes something is asked for the entry that proves it.
#[test]
fn effect_without_entry_is_impossible() {
    for op in ["restart:shop", "rollback:shop", "apply_patch:env/shop", "sandbox:env/shop"] {
        let mut bed = Bed::new();
        let evidence = bed.decided(1, &[op]);
        let mut without = evidence.clone();
        without.entries.clear();
        bed.dispatch(&without);
        let (from, seqs) = (bed.seen().size, [evidence.entries[0].index]);
        let mut unproven = bed.plane.evidence(from, &seqs);
        unproven.entries[0].path.clear();
        let said = bed.dispatch(&unproven);
        assert_eq!(rule(&mut bed, &said), "request_unproven", "{op}");
        assert_eq!(bed.machine.n_calls(), 0, "{op}");
        let said = bed.dispatch_again(&evidence);
        let effects = bed.grant(&said, 2_000);
        assert_eq!(result(&bed.carry_out(effects)).explanation, format!("Did {op}."));
    }
}

#[test]
fn a_proven_entry_that_is_no_request_is_none() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    evidence.entries.remove(0);
    assert_eq!(refused(bed, &evidence), "not_a_request");
}

#[test]
fn a_request_without_a_binding_rests_on_nothing() {
    assert_eq!(with_request(|it| it.binding = None), "unbound");
}

#[test]
fn an_approval_that_is_not_shown_is_unproven() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    evidence.entries.truncate(1);
    assert_eq!(refused(bed, &evidence), "approval_unproven");
}

#[test]
fn an_approval_that_is_not_under_the_head_is_unproven() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    let mut forged = bed.plane.decision(Decision::Approved);
    forged.compliance_score = 0.5;
    let seq = evidence.entries[1].index;
    evidence.entries[1].entry = Base64(bed.plane.entry(seq, "p", &forged.into()).to_bytes());
    assert_eq!(refused(bed, &evidence), "approval_unproven");
}

#[test]
fn a_decision_that_says_no_or_maybe_does_not_approve() {
    for decision in [Decision::Rejected, Decision::NeedsReview] {
        let mut bed = Bed::new();
        let approval = bed.plane.append("p", bed.plane.decision(decision));
        let request = bed.plane.request(1, &["restart:shop"], approval);
        let evidence = bed.journaled(request, approval);
        assert_eq!(refused(bed, &evidence), "not_approved", "{decision}");
    }
}

#[test]
fn an_expired_decision_does_not_approve() {
    let mut bed = Bed::new();
    let mut decision = bed.plane.decision(Decision::Approved);
    decision.expires_at = Some(NOON);
    let approval = bed.plane.append("p", decision);
    let request = bed.plane.request(1, &["restart:shop"], approval);
    let evidence = bed.journaled(request, approval);
    assert_eq!(refused(bed, &evidence), "not_approved");
}

#[test]
fn an_entry_of_another_kind_does_not_approve() {
    let mut bed = Bed::new();
    let tick = bed.plane.append("tick", Tick { partition: 0, now: NOON });
    let request = bed.plane.request(1, &["restart:shop"], tick);
    let evidence = bed.journaled(request, tick);
    assert_eq!(refused(bed, &evidence), "not_approved");
}

#[test]
fn an_approval_behind_the_request_does_not_approve() {
    let mut bed = Bed::new();
    let request = bed.plane.request(1, &["restart:shop"], bed.plane.tree.size() + 1);
    let seq = bed.plane.append(HOST, request);
    let approval = bed.plane.append("p", bed.plane.decision(Decision::Approved));
    let from = bed.seen().size;
    let evidence = bed.plane.evidence(from, &[seq, approval]);
    assert_eq!(refused(bed, &evidence), "not_approved");
}

#[test]
fn an_approval_of_another_plan_is_about_another_plan() {
    let plan = |it: &mut RunnerRequest| {
        it.binding.as_mut().unwrap().plan_digest = "sha256:other".into();
    };
    assert_eq!(with_request(plan), "other_plan");
}

#[test]
fn a_persons_approval_alone_is_no_decision() {
    let mut bed = Bed::new();
    let given = ApprovalGiven {
        proposal_id: Default::default(),
        plan_digest: super::bed::PLAN.into(),
        approver: "ann".into(),
        scope: "once".into(),
        expires_at: NOON + Ns::from_s(60),
        verdict: ApprovalVerdict::Approve,
        reason: String::new(),
        signature: String::new(),
    };
    let approval = bed.plane.append("p", given);
    let request = bed.plane.request(1, &["restart:shop"], approval);
    let evidence = bed.journaled(request, approval);
    assert_eq!(refused(bed, &evidence), "undecided");
}

#[test]
fn a_change_that_names_no_approval_is_undecided_and_a_measurement_is_not() {
    let none = |it: &mut RunnerRequest| it.binding.as_mut().unwrap().approvals.clear();
    assert_eq!(with_request(none), "undecided");
    let mut bed = Bed::new();
    let mut request = bed.plane.request(1, &["sandbox:env/shop"], 0);
    none(&mut request);
    let evidence = bed.journaled(request, 0);
    assert_eq!(bed.carried(&evidence).explanation, "Did sandbox:env/shop.");
}

/// An expired request is refused, although it stands in the journal.
#[test]
fn ttl_expired_event_starts_no_action() {
    let expired = |it: &mut RunnerRequest| it.binding.as_mut().unwrap().expires_at = NOON;
    assert_eq!(with_request(expired), "expired");
}

#[test]
fn an_operation_outside_the_runners_policy_is_forbidden() {
    for ops in [&["restart:other"][..], &["shell:shop"], &["restart:shop", "restart:other"], &[]] {
        let outside = |it: &mut RunnerRequest| {
            it.ops = ops.iter().map(|op| (*op).to_owned()).collect();
        };
        assert_eq!(with_request(outside), "forbidden", "{ops:?}");
    }
}

/// A wrong key, a wrong action and an expired request, each by its own rule.
#[test]
fn request_signature_and_rbac() {
    let mut bed = Bed::new();
    let mut evidence = bed.decided(1, &["restart:shop"]);
    let mut stranger = bed.plane.clone();
    stranger.seed = 2;
    evidence.checkpoint = stranger.evidence(0, &[]).checkpoint;
    evidence.epoch_key = Base64(stranger.epoch_key().encode());
    assert_eq!(refused(bed, &evidence), "unsigned_head");
    assert_eq!(with_request(|it| it.ops = vec!["shell:shop".to_owned()]), "forbidden");
    let expired = |it: &mut RunnerRequest| it.binding.as_mut().unwrap().expires_at = NOON;
    assert_eq!(with_request(expired), "expired");
}

#[test]
fn the_owners_policy_is_stronger_than_any_approval() {
    let mut bed = Bed::new();
    let policy = r#"{"methods":["rollback"]}"#;
    std::fs::write(bed.dir.path().join("runner.json"), policy).unwrap();
    bed.restart();
    let evidence = bed.decided(1, &["restart:shop"]);
    assert_eq!(refused(bed, &evidence), "forbidden");
}

#[test]
fn a_request_for_another_host_is_refused() {
    let mut bed = Bed::new();
    let approval = bed.plane.append("p", bed.plane.decision(Decision::Approved));
    let request = bed.plane.request(1, &["restart:shop"], approval);
    let seq = bed.plane.append("elsewhere", request);
    let from = bed.seen().size;
    let evidence = bed.plane.evidence(from, &[seq, approval]);
    assert_eq!(refused(bed, &evidence), "other_host");
}

#[test]
fn a_request_of_another_mode_epoch_is_refused() {
    let old = |it: &mut RunnerRequest| it.binding.as_mut().unwrap().mode_epoch = 0;
    assert_eq!(with_request(old), "other_mode_epoch");
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    bed.mode = ModeEpoch { epoch: 2, mode: Mode::Normal };
    assert_eq!(refused(bed, &evidence), "other_mode_epoch");
}

#[test]
fn a_mode_that_allows_nothing_allows_going_back_alone() {
    for mode in [Mode::ReadOnly, Mode::Frozen] {
        for (op, allowed) in [("restart:shop", false), ("rollback:shop", true)] {
            let mut bed = Bed::new();
            bed.mode = ModeEpoch { epoch: 2, mode };
            let approval = bed.plane.append("p", bed.plane.decision(Decision::Approved));
            let mut request = bed.plane.request(1, &[op], approval);
            request.binding.as_mut().unwrap().mode_epoch = 2;
            let evidence = bed.journaled(request, approval);
            if allowed {
                assert_eq!(bed.carried(&evidence).explanation, "Did rollback:shop.");
            } else {
                assert_eq!(refused(bed, &evidence), "mode_forbids", "{mode}");
            }
        }
    }
}

#[test]
fn an_unknown_mode_allows_nothing() {
    let bed = Bed::new();
    std::fs::remove_file(bed.dir.path().join("mode.json")).unwrap();
    let gate = crate::agent::gate::Gate::open(bed.dir.path()).unwrap();
    let ticket = crate::agent::gate::Ticket {
        mode_epoch: 0,
        lease_end: std::time::Duration::MAX,
        is_rollback: true,
    };
    let refusal = gate.pass(&ticket, &*bed.clock).unwrap_err();
    assert_eq!(refusal.rule(), "mode_forbids");
}

#[test]
fn a_denied_lease_is_final_for_the_request() {
    let mut bed = Bed::new();
    let evidence = bed.decided(1, &["restart:shop"]);
    let said = bed.dispatch(&evidence);
    let (request_id, nonce) = lease(&said);
    let reason = "another owner was elected".to_owned();
    let said = bed.say(ToRunner::LeaseDenied { request_id, nonce, reason });
    assert_eq!(rule(&mut bed, &said), "lease_denied");
    assert_eq!(results(&bed.dispatch(&evidence)), [result(&said)]);
    assert_eq!(bed.machine.n_calls(), 0);
}

#[test]
fn b02_a_lease_is_counted_from_its_asking_and_a_stale_one_starts_nothing() {
    for (way_ms, remaining_ms, starts) in [(1_999, 2_000, 1), (2_000, 2_000, 0), (0, 0, 0)] {
        let mut bed = Bed::new();
        let evidence = bed.decided(1, &["restart:shop"]);
        let said = bed.dispatch(&evidence);
        bed.clock.pass(way_ms);
        let effects = bed.grant(&said, remaining_ms);
        let said = bed.carry_out(effects);
        assert_eq!(bed.machine.n_calls(), starts, "{way_ms} of {remaining_ms} ms");
        if starts == 0 {
            assert_eq!(rule(&mut bed, &said), "lease_ended");
        }
    }
}
