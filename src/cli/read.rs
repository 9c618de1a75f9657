//! Commands that only read: they open the data directory beside whatever is running and change
//! nothing in it.

use anyhow::{Context as _, bail};
use schemas::event::{Health, IncidentStatus};
use schemas::{Kind, Ns, Place};
use serde_json::json;

use super::{Id, Incident, Proposals, Slice};
use crate::config::duration_ms;
use crate::node::PARTITION;
use crate::out::{Colour, Out, local_time};
use crate::projection::{Line, Model, Projection, ProposalView, ServiceView, Standing};
use crate::session::Session;
use crate::words;

/// `healwright status`. The answer is no (exit 1) while a service is red or the mode is unknown
/// or frozen.
pub fn status(session: &Session, out: Out) -> anyhow::Result<bool> {
    let heads = session.signed_heads()?;
    let projection = session.projection()?;
    let running = session.running();
    let still = running.as_ref().and_then(|it| session.standing_still(it));
    if out.form == super::Form::Json {
        let mut status = projection.status();
        status["running"] = json!(running.is_some());
        status["stopped"] = json!(still);
        status["address"] = json!(running.as_ref().map(|it| it.http.clone()));
        status["verified_head"] = json!(heads.get(&PARTITION).map(|(size, _)| size));
        for partition in status["partitions"].as_array_mut().into_iter().flatten() {
            let number = partition["partition"].as_u64().and_then(|it| u32::try_from(it).ok());
            let head = number.and_then(|it| heads.get(&it));
            partition["verified_head"] = json!(head.map(|(size, _)| size));
        }
        out.json(&status);
    } else {
        let model = projection.model();
        match &still {
            Some(why) => out.line(&format!("■ The node stands still and heals nothing: {why}")),
            None => out.line(&sentence(&model, running.is_some())),
        }
        out.line("");
        let numbers = model.partitions.keys();
        let heads = numbers.map(|it| (*it, heads.get(it).cloned())).collect::<Vec<_>>();
        for line in facts(&model, &heads) {
            out.line(&line);
        }
        if !model.services.is_empty() {
            out.line("");
            services(&model, out);
        }
        for waiting in model.waiting() {
            out.line("");
            out.line(&format!("waits for you: {}", title(waiting)));
            let id = waiting.proposal.proposal_id.to_string();
            let id = short(&id);
            out.line(&format!("  healwright approve {id}    or    healwright reject {id}"));
        }
    }
    let model = projection.model();
    let well = model.services.values().all(|it| it.health() != Health::Red);
    Ok(well && still.is_none() && model.mode().is_some_and(|it| it.mode.allows_action()))
}

/// The status as a sentence.
pub fn sentence(model: &Model, running: bool) -> String {
    let n = model.services.len();
    let healing = match (running, model.mode()) {
        (false, _) => format!("Not running; {n} service{} under care.", were(n)),
        (true, Some(it)) if it.mode.allows_action() => {
            format!("Healing {n} service{};", plural(n))
        }
        (true, Some(it)) => format!("{}: nothing is changed on {n} services;", it.mode),
        (true, None) => "Mode unknown: nothing is changed;".to_owned(),
    };
    let (open, waiting) = (model.n_open(), model.waiting().len());
    let incidents = match (open, waiting) {
        (0, _) => "no incident open".to_owned(),
        (_, 0) => format!("{open} incident{} open", plural(open)),
        _ => format!("{open} incident{} open, {waiting} waiting for you", plural(open)),
    };
    let since =
        model.since.map(|it| format!("; {} entries since {}", model.n_entries(), local_time(it)));
    format!("{healing} {incidents}{}.", since.unwrap_or_default())
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn were(n: usize) -> &'static str {
    if n == 1 { " was" } else { "s were" }
}

fn facts(model: &Model, heads: &[(u32, Option<(u64, String)>)]) -> Vec<String> {
    let mode = model.mode().map_or_else(
        || "unknown (nothing is done)".to_owned(),
        |it| format!("{} (epoch {}: {})", it.mode, it.epoch, it.cause),
    );
    let profile = model.profile.as_ref().map_or("none", |it| it.name.as_str());
    let signers: Vec<&str> = model.signers.keys.keys().map(String::as_str).collect();
    let single = if signers.len() == 1 { "  SINGLE-SIGNER" } else { "" };
    let mut facts = vec![
        format!("mode       {mode}"),
        format!("profile    {profile}"),
        format!("can stop   {}{single}", signers.join(", ")),
    ];
    for (partition, head) in heads {
        let head = head.as_ref().map_or_else(
            || "none".to_owned(),
            |(size, root)| format!("{size} entries, root {}  {}", short(root), model.witnesses()),
        );
        let of = if heads.len() > 1 { format!("partition {partition}: ") } else { String::new() };
        facts.push(format!("last head  {of}{head}"));
    }
    facts
}

fn services(model: &Model, out: Out) {
    let rows: Vec<Vec<String>> = model.services.iter().map(|(n, it)| row(model, n, it)).collect();
    out.table(&["service", "health", "sample", "version", "budget", "note"], &rows);
}

fn row(model: &Model, name: &str, it: &ServiceView) -> Vec<String> {
    let now = crate::engine::wall_now();
    let newest = it.curve.newest();
    let age = newest.map_or_else(
        || "none".to_owned(),
        |at| format!("{} ago", words::span(now.since(at).as_s())),
    );
    let (max, window) = budget(model, it);
    let recent = it.attempts.iter().filter(|at| now.since(**at) < Ns::from_ms(window)).count();
    let left = max.saturating_sub(recent as u32);
    let budget = format!("{left} of {max} left in {}", words::span(window as f64 / 1000.0));
    let version = it.config.release.as_ref().map_or_else(String::new, |it| it.version.clone());
    let host = &it.config.host;
    let note = match &it.refused {
        Some((_, why)) => why.clone(),
        None if model.lacks_runner(it) => {
            format!(
                "no runner of host {host} is registered; `healwright node list` shows who waits"
            )
        }
        None => String::new(),
    };
    let standing = Standing::of(model, it, now).words();
    vec![name.to_owned(), standing, age, version, budget, note]
}

fn budget(model: &Model, it: &ServiceView) -> (u32, u64) {
    let profile = model.profile.clone().unwrap_or_default();
    let max =
        if it.config.attempts_max > 0 { it.config.attempts_max } else { profile.attempts_max };
    let window = it.config.attempts_window_ms;
    (max, if window > 0 { window } else { profile.attempts_window_ms })
}

fn short(id: &str) -> &str {
    &id[..id.len().min(8)]
}

/// `healwright incident …`.
pub fn incident(session: &Session, out: Out, command: &Incident) -> anyhow::Result<bool> {
    let projection = session.projection()?;
    match command {
        Incident::List { status, slice } => {
            if !matches!(status.as_str(), "open" | "resolved" | "all") {
                bail!("--status {status:?} is none of open, resolved, all");
            }
            list_incidents(&projection, out, status, &Window::of(slice)?);
        }
        Incident::Show(Id { id }) => show_incident(&projection, out, id)?,
        Incident::Timeline(Id { id }) => {
            let model = projection.model();
            let view = found(model.incident(id), "incident", id)?;
            if out.form == super::Form::Json {
                out.json(&projection.incident_json(&view.incident.incident_id).unwrap_or_default());
            } else {
                timeline(out, view.incident.detected_at, &view.lines);
            }
        }
    }
    Ok(true)
}

fn list_incidents(projection: &Projection, out: Out, status: &str, window: &Window) {
    if out.form == super::Form::Json {
        out.json(&projection.incidents_json(status, window.limit.unwrap_or(50), 0));
        return;
    }
    let model = projection.model();
    let wanted = model.incidents().filter(|it| match status {
        "open" => it.incident.status != IncidentStatus::Resolved,
        "resolved" => it.incident.status == IncidentStatus::Resolved,
        _ => true,
    });
    let rows: Vec<Vec<String>> = wanted
        .filter(|it| window.holds(it.incident.detected_at))
        .take(window.limit.unwrap_or(50))
        .map(|it| {
            let took = it.incident.resolved_at.map(|at| words::took(at - it.incident.detected_at));
            vec![
                it.incident.incident_id.clone(),
                it.incident.status.to_string(),
                it.incident.severity.to_string(),
                local_time(it.incident.detected_at),
                took.unwrap_or_default(),
                it.incident.summary.clone(),
            ]
        })
        .collect();
    if rows.is_empty() {
        out.remark("no incidents; `healwright status` says whether anything is watched");
    }
    out.table(&["incident", "status", "severity", "detected", "took", "what"], &rows);
}

fn show_incident(projection: &Projection, out: Out, id: &str) -> anyhow::Result<()> {
    let model = projection.model();
    let view = found(model.incident(id), "incident", id)?;
    if out.form == super::Form::Json {
        out.json(&projection.incident_json(&view.incident.incident_id).unwrap_or_default());
        return Ok(());
    }
    let incident = &view.incident;
    out.line(&out.paint(Colour::Bold, &format!("{}  {}", incident.incident_id, incident.summary)));
    out.line(&format!("status     {} ({})", incident.status, incident.severity));
    out.line(&format!("detected   {}", local_time(incident.detected_at)));
    if let Some(at) = incident.resolved_at {
        let took = words::took(at - incident.detected_at);
        out.line(&format!("resolved   {}, after {took}", local_time(at)));
    }
    for (heading, kinds) in SECTIONS {
        let lines: Vec<&Line> = view.lines.iter().filter(|it| kinds.contains(&it.kind)).collect();
        if !lines.is_empty() {
            out.line("");
            out.line(&out.paint(Colour::Bold, heading));
            lines.iter().for_each(|it| out.line(&format!("  {}", it.text)));
        }
    }
    out.line("");
    out.line(&format!("line by line: healwright incident timeline {}", incident.incident_id));
    Ok(())
}

/// The parts of an incident, in the order in which a person asks for them.
const SECTIONS: &[(&str, &[Kind])] = &[
    ("what was seen", &[Kind::SloAnomalyDetected, Kind::ChangeObserved, Kind::DeployState]),
    ("what is inferred", &[Kind::RcaHypothesis]),
    (
        "what was decided",
        &[
            Kind::HealTriggerEvaluated,
            Kind::RemediationProposed,
            Kind::L1ConsensusResult,
            Kind::L2ConsensusResult,
            Kind::GovernanceDecision,
            Kind::ApprovalGiven,
        ],
    ),
    ("what was done", &[Kind::RunnerResult, Kind::L3ExecutionResult, Kind::HealEscalated]),
];

fn timeline(out: Out, onset: Ns, lines: &[Line]) {
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|it| {
            let after = it.at.as_s() - onset.as_s();
            vec![format!("{after:+.1} s"), it.place.short(), it.by.clone(), it.text.clone()]
        })
        .collect();
    out.table(&["after", "entry", "by", "what"], &rows);
}

/// `healwright proposals …`.
pub fn proposals(session: &Session, out: Out, command: &Proposals) -> anyhow::Result<bool> {
    let projection = session.projection()?;
    let model = projection.model();
    match command {
        Proposals::List { slice } => {
            let window = Window::of(slice)?;
            let mut listed: Vec<&ProposalView> = model.proposals.values().collect();
            listed.retain(|it| window.holds(it.at));
            listed
                .sort_by_key(|it| (!it.waits_for_a_person(), std::cmp::Reverse((it.at, it.place))));
            listed.truncate(window.limit.unwrap_or(50));
            if out.form == super::Form::Json {
                let all: Vec<_> = listed.iter().map(|it| proposal_json(it)).collect();
                out.json(&json!({ "schema": "healwright.proposals.v1", "proposals": all }));
                return Ok(true);
            }
            let rows: Vec<Vec<String>> = listed
                .iter()
                .map(|it| {
                    vec![
                        short(&it.proposal.proposal_id.to_string()).to_owned(),
                        it.stands().to_owned(),
                        local_time(it.at),
                        title(it),
                    ]
                })
                .collect();
            if rows.is_empty() {
                out.remark("no proposals yet");
            }
            out.table(&["proposal", "stands", "made", "what"], &rows);
        }
        Proposals::Show(Id { id }) => {
            let view = found(model.proposal(id), "proposal", id)?;
            if out.form == super::Form::Json {
                out.json(&proposal_json(view));
            } else {
                show_proposal(out, view);
            }
        }
    }
    Ok(true)
}

/// A proposal as JSON.
pub fn proposal_json(it: &ProposalView) -> serde_json::Value {
    json!({
        "schema": "healwright.proposal.v1",
        "proposal": it.proposal,
        "stands": it.stands(),
        "decision": it.decision,
        "approvals": it.approvals,
        "result": it.result,
        "place": it.place.to_string(),
    })
}

/// A proposal on one screen.
pub fn show_proposal(out: Out, view: &ProposalView) {
    let it = &view.proposal;
    out.line(&out.paint(Colour::Bold, &format!("{}  {}", it.proposal_id, title(view))));
    out.line(&format!("stands       {}", view.stands()));
    out.line(&format!("incident     {}", it.incident_id));
    out.line(&format!("ops          {}", it.ops.join(", ")));
    out.line(&format!("undone by    {}", it.rollback));
    out.line(&format!("impact       {}, reaches {} service(s)", it.impact, it.blast_radius));
    out.line(&format!("confidence   {:.2}", it.confidence));
    out.line(&format!("plan digest  {}", it.plan_digest.as_deref().unwrap_or("none")));
    for line in view.lines.iter().skip(1) {
        out.line(&format!("  {}", line.text));
    }
}

fn title(it: &ProposalView) -> String {
    let service = it.proposal.service.as_deref().unwrap_or("?");
    format!("{} {service}", it.proposal.playbook.replace('_', " "))
}

/// `healwright explain ID`: whatever the id is of.
pub fn explain(session: &Session, out: Out, id: &str) -> anyhow::Result<bool> {
    let projection = session.projection()?;
    if projection.model().incident(id).is_some() {
        show_incident(&projection, out, id)?;
        return Ok(true);
    }
    let model = projection.model();
    if let Some(view) = model.proposal(id) {
        show_proposal(out, view);
        return Ok(true);
    }
    drop(model);
    let Ok(place) = id.parse::<Place>() else {
        bail!(
            "no incident, proposal or entry {id:?}; `healwright incident list` shows what there is"
        );
    };
    entry_with_causes(session, out, place)?;
    Ok(true)
}

/// An entry and what it came from, newest first.
fn entry_with_causes(session: &Session, out: Out, place: Place) -> anyhow::Result<()> {
    let log = session.log_of(place.partition)?;
    let mut next = Some(place.seq);
    while let Some(seq) = next {
        let batches = log.read(seq, 1)?;
        let entry = batches.iter().flat_map(|it| &it.entries).find(|it| it.envelope.seq == seq);
        let entry = entry.with_context(|| format!("the journal has no entry {seq}"))?;
        if out.form == super::Form::Json {
            out.json(&schemas::view::entry(entry));
        } else {
            let text = entry.event().map_or_else(|it| it.to_string(), |it| words::sentence(&it));
            let envelope = &entry.envelope;
            let when = local_time(envelope.wall);
            out.line(&format!("{}  {when}  {}  {text}", envelope.reference(), envelope.actor.id));
        }
        next = match &entry.envelope.cause {
            schemas::Cause::Derived { from, .. } => Some(*from),
            schemas::Cause::Observed { .. } | schemas::Cause::Owner { .. } => None,
        };
    }
    Ok(())
}

fn found<'a, T>(it: Option<&'a T>, what: &str, id: &str) -> anyhow::Result<&'a T> {
    it.with_context(|| format!("no single {what} is called {id:?}; list them to see their ids"))
}

/// `--since`, `--until`, `--limit`.
pub(super) struct Window {
    from: Ns,
    to: Ns,
    pub(super) limit: Option<usize>,
}

impl Window {
    pub(super) fn of(slice: &Slice) -> anyhow::Result<Self> {
        let now = crate::engine::wall_now();
        let ago = |text: &Option<String>| -> anyhow::Result<Option<Ns>> {
            let Some(text) = text else { return Ok(None) };
            let ms = duration_ms(text).with_context(|| format!("{text:?} is no time, as in 2h"))?;
            Ok(Some(now - Ns::from_ms(ms)))
        };
        Ok(Window {
            from: ago(&slice.since)?.unwrap_or_default(),
            to: ago(&slice.until)?.unwrap_or(Ns(u64::MAX)),
            limit: slice.limit,
        })
    }

    pub(super) fn holds(&self, at: Ns) -> bool {
        self.from <= at && at <= self.to
    }
}
