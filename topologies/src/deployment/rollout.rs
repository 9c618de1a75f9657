//! A rollout as it is remembered: one per service, from the decision to its end.
//!
//! State key `deployment/rollout/<service>`; `deployment/active` lists the services that have
//! one, so that a sealed range costs one read while nothing is rolled out. Losing either loses
//! nothing that the chain does not hold.

use schemas::event::{Check, DeployPhase, RunnerRequest};
use schemas::{Ns, Uuid};
use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::stage::{Sort, Stage, Totals};
use crate::config::Release;
use crate::fold::View;

/// Where a rollout is. Steps that end in a request wait for its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// The sandbox was asked to run it.
    Preflight,
    /// The runner was asked to start it beside what serves.
    Apply,
    /// The proxy was asked to mirror to it.
    Mirror,
    /// Its mirrored answers are compared.
    Shadow,
    /// The proxy was asked for the next ring.
    Route,
    /// It serves a share.
    Canary,
    /// It serves alone and is checked.
    Verify,
    /// The runner was asked to commit.
    Commit,
    /// The runner was asked to return to what ran before.
    Rollback,
    /// Its last `deploy.state` is said; `l3.execution.result` answers that entry.
    Ended,
}

/// A request without an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// The request.
    pub(super) id: Uuid,
    /// After it the request is void, and its silence is an answer: unknown.
    pub(super) until: Ns,
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rollout {
    pub(super) id: Uuid,
    /// The release request's id, as governance decided on it.
    pub(super) proposal_id: Uuid,
    pub(super) service: String,
    pub(super) host: String,
    pub(super) release: Release,
    /// What runs now and is returned to; fixed before anything is done.
    pub(super) back_to: Release,
    /// When it must turn back at the latest, so that the way back lies within the permission.
    pub(super) back_by: Option<Ns>,
    /// Governance's entry, then approvals.
    pub(super) approvals: Vec<String>,
    pub(super) plan_digest: String,
    pub(super) step: Step,
    /// Slot of the new version.
    pub(super) slot: String,
    /// Index of the ring that is open or asked for.
    pub(super) ring_idx: u32,
    /// Share of requests it serves, percent.
    pub(super) ring_pct: u32,
    pub(super) stage: Stage,
    pub(super) totals: Totals,
    pub(super) gate: Gate,
    pub(super) pending: Option<Pending>,
    pub(super) sandbox: Check,
    /// When it was decided to roll back.
    pub(super) decided_at: Option<Ns>,
    pub(super) rollback_ms: Option<u64>,
    /// Requests to roll back so far.
    pub(super) n_rollbacks: u32,
    /// When the next of them is due.
    pub(super) retry_at: Option<Ns>,
    /// Whether what it did bars its digest.
    pub(super) is_denied: bool,
    /// Why it ended or goes back.
    pub(super) reason: String,
    /// What its last `deploy.state` says.
    pub(super) ended_as: Option<DeployPhase>,
}

impl Rollout {
    /// Whether anything of it may have reached the host.
    pub(super) fn has_touched_host(&self) -> bool {
        match self.step {
            Step::Preflight => false,
            Step::Apply
            | Step::Mirror
            | Step::Shadow
            | Step::Route
            | Step::Canary
            | Step::Verify
            | Step::Commit
            | Step::Rollback
            | Step::Ended => true,
        }
    }

    /// Whether what is measured still counts for or against it.
    pub(super) fn is_judged(&self) -> bool {
        match self.step {
            Step::Preflight | Step::Rollback | Step::Ended => false,
            Step::Apply
            | Step::Mirror
            | Step::Shadow
            | Step::Route
            | Step::Canary
            | Step::Verify
            | Step::Commit => true,
        }
    }

    /// Whether it still goes towards users without having passed every check.
    pub(super) fn is_forward(&self) -> bool {
        self.is_judged() && self.step != Step::Commit
    }

    /// Whether the stage may be left by passing or by time.
    pub(super) fn is_measuring(&self) -> bool {
        matches!(self.step, Step::Shadow | Step::Canary | Step::Verify)
    }

    /// The phase that people see at this step.
    pub(super) fn phase(&self) -> DeployPhase {
        match self.step {
            Step::Preflight => DeployPhase::Preflight,
            Step::Apply | Step::Mirror => DeployPhase::Apply,
            Step::Shadow => DeployPhase::Shadow,
            Step::Canary => DeployPhase::Canary,
            Step::Route if self.stage.sort == Sort::Shadow => DeployPhase::Shadow,
            Step::Route => DeployPhase::Canary,
            Step::Verify | Step::Commit => DeployPhase::Verify,
            Step::Rollback | Step::Ended => DeployPhase::Rollback,
        }
    }

    /// When it must be looked at without any news.
    pub(super) fn due_at(&self) -> Option<Ns> {
        let stage = self.is_measuring().then_some(self.stage.until);
        let back_by = self.back_by.filter(|_| self.is_forward());
        self.pending
            .iter()
            .map(|it| it.until)
            .chain(stage)
            .chain(back_by)
            .chain(self.retry_at)
            .min()
    }
}

const ACTIVE: &str = "active";

fn key(service: &str) -> String {
    format!("rollout/{service}")
}

/// Services under rollout, in order of name.
pub(super) fn active(view: &View<'_>) -> Vec<String> {
    view.load(ACTIVE).unwrap_or_default()
}

/// The rollout of `service`.
pub(super) fn load(view: &View<'_>, service: &str) -> Option<Rollout> {
    view.peek(super::NAME, &key(service))
}

/// Keeps a rollout, and the wake it needs.
pub(super) fn save(view: &mut View<'_>, rollout: &Rollout) {
    let mut services = active(view);
    if let Err(at) = services.binary_search(&rollout.service) {
        services.insert(at, rollout.service.clone());
        view.save(ACTIVE, &services);
    }
    view.save(&key(&rollout.service), rollout);
    match rollout.due_at() {
        Some(at) => view.wake(&rollout.service, at),
        None => view.unwake(&rollout.service),
    }
}

/// Frees the service for the next rollout and keeps this one until its result is said. A
/// rollout that was refused at once never held the service, and frees nothing.
pub(super) fn retire(view: &mut View<'_>, rollout: &Rollout) {
    let service = &rollout.service;
    if load(view, service).is_some_and(|it| it.id == rollout.id) {
        let mut services = active(view);
        services.retain(|it| it != service);
        view.save(ACTIVE, &services);
        view.remove(&key(service));
        view.unwake(service);
    }
    view.save(&format!("ended/{}", rollout.id), rollout);
}

/// Takes the rollout whose last `deploy.state` says `phase`.
pub(super) fn retired(view: &mut View<'_>, id: Uuid, phase: DeployPhase) -> Option<Rollout> {
    let key = format!("ended/{id}");
    let rollout = view.load(&key).filter(|it: &Rollout| it.ended_as == Some(phase))?;
    view.remove(&key);
    Some(rollout)
}

/// The rollout that waits for the answer to request `id`.
pub(super) fn waiting_for(view: &View<'_>, id: Uuid) -> Option<Rollout> {
    let rollouts = active(view).into_iter().filter_map(|it| load(view, &it));
    rollouts.into_iter().find(|it| it.pending.as_ref().is_some_and(|pending| pending.id == id))
}

/// The id of the request for `op` in deployment `id`; `n` tells repeats apart.
pub(super) fn request_id(id: Uuid, op: &str, n: u32) -> Uuid {
    Uuid::named("healwright/deployment/request/v1", &[&id.0, op.as_bytes(), &n.to_be_bytes()])
}

/// Whether `request` returns `service` to an earlier release.
pub(super) fn returned_service(request: &RunnerRequest) -> Option<&str> {
    request.ops.iter().find_map(|op| op.strip_prefix("rollback:"))
}
