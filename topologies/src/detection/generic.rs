//! Every sample's first stop: a baseline for each series, at a few dozen nanoseconds a sample.
//!
//! A series is known by the hash of its encoded identity. Its state is 64 bytes of fixed layout
//! in one of 256 shards, so a seal of ten thousand series reads and writes 256 values and not ten
//! thousand. The identity itself is decoded once, when the series is first seen (and again after
//! services were registered): what it means for a service's health is a byte in its state.
//! Series that mean nothing to a service are learnt and watched; they never raise an alarm, for
//! a new series has no past to be held against and most have no objective.

use std::collections::{BTreeMap, BTreeSet};

use schemas::Ns;
use schemas::event::Series;
use schemas::telemetry::{self, Columns, Entries, Samples, series_hash};

use super::known::{self, Left};
use super::points::{Meaning, Point};
use super::shard::{SHARDS, Shard, shard_key, shard_of};
use crate::config;
use crate::fold::View;
use crate::stats::Baseline;

/// Deviations beyond which a sample is unusual, and how many in a row make the series so.
const UNUSUAL: f64 = 6.0;
const UNUSUAL_RUN: u8 = 3;
const GENERATION_KEY: &[u8] = b"generation";
/// Not registered with a service's health.
const WATCHED: u8 = 0;
/// Counts for a registered service's health.
const HEALTH: u8 = 1;

/// What is kept of one series.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct SeriesState {
    class: u8,
    run: u8,
    generation: u32,
    /// Its baseline.
    pub baseline: Baseline,
    /// Its newest value.
    pub last: f64,
    /// When that was measured.
    pub at: Ns,
    /// Since when it has been unusual; zero where it is not.
    pub unusual_since: Ns,
}

impl SeriesState {
    /// How many of the newest values in a row lie far out; no more than 255 are counted.
    pub fn run(&self) -> u8 {
        self.run
    }

    /// Whether the newest values lie far outside what it usually shows.
    pub fn is_unusual(&self) -> bool {
        self.run >= UNUSUAL_RUN
    }

    #[inline]
    pub(super) fn learn(&mut self, value: f64, at: Ns) {
        if !value.is_finite() {
            return;
        }
        let is_far = self.baseline.learn(value).is_some_and(|score| score > UNUSUAL);
        self.run = if is_far { self.run.saturating_add(1) } else { 0 };
        if self.run == UNUSUAL_RUN {
            self.unusual_since = at;
        } else if self.run == 0 {
            self.unusual_since = Ns(0);
        }
        self.last = value;
        self.at = self.at.max(at);
    }

    /// Of a record: since which registry it is known what the series means.
    #[inline]
    pub(super) fn generation_of(record: &[u8]) -> u32 {
        let mut generation = [0; 4];
        generation.copy_from_slice(&record[12..16]);
        u32::from_le_bytes(generation)
    }

    #[inline]
    pub(super) fn counts_for_health(&self) -> bool {
        self.class == HEALTH
    }

    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let head = word(8);
        SeriesState {
            class: head as u8,
            run: (head >> 8) as u8,
            generation: (head >> 32) as u32,
            baseline: Baseline {
                n: word(16) as u32,
                mean: f64::from_bits(word(24)),
                variance: f64::from_bits(word(32)),
            },
            last: f64::from_bits(word(40)),
            at: Ns(word(48)),
            unusual_since: Ns(word(56)),
        }
    }

    /// Writes it into its record, behind the hash.
    #[inline]
    pub(super) fn write(&self, record: &mut [u8]) {
        let head =
            u64::from(self.class) | u64::from(self.run) << 8 | u64::from(self.generation) << 32;
        let Baseline { n, mean, variance } = self.baseline;
        let words = [
            head,
            u64::from(n),
            mean.to_bits(),
            variance.to_bits(),
            self.last.to_bits(),
            self.at.0,
            self.unusual_since.0,
        ];
        for (place, word) in record[8..].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Series of a range that are inserted one by one; each moves half of its shard. When there are
/// more, all that are new are inserted shard by shard.
const ONE_BY_ONE_MAX: u32 = 64;

/// The shards that a seal touches, read once and written once.
struct Shards<'v, 'a> {
    view: &'v mut View<'a>,
    entries: &'v Entries<'v>,
    loaded: Vec<Option<Shard<Vec<u8>>>>,
    generation: u32,
    /// Of each shard, the record from which on it has not been learnt already.
    left: [usize; SHARDS],
    /// The records at which shards join, those to come.
    joins: BTreeSet<usize>,
    /// The record at hand.
    record: usize,
    /// At a dictionary's first entry: which state of all places it was when its own were found,
    /// counted from one. A series that is inserted moves others, and those of a shard that joins
    /// have not been looked for.
    placed: Vec<u32>,
    placings: u32,
    insertions: u32,
}

/// The hint of a series that is not kept. That of any other says where it stands in its shard, once
/// its dictionary is placed.
const NOWHERE: u32 = u32::MAX;

impl Shards<'_, '_> {
    #[inline]
    fn is_left(&self, shard: usize) -> bool {
        self.left[shard] <= self.record
    }

    fn shard(&mut self, index: usize) -> &mut Shard<Vec<u8>> {
        let view = &self.view;
        self.loaded[index]
            .get_or_insert_with(|| Shard(view.load_raw(&shard_key(index)).unwrap_or_default()))
    }

    /// Where a series stands in its shard, which may be where it stood last.
    #[inline]
    fn find(&mut self, hash: u64, last: u32) -> Option<usize> {
        let shard = self.shard(shard_of(hash));
        shard.stands_at(last as usize, hash).or_else(|| shard.find(hash).ok())
    }

    /// Finds the places of a record's dictionary. One that comes again is where it was, unless a
    /// series was inserted since; in the steady state none is.
    fn place(&mut self, columns: &Columns<'_, '_>) {
        let Columns { series, first, .. } = *columns;
        // A single entry is looked up as fast as its last place would be.
        let is_kept = series.len() > 1;
        if series.is_empty() || is_kept && self.placed[first] == self.placings {
            return;
        }
        let are_all_there = is_kept && self.all_stand(columns) || self.find_all(columns);
        if is_kept {
            // A full shard may take by the next record's time what it refused by this one's.
            self.placed[first] = if are_all_there { self.placings } else { 0 };
        }
    }

    /// Whether all are classified and where they stood last. Nothing in this loop waits for what
    /// was looked up before, so memory fetches as many at once as it can.
    fn all_stand(&self, columns: &Columns<'_, '_>) -> bool {
        let stands = |hash: &u64, at: usize| {
            let shard = shard_of(*hash);
            let stands = self.loaded[shard].as_ref().is_some_and(|it| {
                it.stands_at(at, *hash)
                    .is_some_and(|at| SeriesState::generation_of(it.record(at)) == self.generation)
            });
            stands || !self.is_left(shard)
        };
        let places = &self.entries.hints[columns.first..];
        columns.hashes.iter().zip(places).all(|(hash, at)| stands(hash, at.get() as usize))
    }

    /// Looks for all, and inserts what is new; whether all are there.
    fn find_all(&mut self, columns: &Columns<'_, '_>) -> bool {
        let newest = Ns(columns.ts_ns.last().copied().unwrap_or(0));
        let before = self.insertions;
        let are_all_there = self.look_up(columns, Some(newest));
        if self.insertions == before { are_all_there } else { self.look_up(columns, None) }
    }

    /// Looks every entry of a dictionary up; whether all are there. What is not is inserted, where
    /// `inserted_at` says the time for that.
    fn look_up(&mut self, columns: &Columns<'_, '_>, inserted_at: Option<Ns>) -> bool {
        let Columns { series, hashes, first, .. } = *columns;
        let (generation, places) = (self.generation, &self.entries.hints);
        let mut are_all_there = true;
        for (place, (bytes, hash)) in places[first..].iter().zip(series.iter().zip(hashes)) {
            if !self.is_left(shard_of(*hash)) {
                continue;
            }
            let found = self.find(*hash, place.get());
            match (found, inserted_at) {
                (Some(at), _) if self.shard(shard_of(*hash)).state(at).generation != generation => {
                    self.classify(*hash, at, bytes);
                }
                (None, Some(now)) => self.insert(*hash, bytes, now),
                _ => {}
            }
            are_all_there &= found.is_some();
            place.set(found.map_or(NOWHERE, |at| at as u32));
        }
        are_all_there
    }

    fn insert(&mut self, hash: u64, bytes: &[u8], now: Ns) {
        self.insertions += 1;
        self.placings += 1;
        if self.insertions == ONE_BY_ONE_MAX {
            self.insert_all();
            if self.shard(shard_of(hash)).find(hash).is_ok() {
                return;
            }
        }
        if let Some(at) = self.shard(shard_of(hash)).insert(hash, now) {
            self.classify(hash, at, bytes);
        }
    }

    /// Inserts all that the range brings and that is new, which comes to the same: a shard that has
    /// room for all forgets none. Others are left to [`Shards::insert`].
    fn insert_all(&mut self) {
        let Entries { series, hashes, .. } = self.entries;
        let mut new: Vec<(u64, usize)> = Vec::new();
        for (entry, hash) in hashes.iter().enumerate() {
            let shard = shard_of(*hash);
            if self.left[shard] < usize::MAX && self.shard(shard).find(*hash).is_err() {
                new.push((*hash, entry));
            }
        }
        // Of series that share a hash, the one that comes first is the one that is decoded.
        new.sort_unstable();
        new.dedup_by_key(|it| it.0);
        for of_shard in new.chunk_by(|a, b| shard_of(a.0) == shard_of(b.0)) {
            if !self.shard(shard_of(of_shard[0].0)).merge(of_shard.iter().map(|it| it.0)) {
                continue;
            }
            for (hash, entry) in of_shard {
                if let Ok(at) = self.shard(shard_of(*hash)).find(*hash) {
                    self.classify(*hash, at, series[*entry]);
                }
            }
        }
    }

    /// Decodes the series and remembers what it means, under today's registry.
    fn classify(&mut self, hash: u64, at: usize, bytes: &[u8]) {
        let is_registered = |it: &Series| config::service(self.view, &it.service).is_some();
        let class = match meaning(bytes) {
            Some((series, _)) if is_registered(&series) => HEALTH,
            _ => WATCHED,
        };
        let generation = self.generation;
        let shard = self.shard(shard_of(hash));
        let state = shard.state(at);
        shard.set(at, &SeriesState { class, generation, ..state });
    }

    /// Learns one record and notes which of its dictionary counts for a service's health.
    fn learn(&mut self, columns: &Columns<'_, '_>, is_health: &mut [bool]) {
        if self.joins.remove(&self.record) {
            self.placings += 1;
        }
        self.place(columns);
        let rows = columns.series_idx.iter().zip(columns.ts_ns).zip(columns.value);
        for ((series, ts), value) in rows {
            let entry = columns.first + *series as usize;
            let at = self.entries.hints[entry].get();
            let shard = shard_of(columns.hashes[*series as usize]);
            if at == NOWHERE || !self.is_left(shard) {
                continue;
            }
            let Some(shard) = &mut self.loaded[shard] else { continue };
            let mut state = shard.state(at as usize);
            state.learn(*value, Ns(*ts));
            shard.set(at as usize, &state);
            is_health[entry] |= state.counts_for_health();
        }
    }

    fn save(self) {
        for (index, shard) in self.loaded.into_iter().enumerate() {
            if let Some(shard) = shard {
                self.view.save_raw(&shard_key(index), shard.0);
            }
        }
    }
}

/// The series and its meaning, when it can count for a service's health.
fn meaning(bytes: &[u8]) -> Option<(Series, Meaning)> {
    let series = telemetry::series(bytes).ok()?;
    let meaning = Meaning::of(&series)?;
    Some((series, meaning))
}

/// Learns every sample of a sealed range and returns those that count for a service's health, by
/// service, in their order.
pub(super) fn fold(view: &mut View<'_>, samples: &Samples<'_>) -> BTreeMap<String, Vec<Point>> {
    let left = known::learn(view, samples, generation(view));
    fold_left(view, samples, left)
}

/// The same for what is left of it.
pub(super) fn fold_left(
    view: &mut View<'_>,
    samples: &Samples<'_>,
    left: Left,
) -> BTreeMap<String, Vec<Point>> {
    let generation = generation(view);
    let is_left = !left.is_empty();
    let Left { from, mut is_health } = left;
    if is_left {
        let entries = samples.entries();
        let mut shards = Shards {
            view,
            loaded: (0..SHARDS).map(|_| None).collect(),
            generation,
            left: from,
            joins: from.into_iter().collect(),
            record: 0,
            placed: vec![0; entries.hashes.len()],
            entries,
            placings: 1,
            insertions: 0,
        };
        for (record, columns) in samples.records().enumerate() {
            shards.record = record;
            shards.learn(&columns, &mut is_health);
        }
        shards.save();
    }
    let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    if is_health.contains(&true) {
        for columns in samples.records() {
            let is_health = &is_health[columns.first..][..columns.series.len()];
            if is_health.contains(&true) {
                collect(&columns, is_health, &mut points);
            }
        }
    }
    points
}

/// Picks the samples of a record that count for a service's health.
fn collect(
    columns: &Columns<'_, '_>,
    is_health: &[bool],
    points: &mut BTreeMap<String, Vec<Point>>,
) {
    let dictionary = columns.series.iter().zip(is_health);
    let meanings: Vec<Option<(Series, Meaning)>> =
        dictionary.map(|(bytes, is_health)| is_health.then(|| meaning(bytes))?).collect();
    let rows = columns.series_idx.iter().zip(columns.ts_ns).zip(columns.value);
    for ((index, ts), value) in rows {
        let Some((series, meaning)) = &meanings[*index as usize] else { continue };
        if !value.is_finite() {
            continue;
        }
        let slot = series.labels.get("slot").cloned().unwrap_or_default();
        let point = Point { meaning: meaning.clone(), slot, at: Ns(*ts), value: *value };
        points.entry(series.service.clone()).or_default().push(point);
    }
}

/// Has every series looked at again: a service was registered or changed.
pub(super) fn classify_anew(view: &mut View<'_>) {
    let next = generation(view).wrapping_add(1);
    view.save_raw(GENERATION_KEY, next.to_le_bytes().to_vec());
}

pub(super) fn generation(view: &View<'_>) -> u32 {
    let bytes = view.load_raw(GENERATION_KEY).and_then(|it| <[u8; 4]>::try_from(it).ok());
    bytes.map_or(0, u32::from_le_bytes)
}

/// What is kept of the series with these encoded bytes; `None` where it was never seen.
pub fn series_state(view: &View<'_>, series: &[u8]) -> Option<SeriesState> {
    let hash = series_hash(series);
    let key = shard_key((hash >> 56) as usize);
    let shard = Shard(view.peek_raw(super::PROCESSOR.name, &key)?);
    shard.find(hash).ok().map(|at| shard.state(at))
}

/// What is kept of every series, by [`series_hash`].
pub fn all_series(view: &View<'_>) -> BTreeMap<u64, SeriesState> {
    let shards = (0..SHARDS).filter_map(|it| view.peek_raw(super::PROCESSOR.name, &shard_key(it)));
    shards
        .flat_map(|bytes| {
            let shard = Shard(bytes);
            let states = (0..shard.len()).map(move |at| (shard.hash(at), shard.state(at)));
            states.collect::<Vec<_>>()
        })
        .collect()
}
