//! Every sample's first stop: a baseline for each series, at a few dozen nanoseconds a sample.
//!
//! A series is known by the hash of its encoded identity. Its state is 64 bytes of fixed layout
//! in one of 256 shards, so a seal of ten thousand series reads and writes 256 values and not ten
//! thousand. The identity itself is decoded once, when the series is first seen (and again after
//! services were registered): what it means for a service's health is a byte in its state.
//! Series that mean nothing to a service are learnt and watched; they never raise an alarm, for
//! a new series has no past to be held against and most have no objective.
//!
//! The hash is not cryptographic. Who sends telemetry can lie about values anyway; two series
//! that share a hash share a baseline and nothing else.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use schemas::Ns;
use schemas::event::Series;
use schemas::telemetry::{self, Columns, Samples};

use super::points::{Meaning, Point};
use crate::config;
use crate::fold::View;
use crate::stats::Baseline;

const SHARDS: usize = 256;
/// Steps from where a series should stand to where it does, before it is searched for.
const STEPS_MAX: usize = 32;
/// Series of a shard; about a million in all, 64 MiB of state. Further ones are not kept.
const SHARD_MAX: usize = 4096;
/// A full shard forgets series that have been silent for so long.
const IDLE: Ns = Ns::from_s(24 * 3600);
/// Bytes of one series' state. Persisted: frozen.
const RECORD: usize = 64;
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
    fn learn(&mut self, value: f64, at: Ns) {
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

    fn read(bytes: &[u8]) -> Self {
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
    fn write(&self, record: &mut [u8]) {
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

/// The series of one shard as they are kept: records in order of hash, read and written in place.
/// A record is one line of the processor's cache, so a sample costs one miss.
#[derive(Default)]
struct Shard(Vec<u8>);

impl Shard {
    fn len(&self) -> usize {
        self.0.len() / RECORD
    }

    fn hash(&self, at: usize) -> u64 {
        let mut hash = [0; 8];
        hash.copy_from_slice(&self.0[at * RECORD..at * RECORD + 8]);
        u64::from_le_bytes(hash)
    }

    fn state(&self, at: usize) -> SeriesState {
        SeriesState::read(&self.0[at * RECORD..(at + 1) * RECORD])
    }

    fn set(&mut self, at: usize, state: &SeriesState) {
        state.write(&mut self.0[at * RECORD..(at + 1) * RECORD]);
    }

    /// Where `hash` stands, or where it would. Hashes are spread evenly, so it is near the share
    /// of the range that it lies at: a step or two from there instead of a search by halves,
    /// which is the way out for names chosen to lie in a heap.
    #[inline]
    fn find(&self, hash: u64) -> Result<usize, usize> {
        let n = self.len();
        // The first byte is the shard's, the same for all.
        let share = u128::from(hash << 8) * n as u128;
        let mut at = (share >> 64) as usize;
        for _ in 0..STEPS_MAX {
            let here = (at < n).then(|| self.hash(at));
            match here {
                Some(here) if here == hash => return Ok(at),
                Some(here) if here < hash => at += 1,
                _ if at > 0 && self.hash(at - 1) >= hash => at -= 1,
                _ => return Err(at),
            }
        }
        self.search(hash)
    }

    fn search(&self, hash: u64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.hash(middle).cmp(&hash) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Adds a series; where it stands, or `None` when the shard is full of live ones.
    fn insert(&mut self, hash: u64, at: Ns) -> Option<usize> {
        if self.len() >= SHARD_MAX {
            let live = |it: &[u8]| at.since(SeriesState::read(it).at) < IDLE;
            self.0 = self.0.chunks_exact(RECORD).filter(|it| live(it)).flatten().copied().collect();
        }
        if self.len() >= SHARD_MAX {
            return None;
        }
        let (Ok(slot) | Err(slot)) = self.find(hash);
        let at = slot * RECORD;
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&hash.to_le_bytes());
        SeriesState::default().write(&mut record);
        self.0.splice(at..at, record);
        Some(slot)
    }
}

/// The shards that a seal touches, read once and written once.
struct Shards<'v, 'a> {
    view: &'v mut View<'a>,
    loaded: Vec<Option<Shard>>,
    generation: u32,
}

/// Where a dictionary entry's state lies; `None` for a series that is not kept.
type Place = Option<(u8, u32)>;

impl Shards<'_, '_> {
    fn shard(&mut self, index: usize) -> &mut Shard {
        let view = &self.view;
        self.loaded[index]
            .get_or_insert_with(|| Shard(view.load_raw(&shard_key(index)).unwrap_or_default()))
    }

    fn state(&mut self, place: (u8, u32)) -> SeriesState {
        self.shard(usize::from(place.0)).state(place.1 as usize)
    }

    fn set(&mut self, place: (u8, u32), state: &SeriesState) {
        self.shard(usize::from(place.0)).set(place.1 as usize, state);
    }

    #[inline]
    fn find(&mut self, hash: u64) -> Place {
        let index = (hash >> 56) as u8;
        let found = self.shard(usize::from(index)).find(hash);
        found.ok().map(|at| (index, at as u32))
    }

    /// The places of a record's dictionary. Inserting moves places, so after an insertion they
    /// are looked up anew; in the steady state nothing is inserted.
    fn places(&mut self, series: &[&[u8]], at: Ns) -> Vec<Place> {
        let hashes: Vec<u64> = series.iter().map(|it| series_hash(it)).collect();
        let mut places = Vec::with_capacity(hashes.len());
        let mut has_inserted = false;
        for (hash, bytes) in hashes.iter().zip(series) {
            match self.find(*hash) {
                Some(place) => {
                    if self.state(place).generation != self.generation {
                        self.classify(place, bytes);
                    }
                    places.push(Some(place));
                }
                None => {
                    has_inserted = true;
                    self.insert(*hash, bytes, at);
                }
            }
        }
        if has_inserted {
            return hashes.iter().map(|it| self.find(*it)).collect();
        }
        places
    }

    fn insert(&mut self, hash: u64, bytes: &[u8], at: Ns) {
        let index = (hash >> 56) as u8;
        if let Some(slot) = self.shard(usize::from(index)).insert(hash, at) {
            self.classify((index, slot as u32), bytes);
        }
    }

    /// Decodes the series and remembers what it means, under today's registry.
    fn classify(&mut self, place: (u8, u32), bytes: &[u8]) {
        let is_registered = |it: &Series| config::service(self.view, &it.service).is_some();
        let class = match meaning(bytes) {
            Some((series, _)) if is_registered(&series) => HEALTH,
            _ => WATCHED,
        };
        let generation = self.generation;
        let state = self.state(place);
        self.set(place, &SeriesState { class, generation, ..state });
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
    let generation = generation(view);
    let loaded = (0..SHARDS).map(|_| None).collect();
    let mut shards = Shards { view, loaded, generation };
    let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for columns in samples.records() {
        let newest = Ns(columns.ts_ns.last().copied().unwrap_or(0));
        let places = shards.places(columns.series, newest);
        let mut has_health = false;
        let rows = columns.series_idx.iter().zip(columns.ts_ns).zip(columns.value);
        for ((series, ts), value) in rows {
            let Some(place) = places[*series as usize] else { continue };
            let mut state = shards.state(place);
            state.learn(*value, Ns(*ts));
            shards.set(place, &state);
            has_health |= state.class == HEALTH;
        }
        if has_health {
            collect(&mut shards, &columns, &places, &mut points);
        }
    }
    shards.save();
    points
}

/// Picks the samples of a record that count for a service's health.
fn collect(
    shards: &mut Shards<'_, '_>,
    columns: &Columns<'_, '_>,
    places: &[Place],
    points: &mut BTreeMap<String, Vec<Point>>,
) {
    let meanings: Vec<Option<(Series, Meaning)>> = columns
        .series
        .iter()
        .zip(places)
        .map(|(bytes, place)| {
            let is_health = shards.state((*place)?).class == HEALTH;
            if is_health { meaning(bytes) } else { None }
        })
        .collect();
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

fn generation(view: &View<'_>) -> u32 {
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

fn shard_key(index: usize) -> [u8; 7] {
    let mut key = *b"series/";
    key[6] = index as u8;
    key
}

/// A 64-bit hash by folded multiplication, eight bytes a step (after wyhash, public domain).
/// Persisted in state: frozen.
#[inline]
pub fn series_hash(bytes: &[u8]) -> u64 {
    const A: u64 = 0xa076_1d64_78bd_642f;
    const B: u64 = 0xe703_7ed1_a0b4_28db;
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        (wide as u64) ^ (wide >> 64) as u64
    };
    let mut state = A ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(word), B);
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(state ^ u64::from_le_bytes(word), A ^ B)
}
