//! Where a node keeps what it keeps.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::PARTITION;
use crate::engine::heads;

/// The data directory's parts.
#[derive(Clone, Debug)]
pub struct Layout(pub PathBuf);

impl Layout {
    /// The parts of one partition: the first lies in the data directory itself.
    pub fn partition(&self, number: u32) -> Layout {
        match number {
            0 => self.clone(),
            number => Layout(self.0.join("partitions").join(number.to_string())),
        }
    }
    /// The log and the state.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }
    /// The runner's own directory.
    pub fn runner(&self) -> PathBuf {
        self.0.join("runner")
    }
    /// The socket that runners call in on.
    pub fn socket(&self) -> PathBuf {
        self.0.join("run").join("control.sock")
    }
    /// Where a running node says its address and pid.
    pub fn running(&self) -> PathBuf {
        self.0.join("run").join("node.json")
    }
    /// The latest signed head.
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }
    /// The newest head that a witness cosigned.
    pub fn witnessed(&self) -> PathBuf {
        self.0.join(heads::WITNESSED)
    }
    /// Where the head record lies, as the last start was told.
    pub fn head_record(&self) -> PathBuf {
        self.0.join("head_record")
    }
    /// The deployment's id.
    pub fn deployment(&self) -> PathBuf {
        self.0.join("deployment")
    }
}

/// Where the head record lies unless the configuration says otherwise: outside the data
/// directory, so that restoring a backup of it does not restore the record too.
pub fn head_record_default(deployment: &str, partition: u32) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let state =
        std::env::var_os("XDG_STATE_HOME").map_or_else(|| home.join(".local/state"), PathBuf::from);
    state.join("healwright").join("heads").join(format!("{deployment}-{partition}"))
}

/// Where the head record of the deployment in `data` lies: where the last start that was told a
/// place looked for it, and by default otherwise.
///
/// # Errors
/// The note of that place cannot be read.
pub fn head_record_of(data: &Path, deployment: &str) -> anyhow::Result<PathBuf> {
    let told = Layout(data.to_owned()).head_record();
    match std::fs::read_to_string(&told) {
        Ok(path) => Ok(PathBuf::from(path.trim_end_matches('\n'))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(head_record_default(deployment, PARTITION))
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", told.display())),
    }
}

/// Where the head record of a further partition lies, beside the one that is configured.
pub(super) fn head_record_beside(configured: &Path, partition: u32) -> PathBuf {
    if partition == PARTITION {
        return configured.to_owned();
    }
    let mut name = configured.as_os_str().to_owned();
    name.push(format!("-{partition}"));
    PathBuf::from(name)
}

/// Keeps for `repair head` and `doctor` where a configured head record lies.
pub(super) fn remember_head_record(
    layout: &Layout,
    configured: Option<&Path>,
) -> anyhow::Result<()> {
    let told = layout.head_record();
    let done = match configured {
        Some(path) => std::path::absolute(path)
            .and_then(|path| std::fs::write(&told, format!("{}\n", path.display()))),
        None => match std::fs::remove_file(&told) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        },
    };
    done.with_context(|| format!("writing {}", told.display()))
}
