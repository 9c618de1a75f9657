//! `healwright trust`: how much each playbook may do alone, and a person's word for one.

use anyhow::{Context as _, bail};
use clap::Subcommand;
use schemas::event::ConfigActivated;
use serde_json::json;
use topologies::config::{VOUCH, Vouch};
use topologies::playbooks::{self, Playbook};
use topologies::profile::Profile;
use topologies::trust;

use super::{Form, act, verdict};
use crate::config::nearest;
use crate::node::OPERATOR;
use crate::out::{Out, local_time};
use crate::projection::Model;
use crate::session::Session;

/// `healwright trust`.
#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Each playbook, and what it may do without a person
    List,
    /// Answer for a playbook with a signature, once its cause is dealt with
    Vouch {
        /// Playbook, as `trust list` names it
        playbook: String,
        /// Lift its latch on this service too
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// What was done about the cause, for the audit; asked for where it is missing
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Runs one of the trust commands.
///
/// # Errors
/// No such playbook, no node, no key.
pub fn run(session: &Session, out: Out, command: &Trust) -> anyhow::Result<bool> {
    match command {
        Trust::List => {
            let projection = session.projection()?;
            list(&projection.model(), out);
            Ok(true)
        }
        Trust::Vouch { playbook, service, reason, yes } => {
            let reason = match reason {
                Some(reason) if reason.trim().is_empty() => bail!("`--reason` says nothing"),
                Some(reason) => reason.clone(),
                None => act::ask_why("What was done about the cause?")?,
            };
            let word = Vouch { service: service.clone().unwrap_or_default(), reason };
            vouch(session, out, playbook, &word, *yes)
        }
    }
}

fn list(model: &Model, out: Out) {
    let profile = model.profile.clone().unwrap_or_default();
    let shown = playbooks::ALL.iter().map(|it| standing(model, &profile, it.name));
    let shown: Vec<Standing> = shown.collect();
    if out.form == Form::Json {
        let components: Vec<_> = shown
            .iter()
            .map(|it| {
                json!({ "component": it.name, "trust": it.trust, "weight": it.weight,
                        "acts_alone": it.missing == 0, "successes_until_alone": it.missing,
                        "why": it.why })
            })
            .collect();
        out.json(&json!({ "schema": "healwright.trust.v1", "gate": profile.trust_min,
                          "components": components }));
        return;
    }
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|it| {
            let alone = match it.missing {
                0 => "alone".to_owned(),
                n => format!("with a person; {n} more that help"),
            };
            let weight = format!("{:.2}", it.weight);
            vec![it.name.to_owned(), format!("{:.2}", it.trust), alone, weight, it.why.clone()]
        })
        .collect();
    out.table(&["playbook", "trust", "acts", "weight", "why"], &rows);
    out.remark(&format!("alone from {:.2} (profile {})", profile.trust_min, profile.name));
}

struct Standing {
    name: &'static str,
    trust: f64,
    weight: f64,
    /// Successes until it may act alone.
    missing: u32,
    why: String,
}

fn standing(model: &Model, profile: &Profile, name: &'static str) -> Standing {
    let known = model.trust.get(name);
    let trust = known.map_or(profile.trust_start, |it| it.trust);
    Standing {
        name,
        trust,
        weight: known.and_then(|it| it.weight).unwrap_or(0.5),
        missing: trust::successes_until(trust, profile.trust_min),
        why: known.map_or_else(
            || format!("start of profile {}", profile.name),
            |it| format!("{} ({})", it.why, local_time(it.at)),
        ),
    }
}

fn vouch(
    session: &Session,
    out: Out,
    playbook: &str,
    word: &Vouch,
    yes: bool,
) -> anyhow::Result<bool> {
    let names = || playbooks::ALL.iter().map(|it| it.name);
    if Playbook::named(playbook).is_none() {
        match nearest(playbook, names()) {
            Some(near) => bail!("{playbook:?} is no playbook; did you mean {near:?}?"),
            None => bail!("{playbook:?} is none of {}", names().collect::<Vec<_>>().join(", ")),
        }
    }
    let projection = session.projection()?;
    let model = projection.model();
    let service = &word.service;
    if !service.is_empty() && !model.services.contains_key(service) {
        let known: Vec<&str> = model.services.keys().map(String::as_str).collect();
        bail!("{service:?} is not under care; under care are: {}", known.join(", "));
    }
    let name = format!("{VOUCH}{playbook}");
    let version = model.configs.get(&name).map_or(1, |it| it.version + 1);
    drop(model);
    if !yes && !act::confirm(&format!("answer for {playbook} with your signature?"))? {
        out.remark("nothing was signed");
        return Ok(false);
    }
    let key = session.keys().existing_operator()?;
    let body = serde_json::to_string(word).context("writing the word as JSON")?;
    let config = ConfigActivated::signed(&name, version, body, OPERATOR, &key);
    let answer = session.say("/api/v1/config", &config)?;
    if let Some(why) = verdict::refusal(session, &answer)? {
        out.error("refused", &why);
        return Ok(false);
    }
    let also = match service.as_str() {
        "" => String::new(),
        service => format!(", and its latch on {service} is lifted"),
    };
    act::told(out, &answer, &format!("you answer for {playbook}{also}"));
    Ok(true)
}
