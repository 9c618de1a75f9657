//! What a runner answers, and what its silence means.

use schemas::event::{
    AnnotationKind, Check, CheckStatus, L3Outcome, RESULT_DOMAIN, RunnerResult, RunnerStatus,
};
use schemas::signature::signature_from_text;
use schemas::{Ns, Uuid};
use serde::{Deserialize, Serialize};

use super::request::{sandbox_result, sandbox_results, unknown};
use super::{PROCESSOR, Run, Stage, end, run_key, validate};
use crate::fold::{Folded, Output, View};
use crate::{config, mode, proposals, said};

/// A request that was said, kept so that its answer and every repeat of it are understood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    proposal_id: Uuid,
    host: String,
    /// Whether a known answer was taken; a later one changes nothing.
    answered: bool,
}

impl Asked {
    pub(super) fn save(view: &mut View<'_>, until: Ns, id: Uuid, run: &Run) {
        let asked = Asked { proposal_id: run.proposal_id, host: run.host.clone(), answered: false };
        view.save(&asked_key(id), &asked);
        view.wake(&asked_key(id), until + proposals::KEPT_AFTER);
    }
}

fn asked_key(id: Uuid) -> String {
    format!("asked/{id}")
}

/// Why a runner's answer does not count; `None` where it is the registered runner's own.
pub fn refused(view: &View<'_>, result: &RunnerResult) -> Option<String> {
    let host = result.host.clone().unwrap_or_default();
    let Some(runner) = config::host(view, &host) else {
        return Some(format!("no runner is registered for host {host:?}"));
    };
    let signature = result.signature.as_deref().and_then(signature_from_text);
    let holds =
        signature.is_some_and(|it| runner.key.verify(RESULT_DOMAIN, &result.statement(), &it));
    (!holds).then(|| format!("the signature is not that of {host}'s runner"))
}

/// Takes an answer. One without the runner's signature changes nothing, whatever it is about.
pub(super) fn take(view: &mut View<'_>, entry: &Folded<'_>, result: &RunnerResult) -> Vec<Output> {
    let forged = |why: String| {
        vec![said::refusal(entry, PROCESSOR.name, format!("the result changes nothing: {why}"))]
    };
    if let Some(why) = refused(view, result) {
        return forged(why);
    }
    // A signed answer to a request of somebody else is theirs.
    let Some(mut asked) = view.load::<Asked>(&asked_key(result.id)) else { return Vec::new() };
    if result.host.as_ref() != Some(&asked.host) {
        return forged(format!("host {} was asked", asked.host));
    }
    let open = super::run(view, asked.proposal_id);
    let Some(run) = open.filter(|_| !asked.answered) else { return Vec::new() };
    if result.known != Some(false) {
        asked.answered = true;
        view.save(&asked_key(result.id), &asked);
        view.wake(&asked_key(result.id), entry.now() + proposals::KEPT_AFTER);
    }
    match run.stage {
        Stage::Sandbox => sandboxed(view, run, result),
        Stage::Running | Stage::Unknown => acted(view, entry, run, result),
        Stage::Decision | Stage::Validating => Vec::new(),
    }
}

fn sandboxed(view: &mut View<'_>, mut run: Run, result: &RunnerResult) -> Vec<Output> {
    let Some(case) = proposals::case(view, run.proposal_id) else { return Vec::new() };
    let mut checks = result.checks.clone().unwrap_or_default();
    let done = result.status == RunnerStatus::Success && result.known != Some(false);
    if !done || checks.is_empty() {
        let status = if done { CheckStatus::Unknown } else { CheckStatus::Failed };
        let detail = result.explanation.clone();
        checks.insert("sandbox".to_owned(), Check { status, detail, duration_ms: 0 });
    }
    let red = checks.values().find(|it| !it.is_green());
    run.sandbox = red.cloned().unwrap_or_else(|| Check::passed(&result.explanation));
    run.stage = Stage::Decision;
    view.unwake(&run_key(run.proposal_id));
    view.save(&run_key(run.proposal_id), &run);
    let kinds = config::host(view, &run.host).map(|it| it.sandbox).unwrap_or_default();
    let kind = kinds.first().map_or("none", String::as_str);
    vec![sandbox_results(&case, checks, kind)]
}

/// The sandbox run took too long: unknown, which is never green.
pub(super) fn no_sandbox_answer(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    mut run: Run,
) -> Vec<Output> {
    let Some(case) = proposals::case(view, run.proposal_id) else { return Vec::new() };
    let cap = said::span(Ns::from_ms(config::profile(view).run_cap_ms));
    let check = unknown(&format!("no answer within {cap}, at {}", entry.now()));
    run.sandbox = check.clone();
    run.stage = Stage::Decision;
    view.save(&run_key(run.proposal_id), &run);
    vec![sandbox_result(&case, "sandbox", check, "none")]
}

fn acted(
    view: &mut View<'_>,
    entry: &Folded<'_>,
    mut run: Run,
    result: &RunnerResult,
) -> Vec<Output> {
    if result.known == Some(false) {
        return lost(view, entry, run, &result.explanation);
    }
    run.answer_ref = entry.reference();
    run.answered_at = entry.now();
    let why = result.explanation.clone();
    match result.status {
        RunnerStatus::Success => validate::begin(view, run),
        RunnerStatus::Failed => {
            // Under a new mode the runner refuses to start: nothing ran, so there is nothing to
            // judge the playbook by.
            if mode::current(view).map(|it| it.1) != Some(run.mode_epoch) {
                run.answer_ref.clear();
            }
            vec![end(view, entry, &run, L3Outcome::Rejected, format!("not done: {why}"))]
        }
        RunnerStatus::RolledBack => {
            vec![end(view, entry, &run, L3Outcome::RolledBack, format!("taken back: {why}"))]
        }
    }
}

/// The runner never said what became of it within its time.
pub(super) fn no_answer(view: &mut View<'_>, entry: &Folded<'_>, run: Run) -> Vec<Output> {
    let waited = said::span(entry.now().since(run.asked_at));
    let why = format!("host {} has not answered within {waited}", run.host);
    lost(view, entry, run, &why)
}

/// It is not known whether it was done: said once, and the attempt keeps its permit.
fn lost(view: &mut View<'_>, entry: &Folded<'_>, mut run: Run, why: &str) -> Vec<Output> {
    let key = run_key(run.proposal_id);
    view.unwake(&key);
    if run.stage == Stage::Unknown {
        return Vec::new();
    }
    run.stage = Stage::Unknown;
    view.save(&key, &run);
    let sentence = format!(
        "unknown whether the repair of {} ran: {why}; the attempt stays open until {} is well",
        run.service, run.service
    );
    let note = said::note(entry, PROCESSOR.name, AnnotationKind::RunnerAction, sentence);
    let incident = proposals::case(view, run.proposal_id).map(|it| it.raised.incident_id);
    let mut said = vec![note.of_incident(incident)];
    said.extend(validate::well_again(view, entry, &run.service));
    said
}
