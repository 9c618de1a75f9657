//! Now: the sentence of `status`, what waits for a person, services with what their users got,
//! incidents, state.
//!
//! The worst comes first, and whatever does not fit on a page is counted and named with the
//! command that lists it.

use std::fmt::Write as _;

use schemas::{Ns, Place};

use super::html::{BYTES_MAX, class, clip, esc, segment, shell, status};
use super::svg::{Drawn, sparkline};
use crate::out::local_time;
use crate::projection::{IncidentView, Model, PartitionView, ServiceView, Standing, sli};
use crate::words;

/// Incidents shown; the rest by search or `healwright incident list`.
const RECENT: usize = 50;
/// Proposals shown that wait.
const WAITING: usize = 20;
/// Services take up at most this much of the page, so that incidents have room.
const SERVICES_BYTES: usize = BYTES_MAX * 2 / 3;
/// An entry more or less is no delay that a reader should be told of.
const BEHIND: u64 = 2_000;

/// What the first page is rendered from.
pub(super) struct Now<'a> {
    pub(super) model: &'a Model,
    /// Entries in the journal, of which the model may have read fewer.
    pub(super) n_entries: u64,
    /// Why the partition stopped, if it did.
    pub(super) stopped: Option<&'a str>,
    /// What is looked for among the incidents.
    pub(super) query: &'a str,
    pub(super) now: Ns,
}

impl Now<'_> {
    /// The page.
    pub(super) fn render(&self) -> String {
        let mut main = String::new();
        if let Some(why) = self.stopped {
            let _ = write!(main, "<p class=\"card waits red\">■ stopped: {}</p>", esc(why));
        }
        self.loading(&mut main);
        let sentence = crate::cli::read::sentence(self.model, true);
        let _ = write!(main, "<h1>{}</h1>", esc(&sentence));
        self.waiting(&mut main);
        self.services(&mut main);
        self.incidents(&mut main);
        self.facts(&mut main);
        shell("now", &main)
    }

    /// While the journal is still being read, what is shown is its past.
    fn loading(&self, main: &mut String) {
        let read = self.model.n_entries();
        if read + BEHIND < self.n_entries {
            let _ = write!(
                main,
                "<p class=\"card waits\">… reading the journal: {read} of {} entries; what is \
                 shown is as of {}</p>",
                self.n_entries,
                local_time(self.model.wall),
            );
        }
    }

    fn waiting(&self, main: &mut String) {
        let waiting = self.model.waiting();
        for it in waiting.iter().take(WAITING) {
            let proposal = &it.proposal;
            let id = proposal.proposal_id.to_string();
            let id = &id[..8];
            let why = it.decision.iter().flat_map(|it| &it.reasons).map(|it| clip(it));
            let _ = write!(
                main,
                "<div class=\"card waits\"><strong>▲ waits for you:</strong> {} {} \
                 <p class=\"dim\">{}</p><code>healwright approve {id}</code> or \
                 <code>healwright reject {id}</code> · \
                 <a data-row id=\"w{id}\" href=\"/incidents/{}\">why</a></div>",
                clip(&proposal.playbook.replace('_', " ")),
                clip(proposal.service.as_deref().unwrap_or_default()),
                why.take(4).collect::<Vec<_>>().join("; "),
                segment(&proposal.incident_id),
            );
        }
        if waiting.len() > WAITING {
            let more = waiting.len() - WAITING;
            let _ = write!(
                main,
                "<p>{more} more wait: <code>healwright proposals list</code> shows them.</p>"
            );
        }
    }

    fn services(&self, main: &mut String) {
        main.push_str("<h2>Services</h2>");
        if self.model.services.is_empty() {
            main.push_str(
                "<p class=\"card\">Nothing is watched yet. Try <code>healwright watch --http \
                 http://127.0.0.1:8000/ --start \"python3 -m http.server 8000\"</code>.</p>",
            );
            return;
        }
        let standing = |it: &ServiceView| Standing::of(self.model, it, self.now);
        let mut rows: Vec<_> =
            self.model.services.iter().map(|(name, it)| (standing(it), name, it)).collect();
        rows.sort_by_key(|(standing, name, _)| (rank(*standing), *name));
        main.push_str("<ul class=\"services\">");
        for (n, (standing, name, it)) in rows.iter().enumerate() {
            if main.len() > SERVICES_BYTES {
                let more = rows.len() - n;
                let _ = write!(
                    main,
                    "<li>{more} more, none of them worse: <code>healwright status</code> lists \
                     them."
                );
                break;
            }
            self.service(main, *standing, name, it);
        }
        main.push_str("</ul>");
    }

    fn service(&self, main: &mut String, standing: Standing, name: &str, it: &ServiceView) {
        let release = it.config.release.as_ref();
        let version = release.filter(|it| !it.version.is_empty());
        let version =
            version.map(|it| format!(" <span class=\"dim\">{}</span>", clip(&it.version)));
        let _ = write!(
            main,
            "<li><span class=\"name\">{}{}</span><span class=\"{}\">{}</span>",
            clip(name),
            version.unwrap_or_default(),
            class(standing.health()),
            esc(&standing.words()),
        );
        self.indicator(main, it);
        main.push_str("<span class=\"dim note\">");
        let signals = it.signals.iter().filter(|_| standing.health() == it.health());
        let signals: Vec<String> = signals
            .map(|(signal, (health, _, _))| {
                format!("{} {}", words::signal_name(*signal), words::mark(*health))
            })
            .collect();
        main.push_str(&signals.join(" · "));
        if let Some((at, why)) = &it.refused {
            let ago = words::span(self.now.since(*at).as_s());
            let _ = write!(main, "<br>refused {ago} ago: {}", clip(why));
        }
        main.push_str("</span>");
    }

    fn indicator(&self, main: &mut String, it: &ServiceView) {
        let profile = self.model.profile.clone().unwrap_or_default();
        let Some(of) = it.curve.indicator() else {
            main.push_str("<span class=\"sli dim\">nothing measured in the last 5 min</span>");
            return;
        };
        let slot_min = sli::slot_min(&profile, it.config.probe_every_ms);
        let values = it.curve.recent(of, self.now, slot_min);
        let objective = of.objective(&profile);
        // The slot of this moment may have only begun; an older one is not the present.
        let newest = values.iter().rev().take(2).flatten().next();
        let newest = newest.map_or_else(|| "unknown now".to_owned(), |it| of.measure(*it));
        let _ = write!(
            main,
            "<span class=\"sli\">{}<span class=\"dim\">{}: {newest} · objective: {}</span></span>",
            sparkline(&Drawn { of, values: &values, objective }),
            of.name(),
            of.asks(objective),
        );
    }

    fn incidents(&self, main: &mut String) {
        main.push_str("<h2>Incidents</h2>");
        let query = self.query.trim().to_lowercase();
        if !query.is_empty() {
            let _ = write!(
                main,
                "<p>those that name “{}” · <a href=\"/\">all</a></p>",
                clip(self.query.trim())
            );
        }
        let mut wanted = self.model.incidents().filter(|it| names(it, &query)).peekable();
        if wanted.peek().is_none() {
            main.push_str(match query.is_empty() {
                true => "<p class=\"dim\">None so far.</p>",
                false => "<p class=\"dim\">None.</p>",
            });
            return;
        }
        main.push_str(
            "<table class=\"incidents\"><thead><tr><th>incident<th>status<th>what<th>detected\
             <th>took</thead><tbody>",
        );
        let mut n = 0;
        for view in wanted.by_ref().take(RECENT) {
            incident(main, view);
            n += 1;
            if main.len() > BYTES_MAX {
                break;
            }
        }
        main.push_str("</tbody></table>");
        let more = wanted.count();
        if more > 0 {
            let _ = write!(
                main,
                "<p class=\"dim\">The newest {n}; {more} older: search for them above, or \
                 <code>healwright incident list</code>.</p>"
            );
        }
    }

    fn facts(&self, main: &mut String) {
        let model = self.model;
        let (mode, cause) = model.mode().map_or_else(
            || ("unknown", String::new()),
            |it| (it.mode.as_str(), format!(" — {}", clip(&it.cause))),
        );
        let signers: Vec<String> = model.signers.keys.keys().take(20).map(|it| clip(it)).collect();
        let single = match signers.len() {
            0 => "nobody yet",
            1 => " · SINGLE-SIGNER",
            _ => "",
        };
        let profile = model.profile.as_ref().map_or("none", |it| it.name.as_str());
        let several = model.partitions.len() > 1;
        let journals: Vec<String> =
            model.partitions.iter().map(|it| journal(*it.0, it.1, several)).collect();
        let _ = write!(
            main,
            "<h2>State</h2><dl><dt>mode<dd>{mode}{cause}<dt>profile<dd>{}<dt>can stop it<dd>{}\
             {single}<dt>journal<dd>{} · {}</dl>",
            esc(profile),
            signers.join(", "),
            journals.join("; "),
            model.witnesses(),
        );
    }
}

/// How long one partition's journal is, and who wrote it last.
fn journal(number: u32, it: &PartitionView, several: bool) -> String {
    let last = Place { partition: number, seq: it.next_seq.saturating_sub(1) }.short();
    let of = if several { format!("partition {number}: ") } else { String::new() };
    format!(
        "{of}<a data-row id=\"last{number}\" href=\"/entries/{last}\">{} entries</a>, epoch {}",
        it.next_seq, it.epoch
    )
}

/// Worst first; what is not known comes before what is well.
fn rank(standing: Standing) -> u8 {
    match standing {
        Standing::Red => 0,
        Standing::Silent(_) => 1,
        Standing::Amber => 2,
        Standing::Unknown => 3,
        Standing::Unattended => 4,
        Standing::Unmeasured => 5,
        Standing::Learning => 6,
        Standing::Green => 7,
    }
}

fn names(view: &IncidentView, query: &str) -> bool {
    let it = &view.incident;
    query.is_empty()
        || it.incident_id.contains(query)
        || it.service.as_ref().is_some_and(|it| it.to_lowercase().contains(query))
        || it.summary.to_lowercase().contains(query)
        || it.status.as_str() == query
}

fn incident(main: &mut String, view: &IncidentView) {
    let it = &view.incident;
    let took = it.resolved_at.map(|at| words::took(at - it.detected_at));
    let id = esc(&it.incident_id);
    let _ = write!(
        main,
        "<tr><td><a data-row id=\"r{id}\" href=\"/incidents/{}\">{id}</a><td>{}<td>{}\
         <td class=\"dim\">{}<td class=\"dim\">{}",
        segment(&it.incident_id),
        status(view),
        clip(&it.summary),
        local_time(it.detected_at),
        took.unwrap_or_default(),
    );
}
