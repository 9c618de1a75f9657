//! Exports: what holds, what is cut off, and who stands behind it.

use ledger::bundle::{self, CHECKPOINT, is_bundle, journal_name};
use ledger::manifest::{MANIFEST, Manifest};
use ledger::note::Algorithm;
use ledger::{Files, KnownHead, Note, NoteKey, Policy, Verdict, WitnessKey};
use schemas::Hash;

use super::fixture::{Log, full, witness_pair};

/// What an attacker who owns the folder does last: make the manifest fit.
pub(crate) fn remanifest(log: &Log, files: &mut Files) {
    let manifest = Manifest::of(&log.deployment, log.partition, files).encode();
    files.insert(MANIFEST.to_owned(), manifest);
}

fn text_of(files: &Files, policy: &Policy) -> String {
    let report = bundle::verify(files, policy);
    report.findings.iter().map(|it| format!("{it}\n")).collect()
}

fn known(log: &Log, size: u64) -> KnownHead {
    let root = log.tree.root_at(size, &|id| log.tile(id)).unwrap();
    KnownHead { source: "runner local".to_owned(), size, root }
}

#[test]
fn an_export_of_a_whole_log_holds() {
    let mut log = Log::with(31, 40, 9);
    log.seal();
    log.elect();
    log.append(3);
    let files = log.bundle();
    let policy = Policy { deployment: Some(log.deployment.clone()), ..Policy::default() };
    let report = bundle::verify(&files, &policy);
    assert_eq!(report.findings, []);
    assert_eq!(report.n_entries, log.head.next_seq);
    assert_eq!(report.root, log.tree.root());
    assert_eq!(report.verdict.as_str(), "UNANCHORED");
    assert_eq!(report.unsigned_tail(), 0);
    assert_eq!(report.unwitnessed_tail(), report.n_entries);
    assert!(is_bundle(files.keys().map(String::as_str)));
    assert!(!is_bundle(["manifest", "README.md"]));
}

#[test]
fn a_long_export_is_cut_into_several_journal_files() {
    let mut log = Log::new(32);
    while log.batches.len() < 60 {
        log.append(900);
    }
    let files = log.bundle();
    let n_journals = files.keys().filter(|name| name.starts_with("journal/")).count();
    assert!(n_journals > 1, "{n_journals} files");
    assert_eq!(text_of(&files, &Policy::default()), "");
    let mut gone = files;
    gone.remove(&journal_name(0));
    let text = text_of(&gone, &Policy::default());
    assert!(text.contains("the file that begins at 0 is missing before it"), "{text}");
}

#[test]
fn an_export_of_another_deployment_is_told_apart() {
    let (log, other) = (Log::with(33, 2, 3), Log::with(34, 2, 3));
    let policy = Policy { deployment: Some(other.deployment.clone()), ..Policy::default() };
    let expected =
        format!("manifest: it is of deployment {}, not {}\n", log.deployment, other.deployment);
    assert_eq!(text_of(&log.bundle(), &policy), expected);
}

#[test]
fn a_file_more_or_less_is_named() {
    let log = Log::with(35, 2, 3);
    let files = log.bundle();
    for name in files.keys() {
        let mut less = files.clone();
        less.remove(name);
        assert!(text_of(&less, &Policy::default()).contains(name), "{name} is missing");
    }
    let mut more = files.clone();
    more.insert("notes.txt".to_owned(), b"hello".to_vec());
    assert_eq!(text_of(&more, &Policy::default()), "notes.txt: the manifest does not list it\n");
    remanifest(&log, &mut more);
    assert_eq!(
        text_of(&more, &Policy::default()),
        "notes.txt: an export holds no file of this name\n"
    );
    let mut empty = files;
    empty.insert(journal_name(log.head.next_seq), Vec::new());
    remanifest(&log, &mut empty);
    let expected = format!("{}: it is empty\n", journal_name(log.head.next_seq));
    assert_eq!(text_of(&empty, &Policy::default()), expected);
}

/// A05: the log is cut after every batch, and all files are made to fit. Without a head from
/// elsewhere nothing shows that; the report says how much could go this way. With one, every cut
/// below it is found.
#[test]
fn a05_a_cut_tail_is_found_by_every_head_that_saw_it() {
    let mut log = Log::new(36);
    let mut cuts = Vec::new();
    for round in 0..if full() { 1_000 } else { 60 } {
        log.append(round % 5 + 1);
        cuts.push((log.head.next_seq, log.bundle()));
    }
    let seen = log.head.next_seq - 4;
    let policy = Policy { heads: vec![known(&log, seen)], ..Policy::default() };
    for (size, files) in &cuts {
        let alone = bundle::verify(files, &Policy::default());
        assert!(alone.holds());
        assert_eq!(alone.unwitnessed_tail(), *size);
        let report = bundle::verify(files, &policy);
        if *size < seen {
            let expected = format!(
                "immutable:log:0/{size}: {} entries are missing from here on: \
                 runner local counts {seen}",
                seen - size
            );
            assert_eq!(report.findings[0].to_string(), expected);
        } else {
            assert!(report.holds());
            assert_eq!(report.unwitnessed_tail(), size - seen);
        }
    }
}

/// A05: the journal is cut at every byte of its end, and the signed head is kept.
#[test]
fn a05_a_cut_below_the_signed_head_is_always_found() {
    let log = Log::with(37, 30, 4);
    let files = log.bundle();
    let journal = &files[&journal_name(0)];
    let n_last = if full() { 64 * 1024 } else { 1_000 };
    for end in journal.len().saturating_sub(n_last)..journal.len() {
        let mut cut = files.clone();
        cut.insert(journal_name(0), journal[..end].to_vec());
        assert!(!bundle::verify(&cut, &Policy::default()).holds(), "cut at {end}");
        remanifest(&log, &mut cut);
        assert!(!bundle::verify(&cut, &Policy::default()).holds(), "cut at {end}, made to fit");
    }
}

#[test]
fn another_history_of_the_same_length_is_found_by_a_known_head() {
    let log = Log::with(38, 5, 4);
    let forked = KnownHead { root: Hash::of(&[b"fork"]), ..known(&log, 13) };
    let policy = Policy { heads: vec![forked], ..Policy::default() };
    let expected = "checkpoint: runner local knows another history of 13 entries\n";
    assert_eq!(text_of(&log.bundle(), &policy), expected);
}

/// Three witnesses of two other organisations, and one of our own.
fn witnesses() -> Policy {
    let key = |number: u8, organisation: &str| WitnessKey {
        organisation: organisation.to_owned(),
        key: NoteKey::new(
            &format!("witness.example/{number}"),
            Algorithm::Cosignature,
            witness_pair(number).public(),
        )
        .unwrap(),
    };
    Policy {
        witnesses: vec![key(0, "ours"), key(1, "north"), key(2, "north"), key(3, "south")],
        own_organisation: "ours".to_owned(),
        n_organisations: 2,
        ..Policy::default()
    }
}

fn cosigned(log: &Log, numbers: &[u8]) -> Vec<u8> {
    let mut note = log.checkpoint(log.tree.size());
    for number in numbers {
        let name = format!("witness.example/{number}");
        note.cosign(&name, &witness_pair(*number), 1_700_000_000).unwrap();
    }
    note.encode()
}

#[test]
fn organisations_are_counted_and_not_signatures() {
    let log = Log::with(39, 3, 3);
    let verdict = |numbers: &[u8]| {
        let report = bundle::verify(&log.bundle_with(cosigned(&log, numbers), None), &witnesses());
        assert_eq!(report.findings, []);
        report.verdict
    };
    assert_eq!(verdict(&[]), Verdict::Unanchored);
    assert_eq!(verdict(&[0]), Verdict::SelfWitnessed);
    assert_eq!(verdict(&[1, 2]), Verdict::SelfWitnessed);
    assert_eq!(verdict(&[0, 1, 2]), Verdict::SelfWitnessed);
    assert_eq!(verdict(&[1, 3]), Verdict::Witnessed);
    // Somebody whom the policy does not know counts for nothing.
    assert_eq!(verdict(&[4, 5, 6]), Verdict::Unanchored);
}

#[test]
fn an_older_cosigned_head_leaves_a_tail_without_witness() {
    let mut log = Log::with(40, 3, 3);
    let witnessed = cosigned(&log, &[1, 3]);
    log.append(5);
    let checkpoint = log.checkpoint(log.tree.size()).encode();
    let report = bundle::verify(&log.bundle_with(checkpoint, Some(witnessed)), &witnesses());
    assert_eq!(report.findings, []);
    assert_eq!(report.verdict, Verdict::Witnessed);
    assert_eq!(report.unwitnessed_tail(), 5);
}

/// A25: what a deployment registers itself never counts as somebody else, whatever a policy says.
#[test]
fn a25_a_registered_runner_makes_self_witnessed_and_never_more() {
    let mut log = Log::with(48, 3, 3);
    let early = log.checkpoint(log.tree.size());
    log.register(1);
    log.append(2);
    let cosigned = |mut note: Note| {
        note.cosign("runner/h1", &witness_pair(1), 1_700_000_000).unwrap();
        note.encode()
    };
    let whole = cosigned(log.checkpoint(log.tree.size()));
    let report = bundle::verify(&log.bundle_with(whole.clone(), None), &Policy::default());
    assert_eq!(report.findings, []);
    assert_eq!(report.verdict.as_str(), "SELF-WITNESSED");
    assert_eq!(report.witnesses, ["runner/h1"]);
    assert_eq!(report.unwitnessed_tail(), 0);

    let key = NoteKey::new("runner/h1", Algorithm::Cosignature, witness_pair(1).public()).unwrap();
    let elsewhere = WitnessKey { organisation: "north".to_owned(), key };
    let policy = Policy { witnesses: vec![elsewhere], ..Policy::default() };
    let report = bundle::verify(&log.bundle_with(whole.clone(), None), &policy);
    assert_eq!(report.verdict, Verdict::SelfWitnessed);

    // Under a head before its registration its key is anybody's.
    let checkpoint = log.checkpoint(log.tree.size()).encode();
    let files = log.bundle_with(checkpoint, Some(cosigned(early)));
    let report = bundle::verify(&files, &Policy::default());
    assert_eq!((report.holds(), report.verdict), (true, Verdict::Unanchored));

    // A line that claims the registered key and is not by it was put there by somebody.
    let mut forged = whole;
    let at = forged.len() - 6;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let text = text_of(&log.bundle_with(forged, None), &Policy::default());
    assert_eq!(text, "checkpoint: signature of runner/h1 does not verify\n");
}

/// A11 on an export: every subset of the lines, every bit of each line, and lines of unknown
/// keys. The verdict is never better than that of the lines that are left untouched.
#[test]
fn a11_no_change_of_cosignatures_improves_the_verdict() {
    let log = Log::with(41, 2, 3);
    let policy = witnesses();
    let whole = Note::parse(&cosigned(&log, &[0, 1, 3, 5])).unwrap();
    let verdict_of = |lines: &[String]| {
        let text = format!("{}\n{}", whole.text(), lines.concat());
        let mut files = log.bundle();
        files.insert(CHECKPOINT.to_owned(), text.into_bytes());
        remanifest(&log, &mut files);
        let report = bundle::verify(&files, &policy);
        report.holds().then_some(report.verdict)
    };
    let lines: Vec<String> = whole.lines().iter().map(|line| line.encode()).collect();
    assert_eq!(verdict_of(&lines), Some(Verdict::Witnessed));
    for subset in 0u32..1 << lines.len() {
        let left: Vec<String> = (0..lines.len())
            .filter(|at| subset & 1 << at != 0)
            .map(|at| lines[at].clone())
            .collect();
        let expected = match (subset & 1, subset >> 1 & 1, subset >> 2 & 1, subset >> 3 & 1) {
            (0, ..) => None,
            (_, _, 1, 1) => Some(Verdict::Witnessed),
            (_, 0, 0, 0) => Some(Verdict::Unanchored),
            _ => Some(Verdict::SelfWitnessed),
        };
        assert_eq!(verdict_of(&left), expected, "lines {subset:05b}");
    }
    let step = if full() { 1 } else { 5 };
    for (at, line) in lines.iter().enumerate() {
        let mut without = lines.clone();
        without.remove(at);
        let best = verdict_of(&without);
        for bit in (0..line.len() * 8).step_by(step) {
            let mut bad = line.clone().into_bytes();
            bad[bit / 8] ^= 1 << (bit % 8);
            let Ok(bad) = String::from_utf8(bad) else { continue };
            let mut changed = lines.clone();
            changed[at] = bad;
            assert!(verdict_of(&changed) <= best, "bit {bit} of line {at}");
        }
    }
}

#[test]
fn a_head_that_was_signed_wrongly_is_named() {
    let log = Log::with(44, 3, 4);
    let signed = log.sign_head(9, Hash::of(&[b"a flipped bit"])).encode();
    let text = text_of(&log.bundle_with(signed, None), &Policy::default());
    assert_eq!(text, "checkpoint: tree head proof does not lead to the root\n");
}

#[test]
fn a_head_is_signed_by_the_epoch_that_wrote_its_last_entry() {
    let mut log = Log::with(45, 3, 4);
    let before = log.head.next_seq;
    log.elect();
    let late = log.checkpoint(before).encode();
    let text = text_of(&log.bundle_with(late, None), &Policy::default());
    assert_eq!(text, format!("checkpoint: signature of {}/0/1 is missing\n", log.deployment));
}

#[test]
fn a_tile_that_holds_another_leaf_is_named() {
    let log = Log::with(42, 30, 10);
    let mut files = log.bundle();
    files.get_mut("tile/0/000").unwrap()[40 * 32] ^= 1;
    remanifest(&log, &mut files);
    let text = text_of(&files, &Policy::default());
    assert_eq!(text, "tile/0/000: it holds another leaf at place 40\n");
}

#[test]
fn a_tile_more_or_less_is_named_even_when_the_manifest_fits() {
    let log = Log::with(46, 30, 10);
    let changed = |change: fn(&mut Files)| {
        let mut files = log.bundle();
        change(&mut files);
        remanifest(&log, &mut files);
        text_of(&files, &Policy::default())
    };
    let wrong = "it is missing or not of the width that its name says";
    let missing = changed(|files| drop(files.remove("tile/0/001.p/45")));
    assert_eq!(missing, format!("tile/0/001.p/45: {wrong}\n"));
    let short = changed(|files| files.get_mut("tile/0/001.p/45").unwrap().truncate(44 * 32));
    assert_eq!(short, format!("tile/0/001.p/45: {wrong}\n"));
    let more = changed(|files| drop(files.insert("tile/1/000.p/1".to_owned(), vec![0; 32])));
    assert_eq!(more, "tile/1/000.p/1: a tree of 301 entries has no such tile\n");
}

/// A tile may hold no more than the leaves of the chain, not even a part of one.
#[test]
fn bytes_after_the_last_leaf_of_a_tile_are_found() {
    let log = Log::with(47, 3, 4);
    for n_bytes in [1, 31, 32, 33] {
        let mut files = log.bundle();
        let tile = files.get_mut("tile/0/000.p/13").unwrap();
        tile.resize(13 * 32 + n_bytes, 0);
        remanifest(&log, &mut files);
        let text = text_of(&files, &Policy::default());
        assert!(text.starts_with("tile/0/000.p/13: "), "{n_bytes} bytes more: {text}");
    }
}

#[test]
fn a_history_that_does_not_verify_is_not_exported() {
    let log = Log::with(43, 3, 4);
    let mut records: Vec<Vec<u8>> = log.batches.iter().map(schemas::Batch::encode).collect();
    *records[2].last_mut().unwrap() ^= 1;
    let finding = bundle::build(bundle::Contents {
        deployment: &log.deployment,
        partition: 0,
        batches: &mut records.into_iter(),
        checkpoint: log.checkpoint(5).encode(),
        witnessed: None,
        telemetry: Default::default(),
    })
    .unwrap_err();
    assert_eq!(finding.entry().as_deref(), Some("immutable:log:0/8"));
}
