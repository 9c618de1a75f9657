//! The walk over a chain: it goes on over rotated keys, and names the first place that is wrong.

use ledger::{ChainVerifier, EpochKey, Error, Finding, Place, SignedHead};
use schemas::signature::KeyPair;
use schemas::{Batch, Event, Hash, Head, Positions};

use super::fixture::{Log, full};

/// A log of about `n` entries in batches of 1 to 7, in three epochs.
fn log(n: u64) -> Log {
    let mut log = Log::new(11);
    let mut size = 1;
    while log.head.next_seq < n {
        log.append(size);
        size = size % 7 + 1;
        if log.head.next_seq.is_multiple_of(97)
            || (log.epochs.len() < 3 && log.head.next_seq > n / 2)
        {
            log.elect();
        }
    }
    log
}

/// Header and signature, then each entry, as they lie in a record.
fn parts(batch: &Batch) -> (Vec<u8>, Vec<Vec<u8>>) {
    let entries: Vec<_> = batch.entries.iter().map(schemas::Entry::to_bytes).collect();
    let record = batch.encode();
    let body: usize = entries.iter().map(Vec::len).sum();
    (record[..record.len() - body].to_vec(), entries)
}

/// Walks `bytes` on from `verifier`.
fn walk(mut verifier: ChainVerifier<'_>, bytes: &[u8]) -> Result<u64, Finding> {
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = verifier.next(rest)?.1;
    }
    Ok(verifier.head().next_seq)
}

/// The sequence that a finding names, as entry or as batch.
fn named(finding: &Finding) -> u64 {
    match finding.place {
        Place::Entry { seq, .. } | Place::Batch { seq, .. } => seq,
        Place::File => panic!("{finding} names no place"),
    }
}

#[test]
fn a_chain_as_it_was_written_holds() {
    let log = log(300);
    let mut verifier = ChainVerifier::new(&log.deployment, 0);
    verifier.mark(200);
    for batch in &log.batches {
        assert_eq!(verifier.batch(&batch.encode()).unwrap(), *batch);
    }
    let chain = verifier.finish();
    assert_eq!(chain.head, log.head);
    assert_eq!(chain.root, log.tree.root());
    assert_eq!(chain.marks[&200].root, log.tree.root_at(200, &|id| log.tile(id)).unwrap());
}

#[test]
fn ids_are_gap_free() {
    let log = log(500);
    let seqs: Vec<u64> = log.entries().map(|entry| entry.envelope.seq).collect();
    assert_eq!(seqs, (0..log.head.next_seq).collect::<Vec<_>>());
    assert_eq!(log.entries().nth(5).unwrap().envelope.reference(), "immutable:log:0/5");
}

#[test]
fn key_history_verifies_old_entries() {
    let log = log(300);
    assert!(log.epochs.len() >= 3);
    let mut verifier = ChainVerifier::new(&log.deployment, 0);
    for batch in &log.batches {
        verifier.batch(&batch.encode()).unwrap();
    }
    assert_eq!(verifier.finish().epochs, log.epochs);
    // The newest head proves the first entry, which an older key wrote.
    let (entry, proof) = log.prove(0);
    proof.verify(&entry, &log.deployment, 0).unwrap();
}

/// A10: every single insertion, deletion, exchange and repetition of an entry and of a batch.
/// The first place that differs from what was written is named.
#[test]
fn a10_every_edit_is_found_and_its_index_named() {
    let log = log(if full() { 10_000 } else { 400 });
    let leaves: Vec<Hash> = log.entries().map(schemas::Entry::leaf).collect();
    let lookup = |seq: u64| leaves.get(seq as usize).copied();
    let mut verifier = ChainVerifier::new(&log.deployment, 0).with_leaves(&lookup);
    let mut cases = 0;
    for (at, batch) in log.batches.iter().enumerate() {
        let next = log.batches.get(at + 1);
        for (place, bytes) in entry_edits(batch, next).into_iter().chain(batch_edits(batch, next)) {
            let finding = walk(verifier.clone(), &bytes).unwrap_err();
            assert_eq!(named(&finding), place, "batch {at}: {finding}");
            cases += 1;
        }
        verifier.batch(&batch.encode()).unwrap();
    }
    assert!(cases >= 1_000, "{cases} cases");
}

/// An annotation is an entry like any other: the chain does not verify without it.
#[test]
fn annotation_is_chained() {
    let mut log = Log::with(11, 2, 3);
    let annotated = log.batches.len();
    log.annotate();
    log.append(3);
    let mut records: Vec<Vec<u8>> = log.batches.iter().map(Batch::encode).collect();
    let verifier = ChainVerifier::new(&log.deployment, 0);
    assert_eq!(walk(verifier.clone(), &records.concat()), Ok(log.head.next_seq));
    records.remove(annotated);
    assert!(walk(verifier, &records.concat()).is_err());
}

/// Edits inside a batch whose header stays, with the first place that is wrong.
fn entry_edits(batch: &Batch, next: Option<&Batch>) -> Vec<(u64, Vec<u8>)> {
    let (head, entries) = parts(batch);
    let after = next.map(Batch::encode).unwrap_or_default();
    let mut edits = Vec::new();
    let mut edit = |place: usize, entries: Vec<Vec<u8>>| {
        let bytes = [&head[..], &entries.concat(), &after].concat();
        edits.push((batch.header.first_seq + place as u64, bytes));
    };
    for at in 0..entries.len() {
        let mut deleted = entries.clone();
        deleted.remove(at);
        edit(at, deleted);
        let mut repeated = entries.clone();
        repeated.insert(at, entries[at].clone());
        edit(at + 1, repeated);
        let mut inserted = entries.clone();
        inserted.insert(at, Log::new(12).prove(0).0);
        edit(at, inserted);
        if at + 1 < entries.len() {
            let mut exchanged = entries.clone();
            exchanged.swap(at, at + 1);
            edit(at, exchanged);
        }
    }
    edits
}

/// Edits of whole batches, and of headers that were made to fit by somebody without the key.
fn batch_edits(batch: &Batch, next: Option<&Batch>) -> Vec<(u64, Vec<u8>)> {
    let (first, record) = (batch.header.first_seq, batch.encode());
    let mut edits = vec![(batch.next_seq(), [&record[..], &record].concat())];
    if let Some(next) = next {
        edits.push((first, next.encode()));
        edits.push((first, [next.encode(), record].concat()));
    }
    let forger = KeyPair::from_seed(&[99; 32]);
    let mut entries = batch.entries.to_vec();
    if entries.len() > 1 {
        entries.pop();
    }
    edits.push((first, Batch::sign(batch.header.clone(), entries, &forger).encode()));
    edits
}

#[test]
fn verify_names_first_invalid_entry() {
    let log = log(60);
    let leaves: Vec<Hash> = log.entries().map(schemas::Entry::leaf).collect();
    let lookup = |seq: u64| leaves.get(seq as usize).copied();
    let mut bytes = Vec::new();
    for batch in &log.batches {
        let (head, mut entries) = parts(batch);
        for (seq, entry) in (batch.header.first_seq..).zip(&mut entries) {
            if seq == 23 || seq == 41 {
                *entry.last_mut().unwrap() ^= 1;
            }
        }
        bytes.extend(head);
        bytes.extend(entries.concat());
    }
    let verifier = ChainVerifier::new(&log.deployment, 0).with_leaves(&lookup);
    let finding = walk(verifier, &bytes).unwrap_err();
    let expected = "immutable:log:0/23: payload does not match its commitment";
    assert_eq!(finding.to_string(), expected);
    assert_eq!(finding.entry().as_deref(), Some("immutable:log:0/23"));
}

#[test]
fn a_chain_does_not_pass_for_another() {
    let log = log(20);
    let record = log.batches[0].encode();
    let other = Log::new(12).deployment;
    for (deployment, partition) in [(other.as_str(), 0), (log.deployment.as_str(), 1)] {
        let finding = ChainVerifier::new(deployment, partition).batch(&record).unwrap_err();
        assert!(finding.why.contains("another deployment or partition"), "{finding}");
    }
}

/// Whoever owns the folder can make keys, and certify them with a root of his own.
#[test]
fn an_epoch_that_another_root_certifies_signs_nothing() {
    let log = Log::new(14);
    let mut forger = Log::new(15);
    forger.deployment.clone_from(&log.deployment);
    forger.head = Head::genesis(&log.deployment, 0);
    let elected = forger.election();
    let key = EpochKey::elected(&log.deployment, 0, &elected);
    let entry = forger.entry(0, &Event::from(elected));
    let batch = forger.sign(1, vec![entry], Positions::default());
    let finding = ChainVerifier::new(&log.deployment, 0).batch(&batch.encode()).unwrap_err();
    let why = "its election does not chain to the deployment's root";
    assert_eq!(finding.to_string(), format!("journal: batch at immutable:log:0/0: {why}"));
    forger.head.epoch = 1;
    let head = forger.checkpoint(1).encode();
    assert_eq!(SignedHead::open(&head, &key), Err(Error::Certificate(1)));
}

#[test]
fn a_record_with_bytes_after_its_end_does_not_link() {
    let log = log(20);
    let mut record = log.batches[0].encode();
    record.push(0);
    let finding = ChainVerifier::new(&log.deployment, 0).batch(&record).unwrap_err();
    assert_eq!(finding.place, Place::Batch { partition: 0, seq: 0 });
}
