//! One flipped byte anywhere in a data directory: named, or harmless, or a tail that the head
//! record knows of. Never a panic, never other data without a word.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::{Batch, Head, Stream};
use state::embedded::EmbeddedLog;
use state::head_record::Signed;
use state::{Changes, HeadRecord, Log, LogError, Store};

use crate::fixture::{Author, chain, deployment};

/// Everything that can be read from a data directory.
#[derive(Debug, PartialEq)]
struct Contents {
    head: Head,
    batches: Vec<Batch>,
    telemetry: Vec<(u64, Vec<u8>)>,
    state: Vec<(Vec<u8>, Vec<u8>)>,
    quarantined: usize,
}

fn contents(dir: &Path) -> Result<Contents, LogError> {
    let log = EmbeddedLog::open(dir, &deployment(), 0)?;
    let mut state = Vec::new();
    log.scan(&[], &mut |key, value| state.push((key.to_vec(), value.to_vec())))?;
    for (key, value) in &state {
        assert_eq!(log.get(key)?.as_ref(), Some(value));
    }
    Ok(Contents {
        head: log.head()?,
        batches: log.read(0, usize::MAX)?,
        telemetry: log.take(Stream::Telemetry, 0, usize::MAX)?,
        state,
        quarantined: log.quarantined()?.len(),
    })
}

/// Half of the data in table files, the other half in the write-ahead log.
fn directory(dir: &Path) -> Vec<Batch> {
    let batches = chain(&Author::new(0), 8);
    for half in batches.chunks(5) {
        // A start moves what the write-ahead log held into table files.
        let log = Arc::new(EmbeddedLog::open(dir, &deployment(), 0).unwrap());
        for batch in half {
            let n = batch.header.first_seq as u8;
            let changes = Changes::new(vec![(vec![b'k', n], Some(vec![n; 40]))]);
            log.append(&log.head().unwrap(), batch, &changes).unwrap();
            log.send(Stream::Telemetry, &[vec![n; 60], vec![n; 70]]).unwrap();
        }
        log.quarantine(b"nonsense", "not decodable").unwrap();
    }
    batches
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Bytes between two flips of one file; `HEALWRIGHT_FULL=1` flips every byte that is read.
fn step(name: &str, bytes: usize) -> usize {
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some() && !informs_only(name);
    if full { 1 } else { (bytes / 12).max(1) }
}

/// RocksDB reads none of these back: they inform people and other tools.
fn informs_only(name: &str) -> bool {
    name.starts_with("LOG") || name.starts_with("OPTIONS-") || name == "IDENTITY"
}

#[test]
fn one_flipped_byte_is_named_or_harmless_wherever_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let sound = temporary.path().join("sound");
    directory(&sound);
    let whole = temporary.path().join("whole");
    copy(&sound, &whole);
    let whole = contents(&whole).unwrap();
    let dir = temporary.path().join("damaged");
    for file in files(&sound.join("journal")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(&file).unwrap();
        for at in (0..bytes.len()).step_by(step(&name, bytes.len())) {
            copy(&sound, &dir);
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            fs::write(dir.join("journal").join(&name), &bytes).unwrap();
            match contents(&dir) {
                // In a table file that is a filter: RocksDB then looks into the data instead.
                Ok(found) if found == whole => {
                    let filter = name.ends_with(".sst");
                    assert!(filter || informs_only(&name), "{name} at {at}: went unseen");
                }
                // A record cut off by its own length looks like one that was never finished:
                // only what lies outside the directory knows that it was.
                Ok(found) => assert_cut(&name, at, &found, &whole),
                Err(error) => {
                    let text = error.to_string();
                    assert!(error.damage().is_some(), "{name} at {at}: {text}");
                    let listed = text.contains("a table file that it lists");
                    assert!(text.contains(&name) || listed, "{name} at {at}: {text}");
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

/// The end of the write-ahead log is missing, and nothing else.
fn assert_cut(name: &str, at: usize, found: &Contents, whole: &Contents) {
    assert!(name.ends_with(".log"), "{name} at {at}: other data without a word");
    let n = found.batches.len();
    assert_eq!(found.batches, whole.batches[..n], "{name} at {at}");
    assert_eq!(found.telemetry, whole.telemetry[..found.telemetry.len()], "{name} at {at}");
    let temporary = tempfile::tempdir().unwrap();
    let mut record = HeadRecord::open(&temporary.path().join("record")).unwrap();
    let Head { next_seq, hash, epoch, .. } = whole.head;
    record.advance(Signed { size: next_seq, root: hash, batch: hash, epoch }).unwrap();
    let lost_batch = found.head != whole.head;
    assert_eq!(record.check(&found.head).is_err(), lost_batch, "{name} at {at}");
}

#[test]
fn damage_in_the_middle_of_the_journal_stops_the_reader_at_its_entry() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    let log = EmbeddedLog::open(&dir, &deployment(), 0).unwrap();
    let author = Author::new(0);
    let genesis = log.head().unwrap();
    log.append(&genesis, &author.elect(&genesis), &Changes::default()).unwrap();
    for _ in 0..20 {
        let head = log.head().unwrap();
        log.append(&head, &author.scattered(&head, 2, 20_000), &Changes::default()).unwrap();
    }
    drop(log);
    // The next start moves the records into a table file; that file is then damaged.
    drop(EmbeddedLog::open(&dir, &deployment(), 0).unwrap());
    let tables = files(&dir.join("journal"));
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    let table = tables.iter().filter(|path| path.extension().is_some_and(|it| it == "sst"));
    let table = table.max_by_key(|path| size(path)).unwrap();
    let mut bytes = fs::read(table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(table, bytes).unwrap();

    let log = EmbeddedLog::open(&dir, &deployment(), 0).unwrap();
    let error = log.read(0, usize::MAX).unwrap_err();
    let damage = error.damage().unwrap();
    assert_eq!(damage.file, table.file_name().unwrap().to_string_lossy(), "{error}");
    let position = damage.position.unwrap();
    let mut seq = 0;
    while let Ok(batches) = log.read(seq, 1) {
        seq = batches[0].next_seq();
    }
    assert_eq!(seq, position, "everything before it can be read: {error}");
    assert!((10..30).contains(&position), "{error}");
    assert!(error.to_string().contains("`healwright repair journal"), "{error}");
}

#[test]
fn a_damaged_state_is_folded_again_after_it_is_dropped() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    directory(&dir);
    let log = EmbeddedLog::open(&dir, &deployment(), 0).unwrap();
    log.drop_state().unwrap();
    let mut n = 0;
    log.scan(&[], &mut |_, _| n += 1).unwrap();
    assert_eq!((n, log.position().unwrap()), (0, 0));
    assert_eq!(log.read(0, usize::MAX).unwrap().len(), 9);
}

#[test]
fn a_journal_without_its_table_of_contents_is_not_made_anew() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    directory(&dir);
    fs::remove_file(dir.join("journal/CURRENT")).unwrap();
    let error = EmbeddedLog::open(&dir, &deployment(), 0).err().unwrap();
    assert!(error.damage().is_some(), "{error}");
    assert!(error.to_string().contains("CURRENT"), "{error}");
}
