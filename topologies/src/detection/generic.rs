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

use std::collections::BTreeMap;

use schemas::Ns;
use schemas::event::Series;
use schemas::telemetry::{self, Columns};

use super::points::{Meaning, Point};
use crate::config;
use crate::fold::View;
use crate::stats::Baseline;

const SHARDS: usize = 256;
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

    fn write(&self, hash: u64, out: &mut Vec<u8>) {
        let head =
            u64::from(self.class) | u64::from(self.run) << 8 | u64::from(self.generation) << 32;
        let Baseline { n, mean, variance } = self.baseline;
        let words = [
            hash,
            head,
            u64::from(n),
            mean.to_bits(),
            variance.to_bits(),
            self.last.to_bits(),
            self.at.0,
            self.unusual_since.0,
        ];
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }
}

/// The series of one shard, in order of hash; hashes lie together because they are searched.
#[derive(Default)]
struct Shard {
    hashes: Vec<u64>,
    states: Vec<SeriesState>,
}

impl Shard {
    fn read(bytes: &[u8]) -> Self {
        let records = bytes.chunks_exact(RECORD);
        let mut shard = Shard::default();
        for record in records {
            let mut hash = [0; 8];
            hash.copy_from_slice(&record[..8]);
            shard.hashes.push(u64::from_le_bytes(hash));
            shard.states.push(SeriesState::read(record));
        }
        shard
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.hashes.len() * RECORD);
        for (hash, state) in self.hashes.iter().zip(&self.states) {
            state.write(*hash, &mut bytes);
        }
        bytes
    }

    /// Makes room for a new series; `false` when the shard is full of live ones.
    fn has_room(&mut self, at: Ns) -> bool {
        if self.hashes.len() >= SHARD_MAX {
            let keeps: Vec<bool> = self.states.iter().map(|it| at.since(it.at) < IDLE).collect();
            let mut keep = keeps.iter();
            self.hashes.retain(|_| keep.next() == Some(&true));
            let mut keep = keeps.iter();
            self.states.retain(|_| keep.next() == Some(&true));
        }
        self.hashes.len() < SHARD_MAX
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
        self.loaded[index].get_or_insert_with(|| {
            view.load_raw(&shard_key(index)).map_or_else(Shard::default, |it| Shard::read(&it))
        })
    }

    fn state(&mut self, place: (u8, u32)) -> &mut SeriesState {
        &mut self.shard(usize::from(place.0)).states[place.1 as usize]
    }

    #[inline]
    fn find(&mut self, hash: u64) -> Place {
        let index = (hash >> 56) as u8;
        let found = self.shard(usize::from(index)).hashes.binary_search(&hash);
        found.ok().map(|at| (index, at as u32))
    }

    /// The places of a record's dictionary. Inserting moves places, so after an insertion they
    /// are looked up anew; in the steady state nothing is inserted.
    fn places(&mut self, series: &[&[u8]], at: Ns) -> Vec<Place> {
        let hashes: Vec<u64> = series.iter().map(|it| hash(it)).collect();
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
        let index = (hash >> 56) as usize;
        if !self.shard(index).has_room(at) {
            return;
        }
        let shard = self.shard(index);
        let slot = shard.hashes.partition_point(|it| *it < hash);
        shard.hashes.insert(slot, hash);
        shard.states.insert(slot, SeriesState::default());
        self.classify((index as u8, slot as u32), bytes);
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
        state.class = class;
        state.generation = generation;
    }

    fn save(self) {
        for (index, shard) in self.loaded.into_iter().enumerate() {
            if let Some(shard) = shard {
                self.view.save_raw(&shard_key(index), shard.write());
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
pub(super) fn fold(view: &mut View<'_>, samples: &[Columns<'_>]) -> BTreeMap<String, Vec<Point>> {
    let generation = generation(view);
    let loaded = (0..SHARDS).map(|_| None).collect();
    let mut shards = Shards { view, loaded, generation };
    let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for columns in samples {
        let newest = Ns(columns.ts_ns.last().copied().unwrap_or(0));
        let places = shards.places(&columns.series, newest);
        let mut has_health = false;
        let rows = columns.series_idx.iter().zip(&columns.ts_ns).zip(&columns.value);
        for ((series, ts), value) in rows {
            let Some(place) = places[*series as usize] else { continue };
            let state = shards.state(place);
            state.learn(*value, Ns(*ts));
            has_health |= state.class == HEALTH;
        }
        if has_health {
            collect(&mut shards, columns, &places, &mut points);
        }
    }
    shards.save();
    points
}

/// Picks the samples of a record that count for a service's health.
fn collect(
    shards: &mut Shards<'_, '_>,
    columns: &Columns<'_>,
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
    let rows = columns.series_idx.iter().zip(&columns.ts_ns).zip(&columns.value);
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
    let hash = hash(series);
    let key = shard_key((hash >> 56) as usize);
    let shard = Shard::read(&view.peek_raw(super::PROCESSOR.name, &key)?);
    let at = shard.hashes.binary_search(&hash).ok()?;
    Some(shard.states[at])
}

fn shard_key(index: usize) -> [u8; 7] {
    let mut key = *b"series/";
    key[6] = index as u8;
    key
}

/// A 64-bit hash by folded multiplication, eight bytes a step (after wyhash, public domain).
/// Persisted in state: frozen.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
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
