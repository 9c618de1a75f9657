//! The API: what is posted becomes an input; the answer carries its place in the journal.

mod config;

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use schemas::event::{
    ApprovalGiven, ChangeObserved, FreezeCommand, FreezeVerb, ReleaseRequested, TelemetrySample,
};
use schemas::telemetry::Samples;
use schemas::{Actor, ActorKind, Event, Kind, canonical};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use self::config::config;
use super::App;
use super::gate::in_office;
use crate::engine::Input;
use crate::node::parts::Part;

/// How long a sender waits for its place; the input may still be journaled afterwards, and a
/// repeat with the same id then answers with that place.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// An error answer: a stable code, a sentence, a status.
pub fn problem(status: StatusCode, code: &str, message: impl Into<String>) -> Response {
    let body = json!({ "error": { "code": code, "message": message.into() } });
    (status, Json(body)).into_response()
}

#[expect(clippy::result_large_err, reason = "the refusal is the answer")]
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Response> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the body is not what is expected: {error}");
        problem(StatusCode::BAD_REQUEST, "malformed", message)
    })
}

/// What is wrong with a change's texts, if anything: names are names, and what is shown to people
/// is one line with nothing in it that hides or disguises. It is refused and not put right: what
/// was acknowledged stands in the journal as it was sent, and equal names have equal bytes.
fn wrong_text(change: &ChangeObserved) -> Option<String> {
    let ChangeObserved { id, service, version, reference, author, summary, .. } = change;
    let names = [("id", id), ("service", service)];
    let names = names.map(|(field, text)| (field, text, canonical::identifier(text)));
    let shown =
        [("version", version), ("ref", reference), ("author", author), ("summary", summary)];
    let shown = shown.map(|(field, text)| (field, text, canonical::prose(text)));
    names.into_iter().chain(shown).find_map(|(field, text, canonical)| match canonical {
        Ok(canonical) if canonical == *text => None,
        Ok(_) => Some(format!("`{field}`: it is not in Unicode's composed form (NFC)")),
        Err(error) => Some(format!("`{field}`: {error}")),
    })
}

/// Query of what becomes an input.
#[derive(Clone, Deserialize)]
pub struct Wait {
    wait: Option<String>,
}

/// Hands an input over and answers with its place: 201, or 200 for a repeat. On a shared log it
/// is acknowledged as soon as it is durable, with 202 and its position, unless the sender waits
/// for more (protocol.md §2).
async fn journal(part: &Part, input: Input, wait: &Wait) -> Response {
    match journaled(part, input, wait).await {
        Ok((status, body)) => (status, Json(body)).into_response(),
        Err(response) => response,
    }
}

/// Hands an input over: the status and the body that say what became of it.
async fn journaled(
    part: &Part,
    input: Input,
    wait: &Wait,
) -> Result<(StatusCode, Value), Response> {
    if let Some(other) = wait.wait.as_deref().filter(|it| *it != "journaled") {
        let message = format!("`wait` may be `journaled` and nothing else, not {other:?}");
        return Err(problem(StatusCode::BAD_REQUEST, "malformed", message));
    }
    // What no event can hold is the sender's, and sending it again would not help.
    if let Err(error) = input.event.encode() {
        let message = format!("the body cannot be journaled: {error}");
        return Err(problem(StatusCode::BAD_REQUEST, "malformed", message));
    }
    let unavailable = |code, why: &str| problem(StatusCode::SERVICE_UNAVAILABLE, code, why);
    let sent = part.engine.submit(&input).await;
    let mut sent = sent.map_err(|error| unavailable("not_journaled", &error.to_string()))?;
    let answered = if part.engine.is_shared() && wait.wait.is_none() {
        match sent.answer.try_recv() {
            Ok(answer) => Ok(Ok(answer)),
            Err(_) => {
                let stream = schemas::event::stream_name(sent.stream);
                let (partition, position) = (part.number, sent.position);
                let body =
                    json!({ "stream": stream, "partition": partition, "position": position });
                return Ok((StatusCode::ACCEPTED, body));
            }
        }
    } else {
        tokio::time::timeout(ANSWER_WITHIN, sent.answer).await
    };
    let Ok(Ok(answer)) = answered else {
        let again = "send it again with the same id";
        return Err(match part.engine.stopped() {
            Some(why) => unavailable("not_confirmed", &format!("{why}; once it runs, {again}")),
            None => unavailable(
                "not_confirmed",
                &format!("the journal has not confirmed the event; {again}"),
            ),
        });
    };
    let place = schemas::envelope::reference(part.number, answer.seq);
    if let Some(reason) = answer.refused {
        let body = json!({ "error": { "code": "refused", "message": reason }, "place": place });
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, body));
    }
    let status = if answer.repeated { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, json!({ "place": place, "repeated": answer.repeated })))
}

fn human(id: &str, key_id: Option<String>) -> Actor {
    Actor { id: id.to_owned(), kind: ActorKind::Human, key_id }
}

/// `POST /api/v1/changes`.
pub async fn change(State(app): State<App>, Query(wait): Query<Wait>, body: Bytes) -> Response {
    let change: ChangeObserved = match parse(&body) {
        Ok(change) => change,
        Err(response) => return response,
    };
    if let Some(wrong) = wrong_text(&change) {
        return problem(StatusCode::BAD_REQUEST, "malformed", wrong);
    }
    let author = if change.author.is_empty() { "api" } else { &change.author };
    let actor = Actor { id: author.to_owned(), kind: ActorKind::Agent, key_id: None };
    let key = change.service.clone();
    journal(app.0.parts.of_service(&key), Input::new(actor, key.clone(), change), &wait).await
}

/// `POST /api/v1/telemetry`: one `telemetry.sample.v1` as JSON.
pub async fn telemetry(State(app): State<App>, body: Bytes) -> Response {
    let sample: TelemetrySample = match parse(&body) {
        Ok(sample) => sample,
        Err(response) => return response,
    };
    // The whole of it is looked at before it is taken apart: the parts of what is malformed may
    // look well.
    let encoded = Event::from(sample.clone()).encode();
    let counted = encoded.and_then(|it| Samples::decode(&it).map(|samples| samples.len()));
    let n_samples = match counted {
        Ok(n) => n,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "malformed", error.to_string()),
    };
    let mut records = Vec::new();
    for (part, sample) in app.0.parts.split(sample) {
        match Event::from(sample).encode() {
            Ok(record) => records.push((part.engine.clone(), record)),
            Err(error) => return problem(StatusCode::BAD_REQUEST, "malformed", error.to_string()),
        }
    }
    // The write waits for the disk, so it does not belong on a thread that serves sockets.
    let stored = tokio::task::spawn_blocking(move || {
        let mut records = records.into_iter();
        records.try_for_each(|(engine, record)| engine.telemetry(&[record]))
    });
    match stored.await {
        Ok(Ok(())) => (StatusCode::ACCEPTED, Json(json!({ "samples": n_samples }))).into_response(),
        Ok(Err(error)) => problem(StatusCode::SERVICE_UNAVAILABLE, "not_stored", error.to_string()),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "not_stored", error.to_string()),
    }
}

/// `POST /api/v1/releases`: a signed `release.requested.v1`.
pub async fn release(State(app): State<App>, Query(wait): Query<Wait>, body: Bytes) -> Response {
    let release: ReleaseRequested = match parse(&body) {
        Ok(release) => release,
        Err(response) => return response,
    };
    let (actor, key) = (human(&release.requested_by, None), release.service.clone());
    journal(app.0.parts.of_service(&key), Input::new(actor, key.clone(), release), &wait).await
}

/// `POST /api/v1/approvals`: a signed `approval.given.v1`.
pub async fn approval(State(app): State<App>, Query(wait): Query<Wait>, body: Bytes) -> Response {
    let approval: ApprovalGiven = match parse(&body) {
        Ok(approval) => approval,
        Err(response) => return response,
    };
    let (actor, key) = (human(&approval.approver, None), approval.proposal_id.to_string());
    let known = app.0.projection.model().partition_of(approval.proposal_id);
    let part = match known.and_then(|it| app.0.parts.get(it)) {
        Some(part) => part,
        // The only partition refuses what it does not know, and says so in its journal.
        None if app.0.parts.all().len() == 1 => app.0.parts.first(),
        None => {
            let why = format!(
                "no proposal {} is known on this node; if it was made just now, try again",
                approval.proposal_id
            );
            return problem(StatusCode::NOT_FOUND, "unknown_proposal", why);
        }
    };
    journal(part, Input::new(actor, key, approval), &wait).await
}

/// Body of `POST /api/v1/skip`.
#[derive(Deserialize)]
pub struct Skip {
    #[serde(default)]
    partition: u32,
    stream: String,
    position: u64,
    reason: String,
    signer_id: String,
    signature: String,
}

/// Domain of a person's decision to pass over an input.
pub const SKIP_DOMAIN: &str = "healwright/skip/v2";

/// What a person signs to pass over an input.
pub fn skip_statement(partition: u32, stream: &str, position: u64, reason: &str) -> Vec<u8> {
    let mut out = schemas::wire::Writer::default();
    out.u32(partition).text(stream).u64(position).text(reason);
    out.0
}

/// `POST /api/v1/skip`: passes over an input whose fold panicked.
pub async fn skip(State(app): State<App>, uri: Uri, body: Bytes) -> Response {
    let skip: Skip = match parse(&body) {
        Ok(skip) => skip,
        Err(response) => return response,
    };
    let part = match part(&app, skip.partition) {
        Ok(part) => part,
        Err(response) => return response,
    };
    if let Err(elsewhere) = in_office(part, &uri) {
        return elsewhere;
    }
    let stream = match skip.stream.as_str() {
        "inbox" => schemas::Stream::Inbox,
        "control" => schemas::Stream::Control,
        "telemetry" => schemas::Stream::Telemetry,
        _ => return problem(StatusCode::BAD_REQUEST, "malformed", "no such stream"),
    };
    let reason = format!("passed over by {}: {}", skip.signer_id, skip.reason);
    let statement = skip_statement(skip.partition, &skip.stream, skip.position, &skip.reason);
    let done = part.engine.ask(move |owner| {
        let signed = owner.signer(&skip.signer_id).is_some_and(|key| {
            schemas::signature::signature_from_text(&skip.signature)
                .is_some_and(|signature| key.verify(SKIP_DOMAIN, &statement, &signature))
        });
        signed.then(|| owner.pass_over(stream, skip.position, &reason))
    });
    match done.await {
        Ok(Some(true)) => (StatusCode::OK, Json(json!({ "skipped": true }))).into_response(),
        Ok(Some(false)) => {
            let why = "the partition does not stand still at that input; nothing is passed over";
            problem(StatusCode::CONFLICT, "not_stopped_there", why)
        }
        Ok(None) => {
            let why = "no registered signer signed this; `healwright repair skip` does";
            problem(StatusCode::FORBIDDEN, "invalid_signer", why)
        }
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "stopped", "the engine has stopped"),
    }
}

#[expect(clippy::result_large_err, reason = "the refusal is the answer")]
fn part(app: &App, number: u32) -> Result<&Part, Response> {
    let known = app.0.parts.get(number);
    known.ok_or_else(|| {
        let n_partitions = app.0.parts.all().len();
        let why = format!("there is no partition {number}; this system has {n_partitions}");
        problem(StatusCode::NOT_FOUND, "unknown_partition", why)
    })
}

/// `POST /api/incidents/freeze`: acknowledged once it is folded and every runner has confirmed
/// the new mode epoch or been waited out (protocol.md §7). It is of all partitions; where there
/// are several, any node answers.
pub async fn freeze(State(app): State<App>, uri: Uri, body: Bytes) -> Response {
    command(app, &uri, &body, FreezeVerb::Freeze).await
}

/// `POST /api/incidents/unfreeze`.
pub async fn unfreeze(State(app): State<App>, uri: Uri, body: Bytes) -> Response {
    command(app, &uri, &body, FreezeVerb::Unfreeze).await
}

async fn command(app: App, uri: &Uri, body: &Bytes, verb: FreezeVerb) -> Response {
    let command: FreezeCommand = match parse(body) {
        Ok(command) => command,
        Err(response) => return response,
    };
    if command.command != verb {
        let message = format!("`command` must be `{verb}` here");
        return problem(StatusCode::BAD_REQUEST, "malformed", message);
    }
    let parts = app.0.parts.all();
    // The only owner hears from its runners and need not wait for their leases to end.
    if let [part] = parts
        && let Err(elsewhere) = in_office(part, uri)
    {
        return elsewhere;
    }
    crate::dispatch::command(parts, &command).await
}

/// `GET /healthz`: the process answers.
pub async fn healthz() -> Json<Value> {
    Json(json!({ "status": "healthy" }))
}

/// `GET /readyz`: no partition is stopped, and this node is their owner or follows it.
pub async fn readyz(State(app): State<App>) -> Response {
    let (mut entries, mut here) = (0, 0);
    for part in app.0.parts.all() {
        let moved = part.engine.follow().borrow().clone();
        if let Some(why) = moved.stopped {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "stopped", why);
        }
        entries += moved.next_seq;
        here += usize::from(part.engine.seat().borrow().here);
    }
    let partitions = app.0.parts.all().len();
    let office = match here {
        0 => "elsewhere",
        n if n == partitions => "here",
        _ => "shared",
    };
    let body = json!({
        "status": "ready", "entries": entries, "office": office,
        "partitions": partitions, "in_office": here,
    });
    (StatusCode::OK, Json(body)).into_response()
}

/// `GET /metrics`.
pub async fn metrics(State(app): State<App>) -> String {
    app.0.metrics.render()
}

/// `GET /api/v1/status`.
pub async fn status(State(app): State<App>) -> Json<Value> {
    let mut status = app.0.projection.status();
    status["stopped"] = json!(app.0.parts.stopped());
    Json(status)
}

/// Query of `GET /api/incidents`.
#[derive(Deserialize)]
pub struct IncidentQuery {
    status: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// `GET /api/incidents` (spec 80 §19).
pub async fn incidents(State(app): State<App>, Query(query): Query<IncidentQuery>) -> Response {
    let status = query.status.as_deref().unwrap_or("all");
    if !matches!(status, "open" | "resolved" | "all") {
        let message = format!("status {status:?} is none of open, resolved, all");
        return problem(StatusCode::BAD_REQUEST, "malformed", message);
    }
    let (limit, offset) = (query.limit.unwrap_or(50).min(1000), query.offset.unwrap_or(0));
    Json(app.0.projection.incidents_json(status, limit, offset)).into_response()
}

/// `GET /api/v1/incidents/{id}`.
pub async fn incident(State(app): State<App>, Path(id): Path<String>) -> Response {
    match app.0.projection.incident_json(&id) {
        Some(incident) => Json(incident).into_response(),
        None => problem(StatusCode::NOT_FOUND, "unknown_incident", format!("no incident {id}")),
    }
}

/// The kinds that the API takes, for the documentation test.
pub const TAKEN: &[Kind] = &[
    Kind::ChangeObserved,
    Kind::TelemetrySample,
    Kind::ReleaseRequested,
    Kind::ApprovalGiven,
    Kind::ConfigActivated,
    Kind::FreezeCommand,
];
