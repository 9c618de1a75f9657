//! A runner's answers: built here, signed here, and checked here by whoever takes them.

use std::collections::BTreeMap;

use schemas::Uuid;
use schemas::event::{RESULT_DOMAIN, RunnerResult, RunnerStatus};
use schemas::signature::{KeyPair, PublicKey, signature_from_text, signature_text};

use crate::host::{Outcome, sentence};

/// `kind` of an answer to a request that was not carried out (spec 10 §6).
pub const REJECTED: &str = "REJECTED";

fn failed(id: Uuid, host: &str, explanation: String) -> RunnerResult {
    RunnerResult {
        id,
        status: RunnerStatus::Failed,
        metrics: BTreeMap::new(),
        logs_ref: String::new(),
        snapshot: String::new(),
        explanation,
        kind: None,
        host: Some(host.to_owned()),
        checks: None,
        known: Some(true),
        signature: None,
    }
}

/// The answer to a request that breaks `rule`: nothing was done.
pub fn refused(id: Uuid, host: &str, rule: &str, why: &str) -> RunnerResult {
    let explanation = format!("Refused ({rule}): {}", sentence(why));
    RunnerResult { kind: Some(REJECTED.to_owned()), ..failed(id, host, explanation) }
}

/// The answer to a request that was begun in a former life of the runner.
pub fn unknown(id: Uuid, host: &str) -> RunnerResult {
    let explanation = "The runner ended between start and finish, so it is not known whether \
                       the action took place; it is never run again under this request.";
    let kind = Some("TASK_STARTED".to_owned());
    RunnerResult { kind, known: Some(false), ..failed(id, host, explanation.to_owned()) }
}

/// The answer to a request whose operations were carried out, in order, until one failed.
pub fn done(id: Uuid, host: &str, outcomes: Vec<Outcome>) -> RunnerResult {
    let mut result = failed(id, host, String::new());
    let mut checks = BTreeMap::new();
    let mut sentences = Vec::new();
    for outcome in outcomes {
        result.status = outcome.status;
        result.metrics.extend(outcome.metrics);
        checks.extend(outcome.checks);
        for (field, value) in
            [(&mut result.snapshot, outcome.snapshot), (&mut result.logs_ref, outcome.logs_ref)]
        {
            if !value.is_empty() {
                *field = value;
            }
        }
        sentences.push(outcome.explanation);
    }
    result.explanation = sentences.join(" ");
    result.checks = (!checks.is_empty()).then_some(checks);
    result.kind = Some("TASK_COMPLETED".to_owned());
    result
}

/// Signs an answer.
pub fn sign(mut result: RunnerResult, key: &KeyPair) -> RunnerResult {
    result.signature = None;
    result.signature = Some(signature_text(&key.sign(RESULT_DOMAIN, &result.statement())));
    result
}

/// Whether the runner of `key` on `host` gave this answer to request `id`. Who takes an answer
/// names all three from what it knows itself, never from the answer (C12).
pub fn is_by(result: &RunnerResult, id: &Uuid, host: &str, key: &PublicKey) -> bool {
    let signature = result.signature.as_deref().and_then(signature_from_text);
    result.id == *id
        && result.host.as_deref() == Some(host)
        && signature.is_some_and(|it| key.verify(RESULT_DOMAIN, &result.statement(), &it))
}
