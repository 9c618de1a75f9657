//! `healwright release`: import, start, abort, clear, status.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use runner::store::{ArtifactKind, Draft, Store};
use schemas::event::{ApprovalVerdict, DeployPhase, ReleaseRequested};
use serde_json::json;
use topologies::deployment;

use super::{Form, act, verdict};
use crate::out::{Out, local_time};
use crate::projection::BarredView;
use crate::session::Session;

/// `healwright release`.
#[derive(Debug, Subcommand)]
pub enum Release {
    /// Request a rollout
    Start {
        /// Service to change
        service: String,
        /// Version, as imported into the store
        version: String,
        /// Print what would be signed
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop the running rollout; what ran before serves again
    Abort {
        /// Service whose rollout it is
        service: String,
        /// Why, for the audit
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Take a release off the deny list, by your signature
    Clear {
        /// Service on which it is barred
        service: String,
        /// Version, as `release status` names it
        version: String,
        /// What was found out about it, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Rollouts and the deny list
    Status {
        /// Only this service
        service: Option<String>,
    },
    /// Sign a directory as an artifact and put it into the local store
    Import {
        /// Service it belongs to
        service: String,
        /// Version to call it
        version: String,
        /// Directory with the files
        dir: PathBuf,
    },
}

/// Runs one of the release commands.
///
/// # Errors
/// No such release, no node, no key, or a folder that cannot be an artifact.
pub fn run(session: &Session, out: Out, command: &Release) -> anyhow::Result<bool> {
    match command {
        Release::Start { service, version, dry_run } => {
            start(session, out, service, version, *dry_run)
        }
        Release::Abort { service, reason, yes } => abort(session, out, service, reason, *yes),
        Release::Clear { service, version, reason, yes } => {
            clear(session, out, (service, version), reason, *yes)
        }
        Release::Status { service } => status(session, out, service.as_deref()),
        Release::Import { service, version, dir } => import(session, out, service, version, dir),
    }
}

fn start(
    session: &Session,
    out: Out,
    service: &str,
    version: &str,
    dry_run: bool,
) -> anyhow::Result<bool> {
    let reference = reference(service, version);
    let store = Store::open(&session.layout_of(service)?.runner().join("store"))?;
    let digest = store.resolve(&reference).with_context(|| {
        format!("{reference} is not in the store; `healwright release import` puts it there")
    })?;
    let digest = digest.to_digest();
    if dry_run {
        match out.form {
            Form::Json => out.json(&json!({
                "schema": "healwright.release.plan.v1", "service": service,
                "version": version, "artifact_ref": reference, "digest": digest,
            })),
            Form::Table => out.line(&format!("would sign: {service} {version} {digest}")),
        }
        return Ok(true);
    }
    let answer = act::release(session, asked(service, version, &digest, "blue_green"))?;
    if let Some(why) = verdict::refusal(session, &answer)? {
        out.error("refused", &why);
        return Ok(false);
    }
    let follow = format!("requested; follow it with: healwright release status {service}");
    act::told(out, &answer, &follow);
    Ok(true)
}

fn import(
    session: &Session,
    out: Out,
    service: &str,
    version: &str,
    dir: &Path,
) -> anyhow::Result<bool> {
    if !dir.is_dir() {
        bail!("{} is no directory", dir.display());
    }
    let key = session.keys().operator()?;
    let store = Store::open(&session.layout_of(service)?.runner().join("store"))?;
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
    match out.form {
        Form::Json => out.json(&json!({ "schema": "healwright.artifact.v1",
                                        "artifact_ref": reference, "digest": digest })),
        Form::Table => out.line(&format!("{reference} is {digest}")),
    }
    Ok(true)
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
    (service, named): (&str, &str),
    reason: &str,
    yes: bool,
) -> anyhow::Result<bool> {
    let projection = session.projection()?;
    let barred = projection.model().barred.clone();
    let is_named = |it: &BarredView| it.version == named || it.digest == named;
    let found = barred.into_values().find(|it| it.service == service && is_named(it));
    let Some(BarredView { version, digest, why, .. }) = found else {
        let why = format!(
            "{named} is not on the deny list of {service}; `healwright release status {service}` \
             shows it"
        );
        out.error("refused", &why);
        return Ok(false);
    };
    out.remark(&format!("{service} {version} is barred: {why}"));
    if !yes && !act::confirm(&format!("take {service} {version} off the deny list?"))? {
        out.remark("it stays barred");
        return Ok(false);
    }
    let id = deployment::denial_id(service, &digest);
    let approve = ApprovalVerdict::Approve;
    let answer = act::sign(session, id, &digest, approve, reason)?;
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
