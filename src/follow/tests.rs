//! Where following begins.

#![allow(clippy::unwrap_used)]

use schemas::signature::KeyPair;
use state::memory::MemoryLog;

use super::*;
use crate::engine::heads::Heads;
use crate::engine::owner::{Office, Owner};
use crate::keys::Identity;

const START: Ns = Ns::from_s(1_772_445_600);

/// Takes office and ticks at each of these seconds.
fn office(log: &Arc<MemoryLog>, seconds: &[u64]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let root = KeyPair::from_seed(&[1; 32]);
    let identity = Identity::new("test", "node", &root, KeyPair::from_seed(&[2; 32]));
    let office = Office {
        log: log.clone(),
        store: log.clone(),
        identity: &identity,
        endpoint: "127.0.0.1:1".to_owned(),
        heads: Heads::open(&dir.path().join("head"), None).unwrap(),
        chance: Box::new(|buffer| buffer.fill(7)),
    };
    let mut owner = Owner::elect(office, START + Ns::from_s(seconds[0])).unwrap();
    for second in seconds {
        owner.cycle(START + Ns::from_s(*second)).unwrap();
    }
    log.head().unwrap().next_seq
}

#[test]
fn the_search_finds_what_was_written_within_a_span_before_the_newest_election() {
    let identity =
        Identity::new("test", "node", &KeyPair::from_seed(&[1; 32]), KeyPair::from_seed(&[2; 32]));
    let log = Arc::new(MemoryLog::new(&identity.deployment, 0));
    assert_eq!(before_election(&*log, 0, Ns::from_s(10)).unwrap(), 0, "an empty journal");
    let first = office(&log, &[0, 10, 20, 30]);
    assert_eq!(before_election(&*log, first, Ns::from_s(10)).unwrap(), 0, "the first election");
    // The day without an owner is no time of the journal.
    let second = office(&log, &[86_400, 86_410]);
    assert_eq!(election(&*log, first).unwrap(), 0);
    assert_eq!(election(&*log, second).unwrap(), first, "an election begins a story");
    let found = before_election(&*log, second, Ns::from_s(15)).unwrap();
    let walls: Vec<u64> = log.read(found, usize::MAX).unwrap()[..2]
        .iter()
        .map(|it| it.header.wall.since(START).as_ms() / 1000)
        .collect();
    assert_eq!(walls, [20, 30]);
}
