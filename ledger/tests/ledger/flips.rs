//! A17 on the export: a changed bit is found wherever it is, and the place is named: the entry
//! where an entry is concerned, else the file.

use ledger::bundle::{self, journal_name};
use ledger::{ChainVerifier, Files, Finding, Place, Policy};
use schemas::{Batch, Entry, Hash};

use super::fixture::{Dice, Log, full, in_parallel, witness_pair};

/// A small log with everything in it: two epochs, sealed telemetry, several batches.
pub(crate) fn small() -> Log {
    let mut log = Log::with(51, 1, 2);
    log.seal();
    log.register(1);
    log.elect();
    log.append(1);
    log
}

/// The smallest log that has an export with a file of each kind.
fn tiny() -> Log {
    let mut log = Log::with(54, 1, 2);
    log.seal();
    log.register(1);
    log
}

/// The place that a change of byte `at` of `name` has to be found at.
fn expected(log: &Log, name: &str, at: usize) -> Place {
    if name.starts_with("telemetry/") {
        let seq = log.entries().find(|it| it.envelope.kind == schemas::Kind::TelemetrySealed);
        return Place::Entry { partition: 0, seq: seq.unwrap().envelope.seq };
    }
    if name != journal_name(0) {
        return Place::File;
    }
    let mut from = 0;
    for batch in &log.batches {
        let body: usize = batch.entries.iter().map(Entry::size).sum();
        let end = from + batch.encode().len();
        let mut entry_end = end - body;
        if at < entry_end {
            return Place::Batch { partition: 0, seq: batch.header.first_seq };
        }
        for entry in &batch.entries {
            entry_end += entry.size();
            if at < entry_end {
                return Place::Entry { partition: 0, seq: entry.envelope.seq };
            }
        }
        from = end;
    }
    panic!("byte {at} is not in {name}");
}

fn flipped(files: &Files, name: &str, bit: usize) -> Files {
    let mut files = files.clone();
    files.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
    files
}

fn check(log: &Log, files: &Files, name: &str, bit: usize) {
    let report = bundle::verify(&flipped(files, name, bit), &Policy::default());
    let first = report.findings.first().unwrap_or_else(|| panic!("bit {bit} of {name} is lost"));
    let named = (&first.place, first.file.as_deref());
    assert_eq!(named, (&expected(log, name, bit / 8), Some(name)), "bit {bit} of {name}: {first}");
}

#[test]
fn a17_every_bit_of_a_small_export_counts_and_its_place_is_named() {
    let log = tiny();
    // Cosigned by a registered runner, and by somebody whom no policy knows: no signature that is
    // checked covers the second line.
    let mut note = log.checkpoint(log.tree.size());
    note.cosign("runner/h1", &witness_pair(1), 1_700_000_000).unwrap();
    note.cosign("w", &witness_pair(2), 1_700_000_000).unwrap();
    let files = log.bundle_with(note.encode(), Some(log.checkpoint(2).encode()));
    assert!(bundle::verify(&files, &Policy::default()).holds());
    for (name, bytes) in &files {
        (0..bytes.len() * 8).for_each(|bit| check(&log, &files, name, bit));
    }
}

#[test]
fn a17_ten_thousand_bits_of_a_larger_export_count() {
    let log = Log::with(52, 40, 16);
    let files = log.bundle();
    let names: Vec<&String> = files.keys().collect();
    let n_bits: Vec<usize> = files.values().map(|bytes| bytes.len() * 8).collect();
    let mut dice = Dice(17);
    let mut journal = Vec::new();
    for _ in 0..10_000 {
        let mut bit = dice.below(n_bits.iter().sum());
        let file = n_bits.iter().position(|n| {
            let here = bit < *n;
            bit -= if here { 0 } else { *n };
            here
        });
        let name = names[file.unwrap()];
        // Flips of the journal are walked from their own batch below, which is the same check.
        if *name == journal_name(0) { journal.push(bit) } else { check(&log, &files, name, bit) }
    }
    let n_whole = journal.len().min(300);
    journal.iter().take(n_whole).for_each(|bit| check(&log, &files, &journal_name(0), *bit));
    walk_flips(&log, |first, last| {
        journal.iter().copied().filter(|bit| (first..last).contains(bit)).collect()
    });
}

/// The full bar: every bit of a journal of 16 MiB, in shards. Without it, of one of 2 KiB.
#[test]
fn a17_every_bit_of_a_journal_names_its_entry() {
    let mut log = Log::new(53);
    let n_bytes = if full() { 16 << 20 } else { 2 << 10 };
    let mut size = 0;
    while size < n_bytes {
        log.append(4);
        size += log.batches.last().unwrap().encode().len();
    }
    walk_flips(&log, |first, last| (first..last).collect());
}

/// Flips the bits that `bits` picks of each record and verifies on from the batch before it.
fn walk_flips(log: &Log, bits: impl Fn(usize, usize) -> Vec<usize> + Sync) {
    let leaves: Vec<Hash> = log.entries().map(Entry::leaf).collect();
    let lookup = |seq: u64| leaves.get(seq as usize).copied();
    let mut verifier = ChainVerifier::new(&log.deployment, 0).with_leaves(&lookup);
    let (mut from, mut walks) = (0, Vec::new());
    for batch in &log.batches {
        let record = batch.encode();
        walks.push((verifier.clone(), batch, from));
        verifier.batch(&record).unwrap();
        from += record.len();
    }
    in_parallel(&walks, |(verifier, batch, from)| {
        let end = from + batch.encode().len();
        walk(verifier, batch, *from, bits(from * 8, end * 8));
    });
}

/// Verifies one record with each of the bits flipped, from the batch before it.
fn walk(verifier: &ChainVerifier<'_>, batch: &Batch, from: usize, bits: Vec<usize>) {
    let record = batch.encode();
    for bit in bits {
        let mut bad = record.clone();
        bad[bit / 8 - from] ^= 1 << (bit % 8);
        let finding = verifier.clone().next(&bad).map(|_| ()).unwrap_err();
        assert_eq!(finding.place, place_in(batch, bit / 8 - from), "bit {bit}: {finding}");
    }
}

fn place_in(batch: &Batch, at: usize) -> Place {
    let body: usize = batch.entries.iter().map(Entry::size).sum();
    let mut end = batch.encode().len() - body;
    for entry in &batch.entries {
        let seq = entry.envelope.seq;
        if at < end {
            break;
        }
        end += entry.size();
        if at < end {
            return Place::Entry { partition: 0, seq };
        }
    }
    Place::Batch { partition: 0, seq: batch.header.first_seq }
}

/// The words that a person gets for a byte of each kind.
#[test]
fn findings_read_as_sentences_with_their_place() {
    let log = small();
    let files = log.bundle();
    let say = |name: &str, at: usize| {
        let report = bundle::verify(&flipped(&files, name, at * 8), &Policy::default());
        report.findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
    };
    let journal = journal_name(0);
    let last = files[&journal].len() - 1;
    let batch_end: usize = log.batches[0].encode().len();
    let texts = [
        say(&journal, 10),
        say(&journal, batch_end - 1),
        say(&journal, last - 20),
        say("checkpoint", 3),
        say("manifest", 90),
        say("tile/0/000.p/7", 5 * 32),
        say("telemetry/000000000000.samples", 4),
    ];
    expect_test::expect![[r#"
        journal/0.batches: batch at immutable:log:0/0: batch header is cut short at byte 165
        immutable:log:0/0 in journal/0.batches: payload does not match its commitment
        immutable:log:0/6 in journal/0.batches: payload does not match its commitment
        checkpoint: proof is about another origin
        manifest: its checksum does not hold
        tile/0/000.p/7: it holds another leaf at place 5
        immutable:log:0/3 in telemetry/0.samples: its telemetry is not what it sealed"#]]
    .assert_eq(&texts.join("\n").replace("000000000000", "0"));
}
