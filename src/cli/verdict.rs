//! What the folds said to something that was just journaled. An input and its consequences stand
//! in one batch, so once its place is known, so is the answer.

use anyhow::Context as _;
use schemas::event::{AnnotationKind, Decision};
use schemas::{Cause, Entry, Event, Place};
use serde_json::Value;

use crate::session::Session;

/// Why what `answer` gives the place of changes nothing; `None` where it took effect.
///
/// # Errors
/// The journal cannot be read.
pub fn refusal(session: &Session, answer: &Value) -> anyhow::Result<Option<String>> {
    first_of(session, answer, |event| refused(event).or_else(|| denied(event)))
}

/// The same of somebody's no, which policy takes by rejecting: only a no that did not count is
/// a refusal.
///
/// # Errors
/// As [`refusal`].
pub fn refusal_of_a_no(session: &Session, answer: &Value) -> anyhow::Result<Option<String>> {
    first_of(session, answer, refused)
}

fn first_of(
    session: &Session,
    answer: &Value,
    no: impl Fn(&Event) -> Option<String>,
) -> anyhow::Result<Option<String>> {
    session.refresh()?;
    // What holds everywhere was judged in every partition.
    let one = std::slice::from_ref(&answer["place"]);
    let places = answer["places"].as_array().map_or(one, Vec::as_slice);
    for place in places.iter().filter_map(|it| it.as_str()?.parse::<Place>().ok()) {
        let Place { partition, seq } = place;
        if session.only_partition().is_some_and(|it| it != partition) {
            // What is looked at was chosen before it was known where the answer would stand.
            continue;
        }
        let batches = session.log_of(partition)?.read(seq, 1).context("reading what came of it")?;
        let derived = batches.iter().flat_map(|it| &it.entries).filter(|it| is_from(it, seq));
        let found = derived.filter_map(|it| it.event().ok()).find_map(|it| no(&it));
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn is_from(entry: &Entry, seq: u64) -> bool {
    matches!(&entry.envelope.cause, Cause::Derived { from, .. } if *from == seq)
}

/// A fold's refusal is an annotation on what it refuses.
fn refused(event: &Event) -> Option<String> {
    let Event::AnnotationAdded(it) = event else { return None };
    (it.kind == AnnotationKind::Correction).then(|| it.data.clone())
}

fn denied(event: &Event) -> Option<String> {
    let Event::GovernanceDecision(it) = event else { return None };
    (it.decision == Decision::Rejected).then(|| it.failure_modes.join("; "))
}
