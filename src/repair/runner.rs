//! `healwright repair runner`: the runner of this machine has lost its key, and a person says that
//! its new one is to be believed (threat C12: nobody else does).

use std::fs;

use anyhow::{Context as _, bail};
use runner::agent::Identity;
use schemas::envelope::reference;
use schemas::event::ConfigKind;
use serde_json::json;
use state::embedded::EmbeddedLog;
use topologies::config::Host;

use super::{decide, refuse_while_running};
use crate::cli::Form;
use crate::node::runner::end_former;
use crate::node::{LogChoice, PARTITION, head_record_of};
use crate::out::Out;
use crate::session::Session;

/// Registers the key that lies in the runner's folder, which is made where there is none.
pub(super) fn replace(
    session: &Session,
    out: Out,
    host: Option<&str>,
    reason: &str,
) -> anyhow::Result<bool> {
    if let LogChoice::Kafka(_) = session.choice() {
        bail!("on a cluster `healwright node admit KEY --replace` does it; `node list` shows KEY");
    }
    refuse_while_running(session)?;
    let deployment =
        fs::read_to_string(session.layout().deployment()).context("reading the deployment id")?;
    let deployment = deployment.trim();
    let Host { host, key: former, sandbox } = registered(session, host)?;
    // Whoever holds the log runs here, also before it is ready.
    let log = EmbeddedLog::open(session.data(), deployment, PARTITION)?;
    let dir = session.layout().runner();
    // One that a node has left behind holds the folder, and the former key.
    end_former(&dir)?;
    let key = Identity::open(&dir, &host, deployment)?.key.public();
    if key == former {
        let key = key.id();
        if out.form == Form::Json {
            out.json(&json!({ "place": null, "host": host, "key": key, "former": key }));
            return Ok(true);
        }
        out.line(&format!(
            "the runner of {host} has the key that is registered, {key}; nothing was changed"
        ));
        return Ok(true);
    }
    let body = json!({ "host": host, "key": key, "sandbox": sandbox, "reason": reason });
    let record = head_record_of(session.data(), deployment)?;
    let name = format!("runner/{host}");
    let seq = decide(session, log, &record, ConfigKind::Policy, &name, body.to_string())?;
    let (place, former) = (reference(PARTITION, seq), former.id());
    if out.form == Form::Json {
        out.json(&json!({ "place": place, "host": host, "key": key.id(), "former": former }));
        return Ok(true);
    }
    out.line(&format!(
        "the runner of {host} is registered under {}, as {place} says; the former one, {former}, \
         is served no more",
        key.id()
    ));
    Ok(true)
}

/// The registration that is replaced.
fn registered(session: &Session, host: Option<&str>) -> anyhow::Result<Host> {
    let projection = session.projection()?;
    let model = projection.model();
    let all = || model.runners.values().map(|it| &it.runner);
    let mut asked = all().filter(|it| host.is_none_or(|host| host == it.host));
    match (asked.next(), asked.next()) {
        (Some(it), None) => Ok(it.clone()),
        (Some(_), Some(_)) => {
            let names: Vec<&str> = all().map(|it| it.host.as_str()).collect();
            bail!("several hosts are registered, {}; name one with `--host`", names.join(", "))
        }
        (None, _) => bail!(
            "no runner is registered{}; the next start registers one by itself",
            host.map(|it| format!(" for host {it}")).unwrap_or_default()
        ),
    }
}
