//! An operator takes the running rollout back: `release.requested` of the strategy `abort`.
//!
//! It needs one registered signature and no permission, because it only reduces: the way back is
//! the one that every failed rollout takes, and it is open in every mode (spec 50 §11). The
//! digest names the release that is stopped, so that it never stops the one after it.

use schemas::event::ReleaseRequested;
use schemas::{Ns, Uuid};

use super::rollout::{Rollout, Step, load};
use super::turn::Turn;
use crate::fold::{Output, View};
use crate::governance;

/// The rollout turns back, or the sentence that says why it does not.
pub(super) fn take_back(
    view: &mut View<'_>,
    now: Ns,
    request: &ReleaseRequested,
) -> Result<Vec<Output>, String> {
    governance::signed(view, request)?;
    spend(view, now, request)?;
    let rollout = stoppable(view, request)?;
    let why = request.reason.as_deref().unwrap_or_default();
    let colon = if why.is_empty() { "" } else { ": " };
    let reason = format!("{} stopped it{colon}{why}", request.requested_by);
    let mut turn = Turn::new(view, now, rollout);
    turn.roll_back(&reason, false);
    Ok(turn.end())
}

/// A signature never expires, so it counts once and for ever.
fn spend(view: &mut View<'_>, now: Ns, request: &ReleaseRequested) -> Result<(), String> {
    if request.nonce.as_deref().unwrap_or_default().is_empty() {
        return Err("the request has no nonce, so that it could be replayed later; sign it anew \
                    with `healwright release abort`"
            .to_owned());
    }
    let key = format!("aborted/{}", Uuid::named("healwright/abort/v1", &[&request.statement()]));
    if let Some(at) = view.load::<Ns>(&key) {
        return Err(format!("this very request was taken at {at}; sign another one"));
    }
    view.save(&key, &now);
    Ok(())
}

fn stoppable(view: &View<'_>, request: &ReleaseRequested) -> Result<Rollout, String> {
    let service = &request.service;
    let Some(rollout) = load(view, service) else {
        return Err(format!(
            "nothing is being rolled out on {service}; `healwright release status {service}` \
             shows what was"
        ));
    };
    let version = &rollout.release.version;
    if rollout.release.digest != request.digest {
        return Err(format!(
            "{version} is being rolled out on {service}, and not {}; `healwright release abort \
             {service}` stops what runs now",
            request.digest
        ));
    }
    match rollout.step {
        Step::Rollback => Err(format!("{version} goes back already: {}", rollout.reason)),
        Step::Commit | Step::Ended => Err(format!(
            "{version} has passed every check and is being committed; `healwright release start \
             {service} {}` goes back from there",
            rollout.back_to.version
        )),
        Step::Preflight
        | Step::Apply
        | Step::Mirror
        | Step::Shadow
        | Step::Route
        | Step::Canary
        | Step::Verify => Ok(rollout),
    }
}
