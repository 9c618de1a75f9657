//! Validation: the same signals that raised the anomaly say whether the repair helped
//! (spec 40 §8). "Completed" is not "healed".

use schemas::event::L3Outcome;
use schemas::{Ns, Uuid};
use serde::{Deserialize, Serialize};

use super::{Run, Stage, end, run_key, runs};
use crate::fold::{Folded, Output, View};
use crate::{config, detection, proposals, rules, said};

/// The runner has done it: from now on health is asked.
pub(super) fn begin(view: &mut View<'_>, mut run: Run) -> Vec<Output> {
    let profile = config::profile(view);
    run.stage = Stage::Validating;
    let key = run_key(run.proposal_id);
    let after = profile.validation_after_ms.max(profile.probe_period_ms);
    view.wake(&key, run.answered_at + Ns::from_ms(after));
    view.save(&key, &run);
    Vec::new()
}

/// One look at the service: well, not yet, or too late.
pub(super) fn look(view: &mut View<'_>, entry: &Folded<'_>, run: &Run) -> Vec<Output> {
    let profile = config::profile(view);
    let now = entry.now();
    let took = said::span(now.since(run.answered_at));
    let what =
        proposals::case(view, run.proposal_id).map_or_else(String::new, |it| it.proposal.playbook);
    if is_well(view, run) {
        let passes = profile.validation_passes;
        let why = format!("{} is well: {passes} probes passed, {took} after {what}", run.service);
        return vec![end(view, entry, run, L3Outcome::Promoted, why)];
    }
    let wait =
        Ns::from_ms(profile.validation_after_ms) + Ns::from_ms(profile.validation_timeout_ms);
    if now.since(waits_from(view, now, run)) >= wait {
        let why = format!("{} is not well, {took} after {what}", run.service);
        return vec![end(view, entry, run, L3Outcome::Rejected, why)];
    }
    view.wake(&run_key(run.proposal_id), now + Ns::from_ms(profile.probe_period_ms));
    Vec::new()
}

/// How a service is waited for, while it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Wait {
    /// From when on the time is counted.
    from: Ns,
    /// When it is looked at next.
    next_look: Ns,
}

/// From when on the time that the service may take is counted. While there was no owner nothing
/// was seen, which is neither good nor bad; so the wait begins anew after it.
fn waits_from(view: &mut View<'_>, now: Ns, run: &Run) -> Ns {
    if !rules::are_third(view) {
        return run.answered_at;
    }
    let profile = config::profile(view);
    let after = profile.validation_after_ms.max(profile.probe_period_ms);
    let first = Wait { from: run.answered_at, next_look: run.answered_at + Ns::from_ms(after) };
    let mut wait = view.load(&wait_key(run.proposal_id)).unwrap_or(first);
    if now.since(wait.next_look) > Ns::from_ms(profile.stale_after_ms) {
        wait.from = now;
    }
    wait.next_look = now + Ns::from_ms(profile.probe_period_ms);
    view.save(&wait_key(run.proposal_id), &wait);
    wait.from
}

/// Forgets how a service was waited for.
pub(super) fn forget(view: &mut View<'_>, proposal_id: Uuid) {
    if rules::are_third(view) {
        view.remove(&wait_key(proposal_id));
    }
}

fn wait_key(proposal_id: Uuid) -> String {
    format!("wait/{proposal_id}")
}

/// The service is well. What was of unknown outcome ends with that, and proves nothing about
/// the repair.
pub(super) fn well_again(view: &mut View<'_>, entry: &Folded<'_>, service: &str) -> Vec<Output> {
    if !detection::health(view, service).is_some_and(|it| it.is_green()) {
        return Vec::new();
    }
    let of_service = runs(view).into_iter().filter(|it| it.service == service);
    let mut said = Vec::new();
    for run in of_service.collect::<Vec<_>>() {
        if run.stage == Stage::Unknown {
            let why = format!("{service} is well again; whether the repair ran is not known");
            said.push(end(view, entry, &run, L3Outcome::Promoted, why));
        }
    }
    said
}

fn is_well(view: &View<'_>, run: &Run) -> bool {
    let passes = config::profile(view).validation_passes;
    detection::health(view, &run.service)
        .is_some_and(|it| it.is_green() && it.passes_since(run.answered_at) >= passes)
}
