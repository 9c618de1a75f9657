//! The key of an epoch and the chain that ties it to the deployment's root.
//!
//! Heads are signed by the epoch key. Whoever holds nothing but a deployment id can check one:
//! the id binds the root, the root certifies a node, the node certifies the epoch key
//! (protocol.md §6). In a chain the introduction stands in `owner.elected`.

use schemas::event::OwnerElected;
use schemas::signature::{Certificate, EpochClaim, PublicKey, signature_from_text, signature_text};
use schemas::wire::{Reader, Writer};

use crate::Error;
use crate::note::{Algorithm, NoteKey};

/// The format mark of version 1. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWK\x01";

/// A public epoch key with its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochKey {
    /// Deployment id; binds the root.
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// The epoch that the key is for.
    pub epoch: u64,
    /// Public epoch key.
    pub key: PublicKey,
    /// Root → node → epoch key.
    pub certificate: Certificate,
}

impl EpochKey {
    /// The key that an election of this partition introduces.
    pub fn elected(deployment: &str, partition: u32, elected: &OwnerElected) -> Self {
        EpochKey {
            deployment: deployment.to_owned(),
            partition,
            epoch: elected.epoch,
            key: elected.epoch_key,
            certificate: elected.certificate.clone(),
        }
    }

    /// The key as a verifier of heads.
    ///
    /// # Errors
    /// [`Error::Certificate`] when it does not chain to the root that its deployment id names.
    pub fn verifier(&self) -> Result<NoteKey, Error> {
        let claim = EpochClaim {
            deployment: &self.deployment,
            partition: self.partition,
            epoch: self.epoch,
            key: self.key,
        };
        if !claim.holds(&self.certificate) {
            return Err(Error::Certificate(self.epoch));
        }
        let name = key_name(&self.deployment, self.partition, self.epoch);
        NoteKey::new(&name, Algorithm::Ed25519, self.key)
    }

    /// The bytes that travel in proofs.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(MAGIC);
        let Certificate { root, node, node_signature, epoch_signature } = &self.certificate;
        out.text(&self.deployment).u32(self.partition).u64(self.epoch).raw(&self.key.0);
        out.raw(&root.0).raw(&node.0);
        out.text(node_signature).text(epoch_signature);
        out.0
    }

    /// Reads what [`EpochKey::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Error::Bytes`] for malformed or surplus bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("epoch key", bytes);
        reader.expect(MAGIC)?;
        let key = EpochKey {
            deployment: reader.text()?.to_owned(),
            partition: reader.u32()?,
            epoch: reader.u64()?,
            key: PublicKey(reader.array()?),
            certificate: Certificate {
                root: PublicKey(reader.array()?),
                node: PublicKey(reader.array()?),
                node_signature: hex_signature(reader.text()?)?,
                epoch_signature: hex_signature(reader.text()?)?,
            },
        };
        reader.end()?;
        Ok(key)
    }
}

/// The name under which an epoch key signs heads.
pub fn key_name(deployment: &str, partition: u32, epoch: u64) -> String {
    format!("{deployment}/{partition}/{epoch}")
}

/// Takes the one text form of a signature: 128 lower-case digits.
fn hex_signature(text: &str) -> Result<String, Error> {
    let canonical = signature_from_text(text).map(|it| signature_text(&it));
    canonical.filter(|it| it == text).ok_or(Error::Note("a certificate is not 128 hex digits"))
}
