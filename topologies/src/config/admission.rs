//! Whether a configuration takes effect where it is folded. The edge asks the same before it
//! takes one, but an inbox may have other writers than our edge.

use schemas::avro;
use schemas::event::{CONFIG_DOMAIN, ConfigActivated};
use schemas::signature::signature_from_text;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Host, PROCESSOR, Service, Signers, VOUCH, Vouch, signers};
use crate::deployment;
use crate::fold::View;
use crate::playbooks::Playbook;
use crate::profile::Profile;
use crate::rules::{self, Rules};

/// A refusal in a sentence; `None` where the first rules said nothing.
type Refusal = Option<String>;

/// Whether `config` takes effect, or why it does not.
pub(super) fn admits(view: &View<'_>, config: &ConfigActivated, body: &str) -> Result<(), Refusal> {
    // Rules themselves are judged by what they bring.
    if rules::are_second(view) || config.name == rules::KEY {
        return by_second(view, config, body).map_err(|why| {
            let (name, version) = (&config.name, config.version);
            Some(format!("configuration {name} version {version} changes nothing: {why}"))
        });
    }
    by_first(view, config, body)
}

/// What the first rules asked: a digest, and a signature under signers only.
fn by_first(view: &View<'_>, config: &ConfigActivated, body: &str) -> Result<(), Refusal> {
    if ConfigActivated::digest_of(body) != config.digest {
        return Err(None);
    }
    if config.name == "signers" && is_signed(view, config).is_err() {
        let by = &config.approved_by;
        let why = format!("{by} is no registered signer of these signers; nothing was changed");
        return Err(Some(why));
    }
    Ok(())
}

fn by_second(view: &View<'_>, config: &ConfigActivated, body: &str) -> Result<(), String> {
    is_signed(view, config)?;
    if ConfigActivated::digest_of(body) != config.digest {
        return Err("its body is not the one that its digest names".to_owned());
    }
    let name = config.name.as_str();
    let standing = view.peek(PROCESSOR.name, &format!("version/{name}")).unwrap_or(0u64);
    if config.version <= standing {
        return Err(format!("version {standing} is in force, and versions only rise"));
    }
    reads(view, name, body)
}

/// Until there are signers there is nobody whose signature could be asked for; whoever could
/// use that moment could name the signers as well.
fn is_signed(view: &View<'_>, config: &ConfigActivated) -> Result<(), String> {
    let known = signers(view).keys;
    if known.is_empty() {
        return Ok(());
    }
    let by = &config.approved_by;
    let Some(key) = known.get(by) else {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let names = names.join(", ");
        return Err(format!("{by:?} is no registered signer; registered are: {names}"));
    };
    let Some(text) = &config.signature else {
        return Err("nobody signed it; `healwright up --config` signs what it activates".to_owned());
    };
    let holds = signature_from_text(text)
        .is_some_and(|it| key.verify(CONFIG_DOMAIN, &config.statement(), &it));
    if holds { Ok(()) } else { Err(format!("the signature is not {by}'s over it")) }
}

/// Whether the body is one of its name.
fn reads(view: &View<'_>, name: &str, body: &str) -> Result<(), String> {
    match name {
        "profile" => reads_as::<Profile>(body).map(drop),
        "signers" => match reads_as::<Signers>(body)?.keys.is_empty() {
            true => Err("it names nobody, and nobody could ever sign again".to_owned()),
            false => Ok(()),
        },
        rules::KEY => rises(view, reads_as::<Rules>(body)?.version),
        _ if name.starts_with("service/") => reads_as::<Service>(body).map(drop),
        _ if name.starts_with("runner/") => reads_as::<Host>(body).map(drop),
        _ => match name.strip_prefix(VOUCH) {
            Some(component) => vouches(component, body),
            None => Ok(()),
        },
    }
}

fn reads_as<T: DeserializeOwned + Serialize>(body: &str) -> Result<T, String> {
    let value: T =
        serde_json::from_str(body).map_err(|error| format!("its body does not read: {error}"))?;
    // JSON has larger numbers than state can hold.
    avro::to_bytes(&value).map_err(|error| format!("its body cannot be kept: {error}"))?;
    Ok(value)
}

fn rises(view: &View<'_>, version: u32) -> Result<(), String> {
    let (standing, known) = (rules::of(view), rules::CURRENT);
    if version <= standing {
        return Err(format!("rules {standing} are in force, and rules never go back"));
    }
    if version > known {
        return Err(format!("this program knows rules up to {known}"));
    }
    Ok(())
}

fn vouches(component: &str, body: &str) -> Result<(), String> {
    reads_as::<Vouch>(body)?;
    if Playbook::named(component).is_some() || component == deployment::PROCESSOR.name {
        return Ok(());
    }
    Err(format!("{component:?} is no playbook; `healwright trust list` shows them"))
}
