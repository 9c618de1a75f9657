//! `healwright release`: import, start, status.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use runner::store::{ArtifactKind, Draft, Store};
use serde_json::json;

use super::{Form, Release, act};
use crate::out::{Out, local_time};
use crate::session::Session;

/// Runs one of the release commands.
///
/// # Errors
/// No such release, no node, no key, or a folder that cannot be an artifact.
pub fn run(session: &Session, out: Out, command: &Release) -> anyhow::Result<bool> {
    match command {
        Release::Start { service, version, dry_run } => {
            let reference = reference(service, version);
            let store = Store::open(&session.layout().runner().join("store"))?;
            let digest = store.resolve(&reference).with_context(|| {
                format!(
                    "{reference} is not in the store; `healwright release import` puts it there"
                )
            })?;
            if *dry_run {
                out.line(&format!("would sign: {service} {version} {}", digest.to_digest()));
                return Ok(true);
            }
            let answer = act::release(session, service, version, &digest.to_digest())?;
            if out.form == Form::Json {
                out.json(&answer);
            } else {
                out.line(&format!(
                    "requested; follow it with: healwright release status {service}"
                ));
            }
            Ok(true)
        }
        Release::Status { service } => status(session, out, service.as_deref()),
        Release::Import { service, version, dir } => {
            if !dir.is_dir() {
                bail!("{} is no directory", dir.display());
            }
            let key = session.keys().operator()?;
            let store = Store::open(&session.layout().runner().join("store"))?;
            let reference = reference(service, version);
            let draft = Draft {
                reference: &reference,
                kind: ArtifactKind::Release,
                name: service,
                version,
                attributes: BTreeMap::new(),
                dir,
            };
            let digest = store.import(&draft, &key)?.to_digest();
            if out.form == Form::Json {
                let answer = json!({ "artifact_ref": reference, "digest": digest });
                out.json(&answer);
            } else {
                out.line(&format!("{reference} is {digest}"));
            }
            Ok(true)
        }
    }
}

fn reference(service: &str, version: &str) -> String {
    format!("local://releases/{service}/{version}")
}

fn status(session: &Session, out: Out, service: Option<&str>) -> anyhow::Result<bool> {
    let projection = session.projection()?;
    let model = projection.model();
    let wanted =
        model.rollouts.values().filter(|it| service.is_none_or(|of| of == it.state.service));
    let mut shown: Vec<_> = wanted.collect();
    shown.sort_by_key(|it| std::cmp::Reverse(it.began));
    if out.form == Form::Json {
        let all: Vec<_> = shown.iter().map(|it| &it.state).collect();
        out.json(&json!({ "schema": "healwright.rollouts.v1", "rollouts": all }));
        return Ok(true);
    }
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|it| {
            vec![
                it.state.service.clone(),
                it.state.version.clone().unwrap_or_default(),
                it.state.state.to_string(),
                local_time(it.at),
                it.state.reason.clone(),
            ]
        })
        .collect();
    out.table(&["service", "version", "stands", "moved", "why"], &rows);
    Ok(true)
}
