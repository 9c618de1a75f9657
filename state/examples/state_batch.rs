//! Measures what a batch that rewrites 10,000 keys of state costs: reading and writing through
//! the overlay, sorting the changes, and the synced write of batch and state together.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code)] // the tests use more of it
#[path = "../tests/state/fixture.rs"]
mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use state::embedded::EmbeddedLog;
use state::{Append, Changes, Log, State};

const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 200;
const ROUNDS: u32 = 50;

fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "/tmp/state_batch".to_owned());
    let _ = std::fs::remove_dir_all(&dir);
    let dir = std::path::PathBuf::from(dir);
    let log = Arc::new(
        EmbeddedLog::open(&dir, &fixture::deployment(), 0)
            .expect("a measurement ends at its first error"),
    );
    let author = fixture::Author::new(0);
    let genesis = log.head().expect("a measurement ends at its first error");
    log.append(&genesis, &author.elect(&genesis), &Changes::default())
        .expect("a measurement ends at its first error");
    let mut head = log.head().expect("a measurement ends at its first error");
    let mut state = State::new(log.clone()).expect("a measurement ends at its first error");
    let keys: Vec<Vec<u8>> = (0..KEYS)
        .map(|n| format!("detection/series/{:08x}", n.wrapping_mul(0x9e37_79b9)).into_bytes())
        .collect();
    let mut fold = Duration::ZERO;
    let mut sort = Duration::ZERO;
    let mut append = Duration::ZERO;
    let mut commit = Duration::ZERO;
    for round in 0..ROUNDS {
        let start = Instant::now();
        for key in &keys {
            let mut value = state.get(key).unwrap_or_else(|| vec![0; VALUE_BYTES]);
            value[0] = round as u8;
            state.put(key, value);
        }
        fold += start.elapsed();
        let start = Instant::now();
        let changes = state.changes();
        sort += start.elapsed();
        let batch = author.batch(&head, 10, 200);
        let start = Instant::now();
        let Append::Appended(next) =
            log.append(&head, &batch, &changes).expect("a measurement ends at its first error")
        else {
            panic!("lost");
        };
        append += start.elapsed();
        head = next;
        let start = Instant::now();
        state.commit();
        commit += start.elapsed();
    }
    let per_key = |time: Duration| time.as_nanos() as f64 / f64::from(KEYS * ROUNDS);
    println!("get + put  {:.0} ns/key", per_key(fold));
    println!("changes    {:.0} ns/key", per_key(sort));
    println!("append     {:.0} ns/key, {:?} a batch", per_key(append), append / ROUNDS);
    println!("commit     {:.0} ns/key", per_key(commit));
    drop((state, log));
    std::fs::remove_dir_all(&dir).expect("a measurement ends at its first error");
}
