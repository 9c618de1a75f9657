//! Walks a partition's batches from genesis, grows the tree beside them, and names the first
//! place that is not what was signed.
//!
//! The link rule is [`schemas::link()`]; this adds the tree and, where the rule refuses, the
//! search for the exact entry. An entry is named when the entry is at fault; a batch when its
//! header is, with the sequence that the chain expects there. The walk ends at the first fault:
//! what follows an unknown history proves nothing.

use std::collections::BTreeMap;
use std::fmt;

use schemas::batch::HEADER_DOMAIN;
use schemas::envelope::reference;
use schemas::link::election;
use schemas::signature::{PublicKey, SIGNATURE_BYTES};
use schemas::wire::Reader;
use schemas::{Batch, Entry, Event, Hash, Head, Header, Skip, link};
use thiserror::Error;

use crate::epoch::EpochKey;
use crate::tree::Tree;

/// Where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One entry.
    Entry {
        /// Partition of the journal.
        partition: u32,
        /// Sequence of the entry.
        seq: u64,
    },
    /// A batch, and no entry of it.
    Batch {
        /// Partition of the journal.
        partition: u32,
        /// The sequence that the chain expects where the batch stands.
        seq: u64,
    },
    /// A file, and no place in the chain.
    File,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Finding {
    /// The place in the chain.
    pub place: Place,
    /// Name of the file, where the bytes came from one.
    pub file: Option<String>,
    /// Which rule is broken there.
    pub why: String,
}

impl Finding {
    /// Something is wrong with a file, and with no place in the chain.
    pub fn in_file(file: &str, why: impl Into<String>) -> Self {
        Finding { place: Place::File, file: Some(file.to_owned()), why: why.into() }
    }

    /// Something is wrong with one entry.
    pub fn at_entry(partition: u32, seq: u64, why: impl Into<String>) -> Self {
        Finding { place: Place::Entry { partition, seq }, file: None, why: why.into() }
    }

    /// The reference of the entry, where an entry is concerned.
    pub fn entry(&self) -> Option<String> {
        match self.place {
            Place::Entry { partition, seq } => Some(reference(partition, seq)),
            Place::Batch { .. } | Place::File => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_deref();
        match (&self.place, file) {
            (Place::Entry { partition, seq }, None) => {
                write!(f, "{}: {}", reference(*partition, *seq), self.why)
            }
            (Place::Entry { partition, seq }, Some(file)) => {
                write!(f, "{} in {file}: {}", reference(*partition, *seq), self.why)
            }
            (Place::Batch { partition, seq }, file) => {
                let file = file.unwrap_or("journal");
                write!(f, "{file}: batch at {}: {}", reference(*partition, *seq), self.why)
            }
            (Place::File, file) => write!(f, "{}: {}", file.unwrap_or("journal"), self.why),
        }
    }
}

/// Finds the leaf hash that a tile holds for a sequence.
pub type Leaves<'a> = &'a (dyn Fn(u64) -> Option<Hash> + Sync);

/// The chain at a size that somebody asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Root over the entries up to there.
    pub root: Hash,
    /// The epoch that wrote the last of them, and so the only one that may sign this head.
    pub epoch: EpochKey,
}

/// A chain that was walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its end.
    pub head: Head,
    /// Root over all its entries.
    pub root: Hash,
    /// The sizes that were asked about and reached.
    pub marks: BTreeMap<u64, Mark>,
    /// Every epoch, in order.
    pub epochs: Vec<EpochKey>,
    /// The first sequence whose tile holds another leaf although the entry is the signed one.
    pub stray_leaf: Option<u64>,
}

/// Checks batches one after another.
#[derive(Clone)]
pub struct ChainVerifier<'a> {
    head: Head,
    tree: Tree,
    wanted: Vec<u64>,
    marks: BTreeMap<u64, Mark>,
    epochs: Vec<EpochKey>,
    leaves: Option<Leaves<'a>>,
    stray_leaf: Option<u64>,
}

impl<'a> ChainVerifier<'a> {
    /// A walk from the genesis of a partition.
    pub fn new(deployment: &str, partition: u32) -> Self {
        ChainVerifier {
            head: Head::genesis(deployment, partition),
            tree: Tree::new(),
            wanted: Vec::new(),
            marks: BTreeMap::new(),
            epochs: Vec::new(),
            leaves: None,
            stray_leaf: None,
        }
    }

    /// Compares each leaf with the tiles; it is they that tell which of a batch's envelopes was
    /// changed, because the batch itself signs one hash over all of them.
    pub fn with_leaves(mut self, leaves: Leaves<'a>) -> Self {
        self.leaves = Some(leaves);
        self
    }

    /// Keeps root and epoch at `size`, when the walk gets there.
    pub fn mark(&mut self, size: u64) {
        self.wanted.push(size);
    }

    /// The end of the chain so far.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Takes the next record, and nothing but it.
    ///
    /// # Errors
    /// The first place that is not what was signed. The walk is over then.
    pub fn batch(&mut self, record: &[u8]) -> Result<Batch, Finding> {
        let linked =
            Batch::decode(record).map_err(|damage| damage.error.to_string()).and_then(|batch| {
                match link(&self.head, &batch) {
                    Ok(head) => Ok((batch, head)),
                    Err(skip) => Err(words(skip).to_owned()),
                }
            });
        let (batch, head) = linked.map_err(|why| self.locate(record, why))?;
        if let Some(elected) = election(&batch) {
            self.epochs.push(EpochKey::elected(&head.deployment, head.partition, &elected));
        }
        self.grow(&batch);
        self.head = head;
        Ok(batch)
    }

    /// Takes the next record from the front of `bytes`; returns what follows it.
    ///
    /// # Errors
    /// As [`ChainVerifier::batch`].
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<(Batch, &'b [u8]), Finding> {
        // A record has no frame of its own: a length that was changed would only move the fault
        // from where it is to where the frame ends.
        let end = record_end(bytes).unwrap_or(bytes.len());
        let batch = self.batch(&bytes[..end])?;
        Ok((batch, &bytes[end..]))
    }

    /// What was walked.
    pub fn finish(self) -> Chain {
        Chain {
            root: self.tree.root(),
            head: self.head,
            marks: self.marks,
            epochs: self.epochs,
            stray_leaf: self.stray_leaf,
        }
    }

    fn grow(&mut self, batch: &Batch) {
        for entry in &batch.entries {
            let (seq, leaf) = (entry.envelope.seq, entry.leaf());
            if self.stray_leaf.is_none() && self.tile_differs(seq, &leaf) {
                self.stray_leaf = Some(seq);
            }
            self.tree.push(leaf);
            let size = self.tree.size();
            if self.wanted.contains(&size)
                && let Some(epoch) = self.epochs.last()
            {
                let mark = Mark { root: self.tree.root(), epoch: epoch.clone() };
                self.marks.insert(size, mark);
            }
        }
        // Nobody asks this tree for proofs, so its tiles need not be kept.
        self.tree.take_full_tiles();
    }

    fn tile_differs(&self, seq: u64, leaf: &Hash) -> bool {
        self.leaves.and_then(|leaves| leaves(seq)).is_some_and(|tile| tile != *leaf)
    }

    /// Names the place at fault in a record that does not link for the reason `why`.
    fn locate(&self, bytes: &[u8], why: String) -> Finding {
        let (partition, seq) = (self.head.partition, self.head.next_seq);
        let at_batch =
            |why: String| Finding { place: Place::Batch { partition, seq }, file: None, why };
        let mut reader = Reader::new("batch", bytes);
        let parts = match read_header(&mut reader) {
            Ok(parts) => parts,
            Err(error) => return at_batch(error.to_string()),
        };
        if let Some(skip) = self.header_fault(&parts.header) {
            return at_batch(words(skip).to_owned());
        }
        let (first, fault) = self.walk(&mut reader, &parts.header);
        if let Some(key) = self.header_key(&parts.header, first.as_ref())
            && !key.verify(HEADER_DOMAIN, parts.bytes, &parts.signature)
        {
            return at_batch(words(Skip::Signature).to_owned());
        }
        match fault {
            Some((seq, why)) => Finding::at_entry(partition, seq, why),
            None => at_batch(why),
        }
    }

    /// What keeps a header from following the head, in the order of [`schemas::link()`].
    fn header_fault(&self, header: &Header) -> Option<Skip> {
        let head = &self.head;
        let faults = [
            (header.deployment != head.deployment, Skip::Foreign),
            (header.partition != head.partition, Skip::Foreign),
            (header.prev != head.hash, Skip::Prev),
            (header.first_seq != head.next_seq, Skip::Sequence),
            (!header.positions.continues(&head.positions), Skip::Positions),
        ];
        faults.into_iter().find(|(broken, _)| *broken).map(|(_, skip)| skip)
    }

    /// The key under which a header has to be signed, as far as it can be known.
    fn header_key(&self, header: &Header, first: Option<&Entry>) -> Option<PublicKey> {
        if header.epoch == self.head.epoch {
            return self.head.epoch_key;
        }
        match first?.event() {
            Ok(Event::OwnerElected(elected)) => Some(elected.epoch_key),
            _ => None,
        }
    }

    /// The first entry, if it is sound, and the first place of the record that is not.
    fn walk(
        &self,
        reader: &mut Reader<'_>,
        header: &Header,
    ) -> (Option<Entry>, Option<(u64, String)>) {
        let mut first = None;
        for offset in 0..u64::from(header.count) {
            let seq = header.first_seq.saturating_add(offset);
            let entry = match read_entry(reader) {
                Ok(entry) => entry,
                Err(error) => return (first, Some((seq, error.to_string()))),
            };
            let envelope = &entry.envelope;
            if envelope.seq != seq || envelope.partition != header.partition {
                let why = format!("entry {} stands in its place", envelope.reference());
                return (first, Some((seq, why)));
            }
            if self.tile_differs(seq, &entry.leaf()) {
                return (first, Some((seq, "its envelope is not what was signed".to_owned())));
            }
            first.get_or_insert(entry);
        }
        (first, None)
    }
}

/// What is wrong with a batch that is not in the chain.
fn words(skip: Skip) -> &'static str {
    match skip {
        Skip::Foreign => "it belongs to another deployment or partition",
        Skip::Prev => "it does not name the batch before it",
        Skip::Sequence => "its first sequence is not the next one",
        Skip::Positions => "a position goes backwards",
        Skip::Epoch => "its epoch is not the current one, and it elects no next one",
        Skip::Certificate => "its election does not chain to the deployment's root",
        Skip::Signature => "its header is not what its epoch signed",
        Skip::Body => "its entries are not the ones that were signed",
    }
}

/// A header as it stands in a record.
struct SignedHeader<'a> {
    bytes: &'a [u8],
    header: Header,
    signature: [u8; SIGNATURE_BYTES],
}

fn read_header<'a>(reader: &mut Reader<'a>) -> Result<SignedHeader<'a>, schemas::Error> {
    let bytes = reader.bytes()?;
    let header = Header::decode(bytes)?;
    Ok(SignedHeader { bytes, header, signature: reader.array()? })
}

/// One entry, with its payload checked against its commitment.
fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, schemas::Error> {
    let mut stored = schemas::wire::Writer::default();
    stored.bytes(reader.bytes()?).raw(reader.raw(32)?).bytes(reader.bytes()?);
    Entry::from_bytes(&stored.0)
}

/// Where the record at the front of `bytes` ends, by its own count and lengths.
fn record_end(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader::new("batch", bytes);
    let parts = read_header(&mut reader).ok()?;
    for _ in 0..parts.header.count {
        reader.bytes().ok()?;
        reader.raw(32).ok()?;
        reader.bytes().ok()?;
    }
    Some(reader.position())
}
