//! C2SP tlog-checkpoints (<https://c2sp.org/tlog-checkpoint>): a tree head as a signed note.
//!
//! The origin is `<deployment>/<partition>` and the signer is the epoch key under the name
//! `<deployment>/<partition>/<epoch>`. Before the owner signs one, it has read the entries back
//! and pushed the leaves of what it read (protocol.md §6); nothing here can check that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemas::Hash;
use schemas::signature::KeyPair;

use crate::Error;
use crate::epoch::{EpochKey, key_name};
use crate::note::{Attestation, Note};

/// What a tree head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// `<deployment>/<partition>`.
    pub origin: String,
    /// Number of entries under it.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Further lines, signed with it; none is empty.
    pub extensions: Vec<String>,
}

/// A checkpoint whose epoch signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The epoch whose key signed it.
    pub epoch: u64,
    /// The note, with the lines of witnesses.
    pub note: Note,
}

/// The origin of a partition's heads.
pub fn origin(deployment: &str, partition: u32) -> String {
    format!("{deployment}/{partition}")
}

impl Checkpoint {
    /// The head of a partition at `size`.
    pub fn new(deployment: &str, partition: u32, size: u64, root: Hash) -> Self {
        Checkpoint { origin: origin(deployment, partition), size, root, extensions: Vec::new() }
    }

    /// The text that is signed.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root.0));
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Reads what [`Checkpoint::text`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] says which line is wrong.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let body = text.strip_suffix('\n').ok_or(Error::Checkpoint("it is cut short"))?;
        let mut lines = body.split('\n');
        let mut line = |what| lines.next().filter(|it| !it.is_empty()).ok_or(what);
        let origin = line(Error::Checkpoint("it has no origin"))?.to_owned();
        let size = line(Error::Checkpoint("it has no size"))?;
        let root = line(Error::Checkpoint("it has no root"))?;
        let root = BASE64.decode(root).ok().and_then(|it| <[u8; 32]>::try_from(it).ok());
        let checkpoint = Checkpoint {
            origin,
            size: size.parse().map_err(|_| Error::Checkpoint("its size is no number"))?,
            root: Hash(root.ok_or(Error::Checkpoint("its root is not 32 bytes of base64"))?),
            extensions: lines.map(str::to_owned).collect(),
        };
        if checkpoint.extensions.iter().any(String::is_empty) {
            return Err(Error::Checkpoint("an extension line is empty"));
        }
        // A size of 007 or +7 parses too; only the bytes that we would write are accepted.
        if checkpoint.text() != text {
            return Err(Error::Checkpoint("it is not in canonical form"));
        }
        Ok(checkpoint)
    }

    /// The head signed by the key of `epoch`.
    ///
    /// # Errors
    /// [`Error::Note`] for an origin or extension that cannot stand in a note,
    /// [`Error::Signature`] when the signature just made does not verify.
    pub fn sign(&self, epoch: u64, key: &KeyPair) -> Result<Note, Error> {
        let mut note = Note::new(&self.text())?;
        note.sign(&format!("{}/{epoch}", self.origin), key)?;
        Ok(note)
    }
}

impl SignedHead {
    /// Verifies a checkpoint note under an epoch key and its certificate.
    ///
    /// # Errors
    /// A note or checkpoint that is malformed, [`Error::Unsigned`] or [`Error::Signature`] when
    /// the epoch key did not sign it, [`Error::Certificate`] when that key is none of the
    /// deployment's, [`Error::Subject`] when the head is of another log.
    pub fn open(bytes: &[u8], key: &EpochKey) -> Result<Self, Error> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin != origin(&key.deployment, key.partition) {
            return Err(Error::Subject("origin"));
        }
        match note.attestation(&key.verifier()?)? {
            Attestation::Signed => Ok(SignedHead { checkpoint, epoch: key.epoch, note }),
            Attestation::Absent | Attestation::Cosigned { .. } => {
                Err(Error::Unsigned(key_name(&key.deployment, key.partition, key.epoch)))
            }
        }
    }
}
