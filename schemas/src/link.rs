//! The link rule: whether a batch is in the chain. One function, used by every writer and
//! every reader (protocol.md §1).
//!
//! A batch that does not link is skipped by everybody, counted and reported. That is never an
//! error of the reader.

use serde::Serialize;

use crate::batch::{Batch, HEADER_DOMAIN, Positions};
use crate::event::{Event, OwnerElected};
use crate::signature::{EpochClaim, PublicKey};
use crate::{Hash, Kind};

/// The end of a chain as far as its reader has folded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Head {
    /// Deployment id.
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// Hash of the last batch, or the genesis value.
    pub hash: Hash,
    /// Sequence of the next entry: the number of entries in the chain.
    pub next_seq: u64,
    /// Current epoch; 0 before the first election.
    pub epoch: u64,
    /// Public key of the current epoch.
    pub epoch_key: Option<PublicKey>,
    /// Positions up to which the chain has taken inputs.
    pub positions: Positions,
}

impl Head {
    /// The empty chain of a partition.
    pub fn genesis(deployment: &str, partition: u32) -> Self {
        Head {
            deployment: deployment.to_owned(),
            partition,
            hash: genesis(deployment, partition),
            next_seq: 0,
            epoch: 0,
            epoch_key: None,
            positions: Positions::default(),
        }
    }
}

/// SHA-256 of `healwright-genesis:<deployment>/<partition>`, spec 80 §5.
pub fn genesis(deployment: &str, partition: u32) -> Hash {
    Hash::of(&[format!("healwright-genesis:{deployment}/{partition}").as_bytes()])
}

/// Why a batch is not in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// It belongs to another deployment or partition.
    Foreign,
    /// Its `prev` is not the head.
    Prev,
    /// Its first sequence does not continue the chain.
    Sequence,
    /// A position goes backwards.
    Positions,
    /// Its epoch is not the current one and it introduces no next one.
    Epoch,
    /// Its election does not chain to the deployment's root.
    Certificate,
    /// The header's signature does not verify under the epoch's key.
    Signature,
    /// Its entries are not the ones that were signed.
    Body,
}

/// The head after `batch`, or why `batch` is not in the chain that ends at `head`.
///
/// # Errors
/// [`Skip`] says which part of the rule the batch does not meet.
pub fn link(head: &Head, batch: &Batch) -> Result<Head, Skip> {
    let header = &batch.header;
    if header.deployment != head.deployment || header.partition != head.partition {
        return Err(Skip::Foreign);
    }
    if header.prev != head.hash {
        return Err(Skip::Prev);
    }
    if header.first_seq != head.next_seq {
        return Err(Skip::Sequence);
    }
    if !header.positions.continues(&head.positions) {
        return Err(Skip::Positions);
    }
    let key = epoch_key(head, batch)?;
    if !key.verify(HEADER_DOMAIN, &batch.header_bytes, &batch.signature) {
        return Err(Skip::Signature);
    }
    batch.check_body().map_err(|_| Skip::Body)?;
    Ok(Head {
        deployment: head.deployment.clone(),
        partition: head.partition,
        hash: batch.hash(),
        next_seq: batch.next_seq(),
        epoch: header.epoch,
        epoch_key: Some(key),
        positions: header.positions,
    })
}

/// The key under which the batch must be signed: the current epoch's, or the one that its first
/// entry introduces for the next epoch.
fn epoch_key(head: &Head, batch: &Batch) -> Result<PublicKey, Skip> {
    let header = &batch.header;
    match election(batch) {
        Some(elected) if Some(header.epoch) == head.epoch.checked_add(1) => {
            let claim = EpochClaim {
                deployment: &head.deployment,
                partition: head.partition,
                epoch: header.epoch,
                key: elected.epoch_key,
            };
            let certified = elected.epoch == header.epoch && claim.holds(&elected.certificate);
            if certified { Ok(elected.epoch_key) } else { Err(Skip::Certificate) }
        }
        Some(_) => Err(Skip::Epoch),
        None if header.epoch == head.epoch => head.epoch_key.ok_or(Skip::Epoch),
        None => Err(Skip::Epoch),
    }
}

/// The epoch that `batch` claims office with, if it is an election that is certified and signed
/// for this partition, whether or not it links. Whoever reads one above its own yields
/// (protocol.md §2).
pub fn claim(deployment: &str, partition: u32, batch: &Batch) -> Option<u64> {
    let header = &batch.header;
    let elected = election(batch)?;
    let (epoch, key) = (header.epoch, elected.epoch_key);
    let certified = EpochClaim { deployment, partition, epoch, key }.holds(&elected.certificate);
    let ours = header.deployment == deployment && header.partition == partition;
    let signed = key.verify(HEADER_DOMAIN, &batch.header_bytes, &batch.signature);
    let whole = ours && elected.epoch == epoch && batch.check_body().is_ok();
    (certified && signed && whole).then_some(epoch)
}

/// The election that a batch opens with, if it does.
pub fn election(batch: &Batch) -> Option<OwnerElected> {
    let first = batch.entries.first().filter(|it| it.envelope.kind == Kind::OwnerElected)?;
    match first.event() {
        Ok(Event::OwnerElected(elected)) => Some(elected),
        _ => None,
    }
}
