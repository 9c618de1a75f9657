//! The independent verifier (`tests/verifier/verify.py`) agrees: on whole exports, on every kind
//! of damage, on the place, and on which signatures are acceptable.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ledger::bundle::{self, CHECKPOINT, journal_name};
use ledger::{Files, Finding, Policy};

use super::bundle::remanifest;
use super::fixture::{Dice, Log, full, witness_pair};
use super::flips::small;
use super::vectors::cctv_accepted;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/verifier")
}

fn python(code: &str) -> Option<Output> {
    Command::new("python3").args(["-c", code]).current_dir(folder()).output().ok()
}

/// Whether it can run here. CI installs what it needs, so there it must.
fn can_run(test: &str) -> bool {
    let found = python("import cryptography").is_some_and(|it| it.status.success());
    assert!(found || std::env::var_os("CI").is_none(), "CI lacks python3 with cryptography");
    if !found {
        let why = "python3 with the package cryptography is not here";
        std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("{test} was not run: {why}\n").as_bytes(),
        )
        .unwrap();
    }
    found
}

fn write(files: &Files, to: &Path) {
    for (name, bytes) in files {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Exit code and line for each of `exports`.
fn run(exports: &[Files]) -> (Option<i32>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("python3");
    command.arg(self::folder().join("verify.py"));
    for (index, files) in exports.iter().enumerate() {
        let to = folder.path().join(index.to_string());
        std::fs::create_dir_all(&to).unwrap();
        write(files, &to);
        command.arg(to);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), exports.len(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text.lines().map(str::to_owned).collect())
}

/// The part of a finding that both verifiers have to say in the same words: the place.
fn place(finding: &Finding) -> String {
    let text = finding.to_string();
    let head = finding.entry().unwrap_or_else(|| finding.file.clone().unwrap_or_default());
    assert!(text.starts_with(&head), "{text}");
    head
}

#[test]
fn the_independent_verifier_agrees_on_whole_exports() {
    if !can_run("the_independent_verifier_agrees_on_whole_exports") {
        return;
    }
    let mut longer = Log::with(61, 70, 13);
    longer.elect();
    longer.seal();
    let (logs, mut exports) = ([small(), longer], Vec::new());
    exports.extend(logs.iter().map(Log::bundle));
    let (code, lines) = run(&exports);
    assert_eq!(code, Some(0));
    for (log, line) in logs.iter().zip(lines) {
        let (n, root) = (log.head.next_seq, log.tree.root());
        assert_eq!(line, format!("ok {n} entries hold, root {root}"));
    }
    let (code, lines) = run(&[Files::from([("README.md".to_owned(), b"hello".to_vec())])]);
    assert_eq!(code, Some(2));
    assert!(lines[0].contains("is no export"), "{}", lines[0]);
}

/// A17 on two verifiers: the same bits, the same places.
#[test]
fn the_independent_verifier_names_the_same_place() {
    if !can_run("the_independent_verifier_names_the_same_place") {
        return;
    }
    let files = small().bundle();
    let mut dice = Dice(61);
    let mut exports = Vec::new();
    let n_flips = if full() { 2_000 } else { 60 };
    for (name, bytes) in &files {
        for _ in 0..n_flips {
            let bit = dice.below(bytes.len() * 8);
            let mut bad = files.clone();
            bad.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            exports.push(bad);
        }
    }
    exports.extend(files.keys().map(|name| {
        let mut less = files.clone();
        less.remove(name);
        less
    }));
    agree(&exports);
}

/// What no bit flip makes: cuts, and folders whose manifest was made to fit.
#[test]
fn the_independent_verifier_sees_what_was_made_to_fit() {
    if !can_run("the_independent_verifier_sees_what_was_made_to_fit") {
        return;
    }
    let log = Log::with(62, 6, 3);
    let files = log.bundle();
    let journal = &files[&journal_name(0)];
    let mut exports = Vec::new();
    for end in (journal.len() - 900..journal.len()).step_by(7) {
        let mut cut = files.clone();
        cut.insert(journal_name(0), journal[..end].to_vec());
        exports.push(cut);
    }
    let last = log.batches.last().unwrap().encode().len();
    let mut whole_batch = files.clone();
    whole_batch.insert(journal_name(0), journal[..journal.len() - last].to_vec());
    exports.push(whole_batch);
    let mut older = files.clone();
    older.insert(CHECKPOINT.to_owned(), Log::with(63, 6, 3).checkpoint(5).encode());
    exports.push(older);
    let mut registered = Log::with(64, 6, 3);
    registered.register(1);
    let mut note = registered.checkpoint(registered.tree.size());
    note.cosign("runner/h1", &witness_pair(1), 1_700_000_000).unwrap();
    let mut forged = note.encode();
    let at = forged.len() - 6;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let forged = registered.bundle_with(forged, None);
    let mut more = files;
    more.insert("notes.txt".to_owned(), b"hello".to_vec());
    exports.push(more);
    exports.iter_mut().for_each(|files| remanifest(&log, files));
    exports.push(forged);
    agree(&exports);
}

/// Both verifiers refuse each of `exports` at the same place.
fn agree(exports: &[Files]) {
    let (code, lines) = run(exports);
    assert_eq!(code, Some(1));
    for (files, line) in exports.iter().zip(lines) {
        let report = bundle::verify(files, &Policy::default());
        let first = report.findings.first().unwrap();
        assert!(line.starts_with(&format!("wrong {}", place(first))), "{line}, and ours: {first}");
    }
}

/// A12: the same 43 of the 914 vectors.
#[test]
fn a12_the_independent_verifier_accepts_the_same_signatures() {
    if !can_run("a12_the_independent_verifier_accepts_the_same_signatures") {
        return;
    }
    let code = "import json, verify\n\
        for line in open('../../ledger/tests/data/cctv-ed25519.ndjson'):\n    \
            it = json.loads(line)\n    \
            key, signature = bytes.fromhex(it['key']), bytes.fromhex(it['sig'])\n    \
            if verify.verify_bare(key, it['msg'].encode(), signature):\n        \
                print(it['number'])\n";
    let output = python(code).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let accepted: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(accepted, cctv_accepted());
}
