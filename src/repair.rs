//! `healwright repair`: what the system must not mend by itself, because a person has to look.
//!
//! No repair touches a directory on which a node runs, and none deletes what only it holds: a
//! damaged journal and an overridden head record are set aside under another name.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use ledger::ChainVerifier;
use ledger::bundle::{self, Files, Policy};
use state::embedded::{EmbeddedLog, Part};
use state::{Append, Changes, Log as _};

use crate::cli::{Repair, act};
use crate::evidence;
use crate::node::{PARTITION, head_record_default};
use crate::out::Out;
use crate::session::Session;

/// Runs one of the repairs.
///
/// # Errors
/// What keeps it from being repaired.
pub fn run(session: &Session, out: Out, command: &Repair) -> anyhow::Result<bool> {
    match command {
        Repair::Skip { .. } => act::repair_skip(session, out, command),
        Repair::State => {
            refuse_while_running(session)?;
            EmbeddedLog::repair(session.data(), Part::State)?;
            out.line("the folded state is gone; the next start folds the chain anew");
            Ok(true)
        }
        Repair::Telemetry => {
            refuse_while_running(session)?;
            EmbeddedLog::repair(session.data(), Part::Telemetry)?;
            out.line("stored telemetry is gone; what it led to stands in the journal");
            Ok(true)
        }
        Repair::Journal { from } => journal(session, out, from),
        Repair::Head { reason } => head(session, out, reason),
    }
}

/// Sets the head record aside.
fn head(session: &Session, out: Out, reason: &str) -> anyhow::Result<bool> {
    refuse_while_running(session)?;
    let deployment =
        fs::read_to_string(session.layout().deployment()).context("reading the deployment id")?;
    let record = head_record_default(deployment.trim());
    let kept = record.with_extension("overridden");
    fs::rename(&record, &kept).with_context(|| format!("setting {} aside", record.display()))?;
    out.line(&format!(
        "the head record is set aside as {} ({reason}); what the log holds now is accepted with \
         the next start, and witnesses will still refuse it",
        kept.display()
    ));
    Ok(true)
}

/// Makes the journal anew from an export that verifies. State is folded with the next start, and
/// telemetry is gone: what it led to is in the chain.
fn journal(session: &Session, out: Out, from: &Path) -> anyhow::Result<bool> {
    refuse_while_running(session)?;
    let files = evidence::read_files(from)?;
    let report = bundle::verify(&files, &Policy::default());
    if !report.holds() {
        out.error("does_not_verify", &format!("{} does not verify", from.display()));
        return Ok(false);
    }
    let (data, layout) = (session.data(), session.layout());
    let id = fs::read_to_string(layout.deployment()).unwrap_or_default();
    let origin = report.deployment.as_str();
    if !id.is_empty() && id.trim() != origin {
        bail!("{} is of deployment {origin}, not of {}", from.display(), id.trim());
    }
    let aside = data.join("journal.damaged");
    if aside.exists() {
        bail!("{} is there from an earlier repair; move it away first", aside.display());
    }
    fs::rename(layout.journal(), &aside)
        .with_context(|| format!("setting {} aside", layout.journal().display()))?;
    append_all(data, origin, &files)?;
    EmbeddedLog::repair(data, Part::State)?;
    EmbeddedLog::repair(data, Part::Telemetry)?;
    out.line(&format!(
        "{} entries are back; the damaged journal lies in {}",
        report.n_entries,
        aside.display()
    ));
    Ok(true)
}

fn append_all(data: &Path, deployment: &str, files: &Files) -> anyhow::Result<()> {
    let log = EmbeddedLog::open(data, deployment, PARTITION)?;
    let mut walk = ChainVerifier::new(deployment, PARTITION);
    // Names sort by their first sequence.
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".batches")) {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (batch, after) = walk
                .next(rest)
                .map_err(|it| anyhow::anyhow!("{it}"))
                .with_context(|| format!("reading {name}"))?;
            let expected = log.head()?;
            match log.append(&expected, &batch, &Changes::default())? {
                Append::Appended(_) => rest = after,
                Append::Lost(_) => bail!("another process appends to {}", data.display()),
            }
        }
    }
    Ok(())
}

fn refuse_while_running(session: &Session) -> anyhow::Result<()> {
    match session.running() {
        Some(it) => bail!("a node runs here (pid {}); stop it first", it.pid),
        None => Ok(()),
    }
}
