//! `healwright release`: import, start, abort, clear, status.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use runner::store::{ArtifactKind, Draft, Store};
use schemas::event::{ApprovalVerdict, DeployPhase, ReleaseRequested};
use serde_json::json;
use topologies::deployment;

use super::{Form, Release, act, verdict};
use crate::out::{Out, local_time};
use crate::projection::BarredView;
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
            let digest = digest.to_digest();
            if *dry_run {
                match out.form {
                    Form::Json => out.json(&json!({
                        "schema": "healwright.release.plan.v1", "service": service,
                        "version": version, "artifact_ref": reference, "digest": digest,
                    })),
                    Form::Table => {
                        out.line(&format!("would sign: {service} {version} {digest}"));
                    }
                }
                return Ok(true);
            }
            start(session, out, asked(service, version, &digest, "blue_green"))
        }
        Release::Abort { service, reason, yes } => abort(session, out, service, reason, *yes),
        Release::Clear { service, version, reason, yes } => {
            let projection = session.projection()?;
            let barred = projection.model().barred.clone();
            let found = barred.into_values().find(|it| {
                it.service == *service && (it.version == *version || it.digest == *version)
            });
            match found {
                Some(it) => clear(session, out, &it, reason, *yes),
                None => {
                    let why = format!(
                        "{version} is not on the deny list of {service}; `healwright release \
                         status {service}` shows it"
                    );
                    out.error("refused", &why);
                    Ok(false)
                }
            }
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
                let answer = json!({ "schema": "healwright.artifact.v1",
                                      "artifact_ref": reference, "digest": digest });
                out.json(&answer);
            } else {
                out.line(&format!("{reference} is {digest}"));
            }
            Ok(true)
        }
    }
}

/// A request before it is signed.
fn asked(service: &str, version: &str, digest: &str, strategy: &str) -> ReleaseRequested {
    ReleaseRequested {
        service: service.to_owned(),
        artifact_ref: reference(service, version),
        digest: digest.to_owned(),
        requested_by: String::new(),
        strategy: strategy.to_owned(),
        version: Some(version.to_owned()),
        signature: None,
        nonce: None,
        reason: None,
    }
}

fn start(session: &Session, out: Out, request: ReleaseRequested) -> anyhow::Result<bool> {
    let service = request.service.clone();
    let answer = act::release(session, request)?;
    if let Some(why) = verdict::refusal(session, &answer)? {
        out.error("refused", &why);
        return Ok(false);
    }
    let follow = format!("requested; follow it with: healwright release status {service}");
    act::told(out, &answer, &follow);
    Ok(true)
}

/// Stops the rollout that runs now. What runs is named by its digest, so that a request which
/// comes too late does not stop the next one.
fn abort(
    session: &Session,
    out: Out,
    service: &str,
    reason: &str,
    yes: bool,
) -> anyhow::Result<bool> {
    let projection = session.projection()?;
    let running = {
        let model = projection.model();
        let of_service = model.rollouts.values().filter(|it| it.state.service == service);
        of_service.filter(|it| is_forward(it.state.state)).map(|it| it.state.clone()).next()
    };
    let Some(running) = running else {
        let why = format!(
            "nothing is being rolled out on {service}; `healwright release status` shows what was"
        );
        out.error("refused", &why);
        return Ok(false);
    };
    let version = running.version.clone().unwrap_or_default();
    if !yes && !act::confirm(&format!("stop the rollout of {service} {version}?"))? {
        out.remark("the rollout goes on");
        return Ok(false);
    }
    let digest = running.digest.unwrap_or_default();
    let mut request = asked(service, &version, &digest, ReleaseRequested::ABORT);
    request.reason = Some(reason.to_owned()).filter(|it| !it.is_empty());
    let answer = act::release(session, request)?;
    if let Some(why) = verdict::refusal(session, &answer)? {
        out.error("refused", &why);
        return Ok(false);
    }
    let told = format!("{version} goes back; follow it with: healwright release status {service}");
    act::told(out, &answer, &told);
    Ok(true)
}

/// Takes a release off the deny list: an approval that names the denial.
fn clear(
    session: &Session,
    out: Out,
    barred: &BarredView,
    reason: &str,
    yes: bool,
) -> anyhow::Result<bool> {
    let BarredView { service, version, digest, why, .. } = barred;
    out.remark(&format!("{service} {version} is barred: {why}"));
    if !yes && !act::confirm(&format!("take {service} {version} off the deny list?"))? {
        out.remark("it stays barred");
        return Ok(false);
    }
    let id = deployment::denial_id(service, digest);
    let approve = ApprovalVerdict::Approve;
    let answer = act::sign(session, id, digest, approve, reason)?;
    if let Some(why) = verdict::refusal(session, &answer)? {
        out.error("refused", &why);
        return Ok(false);
    }
    act::told(out, &answer, &format!("{service} {version} may be asked for again"));
    Ok(true)
}

/// Whether a rollout that last said `phase` goes towards users.
fn is_forward(phase: DeployPhase) -> bool {
    match phase {
        DeployPhase::Plan
        | DeployPhase::Preflight
        | DeployPhase::Apply
        | DeployPhase::Shadow
        | DeployPhase::Canary
        | DeployPhase::Verify => true,
        DeployPhase::Commit
        | DeployPhase::Rollback
        | DeployPhase::RolledBack
        | DeployPhase::Rejected => false,
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
    let barred: Vec<&BarredView> =
        model.barred.values().filter(|it| service.is_none_or(|of| of == it.service)).collect();
    if out.form == Form::Json {
        let all: Vec<_> = shown.iter().map(|it| &it.state).collect();
        let denied = barred.iter().map(|it| {
            json!({ "service": it.service, "version": it.version, "digest": it.digest,
                    "why": it.why, "since": it.at })
        });
        let denied: Vec<_> = denied.collect();
        out.json(&json!({ "schema": "healwright.rollouts.v1", "rollouts": all,
                          "deny_list": denied }));
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
    for it in barred {
        out.line("");
        out.line(&format!(
            "on the deny list: {} {} since {}: {}",
            it.service,
            it.version,
            local_time(it.at),
            it.why
        ));
        out.line(&format!("  healwright release clear {} {}", it.service, it.version));
    }
    Ok(true)
}
