//! What is measured at the client's side, as deltas that are kept until somebody has them.
//!
//! A meter belongs to a slot in a role. Every 250 ms what it counted is closed into an
//! [`Interval`] of the [`Book`], and stays there until the reader says that it has it. When
//! nobody reads for long, the oldest intervals are merged: coarser, but no count is lost.
//! A proxy that dies takes what was not read with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::Ns;
use serde::{Deserialize, Serialize};

/// Upper bounds of the latency buckets, milliseconds; the last bucket has none.
/// They are label values of a telemetry series: frozen.
pub const BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
/// Number of buckets.
pub const N_BUCKETS: usize = BOUNDS_MS.len() + 1;
/// Length of an interval.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// Intervals that are kept apart; beyond it the oldest are merged. Four slots for ten minutes.
const N_KEPT_MAX: usize = 9_600;

/// In which part a slot was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It answered users.
    Live,
    /// It was sent copies and answered nobody.
    Shadow,
}

impl Role {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Live => "live",
            Role::Shadow => "shadow",
        }
    }
}

/// Counts of one interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that ended.
    pub requests: u64,
    /// Of them answered 5xx, not answered in time, or not reached.
    pub errors: u64,
    /// Of them per latency bucket.
    pub buckets: [u64; N_BUCKETS],
    /// Copies whose answer was compared with the live one.
    pub compared: u64,
    /// Of them with another status class or another body.
    pub differ: u64,
    /// Copies that were not sent, because too many were under way or the request was too large.
    pub skipped: u64,
}

impl Counts {
    fn is_empty(&self) -> bool {
        *self == Counts::default()
    }

    fn add(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.errors += other.errors;
        for (bucket, n) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += n;
        }
        self.compared += other.compared;
        self.differ += other.differ;
        self.skipped += other.skipped;
    }
}

/// Counts a slot in a role.
#[derive(Debug, Default)]
pub(super) struct Meter(Mutex<Counts>);

impl Meter {
    /// A request ended after `latency`.
    pub(super) fn request(&self, latency: Duration, failed: bool) {
        self.update(|counts| {
            counts.requests += 1;
            counts.errors += u64::from(failed);
            counts.buckets[bucket_of(latency)] += 1;
        });
    }

    /// A copy's answer was compared.
    pub(super) fn comparison(&self, differs: bool) {
        self.update(|counts| {
            counts.compared += 1;
            counts.differ += u64::from(differs);
        });
    }

    /// A copy was not sent.
    pub(super) fn skip(&self) {
        self.update(|counts| counts.skipped += 1);
    }

    fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take(&self) -> Counts {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn bucket_of(latency: Duration) -> usize {
    BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < latency)
}

/// What a slot counted between two moments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Running number; later is greater.
    pub seq: u64,
    /// Wall clock at its start.
    pub from_ns: u64,
    /// Wall clock at its end.
    pub to_ns: u64,
    /// The service.
    pub service: String,
    /// The slot.
    pub slot: String,
    /// Its part.
    pub role: Role,
    /// What it counted; never empty.
    pub counts: Counts,
}

type Key = (String, String, Role);

/// All meters, and the closed intervals that nobody has yet.
#[derive(Debug)]
pub(super) struct Book {
    meters: BTreeMap<Key, Arc<Meter>>,
    kept: VecDeque<Interval>,
    next_seq: u64,
    closed_ns: u64,
    offered: u64,
}

impl Book {
    /// An empty book whose first interval starts `now`.
    pub(super) fn new(now: Ns) -> Self {
        Book {
            meters: BTreeMap::new(),
            kept: VecDeque::new(),
            next_seq: 1,
            closed_ns: now.0,
            offered: 0,
        }
    }

    /// The meter of a slot in a role; the same one each time.
    pub(super) fn meter(&mut self, service: &str, slot: &str, role: Role) -> Arc<Meter> {
        let key = (service.to_owned(), slot.to_owned(), role);
        Arc::clone(self.meters.entry(key).or_default())
    }

    /// Closes the interval that ends `now`.
    pub(super) fn close(&mut self, now: Ns) {
        for ((service, slot, role), meter) in &self.meters {
            let counts = meter.take();
            if counts.is_empty() {
                continue;
            }
            self.kept.push_back(Interval {
                seq: self.next_seq,
                from_ns: self.closed_ns,
                to_ns: now.0,
                service: service.clone(),
                slot: slot.clone(),
                role: *role,
                counts,
            });
            self.next_seq += 1;
        }
        self.closed_ns = now.0;
        if N_KEPT_MAX < self.kept.len() {
            self.merge_older_half();
        }
    }

    /// Forgets what the reader has, up to and with `seq`, and gives the rest, at most `n`.
    pub(super) fn after(&mut self, seq: u64, n: usize) -> Vec<Interval> {
        while self.kept.front().is_some_and(|it| it.seq <= seq) {
            self.kept.pop_front();
        }
        let given: Vec<Interval> = self.kept.iter().take(n).cloned().collect();
        self.offered = given.last().map_or(self.offered, |it| it.seq.max(self.offered));
        given
    }

    /// One interval per key in place of the older half, under the newest number of each.
    /// What was offered keeps its number: the reader may have it and not have said so yet.
    fn merge_older_half(&mut self) {
        let rest = self.kept.split_off(self.kept.len() / 2);
        let n_offered = self.kept.partition_point(|it| it.seq <= self.offered);
        let mut merged: BTreeMap<Key, Interval> = BTreeMap::new();
        for interval in self.kept.drain(n_offered..) {
            let key = (interval.service.clone(), interval.slot.clone(), interval.role);
            match merged.get_mut(&key) {
                None => {
                    merged.insert(key, interval);
                }
                Some(one) => {
                    one.counts.add(&interval.counts);
                    (one.seq, one.to_ns) = (interval.seq, interval.to_ns);
                }
            }
        }
        let mut merged: Vec<Interval> = merged.into_values().collect();
        merged.sort_by_key(|it| it.seq);
        self.kept.extend(merged.into_iter().chain(rest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(intervals: &[Interval]) -> Counts {
        let mut sum = Counts::default();
        intervals.iter().for_each(|it| sum.add(&it.counts));
        sum
    }

    #[test]
    fn a_latency_falls_into_the_first_bucket_that_holds_it() {
        for (us, bucket) in [(0, 0), (1_000, 0), (1_001, 1), (300_000, 8), (10_000_001, 13)] {
            assert_eq!(bucket_of(Duration::from_micros(us)), bucket, "{us} us");
        }
    }

    #[test]
    fn what_was_not_taken_is_given_again_and_what_was_taken_is_not() {
        let mut book = Book::new(Ns(0));
        let meter = book.meter("shop", "green", Role::Live);
        meter.request(Duration::ZERO, false);
        book.close(Ns(1));
        meter.request(Duration::ZERO, true);
        book.close(Ns(2));
        let both = book.after(0, 10);
        assert_eq!(both, book.after(0, 10));
        assert_eq!((both.len(), totals(&both).errors), (2, 1));
        assert_eq!(book.after(both[0].seq, 10), both[1..]);
        assert_eq!(book.after(both[1].seq, 10), []);
    }

    #[test]
    fn an_interval_without_a_count_is_not_written_down() {
        let mut book = Book::new(Ns(0));
        book.meter("shop", "green", Role::Live);
        book.close(Ns(1));
        assert_eq!(book.after(0, 10), []);
    }

    #[test]
    fn what_was_offered_is_not_merged_with_what_was_not() {
        let mut book = Book::new(Ns(0));
        let meter = book.meter("shop", "green", Role::Live);
        let close = |book: &mut Book, at| {
            meter.request(Duration::ZERO, false);
            book.close(Ns(at));
        };
        (1..=10).for_each(|at| close(&mut book, at));
        let had = book.after(0, 10);
        (11..=20_000).for_each(|at| close(&mut book, at));
        let rest = book.after(had[9].seq, usize::MAX);
        assert_eq!(totals(&had).requests + totals(&rest).requests, 20_000);
    }

    #[test]
    fn when_nobody_reads_the_book_stays_bounded_and_no_count_is_lost() {
        let mut book = Book::new(Ns(0));
        let live = book.meter("shop", "green", Role::Live);
        let shadow = book.meter("shop", "blue", Role::Shadow);
        let n = 30_000;
        for at in 1..=n {
            live.request(Duration::from_millis(3), at % 7 == 0);
            shadow.comparison(at % 5 == 0);
            book.close(Ns(at));
            assert!(book.kept.len() <= N_KEPT_MAX + 2);
        }
        let all = book.after(0, usize::MAX);
        let sum = totals(&all);
        assert_eq!((sum.requests, sum.errors, sum.buckets[2]), (n, n / 7, n));
        assert_eq!((sum.compared, sum.differ), (n, n / 5));
        assert!(all.is_sorted_by(|one, next| one.seq < next.seq));
        assert_eq!(all[0].from_ns, 0);
    }
}
