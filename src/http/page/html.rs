//! The HTML of the page, from the model. Text from the journal passes through [`esc`].

use std::fmt::Write as _;

use ledger::entry::EntryProof;
use schemas::event::{Health, IncidentStatus};
use schemas::{Entry, Kind, Ns};

use crate::engine::wall_now;
use crate::out::local_time;
use crate::projection::{IncidentView, Line, Model, ServiceView};
use crate::words;

/// Incidents shown on the first page; the rest by `healwright incident list`.
const RECENT: usize = 50;

/// Text that cannot become markup.
pub(super) fn esc(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for it in crate::out::printable(text).chars() {
        match it {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(it),
        }
    }
    safe
}

fn shell(title: &str, main: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><link rel=\"stylesheet\" href=\"/style.css\">\
         <link rel=\"icon\" href=\"data:,\"></head><body>\
         <header><strong><a href=\"/\">Healwright</a></strong>\
         <span class=\"end\"><span id=\"refreshed\">not live</span> \
         <button id=\"pause\" hidden>pause</button></span></header>\
         <p id=\"keys\" class=\"dim\" hidden>j and k move, enter opens, u goes up, ? hides this</p>\
         <main>{main}</main><script src=\"/live.js\" defer></script></body></html>"
    )
}

/// A page for something that is not there.
pub(super) fn missing(what: &str, id: &str) -> String {
    let main = format!(
        "<h1>No {what} {}</h1><p>It may be older than what is shown here; \
         <code>healwright {} list</code> reads the whole journal.</p>",
        esc(id),
        if what == "entry" { "events" } else { what }
    );
    shell("not found", &main)
}

/// Now: the sentence of `status`, what waits for a person, services, incidents.
pub(super) fn now(model: &Model, stopped: Option<&str>) -> String {
    let mut main = String::new();
    if let Some(why) = stopped {
        let _ = write!(main, "<p class=\"card waits red\">■ stopped: {}</p>", esc(why));
    }
    let sentence = crate::cli::read::sentence(model, true);
    let _ = write!(main, "<h1>{}</h1>", esc(&sentence));
    waiting(&mut main, model);
    services(&mut main, model);
    incidents(&mut main, model);
    facts(&mut main, model);
    shell("Healwright — now", &main)
}

fn waiting(main: &mut String, model: &Model) {
    for it in model.waiting() {
        let proposal = &it.proposal;
        let id = proposal.proposal_id.to_string();
        let why = it.decision.iter().flat_map(|it| &it.reasons).map(|it| esc(it));
        let _ = write!(
            main,
            "<div class=\"card waits\"><strong>waits for you:</strong> {} {} \
             <p class=\"dim\">{}</p><code>healwright approve {}</code> or \
             <code>healwright reject {}</code> · \
             <a data-row id=\"w{}\" href=\"/incidents/{}\">why</a></div>",
            esc(&proposal.playbook.replace('_', " ")),
            esc(proposal.service.as_deref().unwrap_or_default()),
            why.collect::<Vec<_>>().join("; "),
            &id[..8],
            &id[..8],
            &id[..8],
            esc(&proposal.incident_id),
        );
    }
}

fn services(main: &mut String, model: &Model) {
    main.push_str("<h2>Services</h2>");
    if model.services.is_empty() {
        main.push_str(
            "<p class=\"card\">Nothing is watched yet. Try <code>healwright watch --http \
             http://127.0.0.1:8000/ --start \"python3 -m http.server 8000\"</code>.</p>",
        );
        return;
    }
    main.push_str(
        "<div class=\"wide\"><table><thead><tr><th>service<th>health<th>signals<th>version\
         <th>judged<th>note</thead><tbody>",
    );
    for (name, it) in &model.services {
        service(main, name, it);
    }
    main.push_str("</tbody></table></div>");
}

fn service(main: &mut String, name: &str, it: &ServiceView) {
    let judged = it.signals.values().map(|(_, _, at)| *at).max();
    let judged = judged.map_or_else(
        || "learning …".to_owned(),
        |at| format!("{} ago", words::span((wall_now() - at).as_s())),
    );
    let signals: Vec<String> = it
        .signals
        .iter()
        .map(|(signal, (health, _, _))| {
            format!("{} {}", words::signal_name(*signal), mark(*health))
        })
        .collect();
    let version = it.config.release.as_ref().map(|it| esc(&it.version)).unwrap_or_default();
    let note = it.refused.as_ref().map(|(_, why)| esc(why)).unwrap_or_default();
    let _ = write!(
        main,
        "<tr><td>{}<td>{}<td class=\"dim\">{}<td>{version}<td class=\"dim\">{judged}<td>{note}",
        esc(name),
        mark(it.health()),
        signals.join("<br>"),
    );
}

fn mark(health: Health) -> String {
    let class = match health {
        Health::Green => "ok",
        Health::Amber => "amber",
        Health::Red => "red",
        Health::Unknown => "unknown",
    };
    format!("<span class=\"{class}\">{}</span>", words::mark(health))
}

fn incidents(main: &mut String, model: &Model) {
    main.push_str("<h2>Incidents</h2>");
    let mut rows = model.incidents().take(RECENT).peekable();
    if rows.peek().is_none() {
        main.push_str("<p class=\"dim\">None so far.</p>");
        return;
    }
    main.push_str(
        "<div class=\"wide\"><table><thead><tr><th>incident<th>status<th>what<th>detected\
         <th>took</thead><tbody>",
    );
    for view in rows {
        let it = &view.incident;
        let took = it.resolved_at.map(|at| words::span((at - it.detected_at).as_s()));
        let id = esc(&it.incident_id);
        let _ = write!(
            main,
            "<tr><td><a data-row id=\"r{id}\" href=\"/incidents/{id}\">{id}</a><td>{}<td>{}\
             <td class=\"dim\">{}<td>{}",
            status(view),
            esc(&it.summary),
            local_time(it.detected_at),
            took.unwrap_or_default(),
        );
    }
    main.push_str("</tbody></table></div>");
}

fn status(view: &IncidentView) -> &'static str {
    match view.incident.status {
        IncidentStatus::Resolved => "<span class=\"ok\">● resolved</span>",
        IncidentStatus::Open | IncidentStatus::Mitigating if view.escalated => {
            "<span class=\"amber\">▲ with people</span>"
        }
        IncidentStatus::Mitigating => "<span class=\"amber\">▲ being healed</span>",
        IncidentStatus::Open => "<span class=\"red\">■ open</span>",
    }
}

fn facts(main: &mut String, model: &Model) {
    let (mode, cause) = model.mode.as_ref().map_or_else(
        || ("unknown", String::new()),
        |it| (it.0.as_str(), format!(" — {}", esc(&it.2))),
    );
    let signers: Vec<String> = model.signers.keys.keys().map(|it| esc(it)).collect();
    let single = if signers.len() == 1 { " · SINGLE-SIGNER" } else { "" };
    let profile = model.profile.as_ref().map_or("none", |it| it.name.as_str());
    let _ = write!(
        main,
        "<h2>State</h2><dl><dt>mode<dd>{mode}{cause}<dt>profile<dd>{}<dt>can stop it<dd>{}{single}\
         <dt>journal<dd>{} entries, epoch {} · SELF-WITNESSED</dl>",
        esc(profile),
        signers.join(", "),
        model.next_seq,
        model.epoch,
    );
}

/// Incident: the causal chain as a vertical line, oldest on top.
pub(super) fn incident(view: &IncidentView) -> String {
    let it = &view.incident;
    let mut main = format!("<h1>{}</h1><p>{}", esc(&it.summary), status(view));
    let _ = write!(main, " · {} · detected {}", it.severity, local_time(it.detected_at));
    if let Some(at) = it.resolved_at {
        let _ = write!(main, " · over after {}", words::span((at - it.detected_at).as_s()));
    }
    main.push_str("</p><ol class=\"chain\">");
    for line in &view.lines {
        step(&mut main, line, it.detected_at);
    }
    main.push_str("</ol>");
    shell(&format!("{} — Healwright", esc(&it.incident_id)), &main)
}

fn step(main: &mut String, line: &Line, onset: Ns) {
    let from = line
        .from
        .map_or_else(String::new, |seq| format!(" · from <a href=\"/entries/{seq}\">{seq}</a>"));
    let _ = write!(
        main,
        "<li class=\"{}\"><span class=\"at\">{:+.1} s</span> {} <span class=\"by\">{} · \
         <a data-row id=\"e{}\" href=\"/entries/{}\">entry {}</a>{from}</span>",
        class(line.kind),
        line.at.as_s() - onset.as_s(),
        esc(&line.text),
        esc(&line.by),
        line.seq,
        line.seq,
        line.seq,
    );
}

fn class(kind: Kind) -> &'static str {
    if matches!(kind, Kind::SloAnomalyDetected | Kind::HealEscalated) {
        "seen"
    } else if matches!(kind, Kind::RunnerResult | Kind::L3ExecutionResult) {
        "done"
    } else if matches!(
        kind,
        Kind::GovernanceDecision | Kind::HealTriggerEvaluated | Kind::RemediationProposed
    ) {
        "decided"
    } else {
        "said"
    }
}

/// Entry: what is stored, its hash, and the way to the signed root.
pub(super) fn entry(entry: &Entry, proof: Option<&EntryProof>) -> String {
    let envelope = &entry.envelope;
    let view = schemas::view::entry(entry);
    let json = serde_json::to_string_pretty(&view).unwrap_or_default();
    let text = entry.event().map_or_else(|it| it.to_string(), |it| words::sentence(&it));
    let mut main = format!(
        "<h1>{}</h1><dl><dt>entry<dd>{}<dt>type<dd>{}<dt>by<dd>{}<dt>leaf<dd><code>{}</code>",
        esc(&text),
        esc(&envelope.reference()),
        esc(&envelope.kind.topic()),
        esc(&envelope.actor.id),
        entry.leaf(),
    );
    match proof {
        Some(proof) => {
            let path: Vec<String> = proof.path.iter().map(ToString::to_string).collect();
            let _ = write!(
                main,
                "<dt>proven<dd>under the signed head of {} entries, by {} hashes</dl>\
                 <details id=\"path\"><summary>inclusion proof</summary>\
                 <pre>{}\n\n{}</pre></details>",
                proof.size,
                path.len(),
                path.join("\n"),
                esc(&String::from_utf8_lossy(&proof.checkpoint)),
            );
        }
        None => main.push_str("<dt>proven<dd>not yet: the next head is about to be signed</dl>"),
    }
    let _ = write!(main, "<h2>As stored</h2><pre>{}</pre>", esc(&json));
    shell(&format!("entry {} — Healwright", envelope.seq), &main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a23_nothing_from_the_journal_becomes_markup() {
        let hostile = "<script>alert('1')</script>\u{202e}\u{1b}[31m\"";
        let safe = esc(hostile);
        assert!(!safe.contains('<') && !safe.contains('\u{1b}') && !safe.contains('\u{202e}'));
        assert_eq!(esc("a < b & 'c'"), "a &lt; b &amp; &#39;c&#39;");
    }
}
