//! What attempts came to: permits given back, and the latch.
//!
//! "Completed" is not "healed": a validated repair counts as effective only when the service has
//! stayed well for a settle window after it. Reading "completed" as success resets the counter
//! of a repair that never helps (face.md, "What the field learnt the hard way", 2).

use schemas::event::{L3ExecutionResult, L3Outcome};
use schemas::{Ns, Uuid};

use super::{OPEN, all_open, gate_of, save_gate};
use crate::fold::{Folded, View};
use crate::{config, execution, proposals, said};

/// Gives the permit back and counts what the repair came to.
pub(super) fn close(view: &mut View<'_>, entry: &Folded<'_>, result: &L3ExecutionResult) {
    if !said::by(entry, execution::PROCESSOR.name) {
        return;
    }
    let Some(case) = proposals::case(view, result.proposal_id) else { return };
    let Some(attempt_id) = case.proposal.attempt_id else { return };
    if !give_back(view, attempt_id) {
        return;
    }
    // Where nothing is known to have run, there is no effect to judge.
    if result.deploy_ref.is_empty() {
        return;
    }
    let (service, playbook) = (case.raised.service, case.proposal.playbook);
    let mut gate = gate_of(view, &service);
    let effect = gate.effects.entry(playbook.clone()).or_default();
    if result.outcome == L3Outcome::Promoted {
        let until = entry.now() + Ns::from_ms(config::profile(view).validation_timeout_ms);
        effect.settling_until = until;
        view.wake(&format!("settled/{playbook}/{service}"), until);
    } else {
        effect.ineffective += 1;
        effect.settling_until = Ns(0);
        view.unwake(&format!("settled/{playbook}/{service}"));
    }
    save_gate(view, &service, &gate);
}

/// Whether the attempt was open. Its outcome is final: a second one changes nothing.
fn give_back(view: &mut View<'_>, attempt_id: Uuid) -> bool {
    let mut open = all_open(view);
    let before = open.len();
    open.retain(|it| it.attempt_id != attempt_id);
    view.save(OPEN, &open);
    open.len() < before
}

/// The service turned red again: repairs that had not settled had no lasting effect.
pub(super) fn came_back(view: &mut View<'_>, service: &str) {
    let mut gate = gate_of(view, service);
    let mut changed = false;
    for (playbook, effect) in &mut gate.effects {
        if effect.settling_until > Ns(0) {
            effect.ineffective += 1;
            effect.settling_until = Ns(0);
            view.unwake(&format!("settled/{playbook}/{service}"));
            changed = true;
        }
    }
    if changed {
        save_gate(view, service, &gate);
    }
}

/// The service stayed well: the repair had effect, and the row of ineffective ones ends.
pub(super) fn settle(view: &mut View<'_>, service: &str, playbook: &str) {
    let mut gate = gate_of(view, service);
    gate.effects.remove(playbook);
    save_gate(view, service, &gate);
}
