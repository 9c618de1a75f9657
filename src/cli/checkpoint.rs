//! `healwright checkpoint`: what lies where nodes on a cluster keep their checkpoints.

use clap::Subcommand;
use serde_json::json;

use super::Form;
use crate::checkpoints::{self, Depot, Listed, digest};
use crate::out::{Out, local_time};
use crate::up;

/// `healwright checkpoint`.
#[derive(Debug, Subcommand)]
pub enum Checkpoint {
    /// Checkpoints with entries, time, size, digest of the state, and who signed; 1 when one does
    /// not verify
    List {
        /// The place, as `checkpoints.url` names it
        url: String,
    },
}

/// Runs one of the commands on checkpoints.
///
/// # Errors
/// The place is of no known form, or does not answer.
pub fn run(out: Out, command: &Checkpoint) -> anyhow::Result<bool> {
    let Checkpoint::List { url } = command;
    let runtime = up::runtime()?;
    let listed = checkpoints::list(&Depot::open(url, runtime.handle().clone())?)?;
    if listed.is_empty() {
        out.remark(&format!("no checkpoint lies in {url}"));
    }
    match out.form {
        Form::Json => listed.iter().for_each(|it| out.json(&object(it))),
        Form::Table => {
            let head = ["deployment", "entries", "written", "size", "state", "signed by"];
            out.table(&head, &listed.iter().map(row).collect::<Vec<_>>());
        }
    }
    Ok(listed.iter().all(|it| it.signed.is_ok()))
}

fn row(listed: &Listed) -> Vec<String> {
    let place = format!("{}/{}", listed.deployment, listed.partition);
    let mut row = vec![place, listed.next_seq.to_string(), local_time(listed.at)];
    match &listed.signed {
        Ok(signed) => {
            let (checkpoint, files) = (&signed.checkpoint, signed.checkpoint.files.len());
            let size = format!("{:.1} MB in {files} files", checkpoint.bytes() as f64 / 1e6);
            row.extend([size, digest(&checkpoint.state), signed.node.id()]);
        }
        Err(error) => {
            row.extend(["?".to_owned(), "?".to_owned(), format!("does not verify: {error:#}")]);
        }
    }
    row
}

fn object(listed: &Listed) -> serde_json::Value {
    let signed = listed.signed.as_ref();
    json!({
        "schema": "healwright.checkpoint.v1",
        "deployment": listed.deployment,
        "partition": listed.partition,
        "entries": listed.next_seq,
        "written": listed.at.to_string(),
        "position": signed.map(|it| it.checkpoint.position).ok(),
        "bytes": signed.map(|it| it.checkpoint.bytes()).ok(),
        "files": signed.map(|it| it.checkpoint.files.len()).ok(),
        "state": signed.map(|it| it.checkpoint.state).ok(),
        "node": signed.map(|it| it.node).ok(),
        "error": signed.err().map(|it| format!("{it:#}")),
    })
}
