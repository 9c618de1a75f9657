//! The runner as a witness: it keeps one head per partition and refuses any that does not
//! extend it (protocol.md §6).
//!
//! A head is on disk before anything that rests on it is done, and before it is cosigned.
//! `heads/<partition>` is trusted; its loss costs the protection against a history that was
//! rewritten before now, and nothing else. A file that does not read stops the runner, because
//! starting from nothing is what an attacker would want.

use std::path::{Path, PathBuf};

use ledger::{EpochKey, SignedHead, Witness};
use schemas::signature::KeyPair;

use super::Error;
use super::refusal::Refusal;
use crate::durable::{self, Steps};
use crate::wire::{Evidence, Seen};

/// The kept head of one partition.
#[derive(Debug)]
pub struct Heads {
    path: PathBuf,
    witness: Witness,
}

/// What comes of a head.
#[derive(Debug)]
pub enum Accepted {
    /// It is verified, and kept.
    Head(Box<SignedHead>),
    /// The evidence starts from another head than the one that is kept: ask for it again.
    Elsewhere,
}

impl Heads {
    /// The kept head of `partition`; a first contact starts from the empty tree.
    ///
    /// # Errors
    /// The file is damaged or is about another deployment.
    pub fn open(dir: &Path, deployment: &str, partition: u32) -> Result<Self, Error> {
        let folder = dir.join("heads");
        durable::private_dir(&folder)?;
        let path = folder.join(partition.to_string());
        let fresh = Witness::new(deployment, partition);
        let witness = match std::fs::read(&path) {
            Ok(bytes) => Witness::decode(&bytes).map_err(|why| Error::damaged(&path, why))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => fresh.clone(),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        if witness.origin != fresh.origin {
            let why = format!("it is the head of {}", witness.origin);
            return Err(Error::damaged(&path, why));
        }
        Ok(Heads { path, witness })
    }

    /// The head of the one partition that this runner has met, where it is one: a conversation
    /// begins before the owner has said which partition it owns.
    ///
    /// # Errors
    /// As [`Heads::open`].
    pub fn open_only(dir: &Path, deployment: &str) -> Result<Option<(u32, Self)>, Error> {
        let Ok(names) = std::fs::read_dir(dir.join("heads")) else { return Ok(None) };
        let names = names.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
        match names.collect::<Vec<u32>>().as_slice() {
            [partition] => {
                Heads::open(dir, deployment, *partition).map(|it| Some((*partition, it)))
            }
            _ => Ok(None),
        }
    }

    /// The kept head.
    pub fn seen(&self) -> Seen {
        Seen { size: self.witness.size, root: self.witness.root }
    }

    /// Verifies the head of `evidence` and keeps it.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is none of ours or does not extend the kept one; anything else
    /// is a disk that cannot keep it, and ends the runner.
    pub fn accept(&mut self, deployment: &str, evidence: &Evidence) -> Result<Accepted, Error> {
        let head = open_head(deployment, evidence)?;
        let is_behind = head.checkpoint.size < self.witness.size;
        if evidence.from != self.witness.size && !is_behind {
            return Ok(Accepted::Elsewhere);
        }
        let next = self.witness.accept(&head, &evidence.consistency);
        let next = next.map_err(Refusal::RewrittenHistory)?;
        if next != self.witness {
            durable::replace(&self.path, &next.encode(), &Steps::default())?;
            self.witness = next;
        }
        Ok(Accepted::Head(Box::new(head)))
    }
}

/// The name under which a host's runner cosigns.
pub fn witness_name(host: &str) -> String {
    format!("runner/{host}")
}

/// The cosignature line of a kept head.
///
/// # Errors
/// The host's name cannot stand in a signature line.
pub fn cosign(
    head: &SignedHead,
    host: &str,
    key: &KeyPair,
    time_s: u64,
) -> Result<String, ledger::Error> {
    let mut note = head.note.clone();
    note.cosign(&witness_name(host), key, time_s)?;
    Ok(note.lines().last().map(ledger::note::SignatureLine::encode).unwrap_or_default())
}

fn open_head(deployment: &str, evidence: &Evidence) -> Result<SignedHead, Refusal> {
    let key = EpochKey::decode(&evidence.epoch_key.0).map_err(Refusal::Malformed)?;
    if key.deployment != deployment {
        return Err(Refusal::UnsignedHead(ledger::Error::Subject("deployment")));
    }
    SignedHead::open(&evidence.checkpoint.0, &key).map_err(Refusal::UnsignedHead)
}
