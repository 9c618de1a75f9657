//! An export: files that prove a partition's history to whoever has a deployment id.
//!
//! | file | holds | vouched for by |
//! | --- | --- | --- |
//! | `journal/<first seq>.batches` | batch records, one after another | epoch keys, from the root |
//! | `tile/0/…` | leaf hashes, C2SP tiles | the root hash |
//! | `checkpoint` | the newest signed head, with cosignatures | its epoch's key |
//! | `witnessed` | the newest head that witnesses cosigned, where it is an older one | the same |
//! | `telemetry/<from>.samples` | the records of a sealed range, length-prefixed | its seal |
//! | `manifest` | size and SHA-256 of all of these | itself ([`crate::manifest`]) |
//!
//! Pure: a bundle is a map from file name to bytes; the program reads and writes the files.
//! What the verifier demands beyond the files is its own [`Policy`]. Names cannot be added:
//! a file that the manifest does not list is a finding, and so is one of a kind not named here.
//!
//! The runners that the chain registers are witnesses of the deployment's own organisation: they
//! make a history SELF-WITNESSED, and no policy can have one counted for anybody else.

use std::collections::BTreeMap;

use schemas::event::TelemetrySealed;
use schemas::{Entry, Event, Hash, Header, Kind};

use crate::chain::{ChainVerifier, Finding, Leaves};
use crate::manifest::{MANIFEST, Manifest};
use crate::note::{Algorithm, NoteKey};
use crate::tree::{TILE_BYTES, TileId, hashes};

mod verify;

pub use verify::verify;

/// File name and bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Name of the newest signed head in a bundle.
pub const CHECKPOINT: &str = "checkpoint";
/// Name of the newest cosigned head, where it is not the newest one.
pub const WITNESSED: &str = "witnessed";
/// A journal file is closed with the batch that makes it this long.
const JOURNAL_FILE_BYTES: usize = 8 * 1024 * 1024;

/// What goes into an export.
pub struct Contents<'a> {
    /// Deployment id.
    pub deployment: &'a str,
    /// Partition of the journal.
    pub partition: u32,
    /// Every batch record from genesis on, in order.
    pub batches: &'a mut dyn Iterator<Item = Vec<u8>>,
    /// The newest signed head, as bytes of its note.
    pub checkpoint: Vec<u8>,
    /// The newest cosigned head, where it is an older one.
    pub witnessed: Option<Vec<u8>>,
    /// Length-prefixed records of sealed ranges, by the first position of the range.
    pub telemetry: BTreeMap<u64, Vec<u8>>,
}

/// What a verifier demands beyond what the files say of themselves.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The deployment id that somebody wrote down; it binds the root key.
    pub deployment: Option<String>,
    /// Heads that are known from elsewhere: a runner, a witness, an earlier export.
    pub heads: Vec<KnownHead>,
    /// Witnesses whose cosignatures count.
    pub witnesses: Vec<WitnessKey>,
    /// The organisation that runs the deployment: its own witnesses make it SELF-WITNESSED.
    pub own_organisation: String,
    /// How many other organisations make it WITNESSED; 0 is read as 1.
    pub n_organisations: usize,
}

/// A head that is known from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHead {
    /// Who knows it, for the finding: `runner local`.
    pub source: String,
    /// Number of entries under it.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

/// A witness that a policy knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessKey {
    /// Who runs it; a policy counts organisations and not signatures.
    pub organisation: String,
    /// Its key.
    pub key: NoteKey,
}

/// How far somebody else stands behind the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nobody but the deployment's own key.
    Unanchored,
    /// Witnesses, and too few of them from other organisations.
    SelfWitnessed,
    /// As many other organisations as the policy asks for.
    Witnessed,
}

impl Verdict {
    /// The word as it is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Unanchored => "UNANCHORED",
            Verdict::SelfWitnessed => "SELF-WITNESSED",
            Verdict::Witnessed => "WITNESSED",
        }
    }
}

/// What verifying an export found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Deployment id.
    pub deployment: String,
    /// Partition of the journal.
    pub partition: u32,
    /// Entries that were checked.
    pub n_entries: u64,
    /// Batches that were checked.
    pub n_batches: u64,
    /// Root over the checked entries.
    pub root: Hash,
    /// Epoch at the end of them.
    pub epoch: u64,
    /// Size of the newest signed head; 0 when none holds.
    pub signed_size: u64,
    /// Size of the newest head that a counted witness or a known head confirms.
    pub witnessed_size: u64,
    /// Sealed ranges of telemetry that were compared with their seals.
    pub n_ranges: u64,
    /// How far somebody else stands behind it.
    pub verdict: Verdict,
    /// Names of the witnesses that counted.
    pub witnesses: Vec<String>,
    /// What is wrong, the first place first; empty when everything holds.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether everything holds.
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    /// Entries after the last witnessed head: cutting these off would leave no trace.
    pub fn unwitnessed_tail(&self) -> u64 {
        self.n_entries.saturating_sub(self.witnessed_size)
    }

    /// Entries after the last signed head.
    pub fn unsigned_tail(&self) -> u64 {
        self.n_entries.saturating_sub(self.signed_size)
    }
}

/// Whether a folder with files of these names is an export, whole or damaged.
pub fn is_bundle<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    let (mut manifest, mut checkpoint, mut journal) = (false, false, false);
    for name in names {
        manifest |= name == MANIFEST;
        checkpoint |= name == CHECKPOINT;
        journal |= journal_start(name).is_some();
    }
    u8::from(manifest) + u8::from(checkpoint) + u8::from(journal) >= 2
}

/// The files of an export.
///
/// # Errors
/// A history that does not verify is not exported as if it did: the first place at fault.
pub fn build(contents: Contents<'_>) -> Result<Files, Finding> {
    let Contents { deployment, partition, batches, checkpoint, witnessed, telemetry } = contents;
    let mut chain = ChainVerifier::new(deployment, partition);
    let mut files = Files::new();
    let mut leaves: Vec<u8> = Vec::new();
    let (mut name, mut open) = (journal_name(0), Vec::new());
    for record in batches {
        if open.len() >= JOURNAL_FILE_BYTES {
            files.insert(name, std::mem::take(&mut open));
            name = journal_name(chain.head().next_seq);
        }
        let batch = chain.batch(&record)?;
        leaves.extend(batch.entries.iter().flat_map(|entry| entry.leaf().0));
        open.extend(record);
    }
    files.insert(name, open);
    for (index, tile) in (0u64..).zip(leaves.chunks(TILE_BYTES)) {
        files.insert(TileId { level: 0, index }.path(tile.len() / 32), tile.to_vec());
    }
    files.insert(CHECKPOINT.to_owned(), checkpoint);
    files.extend(witnessed.map(|bytes| (WITNESSED.to_owned(), bytes)));
    files.extend(telemetry.into_iter().map(|(from, bytes)| (telemetry_name(from), bytes)));
    let manifest = Manifest::of(deployment, partition, &files).encode();
    files.insert(MANIFEST.to_owned(), manifest);
    Ok(files)
}

/// Name of the journal file that begins at `seq`.
pub fn journal_name(seq: u64) -> String {
    format!("journal/{seq:012}.batches")
}

/// Name of the file with the telemetry range that begins at `from`.
pub fn telemetry_name(from: u64) -> String {
    format!("telemetry/{from:012}.samples")
}

/// The first sequence of a journal file, if `name` is the name of one.
fn journal_start(name: &str) -> Option<u64> {
    let seq = name.strip_prefix("journal/")?.strip_suffix(".batches")?.parse().ok()?;
    (journal_name(seq) == name).then_some(seq)
}

/// The first position of a telemetry file, if `name` is the name of one.
fn telemetry_start(name: &str) -> Option<u64> {
    let from = name.strip_prefix("telemetry/")?.strip_suffix(".samples")?.parse().ok()?;
    (telemetry_name(from) == name).then_some(from)
}
