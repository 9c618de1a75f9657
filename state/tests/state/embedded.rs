//! The data directory: who may open it, what is made in it, and reading beside its owner.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use schemas::{Head, Stream};
use state::embedded::{EmbeddedLog, Reader};
use state::{Append, Changes, Log, LogError, Store};

use crate::fixture::{Author, chain, deployment};

/// The environment variable that turns [`a_killed_process_loses_nothing_that_it_answered`] into
/// the process that is killed.
const CHILD: &str = "HEALWRIGHT_TEST_APPENDER";

fn open(dir: &Path) -> Result<EmbeddedLog, LogError> {
    EmbeddedLog::open(dir, &deployment(), 0)
}

fn fill(log: &EmbeddedLog, n: usize) {
    for batch in chain(&Author::new(0), n) {
        let n = batch.header.first_seq as u8;
        let changes = Changes::new(vec![(vec![b'k', n], Some(vec![n]))]);
        log.append(&log.head().unwrap(), &batch, &changes).unwrap();
        log.send(Stream::Telemetry, &[vec![n]]).unwrap();
    }
}

#[test]
fn a_directory_is_free_at_once_although_children_are_being_started() {
    let dir = tempfile::tempdir().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        });
        let opened = (0..60).map(|_| EmbeddedLog::open(dir.path(), &deployment(), 0).map(drop));
        let refused = opened.filter_map(Result::err).next();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(refused.is_none(), "{refused:?}");
    });
}

#[test]
fn a_second_opening_is_refused_by_name_and_pid() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    let first = open(&dir).unwrap();
    let Err(LogError::Busy { pid, name, dir: named }) = open(&dir) else {
        panic!("two owners of one directory")
    };
    assert_eq!((pid, named), (std::process::id(), dir.clone()));
    assert!(name.starts_with("state-"), "{name}");
    drop(first);
    open(&dir).unwrap();
}

#[test]
fn another_deployments_directory_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    drop(open(temporary.path()).unwrap());
    for (deployment, partition) in [("other", 0), (deployment().as_str(), 1)] {
        let error = EmbeddedLog::open(temporary.path(), deployment, partition).err().unwrap();
        assert!(matches!(error, LogError::Foreign { .. }), "{error}");
    }
}

#[test]
fn a_crash_while_the_directory_is_made_does_not_stop_the_next_start() {
    let temporary = tempfile::tempdir().unwrap();
    fs::create_dir(temporary.path().join("journal.new")).unwrap();
    fs::write(temporary.path().join("journal.new/MANIFEST-000001"), b"half").unwrap();
    fill(&open(temporary.path()).unwrap(), 2);
    assert!(!temporary.path().join("journal.new").exists());
}

#[test]
fn only_its_user_can_read_the_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    fill(&open(&dir).unwrap(), 1);
    for path in [&dir, &dir.join("journal")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

/// Every file with its size, time of change and bytes.
fn snapshot(dir: &Path, files: &mut BTreeMap<PathBuf, (SystemTime, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.insert(path.clone(), (fs::metadata(&path).unwrap().modified().unwrap(), vec![]));
            snapshot(&path, files);
        } else {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            files.insert(path.clone(), (changed, fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn reading_changes_nothing_in_the_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    fill(&open(&dir).unwrap(), 5);
    let mut before = BTreeMap::new();
    snapshot(&dir, &mut before);
    let reader = Reader::open(&dir).unwrap();
    reader.read(0, usize::MAX).unwrap();
    reader.take(0, usize::MAX).unwrap();
    reader.scan(&[], &mut |_, _| ()).unwrap();
    reader.catch_up().unwrap();
    drop(reader);
    let mut after = BTreeMap::new();
    snapshot(&dir, &mut after);
    assert!(before == after, "{:?} became {:?}", before.keys(), after.keys());
}

#[test]
fn a_reader_beside_the_owner_follows_it() {
    let temporary = tempfile::tempdir().unwrap();
    let log = open(temporary.path()).unwrap();
    let reader = Reader::open(temporary.path()).unwrap();
    assert_eq!(reader.head().unwrap(), log.head().unwrap());
    fill(&log, 5);
    log.quarantine(b"nonsense", "why").unwrap();
    assert_eq!(reader.head().unwrap().next_seq, 0, "what it sees changes only when asked");
    reader.catch_up().unwrap();
    assert_eq!(reader.head().unwrap(), log.head().unwrap());
    assert_eq!(reader.position().unwrap(), log.position().unwrap());
    assert_eq!(reader.read(0, usize::MAX).unwrap(), log.read(0, usize::MAX).unwrap());
    let telemetry = log.take(Stream::Telemetry, 0, usize::MAX).unwrap();
    assert_eq!(reader.take(0, usize::MAX).unwrap(), telemetry);
    assert_eq!(reader.get(b"k\x01").unwrap(), Some(vec![1]));
    assert_eq!(reader.quarantined().unwrap(), log.quarantined().unwrap());
    assert_eq!(reader.identity().unwrap(), (deployment(), 0));
}

#[test]
fn readers_can_open_at_any_moment_of_a_busy_owner() {
    let temporary = tempfile::tempdir().unwrap();
    let log = open(temporary.path()).unwrap();
    fill(&log, 1);
    std::thread::scope(|scope| {
        let owner = scope.spawn(|| {
            let author = Author::new(0);
            for _ in 0..60 {
                // Large enough for memtables to become files while readers come and go.
                let head = log.head().unwrap();
                let batch = author.scattered(&head, 8, 100_000);
                log.append(&head, &batch, &Changes::default()).unwrap();
            }
        });
        let mut last = 0;
        while !owner.is_finished() {
            let reader = Reader::open(temporary.path()).unwrap();
            let head = reader.head().unwrap();
            assert!(head.next_seq >= last);
            last = head.next_seq;
            let read = reader.read(last - 1, usize::MAX).unwrap();
            assert_eq!(read.last().map(schemas::Batch::hash), Some(head.hash));
        }
    });
}

#[test]
fn an_empty_place_is_told_from_an_empty_journal() {
    let temporary = tempfile::tempdir().unwrap();
    let error = Reader::open(temporary.path()).err().unwrap();
    assert!(matches!(error, LogError::Absent { .. }), "{error}");
}

/// Appends and sends until it is killed or refused, and says what was answered.
#[allow(clippy::print_stdout)]
fn appender(dir: &Path) {
    let log = open(dir).unwrap();
    let author = Author::new(0);
    let mut head = log.head().unwrap();
    for n in 0u64.. {
        let ours = head.epoch_key == Some(author.key());
        let batch = if ours { author.batch(&head, 20, 200) } else { author.elect(&head) };
        let changes = Changes::new(vec![(b"n".to_vec(), Some(n.to_be_bytes().to_vec()))]);
        match log.append(&head, &batch, &changes) {
            Ok(Append::Appended(after)) => head = after,
            Ok(Append::Lost(after)) => panic!("lost to {after:?}"),
            Err(error) => return println!("refused {error} / {}", refusals(&log, &head, &author)),
        }
        let sent = match log.send(Stream::Telemetry, &[vec![n as u8; 300]]) {
            Ok(sent) => sent,
            Err(error) => return println!("refused {error} / {}", refusals(&log, &head, &author)),
        };
        println!("answered {} {} {}", head.next_seq, sent.end, head.hash);
    }
}

/// What every kind of write answers after one has failed.
fn refusals(log: &EmbeddedLog, head: &Head, author: &Author) -> String {
    let batch = author.batch(head, 1, 8);
    let append = log.append(head, &batch, &Changes::default()).map(|_| ());
    let answers = [
        append,
        log.send(Stream::Telemetry, &[vec![1]]).map(|_| ()),
        log.quarantine(b"junk", "why").map(|_| ()),
        log.commit(0, &Changes::default()),
    ];
    answers.map(|answer| answer.unwrap_err().to_string()).join(" / ")
}

/// A limit on the size of files stands in for a disk that is full: the write fails, and nothing
/// is known about what it left.
#[test]
fn after_a_write_has_failed_every_later_one_is_refused_and_a_restart_has_what_was_answered() {
    let temporary = tempfile::tempdir().unwrap();
    let name = "embedded::a_killed_process_loses_nothing_that_it_answered";
    let script = "trap '' XFSZ; ulimit -f 600; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, temporary.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let refused = text.lines().find(|line| line.starts_with("refused")).unwrap();
    let answers: Vec<&str> = refused.trim_start_matches("refused ").split(" / ").collect();
    assert!(answers[0].starts_with("cannot ") && answers[0].contains("IO error"), "{refused}");
    assert_eq!(answers, vec![answers[0]; 5]);
    let last = text.lines().rfind(|line| line.starts_with("answered")).unwrap();
    assert_kept(temporary.path(), last);
}

#[test]
fn a_killed_process_loses_nothing_that_it_answered() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return appender(Path::new(&dir));
    }
    let temporary = tempfile::tempdir().unwrap();
    for round in 1..9 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::a_killed_process_loses_nothing_that_it_answered"])
            .arg("--nocapture")
            .env(CHILD, temporary.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let answers = lines.by_ref().filter(|line| line.starts_with("answered"));
        let mut last = answers.take(round * 7).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts as answered.
        last = lines.filter(|line| line.split(' ').count() == 4).last().unwrap_or(last);

        assert_kept(temporary.path(), &last);
    }
}

/// The directory holds at least what the line says was answered.
fn assert_kept(dir: &Path, line: &str) {
    let log = open(dir).unwrap();
    let mut words = line.split(' ').skip(1);
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (next_seq, telemetry) = (number(), number());
    let head = log.head().unwrap();
    assert!(head.next_seq >= next_seq, "{line}, and the head is {head:?}");
    assert_eq!(log.position().unwrap(), head.next_seq);
    let holding = log.read(next_seq - 1, 1).unwrap();
    assert!(line.ends_with(&holding[0].hash().to_string()), "{line}");
    let taken = log.take(Stream::Telemetry, 0, usize::MAX).unwrap();
    assert!(taken.len() as u64 >= telemetry, "{line}, and {} are kept", taken.len());
}
