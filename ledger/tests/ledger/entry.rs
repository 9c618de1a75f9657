//! The proof of one entry: no part of it can stand beside another.

use std::sync::atomic::{AtomicU64, Ordering};

use ledger::{EntryProof, Error};

use super::fixture::{Log, full, in_parallel};

/// Valid bundles of several logs: entry, proof and the deployment they are about.
fn bundles(n: usize) -> Vec<(Vec<u8>, EntryProof, (String, u32))> {
    let mut bundles = Vec::new();
    for seed in 1..=n.div_ceil(8) as u8 {
        // Every other log is the second partition of the deployment before it.
        let mut log = Log::of(seed - (seed + 1) % 2, u32::from((seed + 1) % 2));
        (0..2).for_each(|_| log.append(1 + usize::from(seed / 2 % 5)));
        for round in 0..8 {
            if round % 3 == 2 {
                log.elect();
            }
            log.append(1 + round % 3);
            let seq = log.head.next_seq * (round as u64 + 1) / 9;
            let (entry, proof) = log.prove(seq);
            bundles.push((entry, proof, (log.deployment.clone(), log.partition)));
        }
    }
    bundles.truncate(n);
    bundles
}

#[test]
fn every_entry_of_a_log_is_proven() {
    let log = Log::with(3, 30, 9);
    for seq in 0..log.head.next_seq {
        let (entry, proof) = log.prove(seq);
        let again = EntryProof::decode(&proof.encode()).unwrap();
        assert_eq!(again, proof);
        let proven = again.verify(&entry, &log.deployment, 0).unwrap();
        assert_eq!(proven.entry.envelope.seq, seq);
        assert_eq!(proven.head.checkpoint.size, log.head.next_seq);
    }
}

/// A15: every component of every bundle in the place of every other bundle's.
#[test]
fn a15_no_component_of_a_valid_bundle_fits_another() {
    let bundles = bundles(if full() { 1_000 } else { 32 });
    let cases = AtomicU64::new(0);
    in_parallel(&bundles, |whole| {
        let (entry, own, about) = whole;
        own.verify(entry, &about.0, about.1).unwrap();
        for (other_entry, other, other_about) in &bundles {
            let with = |change: fn(&mut EntryProof, &EntryProof)| {
                let mut proof = own.clone();
                change(&mut proof, other);
                proof
            };
            let index = with(|own, other| own.index = other.index);
            let swaps = [
                (other_entry, own.clone(), about),
                (entry, index.clone(), about),
                (other_entry, index, about),
                (entry, with(|own, other| own.size = other.size), about),
                (entry, with(|own, other| own.path.clone_from(&other.path)), about),
                (entry, with(|own, other| own.checkpoint.clone_from(&other.checkpoint)), about),
                (entry, with(|own, other| own.epoch_key.clone_from(&other.epoch_key)), about),
                (entry, own.clone(), other_about),
            ];
            for (entry, proof, about) in swaps {
                if (entry, &proof, about) != (&whole.0, &whole.1, &whole.2) {
                    proof.verify(entry, &about.0, about.1).unwrap_err();
                    cases.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let cases = cases.into_inner();
    assert!(cases >= 5_000, "{cases} cases");
}

#[test]
fn every_bit_of_a_proof_and_of_its_entry_counts() {
    let log = Log::with(5, 3, 4);
    let (entry, proof) = log.prove(6);
    let bytes = proof.encode();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let verified =
            EntryProof::decode(&bad).and_then(|it| it.verify(&entry, &log.deployment, 0));
        assert!(verified.is_err(), "bit {bit} of the proof");
    }
    for bit in 0..entry.len() * 8 {
        let mut bad = entry.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(proof.verify(&bad, &log.deployment, 0).is_err(), "bit {bit} of the entry");
    }
}

#[test]
fn a_proof_says_which_field_is_about_something_else() {
    let log = Log::with(6, 3, 4);
    let (entry, proof) = log.prove(6);
    let verify = |proof: &EntryProof, deployment: &str, partition| {
        proof.verify(&entry, deployment, partition).map(|_| ())
    };
    assert_eq!(verify(&proof, "another", 0), Err(Error::Subject("deployment")));
    assert_eq!(verify(&proof, &log.deployment, 1), Err(Error::Subject("partition")));
    let moved = EntryProof { index: 5, ..proof.clone() };
    assert_eq!(verify(&moved, &log.deployment, 0), Err(Error::Subject("entry")));
    let resized = EntryProof { size: 9, ..proof };
    assert_eq!(verify(&resized, &log.deployment, 0), Err(Error::Subject("head")));
}
