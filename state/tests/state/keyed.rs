//! The state against a dumb version of itself, and its order of wakes.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use state::memory::MemoryLog;
use state::{Changes, LogError, State, Store, Wake};

use crate::fixture::deployment;

/// What can be done to a state.
#[derive(Clone, Debug)]
enum Act {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Scan(Vec<u8>),
    Wake(u8, u8, u64),
    Unwake(u8, u8),
    Commit,
    Discard,
    Reopen,
}

/// The same, kept in plain maps and copied whole.
#[derive(Clone, Default, PartialEq, Debug)]
struct Dumb {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    wakes: BTreeMap<(String, String), u64>,
}

impl Dumb {
    fn due(&self, now: u64) -> Vec<Wake> {
        let mut due: Vec<Wake> = self
            .wakes
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|((processor, key), at)| Wake {
                at: *at,
                processor: processor.clone(),
                key: key.clone(),
            })
            .collect();
        due.sort();
        due
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = self.pairs.iter().filter(|(key, _)| key.starts_with(prefix));
        pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

fn store() -> Arc<MemoryLog> {
    Arc::new(MemoryLog::new(&deployment(), 0))
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8..4, 1..4)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (key(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(k, v)| Act::Put(k, v)),
        2 => key().prop_map(Act::Delete),
        3 => prop::collection::vec(1u8..4, 0..3).prop_map(Act::Scan),
        3 => (0u8..3, 0u8..3, 0u64..9).prop_map(|(p, k, at)| Act::Wake(p, k, at)),
        2 => (0u8..3, 0u8..3).prop_map(|(p, k)| Act::Unwake(p, k)),
        1 => Just(Act::Commit),
        1 => Just(Act::Discard),
        1 => Just(Act::Reopen),
    ]
}

/// Names of which one is a prefix of another, so that order by bytes and by name must agree.
fn names(processor: u8, key: u8) -> (String, String) {
    ("p".repeat(usize::from(processor) + 1), "k".repeat(usize::from(key)))
}

fn commit(store: &Arc<MemoryLog>, state: &mut State) {
    let position = store.position().unwrap();
    store.commit(position + 1, &state.changes()).unwrap();
    state.commit();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// A cache of 2 KiB forgets all the time, so every path to a value is taken.
    #[test]
    fn the_state_answers_as_plain_maps_do(acts in prop::collection::vec(act(), 0..60)) {
        let store = store();
        let open = || State::with_cache(store.clone(), 2048).unwrap();
        let (mut state, mut dumb, mut committed) = (open(), Dumb::default(), Dumb::default());
        for act in acts {
            match act {
                Act::Put(key, value) => {
                    state.put(&key, value.clone());
                    dumb.pairs.insert(key, value);
                }
                Act::Delete(key) => {
                    state.delete(&key);
                    dumb.pairs.remove(&key);
                }
                Act::Scan(prefix) => {
                    prop_assert_eq!(state.scan(&prefix), dumb.scan(&prefix));
                }
                Act::Wake(processor, key, at) => {
                    let name = names(processor, key);
                    state.wake(&name.0, &name.1, at);
                    dumb.wakes.insert(name, at);
                }
                Act::Unwake(processor, key) => {
                    let name = names(processor, key);
                    state.unwake(&name.0, &name.1);
                    dumb.wakes.remove(&name);
                }
                Act::Commit => {
                    commit(&store, &mut state);
                    committed = dumb.clone();
                }
                Act::Discard => {
                    state.discard();
                    dumb = committed.clone();
                }
                Act::Reopen => {
                    state = open();
                    dumb = committed.clone();
                }
            }
            prop_assert_eq!(state.due(6, usize::MAX), dumb.due(6));
            prop_assert_eq!(state.next_wake(), dumb.wakes.values().min().copied());
            for key in [&[1u8][..], &[2, 2], &[3, 1, 2]] {
                prop_assert_eq!(state.get(key), dumb.pairs.get(key).cloned());
            }
        }
        let digest = state.digest().unwrap();
        commit(&store, &mut state);
        prop_assert_eq!(digest, (store.as_ref() as &dyn Store).digest().unwrap());
        prop_assert_eq!(open().scan(&[]), dumb.scan(&[]));
    }
}

#[test]
fn due_wakes_come_in_order_of_time_then_processor_then_key_and_only_so_many() {
    let mut state = State::new(store()).unwrap();
    let wakes = [(5, "b", "x"), (3, "b", "y"), (3, "a", "z"), (3, "b", "x"), (9, "a", "a")];
    for (at, processor, key) in wakes {
        state.wake(processor, key, at);
    }
    state.wake("b", "x", 4);
    let due: Vec<_> =
        state.due(8, 3).into_iter().map(|it| (it.at, it.processor + "/" + &it.key)).collect();
    let expected = [(3, "a/z".to_owned()), (3, "b/y".to_owned()), (4, "b/x".to_owned())];
    assert_eq!(due, expected);
}

#[test]
fn the_digest_tells_apart_what_lengths_alone_would_not() {
    let digest = |pairs: &[(&[u8], &[u8])]| {
        let mut state = State::new(store()).unwrap();
        for (key, value) in pairs {
            state.put(key, value.to_vec());
        }
        state.digest().unwrap()
    };
    assert_ne!(digest(&[(b"a", b"bc")]), digest(&[(b"ab", b"c")]));
    assert_ne!(digest(&[(b"a", b"")]), digest(&[]));
    assert_eq!(digest(&[(b"a", b"1"), (b"b", b"2")]), digest(&[(b"b", b"2"), (b"a", b"1")]));
}

/// A store whose disk is damaged.
struct Damaged;

impl Damaged {
    fn error() -> LogError {
        LogError::Fatal { what: "read".to_owned(), why: "damage".to_owned() }
    }
}

impl Store for Damaged {
    fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        Err(Damaged::error())
    }
    fn scan(&self, prefix: &[u8], _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        if prefix.first() == Some(&0) { Ok(()) } else { Err(Damaged::error()) }
    }
    fn position(&self) -> Result<u64, LogError> {
        Ok(0)
    }
    fn commit(&self, _: u64, changes: &Changes) -> Result<(), LogError> {
        changes.sound()
    }
}

#[test]
fn what_was_folded_on_a_failed_read_can_not_be_committed() {
    let reads: [fn(&State); 2] =
        [|state| assert_eq!(state.get(b"key"), None), |state| assert!(state.scan(b"k").is_empty())];
    for read in reads {
        let mut state = State::new(Arc::new(Damaged)).unwrap();
        state.put(b"key", vec![1]);
        assert!(state.changes().sound().is_ok());
        state.delete(b"key");
        state.discard();
        read(&state);
        state.put(b"key", vec![1]);
        assert!(Damaged.commit(1, &state.changes()).is_err());
        assert!(state.digest().is_err());
        state.discard();
        assert!(state.changes().sound().is_ok());
    }
}

#[test]
fn changes_are_sorted_and_of_equal_keys_the_last_wins() {
    let pair = |key: &[u8], value: Option<&[u8]>| (key.to_vec(), value.map(<[u8]>::to_vec));
    let changes = Changes::new(vec![
        pair(b"b", Some(b"1")),
        pair(b"a", Some(b"1")),
        pair(b"b", None),
        pair(b"a", Some(b"2")),
    ]);
    let pairs: Vec<_> = changes.pairs().collect();
    assert_eq!(pairs, [(&b"a"[..], Some(&b"2"[..])), (b"b", None)]);
}
