//! Two writers on one chain, and the faults that simulation plans.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::{Head, Positions, Stream, link};
use state::memory::{Fault, MemoryLog};
use state::{Append, Changes, Log, LogError, Store};

use crate::fixture::{Author, chain, deployment};

fn put(value: u8) -> Changes {
    Changes::new(vec![(b"key".to_vec(), Some(vec![value]))])
}

/// A chain that has an owner.
fn elected() -> (MemoryLog, Author, Head) {
    let log = MemoryLog::new(&deployment(), 0);
    let author = Author::new(0);
    let genesis = log.head().unwrap();
    log.append(&genesis, &author.elect(&genesis), &Changes::default()).unwrap();
    let head = log.head().unwrap();
    (log, author, head)
}

/// Spec 95, A07 on a log that lets two processes in: however their appends race, everybody
/// reads one history, each batch of it was answered `Appended` to its author, and nothing that
/// was answered is missing.
#[test]
fn a07_writers_that_race_make_one_history() {
    let shared = MemoryLog::new(&deployment(), 0);
    let appended = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for name in 0..6 {
            let log = shared.beside();
            let appended = &appended;
            scope.spawn(move || {
                let author = Author::new(name);
                for _ in 0..200 {
                    let head = log.head().unwrap();
                    let ours = head.epoch_key == Some(author.key());
                    let batch = if ours { author.batch(&head, 2, 8) } else { author.elect(&head) };
                    match log.append(&head, &batch, &put(name)).unwrap() {
                        Append::Appended(after) => {
                            assert_eq!(after.hash, batch.hash());
                            appended.fetch_add(1, Ordering::Relaxed);
                        }
                        Append::Lost(moved) => assert_ne!(moved, head),
                    }
                }
            });
        }
    });
    let histories: Vec<_> = (0..6).map(|_| shared.beside().read(0, usize::MAX).unwrap()).collect();
    let mut head = Head::genesis(&deployment(), 0);
    for batch in &histories[0] {
        head = link(&head, batch).unwrap();
    }
    assert_eq!(head, shared.head().unwrap());
    assert!(histories.iter().all(|it| *it == histories[0]));
    assert_eq!(histories[0].len(), appended.into_inner());
}

#[test]
fn each_fault_leaves_what_its_name_says_and_a_retry_ends_the_same() {
    // Fault, entries in the chain, position of the store.
    let table = [(Fault::NotPersisted, 1, 1), (Fault::Unanswered, 2, 1), (Fault::Committed, 2, 2)];
    for (fault, entries, position) in table {
        let (log, author, head) = elected();
        let batch = author.batch(&head, 1, 8);
        log.plan([Some(fault)]);
        let answer = log.append(&head, &batch, &put(1));
        assert!(matches!(answer, Err(LogError::Unanswered { .. })), "{fault:?}: {answer:?}");
        let found = (log.head().unwrap().next_seq, log.position().unwrap());
        assert_eq!(found, (entries, position), "{fault:?}");
        let answer = log.append(&head, &batch, &put(1)).unwrap();
        let after = link(&head, &batch).unwrap();
        assert_eq!(answer, Append::Appended(after), "{fault:?}, sent again");
        assert_eq!(log.position().unwrap(), 2, "{fault:?}, sent again");
        assert_eq!(log.get(b"key").unwrap(), Some(vec![1]), "{fault:?}, sent again");
    }
}

/// Begins `n` batches, each with its number under `key`.
fn begin(log: &MemoryLog, author: &Author, mut head: Head, n: u8) -> Vec<Head> {
    let begun = (1..=n).map(|n| {
        let batch = author.batch(&head, 1, 8);
        assert!(matches!(log.begin(&head, &batch, &put(n)), Ok(Append::Appended(_))));
        head = link(&head, &batch).unwrap();
        head.clone()
    });
    begun.collect()
}

#[test]
fn what_is_begun_is_shown_to_nobody_before_it_is_settled() {
    let (log, author, first) = elected();
    let heads = begin(&log, &author, first.clone(), 2);
    assert_eq!(log.head().unwrap(), first);
    assert_eq!(log.read(first.next_seq, 1 << 20).unwrap(), []);
    assert_eq!(log.leaves(first.next_seq).unwrap(), []);
    assert_eq!(log.get(b"key").unwrap(), Some(vec![2]), "its author reads what it has written");
    log.settle(heads[0].next_seq).unwrap();
    assert_eq!(log.head().unwrap(), heads[0]);
    assert_eq!(log.leaves(first.next_seq).unwrap().len(), 1);
}

#[test]
fn a_crash_takes_what_is_begun_from_the_newest_on_and_its_changes_with_it() {
    for n_kept in 0..=3 {
        let (log, author, first) = elected();
        let heads = begin(&log, &author, first.clone(), 3);
        log.lose_begun(n_kept);
        let kept = if n_kept == 0 { &first } else { &heads[n_kept - 1] };
        assert_eq!(log.head().unwrap(), *kept);
        assert_eq!(log.position().unwrap(), kept.next_seq);
        let value = (n_kept > 0).then(|| vec![n_kept as u8]);
        assert_eq!(log.get(b"key").unwrap(), value);
        begin(&log, &author, kept.clone(), 1);
    }
}

#[test]
fn a_batch_that_cannot_be_made_durable_fails_whoever_settles_it() {
    let (log, author, first) = elected();
    log.plan([None, Some(Fault::Unsettled)]);
    let heads = begin(&log, &author, first, 2);
    log.settle(heads[0].next_seq).unwrap();
    assert!(matches!(log.settle(heads[1].next_seq), Err(LogError::Fatal { .. })));
    assert_eq!(log.head().unwrap(), heads[0]);
}

#[test]
fn an_append_that_is_overtaken_is_lost_and_nothing_is_written() {
    let (log, author, head) = elected();
    log.plan([None, Some(Fault::Overtaken)]);
    log.append(&head, &author.batch(&head, 1, 8), &put(1)).unwrap();
    let head = log.head().unwrap();
    let answer = log.append(&head, &author.batch(&head, 1, 8), &put(2)).unwrap();
    assert_eq!(answer, Append::Lost(head.clone()));
    assert_eq!(log.head().unwrap(), head);
    assert_eq!(log.get(b"key").unwrap(), Some(vec![1]));
}

#[test]
fn a_handle_beside_shares_the_chain_and_not_the_store() {
    let (log, author, head) = elected();
    let beside = Arc::new(log.beside());
    log.append(&head, &author.batch(&head, 1, 8), &put(1)).unwrap();
    assert_eq!(beside.head().unwrap(), log.head().unwrap());
    assert_eq!(beside.position().unwrap(), 0);
    assert_eq!(beside.get(b"key").unwrap(), None);
}

#[test]
fn a_crash_of_an_embedded_process_takes_the_inbox_and_leaves_telemetry() {
    let (log, author, head) = elected();
    for stream in [Stream::Inbox, Stream::Control, Stream::Telemetry] {
        log.send(stream, &[vec![0], vec![1], vec![2]]).unwrap();
    }
    let positions = Positions { inbox: 1, control: 2, telemetry: 0 };
    log.append(&head, &author.taking(&head, positions), &put(1)).unwrap();
    log.lose_inbox();
    let next = |stream| log.send(stream, &[vec![9]]).unwrap().start;
    let found = [Stream::Inbox, Stream::Control, Stream::Telemetry].map(next);
    assert_eq!(found, [1, 2, 3]);
}

#[test]
fn a_damaged_payload_is_found_at_its_entry() {
    let log = MemoryLog::new(&deployment(), 0);
    for batch in chain(&Author::new(0), 3) {
        log.append(&log.head().unwrap(), &batch, &Changes::default()).unwrap();
    }
    log.damage(4);
    let error = log.read(0, usize::MAX).unwrap_err();
    assert_eq!(error.damage().and_then(|it| it.position), Some(4), "{error}");
    assert_eq!(log.read(5, usize::MAX).unwrap().len(), 1, "what lies behind it can be read");
}
