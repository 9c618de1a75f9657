//! What is proven at the end: the account verifies, a flipped byte is found, a cut tail is
//! noticed by the runner, and every decision comes out the same again.

use anyhow::Context as _;
use ledger::bundle::{self, Files, Policy};
use serde_json::{Value, json};
use state::embedded::Reader;

use super::stage::Stage;
use crate::evidence;
use crate::words;

/// An export from an earlier time: what an attacker would put in place of the whole.
pub(super) fn early_head(stage: &Stage) -> anyhow::Result<Files> {
    let reader = Reader::open(&stage.data).context("opening the journal to read")?;
    evidence::files_of(&stage.data, &reader)
}

/// The proofs, told and as JSON.
pub(super) fn prove(stage: &Stage, early: &Files) -> anyhow::Result<(Value, Value)> {
    let story = stage.story;
    story.heading(5, "What can be proven");
    let reader = Reader::open(&stage.data).context("opening the journal to read")?;
    let files = evidence::files_of(&stage.data, &reader)?;
    let head = evidence::runner_head(&stage.data)?;
    let policy = Policy { heads: vec![head], ..Policy::default() };
    let report = bundle::verify(&files, &policy);
    let ok = report.holds();
    story.figure(
        "verify",
        &format!("{} entries, {}", report.n_entries, if ok { "every one holds" } else { "NO" }),
    );
    report.findings.iter().for_each(|it| story.line(&it.to_string()));
    let located = flip(stage, &files)?;
    let cut = bundle::verify(early, &policy);
    let noticed = !cut.holds();
    let why = cut.findings.first().map_or_else(|| "not noticed".to_owned(), ToString::to_string);
    story.figure("a copy with its tail cut off", &why);
    let replay = evidence::replay_log(&reader)?;
    let identical = replay.replayed.identical();
    let said = if identical { "byte for byte the same" } else { "DIFFERENT" };
    let (n, took) = (replay.replayed.compared, words::span(replay.cpu_s));
    story.figure("replay", &format!("{n} decisions, {said}, {took}"));
    if let Some(it) = &replay.replayed.difference {
        story.line(&format!("{}: {} says {}", it.place, it.processor, it.derived));
        story.line(&format!("recorded is {}", it.recorded));
    }
    let verify = json!({
        "ok": ok, "flipped_byte_located": located, "truncation_detected": noticed,
        "entries": report.n_entries, "verdict": report.verdict.as_str(),
    });
    let replay = json!({ "events": replay.replayed.events, "identical": identical });
    Ok((verify, replay))
}

/// Flips one byte of one entry in a copy, and looks whether that entry is named.
fn flip(stage: &Stage, files: &Files) -> anyhow::Result<bool> {
    let mut copy = files.clone();
    let seq = u64::from(u32::try_from(files.len()).unwrap_or(0)) + 20;
    let reader = Reader::open(&stage.data).context("opening the journal to read")?;
    let batch = reader.read(seq, 1)?.into_iter().next().context("the journal is short")?;
    let entry =
        batch.entries.iter().find(|it| it.envelope.seq == seq).context("the journal is short")?;
    let needle = &entry.payload;
    let (name, bytes) = copy
        .iter_mut()
        .find(|(name, bytes)| name.starts_with("journal/") && find(bytes, needle).is_some())
        .context("the entry is not in the export")?;
    let at = find(bytes, needle).context("the entry is not in the export")? + needle.len() / 2;
    bytes[at] ^= 1;
    let name = name.clone();
    let report = bundle::verify(&copy, &Policy::default());
    let reference = entry.envelope.reference();
    let located = report.findings.iter().any(|it| it.entry().as_deref() == Some(&reference));
    let found = if located { format!("found at {reference}") } else { "NOT FOUND".to_owned() };
    stage.story.figure("one bit flipped in a copy", &format!("{found} ({name}, byte {at})"));
    Ok(located)
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|it| it == needle)
}
