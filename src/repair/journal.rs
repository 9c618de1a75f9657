//! A damaged journal is made anew beside the damaged one, from an export first and then from what
//! the damaged one holds behind it; then they change places. State is folded with the next start,
//! and telemetry is gone: what it led to is in the chain.
//!
//! 1. `DATA/journal.repair/journal` is made. A crash until here leaves it to the next try.
//! 2. The damaged journal becomes `DATA/journal.damaged`. A crash after it leaves no journal; the
//!    head record refuses the start, and moving the folder back is what undoes it.
//! 3. The new one takes its place.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use ledger::ChainVerifier;
use ledger::bundle::{self, Files, Policy};
use schemas::Batch;
use serde_json::json;
use state::embedded::{EmbeddedLog, Part, Salvage};
use state::{Append, Changes, HeadRecord, Log as _, LogError};

use super::refuse_while_running;
use crate::cli::Form;
use crate::evidence;
use crate::node::{PARTITION, head_record_of};
use crate::out::Out;
use crate::session::Session;

/// What became of the entries.
struct Made {
    /// Entries that the export gave.
    exported: u64,
    /// Entries in the new journal.
    kept: u64,
    /// Why the damaged journal gave no more.
    end: String,
}

/// Makes the journal anew.
///
/// # Errors
/// The export is no bundle or of another deployment, a node runs, or nothing can be written.
pub(super) fn anew(
    session: &Session,
    out: Out,
    from: Option<&Path>,
    accepts_loss: bool,
) -> anyhow::Result<bool> {
    refuse_while_running(session)?;
    let (data, layout) = (session.data(), session.layout());
    let id = fs::read_to_string(layout.deployment()).unwrap_or_default();
    let mut id = id.trim().to_owned();
    let mut files = Files::new();
    if let Some(from) = from {
        let names = evidence::names_below(from)?;
        if !bundle::is_bundle(names.iter().map(String::as_str)) {
            bail!("{} is no export; `healwright export --to DIR` makes one", from.display());
        }
        files = evidence::read_files(from)?;
        let report = bundle::verify(&files, &Policy::default());
        if !report.holds() {
            out.error("does_not_verify", &format!("{} does not verify", from.display()));
            return Ok(false);
        }
        if !id.is_empty() && id != report.deployment {
            bail!("{} is of deployment {}, not of {id}", from.display(), report.deployment);
        }
        id = report.deployment;
    }
    if id.is_empty() {
        bail!("{} does not say whose journal this is", layout.deployment().display());
    }
    let aside = data.join("journal.damaged");
    if aside.exists() {
        bail!("{} is there from an earlier repair; move it away first", aside.display());
    }
    // Held until the journals have changed places, so that no node starts in between.
    let mut damaged = Salvage::open(data)?;
    let held = damaged.n_entries();
    let recorded = head_record_of(data, &id).ok().filter(|it| it.is_file());
    let recorded = recorded.and_then(|it| HeadRecord::open(&it).ok()?.last().map(|it| it.size));
    let beside = data.join("journal.repair");
    if beside.exists() {
        fs::remove_dir_all(&beside).with_context(|| format!("removing {}", beside.display()))?;
    }
    let made = make(&beside, &id, &files, &mut damaged)?;
    let end = held.max(recorded).filter(|end| made.kept < *end);
    if let Some(end) = end.filter(|_| !accepts_loss) {
        fs::remove_dir_all(&beside).with_context(|| format!("removing {}", beside.display()))?;
        out.error("would_lose", &would_lose(&made, end));
        return Ok(false);
    }
    EmbeddedLog::repair(&beside, Part::State)?;
    EmbeddedLog::repair(&beside, Part::Telemetry)?;
    change_places(session, &beside, &aside)?;
    tell(out, &made, end, &aside);
    Ok(true)
}

fn make(
    dir: &Path,
    deployment: &str,
    export: &Files,
    damaged: &mut Salvage,
) -> anyhow::Result<Made> {
    let log = EmbeddedLog::open(dir, deployment, PARTITION)?;
    let mut head = log.head()?;
    // The end alone is waited for: until they change places, nothing rests on what is made here.
    let mut append = |batch: &Batch| match log.begin(&head, batch, &Changes::default()) {
        Ok(Append::Appended(next)) => {
            head = next;
            Ok(true)
        }
        Ok(Append::Lost(_)) | Err(LogError::Unlinked { .. }) => Ok(false),
        Err(error) => Err(error),
    };
    let mut walk = ChainVerifier::new(deployment, PARTITION);
    let mut next = 0;
    // Names sort by their first sequence.
    for (name, bytes) in export.iter().filter(|(name, _)| name.ends_with(".batches")) {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (batch, after) = walk
                .next(rest)
                .map_err(|it| anyhow::anyhow!("{it}"))
                .with_context(|| format!("reading {name}"))?;
            if !append(&batch)? {
                bail!("{name} does not link at entry {next}");
            }
            (next, rest) = (batch.next_seq(), after);
        }
    }
    let exported = next;
    let end = loop {
        match damaged.batch(next) {
            Ok(batch) if append(&batch)? => next = batch.next_seq(),
            Ok(_) => break format!("entry {next} does not link"),
            Err(error) => break reason(&error),
        }
    };
    log.settle(u64::MAX)?;
    Ok(Made { exported, kept: next, end })
}

/// What is wrong, without the advice to run what is running.
fn reason(error: &LogError) -> String {
    error.damage().map_or_else(
        || error.to_string(),
        |it| match it.position {
            Some(position) => format!("{} {position} in {}: {}", it.what, it.file, it.why),
            None => format!("{} in {}: {}", it.what, it.file, it.why),
        },
    )
}

fn change_places(session: &Session, beside: &Path, aside: &Path) -> anyhow::Result<()> {
    let place = session.layout().journal();
    if place.exists() {
        fs::rename(&place, aside).with_context(|| format!("setting {} aside", place.display()))?;
    }
    fs::rename(beside.join("journal"), &place)
        .with_context(|| format!("writing {}", place.display()))?;
    fs::File::open(session.data())
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("syncing {}", session.data().display()))?;
    fs::remove_dir_all(beside).with_context(|| format!("removing {}", beside.display()))
}

fn tell(out: Out, made: &Made, end: Option<u64>, aside: &Path) {
    let Made { exported, kept, end: why } = made;
    let read = kept - exported;
    if out.form == Form::Json {
        let lost = end.map(|end| json!({ "from": kept, "to": end - 1, "why": why }));
        out.json(&json!({
            "entries": kept, "from_export": exported, "from_journal": read,
            "lost": lost, "set_aside": aside,
        }));
        return;
    }
    out.line(&format!(
        "{kept} entries are back, {exported} from the export and {read} from the journal; the \
         damaged one lies in {}",
        aside.display()
    ));
    match end {
        None => out.line("nothing is lost; what telemetry led to stands in the journal"),
        Some(end) => out.line(&format!(
            "lost: {} ({why}); the next start is refused until `healwright repair head --reason \
             TEXT` accepts that too, signed and journaled",
            entries(*kept, end)
        )),
    }
}

/// Those from `from` to before `end`, by their sequences.
fn entries(from: u64, end: u64) -> String {
    match end - 1 {
        last if last == from => format!("entry {from}"),
        last => format!("entries {from} to {last}"),
    }
}

/// What nobody has accepted yet.
fn would_lose(made: &Made, end: u64) -> String {
    let Made { kept, end: why, .. } = made;
    format!(
        "{} would be lost, and what was acknowledged among them ({why}); what follows does not \
         link without it. Nothing was changed. An export that reaches further fills the gap with \
         `--from BUNDLE`; `--accept-loss` keeps the {kept} before it",
        entries(*kept, end)
    )
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn one_entry_is_told_as_one() {
        assert_eq!(entries(174, 175), "entry 174");
        assert_eq!(entries(174, 176), "entries 174 to 175");
    }
}
