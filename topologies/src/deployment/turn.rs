//! One turn of a rollout: from a step to the next, with everything said on the way.
//!
//! Going on has one way each; going back has one way for all: [`Turn::roll_back`]. A request
//! that failed, was not answered in time or whose outcome is unknown always leads there, and a
//! rollback that is not proven by digest and probe is asked for again.

use std::collections::BTreeMap;

use schemas::Ns;
use schemas::event::{
    Binding, Check, CheckStatus, DeployPhase, DeployState, Preflight, Rollback, RunnerRequest,
    SandboxResult, Sign,
};

use super::rollout::{Pending, Rollout, Step, request_id};
use super::stage::Sort;
use super::{history, rollout, words};
use crate::config;
use crate::fold::{Output, View};
use crate::profile::Profile;
use crate::{mode, said};

/// Longest wait for a sandbox run or a start, milliseconds: the run itself may take 30 s.
const SLOW_ANSWER_MS: u64 = 60_000;
/// Longest wait for a switch of the proxy.
const ROUTE_ANSWER_MS: u64 = 15_000;
/// Longest wait for a rollback: two tries fit into the 60 s of spec 60 §17.
const ROLLBACK_ANSWER_MS: u64 = 20_000;
/// Tries after which a rollback is handed to people.
const ROLLBACKS_MAX: u32 = 5;
/// Half the wait after the first of them; each wait is twice the one before.
const RETRY_MS: u64 = 500;
/// Part of a permission that is kept for the way back: every try, and their ticks.
const WAY_BACK: Ns = Ns::from_ms((ROLLBACK_ANSWER_MS + (RETRY_MS << 4)) * ROLLBACKS_MAX as u64);

/// A rollout in the hands of the fold.
pub(super) struct Turn<'a, 'b> {
    pub(super) view: &'a mut View<'b>,
    pub(super) now: Ns,
    pub(super) profile: Profile,
    pub(super) rollout: Rollout,
    pub(super) said: Vec<Output>,
}

impl<'a, 'b> Turn<'a, 'b> {
    pub(super) fn new(view: &'a mut View<'b>, now: Ns, rollout: Rollout) -> Self {
        let profile = config::profile(view);
        Turn { view, now, profile, rollout, said: Vec::new() }
    }

    /// Keeps what has become of it.
    pub(super) fn end(self) -> Vec<Output> {
        match self.rollout.step {
            Step::Ended => rollout::retire(self.view, &self.rollout),
            Step::Preflight
            | Step::Apply
            | Step::Mirror
            | Step::Shadow
            | Step::Route
            | Step::Canary
            | Step::Verify
            | Step::Commit
            | Step::Rollback => rollout::save(self.view, &self.rollout),
        }
        self.said
    }

    /// Says where the rollout is now.
    pub(super) fn tell(&mut self, state: DeployPhase, reason: impl Into<String>) {
        let it = &self.rollout;
        let told = DeployState {
            deployment_id: it.id,
            service: it.service.clone(),
            state,
            slot: it.slot.clone(),
            ring_pct: it.ring_pct,
            deltas: words::deltas(it),
            slo_burn: it.gate.evidence(),
            reason: reason.into(),
            digest: Some(it.release.digest.clone()),
            version: Some(it.release.version.clone()),
        };
        let priority = if matches!(state, DeployPhase::Rollback) { 8 } else { 5 };
        self.said.push(Output::new(it.service.clone(), told).with_priority(priority));
    }

    /// Resolves everything before anything is touched, and asks for the preflight.
    pub(super) fn plan(&mut self) {
        let it = &self.rollout;
        let reason = format!(
            "{} goes to the {} slot of {}: sandbox, shadow, then {} of requests; {} stays ready",
            it.release.version,
            it.slot,
            it.service,
            words::rings(&self.rings()),
            it.back_to.version
        );
        self.tell(DeployPhase::Plan, reason);
        let it = &self.rollout;
        let sandboxes = config::host(self.view, &it.host).map(|it| it.sandbox).unwrap_or_default();
        let Some(sandbox) = sandboxes.first() else {
            let detail = format!("host {} has no sandbox", it.host);
            let check = Check { status: CheckStatus::Unknown, detail, duration_ms: 0 };
            return self.preflight_done([("sandbox".to_owned(), check)].into(), "none");
        };
        let reason =
            format!("{} runs in the sandbox ({sandbox}) before it may start", it.release.version);
        self.tell(DeployPhase::Preflight, reason);
        let op = format!("sandbox:{}", self.rollout.service);
        self.ask(op, 0, SLOW_ANSWER_MS);
    }

    /// What the sandbox measured decides whether anything is applied.
    pub(super) fn preflight_done(&mut self, checks: BTreeMap<String, Check>, kind: &str) {
        let red = words::red_check(&checks);
        let ran = checks.values().any(|it| it.status == CheckStatus::Passed);
        let green: Vec<&str> = checks.keys().map(String::as_str).collect();
        let green = green.join(", ");
        let result = SandboxResult {
            proposal_id: self.rollout.proposal_id,
            checks,
            sandbox_kind: kind.to_owned(),
            digest: self.rollout.release.digest.clone(),
        };
        self.said.push(Output::new(self.rollout.proposal_id.to_string(), result));
        let red = red.or_else(|| (!ran).then(|| "the sandbox ran no check".to_owned()));
        if let Some(why) = red {
            self.rollout.sandbox =
                Check { status: CheckStatus::Failed, detail: why.clone(), duration_ms: 0 };
            return self.reject(format!("preflight: {why}; nothing was applied"));
        }
        self.rollout.sandbox = Check::passed(&green);
        self.rollout.step = Step::Apply;
        let reason = format!(
            "the sandbox is green ({green}): {} starts in the {} slot, which serves nobody",
            self.rollout.release.version, self.rollout.slot
        );
        self.tell(DeployPhase::Apply, reason);
        let op = format!("apply_patch:{}", self.rollout.service);
        self.ask(op, 0, SLOW_ANSWER_MS);
    }

    /// It runs; now it gets copies of safe requests.
    pub(super) fn applied(&mut self) {
        self.rollout.step = Step::Mirror;
        let op = format!("apply_patch:route/{}/shadow", self.rollout.service);
        self.ask(op, 0, ROUTE_ANSWER_MS);
    }

    /// The proxy mirrors.
    pub(super) fn mirrored(&mut self) {
        self.rollout.step = Step::Shadow;
        self.open_stage(Sort::Shadow, self.profile.shadow_timeout_ms);
        let reason = format!(
            "{} answers copies of safe requests and nobody sees its answers",
            self.rollout.release.version
        );
        self.tell(DeployPhase::Shadow, reason);
    }

    /// The stage has passed: the next ring, or the commit.
    pub(super) fn passed(&mut self) {
        if self.rollout.step == Step::Canary {
            self.rollout.ring_idx += 1;
        }
        self.rollout.step = Step::Route;
        let pct = self.next_pct();
        let op = format!("apply_patch:route/{}/canary/{pct}", self.rollout.service);
        self.ask(op, 0, ROUTE_ANSWER_MS);
    }

    /// The proxy sends the asked share to it.
    pub(super) fn routed(&mut self) {
        let held = words::measured(&self.rollout);
        self.rollout.ring_pct = self.next_pct();
        let version = self.rollout.release.version.clone();
        if self.rollout.ring_pct >= 100 {
            self.rollout.step = Step::Verify;
            self.open_stage(Sort::Verify, self.profile.promotion_check_ms);
            let reason = format!(
                "{held}: {version} serves all requests and is checked, {} stays ready",
                self.rollout.back_to.version
            );
            return self.tell(DeployPhase::Verify, reason);
        }
        self.rollout.step = Step::Canary;
        self.open_stage(Sort::Canary, self.profile.ring_timeout_ms);
        let reason = format!("{held}: {version} serves {} % of requests", self.rollout.ring_pct);
        self.tell(DeployPhase::Canary, reason);
    }

    /// Verified: what ran before may be let go of.
    pub(super) fn verified(&mut self) {
        self.rollout.step = Step::Commit;
        let op = format!("apply_patch:commit/{}", self.rollout.service);
        self.ask(op, 0, ROUTE_ANSWER_MS);
    }

    /// It is what serves from now on.
    pub(super) fn committed(&mut self) {
        let it = &self.rollout;
        let reason = format!(
            "{}; {} checks in a row were green: {} is committed",
            words::measured(it),
            it.stage.n_green,
            it.release.version
        );
        // The first commit also puts what ran before on the list.
        history::commit(self.view, &it.service, &it.back_to);
        history::commit(self.view, &it.service, &it.release);
        history::serve_from(self.view, &it.service, &it.slot);
        self.finish(DeployPhase::Commit, reason);
    }

    /// Ends it before anything was applied.
    pub(super) fn reject(&mut self, reason: String) {
        self.finish(DeployPhase::Rejected, reason);
    }

    /// Takes the way back. `is_denied` where what it did speaks against the release itself.
    pub(super) fn roll_back(&mut self, reason: &str, is_denied: bool) {
        if matches!(self.rollout.step, Step::Rollback | Step::Ended) {
            return;
        }
        if !self.rollout.has_touched_host() {
            return self.reject(format!("{reason}; nothing was applied"));
        }
        self.rollout.step = Step::Rollback;
        self.rollout.decided_at = Some(self.now);
        self.rollout.is_denied = is_denied;
        self.rollout.reason = reason.to_owned();
        if is_denied {
            history::deny(self.view, &self.rollout, self.now);
        }
        self.tell(DeployPhase::Rollback, format!("{reason}; {} is put back", self.back_to()));
        self.ask_rollback();
    }

    /// What runs is what ran before, and it answers.
    pub(super) fn rolled_back(&mut self) {
        let took = self.now.since(self.rollout.decided_at.unwrap_or(self.now));
        self.rollout.rollback_ms = Some(took.as_ms());
        self.rollout.ring_pct = 0;
        let restored = words::restored(&self.rollout, took);
        self.finish(DeployPhase::RolledBack, restored);
    }

    /// The way back is not proven: try again, and in the end call for people.
    pub(super) fn not_rolled_back(&mut self, why: &str) {
        if self.rollout.n_rollbacks < ROLLBACKS_MAX {
            let n = self.rollout.n_rollbacks;
            // What refuses at once (a lease between two owners, a mode epoch on its way) may be
            // over in a moment, so five tries are not spent in one.
            let wait = Ns::from_ms(RETRY_MS << n);
            self.rollout.retry_at = Some(self.now + wait);
            let back = self.back_to();
            let wait = said::span(wait);
            let reason = format!("try {n} to put {back} back failed ({why}); again in {wait}");
            return self.tell(DeployPhase::Rollback, reason);
        }
        self.rollout.reason = format!(
            "the return to {} could not be proven in {ROLLBACKS_MAX} tries ({why}): a person \
             must look at {}; `healwright incident list` shows it",
            self.back_to(),
            self.rollout.service
        );
        let reason = self.rollout.reason.clone();
        self.finish(DeployPhase::Rollback, reason);
    }

    fn back_to(&self) -> String {
        self.rollout.back_to.version.clone()
    }

    pub(super) fn ask_rollback(&mut self) {
        self.rollout.retry_at = None;
        let op = format!("rollback:{}", self.rollout.service);
        self.rollout.n_rollbacks += 1;
        let n = self.rollout.n_rollbacks;
        self.ask(op, n, ROLLBACK_ANSWER_MS);
    }

    fn finish(&mut self, state: DeployPhase, reason: String) {
        self.rollout.step = Step::Ended;
        self.rollout.ended_as = Some(state);
        self.rollout.pending = None;
        if self.rollout.reason.is_empty() || state == DeployPhase::Commit {
            self.rollout.reason.clone_from(&reason);
        }
        self.tell(state, reason);
    }

    /// Rings of the profile; the last is always the whole.
    fn rings(&self) -> Vec<u32> {
        rings(&self.profile)
    }

    fn next_pct(&self) -> u32 {
        self.rings().get(self.rollout.ring_idx as usize).copied().unwrap_or(100)
    }

    fn open_stage(&mut self, sort: Sort, timeout_ms: u64) {
        let until = self.now + Ns::from_ms(timeout_ms);
        let it = &mut self.rollout;
        it.stage = it.stage.open(sort, until, &it.totals, &self.profile);
        it.gate.open_stage();
    }

    /// Says a request. After its time it is void at the runner too, so a late start is
    /// impossible and silence can be answered safely.
    fn ask(&mut self, op: String, n: u32, answer_ms: u64) {
        let it = &self.rollout;
        let is_rollback = it.step == Step::Rollback;
        // The way back is open in every mode (spec 50 §11); a mode must be known even so.
        let mode_epoch = mode::current(self.view).map_or(0, |(_, epoch)| epoch);
        let until = self.now + Ns::from_ms(answer_ms);
        let applied = if is_rollback { &it.back_to } else { &it.release };
        let request = RunnerRequest {
            id: request_id(it.id, &op, n),
            artifact_ref: applied.artifact_ref.clone(),
            preflight: Preflight {
                sandbox: it.step == Step::Preflight,
                tests: vec!["smoke:health".to_owned()],
            },
            ops: vec![op],
            rollback: Rollback { artifact: it.back_to.artifact_ref.clone() },
            sign: Sign { algo: "ed25519-manifest".to_owned(), digest: applied.digest.clone() },
            binding: Some(Binding {
                plan_digest: it.plan_digest.clone(),
                approvals: it.approvals.clone(),
                expires_at: until,
                mode_epoch,
                policy_version: config::policy_version(self.view),
            }),
        };
        self.rollout.pending = Some(Pending { id: request.id, until });
        let priority = if is_rollback { 9 } else { 6 };
        let host = self.rollout.host.clone();
        self.said.push(Output::new(host, request).with_priority(priority));
    }
}

/// How long a rollout may take at most when every stage uses up its time: what a permission
/// for one has to cover.
pub fn longest(profile: &Profile) -> Ns {
    let answers = 2 * SLOW_ANSWER_MS + ROUTE_ANSWER_MS * (2 + rings(profile).len() as u64);
    let shadow = profile.shadow_timeout_ms.saturating_mul(2);
    let n_canaries = (rings(profile).len() as u64).saturating_sub(1);
    let canaries = profile.ring_timeout_ms.saturating_mul(2 * n_canaries);
    let checks = profile.promotion_check_ms.saturating_mul(u64::from(profile.promotion_checks));
    let spans = [answers, shadow, canaries, checks];
    spans.into_iter().map(Ns::from_ms).fold(WAY_BACK, |sum, it| sum + it)
}

/// When a rollout must turn back that begins at `now` and is permitted until `until`.
pub(super) fn back_by(now: Ns, until: Ns) -> Ns {
    let permitted = until.since(now);
    until - Ns((permitted.0 / 2).min(WAY_BACK.0))
}

/// Rings of a profile; the last is always the whole.
pub(super) fn rings(profile: &Profile) -> Vec<u32> {
    let mut rings: Vec<u32> = profile.rings.iter().copied().filter(|it| *it < 100).collect();
    rings.push(100);
    rings
}
