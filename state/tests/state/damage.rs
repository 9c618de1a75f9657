//! One flipped byte anywhere in a data directory: named, or harmless, or a tail that the head
//! record knows of. Never a panic, never other data without a word.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::{Batch, Head, Stream};
use state::embedded::EmbeddedLog;
use state::{Changes, Log, LogError, Store};

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

#[test]
fn one_flipped_byte_is_named_or_harmless_wherever_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let sound = temporary.path().join("sound");
    directory(&sound);
    let whole = temporary.path().join("whole");
    copy(&sound, &whole);
    let whole = contents(&whole).unwrap();
    for file in files(&sound.join("journal")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = fs::read(&file).unwrap();
        let step = (bytes.len() / 24).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let dir = temporary.path().join("damaged");
            copy(&sound, &dir);
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            fs::write(dir.join("journal").join(&name), &bytes).unwrap();
            match contents(&dir) {
                Ok(found) if found == whole => eprintln!("{name}@{at}: harmless"),
                Ok(found) => eprintln!("{name}@{at}: head {}", found.head.next_seq),
                Err(error) => eprintln!("{name}@{at}: {error}"),
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}
