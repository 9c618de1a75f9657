//! The commands that show that the account is true: export, verify, replay.

mod gather;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use ledger::bundle::{self, Contents, Files, KnownHead, Policy, Report};
use ledger::witness::Witness;
use schemas::{Hash, Ns};
use serde_json::json;
use state::embedded::Reader;
use state::memory::MemoryLog;
use state::{State, Store};

use self::gather::{Gathered, gather};
use crate::cli::{Form, Verify};
use crate::engine::fold::Place;
use crate::engine::heads;
use crate::engine::replay::{Replayed, replay_batch};
use crate::journal::Journal;
use crate::node::{Layout, LogChoice, PARTITION};
use crate::out::{Colour, Out};
use crate::session::Session;
use crate::words;

/// Journal records are read in runs of about this size.
const READ_BYTES: usize = 512 * 1024;
/// A replay keeps this many changed keys before it merges them: keys that are rewritten by every
/// batch are merged once, and what has been deleted again does not pile up.
const PENDING_MAX: usize = 1 << 19;

/// `healwright export --to BUNDLE`.
///
/// # Errors
/// No journal, no signed head yet, or a directory that exists already.
pub fn export(session: &Session, out: Out, to: &Path) -> anyhow::Result<bool> {
    apart(session.data(), to)?;
    let files = match session.choice() {
        LogChoice::Embedded => files_of(session.data(), session.log()?)?,
        LogChoice::Kafka(_) => bundle_of(session.shown_head()?, None, session.log()?)?,
    };
    if to.exists() {
        bail!("{} exists already; an export never overwrites", to.display());
    }
    write_files(to, &files)?;
    let report = bundle::verify(&files, &Policy::default());
    if out.form == Form::Json {
        out.json(&json!({
            "schema": "healwright.export.v1",
            "bundle": to,
            "entries": report.n_entries,
            "files": files.len(),
            "telemetry_ranges": report.n_ranges,
            "verdict": report.verdict.as_str(),
            "root": report.root,
            "deployment": report.deployment,
        }));
    } else {
        out.line(&format!(
            "{} entries and {} ranges of telemetry in {} files, {}: {}",
            report.n_entries,
            report.n_ranges,
            files.len(),
            report.verdict.as_str(),
            to.display()
        ));
        out.line(&format!(
            "deployment {}; write it down, it binds the root key",
            report.deployment
        ));
        out.line(&format!("check it anywhere: healwright verify {}", to.display()));
    }
    Ok(true)
}

/// Refuses a bundle inside the data directory: what holds it could be lost or changed with it.
fn apart(data: &Path, to: &Path) -> anyhow::Result<()> {
    let wanted = std::path::absolute(to).with_context(|| format!("reading {}", to.display()))?;
    let there = wanted.ancestors().find_map(|it| it.canonicalize().ok());
    let inside = there.zip(data.canonicalize().ok()).is_some_and(|(it, of)| it.starts_with(of));
    if inside {
        bail!(
            "{} lies inside the data directory {}; name a place outside of it, so that the \
             bundle outlives what it vouches for",
            to.display(),
            data.display()
        );
    }
    Ok(())
}

/// The files of an export of `data`.
///
/// # Errors
/// No signed head, or a history that does not verify.
pub fn files_of(data: &Path, log: &dyn Journal) -> anyhow::Result<Files> {
    let layout = Layout(data.to_owned());
    let checkpoint = fs::read(layout.checkpoint()).with_context(|| {
        format!("no signed head in {}; `healwright up` signs one when it runs", data.display())
    })?;
    bundle_of(checkpoint, gather::beside(&layout), log)
}

/// The files of an export of `log` up to a signed head at least; `beside` is a cosigned one.
fn bundle_of(
    checkpoint: Vec<u8>,
    beside: Option<Vec<u8>>,
    log: &dyn Journal,
) -> anyhow::Result<Files> {
    // The heads are read before the chain, so the chain covers them.
    log.catch_up()?;
    let head = log.head()?;
    let Gathered { checkpoint, witnessed, telemetry } = gather(log, &head, checkpoint, beside)?;
    let (mut seq, mut failed) = (0, None);
    let mut run: std::vec::IntoIter<Vec<u8>> = Vec::new().into_iter();
    let mut batches = std::iter::from_fn(|| {
        if let Some(next) = run.next() {
            return Some(next);
        }
        if seq >= head.next_seq || failed.is_some() {
            return None;
        }
        match log.read(seq, READ_BYTES) {
            Ok(read) => {
                seq = read.last().map_or(head.next_seq, schemas::Batch::next_seq);
                run = read.iter().map(schemas::Batch::encode).collect::<Vec<_>>().into_iter();
                run.next()
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    });
    let contents = Contents {
        deployment: &head.deployment,
        partition: head.partition,
        batches: &mut batches,
        checkpoint,
        witnessed,
        telemetry,
    };
    let files = bundle::build(contents);
    match failed {
        Some(error) => Err(error).context("reading the journal"),
        None => Ok(files?),
    }
}

/// Writes a bundle as a directory.
///
/// # Errors
/// A file cannot be written.
pub fn write_files(to: &Path, files: &Files) -> anyhow::Result<()> {
    for (name, bytes) in files {
        let path = to.join(name);
        let folder = path.parent().unwrap_or(to);
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Every file below `dir`, by its name relative to it.
///
/// # Errors
/// Something cannot be read, or is no plain file.
pub fn read_files(dir: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let at = dir.join(&folder);
        let listed = fs::read_dir(&at).with_context(|| format!("reading {}", at.display()))?;
        for entry in listed {
            let entry = entry.with_context(|| format!("reading {}", at.display()))?;
            let name = folder.join(entry.file_name());
            let kind = entry.file_type().context("asking what a file is")?;
            if kind.is_dir() {
                folders.push(name);
            } else if kind.is_file() {
                let bytes = fs::read(dir.join(&name))
                    .with_context(|| format!("reading {}", dir.join(&name).display()))?;
                files.insert(name.to_string_lossy().into_owned(), bytes);
            } else {
                bail!("{} is no plain file", dir.join(&name).display());
            }
        }
    }
    Ok(files)
}

/// A bundle has a `journal` too, of other files. Each of the two marks is there without the other
/// when one of them was lost.
fn is_data_directory(path: &Path) -> bool {
    let journal = Layout(path.to_owned()).journal();
    journal.is_dir() && (path.join("deployment").is_file() || journal.join("CURRENT").is_file())
}

/// `healwright verify [PATH]`: 0 it holds, 1 it does not and where, 2 it is no bundle.
///
/// # Errors
/// The path is neither a bundle nor a data directory.
pub fn verify(session: &Session, out: Out, args: &Verify) -> anyhow::Result<bool> {
    let path = args.path.clone().unwrap_or_else(|| session.data().to_owned());
    let mut policy = Policy { deployment: args.deployment.clone(), ..Policy::default() };
    if let Some(witness) = &args.witness {
        policy.heads.push(known_head(witness)?);
    }
    let files = if is_data_directory(&path) {
        if let Ok(head) = runner_head(&path) {
            policy.heads.push(head);
        }
        let reader =
            Reader::open(&path).with_context(|| format!("opening {} to read", path.display()))?;
        match files_of(&path, &reader) {
            Ok(files) => files,
            Err(error) => {
                out.error("does_not_verify", &format!("{error:#}"));
                return Ok(false);
            }
        }
    } else {
        if !path.exists() {
            bail!("{} is no bundle: there is nothing there", path.display());
        }
        if !path.is_dir() {
            bail!("{} is no bundle: a bundle is a directory", path.display());
        }
        let names = names_below(&path)?;
        if !bundle::is_bundle(names.iter().map(String::as_str)) {
            bail!(
                "{} is no bundle: it holds neither `manifest` nor `checkpoint` beside `journal/`; \
                 `healwright export --to DIR` writes one",
                path.display()
            );
        }
        read_files(&path)?
    };
    let report = bundle::verify(&files, &policy);
    show(out, &report);
    Ok(report.holds())
}

/// The names that tell a bundle: told by these alone, so a damaged bundle is still one, and a
/// folder that is none is not read through.
pub(crate) fn names_below(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for (folder, prefix) in [(dir.to_owned(), ""), (dir.join("journal"), "journal/")] {
        if !folder.is_dir() {
            continue;
        }
        let listed =
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in listed {
            let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
            names.push(format!("{prefix}{}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(names)
}

fn show(out: Out, report: &Report) {
    if out.form == Form::Json {
        out.json(&report_json(report));
        return;
    }
    if report.holds() {
        let words = out.paint(Colour::Good, "verified");
        out.line(&format!("{words}: {} entries, every one", report.n_entries));
    } else {
        out.line(&out.paint(Colour::Bad, "does not verify"));
        report.findings.iter().for_each(|it| out.line(&format!("  {it}")));
    }
    out.line(&format!("deployment  {}", report.deployment));
    out.line(&format!("root        {}", report.root));
    out.line(&format!("signed      {} of {} entries", report.signed_size, report.n_entries));
    let tail = report.unwitnessed_tail();
    let tail = if tail == 0 { String::new() } else { format!("; unwitnessed tail of {tail}") };
    let names = report.witnesses.join(", ");
    let names = if names.is_empty() { names } else { format!(" by {names}") };
    out.line(&format!("witnesses   {}{names}{tail}", report.verdict.as_str()));
    let sealed = if report.holds() { ", as they were sealed" } else { "" };
    out.line(&format!("telemetry   {} ranges{sealed}", report.n_ranges));
}

/// A report as JSON.
pub fn report_json(report: &Report) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|it| json!({ "entry": it.entry(), "file": it.file, "why": it.why }))
        .collect();
    json!({
        "schema": "healwright.verify.v1",
        "ok": report.holds(),
        "entries": report.n_entries,
        "batches": report.n_batches,
        "deployment": report.deployment,
        "root": report.root,
        "signed_size": report.signed_size,
        "witnessed_size": report.witnessed_size,
        "unwitnessed_tail": report.unwitnessed_tail(),
        "verdict": report.verdict.as_str(),
        "witnesses": report.witnesses,
        "telemetry_ranges": report.n_ranges,
        "findings": findings,
    })
}

/// The head that the local runner keeps as a witness.
///
/// # Errors
/// There is none, or it is damaged.
pub fn runner_head(data: &Path) -> anyhow::Result<KnownHead> {
    known_head(&Layout(data.to_owned()).runner().join("heads").join(PARTITION.to_string()))
}

fn known_head(path: &Path) -> anyhow::Result<KnownHead> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let witness =
        Witness::decode(&bytes).with_context(|| format!("{} is no witness", path.display()))?;
    let source = format!("runner ({})", path.display());
    Ok(KnownHead { source, size: witness.size, root: witness.root })
}

/// What a whole replay came to.
#[derive(Debug)]
pub struct ReplayReport {
    /// What was folded and compared.
    pub replayed: Replayed,
    /// CPU seconds of the replaying thread.
    pub cpu_s: f64,
    /// Sequence of the next entry to fold.
    pub next_seq: u64,
    /// Digest of the folded state, with the full tiles of the tree as the owner keeps them.
    pub digest: Hash,
}

impl ReplayReport {
    /// Whether `store` holds what was folded here. Nobody can say of a store at another place,
    /// of a replay that stopped at a difference, and where detection was taken as recorded.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn state_matches(&self, store: &dyn Store) -> anyhow::Result<Option<bool>> {
        let comparable = self.replayed.identical() && !self.replayed.as_recorded;
        if !comparable || store.position()? != self.next_seq {
            return Ok(None);
        }
        Ok(Some(store.digest()? == self.digest))
    }
}

/// Folds the chain of `log` from zero into an empty state and compares.
///
/// # Errors
/// The log cannot be read.
pub fn replay_log<J: Journal + ?Sized>(log: &J) -> anyhow::Result<ReplayReport> {
    let head = log.head()?;
    let store = Arc::new(MemoryLog::new(&head.deployment, head.partition));
    let mut state = State::new(store.clone())?;
    let place = Place {
        genesis: schemas::link::genesis(&head.deployment, head.partition),
        partition: head.partition,
        wall: Ns(0),
    };
    let mut replayed = Replayed::default();
    let began = thread_cpu_s();
    let mut seq = 0;
    while seq < head.next_seq && replayed.identical() {
        for batch in log.read(seq, READ_BYTES)? {
            replay_batch(log, &mut state, &place, &batch, &mut replayed)?;
            if !replayed.identical() {
                break;
            }
            seq = batch.next_seq();
            if state.n_pending() >= PENDING_MAX {
                store.commit(seq, &state.changes())?;
                state.commit();
            }
        }
    }
    let cpu_s = thread_cpu_s() - began;
    // The tiles are the owner's and no fold's, so growing them is no part of the folding time.
    heads::regrow(log, &mut state, seq)?;
    Ok(ReplayReport { replayed, cpu_s, next_seq: seq, digest: state.digest()? })
}

/// CPU time of this thread, seconds.
pub fn thread_cpu_s() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// `healwright replay`: 0 identical, 1 not, and where.
///
/// # Errors
/// The journal cannot be read.
pub fn replay(session: &Session, out: Out) -> anyhow::Result<bool> {
    let log = session.log()?;
    let report = replay_log(log)?;
    let replayed = &report.replayed;
    let directory = session.directory()?;
    let matches = directory.map(|store| report.state_matches(store)).transpose();
    let matches = matches.context("reading the folded state")?.flatten();
    let rate = replayed.events as f64 / report.cpu_s.max(1e-9);
    if out.form == Form::Json {
        out.json(&json!({
            "schema": "healwright.replay.v1",
            "events": replayed.events,
            "compared": replayed.compared,
            "identical": replayed.identical(),
            "events_per_s_core": rate,
            "detection": if replayed.as_recorded { "as recorded" } else { "derived" },
            "state_digest": report.digest,
            "state_matches": matches,
            "difference": replayed.difference.as_ref().map(|it| json!({
                "place": it.place, "processor": it.processor,
                "recorded": it.recorded, "derived": it.derived,
            })),
        }));
        return Ok(replayed.identical() && matches != Some(false));
    }
    match &replayed.difference {
        None if matches == Some(false) => {
            out.line(&out.paint(Colour::Bad, "the folded state is not what the journal says"));
            out.line("  every decision is; `healwright repair state` folds the state anew");
        }
        None => out.line(&format!(
            "{}: {} events, {} decisions derived again byte for byte, {} ({:.0} events/s)",
            out.paint(Colour::Good, "identical"),
            replayed.events,
            replayed.compared,
            words::span(report.cpu_s),
            rate
        )),
        Some(it) => {
            out.line(&out.paint(Colour::Bad, &format!("differs at {}", it.place)));
            out.line(&format!("  processor  {}", it.processor));
            out.line(&format!("  recorded   {}", it.recorded));
            out.line(&format!("  derived    {}", it.derived));
        }
    }
    Ok(replayed.identical() && matches != Some(false))
}
