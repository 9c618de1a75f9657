//! Freeze and unfreeze: the acknowledgement says which runners confirmed the new mode epoch and
//! which were waited out (protocol.md §7).
//!
//! Every partition has a mode of its own, so a command for all of them is journaled in each. A
//! node that is not in office hears no runner confirm and waits for every lease to end: a lease
//! that the owner granted before ends with what it sent before.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use schemas::event::{FREEZE_DOMAIN, FreezeCommand, FreezeVerb, Mode};
use schemas::signature::{PublicKey, signature_from_text};
use schemas::{Actor, ActorKind, Place};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::engine::{EngineError, Input, LEASE, fold};
use crate::http::api::problem;
use crate::node::parts::Part;

/// Clocks of owner and runner may drift apart by this much within one lease.
const DRIFT: Duration = Duration::from_millis(200);
/// The journal may take this long to confirm.
const WITHIN: Duration = Duration::from_secs(10);

/// What stands still here must not keep a command from being sent.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Why a command is not acknowledged.
struct Refusal(StatusCode, &'static str, String);

/// One partition under the new mode.
struct Acknowledged {
    place: Place,
    mode_epoch: u64,
    confirmed: Vec<String>,
    waited: Vec<String>,
}

/// Journals a command in `parts` and waits until nothing can start there under the mode before.
///
/// A command that is refused is journaled all the same, with its reason; the answer is 403 or
/// 409 then, and 503 when nothing is known to have been journaled. Of several partitions the
/// answer is the worst one's, with what became of each.
pub async fn command(parts: &[Part], command: &FreezeCommand) -> Response {
    let asked: Vec<_> =
        parts.iter().map(|part| tokio::spawn(one(part.clone(), command.clone()))).collect();
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for (part, asked) in parts.iter().zip(asked) {
        let crashed = |error: tokio::task::JoinError| {
            Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, "stopped", error.to_string()))
        };
        match asked.await.unwrap_or_else(crashed) {
            Ok(it) => done.push(it),
            Err(it) => refused.push((part.number, it)),
        }
    }
    let is_so = |it: &(u32, Refusal)| it.1.0 == StatusCode::CONFLICT;
    // So already in some partitions and now in the others is so in all.
    if let Some(first) = done.first().filter(|_| refused.iter().all(is_so)) {
        return acknowledge(first, &done, command);
    }
    let worst = refused.iter().max_by_key(|it| it.1.0);
    let Some((number, Refusal(status, code, why))) = worst else {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "stopped", "there is no partition");
    };
    if parts.len() == 1 {
        return problem(*status, code, why.clone());
    }
    let n_done = done.len();
    let why = format!("partition {number}: {why} ({n_done} of {} have taken it)", parts.len());
    problem(*status, code, why)
}

fn acknowledge(first: &Acknowledged, all: &[Acknowledged], command: &FreezeCommand) -> Response {
    let freezes = command.command == FreezeVerb::Freeze;
    let one = |it: &Acknowledged| -> Value {
        json!({
            "place": it.place.to_string(),
            "mode_epoch": it.mode_epoch,
            "confirmed_by": it.confirmed,
            "waited_out": it.waited,
        })
    };
    let mut body = one(first);
    body["incident_id"] = json!(first.place.to_string());
    body["status"] = json!(if freezes { "frozen" } else { "resolved" });
    body["frozen_by"] = json!(command.signer_id);
    body["reason"] = json!(command.reason);
    body["unfreeze_requires"] = json!("full_quorum");
    body["partitions"] = all.iter().map(one).collect();
    let hosts = |of: fn(&Acknowledged) -> &Vec<String>| -> Vec<&String> {
        let mut hosts: Vec<&String> = all.iter().flat_map(of).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    };
    body["confirmed_by"] = json!(hosts(|it| &it.confirmed));
    body["waited_out"] = json!(hosts(|it| &it.waited));
    let status = if freezes { StatusCode::CREATED } else { StatusCode::OK };
    (status, Json(body)).into_response()
}

/// What the folded state says of a command's signer and of the mode.
struct Standing {
    key: Option<PublicKey>,
    mode: Option<(Mode, u64)>,
}

/// Looks at the folded state, in office or not; `None` where the engine does not answer in time.
async fn standing(part: &Part, signer: &str, within: Duration) -> Option<Standing> {
    let signer = signer.to_owned();
    let seen = part.engine.see(move |state| {
        let mode = fold::look(state, "mode", topologies::mode::current);
        Standing { key: fold::signer(state, &signer), mode }
    });
    tokio::time::timeout(within, seen).await.ok()?.ok()
}

/// The command in one partition. It is sent before anything else is asked: what stands still
/// here may be well where the owner is.
async fn one(part: Part, command: FreezeCommand) -> Result<Acknowledged, Refusal> {
    let unavailable =
        |code, why: &str| Refusal(StatusCode::SERVICE_UNAVAILABLE, code, why.to_owned());
    let before = standing(&part, &command.signer_id, LOOK_WITHIN).await;
    let key_id = before.as_ref().and_then(|it| it.key).map(|it| it.id());
    let actor = Actor { id: command.signer_id.clone(), kind: ActorKind::Human, key_id };
    let input = Input::new(actor, command.scope.clone(), command.clone());
    let sent = tokio::time::timeout(WITHIN, part.engine.submit(&input)).await;
    let sent = sent.map_err(|_| unavailable("not_journaled", "the journal does not answer"))?;
    let sent = sent.map_err(|error| {
        if matches!(error, EngineError::Stopped { .. }) {
            // Every lease has an end, and none is granted by what stands still.
            let why = format!("{error}; nothing is started while it stands still");
            return unavailable("stopped", &why);
        }
        unavailable("not_journaled", &error.to_string())
    })?;
    let Ok(Ok(answer)) = tokio::time::timeout(WITHIN, sent.answer).await else {
        let why = "the command was sent and the journal has not confirmed it; whether it is in \
                   force is not known here";
        return Err(unavailable("not_confirmed", why));
    };
    let read_linked = Instant::now();
    let after = standing(&part, &command.signer_id, WITHIN).await;
    let Some(Standing { key, mode }) = after else {
        return Err(unavailable("stopped", "the engine has stopped"));
    };
    let signature = signature_from_text(&command.signature);
    let signed = key.zip(signature).is_some_and(|(key, signature)| {
        key.verify(FREEZE_DOMAIN, &command.statement(), &signature)
    });
    if !signed {
        let why = format!("{} is no registered signer of this command", command.signer_id);
        return Err(Refusal(StatusCode::FORBIDDEN, "invalid_signer", why));
    }
    let Some((mode, epoch)) = mode else {
        return Err(unavailable("unknown_mode", "the mode is unknown"));
    };
    let wanted = command.command == FreezeVerb::Freeze;
    if wanted != (mode == Mode::Frozen) {
        let why = "the command was journaled and not accepted; see `healwright events list`";
        return Err(Refusal(StatusCode::FORBIDDEN, "insufficient_quorum", why.to_owned()));
    }
    // Whoever froze it: that nothing starts any more is what is told, so it is waited for.
    let (confirmed, waited) = confirmed_or_waited(&part, epoch, read_linked).await;
    if before.and_then(|it| it.mode) == Some((mode, epoch)) {
        let (code, why) = match wanted {
            true => ("already_frozen", "frozen already"),
            false => ("not_frozen", "nothing is frozen"),
        };
        return Err(Refusal(StatusCode::CONFLICT, code, why.to_owned()));
    }
    let place = Place { partition: part.number, seq: answer.seq };
    Ok(Acknowledged { place, mode_epoch: epoch, confirmed, waited })
}

/// Every registered runner has confirmed `epoch`, or the lease that it may hold has ended.
async fn confirmed_or_waited(
    part: &Part,
    epoch: u64,
    read_linked: Instant,
) -> (Vec<String>, Vec<String>) {
    let deadline = read_linked + LEASE + DRIFT;
    let look = |state: &mut state::State| fold::look(state, "config", topologies::config::hosts);
    let hosts = tokio::time::timeout_at(deadline, part.engine.see(look)).await;
    let Ok(Ok(hosts)) = hosts else {
        // Whose runners there are is not known, so every lease may be one's.
        tokio::time::sleep_until(deadline).await;
        return (Vec::new(), Vec::new());
    };
    let hosts: Vec<String> = hosts.into_iter().map(|it| it.host).collect();
    let confirmations = &part.confirmations;
    let mut changes = confirmations.changes();
    while !hosts.iter().all(|host| confirmations.has(host, epoch)) {
        if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            break;
        }
    }
    hosts.into_iter().partition(|host| confirmations.has(host, epoch))
}
