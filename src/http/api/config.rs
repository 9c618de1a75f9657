//! Configuration: a signed entry in every partition that it belongs to.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use schemas::Place;
use schemas::event::{CONFIG_DOMAIN, ConfigActivated};
use schemas::signature::signature_from_text;
use serde_json::{Value, json};
use topologies::config::Service;

use super::{App, Wait, human, journaled, parse, problem};
use crate::engine::{Input, bookkeeping, fold};
use crate::node::parts::Part;

/// Whether a service says another name than the one that it would be registered under: what looks
/// it up and what acts on it would mean two services.
fn misnamed(config: &ConfigActivated) -> Option<String> {
    let name = config.name.strip_prefix("service/")?;
    let body = config.body.as_deref().unwrap_or_default();
    let said = serde_json::from_str::<Service>(body).ok()?.name;
    (said != name).then(|| {
        format!(
            "body.name is {said:?} and must be {name:?}, as `name` says; sign it anew with that"
        )
    })
}

/// `POST /api/v1/config`: a signed `config.activated.v1`. Each partition judges for itself, so
/// sending it again completes what one of them has missed; `places` names the entry in each.
pub async fn config(State(app): State<App>, Query(wait): Query<Wait>, body: Bytes) -> Response {
    let config: ConfigActivated = match parse(&body) {
        Ok(config) => config,
        Err(response) => return response,
    };
    if config.name.starts_with("runner/") {
        let why =
            "a runner is registered by the node that it calls, or with `healwright node admit`";
        return problem(StatusCode::FORBIDDEN, "not_by_hand", why);
    }
    if let Some(wrong) = misnamed(&config) {
        return problem(StatusCode::BAD_REQUEST, "malformed", wrong);
    }
    let parts = app.0.parts.of_config(&config.name);
    let asked: Vec<_> = parts
        .iter()
        .map(|part| tokio::spawn(activate(part.clone(), config.clone(), wait.clone())))
        .collect();
    let mut taken = Vec::new();
    let mut refused: Option<(u32, Response)> = None;
    for (part, asked) in parts.iter().zip(asked) {
        let answer = match asked.await {
            Ok(Ok(said)) => {
                taken.push(said);
                continue;
            }
            Ok(Err(answer)) => answer,
            Err(error) => stopped(&format!("the request ended: {error}")),
        };
        refused.get_or_insert((part.number, answer));
    }
    match refused {
        Some((_, answer)) if parts.len() == 1 => answer,
        Some((number, answer)) => {
            let why = format!(
                "partition {number} has not taken it ({}), {} of {} have; send it again",
                answer.status(),
                taken.len(),
                parts.len()
            );
            problem(answer.status(), "not_everywhere", why)
        }
        None => everywhere(taken),
    }
}

/// What did not go well in one partition is what the sender must know.
fn everywhere(taken: Vec<(StatusCode, Value)>) -> Response {
    let places: Vec<Value> = taken.iter().map(|(_, body)| body["place"].clone()).collect();
    let worst = taken.into_iter().max_by_key(|(status, _)| *status);
    let Some((status, mut body)) = worst else { return stopped("there is no partition") };
    body["places"] = places.into();
    (status, Json(body)).into_response()
}

fn stopped(why: &str) -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "stopped", why)
}

/// A configuration in one partition. One that is in force there already is not journaled again.
async fn activate(
    part: Part,
    config: ConfigActivated,
    wait: Wait,
) -> Result<(StatusCode, Value), Response> {
    let (signer, name) = (config.approved_by.clone(), config.name.clone());
    let looked = part
        .engine
        .see(move |state| (fold::signer(state, &signer), bookkeeping::active_config(state, &name)));
    let (key, active) = looked.await.map_err(|_| stopped("the engine has stopped"))?;
    let is_in_force =
        |it: &bookkeeping::Active| it.digest == config.digest && it.version == config.version;
    if let Some(active) = active.filter(is_in_force) {
        let place = Place { partition: part.number, seq: active.seq }.to_string();
        return Ok((StatusCode::OK, json!({ "place": place, "repeated": true })));
    }
    let signature = config.signature.as_deref().and_then(signature_from_text);
    let signed = key
        .zip(signature)
        .is_some_and(|(key, signature)| key.verify(CONFIG_DOMAIN, &config.statement(), &signature));
    if !signed {
        let why = format!("{} is no registered signer of this", config.approved_by);
        return Err(problem(StatusCode::FORBIDDEN, "invalid_signer", why));
    }
    let (actor, key) = (human(&config.approved_by, None), config.name.clone());
    journaled(&part, Input::new(actor, key, config), &wait).await
}
