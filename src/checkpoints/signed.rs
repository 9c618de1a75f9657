//! A manifest under the signature of the node that made the checkpoint.
//!
//! ```text
//! "HWS\x01" root[32] node[32] len32 certificate, len32 manifest, signature[64]
//! ```
//!
//! The deployment's id binds the root, the root's certificate the node, the node's signature the
//! manifest, and that the files: so nothing that lies in the store has to be trusted, and no list
//! of nodes is asked. Who may sign is who may take office.

use anyhow::{Context as _, bail};
use schemas::signature::{PublicKey, certifies_node, deployment_id};
use schemas::wire::{Reader, Writer};
use state::checkpoint::Checkpoint;

use crate::keys::Identity;

/// The format mark. Persisted: frozen.
const MAGIC: &[u8; 4] = b"HWS\x01";
/// Domain of the node's signature over a manifest. Persisted: frozen.
const DOMAIN: &str = "healwright/checkpoint/v1";

/// A checkpoint's manifest, and the node that answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What the checkpoint holds.
    pub checkpoint: Checkpoint,
    /// Key of the node that made it.
    pub node: PublicKey,
}

/// The record of `checkpoint` under the node key of `identity`.
pub fn sign(checkpoint: &Checkpoint, identity: &Identity) -> Vec<u8> {
    let manifest = checkpoint.encode();
    let mut out = Writer::new(MAGIC);
    out.raw(&identity.root.0).raw(&identity.node.public().0);
    out.text(identity.node_certificate()).bytes(&manifest);
    out.raw(&identity.node.sign(DOMAIN, &manifest));
    out.0
}

/// Reads a record that must be of `deployment` and `partition`.
///
/// # Errors
/// Which link of the chain of keys does not hold, or what else it is about.
pub fn verify(bytes: &[u8], deployment: &str, partition: u32) -> anyhow::Result<Signed> {
    let mut fields = Reader::new("signed checkpoint", bytes);
    fields.expect(MAGIC)?;
    let (root, node) = (PublicKey(fields.array()?), PublicKey(fields.array()?));
    let (certificate, manifest) = (fields.text()?, fields.bytes()?);
    let signature = fields.array()?;
    fields.end()?;
    let name = deployment.rsplit_once('-').map_or("", |(name, _)| name);
    if deployment_id(name, &root) != deployment {
        bail!("its root key is not that of {deployment}");
    }
    if !certifies_node(&root, deployment, &node, certificate) {
        bail!("the root key does not certify the node {} that signed it", node.id());
    }
    if !node.verify(DOMAIN, manifest, &signature) {
        bail!("the signature of node {} does not hold", node.id());
    }
    let checkpoint = Checkpoint::decode(manifest).context("reading its manifest")?;
    if (checkpoint.deployment.as_str(), checkpoint.partition) != (deployment, partition) {
        let Checkpoint { deployment, partition, .. } = &checkpoint;
        bail!("it is of deployment {deployment}, partition {partition}");
    }
    Ok(Signed { checkpoint, node })
}
