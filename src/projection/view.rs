//! The model as JSON: stable, with a `schema` field, times in RFC 3339 UTC.

use schemas::Ns;
use schemas::event::{IncidentChanged, IncidentStatus};
use serde_json::{Value, json};

use super::Standing;
use super::model::Model;
use super::parts::{IncidentView, Line, PartitionView, ServiceView};

/// The status document.
pub(super) fn status(model: &Model) -> Value {
    let now = crate::engine::wall_now();
    let services = model.services.iter().map(|(name, it)| service(model, name, it, now));
    let services: Vec<Value> = services.collect();
    let waiting: Vec<Value> = model
        .waiting()
        .iter()
        .map(|it| {
            json!({
                "proposal_id": it.proposal.proposal_id,
                "incident_id": it.proposal.incident_id,
                "playbook": it.proposal.playbook,
                "service": it.proposal.service,
                "plan_digest": it.proposal.plan_digest,
            })
        })
        .collect();
    let mode = model.mode();
    let partitions: Vec<Value> = model.partitions.iter().map(|(n, it)| partition(*n, it)).collect();
    json!({
        "schema": "healwright.status.v1",
        "mode": mode.map_or("unknown", |it| it.mode.as_str()),
        "mode_epoch": mode.map_or(0, |it| it.epoch),
        "mode_cause": mode.map(|it| &it.cause),
        "profile": model.profile.as_ref().map(|it| it.name.clone()),
        "signers": model.signers.keys.keys().collect::<Vec<_>>(),
        "single_signer": model.signers.keys.len() == 1,
        "services": services,
        "incidents_open": model.n_open(),
        "waiting": waiting,
        "entries": model.n_entries(),
        "epoch": model.partitions.values().map(|it| it.epoch).max(),
        "partitions": partitions,
        "since": model.since,
        "last_entry_at": model.wall,
    })
}

fn partition(number: u32, it: &PartitionView) -> Value {
    json!({
        "partition": number,
        "entries": it.next_seq,
        "epoch": it.epoch,
        "mode": it.mode.as_ref().map_or("unknown", |it| it.mode.as_str()),
    })
}

fn service(model: &Model, name: &str, it: &ServiceView, now: Ns) -> Value {
    let signals: serde_json::Map<String, Value> = it
        .signals
        .iter()
        .map(|(signal, (health, observed, at))| {
            let value = json!({ "health": health, "observed": observed, "judged_at": at });
            (signal.to_string(), value)
        })
        .collect();
    json!({
        "service": name,
        "host": it.config.host,
        "has_runner": !model.lacks_runner(it),
        "health": it.health(),
        "standing": Standing::of(model, it, now).words(),
        "sampled_at": it.curve.newest(),
        "signals": signals,
        "version": it.config.release.as_ref().map(|release| release.version.clone()),
        "attempts": it.attempts.len(),
        "refused": it.refused.as_ref().map(|(_, why)| why),
    })
}

/// `GET /api/incidents`.
pub(super) fn incidents(model: &Model, status: &str, limit: usize, offset: usize) -> Value {
    let wanted = |it: &&IncidentView| match status {
        "open" => it.incident.status != IncidentStatus::Resolved,
        "resolved" => it.incident.status == IncidentStatus::Resolved,
        _ => true,
    };
    let total = model.incidents().filter(wanted).count();
    let shown: Vec<&IncidentChanged> =
        model.incidents().filter(wanted).skip(offset).take(limit).map(|it| &it.incident).collect();
    json!({
        "schema": "healwright.incidents.v1",
        "incidents": shown,
        "total": total,
        "limit": limit,
        "offset": offset,
    })
}

/// One incident with its timeline.
pub(super) fn incident(view: &IncidentView) -> Value {
    let onset = view.incident.detected_at;
    let lines: Vec<Value> = view.lines.iter().map(|it| line(it, onset)).collect();
    json!({
        "schema": "healwright.incident.v1",
        "incident": view.incident,
        "escalated": view.escalated,
        "timeline": lines,
    })
}

fn line(it: &Line, onset: schemas::Ns) -> Value {
    json!({
        "place": it.place.to_string(),
        "at": it.at,
        "since_onset_s": it.at.as_s() - onset.as_s(),
        "type": it.kind.name(),
        "text": it.text,
        "by": it.by,
        "caused_by": it.from.map(|it| it.to_string()),
    })
}
