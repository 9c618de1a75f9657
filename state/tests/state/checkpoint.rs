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
