//! `healwright repair`: what the system must not mend by itself, because a person has to look.
//!
//! No repair touches a directory on which a node runs, and none deletes what only it holds: a
//! damaged journal and an overridden head record are set aside under another name.

mod journal;
mod runner;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use schemas::envelope::reference;
use schemas::event::ConfigKind;
use serde_json::json;
use state::embedded::{EmbeddedLog, Part};
use state::{HeadRecord, Log as _};

use crate::cli::{Form, Repair, act};
use crate::engine::wall_now;
use crate::node::{OPERATOR, PARTITION, activation, head_record_of, take_office};
use crate::out::Out;
use crate::session::Session;

/// Under this name a person's decision about the head record stands in the journal. Persisted:
/// frozen.
const DECISION: &str = "head_record";

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
        Repair::Database => {
            refuse_while_running(session)?;
            out.line(&match EmbeddedLog::repair_contents(session.data())? {
                Some(manifest) => {
                    format!("{manifest} lists every file, and CURRENT names it again")
                }
                None => "the table of contents is there and sound; nothing was changed".to_owned(),
            });
            Ok(true)
        }
        Repair::Journal { from, accept_loss } => {
            journal::anew(session, out, from.as_deref(), *accept_loss)
        }
        Repair::Head { reason } => head(session, out, reason),
        Repair::Runner { host, reason } => runner::replace(session, out, host.as_deref(), reason),
    }
}

/// Accepts what the log holds in place of what its head record says.
///
/// 1. The decision is journaled under the operator's signature; the head over it is signed and
///    recorded beside. A crash until here leaves a start that is refused as before.
/// 2. The old record is set aside. A crash after it leaves none, and no start is refused.
/// 3. The new record takes its place.
fn head(session: &Session, out: Out, reason: &str) -> anyhow::Result<bool> {
    refuse_while_running(session)?;
    let deployment =
        fs::read_to_string(session.layout().deployment()).context("reading the deployment id")?;
    let record = head_record_of(session.data(), deployment.trim())?;
    if !record.is_file() {
        bail!("there is no head record at {}; no start is refused for it", record.display());
    }
    let [accepted, kept] = [".accepted", ".overridden"].map(|it| beside(&record, it));
    let seq = accept(session, &record, &accepted, reason)?;
    fs::rename(&record, &kept).with_context(|| format!("setting {} aside", record.display()))?;
    // The last cosigned head may be one of the history that is given up.
    let witnessed = session.layout().witnessed();
    if witnessed.exists() {
        fs::rename(&witnessed, beside(&witnessed, ".overridden"))
            .with_context(|| format!("setting {} aside", witnessed.display()))?;
    }
    forget_witness(session)?;
    fs::rename(&accepted, &record).with_context(|| format!("writing {}", record.display()))?;
    let place = reference(PARTITION, seq);
    if out.form == Form::Json {
        out.json(&json!({ "place": place, "head_record": record, "set_aside": kept }));
        return Ok(true);
    }
    out.line(&format!(
        "what the log holds is accepted, as {place} says; the former head record is set aside as \
         {}, and so is what the runner on this machine had seen; witnesses elsewhere will still \
         refuse this history",
        kept.display()
    ));
    Ok(true)
}

/// The runner of this machine has seen the history that is given up, and would refuse every order
/// from now on. Who accepts the loss here accepts it for that runner too; the entry says so to
/// everybody else.
fn forget_witness(session: &Session) -> anyhow::Result<()> {
    let dir = session.layout().runner();
    crate::node::runner::end_former(&dir)?;
    let head = dir.join("heads").join(PARTITION.to_string());
    if head.exists() {
        fs::rename(&head, beside(&head, ".overridden"))
            .with_context(|| format!("setting {} aside", head.display()))?;
    }
    Ok(())
}

/// Journals that a person accepts this log, with a head record of its own at `accepted`.
fn accept(session: &Session, record: &Path, accepted: &Path, reason: &str) -> anyhow::Result<u64> {
    // Without the operator's key nothing is made or changed.
    session.keys().existing_operator()?;
    let deployment = session.keys().identity()?.deployment;
    // What an attempt that was cut short has left would be ahead of this log.
    remove(accepted)?;
    let log = EmbeddedLog::open(session.data(), &deployment, PARTITION)?;
    let holds = log.head()?;
    // A damaged record says nothing, and is set aside all the same.
    let recorded = HeadRecord::open(record).ok().and_then(|it| it.last().copied());
    let body = json!({
        "reason": reason,
        "recorded": recorded.map(|it| json!({
            "size": it.size, "root": it.root, "batch": it.batch, "epoch": it.epoch,
        })),
        "accepted": { "size": holds.next_seq, "batch": holds.hash, "epoch": holds.epoch },
    });
    let seq = decide(session, log, accepted, ConfigKind::Baseline, DECISION, body.to_string())?;
    remove(&beside(accepted, ".lock"))?;
    Ok(seq)
}

/// Journals a person's decision under the operator's signature; the head over it is recorded at
/// `record`. Answers its sequence.
fn decide(
    session: &Session,
    log: EmbeddedLog,
    record: &Path,
    kind: ConfigKind,
    name: &str,
    body: String,
) -> anyhow::Result<u64> {
    let (operator, identity) = (session.keys().existing_operator()?, session.keys().identity()?);
    let mut owner = take_office(&session.layout(), Arc::new(log), &identity, "repair", record)?;
    if owner.signer(OPERATOR).is_some_and(|it| it != operator.public()) {
        bail!("keys/operator.key is not the one that is registered; put that one back");
    }
    let version = owner.active_config(name).map_or(1, |it| it.version + 1);
    let input = activation(&operator, kind, name, version, body);
    owner.log().send(input.stream(), &[input.encode()?])?;
    let cycle = owner.cycle(wall_now())?;
    owner.sign_head(wall_now(), true)?;
    let taken = cycle.taken.first().context("the journal has not taken the decision")?;
    if let Some(why) = &taken.refused {
        bail!("the journal refuses the decision: {why}");
    }
    if owner.active_config(name).is_none_or(|it| it.seq != taken.seq) {
        let place = reference(PARTITION, taken.seq);
        bail!("{place} changes nothing; the entry after it says why");
    }
    Ok(taken.seq)
}

/// The path with `suffix` appended.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

fn refuse_while_running(session: &Session) -> anyhow::Result<()> {
    match session.running() {
        Some(it) => bail!("a node runs here (pid {}); stop it first", it.pid),
        None => Ok(()),
    }
}
