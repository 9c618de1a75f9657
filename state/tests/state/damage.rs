//! One flipped byte anywhere in a data directory: named or harmless. Never a panic, never other
//! data without a word. And an end that a crash has torn: cut off, and all before it kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::{Batch, Head, Stream};
use state::embedded::{EmbeddedLog, Part};
use state::{Changes, Log, LogError, Records, Store};

use crate::fixture::{Author, chain, deployment};

/// Everything that can be read from a data directory.
#[derive(Debug, PartialEq)]
struct Contents {
    head: Head,
    batches: Vec<Batch>,
    telemetry: Records,
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
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    match (informs_only(name), full) {
        (true, _) => (bytes / 2).max(1),
        (false, true) => 1,
        (false, false) => (bytes / 7).max(1),
    }
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
                // In a table file that is a filter: RocksDB then looks into the data instead. At
                // the end of a manifest it is what is written there again at every start.
                Ok(found) if found == whole => {
                    let spare = name.ends_with(".sst") || name.starts_with("MANIFEST-");
                    assert!(spare || informs_only(&name), "{name} at {at}: went unseen");
                }
                Ok(found) => panic!("{name} at {at}: other data without a word: {found:?}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(error.damage().is_some(), "{name} at {at}: {text}");
                    let listed = text.contains("a table file that it lists");
                    let named = text.contains(&name) || listed;
                    assert!(named, "{name} at {at}: {text}");
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn an_end_that_a_crash_has_torn_is_cut_off_and_all_before_it_is_kept() {
    let temporary = tempfile::tempdir().unwrap();
    let sound = temporary.path().join("sound");
    let batches = directory(&sound);
    let mut logs = files(&sound.join("journal"));
    logs.retain(|path| path.extension().is_some_and(|it| it == "log"));
    let name = logs[0].file_name().unwrap();
    let len = fs::metadata(&logs[0]).unwrap().len();
    let dir = temporary.path().join("torn");
    for kept in (0..len).step_by(len as usize / 40) {
        copy(&sound, &dir);
        let file = fs::File::options().write(true).open(dir.join("journal").join(name)).unwrap();
        file.set_len(kept).unwrap();
        let found = contents(&dir).unwrap();
        assert!(found.batches.len() >= 5, "what is in table files stays");
        assert_eq!(found.batches, batches[..found.batches.len()], "{kept} of {len} bytes");
        assert_eq!(found.head.next_seq, found.batches.last().unwrap().next_seq());
        fs::remove_dir_all(&dir).unwrap();
    }
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

/// Table files of one family.
fn tables(dir: &Path, family: &str) -> Vec<PathBuf> {
    let journal = dir.join("journal");
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, &journal).unwrap();
    let db = rocksdb::DB::open_cf_for_read_only(&options, &journal, families, false).unwrap();
    let files = db.live_files().unwrap().into_iter();
    let ours = files.filter(|file| file.column_family_name == family);
    ours.map(|file| journal.join(file.name.trim_start_matches('/'))).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_state_and_telemetry_are_named_and_repaired_and_the_journal_stays() {
    let table = [("state", Part::State), ("telemetry", Part::Telemetry)];
    // The first byte is data, found when it is read; the last is the file's own mark.
    for ((family, part), from_end) in table.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("data");
        let batches = directory(&dir);
        let file = tables(&dir, family).remove(0);
        let size = fs::metadata(&file).unwrap().len() as usize;
        flip(&file, if from_end { size - 1 } else { 0 });

        let error = contents(&dir).unwrap_err();
        let damage = error.damage().unwrap();
        assert_eq!(damage.file, file.file_name().unwrap().to_string_lossy(), "{error}");
        assert!(damage.what.starts_with(family), "{error}");
        assert!(damage.repair.contains(&format!("`healwright repair {family}`")), "{error}");

        EmbeddedLog::repair(&dir, part).unwrap();
        let found = contents(&dir).unwrap();
        assert_eq!(found.batches, batches);
        let log = EmbeddedLog::open(&dir, &deployment(), 0).unwrap();
        match part {
            Part::State => assert_eq!((found.state.len(), log.position().unwrap()), (0, 0)),
            Part::Telemetry => assert!(found.telemetry.is_empty()),
        }
        let range = log.send(Stream::Telemetry, &[vec![1]]).unwrap();
        assert_eq!(log.take(Stream::Telemetry, 0, usize::MAX).unwrap().last(), Some(range.start));
    }
}

#[test]
fn a_damaged_journal_file_is_named_with_the_first_entry_in_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    directory(&dir);
    let file = tables(&dir, "journal").remove(0);
    flip(&file, fs::metadata(&file).unwrap().len() as usize - 1);
    for part in [Part::State, Part::Telemetry] {
        let errors = [contents(&dir).unwrap_err(), EmbeddedLog::repair(&dir, part).unwrap_err()];
        for error in errors {
            let damage = error.damage().unwrap();
            assert_eq!(damage.file, file.file_name().unwrap().to_string_lossy(), "{error}");
            assert_eq!(damage.what, "journal record", "{error}");
            assert!(damage.position.is_some(), "{error}");
        }
    }
}

/// Puts, through RocksDB and with sound checksums, what nobody here would have written.
fn tamper(dir: &Path, family: &str, key: &[u8], value: Option<&[u8]>) {
    let options = rocksdb::Options::default();
    let journal = dir.join("journal");
    let families = rocksdb::DB::list_cf(&options, &journal).unwrap();
    let db = rocksdb::DB::open_cf(&options, &journal, families).unwrap();
    let family = db.cf_handle(family).unwrap();
    match value {
        Some(value) => db.put_cf(family, key, value).unwrap(),
        None => db.delete_cf(family, key).unwrap(),
    }
}

#[test]
fn what_was_not_written_by_an_owner_is_refused_with_its_place() {
    let batches = chain(&Author::new(0), 8);
    let record = |index: usize, flip: usize| {
        let mut bytes = batches[index].encode();
        let at = bytes.len() - flip;
        bytes[at] ^= 1;
        bytes
    };
    let seq = |index: usize| batches[index].header.first_seq.to_be_bytes().to_vec();
    let stranger = Author::new(1).batch(&Head::genesis(&deployment(), 0), 1, 8).encode();
    let far = 999u64.to_be_bytes().to_vec();
    // Family, key, value, and what the refusal says.
    let table = vec![
        ("journal", seq(4), Some(record(4, 1)), "journal entry 8 in"),
        ("journal", seq(4), Some(record(4, 120)), "journal entry 8 in"),
        ("journal", seq(4), Some(batches[5].encode()), "journal record 7 in"),
        ("journal", seq(4), None, "journal record 7 in"),
        ("journal", seq(8), None, "head is not the journal's last batch"),
        ("journal", seq(8), Some(record(8, 400)), "journal entry 15 in"),
        ("journal", far.clone(), Some(stranger), "journal record 999 in"),
        ("meta", b"head".to_vec(), None, "head is not the journal's last batch"),
        ("meta", b"head".to_vec(), Some(vec![0; 112]), "head is not the journal's last batch"),
        ("meta", b"head".to_vec(), Some(vec![0; 3]), "head is cut short"),
        ("meta", b"position".to_vec(), Some(far), "entries that the journal does not hold"),
        ("meta", b"format".to_vec(), Some(vec![0, 0, 0, 2]), "holds format 2, not format 1"),
        ("meta", b"deployment".to_vec(), None, "deployment's id is missing"),
        ("telemetry", 17u64.to_be_bytes().to_vec(), None, "telemetry record 17 in"),
        ("state", b"\0position".to_vec(), None, "state in"),
        ("telemetry", 3u64.to_be_bytes().to_vec(), None, "telemetry record 3 in"),
        ("quarantine", vec![0; 32], Some(vec![1]), "not what stands under its hash"),
    ];
    for (family, key, value, expected) in table {
        let temporary = tempfile::tempdir().unwrap();
        directory(temporary.path());
        tamper(temporary.path(), family, &key, value.as_deref());
        let text = match contents(temporary.path()) {
            Ok(found) => format!("{:?}", found.head),
            Err(error) => error.to_string(),
        };
        assert!(text.contains(expected), "{family} {}: {text}", key.escape_ascii());
    }
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
    assert!(error.to_string().contains("`healwright repair database`"), "{error}");
}

/// What is wrong with a table of contents.
type Spoil = fn(&Path);

#[test]
fn a_table_of_contents_that_is_lost_is_written_anew_and_nothing_else_changes() {
    let spoilt: [(&str, Spoil); 4] = [
        ("lost", |current| fs::remove_file(current).unwrap()),
        ("empty", |current| fs::write(current, "").unwrap()),
        ("another's", |current| fs::write(current, "MANIFEST-999999\n").unwrap()),
        ("a newer manifest is half written", |current| {
            let manifest = fs::read_to_string(current).unwrap();
            let whole = fs::read(current.with_file_name(manifest.trim())).unwrap();
            let newer = current.with_file_name("MANIFEST-900000");
            fs::write(newer, &whole[..whole.len() / 2]).unwrap();
            fs::write(current, "MANIFEST-900000\n").unwrap();
        }),
    ];
    for (what, spoil) in spoilt {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("data");
        directory(&dir);
        let current = dir.join("journal/CURRENT");
        let (before, named) = (contents(&dir).unwrap(), fs::read_to_string(&current).unwrap());
        assert_eq!(EmbeddedLog::repair_contents(&dir).unwrap(), None, "nothing is wrong");
        spoil(&current);
        assert!(EmbeddedLog::open(&dir, &deployment(), 0).is_err(), "{what}");
        let listed = || -> Vec<(PathBuf, Vec<u8>)> {
            let all = files(&dir.join("journal")).into_iter().filter(|it| !it.ends_with("CURRENT"));
            all.map(|it| (it.clone(), fs::read(it).unwrap())).collect()
        };
        let others = listed();
        let repaired = EmbeddedLog::repair_contents(&dir).unwrap();
        assert_eq!(repaired.as_deref(), Some(named.trim()), "{what}");
        assert_eq!(listed(), others, "{what}");
        assert_eq!(fs::read_to_string(&current).unwrap(), named, "{what}");
        assert_eq!(contents(&dir).unwrap(), before, "{what}");
        drop(EmbeddedLog::open(&dir, &deployment(), 0).unwrap());
    }
}

/// A manifest that does not list every table file would have RocksDB delete the others.
#[test]
fn a_table_of_contents_is_not_written_where_something_would_be_lost() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    directory(&dir);
    let current = dir.join("journal/CURRENT");
    let manifest = dir.join("journal").join(fs::read_to_string(&current).unwrap().trim());
    let table = tables(&dir, "journal").remove(0);
    let other = table.with_file_name("999999.sst");
    fs::copy(&table, &other).unwrap();
    fs::remove_file(&current).unwrap();
    let error = EmbeddedLog::repair_contents(&dir).unwrap_err();
    assert!(error.to_string().contains("999999.sst"), "{error}");
    fs::remove_file(&other).unwrap();
    fs::remove_file(&table).unwrap();
    EmbeddedLog::repair_contents(&dir).unwrap_err();
    assert!(!current.exists(), "a part of the journal is missing");
    fs::remove_file(manifest).unwrap();
    let error = EmbeddedLog::repair_contents(&dir).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("`--from BUNDLE`") && said.contains("no manifest is there"), "{said}");
    assert!(said.contains(&dir.join("journal").display().to_string()), "{said}");
    let left = fs::read_dir(&dir).unwrap().flatten().map(|it| it.file_name());
    let tried = left.filter(|it| it.to_string_lossy().starts_with("journal.tried")).count();
    assert!(!current.exists() && tried == 0);
}
