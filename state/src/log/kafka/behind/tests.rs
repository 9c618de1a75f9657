//! What is not on the disk is read as if it were, and what is not committed never gets there.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::State;

fn put(pairs: &[(&str, Option<&str>)]) -> Changes {
    let owned = |text: &str| text.as_bytes().to_vec();
    Changes::new(pairs.iter().map(|(key, value)| (owned(key), value.map(owned))).collect())
}

fn all(state: &Behind) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    state.scan(b"k", &mut |key, value| pairs.push((text(key), text(value)))).unwrap();
    for (key, value) in &pairs {
        assert_eq!(state.get(key.as_bytes()).unwrap().unwrap(), value.as_bytes());
    }
    pairs
}

#[test]
fn what_is_not_written_yet_is_read_as_if_it_were() {
    let dir = tempfile::tempdir().unwrap();
    let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
    // The first is written at once; what follows waits, here for ever.
    let state = Behind::every(copy.clone(), Duration::MAX, &Sharers::default());
    state.commit(1, &put(&[("k1", Some("a")), ("k3", Some("b")), ("k5", Some("c"))])).unwrap();
    assert_eq!(copy.position().unwrap(), 1);
    let next = [("k0", Some("d")), ("k3", None), ("k4", Some("e")), ("l", Some("f"))];
    state.commit(2, &put(&next)).unwrap();
    state.commit(3, &put(&[("k5", Some("g")), ("k6", Some("h"))])).unwrap();
    assert_eq!(copy.position().unwrap(), 1, "the disk lags");
    assert_eq!(state.position().unwrap(), 3);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let expected =
        [pair("k0", "d"), pair("k1", "a"), pair("k4", "e"), pair("k5", "g"), pair("k6", "h")];
    assert_eq!(all(&state), expected);
    assert_eq!(state.get(b"k3").unwrap(), None);
    state.flush().unwrap();
    assert_eq!(copy.position().unwrap(), 3);
    assert_eq!(all(&state), expected);
    drop(state);
    assert_eq!(copy.get(b"k3").unwrap(), None);
}

#[test]
fn a_write_that_fails_takes_nothing_from_who_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
    let state = Behind::every(copy.clone(), Duration::MAX, &Sharers::default());
    state.commit(1, &put(&[("k1", Some("a")), ("k2", Some("b"))])).unwrap();
    state.commit(2, &put(&[("k1", Some("c")), ("k2", None)])).unwrap();
    let before = all(&state);
    copy.refuse_writes();
    state.flush().unwrap_err();
    assert_eq!((state.position().unwrap(), all(&state)), (2, before));
    assert_eq!(copy.position().unwrap(), 1, "the disk lags");
}

/// A value of `of.len()` lines.
fn lines(of: &str) -> Vec<u8> {
    of.bytes().flat_map(|it| [it; 64]).collect()
}

/// Sets the lines at `places` to these letters, one after the other.
fn change(state: &mut State, key: &str, places: &[usize], to: &str) {
    state.edit(&[key.into()], &mut |values, keep| {
        for (at, to) in places.iter().zip(to.bytes()) {
            keep(0, *at, &values[0][*at]);
            values[0][*at] = [to; 64];
        }
    });
}

fn commit(log: &Behind, state: &mut State, next_seq: u64) {
    log.commit(next_seq, &state.changes()).unwrap();
    state.commit();
}

/// The disk is written after every batch or after none.
#[test]
fn lines_of_a_value_change_where_it_lies() {
    for every in [Duration::ZERO, Duration::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
        let log = Arc::new(Behind::every(copy, every, &Sharers::default()));
        let mut state = State::new(log.clone()).unwrap();
        state.put(b"k", lines("0123456789"));
        state.put(b"l", lines("0123"));
        commit(&log, &mut state, 1);
        let before = state.digest().unwrap();
        change(&mut state, "k", &[8, 2, 8], "ABC");
        change(&mut state, "k", &[2], "x");
        state.discard();
        assert_eq!((state.n_pending(), state.digest().unwrap()), (0, before), "it is undone");
        change(&mut state, "k", &[8, 2, 8], "ABC");
        let pending = (state.get(b"k").unwrap(), state.digest().unwrap());
        assert_eq!(pending.0, lines("01B34567C9"));
        assert_eq!(state.scan(b"k"), [(b"k".to_vec(), pending.0.clone())]);
        assert_eq!(log.get(b"k").unwrap().unwrap(), lines("0123456789"), "not committed");
        assert_eq!((&*log as &dyn Store).digest().unwrap(), before);
        let place = Arc::as_ptr(&held(&log, b"k"));
        commit(&log, &mut state, 2);
        assert_eq!(place, Arc::as_ptr(&held(&log, b"k")), "the value was copied");
        assert_eq!((state.get(b"k").unwrap(), state.digest().unwrap()), pending);
        // On top of lines that are pending, and of a whole value that is.
        change(&mut state, "k", &[8, 2], "AB");
        change(&mut state, "k", &[0], "x");
        state.put(b"l", lines("4567"));
        let keys = ["k", "l", "m"].map(|it| it.as_bytes().to_vec());
        state.edit(&keys, &mut |values, keep| {
            let there: Vec<usize> = values.iter().map(|it| it.len()).collect();
            assert_eq!(there, [10, 4, 0]);
            for (value, at, to) in [(1, 3, b'y'), (0, 9, b'z')] {
                keep(value, at, &values[value][at]);
                values[value][at] = [to; 64];
            }
        });
        commit(&log, &mut state, 3);
        drop(state);
        let state = State::new(log.clone()).unwrap();
        let [k, l] = [("k", "x1B34567Az"), ("l", "456y")]
            .map(|(key, value)| (key.as_bytes().to_vec(), lines(value)));
        assert_eq!(state.scan(b""), [k, l]);
    }
}

#[test]
fn the_disk_never_gets_what_is_not_committed() {
    let dir = tempfile::tempdir().unwrap();
    let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
    let log = Arc::new(Behind::every(copy.clone(), Duration::MAX, &Sharers::default()));
    let mut state = State::new(log.clone()).unwrap();
    state.put(b"k", lines("012"));
    commit(&log, &mut state, 1);
    change(&mut state, "k", &[1], "a");
    commit(&log, &mut state, 2);
    change(&mut state, "k", &[1, 2], "xy");
    let on_disk = || (copy.position().unwrap(), copy.get(b"k").unwrap().unwrap());
    log.flush().unwrap();
    assert_eq!(on_disk(), (2, lines("0a2")), "a checkpoint while a batch is in progress");
    assert_eq!(state.get(b"k").unwrap(), lines("0xy"));
    commit(&log, &mut state, 3);
    log.flush().unwrap();
    assert_eq!(on_disk(), (3, lines("0xy")), "what was written around waits on");
    change(&mut state, "k", &[0], "z");
    drop(state);
    assert_eq!(log.get(b"k").unwrap().unwrap(), lines("0xy"), "whoever lets go takes it back");
}

#[test]
fn what_was_folded_twice_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
    let log = Arc::new(Behind::of(copy, &Sharers::default()));
    let mut state = State::new(log.clone()).unwrap();
    state.put(b"k", lines("012"));
    commit(&log, &mut state, 1);
    // A fold that panics half way, and an append that others have made.
    change(&mut state, "k", &[1], "a");
    let panics = std::panic::AssertUnwindSafe(|| {
        state.edit(&[b"k".to_vec()], &mut |values, keep| {
            keep(0, 2, &values[0][2]);
            values[0][2] = [b'p'; 64];
            panic!("half way");
        });
    });
    std::panic::catch_unwind(panics).unwrap_err();
    state.discard();
    assert_eq!(state.get(b"k").unwrap(), lines("012"));
    change(&mut state, "k", &[1], "a");
    state.commit();
    assert_eq!(state.get(b"k").unwrap(), lines("012"), "the store has not committed it");
}

fn held(behind: &Behind, key: &[u8]) -> Value {
    let memory = lock(&behind.memory);
    let value = memory.pending.get(key).cloned().flatten();
    drop(memory);
    value.unwrap_or_else(|| {
        let mut memory = lock(&behind.memory);
        let value = memory.written.take(key).unwrap();
        memory.written.insert(key.into(), value.clone());
        value.unwrap()
    })
}

#[test]
fn the_more_waits_the_more_seldom_it_is_written() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let sharers = Sharers::default();
    let [state, other] = dirs.each_ref().map(|it| {
        let copy = EmbeddedLog::open(it.path(), "test", 0).unwrap();
        Behind::of(Arc::new(copy), &sharers)
    });
    let due = |n_bytes: usize, since: Duration| {
        let mut memory = lock(&state.memory);
        memory.n_bytes = n_bytes;
        memory.written_at = Some(Instant::now().checked_sub(since).unwrap());
        state.is_due(&memory)
    };
    let mib = 1024 * 1024;
    assert!(due(1, Duration::from_secs(1)));
    assert!(!due(8 * mib, Duration::from_millis(3900)) && due(8 * mib, Duration::from_secs(4)));
    drop(other);
    assert!(!due(8 * mib, Duration::from_millis(1900)) && due(8 * mib, Duration::from_secs(2)));
    assert!(!due(64 * mib, Duration::from_secs(15)) && due(64 * mib, Duration::from_secs(16)));
    assert!(due(129 * mib, Duration::ZERO));
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn model_of(store: &dyn Store) -> Model {
    let mut all = Model::new();
    store
        .scan(b"k", &mut |key, value| {
            all.insert(key.to_vec(), value.to_vec());
        })
        .unwrap();
    all
}

/// A state over it beside two maps, one for what is committed and one for the batch in progress.
struct Pair {
    copy: Arc<EmbeddedLog>,
    log: Arc<Behind>,
    state: State,
    committed: Model,
    ahead: Model,
    next_seq: u64,
}

impl Pair {
    fn step(&mut self, chance: &mut impl FnMut(u64) -> u64) {
        let key = |n: u64| format!("k{n}").into_bytes();
        match chance(14) {
            0..6 => {
                let keys: Vec<Vec<u8>> = (0..5).filter(|_| chance(2) == 0).map(key).collect();
                let to = [chance(256) as u8; 64];
                let mut at = Vec::new();
                self.state.edit(&keys, &mut |values, keep| {
                    for (number, value) in values.iter_mut().enumerate() {
                        for _ in 0..chance(4).min(value.len() as u64) {
                            let place = chance(value.len() as u64) as usize;
                            keep(number, place, &value[place]);
                            value[place] = to;
                            at.push((number, place));
                        }
                    }
                });
                for (number, place) in at {
                    let value = self.ahead.get_mut(&keys[number]).unwrap();
                    value[place * 64..][..64].copy_from_slice(&to);
                }
            }
            6 | 7 => {
                let (key, value) = (key(chance(5)), vec![chance(256) as u8; 64 * 7]);
                self.state.put(&key, value.clone());
                self.ahead.insert(key, value);
            }
            8 => {
                let key = key(chance(5));
                self.state.delete(&key);
                self.ahead.remove(&key);
            }
            9 | 10 => {
                self.next_seq += 1;
                commit(&self.log, &mut self.state, self.next_seq);
                self.committed = self.ahead.clone();
            }
            11 => {
                self.state.discard();
                self.ahead = self.committed.clone();
            }
            12 => {
                self.log.flush().unwrap();
                assert_eq!(model_of(&*self.copy), self.committed);
                assert_eq!(self.copy.position().unwrap(), self.next_seq);
            }
            _ => {
                let other = State::new(self.log.clone()).unwrap();
                drop(std::mem::replace(&mut self.state, other));
                self.ahead = self.committed.clone();
            }
        }
    }

    fn compare(&self) {
        assert_eq!(self.state.scan(b"k").into_iter().collect::<Model>(), self.ahead);
        assert_eq!(model_of(&*self.log), self.committed);
        for n in 0..5 {
            let key = format!("k{n}").into_bytes();
            assert_eq!(self.state.get(&key).as_ref(), self.ahead.get(&key));
            assert_eq!(self.log.get(&key).unwrap().as_ref(), self.committed.get(&key));
        }
    }
}

#[test]
fn whatever_comes_after_whatever_it_is_as_two_maps() {
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let copy = Arc::new(EmbeddedLog::open(dir.path(), "test", 0).unwrap());
        let every = if seed % 2 == 0 { Duration::MAX } else { Duration::ZERO };
        let log = Arc::new(Behind::every(copy.clone(), every, &Sharers::default()));
        let state = State::new(log.clone()).unwrap();
        let (committed, ahead) = (Model::new(), Model::new());
        let mut pair = Pair { copy, log, state, committed, ahead, next_seq: 0 };
        let mut n: u64 = seed;
        let mut chance = |below: u64| {
            n = (n ^ n >> 7).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
            (n >> 33) % below.max(1)
        };
        for _ in 0..120 {
            pair.step(&mut chance);
            pair.compare();
        }
    }
}
