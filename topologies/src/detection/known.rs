//! The samples of a sealed range, shard by shard, some thousands at a time.
//!
//! A million series are many times what a processor's cache holds, and a range touches a tenth of
//! them. In the order of the records each sample waits for memory, and writing back whole shards
//! costs more than all else. Here the samples are put in order of shard first, so that memory is
//! asked for many lines at once, and each line is changed where it lies.
//!
//! It comes to the same state as going by record: series are independent of each other, and the
//! samples of each stay in their order. Only a series that is new or has to be classified is not:
//! from the records on that bring it, its shard is left to the other way.
//!
//! Where a series stood last is noted beside its dictionary entry and comes again with it. It
//! stands there still, unless its shard was inserted into; its hash says so.

use std::cell::Cell;

use schemas::Ns;
use schemas::telemetry::{Columns, Entries, Samples};

use super::generic::SeriesState;
use super::shard::{SHARDS, Shard, shard_key, shard_of};
use crate::fold::{Line, Lines, View};

/// How much of a range is put in order at a time.
struct Portion {
    /// Samples.
    rows: usize,
    /// Where more lines than this are read for each sample to find places, the rest of the range
    /// is. It takes memory, which few series are not worth.
    read_few: usize,
}

/// In order these are a quarter of a megabyte, which a second-level cache holds beside the lines
/// that they change.
const PORTION: Portion = Portion { rows: 8000, read_few: 8 };

/// Where one in so many series of a shard is looked up, all are read from end to end before:
/// memory hands out sixty lines in a row in the time that it takes to fetch one by itself, and
/// there are several to fetch for each that is looked up.
const SCAN_EACH: usize = 64;

/// What is left to do by record.
pub(super) struct Left {
    /// Of each shard, the record from which on it has not been touched.
    pub(super) from: [usize; SHARDS],
    /// Of every dictionary entry, whether it counts for a service's health.
    pub(super) is_health: Vec<bool>,
}

impl Left {
    /// Nothing, of as many dictionary entries.
    fn nothing(n_entries: usize) -> Self {
        Left { from: [usize::MAX; SHARDS], is_health: vec![false; n_entries] }
    }

    /// Everything.
    #[cfg(test)]
    pub(super) fn all(n_entries: usize) -> Self {
        Left { from: [0; SHARDS], is_health: vec![false; n_entries] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from.iter().all(|it| *it == usize::MAX)
    }
}

/// Learns what can be learnt by shard.
pub(super) fn learn(view: &mut View<'_>, samples: &Samples<'_>, generation: u32) -> Left {
    learn_by(&PORTION, view, samples, generation)
}

fn learn_by(
    portion: &Portion,
    view: &mut View<'_>,
    samples: &Samples<'_>,
    generation: u32,
) -> Left {
    let Entries { hashes, hints, .. } = samples.entries();
    let mut left = Left::nothing(hashes.len());
    let mut range =
        Range { generation, places: hints, column: Vec::new(), sought: Vec::new(), n_read: 0 };
    let mut ordered = ORDERED.take();
    let shards = shards_of(hashes);
    let keys: Vec<_> = shards.iter().map(|it| shard_key(*it)).collect();
    let keys: Vec<&[u8]> = keys.iter().map(|it| &it[..]).collect();
    view.edit_raw(&keys, &mut |lines| {
        let mut records = samples.records().enumerate().peekable();
        let mut at_once = portion.rows;
        while let Some((first, _)) = records.peek() {
            let first = *first;
            ordered.clear();
            while let Some((_, it)) = records.next_if(|_| ordered.rows.came.len() < at_once) {
                ordered.add(&it, hints);
            }
            ordered.sort();
            for (value, shard) in shards.iter().enumerate() {
                if left.from[*shard] == usize::MAX
                    && !range.learn(lines, value, ordered.of_shard(*shard), &mut left.is_health)
                {
                    left.from[*shard] = first;
                }
            }
            if std::mem::take(&mut range.n_read) > ordered.rows.came.len() * portion.read_few {
                // Places have moved: a shard that is read from end to end serves all that follow.
                at_once = usize::MAX;
            }
        }
    });
    ORDERED.set(ordered);
    left
}

/// The shards of these hashes, in order.
fn shards_of(hashes: &[u64]) -> Vec<usize> {
    let mut are_there = [false; SHARDS];
    hashes.iter().for_each(|it| are_there[shard_of(*it)] = true);
    (0..SHARDS).filter(|it| are_there[*it]).collect()
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

/// Records in order of shard.
#[derive(Default)]
struct Ordered {
    rows: ByShard,
    /// Dictionary entries of the records that do not have one sample of each, in its order, as a
    /// scrape has.
    entries: ByShard,
}

impl Ordered {
    fn clear(&mut self) {
        self.rows.came.clear();
        self.entries.came.clear();
    }

    fn add(&mut self, columns: &Columns<'_, '_>, hints: &[Cell<u32>]) {
        let Columns { hashes, first, series_idx, ts_ns, value, .. } = *columns;
        let item = |index: usize| {
            let entry = first + index;
            let (hash, hint) = (hashes[index], hints[entry].get());
            Item { hash, entry: entry as u32, hint, ..Item::default() }
        };
        let rows = series_idx.iter().zip(ts_ns).zip(value);
        let row = |((index, at), value): ((&u32, &u64), &f64)| Item {
            at: Ns(*at),
            value: *value,
            ..item(*index as usize)
        };
        self.rows.came.extend(rows.map(row));
        if !(0..hashes.len() as u32).eq(series_idx.iter().copied()) {
            self.entries.came.extend((0..hashes.len()).map(item));
        }
    }

    fn sort(&mut self) {
        self.rows.sort();
        self.entries.sort();
    }

    /// Rows and entries of a shard.
    fn of_shard(&self, shard: usize) -> [&[Item]; 2] {
        [self.rows.of_shard(shard), self.entries.of_shard(shard)]
    }
}

/// Items in order of their shard, and in their own order within it. They are copied: fetched from
/// where they lie when it is their turn, each would be waited for.
struct ByShard {
    came: Vec<Item>,
    items: Vec<Item>,
    /// Where each shard's begin, and where the last one's end.
    starts: [u32; SHARDS + 1],
}

impl Default for ByShard {
    fn default() -> Self {
        ByShard { came: Vec::new(), items: Vec::new(), starts: [0; SHARDS + 1] }
    }
}

impl ByShard {
    fn sort(&mut self) {
        let mut starts = [0; SHARDS + 1];
        self.came.iter().for_each(|it| starts[shard_of(it.hash) + 1] += 1);
        (0..SHARDS).for_each(|it| starts[it + 1] += starts[it]);
        self.starts = starts;
        // What is behind the last one's end is of earlier records.
        self.items.resize(self.came.len().max(self.items.len()), Item::default());
        for item in &self.came {
            let place = &mut starts[shard_of(item.hash)];
            self.items[*place as usize] = *item;
            *place += 1;
        }
    }

    fn of_shard(&self, shard: usize) -> &[Item] {
        &self.items[self.starts[shard] as usize..self.starts[shard + 1] as usize]
    }
}

struct Range<'a> {
    generation: u32,
    /// Where each dictionary entry stands in its shard: where it stood last, until it is found.
    places: &'a [Cell<u32>],
    /// The hashes of the shard at hand.
    column: Vec<u64>,
    /// Those of its items that stand elsewhere than before.
    sought: Vec<Item>,
    /// Lines that were read to find them, or as many as would be read in the time that it took.
    n_read: usize,
}

/// Whether all stand where they stood last. Nothing in this loop waits for what was looked up
/// before, so memory fetches as many at once as it can; the less it does, the more.
fn all_stand(shard: &[Line], items: &[Item]) -> bool {
    let Some(last) = shard.len().checked_sub(1) else { return items.is_empty() };
    items.iter().fold(true, |all, it| {
        let at = it.hint as usize;
        let hash = shard[at.min(last)].first_chunk().copied().unwrap_or_default();
        all & (at <= last) & (u64::from_le_bytes(hash) == it.hash)
    })
}

impl Range<'_> {
    /// Learns the samples of the shard that is the value with this number, if all that the records
    /// bring of it is there and classified; whether it is.
    fn learn(
        &mut self,
        lines: &mut Lines<'_, '_>,
        value: usize,
        [rows, entries]: [&[Item]; 2],
        is_health: &mut [bool],
    ) -> bool {
        let shard = lines.of(value);
        let all_stand = all_stand(shard, rows) && all_stand(shard, entries);
        let (shard, mut items) = (Shard(shard.as_flattened()), rows.iter().chain(entries));
        let are_known = match all_stand {
            true => items.all(|it| self.is_classified(&shard, it.hint as usize)),
            false => self.seek(&shard, items),
        };
        if !are_known {
            return false;
        }
        for row in rows {
            let at = if all_stand { row.hint } else { self.places[row.entry as usize].get() };
            let record = lines.line_mut(value, at as usize);
            let mut state = SeriesState::read(record);
            state.learn(row.value, row.at);
            state.write(record);
            if state.counts_for_health() {
                is_health[row.entry as usize] = true;
            }
        }
        true
    }

    /// Looks items up, not all of which stand where they stood last; whether all are there and
    /// classified.
    fn seek<'i>(&mut self, shard: &Shard<&[u8]>, items: impl Iterator<Item = &'i Item>) -> bool {
        self.sought.clear();
        for item in items {
            match shard.stands_at(item.hint as usize, item.hash) {
                Some(at) if self.is_classified(shard, at) => {}
                Some(_) => return false,
                None => self.sought.push(*item),
            }
        }
        let is_dense = self.sought.len() * SCAN_EACH >= shard.len();
        if is_dense {
            shard.column(&mut self.column);
            self.n_read += shard.len();
        } else {
            self.n_read += self.sought.len() * SCAN_EACH;
        }
        self.sought.iter().all(|item| {
            let Item { hash, entry, .. } = item;
            let found = if is_dense { self.column.binary_search(hash) } else { shard.find(*hash) };
            let Ok(at) = found else { return false };
            self.places[*entry as usize].set(at as u32);
            self.is_classified(shard, at)
        })
    }

    #[inline]
    fn is_classified(&self, shard: &Shard<&[u8]>, at: usize) -> bool {
        SeriesState::generation_of(shard.record(at)) == self.generation
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use schemas::event::{Series, TelemetrySample};
    use schemas::telemetry::series_hash;
    use schemas::{Event, Kind};

    use super::*;
    use crate::config::Service;
    use crate::detection::PROCESSOR;
    use crate::detection::generic::{classify_anew, fold_left, generation};
    use crate::detection::shard::RECORD;
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

    /// The same record without the samples of its first series.
    fn without_first(record: &[u8]) -> Vec<u8> {
        let Event::TelemetrySample(mut it) = Event::decode(Kind::TelemetrySample, record).unwrap()
        else {
            panic!("no telemetry");
        };
        let kept: Vec<usize> = (0..it.value.len()).filter(|n| it.series_idx[*n] != 0).collect();
        it.series_idx = kept.iter().map(|n| it.series_idx[*n]).collect();
        it.ts_ns = kept.iter().map(|n| it.ts_ns[*n]).collect();
        it.value = kept.iter().map(|n| it.value[*n]).collect();
        Event::from(it).encode().unwrap()
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
        let again = records(1, 4000, 20_000, 1);
        // Of one shard many that are new; of others, thousands of samples later.
        let of_one = vec![record(&of_shard(7, 30_000, 100), 1)];
        let later = records(8, 4000, 20_300, 1);
        let new_later = [of_one, vec![again.clone(); 3].concat(), later, again.clone()].concat();
        // The first of this counts for a service's health, and is of the shard that is left later.
        let counts = record(&[100, 101, 102], 1);
        let shard = shard_of(series_hash(&schemas::avro::to_bytes(&name(100)).unwrap()));
        let new = record(&of_shard(shard, 40_000, 1), 1);
        let last = vec![without_first(&counts), new];
        let silent = [vec![counts], vec![again; 3].concat(), last].concat();
        let seals = [
            ("all are new", all.chunks(100).map(|it| record(it, 1)).collect(), 256),
            ("few samples", records(1, 4000, 20_000, 1), 0),
            ("as few of very few", records(2, 100, 20_000, 1), 0),
            ("scrapes that come again", vec![records(1, 4000, 20_000, 1); 3].concat(), 0),
            ("the same again", records(1, 4000, 20_000, 1), 0),
            ("some are new", vec![records(3, 4000, 20_100, 1); 2].concat(), 10),
            ("some are new later", new_later, 10),
            ("one that counts has no sample when its shard is left", silent, 1),
            ("they have moved", records(1, 4000, 20_000, 1), 0),
            ("and are found", records(1, 4000, 20_000, 1), 0),
            ("many samples", records(5, 1000, 500, 40), 0),
            ("classified anew", records(4, 4000, 20_000, 1), 256),
        ];
        check_by_shard_and_by_record(&PORTION, &seals);
        // So small that the rest of a range follows as soon as places have moved.
        check_by_shard_and_by_record(&Portion { rows: 500, read_few: 1 }, &seals);
    }

    /// Folds each of these in both ways; the number is of shards that are left to the second, at
    /// least.
    fn check_by_shard_and_by_record(portion: &Portion, seals: &[(&str, Vec<Vec<u8>>, usize)]) {
        let (mut one, mut other, mut n_points) = (bench(), bench(), 0);
        let mut samples = Samples::default();
        for (what, records, n_left) in seals {
            let n_left = *n_left;
            samples = samples.recycle();
            records.iter().for_each(|it| samples.read(it).unwrap());
            if *what == "classified anew" {
                for it in [&mut one, &mut other] {
                    classify_anew(&mut it.view(PROCESSOR.name));
                }
            }
            let generation = generation(&one.view(PROCESSOR.name));
            let left = learn_by(portion, &mut one.view(PROCESSOR.name), &samples, generation);
            let n = left.from.iter().filter(|it| **it < usize::MAX).count();
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

    /// The first `n` series from the one with this number on that are of one shard.
    fn of_shard(shard: usize, from: u64, n: usize) -> Vec<u64> {
        let is_there = |it: &u64| {
            let bytes = schemas::avro::to_bytes(&name(*it)).unwrap();
            shard_of(series_hash(&bytes)) == shard
        };
        (from..).filter(is_there).take(n).collect()
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
        let one_shard = of_shard(7, 0, 4200);
        let n = learn_all(&one_shard[..4090]);
        let full = learn_all(&one_shard[4000..4200]);
        assert!((n..n + 110).contains(&full), "a shard that gets full keeps {full} of {n} + 110");
    }
}
