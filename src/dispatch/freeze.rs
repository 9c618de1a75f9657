//! Freeze and unfreeze: the acknowledgement says which runners confirmed the new mode epoch and
//! which were waited out (protocol.md §7).

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use schemas::event::{FREEZE_DOMAIN, FreezeCommand, FreezeVerb, Mode};
use schemas::signature::signature_from_text;
use schemas::{Actor, ActorKind};
use serde_json::json;
use tokio::time::Instant;

use crate::engine::{Input, LEASE};
use crate::http::App;
use crate::http::api::problem;

/// Clocks of owner and runner may drift apart by this much within one lease.
const DRIFT: Duration = Duration::from_millis(200);

/// Journals a command and waits until nothing can start under the mode before it.
///
/// A command that is refused is journaled all the same, with its reason; the answer is 403 or
/// 409 then, and 503 when nothing is known to have been journaled.
pub async fn command(app: App, command: FreezeCommand) -> Response {
    let engine = app.0.engine.clone();
    let signer = command.signer_id.clone();
    let before = engine
        .ask(move |owner| (owner.signer(&signer), owner.look("mode", topologies::mode::current)));
    let Ok((key, mode)) = before.await else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "stopped", "the engine has stopped");
    };
    let signed =
        key.zip(signature_from_text(&command.signature)).is_some_and(|(key, signature)| {
            key.verify(FREEZE_DOMAIN, &command.statement(), &signature)
        });
    let key_id = key.map(|it| it.id());
    let actor = Actor { id: command.signer_id.clone(), kind: ActorKind::Human, key_id };
    let input = Input::new(actor, command.scope.clone(), command.clone());
    let sent = match engine.submit(&input).await {
        Ok(sent) => sent,
        Err(error) => {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "not_journaled", error.to_string());
        }
    };
    let journaled = tokio::time::timeout(Duration::from_secs(10), sent.answer).await;
    let Ok(Ok(answer)) = journaled else {
        let why = "the journal has not confirmed the command; the state stays as it was";
        return problem(StatusCode::SERVICE_UNAVAILABLE, "not_confirmed", why);
    };
    let read_linked = Instant::now();
    if !signed {
        let why = format!("{} is no registered signer of this command", command.signer_id);
        return problem(StatusCode::FORBIDDEN, "invalid_signer", why);
    }
    let was_frozen = mode.is_some_and(|(mode, _)| mode == Mode::Frozen);
    if command.command == FreezeVerb::Freeze && was_frozen {
        return problem(StatusCode::CONFLICT, "already_frozen", "frozen already");
    }
    let after = engine.ask(|owner| owner.look("mode", topologies::mode::current)).await;
    let Ok(Some((mode, epoch))) = after else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "unknown_mode", "the mode is unknown");
    };
    let wanted = command.command == FreezeVerb::Freeze;
    if wanted != (mode == Mode::Frozen) {
        let why = "the command was journaled and not accepted; see `healwright events list`";
        return problem(StatusCode::FORBIDDEN, "insufficient_quorum", why);
    }
    let (confirmed, waited) = confirmed_or_waited(&app, epoch, read_linked).await;
    let place = schemas::envelope::reference(app.0.partition, answer.seq);
    let status = if wanted { StatusCode::CREATED } else { StatusCode::OK };
    let body = json!({
        "incident_id": place,
        "place": place,
        "status": if wanted { "frozen" } else { "resolved" },
        "frozen_by": command.signer_id,
        "reason": command.reason,
        "mode_epoch": epoch,
        "unfreeze_requires": "full_quorum",
        "confirmed_by": confirmed,
        "waited_out": waited,
    });
    (status, Json(body)).into_response()
}

/// Every registered runner has confirmed `epoch`, or the lease that it may hold has ended.
async fn confirmed_or_waited(
    app: &App,
    epoch: u64,
    read_linked: Instant,
) -> (Vec<String>, Vec<String>) {
    let hosts = app.0.engine.ask(|owner| owner.look("config", topologies::config::hosts)).await;
    let hosts: Vec<String> = hosts.unwrap_or_default().into_iter().map(|it| it.host).collect();
    let confirmations = &app.0.confirmations;
    let mut changes = confirmations.changes();
    let deadline = read_linked + LEASE + DRIFT;
    while !hosts.iter().all(|host| confirmations.has(host, epoch)) {
        if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            break;
        }
    }
    hosts.into_iter().partition(|host| confirmations.has(host, epoch))
}
