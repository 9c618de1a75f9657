//! `healwright config`: check a file, its schema, and what is in force.

use anyhow::Context as _;
use serde_json::{Value, json};
use topologies::profile::Profile;

use super::{Config as Command, Form};
use crate::config::Config;
use crate::out::Out;
use crate::projection::Model;
use crate::session::Session;

/// Runs one of the configuration commands.
///
/// # Errors
/// What is wrong with the file, with line and column; or a journal that cannot be read.
pub fn run(session: &Session, out: Out, command: &Command) -> anyhow::Result<bool> {
    match command {
        Command::Check { file } => {
            let config = Config::read(file)?;
            let services = config.service.len();
            if out.form == Form::Json {
                out.json(&json!({ "schema": "healwright.config.v1", "ok": true,
                                  "services": services }));
            } else {
                out.line(&format!("{} is good: {services} service(s)", file.display()));
            }
        }
        Command::Schema => {
            let schema = Config::schema();
            let text = serde_json::to_string_pretty(&schema).context("writing JSON")?;
            out.line(&text);
        }
        Command::Show { effective, origin } => {
            let projection = session.projection()?;
            let model = projection.model();
            let registry = session.running().and_then(|it| it.schema_registry);
            match *effective || *origin {
                true => numbers(&model, out, *effective)?,
                false => in_force(&model, registry.as_deref(), out)?,
            }
        }
    }
    Ok(true)
}

/// What the journal has put in force, and the registry of the node that runs here.
fn in_force(model: &Model, registry: Option<&str>, out: Out) -> anyhow::Result<()> {
    let services: Vec<_> = model.services.values().map(|it| it.config.clone()).collect();
    let shown = json!({
        "schema": "healwright.config.v1",
        "profile": model.profile,
        "service": services,
        "signers": model.signers,
        "schema_registry": registry,
    });
    if out.form == Form::Json {
        out.json(&shown);
    } else {
        out.line(&serde_json::to_string_pretty(&shown).context("writing JSON")?);
    }
    Ok(())
}

/// The numbers that folds read, with where each comes from: the profile of that name as this
/// program ships it, or the operator. Without `all`, the operator's only.
fn numbers(model: &Model, out: Out, all: bool) -> anyhow::Result<()> {
    let profile = model.profile.clone().unwrap_or_default();
    let shipped = if profile.name == "local" { Profile::local() } else { Profile::production() };
    let (mine, base) = (fields(&profile)?, fields(&shipped)?);
    let place = model.configs.get("profile").map_or_else(
        || "this program, for none is activated".to_owned(),
        |it| format!("the configuration, version {} ({})", it.version, it.place),
    );
    let rows: Vec<(String, Value, String)> = mine
        .into_iter()
        .filter_map(|(name, value)| {
            let own = base.get(&name) != Some(&value);
            let from = if own { place.clone() } else { format!("profile {}", shipped.name) };
            (own || all).then_some((name, value, from))
        })
        .collect();
    if out.form == Form::Json {
        let numbers: Vec<Value> = rows
            .iter()
            .map(|(name, value, from)| json!({ "name": name, "value": value, "origin": from }))
            .collect();
        let schema = "healwright.config.numbers.v1";
        out.json(&json!({ "schema": schema, "profile": profile.name, "numbers": numbers }));
        return Ok(());
    }
    if rows.is_empty() {
        out.remark(&format!("every number is that of profile {}", shipped.name));
    }
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value, from)| vec![name, value.to_string(), from]).collect();
    out.table(&["number", "value", "from"], &rows);
    Ok(())
}

fn fields(profile: &Profile) -> anyhow::Result<serde_json::Map<String, Value>> {
    let value = serde_json::to_value(profile).context("writing the profile as JSON")?;
    value.as_object().cloned().context("a profile is a struct and so an object")
}
