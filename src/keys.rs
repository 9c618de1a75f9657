//! Keys of a deployment: root, node and operator, created on first start.
//!
//! | file | may | its loss costs |
//! | --- | --- | --- |
//! | `keys/root.key` | certify node keys | no new node can be certified; keep it elsewhere |
//! | `keys/node.key` | certify epochs, sign exports | no office until the root certifies another |
//! | `keys/operator.key` | approve, release, freeze, unfreeze | nobody can approve or unfreeze |
//!
//! `keys/node.certificate` holds what the root said about the node key, so that the root key can
//! be taken elsewhere after the first start.
//!
//! Each key file holds 64 hex digits of an Ed25519 seed, mode 0600. Secrets are never logged and
//! never leave their file except into memory. Epoch keys are never written at all: each start is
//! a new epoch.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use schemas::ids::{hex, unhex};
use schemas::signature::{
    Certificate, EpochClaim, KeyPair, PublicKey, certify_node, deployment_id,
};

/// Public root key and the root's certificate of the node key, one line each; no secret.
const CERTIFICATE: &str = "node.certificate";
/// Names of deployments until an operator chooses one.
const DEFAULT_NAME: &str = "local";

/// What a node needs to take office.
#[derive(Debug)]
pub struct Identity {
    /// Deployment id; binds the root key.
    pub deployment: String,
    /// Name of this node.
    pub node_name: String,
    /// Public root key.
    pub root: PublicKey,
    /// This node's key.
    pub node: KeyPair,
    node_certificate: String,
}

impl Identity {
    /// An identity from its keys; `root` is needed only here.
    pub fn new(name: &str, node_name: &str, root: &KeyPair, node: KeyPair) -> Self {
        let deployment = deployment_id(name, &root.public());
        let node_certificate = certify_node(root, &deployment, &node.public());
        let (root, node_name) = (root.public(), node_name.to_owned());
        Identity { deployment, node_name, root, node, node_certificate }
    }

    /// The root's certificate of the node key.
    pub fn node_certificate(&self) -> &str {
        &self.node_certificate
    }

    /// Root → node → epoch for `claim`.
    pub fn certify(&self, claim: &EpochClaim<'_>) -> Certificate {
        claim.certify(self.root, &self.node_certificate, &self.node)
    }
}

/// The key files of a data directory.
#[derive(Debug, Clone)]
pub struct KeyDir(PathBuf);

impl KeyDir {
    /// The keys of the data directory `data`.
    pub fn of(data: &Path) -> Self {
        KeyDir(data.join("keys"))
    }

    /// The identity of this node; creates what is missing on first start. Later a lost node key is
    /// made anew where the root key is here to certify it, and the log says so.
    ///
    /// # Errors
    /// A key file that is malformed or readable by others, an unwritable directory, or a node key
    /// and a root key that were here and are both gone.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        self.private()?;
        if let Some(certified) = self.certified()? {
            return Ok(certified);
        }
        let is_first_start = !self.0.join(CERTIFICATE).exists();
        let root = self.key("root", is_first_start)?;
        if self.is_fresh() && !is_first_start {
            let path = self.0.join("node.key").display().to_string();
            tracing::warn!(
                path,
                "the node key is gone: another one is made, certified by root.key"
            );
        }
        let node = self.key("node", true)?;
        let identity = Identity::new(DEFAULT_NAME, &host_name(), &root, node);
        self.keep_certificate(&identity.root, &identity.node_certificate)?;
        Ok(identity)
    }

    /// Whether no node key has been made here yet.
    pub fn is_fresh(&self) -> bool {
        !self.0.join("node.key").exists()
    }

    /// Whether the root key or a certificate of it is here.
    pub fn is_certified(&self) -> bool {
        self.0.join("root.key").exists() || self.0.join(CERTIFICATE).exists()
    }

    /// This node's key; creates it on first use.
    ///
    /// # Errors
    /// As [`KeyDir::identity`].
    pub fn node(&self) -> anyhow::Result<KeyPair> {
        self.private()?;
        self.key("node", true)
    }

    /// The root key, where it is here.
    ///
    /// # Errors
    /// No such file, or a malformed one.
    pub fn existing_root(&self) -> anyhow::Result<KeyPair> {
        self.key("root", false)
    }

    /// Forgets a root key that another one has come before, and what it certified.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn give_up_root(&self) -> anyhow::Result<()> {
        for name in ["root.key", CERTIFICATE] {
            let path = self.0.join(name);
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Keeps the certificate that `root` gave this node; `None` if it does not hold.
    ///
    /// # Errors
    /// The certificate cannot be written.
    pub fn admitted(
        &self,
        deployment: &str,
        root: PublicKey,
        certificate: &str,
    ) -> anyhow::Result<Option<Identity>> {
        let node = self.node()?;
        if !schemas::signature::certifies_node(&root, deployment, &node.public(), certificate) {
            return Ok(None);
        }
        self.keep_certificate(&root, certificate)?;
        self.certified()
    }

    fn keep_certificate(&self, root: &PublicKey, certificate: &str) -> anyhow::Result<()> {
        let path = self.0.join(CERTIFICATE);
        fs::write(&path, format!("{root}\n{certificate}\n"))
            .with_context(|| format!("writing {}", path.display()))
    }

    fn private(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("creating {}", self.0.display()))?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("restricting {}", self.0.display()))
    }

    /// The identity without the root key, from the certificate that a former start kept. `None`
    /// where the root key is there, or nothing is there yet.
    fn certified(&self) -> anyhow::Result<Option<Identity>> {
        let there = |name: &str| self.0.join(name).exists();
        if there("root.key") || !there("node.key") {
            return Ok(None);
        }
        let path = self.0.join(CERTIFICATE);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("root.key is gone and nothing certifies node.key: reading {}", path.display())
        })?;
        let mut lines = text.lines();
        let root = lines.next().and_then(unhex::<32>).map(PublicKey);
        let (Some(root), Some(certificate)) = (root, lines.next()) else {
            bail!("{} is no certificate; put root.key back", path.display());
        };
        Ok(Some(Identity {
            deployment: deployment_id(DEFAULT_NAME, &root),
            node_name: host_name(),
            root,
            node: self.key("node", false)?,
            node_certificate: certificate.to_owned(),
        }))
    }

    /// The operator's key; creates it on first use.
    ///
    /// # Errors
    /// As [`KeyDir::identity`].
    pub fn operator(&self) -> anyhow::Result<KeyPair> {
        self.key("operator", true)
    }

    /// Whether an operator's key is kept here.
    pub fn has_operator(&self) -> bool {
        self.0.join("operator.key").exists()
    }

    /// The operator's key, where it exists.
    ///
    /// # Errors
    /// No such file, with the command that creates one, or a malformed file.
    pub fn existing_operator(&self) -> anyhow::Result<KeyPair> {
        self.key("operator", false)
    }

    fn key(&self, name: &str, create: bool) -> anyhow::Result<KeyPair> {
        let path = self.0.join(format!("{name}.key"));
        match fs::read_to_string(&path) {
            Ok(text) => read_key(&path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => create_key(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "{} does not exist; `healwright up --data {}` creates it on the first start, and \
                 only then",
                path.display(),
                self.0.parent().unwrap_or(&self.0).display()
            ),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
}

fn read_key(path: &Path, text: &str) -> anyhow::Result<KeyPair> {
    let mode = fs::metadata(path)
        .with_context(|| format!("reading {}", path.display()))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        bail!("{0} can be read by others (mode {mode:o}); run `chmod 600 {0}`", path.display());
    }
    let Some(seed) = unhex::<32>(text.trim()) else {
        bail!("{} is no key: 64 hex digits are expected", path.display());
    };
    Ok(KeyPair::from_seed(&seed))
}

fn create_key(path: &Path) -> anyhow::Result<KeyPair> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("reading randomness for a new key")?;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("creating {}", path.display()))?;
    writeln!(file, "{}", hex(&seed))
        .and_then(|()| file.sync_all())
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(KeyPair::from_seed(&seed))
}

/// The host's name, as the runner and the node are called.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_str().unwrap_or("local").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_root_key_can_be_taken_elsewhere_after_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::of(dir.path());
        let first = keys.identity().unwrap();
        fs::remove_file(dir.path().join("keys/root.key")).unwrap();
        let second = keys.identity().unwrap();
        assert_eq!(second.deployment, first.deployment);
        assert_eq!(second.node_certificate, first.node_certificate);
        assert!(!dir.path().join("keys/root.key").exists(), "no other root is made");
        fs::remove_file(dir.path().join("keys/node.certificate")).unwrap();
        let error = format!("{:#}", keys.identity().unwrap_err());
        assert!(error.contains("root.key is gone"), "{error}");
    }

    #[test]
    fn a_lost_node_key_is_made_anew_by_the_root_key_and_by_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::of(dir.path());
        let first = keys.identity().unwrap();
        fs::remove_file(dir.path().join("keys/node.key")).unwrap();
        let second = keys.identity().unwrap();
        assert_eq!(second.deployment, first.deployment);
        assert_ne!(second.node.public(), first.node.public());
        for name in ["node.key", "root.key"] {
            fs::remove_file(dir.path().join("keys").join(name)).unwrap();
        }
        let error = format!("{:#}", keys.identity().unwrap_err());
        assert!(error.contains("root.key does not exist"), "{error}");
        assert!(!dir.path().join("keys/root.key").exists(), "no other root is made");
        assert!(keys.is_certified(), "what is left stays");
    }
}
