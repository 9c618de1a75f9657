//! Ed25519 under one acceptance rule, and the certificates that tie keys to a deployment.
//!
//! Every signature is over `len32 domain ‖ len32 message`, so that a signature made for one
//! purpose never verifies for another. Verification is `verify_strict` everywhere: canonical
//! encodings, no low-order points, `S < L`, the cofactorless equation (ledger.md).

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::ids::{hex, unhex};
use crate::wire::Writer;
use crate::{Error, Hash};

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Domain of a root's statement about a node key.
const NODE_DOMAIN: &str = "healwright/node-certificate/v1";
/// Domain of a node's statement about an epoch key.
const EPOCH_DOMAIN: &str = "healwright/epoch-certificate/v1";

/// A signing key. The secret is zeroized on drop and never printed.
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// The key pair of a 32-byte secret seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        KeyPair(SigningKey::from_bytes(seed))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` for `domain`.
    pub fn sign(&self, domain: &str, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(&preimage(domain, message)).to_bytes()
    }

    /// Signs `message` bare, for formats that bring their own domain (C2SP signed notes).
    pub fn sign_bare(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public().id())
    }
}

/// A public key; 64 hex digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Short id: the first 16 hex digits of the key's SHA-256.
    pub fn id(&self) -> String {
        hex(&Hash::of(&[&self.0]).0[..8])
    }

    /// Whether `signature` was made over `message` for `domain` by this key.
    pub fn verify(&self, domain: &str, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        self.verify_bare(&preimage(domain, message), signature)
    }

    /// Strict verification without a domain, for formats that bring their own.
    pub fn verify_bare(&self, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        let wrong = || Error::malformed("public key", "not 64 hex digits");
        unhex(&text).map(PublicKey).ok_or_else(wrong)
    }
}

fn preimage(domain: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.text(domain).bytes(message);
    out.0
}

/// A signature as 128 hex digits, the form in which payloads carry one.
pub fn signature_text(signature: &[u8; SIGNATURE_BYTES]) -> String {
    hex(signature)
}

/// Reads what [`signature_text`] wrote.
pub fn signature_from_text(text: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    unhex(text)
}

/// A deployment's id binds its root key: `<name>-<32 hex digits of SHA-256(root key)>`.
///
/// So the genesis value commits to the root, and a bundle can be checked against an id that
/// someone wrote down.
pub fn deployment_id(name: &str, root: &PublicKey) -> String {
    format!("{name}-{}", hex(&Hash::of(&[b"healwright/root/v1\0", &root.0]).0[..16]))
}

/// The chain of keys behind an epoch: root → node → epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Public root key; its hash is in the deployment id.
    pub root: PublicKey,
    /// Public key of the node.
    pub node: PublicKey,
    /// The root's signature over deployment and node key, 128 hex digits.
    pub node_signature: String,
    /// The node's signature over deployment, partition, epoch and epoch key, 128 hex digits.
    pub epoch_signature: String,
}

/// What an epoch certificate is about.
#[derive(Clone, Copy, Debug)]
pub struct EpochClaim<'a> {
    /// Deployment id.
    pub deployment: &'a str,
    /// Partition of the journal.
    pub partition: u32,
    /// The epoch that the key is for.
    pub epoch: u64,
    /// Public epoch key.
    pub key: PublicKey,
}

impl EpochClaim<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.text(self.deployment).u32(self.partition).u64(self.epoch).raw(&self.key.0);
        out.0
    }

    /// Signs the claim with `node`, whose own certificate is `node_signature` by `root`.
    pub fn certify(&self, root: PublicKey, node_signature: &str, node: &KeyPair) -> Certificate {
        Certificate {
            root,
            node: node.public(),
            node_signature: node_signature.to_owned(),
            epoch_signature: signature_text(&node.sign(EPOCH_DOMAIN, &self.bytes())),
        }
    }

    /// Whether `certificate` chains this claim to the root that the deployment id names.
    pub fn holds(&self, certificate: &Certificate) -> bool {
        let Some(epoch_signature) = signature_from_text(&certificate.epoch_signature) else {
            return false;
        };
        let Some((name, _)) = self.deployment.rsplit_once('-') else { return false };
        deployment_id(name, &certificate.root) == self.deployment
            && certifies_node(
                &certificate.root,
                self.deployment,
                &certificate.node,
                &certificate.node_signature,
            )
            && certificate.node.verify(EPOCH_DOMAIN, &self.bytes(), &epoch_signature)
    }
}

/// The root's signature over a node key, 128 hex digits.
pub fn certify_node(root: &KeyPair, deployment: &str, node: &PublicKey) -> String {
    signature_text(&root.sign(NODE_DOMAIN, &node_claim(deployment, node)))
}

/// Whether `certificate` is what [`certify_node`] says with the root key.
pub fn certifies_node(
    root: &PublicKey,
    deployment: &str,
    node: &PublicKey,
    certificate: &str,
) -> bool {
    let signature = signature_from_text(certificate);
    let claim = node_claim(deployment, node);
    signature.is_some_and(|it| root.verify(NODE_DOMAIN, &claim, &it))
}

fn node_claim(deployment: &str, node: &PublicKey) -> Vec<u8> {
    let mut out = Writer::default();
    out.text(deployment).raw(&node.0);
    out.0
}
