//! Checkpoints: taken beside a running owner, whole, and refused when they are not.

use std::fs;

use state::embedded::EmbeddedLog;
use state::{Changes, Log, State, Store, checkpoint};

use crate::fixture::{Author, chain, deployment};

#[test]
fn a_checkpoint_holds_chain_and_state_and_the_owner_goes_on() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, target) = (temporary.path().join("data"), temporary.path().join("checkpoint"));
    let log = std::sync::Arc::new(EmbeddedLog::open(&dir, &deployment(), 0).unwrap());
    let batches = chain(&Author::new(0), 5);
    for batch in &batches[..4] {
        let mut state = State::new(log.clone()).unwrap();
        state.put(&[b'k', batch.header.first_seq as u8], vec![1]);
        log.append(&log.head().unwrap(), batch, &state.changes()).unwrap();
    }
    let digest = (log.as_ref() as &dyn Store).digest().unwrap();
    let made = checkpoint::create(&log, &target).unwrap();
    assert_eq!((made.next_seq, made.position, made.state), (7, 7, digest));
    log.append(&log.head().unwrap(), &batches[4], &Changes::default()).unwrap();
    assert_eq!(checkpoint::verify(&target).unwrap(), made);

    let restored = EmbeddedLog::open(&target, &deployment(), 0).unwrap();
    assert_eq!(restored.read(0, usize::MAX).unwrap(), batches[..4]);
    restored.append(&restored.head().unwrap(), &batches[4], &Changes::default()).unwrap();
}

#[test]
fn a_checkpoint_with_a_changed_a_missing_or_a_foreign_file_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, target) = (temporary.path().join("data"), temporary.path().join("checkpoint"));
    let log = EmbeddedLog::open(&dir, &deployment(), 0).unwrap();
    for batch in chain(&Author::new(0), 3) {
        log.append(&log.head().unwrap(), &batch, &Changes::default()).unwrap();
    }
    let made = checkpoint::create(&log, &target).unwrap();
    let names = made.files.iter().map(|(name, ..)| format!("journal/{name}"));
    for name in names.chain(["manifest".to_owned()]) {
        let path = target.join(&name);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let Some(byte) = flipped.last_mut() else { continue };
        *byte ^= 1;
        for damaged in [Some(flipped), None] {
            // The file may be a link to the owner's: it is replaced and not written into.
            fs::remove_file(&path).unwrap();
            if let Some(bytes) = damaged {
                fs::write(&path, bytes).unwrap();
            }
            let error = checkpoint::verify(&target).unwrap_err().to_string();
            assert!(error.contains(name.trim_start_matches("journal/")), "{name}: {error}");
            fs::write(&path, &whole).unwrap();
        }
    }
    checkpoint::verify(&target).unwrap();
    fs::write(target.join("journal/000999.sst"), b"foreign").unwrap();
    let error = checkpoint::verify(&target).unwrap_err().to_string();
    assert!(error.contains("000999.sst"), "{error}");
}

/// A log of the first `n` batches of `author`'s chain in `dir`.
fn grown(dir: &std::path::Path, author: &Author, n: usize) -> EmbeddedLog {
    let log = EmbeddedLog::open(dir, &deployment(), 0).unwrap();
    for batch in &chain(author, 5)[..n] {
        log.append(&log.head().unwrap(), batch, &Changes::default()).unwrap();
    }
    log
}

#[test]
fn a_checkpoint_takes_the_place_of_a_copy_that_lags_and_of_no_other_history() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    let made = checkpoint::create(&grown(&at("data"), &Author::new(0), 4), &at("staged")).unwrap();
    let behind = grown(&at("behind"), &Author::new(0), 2);
    let busy = checkpoint::install(&at("staged"), &at("behind")).unwrap_err();
    assert!(matches!(busy, state::LogError::Busy { .. }), "{busy}");
    drop(behind);
    drop(grown(&at("other"), &Author::new(1), 2));
    drop(grown(&at("ahead"), &Author::new(0), 5));
    for (name, n_batches) in [("other", 2), ("ahead", 5)] {
        let refused = checkpoint::install(&at("staged"), &at(name)).unwrap_err();
        assert!(matches!(refused, state::LogError::Diverged { .. }), "{name}: {refused}");
        let kept = EmbeddedLog::open(&at(name), &deployment(), 0).unwrap();
        assert_eq!(kept.read(0, usize::MAX).unwrap().len(), n_batches, "{name}");
    }
    checkpoint::install(&at("staged"), &at("behind")).unwrap();
    let log = EmbeddedLog::open(&at("behind"), &deployment(), 0).unwrap();
    assert_eq!(
        (log.head().unwrap().next_seq, log.read(0, usize::MAX).unwrap().len()),
        (made.next_seq, 4)
    );
    assert!(!at("staged").exists() && !at("behind").join("journal.old").exists());
}

#[test]
fn a_manifest_that_names_a_file_elsewhere_is_refused_whoever_signs_it() {
    let temporary = tempfile::tempdir().unwrap();
    let log = grown(&temporary.path().join("data"), &Author::new(0), 1);
    let made = checkpoint::create(&log, &temporary.path().join("made")).unwrap();
    assert_eq!(checkpoint::Checkpoint::decode(&made.encode()).unwrap(), made);
    for name in ["../x", "/etc/x", "a/b", "", ".hidden", "a\0b"] {
        let mut bad = made.clone();
        bad.files[0].0 = name.to_owned();
        let error = checkpoint::Checkpoint::decode(&bad.encode()).unwrap_err().to_string();
        assert!(error.contains("outside its folder"), "{name}: {error}");
    }
}
