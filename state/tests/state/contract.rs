//! The contract of [`Log`] and [`Store`], as one suite that every log runs.
//!
//! A bed makes a log, reopens it as after a crash, and says what it can do. To add a log, write
//! its bed and list it in [`beds`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemas::{Batch, Hash, Head, Positions, Skip, Stream};
use state::embedded::EmbeddedLog;
use state::kafka::{Cluster, KafkaLog};
use state::memory::MemoryLog;
use state::{Append, Changes, Log, LogError, Records, State, Store};

use crate::bed;
use crate::fixture::{Author, chain, deployment};

const ALL: usize = usize::MAX;

/// A log under test and the way to lose everything but what it made durable.
trait Bed {
    fn log(&self) -> &dyn Log;
    fn store(&self) -> Arc<dyn Store>;
    /// The process ends and starts again.
    fn restart(&mut self);
    fn quarantined(&self) -> Vec<(Hash, String)>;
}

struct MemoryBed(Arc<MemoryLog>);

impl Bed for MemoryBed {
    fn log(&self) -> &dyn Log {
        &*self.0
    }
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
    fn restart(&mut self) {}
    fn quarantined(&self) -> Vec<(Hash, String)> {
        self.0.quarantined().into_iter().map(|(hash, (_, reason))| (hash, reason)).collect()
    }
}

struct EmbeddedBed {
    log: Option<Arc<EmbeddedLog>>,
    dir: PathBuf,
    _temporary: tempfile::TempDir,
}

impl EmbeddedBed {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("data");
        let log = Some(Arc::new(EmbeddedLog::open(&dir, &deployment(), 0).unwrap()));
        EmbeddedBed { log, dir, _temporary: temporary }
    }
}

impl Bed for EmbeddedBed {
    fn log(&self) -> &dyn Log {
        self.log.as_deref().unwrap()
    }
    fn store(&self) -> Arc<dyn Store> {
        self.log.clone().unwrap()
    }
    fn restart(&mut self) {
        assert_eq!(self.log.as_ref().map(Arc::strong_count), Some(1), "the log is still in use");
        self.log = None;
        self.log = Some(Arc::new(EmbeddedLog::open(&self.dir, &deployment(), 0).unwrap()));
    }
    fn quarantined(&self) -> Vec<(Hash, String)> {
        let all = self.log.as_ref().unwrap().quarantined().unwrap();
        all.into_iter().map(|it| (it.hash, it.reason)).collect()
    }
}

struct KafkaBed {
    log: Option<Arc<KafkaLog>>,
    cluster: Cluster,
    dir: tempfile::TempDir,
}

impl KafkaBed {
    fn new() -> Self {
        let url = format!("kafka://{}", bed::shared());
        let cluster = Cluster::parse(&url, &bed::prefix()).unwrap();
        cluster.prepare(Some(1), &[]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = Some(KafkaBed::open(&cluster, dir.path()));
        KafkaBed { log, cluster, dir }
    }

    fn open(cluster: &Cluster, dir: &Path) -> Arc<KafkaLog> {
        let dir = dir.join("data");
        let news = Arc::new(|| {});
        Arc::new(KafkaLog::open(cluster, &dir, &deployment(), 0, news).unwrap())
    }
}

impl Bed for KafkaBed {
    fn log(&self) -> &dyn Log {
        self.log.as_deref().unwrap()
    }
    fn store(&self) -> Arc<dyn Store> {
        self.log.clone().unwrap()
    }
    fn restart(&mut self) {
        assert_eq!(self.log.as_ref().map(Arc::strong_count), Some(1), "the log is still in use");
        self.log = None;
        self.log = Some(KafkaBed::open(&self.cluster, self.dir.path()));
    }
    fn quarantined(&self) -> Vec<(Hash, String)> {
        let all = self.log.as_ref().unwrap().quarantined().unwrap();
        all.into_iter().map(|it| (it.hash, it.reason)).collect()
    }
}

fn beds() -> Vec<Box<dyn Bed>> {
    let memory = MemoryBed(Arc::new(MemoryLog::new(&deployment(), 0)));
    vec![Box::new(memory), Box::new(EmbeddedBed::new()), Box::new(KafkaBed::new())]
}

fn append(log: &dyn Log, batch: &Batch) -> Head {
    let head = log.head().unwrap();
    match log.append(&head, batch, &Changes::default()).unwrap() {
        Append::Appended(head) => head,
        Append::Lost(head) => panic!("lost to {head:?}"),
    }
}

fn fill(log: &dyn Log, batches: &[Batch]) -> Head {
    batches.iter().map(|batch| append(log, batch)).last().unwrap()
}

fn put(key: &[u8], value: &[u8]) -> Changes {
    Changes::new(vec![(key.to_vec(), Some(value.to_vec()))])
}

/// Every test of this file runs on each of [`beds`]; these two must also answer alike.
#[test]
fn embedded_log_and_kafka_pass_same_suite() {
    let answers = |mut bed: Box<dyn Bed>| {
        let batches = chain(&Author::new(0), 5);
        let head = fill(bed.log(), &batches[..5]);
        let appended = bed.log().append(&head, &batches[5], &put(b"key", b"value")).unwrap();
        let sent = bed.log().send(Stream::Telemetry, &[vec![0], vec![1]]).unwrap();
        bed.restart();
        let taken = bed.log().take(Stream::Telemetry, 0, ALL).unwrap();
        let read = bed.log().read(0, ALL).unwrap();
        (appended, sent, taken, read, bed.store().digest().unwrap())
    };
    assert_eq!(answers(Box::new(EmbeddedBed::new())), answers(Box::new(KafkaBed::new())));
}

#[test]
fn an_empty_log_ends_at_its_genesis() {
    for bed in beds() {
        assert_eq!(bed.log().head().unwrap(), Head::genesis(&deployment(), 0));
        assert!(bed.log().read(0, ALL).unwrap().is_empty());
        assert_eq!(bed.store().position().unwrap(), 0);
        for stream in [Stream::Inbox, Stream::Control, Stream::Telemetry] {
            assert!(bed.log().take(stream, 0, ALL).unwrap().is_empty());
        }
    }
}

#[test]
fn what_was_appended_is_read_back_the_same_before_and_after_a_restart() {
    for mut bed in beds() {
        let batches = chain(&Author::new(0), 5);
        let head = fill(bed.log(), &batches);
        for _ in 0..2 {
            assert_eq!(bed.log().head().unwrap(), head);
            assert_eq!(bed.log().read(0, ALL).unwrap(), batches);
            assert_eq!(bed.store().position().unwrap(), head.next_seq);
            bed.restart();
        }
    }
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_entry_and_keeps_to_its_bound() {
    for bed in beds() {
        let batches = chain(&Author::new(0), 4);
        let head = fill(bed.log(), &batches);
        for (index, batch) in batches.iter().enumerate() {
            for seq in batch.header.first_seq..batch.next_seq() {
                assert_eq!(bed.log().read(seq, ALL).unwrap(), batches[index..]);
                assert_eq!(bed.log().read(seq, 1).unwrap(), batches[index..=index]);
            }
        }
        assert!(bed.log().read(head.next_seq, ALL).unwrap().is_empty());
    }
}

#[test]
fn what_is_begun_is_there_once_it_is_settled_and_its_author_need_not_wait_between() {
    for mut bed in beds() {
        let batches = chain(&Author::new(0), 5);
        let mut head = bed.log().head().unwrap();
        for batch in &batches {
            let changes = put(b"next", &batch.next_seq().to_be_bytes());
            match bed.log().begin(&head, batch, &changes).unwrap() {
                Append::Appended(after) => head = after,
                Append::Lost(head) => panic!("lost to {head:?}"),
            }
            assert_eq!(bed.store().get(b"next").unwrap(), Some(head.next_seq.to_be_bytes().into()));
        }
        bed.log().settle(head.next_seq).unwrap();
        // There is nothing more to wait for.
        bed.log().settle(head.next_seq + 1).unwrap();
        let leaves: Vec<Hash> =
            batches.iter().flat_map(|it| &it.entries).map(schemas::Entry::leaf).collect();
        for _ in 0..2 {
            assert_eq!(bed.log().head().unwrap(), head);
            assert_eq!(bed.log().read(0, ALL).unwrap(), batches);
            assert_eq!(bed.log().leaves(0).unwrap(), leaves);
            assert_eq!(bed.log().leaves(3).unwrap(), leaves[3..]);
            assert_eq!(bed.log().leaves(head.next_seq).unwrap(), []);
            bed.restart();
        }
    }
}

/// An append on a head that has moved is lost and changes nothing.
#[test]
fn adv_chain_seq_stale_read() {
    for bed in beds() {
        let batches = chain(&Author::new(0), 1);
        let genesis = bed.log().head().unwrap();
        append(bed.log(), &batches[0]);
        let head = append(bed.log(), &batches[1]);
        let late = Author::new(1).elect(&genesis);
        let answer = bed.log().append(&genesis, &late, &put(b"key", b"lost")).unwrap();
        assert_eq!(answer, Append::Lost(head.clone()));
        assert_eq!(bed.log().read(0, ALL).unwrap(), batches);
        assert_eq!(bed.store().get(b"key").unwrap(), None);
        assert_eq!(bed.store().position().unwrap(), head.next_seq);
    }
}

#[test]
fn sending_the_same_batch_again_appends_it_once() {
    for mut bed in beds() {
        let batches = chain(&Author::new(0), 2);
        let before = fill(bed.log(), &batches[..2]);
        let answers: Vec<Append> = (0..3)
            .map(|_| {
                let answer = bed.log().append(&before, &batches[2], &put(b"n", b"1")).unwrap();
                bed.restart();
                answer
            })
            .collect();
        let head = bed.log().head().unwrap();
        assert_eq!(answers, vec![Append::Appended(head); 3]);
        assert_eq!(bed.log().read(0, ALL).unwrap(), batches);
        assert_eq!(bed.store().get(b"n").unwrap(), Some(b"1".to_vec()));
    }
}

#[test]
fn a_batch_that_names_the_head_and_does_not_link_is_refused_loudly() {
    for bed in beds() {
        let head = append(bed.log(), &Author::new(0).elect(&bed.log().head().unwrap()));
        let stranger = Author::new(1).batch(&head, 1, 8);
        let answer = bed.log().append(&head, &stranger, &Changes::default());
        let Err(LogError::Unlinked { first_seq: 1, skip: schemas::Skip::Signature }) = answer
        else {
            panic!("{answer:?}");
        };
        assert_eq!(bed.log().head().unwrap(), head);
    }
}

#[test]
fn a_batch_and_its_changes_are_there_together() {
    for mut bed in beds() {
        let author = Author::new(0);
        let mut head = append(bed.log(), &author.elect(&bed.log().head().unwrap()));
        for n in 0u8..5 {
            let changes = Changes::new(vec![
                (b"last".to_vec(), Some(vec![n])),
                (vec![b'k', n], Some(vec![n])),
                (vec![b'k', n.wrapping_sub(2)], None),
            ]);
            bed.log().append(&head, &author.batch(&head, 1, 8), &changes).unwrap();
            bed.restart();
            head = bed.log().head().unwrap();
            assert_eq!(bed.store().position().unwrap(), head.next_seq);
            assert_eq!(bed.store().get(b"last").unwrap(), Some(vec![n]));
            let mut keys = Vec::new();
            bed.store().scan(b"k", &mut |key, _| keys.push(key[1])).unwrap();
            assert_eq!(keys, (n.saturating_sub(1)..=n).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_gap_that_is_folded_is_committed_with_its_position() {
    for mut bed in beds() {
        fill(bed.log(), &chain(&Author::new(0), 3));
        bed.store().commit(5, &put(b"folded", b"gap")).unwrap();
        bed.restart();
        assert_eq!(bed.store().get(b"folded").unwrap(), Some(b"gap".to_vec()));
        assert_eq!(bed.store().position().unwrap(), 5);
    }
}

#[test]
fn a_stream_gives_gap_free_positions_in_order() {
    for bed in beds() {
        for stream in [Stream::Inbox, Stream::Control, Stream::Telemetry] {
            let first = bed.log().send(stream, &[vec![0], vec![1]]).unwrap();
            let none = bed.log().send(stream, &[]).unwrap();
            let second = bed.log().send(stream, &[vec![2]]).unwrap();
            assert_eq!((first, none, second), (0..2, 2..2, 2..3));
            let records: Records = (0u8..3).map(|n| (u64::from(n), [n])).collect();
            assert_eq!(bed.log().take(stream, 0, ALL).unwrap(), records);
            assert_eq!(bed.log().take(stream, 1, 1).unwrap(), Records::from_iter([(1, [1])]));
            assert!(bed.log().take(stream, 3, ALL).unwrap().is_empty());
        }
    }
}

#[test]
fn telemetry_that_was_answered_is_there_after_a_restart() {
    for mut bed in beds() {
        let records: Vec<Vec<u8>> = (0u8..50).map(|n| vec![n; 100]).collect();
        assert_eq!(bed.log().send(Stream::Telemetry, &records).unwrap(), 0..50);
        bed.restart();
        let taken = bed.log().take(Stream::Telemetry, 0, ALL).unwrap();
        assert_eq!(taken, (0..).zip(records).collect::<Records>());
        assert_eq!(bed.log().send(Stream::Telemetry, &[vec![1]]).unwrap(), 50..51);
    }
}

#[test]
fn a_position_is_never_given_twice_even_when_all_before_it_is_forgotten() {
    for mut bed in beds() {
        let author = Author::new(0);
        let head = append(bed.log(), &author.elect(&bed.log().head().unwrap()));
        for stream in [Stream::Inbox, Stream::Control, Stream::Telemetry] {
            bed.log().send(stream, &[vec![0], vec![1], vec![2]]).unwrap();
        }
        let positions = Positions { inbox: 3, control: 3, telemetry: 3 };
        append(bed.log(), &author.taking(&head, positions));
        for stream in [Stream::Inbox, Stream::Control, Stream::Telemetry] {
            bed.log().forget(stream, 3).unwrap();
        }
        bed.restart();
        for stream in [Stream::Inbox, Stream::Control, Stream::Telemetry] {
            assert!(bed.log().take(stream, 0, ALL).unwrap().is_empty());
            assert_eq!(bed.log().send(stream, &[vec![3]]).unwrap(), 3..4);
            assert_eq!(bed.log().take(stream, 0, ALL).unwrap(), Records::from_iter([(3, [3])]));
        }
    }
}

#[test]
fn forgetting_leaves_everything_from_its_bound_on() {
    for bed in beds() {
        let records: Vec<Vec<u8>> = (0u8..10).map(|n| vec![n]).collect();
        bed.log().send(Stream::Telemetry, &records).unwrap();
        bed.log().forget(Stream::Telemetry, 4).unwrap();
        bed.log().forget(Stream::Telemetry, 2).unwrap();
        let taken = bed.log().take(Stream::Telemetry, 0, ALL).unwrap();
        assert_eq!(taken, (4u64..10).map(|n| (n, [n as u8])).collect::<Records>());
    }
}

#[test]
fn senders_at_once_get_ranges_of_their_own_and_readers_see_no_gap() {
    for mut bed in beds() {
        let log = bed.log();
        std::thread::scope(|scope| {
            for sender in 0u8..8 {
                scope.spawn(move || {
                    for round in 0u8..25 {
                        let records = [vec![sender, round, 0], vec![sender, round, 1]];
                        let range = log.send(Stream::Telemetry, &records).unwrap();
                        let taken = log.take(Stream::Telemetry, range.start, ALL).unwrap();
                        let expected: Vec<_> =
                            range.zip(records.iter().map(Vec::as_slice)).collect();
                        let first: Vec<_> = taken.iter().take(2).collect();
                        assert_eq!(first, expected, "what was answered is read");
                    }
                });
            }
        });
        bed.restart();
        let all = bed.log().take(Stream::Telemetry, 0, ALL).unwrap();
        assert!(all.iter().map(|(position, _)| position).eq(0..400));
        for sender in 0u8..8 {
            let rounds = all.iter().map(|(_, record)| record).filter(|it| it[0] == sender);
            assert!(rounds.map(|it| (it[1], it[2])).is_sorted(), "one sender's order stays");
        }
    }
}

#[test]
fn what_cannot_be_decoded_is_kept_once_with_its_first_reason() {
    for mut bed in beds() {
        let hash = bed.log().quarantine(b"nonsense", "no format mark").unwrap();
        assert_eq!(hash, Hash::of(&[b"nonsense"]));
        assert_eq!(bed.log().quarantine(b"nonsense", "another").unwrap(), hash);
        bed.restart();
        assert_eq!(bed.quarantined(), vec![(hash, "no format mark".to_owned())]);
    }
}

#[test]
fn a_record_over_the_limit_is_refused_and_none_of_its_neighbours_is_added() {
    for bed in beds() {
        for stream in [Stream::Inbox, Stream::Control, Stream::Telemetry] {
            let records = [vec![1], vec![0; state::log::RECORD_BYTES_MAX + 1]];
            let answer = bed.log().send(stream, &records);
            assert!(matches!(answer, Err(LogError::TooLarge { .. })), "{answer:?}");
            assert!(bed.log().take(stream, 0, ALL).unwrap().is_empty());
        }
    }
}

#[test]
fn a_state_over_the_store_folds_to_the_same_digest_before_and_after_a_restart() {
    for mut bed in beds() {
        let author = Author::new(0);
        let head = append(bed.log(), &author.elect(&bed.log().head().unwrap()));
        let mut state = State::new(bed.store()).unwrap();
        for n in 0u8..100 {
            state.put(&[b'k', n], vec![n]);
            state.wake("detection", &format!("key-{n}"), u64::from(n % 7));
        }
        let pending = state.digest().unwrap();
        bed.log().append(&head, &author.batch(&head, 1, 8), &state.changes()).unwrap();
        state.commit();
        let (committed, due) = (state.digest().unwrap(), state.due(3, ALL));
        drop(state);
        bed.restart();
        let state = State::new(bed.store()).unwrap();
        assert_eq!((pending, committed), (state.digest().unwrap(), bed.store().digest().unwrap()));
        assert_eq!(due, state.due(3, ALL));
    }
}

/// Large enough that a log may check it in parts: a change in any part is found.
#[test]
fn a_large_batch_with_one_changed_entry_is_refused_and_leaves_nothing() {
    for bed in beds() {
        let author = Author::new(0);
        let head = fill(bed.log(), &chain(&author, 0));
        for at in [0, 299, 300, 599] {
            let mut batch = author.batch(&head, 600, 512);
            batch.entries[at].payload[7] ^= 1;
            let refused = bed.log().append(&head, &batch, &put(b"key", b"value"));
            let unlinked = matches!(refused, Err(LogError::Unlinked { skip: Skip::Body, .. }));
            assert!(unlinked, "{at}: {refused:?}");
        }
        let mut batch = author.batch(&head, 600, 512);
        batch.entries.swap(1, 2);
        assert!(bed.log().append(&head, &batch, &Changes::default()).is_err());
        assert_eq!(bed.log().head().unwrap(), head);
        assert_eq!(bed.store().get(b"key").unwrap(), None);
        append(bed.log(), &author.batch(&head, 600, 512));
    }
}
