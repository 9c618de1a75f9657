//! The head record: what it refuses, and that it survives what it is there for.

use std::fs;

use schemas::{Hash, Head};
use state::head_record::Signed;
use state::{HeadError, HeadRecord};

use crate::fixture::deployment;

/// The hash of the batch that ends there.
fn batch(size: u64) -> Hash {
    Hash::of(&[b"batch", &size.to_be_bytes()])
}

fn signed(size: u64, epoch: u64) -> Signed {
    let (root, batch) = (Hash::of(&[b"root", &size.to_be_bytes()]), batch(size));
    Signed { size, root, batch, epoch }
}

fn head(size: u64) -> Head {
    let genesis = Head::genesis(&deployment(), 0);
    Head { next_seq: size, hash: batch(size), ..genesis }
}

#[test]
fn what_was_recorded_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("heads/prod.eu-0");
    let mut record = HeadRecord::open(&path).unwrap();
    assert_eq!(record.last(), None);
    assert!(record.check(&head(0)).is_ok());
    for size in 1..4 {
        record.advance(signed(size, 1)).unwrap();
        let again = HeadRecord::open(&path).unwrap();
        assert_eq!(again.last(), Some(&signed(size, 1)));
    }
}

/// Spec 95, A06: each earlier copy of a data directory is refused.
#[test]
fn a06_every_older_copy_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut record = HeadRecord::open(&dir.path().join("record")).unwrap();
    record.advance(signed(1_000, 3)).unwrap();
    for size in 0..1_000 {
        let answer = record.check(&head(size));
        let refused = matches!(answer, Err(HeadError::AheadOfLog { recorded: 1_000, log, .. })
            if log == size);
        assert!(refused, "{answer:?}");
    }
    assert!(record.check(&head(1_000)).is_ok());
    assert!(record.check(&head(1_001)).is_ok());
    let other = Head { hash: Hash([9; 32]), ..head(1_000) };
    assert!(matches!(record.check(&other), Err(HeadError::Forked { size: 1_000, .. })));
}

#[test]
fn it_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let mut record = HeadRecord::open(&path).unwrap();
    record.advance(signed(10, 2)).unwrap();
    record.advance(signed(10, 2)).unwrap();
    for (size, epoch) in [(9, 2), (0, 9), (11, 1)] {
        let answer = record.advance(signed(size, epoch));
        assert!(matches!(answer, Err(HeadError::Regress { .. })), "{answer:?}");
    }
    let fork = Signed { root: Hash([7; 32]), ..signed(10, 2) };
    assert!(matches!(record.advance(fork), Err(HeadError::Regress { .. })));
    assert_eq!(HeadRecord::open(&path).unwrap().last(), Some(&signed(10, 2)));
}

#[test]
fn of_two_signers_the_second_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let mut one = HeadRecord::open(&path).unwrap();
    let mut two = HeadRecord::open(&path).unwrap();
    one.advance(signed(5, 1)).unwrap();
    let answer = two.advance(signed(6, 1));
    assert!(matches!(answer, Err(HeadError::Contended { .. })), "{answer:?}");
    assert_eq!(HeadRecord::open(&path).unwrap().last(), Some(&signed(5, 1)));
}

#[test]
fn every_flipped_bit_and_every_cut_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    HeadRecord::open(&path).unwrap().advance(signed(5, 1)).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 116);
    let flipped = (0..bytes.len() * 8).map(|bit| {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = (0..bytes.len()).map(|len| bytes[..len].to_vec());
    for damaged in flipped.chain(cut) {
        fs::write(&path, &damaged).unwrap();
        let answer = HeadRecord::open(&path);
        assert!(matches!(answer, Err(HeadError::Damaged { .. })), "{answer:?}");
    }
}

#[test]
fn a_crash_before_the_rename_leaves_the_old_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    HeadRecord::open(&path).unwrap().advance(signed(5, 1)).unwrap();
    fs::write(dir.path().join("record.new"), b"half of a rec").unwrap();
    let mut record = HeadRecord::open(&path).unwrap();
    assert_eq!(record.last(), Some(&signed(5, 1)));
    record.advance(signed(6, 1)).unwrap();
    assert_eq!(HeadRecord::open(&path).unwrap().last(), Some(&signed(6, 1)));
}
