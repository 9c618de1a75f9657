//! Witnesses: a head that does not extend the known one is refused, whatever is signed.

use ledger::{Checkpoint, Error, SignedHead, Witness, proof};
use schemas::Hash;

use super::fixture::{Log, epoch_pair, full};

fn head(log: &Log, size: u64) -> SignedHead {
    SignedHead::open(&log.checkpoint(size).encode(), log.epochs.last().unwrap()).unwrap()
}

fn path(log: &Log, old: u64, new: u64) -> Vec<Hash> {
    proof::consistency(&log.tree, old, new, &|id| log.tile(id)).unwrap()
}

#[test]
fn a_witness_follows_a_log_that_grows() {
    let mut log = Log::new(21);
    let mut witness = Witness::new(&log.deployment, 0);
    for round in 0..40 {
        log.append(round % 11 + 1);
        if round % 9 == 0 {
            log.elect();
        }
        let size = log.tree.size();
        let next = witness.accept(&head(&log, size), &path(&log, witness.size, size)).unwrap();
        assert_eq!((next.size, next.root), (size, log.tree.root()));
        assert_eq!(Witness::decode(&next.encode()), Ok(next.clone()));
        // The same head again changes nothing.
        assert_eq!(next.accept(&head(&log, size), &[]).as_ref(), Ok(&next));
        witness = next;
    }
}

/// A08, with the log's own key: two histories that part after `m` entries, shown at `n`.
#[test]
fn a08_every_fork_is_refused() {
    let n_max = if full() { 256 } else { 40 };
    let ours = Log::with(22, 1, n_max);
    for m in 1..n_max as u64 {
        let known = head(&ours, m + 1);
        let witness = Witness::new(&ours.deployment, 0).accept(&known, &[]).unwrap();
        // The other history: the first m leaves are the same, the next is another.
        let mut theirs = Log::new(22);
        theirs.tree = ledger::Tree::new();
        for (at, entry) in ours.entries().enumerate() {
            let leaf = if at as u64 == m { Hash::of(&[b"fork"]) } else { entry.leaf() };
            theirs.tree.push(leaf);
        }
        theirs.tiles.extend(theirs.tree.take_full_tiles());
        for n in m + 1..=n_max as u64 {
            let forked = head(&theirs, n);
            let refusal = witness.accept(&forked, &path(&theirs, m + 1, n)).unwrap_err();
            if n == m + 1 {
                assert!(matches!(refusal, Error::Fork { .. }), "{refusal}");
            } else {
                assert_eq!(refusal, Error::Proof("consistency"), "{m} and {n}");
            }
        }
    }
}

#[test]
fn a_witness_refuses_what_is_behind_it() {
    let mut log = Log::with(23, 2, 20);
    let old = head(&log, 30);
    log.elect();
    let size = log.tree.size();
    let witness = Witness::new(&log.deployment, 0).accept(&head(&log, size), &[]).unwrap();
    let behind = Error::Behind { known: size, offered: 30 };
    assert_eq!(witness.accept(&old, &path(&log, 30, 30)), Err(behind));
}

#[test]
fn a_witness_refuses_an_epoch_that_has_ended() {
    let mut log = Log::with(24, 1, 5);
    let zombie = log.epochs[0].clone();
    log.elect();
    let size = log.tree.size();
    let witness = Witness::new(&log.deployment, 0).accept(&head(&log, size), &[]).unwrap();
    log.append(3);
    let (next, root) = (log.tree.size(), log.tree.root());
    let former = epoch_pair(24, 1);
    let late = Checkpoint::new(&log.deployment, 0, next, root).sign(1, &former).unwrap();
    let late = SignedHead::open(&late.encode(), &zombie).unwrap();
    let ended = Error::EpochEnded { known: 2, offered: 1 };
    assert_eq!(witness.accept(&late, &path(&log, size, next)), Err(ended));
}

#[test]
fn a_witness_refuses_another_log() {
    let (log, other) = (Log::with(25, 1, 5), Log::with(26, 1, 5));
    let witness = Witness::new(&log.deployment, 0);
    assert_eq!(witness.accept(&head(&other, 6), &[]), Err(Error::Subject("origin")));
}

#[test]
fn a_witness_that_cannot_read_its_head_does_not_start_from_nothing() {
    let log = Log::with(27, 1, 5);
    let bytes = Witness::new(&log.deployment, 0).accept(&head(&log, 6), &[]).unwrap().encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Witness::decode(&bad).is_err(), "bit {bit}");
    }
}
