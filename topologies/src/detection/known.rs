//! The samples of a sealed range when there are many series, shard by shard.
//!
//! A million series are many times what a processor's cache holds, and a range touches a tenth of
//! them. In the order of the records each sample waits for memory, and writing back whole shards
//! costs more than all else. Here the samples are put in order of shard first, so that memory is
//! asked for many lines at once, and of a shard of which little changes only that is changed.
//!
//! It comes to the same state as going by record: series are independent of each other, and the
//! samples of each stay in their order. Only a series that is new or has to be classified is not:
//! its shard is left to the other way.
//!
//! Where a series stood last is noted beside its dictionary entry and comes again with it. It
//! stands there still, unless its shard was inserted into; its hash says so.

use std::cell::Cell;

use schemas::Ns;
use schemas::telemetry::{Entries, Samples};

use super::generic::SeriesState;
use super::shard::{RECORD, SHARDS, Shard, shard_key, shard_of};
use crate::fold::View;

/// Series of a shard from which on this pays: all together are more than a second-level cache.
const SPREAD: usize = 64;

/// Where one in so many series of a shard is looked up, all are read from end to end before:
/// memory hands out sixty lines in a row in the time that it takes to fetch one by itself, and
/// there are several to fetch for each that is looked up.
const SCAN_EACH: usize = 64;

/// What is left to do by record.
pub(super) struct Left {
    /// Shards that have not been touched.
    pub(super) shards: [bool; SHARDS],
    /// Of every dictionary entry, whether it counts for a service's health.
    pub(super) is_health: Vec<bool>,
}

/// Learns what can be learnt by shard.
pub(super) fn learn(view: &mut View<'_>, samples: &Samples<'_>, generation: u32) -> Left {
    let Entries { hashes, hints, .. } = samples.entries();
    let mut left = Left::all(hashes.len());
    if !is_spread(view, hashes) {
        return left;
    }
    let mut ordered = ORDERED.take();
    let (entries, rows) = ordered.order(samples);
    let mut range = Range { generation, places: hints, column: Vec::new(), sought: Vec::new() };
    let mut places = Vec::new();
    for shard in 0..SHARDS {
        let (entries, rows) = (entries.of_shard(shard), rows.of_shard(shard));
        let (key, mut found) = (shard_key(shard), None);
        view.look_raw(&key, &mut |records| {
            found = range.find(&Shard(records), entries, &mut left.is_health);
        });
        left.shards[shard] = found.is_none() && !entries.is_empty();
        let Some(found) = found.filter(|_| !rows.is_empty()) else { continue };
        places.clear();
        places.extend(rows.iter().map(|it| match found {
            Found::WhereTheyStood => it.hint,
            Found::Elsewhere => hints[it.entry as usize].get(),
        }));
        view.change_raw(&key, &places, &mut |row, record| {
            let mut state = SeriesState::read(record);
            state.learn(rows[row].value, rows[row].at);
            state.write(record);
        });
    }
    ORDERED.set(ordered);
    left
}

/// Whether there are many series: the shard of the first is a large one, and they are about
/// equally large.
fn is_spread(view: &View<'_>, hashes: &[u64]) -> bool {
    let Some(first) = hashes.first() else { return false };
    let mut n = 0;
    let key = shard_key(shard_of(*first));
    view.look_raw(&key, &mut |records| n = Shard(records).len());
    n >= SPREAD
}

/// The dictionary entry of every sample; `None` where each entry has one sample, in its order, as
/// a scrape does.
fn entries(samples: &Samples<'_>) -> Option<Vec<u32>> {
    let mut entry_of = Vec::with_capacity(samples.len());
    for columns in samples.records() {
        let first = columns.first as u32;
        entry_of.extend(columns.series_idx.iter().map(|it| first + it));
    }
    let n_entries = samples.entries().hashes.len() as u32;
    let are_in_order = (0..n_entries).eq(entry_of.iter().copied());
    (!are_in_order).then_some(entry_of)
}

/// Whether all stand where they stood last. Nothing in this loop waits for what was looked up
/// before, so memory fetches as many at once as it can; the less it does, the more.
fn all_stand(shard: &Shard<&[u8]>, entries: &[Item]) -> bool {
    let (records, _) = shard.0.as_chunks::<RECORD>();
    let Some(last) = records.len().checked_sub(1) else { return entries.is_empty() };
    entries.iter().fold(true, |all, it| {
        let at = it.hint as usize;
        let hash = records[at.min(last)].first_chunk().copied().unwrap_or_default();
        all & (at <= last) & (u64::from_le_bytes(hash) == it.hash)
    })
}

/// A dictionary entry, or a sample with the entry that it belongs to.
#[derive(Clone, Copy, Default)]
struct Item {
    hash: u64,
    entry: u32,
    /// Where it stood last.
    hint: u32,
    at: Ns,
    value: f64,
}

thread_local! {
    /// Memory of the last range, for the next one: memory that is new has to be cleared.
    static ORDERED: Cell<Ordered> = Cell::default();
}

/// A range in order of shard.
#[derive(Default)]
struct Ordered {
    entries: ByShard,
    rows: ByShard,
}

impl Ordered {
    /// The dictionary entries and the samples of a range; they are the same where each entry has
    /// one sample, in its order, as in a scrape.
    fn order(&mut self, samples: &Samples<'_>) -> (&ByShard, &ByShard) {
        let Entries { hashes, hints, .. } = samples.entries();
        let (ts_ns, value) = (samples.ts_ns(), samples.value());
        let entry = |it: usize| {
            let (hash, hint) = (hashes[it], hints[it].get());
            Item { hash, entry: it as u32, hint, ..Item::default() }
        };
        let row = |it: usize, of: usize| Item { at: Ns(ts_ns[it]), value: value[it], ..entry(of) };
        match entries(samples) {
            Some(of) => {
                self.entries.fill(hashes.len(), entry);
                self.rows.fill(of.len(), |it| row(it, of[it] as usize));
                (&self.entries, &self.rows)
            }
            None => {
                self.rows.fill(hashes.len(), |it| row(it, it));
                (&self.rows, &self.rows)
            }
        }
    }
}

/// Items in order of their shard, and in their own order within it. They are copied: fetched from
/// where they lie when it is their turn, each would be waited for.
struct ByShard {
    items: Vec<Item>,
    /// Where each shard's begin, and where the last one's end.
    starts: [u32; SHARDS + 1],
}

impl Default for ByShard {
    fn default() -> Self {
        ByShard { items: Vec::new(), starts: [0; SHARDS + 1] }
    }
}

impl ByShard {
    fn fill(&mut self, n: usize, item: impl Fn(usize) -> Item) {
        let mut starts = [0; SHARDS + 1];
        (0..n).for_each(|it| starts[shard_of(item(it).hash) + 1] += 1);
        (0..SHARDS).for_each(|it| starts[it + 1] += starts[it]);
        self.starts = starts;
        // What is behind the last one's end is of an earlier range.
        self.items.resize(n.max(self.items.len()), Item::default());
        let next = &mut starts;
        for it in 0..n {
            let item = item(it);
            let place = &mut next[shard_of(item.hash)];
            self.items[*place as usize] = item;
            *place += 1;
        }
    }

    fn of_shard(&self, shard: usize) -> &[Item] {
        &self.items[self.starts[shard] as usize..self.starts[shard + 1] as usize]
    }
}

/// Where the entries of a shard are, all of them classified.
#[derive(Clone, Copy)]
enum Found {
    WhereTheyStood,
    Elsewhere,
}

struct Range<'a> {
    generation: u32,
    /// Where each dictionary entry stands in its shard: where it stood last, until it is found.
    places: &'a [Cell<u32>],
    /// The hashes of the shard at hand.
    column: Vec<u64>,
    /// Those of its entries that stand elsewhere than before.
    sought: Vec<Item>,
}

impl Left {
    /// Everything, of as many dictionary entries.
    pub(super) fn all(n_entries: usize) -> Self {
        Left { shards: [true; SHARDS], is_health: vec![false; n_entries] }
    }
}

impl Range<'_> {
    /// Looks up the shard's entries; `None` where not all are there and classified.
    fn find(
        &mut self,
        shard: &Shard<&[u8]>,
        entries: &[Item],
        is_health: &mut [bool],
    ) -> Option<Found> {
        let found = match all_stand(shard, entries) {
            true => entries
                .iter()
                .all(|item| self.is_known(shard, item.hint as usize, item, is_health))
                .then_some(Found::WhereTheyStood),
            false => self.seek(shard, entries, is_health).then_some(Found::Elsewhere),
        };
        if found.is_none() {
            entries.iter().for_each(|it| is_health[it.entry as usize] = false);
        }
        found
    }

    /// Whether all are there and classified, though not all stand where they stood last.
    fn seek(&mut self, shard: &Shard<&[u8]>, entries: &[Item], is_health: &mut [bool]) -> bool {
        self.sought.clear();
        for item in entries {
            match shard.stands_at(item.hint as usize, item.hash) {
                Some(at) if self.is_known(shard, at, item, is_health) => {}
                Some(_) => return false,
                None => self.sought.push(*item),
            }
        }
        let is_dense = self.sought.len() * SCAN_EACH >= shard.len();
        if is_dense {
            shard.column(&mut self.column);
        }
        self.sought.iter().all(|item| {
            let Item { hash, entry, .. } = item;
            let found = if is_dense { self.column.binary_search(hash) } else { shard.find(*hash) };
            let Ok(at) = found else { return false };
            self.places[*entry as usize].set(at as u32);
            self.is_known(shard, at, item, is_health)
        })
    }

    /// Whether the series at `at` is classified, noting if it counts for a service's health.
    #[inline]
    fn is_known(
        &self,
        shard: &Shard<&[u8]>,
        at: usize,
        item: &Item,
        is_health: &mut [bool],
    ) -> bool {
        let (class, generation) = SeriesState::head(shard.record(at));
        if class {
            is_health[item.entry as usize] = true;
        }
        generation == self.generation
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use schemas::Event;
    use schemas::event::{Series, TelemetrySample};

    use super::*;
    use crate::config::Service;
    use crate::detection::PROCESSOR;
    use crate::detection::generic::{classify_anew, fold_left, generation};
    use crate::fold::Store as _;
    use crate::testing::{Bench, series};

    /// A repeatable number.
    fn chance(n: u64) -> u64 {
        (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ n >> 7).wrapping_mul(0x94D0_49BB_1331_11EB) >> 20
    }

    fn name(n: u64) -> Series {
        match n % 100 {
            0 => series("api", "probe", &[("slot", &n.to_string())]),
            1 => series("stranger", "probe", &[("slot", &n.to_string())]),
            _ => series("api", &format!("key-{n}"), &[]),
        }
    }

    /// A record of these series, each seventh of them twice in the dictionary, with `n_points` of
    /// each: the second of a pair comes before the first's last.
    fn record(of: &[u64], n_points: u64) -> Vec<u8> {
        let twice = of.iter().step_by(7);
        let of: Vec<u64> = of.iter().chain(twice).copied().collect();
        let rows = (0..n_points).flat_map(|_| 0..of.len() as u64);
        let series_idx: Vec<u32> = rows.map(|it| it as u32).collect();
        let n = series_idx.len() as u64;
        let value = |it: u64| if it % 50 == 3 { f64::NAN } else { chance(it) as f64 };
        let sample = TelemetrySample {
            source: "test".to_owned(),
            exporter: String::new(),
            series: of.iter().map(|it| name(*it)).collect(),
            series_idx,
            ts_ns: (0..n).map(|it| chance(of[0] + it)).collect(),
            value: (0..n).map(|it| value(of[0] + it)).collect(),
            snapshot: None,
        };
        Event::from(sample).encode().unwrap()
    }

    /// Records of `n` series below `below`, `n_points` of each.
    fn records(seed: u64, n: u64, below: u64, n_points: u64) -> Vec<Vec<u8>> {
        let of: Vec<u64> = (0..n).map(|it| chance(seed * 7919 + it) % below).collect();
        of.chunks(100).map(|it| record(it, n_points)).collect()
    }

    fn bench() -> Bench {
        let mut bench = Bench::new(&[crate::config::PROCESSOR, PROCESSOR]);
        let service = Service { name: "api".to_owned(), ..Service::default() };
        bench.activate("service/api", &service);
        bench
    }

    #[test]
    fn by_shard_and_by_record_come_to_the_same_state() {
        let all: Vec<u64> = (0..20_000).collect();
        let seals = [
            ("all are new", all.chunks(100).map(|it| record(it, 1)).collect(), 256),
            ("few samples", records(1, 4000, 20_000, 1), 0),
            ("as few of very few", records(2, 100, 20_000, 1), 0),
            ("scrapes that come again", vec![records(1, 4000, 20_000, 1); 3].concat(), 0),
            ("the same again", records(1, 4000, 20_000, 1), 0),
            ("some are new", vec![records(3, 4000, 20_100, 1); 2].concat(), 10),
            ("they have moved", records(1, 4000, 20_000, 1), 0),
            ("and are found", records(1, 4000, 20_000, 1), 0),
            ("many samples", records(5, 1000, 500, 40), 0),
            ("classified anew", records(4, 4000, 20_000, 1), 256),
        ];
        let (mut one, mut other, mut n_points) = (bench(), bench(), 0);
        let mut samples = Samples::default();
        for (what, records, n_left) in &seals {
            let n_left = *n_left;
            samples = samples.recycle();
            records.iter().for_each(|it| samples.read(it).unwrap());
            if *what == "classified anew" {
                for it in [&mut one, &mut other] {
                    classify_anew(&mut it.view(PROCESSOR.name));
                }
            }
            let generation = generation(&one.view(PROCESSOR.name));
            let left = learn(&mut one.view(PROCESSOR.name), &samples, generation);
            let n = left.shards.iter().filter(|it| **it).count();
            assert!(n >= n_left && (n == 0) == (n_left == 0), "{what}: {n} shards are left");
            let by_shard = fold_left(&mut one.view(PROCESSOR.name), &samples, left);
            let left = Left::all(samples.entries().hashes.len());
            let by_record = fold_left(&mut other.view(PROCESSOR.name), &samples, left);
            assert_eq!(format!("{by_shard:?}"), format!("{by_record:?}"), "{what}");
            n_points += by_shard.values().map(Vec::len).sum::<usize>();
            assert!(one.store().scan(b"detection/") == other.store().scan(b"detection/"), "{what}");
        }
        assert!(n_points > 100, "{n_points} samples count for a service's health");
    }

    /// The first `n` series of one shard.
    fn of_shard(shard: usize, n: usize) -> Vec<u64> {
        let is_there = |it: &u64| {
            let bytes = schemas::avro::to_bytes(&name(*it)).unwrap();
            shard_of(schemas::telemetry::series_hash(&bytes)) == shard
        };
        (0..).filter(is_there).take(n).collect()
    }

    #[test]
    fn new_series_come_to_the_same_state_together_and_one_by_one() {
        let (mut together, mut singly) = (bench(), bench());
        let mut learn_all = |of: &[u64]| {
            let records: Vec<Vec<u8>> = of.chunks(20).map(|it| record(it, 2)).collect();
            let ranges = [vec![&records[..]], records.chunks(1).collect()];
            for (bench, ranges) in [&mut together, &mut singly].into_iter().zip(ranges) {
                for range in ranges {
                    let mut samples = Samples::default();
                    range.iter().for_each(|it| samples.read(it).unwrap());
                    let left = Left::all(samples.entries().hashes.len());
                    fold_left(&mut bench.view(PROCESSOR.name), &samples, left);
                }
            }
            let all = together.store().scan(b"detection/");
            assert!(all == singly.store().scan(b"detection/"), "{} series", of.len());
            all.iter().map(|(_, value)| value.len() / RECORD).sum::<usize>()
        };
        let n = learn_all(&(0..3000).collect::<Vec<_>>());
        assert_eq!(n, 3000, "new ones all over");
        assert_eq!(learn_all(&(2000..4000).collect::<Vec<_>>()), 4000, "among known ones");
        let one_shard = of_shard(7, 4200);
        let n = learn_all(&one_shard[..4090]);
        let full = learn_all(&one_shard[4000..4200]);
        assert!((n..n + 110).contains(&full), "a shard that gets full keeps {full} of {n} + 110");
    }
}
