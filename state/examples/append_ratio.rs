//! Measures how many 512-byte entries a second the embedded log makes durable in batches of
//! 1024, beside what the same disk does for the same bytes with one write and `fdatasync`.
//!
//! The two are interleaved round by round, because a shared machine's disk changes its speed
//! from one second to the next.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code)] // the tests use more of it
#[path = "../tests/state/fixture.rs"]
mod fixture;

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use state::embedded::EmbeddedLog;
use state::{Append, Changes, Log};

const ENTRIES: usize = 1024;
const BYTES: usize = 512;
const ROUNDS: usize = 100;

fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "/tmp/append_ratio".to_owned());
    let dir = std::path::PathBuf::from(dir);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("a measurement ends at its first error");
    let log = EmbeddedLog::open(&dir.join("data"), &fixture::deployment(), 0)
        .expect("a measurement ends at its first error");
    let author = fixture::Author::new(0);
    let mut head = log.head().expect("a measurement ends at its first error");
    log.append(&head, &author.elect(&head), &Changes::default())
        .expect("a measurement ends at its first error");
    head = log.head().expect("a measurement ends at its first error");
    let mut plain = File::create(dir.join("plain")).expect("a measurement ends at its first error");
    let bytes = vec![7u8; ENTRIES * BYTES];
    let mut plain_time = Duration::ZERO;
    let mut append_time = Duration::ZERO;
    let mut sign_time = Duration::ZERO;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for record in bytes.chunks(BYTES) {
            plain.write_all(record).expect("a measurement ends at its first error");
        }
        plain.sync_data().expect("a measurement ends at its first error");
        plain_time += start.elapsed();
        let start = Instant::now();
        let batch = author.batch(&head, ENTRIES, BYTES);
        sign_time += start.elapsed();
        let start = Instant::now();
        let Append::Appended(next) = log
            .append(&head, &batch, &Changes::default())
            .expect("a measurement ends at its first error")
        else {
            panic!("lost");
        };
        append_time += start.elapsed();
        head = next;
    }
    let n = (ENTRIES * ROUNDS) as f64;
    let rate = |time: Duration| n / time.as_secs_f64();
    println!("fdatasync {:.0}/s", rate(plain_time));
    println!(
        "append    {:.0}/s  ratio {:.2}",
        rate(append_time),
        rate(append_time) / rate(plain_time)
    );
    let both = append_time + sign_time;
    println!("with sign {:.0}/s  ratio {:.2}", rate(both), rate(both) / rate(plain_time));
    std::fs::remove_dir_all(&dir).expect("a measurement ends at its first error");
}
