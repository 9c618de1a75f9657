//! What was committed, and what may not run again.
//!
//! Keys: `deployment/committed/<service>`, a list whose last is what serves, and
//! `deployment/denied/<service>/<digest>`, cleared by a person's signed approval and by nothing
//! else, never by time (spec 60 §8).

use schemas::event::{
    APPROVAL_DOMAIN, ApprovalGiven, ApprovalVerdict, RunnerRequest, RunnerResult, RunnerStatus,
};
use schemas::signature::signature_from_text;
use schemas::{Ns, Uuid};
use serde::{Deserialize, Serialize};

use super::NAME;
use super::judge::is_signed_by_runner;
use super::rollout::{Rollout, returned_service};
use crate::config::{self, Release};
use crate::fold::View;

/// Committed releases kept per service, as many as snapshots (spec 60 §14).
const COMMITTED_MAX: usize = 10;

/// Why a digest is barred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Service on which it is barred.
    pub service: String,
    /// The release.
    pub release: Release,
    /// What it did, in a sentence.
    pub reason: String,
    /// Since when.
    pub since: Ns,
    /// The deployment that ended so.
    pub deployment_id: Uuid,
}

/// The release of `service` that was committed last and is returned to; from its configuration
/// before the first rollout.
pub fn committed(view: &View<'_>, service: &str) -> Option<Release> {
    releases(view, service).pop()
}

/// Whether `digest` was ever committed on `service`: a return to it is of low impact.
pub fn was_committed(view: &View<'_>, service: &str, digest: &str) -> bool {
    releases(view, service).iter().any(|it| it.digest == digest)
}

/// Committed releases of `service`, oldest first; the last is what serves.
pub fn releases(view: &View<'_>, service: &str) -> Vec<Release> {
    let kept: Vec<Release> = view.peek(NAME, &format!("committed/{service}")).unwrap_or_default();
    if !kept.is_empty() {
        return kept;
    }
    config::service(view, service).and_then(|it| it.release).into_iter().collect()
}

/// Puts `release` at the end of the list.
pub(super) fn commit(view: &mut View<'_>, service: &str, release: &Release) {
    let mut releases = releases(view, service);
    releases.retain(|it| it.digest != release.digest);
    releases.push(release.clone());
    let surplus = releases.len().saturating_sub(COMMITTED_MAX);
    releases.drain(..surplus);
    view.save(&format!("committed/{service}"), &releases);
}

/// The slot that serves.
pub(super) fn live_slot(view: &View<'_>, service: &str) -> String {
    view.load(&format!("live/{service}")).unwrap_or_else(|| "green".to_owned())
}

/// Notes which slot serves.
pub(super) fn serve_from(view: &mut View<'_>, service: &str, slot: &str) {
    view.save(&format!("live/{service}"), &slot.to_owned());
}

/// Why `digest` is barred on `service`, where it is.
pub fn denial(view: &View<'_>, service: &str, digest: &str) -> Option<Denial> {
    view.peek(NAME, &format!("denied/{service}/{digest}"))
}

/// Whether `digest` is barred on `service`.
pub fn is_denied(view: &View<'_>, service: &str, digest: &str) -> bool {
    denial(view, service, digest).is_some()
}

/// The id that an approval names as its proposal in order to clear `digest` on `service`; its
/// `plan_digest` is the digest itself.
pub fn denial_id(service: &str, digest: &str) -> Uuid {
    Uuid::named("healwright/denial/v1", &[service.as_bytes(), digest.as_bytes()])
}

/// Bars the digest of a rollout that evidence has ended.
pub(super) fn deny(view: &mut View<'_>, rollout: &Rollout, now: Ns) {
    let denial = Denial {
        service: rollout.service.clone(),
        release: rollout.release.clone(),
        reason: rollout.reason.clone(),
        since: now,
        deployment_id: rollout.id,
    };
    view.save(&format!("denied/{}/{}", rollout.service, rollout.release.digest), &denial);
}

/// Clears the denial that `approval` names. `None` where it names none; a sentence where it
/// names one and does not clear it.
pub(super) fn clear(
    view: &mut View<'_>,
    approval: &ApprovalGiven,
    now: Ns,
) -> Option<Result<(), String>> {
    let denials = view.list::<Denial>("denied/").into_iter();
    let (key, denial) = denials
        .into_iter()
        .find(|(_, it)| denial_id(&it.service, &it.release.digest) == approval.proposal_id)?;
    let used = Uuid::named("healwright/cleared/v1", &[approval.signature.as_bytes()]);
    let used = format!("cleared/{used}");
    if view.load::<Ns>(&used).is_some() {
        let digest = &denial.release.digest;
        return Some(Err(format!("{digest} stays barred: this approval has cleared it before")));
    }
    let cleared = may_clear(view, approval, &denial, now);
    if cleared.is_ok() {
        view.remove(&key);
        view.save(&used, &now);
    }
    Some(cleared)
}

fn may_clear(
    view: &View<'_>,
    approval: &ApprovalGiven,
    denial: &Denial,
    now: Ns,
) -> Result<(), String> {
    let digest = &denial.release.digest;
    let signers = config::signers(view).keys;
    let Some(key) = signers.get(&approval.approver) else {
        return Err(format!("{digest} stays barred: {:?} is no signer", approval.approver));
    };
    let signature = signature_from_text(&approval.signature);
    if !signature.is_some_and(|it| key.verify(APPROVAL_DOMAIN, &approval.statement(), &it)) {
        return Err(format!("{digest} stays barred: the approval's signature does not verify"));
    }
    if approval.plan_digest != *digest || approval.expires_at <= now {
        return Err(format!("{digest} stays barred: the approval is for another digest or old"));
    }
    match approval.verdict {
        ApprovalVerdict::Approve => Ok(()),
        ApprovalVerdict::Reject => Err(format!("{digest} stays barred, as {}", approval.reason)),
    }
}

/// Somebody else's request to return a service to an earlier release. Persisted: frozen.
#[derive(Serialize, Deserialize)]
struct Returning {
    service: String,
    artifact_ref: String,
}

fn returning_key(id: Uuid) -> String {
    format!("returning/{id}")
}

/// Remembers a remediation that returns a service to an earlier release, so that "what was
/// committed last" stays what serves.
pub(super) fn note_return(view: &mut View<'_>, request: &RunnerRequest) {
    let Some(service) = returned_service(request) else { return };
    let returning =
        Returning { service: service.to_owned(), artifact_ref: request.rollback.artifact.clone() };
    view.save(&returning_key(request.id), &returning);
}

/// The answer to such a request. A result that leaves it open whether it was done changes
/// nothing, and may still be followed by one that does not.
pub(super) fn returned(view: &mut View<'_>, result: &RunnerResult) {
    let key = returning_key(result.id);
    let Some(returning) = view.load::<Returning>(&key) else { return };
    let host = config::service(view, &returning.service).map(|it| it.host).unwrap_or_default();
    if result.known == Some(false) || !is_signed_by_runner(view, &host, result) {
        return;
    }
    view.remove(&key);
    let releases = releases(view, &returning.service);
    let release = releases.into_iter().find(|it| it.artifact_ref == returning.artifact_ref);
    if let (RunnerStatus::Success, Some(release)) = (result.status, release) {
        commit(view, &returning.service, &release);
    }
}
