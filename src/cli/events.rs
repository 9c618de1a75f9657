//! `healwright events`: the journals of all partitions, as they are and as they grow.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use clap::Subcommand;
use schemas::{Entry, Kind};

use super::read::Window;
use super::{Form, Slice};
use crate::journal::Journal;
use crate::out::{Out, local_time};
use crate::session::Session;
use crate::{up, words};

/// Journal records are read in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Of one sentence shown in a list.
const LINE_CHARS_MAX: usize = 1000;

/// `healwright events`.
#[derive(Debug, Subcommand)]
pub enum Events {
    /// Every event, oldest first; of several partitions one after the other
    List {
        /// Only this topic, as in slo.anomaly.detected.v1
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Which part
        #[command(flatten)]
        slice: Slice,
    },
    /// Events as they happen
    Tail {
        /// Only this topic, as in slo.anomaly.detected.v1
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
    },
}

/// `healwright events …`.
pub fn run(session: &Session, out: Out, command: &Events) -> anyhow::Result<bool> {
    match command {
        Events::List { topic, slice } => {
            let kind = topic.as_deref().map(Kind::of_topic).transpose()?;
            let window = Window::of(slice)?;
            let mut kept = Vec::new();
            for log in session.logs()? {
                kept.extend(list(out, log, kind, &window)?);
            }
            // What was kept of several partitions is one list, and the newest of it is asked for.
            kept.sort_by_key(|it| (it.envelope.wall, it.envelope.place()));
            let newest = kept.len().saturating_sub(window.limit.unwrap_or(0));
            kept.iter().skip(newest).for_each(|entry| show(out, entry));
        }
        Events::Tail { topic } => tail(session, out, topic.as_deref())?,
    }
    Ok(true)
}

/// Shows what is wanted of one journal; with a limit, answers the newest of it instead.
fn list(
    out: Out,
    log: &dyn Journal,
    kind: Option<Kind>,
    window: &Window,
) -> anyhow::Result<VecDeque<Entry>> {
    let mut kept = VecDeque::new();
    let (mut seq, end) = (0, log.head()?.next_seq);
    while seq < end {
        for batch in log.read(seq, READ_BYTES)? {
            seq = batch.next_seq();
            let wanted = |it: &Entry| {
                kind.is_none_or(|kind| kind == it.envelope.kind) && window.holds(it.envelope.wall)
            };
            for entry in batch.entries.into_iter().filter(wanted) {
                let Some(limit) = window.limit else {
                    show(out, &entry);
                    continue;
                };
                kept.push_back(entry);
                if kept.len() > limit {
                    kept.pop_front();
                }
            }
        }
    }
    Ok(kept)
}

fn tail(session: &Session, out: Out, topic: Option<&str>) -> anyhow::Result<()> {
    let kind = topic.map(Kind::of_topic).transpose()?;
    // A reader has a folder among the temporary files that goes away with it: a signal must let
    // it end by itself.
    let stop = up::stop_flag();
    let mut followed = Vec::new();
    for log in session.logs()? {
        followed.push((log, log.head()?.next_seq));
    }
    out.remark("following the journal; Ctrl-C ends it");
    while !stop.load(Ordering::SeqCst) {
        session.refresh()?;
        for (log, seq) in &mut followed {
            while *seq < log.head()?.next_seq {
                for batch in log.read(*seq, READ_BYTES)? {
                    let wanted = |it: &&Entry| kind.is_none_or(|kind| kind == it.envelope.kind);
                    batch.entries.iter().filter(wanted).for_each(|entry| show(out, entry));
                    *seq = batch.next_seq();
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    Ok(())
}

fn show(out: Out, entry: &Entry) {
    if out.form == Form::Json {
        out.json(&schemas::view::topic(entry));
        return;
    }
    let text = entry.event().map_or_else(|it| it.to_string(), |it| words::sentence(&it));
    let text = shortened(&text);
    let envelope = &entry.envelope;
    let at = local_time(envelope.wall);
    out.line(&format!(
        "{:>7}  {at}  {:<24}  {text}",
        envelope.place().short(),
        envelope.kind.name()
    ));
}

/// A line is for reading: what is longer than a screen is told as JSON.
fn shortened(text: &str) -> std::borrow::Cow<'_, str> {
    match text.char_indices().nth(LINE_CHARS_MAX) {
        None => text.into(),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            format!("{}… ({more} more characters; `-o json` shows all)", &text[..end]).into()
        }
    }
}
