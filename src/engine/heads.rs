//! Tree heads: the Merkle tree over the partition's entries, read back before it is signed, and
//! the head record that lies outside the data directory.
//!
//! Two trees grow side by side. One takes what the owner appended; the other takes only what the
//! log gives back. A head is signed when both have the same root: a public log died of one
//! flipped bit that had been signed (ledger.md).
//!
//! A witness answers a head with its cosignature. The newest cosigned head is written beside the
//! newest signed one, for exports; it proves itself, so its loss costs one minute of witness,
//! which is how often a cosigned head is journaled.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger::checkpoint::{Checkpoint, SignedHead};
use ledger::entry::EntryProof;
use ledger::epoch::EpochKey;
use ledger::note::{Attestation, NoteKey};
use ledger::tree::{TileId, Tree};
use ledger::{checkpoint, proof};
use schemas::signature::KeyPair;
use schemas::{Hash, Head, Ns};
use state::head_record::Signed;
use state::{HeadRecord, Log, State, Store};

use super::EngineError;
use crate::journal::Journal;

/// Name of the newest cosigned head, beside the newest signed one.
pub const WITNESSED: &str = "witnessed";
/// Signed heads that a witness may still answer: it is shown one a second, and while many are
/// signed it has more than a second to do so.
const SHOWN_MAX: usize = 16;

/// A head is signed at most this long after an append (protocol.md §6).
const SIGN_WITHIN: Ns = Ns::from_ms(100);
/// Batches are read back in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The tree and its signed heads.
pub struct Heads {
    tree: Tree,
    read_back: Tree,
    epoch_key: Option<EpochKey>,
    signed: Option<SignedHead>,
    signed_at: Ns,
    /// The newest signed heads, each with the witnesses that have answered it.
    shown: VecDeque<SignedHead>,
    witnessed_size: u64,
    record: HeadRecord,
    note_path: Option<PathBuf>,
    show: Option<Show>,
}

/// Shows a signed head to those who cannot read this node's files.
pub type Show = Box<dyn Fn(&[u8]) + Send>;

impl Heads {
    /// Opens the head record at `record`; the latest signed head is also written to `note`.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn open(record: &Path, note: Option<PathBuf>) -> Result<Self, EngineError> {
        Ok(Heads {
            tree: Tree::new(),
            read_back: Tree::new(),
            epoch_key: None,
            signed: None,
            signed_at: Ns(0),
            shown: VecDeque::new(),
            witnessed_size: 0,
            record: HeadRecord::open(record)?,
            note_path: note,
            show: None,
        })
    }

    /// Has every head that is signed from now on shown elsewhere, too.
    #[must_use]
    pub fn shown(self, show: Show) -> Self {
        Heads { show: Some(show), ..self }
    }

    /// Rebuilds the tree at `head` from its full tiles and the entries after them, and refuses a
    /// log that is behind its head record or tells another history. Tiles that a state folded
    /// anew lacks go into the store at once, so that it is what it would have been.
    ///
    /// # Errors
    /// A log that cannot be read, or one that does not continue the recorded head (A06).
    pub fn restore(
        &mut self,
        log: &dyn Log,
        store: &dyn Store,
        state: &mut State,
        head: &Head,
    ) -> Result<(), EngineError> {
        let size = head.next_seq;
        let first = size - size % ledger::tree::TILE_HASHES as u64;
        let mut tail = Vec::new();
        let mut seq = first;
        while seq < size {
            for batch in log.read(seq, READ_BYTES)? {
                let seqs = first..size;
                let entries = batch.entries.iter().filter(|it| seqs.contains(&it.envelope.seq));
                tail.extend(entries.map(schemas::Entry::leaf));
                seq = batch.next_seq();
            }
        }
        self.tree = match Tree::restore(size, &|id| tile(state, id), &tail) {
            Ok(tree) => tree,
            // A state that was folded anew holds no tiles: they are not the folds' to say.
            Err(_) => {
                let tree = regrow(log, state, size)?;
                store.commit(size, &state.changes())?;
                state.commit();
                tree
            }
        };
        self.read_back = self.tree.clone();
        self.signed = None;
        self.shown.clear();
        self.record.check(head)?;
        if let Some(known) = self.record.last().copied() {
            let offered = self.tree.root_at(known.size, &|id| tile(state, id))?;
            if offered != known.root {
                let Signed { size, root, .. } = known;
                return Err(ledger::Error::Fork { size, known: root, offered }.into());
            }
        }
        Ok(())
    }

    /// Takes the leaves of a batch that is about to be appended; its full tiles go into the same
    /// write as the batch. Whoever gives wrong ones has no head signed: they are compared with
    /// what is read back.
    pub fn grow(&mut self, leaves: &[Hash], state: &mut State) {
        leaves.iter().for_each(|leaf| self.tree.push(*leaf));
        for (id, bytes) in self.tree.take_full_tiles() {
            state.put(&tile_key(id), bytes);
        }
    }

    /// The key under which heads are signed from now on.
    pub fn epoch(&mut self, key: EpochKey) {
        self.epoch_key = Some(key);
    }

    /// Signs the head of the tree, if it has grown and a signature is due, or `force`.
    ///
    /// Order: read back, compare, sign, write the note for readers, fsync the head record. A
    /// crash before the last step leaves a record that is behind, which is no contradiction.
    ///
    /// # Errors
    /// [`EngineError::ReadBack`] names the first batch that reads back differently; the head
    /// record refuses a regress.
    pub fn sign(
        &mut self,
        log: &dyn Log,
        head: &Head,
        key: &KeyPair,
        wall: Ns,
        force: bool,
    ) -> Result<(), EngineError> {
        let Some(epoch_key) = &self.epoch_key else { return Ok(()) };
        let behind = self.signed_size() < head.next_seq;
        if !behind || !(force || self.due_in(wall).is_zero()) {
            return Ok(());
        }
        log.settle(head.next_seq)?;
        let from = self.read_back.size();
        read_back(&mut self.read_back, log, head)?;
        if self.read_back.root() != self.tree.root() {
            let place = schemas::envelope::reference(head.partition, from);
            return Err(EngineError::ReadBack { place });
        }
        let (size, root) = (head.next_seq, self.tree.root());
        let checkpoint = Checkpoint::new(&head.deployment, head.partition, size, root);
        let note = checkpoint.sign(epoch_key.epoch, key)?;
        if let Some(path) = &self.note_path {
            write_note(path, &note.encode())?;
        }
        if let Some(show) = &self.show {
            show(&note.encode());
        }
        let epoch = epoch_key.epoch;
        self.record.advance(Signed { size, root, batch: head.hash, epoch })?;
        let signed = SignedHead { checkpoint, epoch: epoch_key.epoch, note };
        self.shown.push_back(signed.clone());
        if self.shown.len() > SHOWN_MAX {
            self.shown.pop_front();
        }
        self.signed = Some(signed);
        self.signed_at = wall;
        Ok(())
    }

    /// Takes what the witness with `key` says of the head at `size`, and answers with the head
    /// as it is now vouched for; `None` when the head is no longer at hand, or nothing is new.
    ///
    /// # Errors
    /// The line is not by that key, or is about another head; the note cannot be written.
    pub fn cosigned(
        &mut self,
        size: u64,
        line: &str,
        key: &NoteKey,
    ) -> Result<Option<&SignedHead>, EngineError> {
        let Some(at) = self.shown.iter().position(|it| it.checkpoint.size == size) else {
            return Ok(None);
        };
        let head = &mut self.shown[at];
        if head.note.attestation(key)? != Attestation::Absent {
            return Ok(None);
        }
        let mut note = head.note.clone();
        note.add_line(line)?;
        if !matches!(note.attestation(key)?, Attestation::Cosigned { .. }) {
            return Err(ledger::Error::Unsigned(key.name().to_owned()).into());
        }
        head.note = note;
        if self.witnessed_size <= size {
            self.witnessed_size = size;
            if let Some(path) = &self.note_path {
                write_note(&path.with_file_name(WITNESSED), &head.note.encode())?;
            }
        }
        Ok(Some(head))
    }

    /// How long until a head is to be signed; long when none is.
    pub fn due_in(&self, wall: Ns) -> Duration {
        if self.signed_size() == self.tree.size() {
            return Duration::from_secs(5);
        }
        (self.signed_at + SIGN_WITHIN).since(wall).as_duration()
    }

    /// The latest signed head and the key that it verifies under.
    pub fn signed(&self) -> Option<(&SignedHead, &EpochKey)> {
        self.signed.as_ref().zip(self.epoch_key.as_ref())
    }

    fn signed_size(&self) -> u64 {
        self.signed.as_ref().map_or(0, |it| it.checkpoint.size)
    }

    /// The proof that entry `seq` stands under the latest signed head.
    ///
    /// # Errors
    /// No head is signed yet that covers it.
    pub fn prove(&self, state: &State, seq: u64) -> Result<EntryProof, ledger::Error> {
        let missing = ledger::Error::Range { place: seq, size: self.signed_size() };
        let Some((signed, epoch_key)) = self.signed() else { return Err(missing) };
        let size = signed.checkpoint.size;
        let path = proof::inclusion(&self.tree, seq, size, &|id| tile(state, id))?;
        Ok(EntryProof {
            index: seq,
            size,
            path,
            checkpoint: signed.note.encode(),
            epoch_key: epoch_key.clone(),
        })
    }

    /// The proof that the latest signed head extends the tree at `old`.
    ///
    /// # Errors
    /// `old` is larger than the signed head.
    pub fn extends(&self, state: &State, old: u64) -> Result<Vec<Hash>, ledger::Error> {
        proof::consistency(&self.tree, old, self.signed_size(), &|id| tile(state, id))
    }
}

/// Grows `tree` with what the log gives back, up to `head`. On a shared log another owner's
/// batches may stand behind it by now; they are not this head's.
fn read_back(tree: &mut Tree, log: &dyn Log, head: &Head) -> Result<(), EngineError> {
    while tree.size() < head.next_seq {
        let leaves = log.leaves(tree.size())?;
        if leaves.is_empty() {
            // Answered `Appended`, and not there: waiting for it would never end.
            let place = schemas::envelope::reference(head.partition, tree.size());
            return Err(EngineError::ReadBack { place });
        }
        let missing = usize::try_from(head.next_seq - tree.size()).unwrap_or(usize::MAX);
        leaves.into_iter().take(missing).for_each(|leaf| tree.push(leaf));
    }
    tree.take_full_tiles();
    Ok(())
}

/// Grows the tree from the chain's first entry on. Its full tiles go into the state with the next
/// batch; what is wrong with them is found against the head record.
///
/// # Errors
/// The log cannot be read.
pub fn regrow<J: Journal + ?Sized>(
    log: &J,
    state: &mut State,
    size: u64,
) -> Result<Tree, EngineError> {
    let mut tree = Tree::new();
    while tree.size() < size {
        let batches = log.read(tree.size(), READ_BYTES)?;
        for batch in batches.iter().filter(|it| it.header.first_seq < size) {
            batch.entries.iter().for_each(|entry| tree.push(entry.leaf()));
        }
        for (id, bytes) in tree.take_full_tiles() {
            state.put(&tile_key(id), bytes);
        }
    }
    Ok(tree)
}

/// Readers see the old note or the new one. It is not fsynced: the head record is what counts,
/// and a note that is lost is signed again.
fn write_note(path: &Path, note: &[u8]) -> Result<(), EngineError> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, note)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|source| EngineError::Io { what: format!("writing {}", path.display()), source })
}

/// Where a full tile stands in the state. Persisted: frozen.
fn tile_key(id: TileId) -> Vec<u8> {
    let mut key = b"tree/".to_vec();
    key.push(id.level);
    key.extend_from_slice(&id.index.to_be_bytes());
    key
}

fn tile(state: &State, id: TileId) -> Option<Vec<u8>> {
    state.get(&tile_key(id))
}

/// The name under which heads of a partition are signed.
pub fn origin(head: &Head) -> String {
    checkpoint::origin(&head.deployment, head.partition)
}
