//! Columns read in place, beside the typed decode of the same records.

use std::cell::Cell;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use schemas::event::{Series, TelemetrySample};
use schemas::telemetry::{Columns, Entries, Samples, series};
use schemas::{Event, Kind};

fn series_strategy() -> impl Strategy<Value = Series> {
    (".{0,8}", ".{0,8}", ".{0,8}", btree_map(".{0,4}", ".{0,4}", 0..3))
        .prop_map(|(service, host, key, labels)| Series { service, host, key, labels })
}

prop_compose! {
    fn records()(
        source in ".{0,8}",
        exporter in ".{0,8}",
        series in vec(series_strategy(), 1..6),
        samples in vec((any::<prop::sample::Index>(), 0..=i64::MAX as u64, any::<f64>()), 0..40),
        snapshot in proptest::option::of(".{0,8}"),
    ) -> TelemetrySample {
        let n_series = series.len();
        TelemetrySample {
            source,
            exporter,
            series,
            series_idx: samples.iter().map(|it| it.0.index(n_series) as u32).collect(),
            ts_ns: samples.iter().map(|it| it.1).collect(),
            value: samples.iter().map(|it| it.2).collect(),
            snapshot,
        }
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|it| it.to_bits()).collect()
}

fn equal(samples: &Samples<'_>, record: &TelemetrySample) {
    assert_eq!(samples.len(), record.value.len());
    let columns = samples.records().next().unwrap();
    assert_eq!(columns.series_idx, record.series_idx);
    assert_eq!(columns.ts_ns, record.ts_ns);
    assert_eq!(bits(columns.value), bits(&record.value));
    let dictionary: Vec<Series> = columns.series.iter().map(|it| series(it).unwrap()).collect();
    assert_eq!(dictionary, record.series);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(1_000, 100_000)))]

    #[test]
    fn columns_are_what_the_typed_decode_says(record in records()) {
        let bytes = Event::from(record.clone()).encode().unwrap();
        equal(&Samples::decode(&bytes).unwrap(), &record);
    }

    #[test]
    fn equal_series_have_equal_bytes_and_others_have_not(record in records()) {
        let bytes = Event::from(record.clone()).encode().unwrap();
        let samples = Samples::decode(&bytes).unwrap();
        let columns = samples.records().next().unwrap();
        for (a, one) in columns.series.iter().enumerate() {
            for (b, other) in columns.series.iter().enumerate() {
                prop_assert_eq!(one == other, record.series[a] == record.series[b]);
            }
        }
    }

    /// What the typed decode refuses for its numbers or lengths, the columns refuse; what both
    /// take is equal. The columns leave texts of the dictionary unchecked.
    #[test]
    fn hostile_records_are_read_alike(
        record in records(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = Event::from(record).encode().unwrap();
        for (at, to) in flips {
            let at = 10 + at.index(bytes.len() - 10);
            bytes[at] = to;
        }
        let typed = Event::decode(Kind::TelemetrySample, &bytes).ok().map(|event| {
            let Event::TelemetrySample(typed) = event else { unreachable!() };
            typed
        });
        match (Samples::decode(&bytes), typed) {
            (Ok(samples), Some(typed)) => equal(&samples, &typed),
            (Ok(samples), None) => {
                // It was some text: a name in the dictionary, the exporter or the snapshot.
                samples.records().flat_map(|it| it.series).for_each(|it| drop(series(it)));
            }
            // Columns of unequal length have a typed form, and no meaning.
            (Err(_), Some(typed)) => prop_assert!(is_ragged(&typed)),
            (Err(_), None) => {}
        }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let mark = [&[0xC3, 0x01], &schemas::codec::fingerprint(Kind::TelemetrySample)[..]];
        let _ = Samples::decode(&[&mark.concat()[..], &bytes].concat());
        let _ = series(&bytes);
    }
}

fn is_ragged(record: &TelemetrySample) -> bool {
    let n = record.value.len();
    record.series_idx.len() != n
        || record.ts_ns.len() != n
        || record.series_idx.iter().any(|it| *it as usize >= record.series.len())
}

fn record(series_idx: Vec<u32>, ts_ns: Vec<u64>, value: Vec<f64>) -> Vec<u8> {
    let series = vec![Series {
        service: "checkout".to_owned(),
        host: String::new(),
        key: "probe".to_owned(),
        labels: std::collections::BTreeMap::new(),
    }];
    let (source, exporter) = (String::new(), String::new());
    let snapshot = None;
    Event::from(TelemetrySample { source, exporter, series, series_idx, ts_ns, value, snapshot })
        .encode()
        .unwrap()
}

/// Records read one after the other are what each is alone, whatever was refused between them and
/// whichever of their columns are alike.
#[test]
fn records_lie_end_to_end() {
    let one = record(vec![0], vec![1], vec![1.0]);
    let two = record(vec![0, 0], vec![2, 3], vec![2.0, 3.0]);
    let three = record(vec![0, 0, 0], vec![4, 5, 6], vec![f64::NAN, 4.0, -0.0]);
    let [ragged_two, ragged_three] = [2, 3].map(|n| record(vec![0; n], vec![1], vec![1.0]));
    let outside = record(vec![0, 9], vec![1, 2], vec![1.0, 2.0]);
    let mut samples = Samples::default();
    let mut alone: Vec<Samples<'_>> = Vec::new();
    for range in 0..2 {
        samples = samples.recycle();
        alone.clear();
        let records = [&one, &ragged_three, &three, &two, &ragged_two, &two, &outside, &outside];
        for it in records.into_iter().chain([&three, &ragged_three, &three, &one]) {
            match [&ragged_two, &ragged_three, &outside].contains(&it) {
                true => drop(samples.read(it).unwrap_err()),
                false => {
                    samples.read(it).unwrap();
                    alone.push(Samples::decode(it).unwrap());
                }
            }
        }
        let alone: Vec<_> = alone.iter().flat_map(Samples::records).collect();
        let together: Vec<_> = samples.records().map(|it| Columns { first: 0, ..it }).collect();
        assert_eq!(format!("{together:?}"), format!("{alone:?}"), "range {range}");
    }
    assert_eq!(samples.len(), 15);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(1_000, 100_000)))]

    /// A few dictionaries that come again and again, some of which begin alike, records that are
    /// refused in between, range after range: each record is what it is alone, and what was noted
    /// of a series is noted of it and of no other.
    #[test]
    fn a_dictionary_that_comes_again_is_the_same(
        of in vec(records(), 1..4),
        ranges in vec(vec((any::<prop::sample::Index>(), any::<bool>()), 1..12), 1..4),
    ) {
        let alike = of.iter().map(|it| {
            let mut alike = it.clone();
            alike.series.last_mut().unwrap().key.push('x');
            alike
        });
        let of: Vec<TelemetrySample> = alike.chain(of.iter().cloned()).collect();
        let bytes: Vec<Vec<u8>> =
            of.iter().map(|it| Event::from(it.clone()).encode().unwrap()).collect();
        let mut samples = Samples::default();
        for order in ranges {
            let mut expected = Vec::new();
            for (at, is_cut) in order {
                let bytes = at.get(&bytes);
                if is_cut {
                    samples.read(&bytes[..bytes.len() - 1]).unwrap_err();
                    continue;
                }
                samples.read(bytes).unwrap();
                expected.push(bytes);
            }
            for (columns, bytes) in samples.records().zip(&expected) {
                let alone = Samples::decode(bytes).unwrap();
                let alone = alone.records().next().unwrap();
                prop_assert_eq!(columns.series, alone.series);
                prop_assert_eq!(columns.hashes, alone.hashes);
                prop_assert_eq!(columns.series_idx, alone.series_idx);
                prop_assert_eq!(columns.ts_ns, alone.ts_ns);
                prop_assert_eq!(bits(columns.value), bits(alone.value));
            }
            prop_assert_eq!(samples.records().count(), expected.len());
            note(&samples);
            samples = samples.recycle();
        }
    }
}

/// Notes of each series a word that belongs to it; what was noted before is that, or nothing.
fn note(samples: &Samples<'_>) {
    let Entries { series, hashes, hints } = samples.entries();
    assert_eq!((series.len(), series.len()), (hashes.len(), hints.len()));
    for (hint, hash) in hints.iter().zip(hashes) {
        let word = *hash as u32 | 1;
        assert!([0, word].contains(&hint.get()));
        hint.set(word);
    }
}

/// What is noted of the series of `records`, read as a range after those that `samples` have read.
fn noted<'a>(samples: &mut Samples<'a>, records: &'a [Vec<u8>]) -> Vec<u32> {
    *samples = std::mem::take(samples).recycle();
    records.iter().for_each(|it| samples.read(it).unwrap());
    samples.entries().hints.iter().map(Cell::get).collect()
}

#[test]
fn a_dictionary_that_comes_again_is_read_once() {
    let records = [scrape("checkout"), scrape("cart")];
    let mut samples = Samples::default();
    for it in records.iter().cycle().take(10) {
        samples.read(it).unwrap();
    }
    let firsts: Vec<usize> = samples.records().map(|it| it.first).collect();
    assert_eq!(firsts, [0, 3].repeat(5));
    assert_eq!(samples.entries().series.len(), 6);
    note(&samples);
    let again = noted(&mut samples, &records);
    assert!(again.len() == 6 && !again.contains(&0), "the next range reads them anew: {again:?}");
    let back = records.iter().rev().cloned().collect::<Vec<_>>();
    assert!(!noted(&mut samples, &back).contains(&0), "in whatever order");
}

/// A writer may say how long a block of an array is, and may write several.
#[test]
fn a_dictionary_is_the_same_in_whatever_blocks_it_comes() {
    let plain = scrape("checkout");
    let at = 10 + 2;
    let n_bytes = Samples::decode(&plain).unwrap().entries().series.concat().len();
    let (entries, rest) = plain[at + 1..].split_at(n_bytes);
    let two = Samples::decode(&plain).unwrap().entries().series[..2].concat().len();
    let size = schemas::avro::to_bytes(&(n_bytes as u64)).unwrap();
    let sized = [&plain[..at], &[5], &size, entries, rest].concat();
    let (first, others) = entries.split_at(two);
    let several = [&plain[..at], &[4], first, &[2], others, rest].concat();
    let expected = Samples::decode(&plain).unwrap().entries().series.concat();
    for (encoded, is_kept) in [(&sized, true), (&several, false)] {
        let records = [encoded.clone()];
        let mut samples = Samples::default();
        for range in 0..3 {
            let hints = noted(&mut samples, &records);
            assert_eq!(samples.entries().series.concat(), expected);
            assert_eq!(!hints.contains(&0), is_kept && range > 0);
            note(&samples);
        }
    }
}

/// Whoever sends ever new dictionaries fills no memory, and those in use stay or return.
#[test]
fn ever_new_dictionaries_do_not_pile_up() {
    let of = |n: usize| [scrape(&format!("{n}-{}", "x".repeat(300 * 1024)))];
    let records: Vec<_> = (0..140).map(of).collect();
    let mut samples = Samples::default();
    for record in &records[..40] {
        noted(&mut samples, record);
        note(&samples);
    }
    assert!(!noted(&mut samples, &records[0]).contains(&0), "36 MiB are kept");
    for record in &records[40..] {
        noted(&mut samples, record);
        note(&samples);
    }
    assert!(noted(&mut samples, &records[0]).contains(&0), "126 MiB are not");
}

/// One value of each of three series.
fn scrape(service: &str) -> Vec<u8> {
    let series = ["requests", "errors", "probe"].map(|key| Series {
        service: service.to_owned(),
        host: String::new(),
        key: key.to_owned(),
        labels: std::collections::BTreeMap::new(),
    });
    let (source, exporter, snapshot) = (String::new(), String::new(), None);
    let (series_idx, ts_ns, value) = (vec![0, 1, 2], vec![7; 3], vec![1.0, 2.0, 3.0]);
    let series = series.to_vec();
    Event::from(TelemetrySample { source, exporter, series, series_idx, ts_ns, value, snapshot })
        .encode()
        .unwrap()
}

#[test]
fn ragged_columns_are_refused() {
    assert!(Samples::decode(&record(vec![0], vec![1], vec![1.0])).is_ok());
    assert!(Samples::decode(&record(vec![0, 0], vec![1], vec![1.0])).is_err());
    assert!(Samples::decode(&record(vec![0], vec![], vec![1.0])).is_err());
    assert!(Samples::decode(&record(vec![0], vec![1], vec![])).is_err());
}

#[test]
fn a_sample_of_a_series_outside_the_dictionary_is_refused() {
    assert!(Samples::decode(&record(vec![1], vec![1], vec![1.0])).is_err());
}

/// 2^32 must not become 0: the sample would count for another series.
#[test]
fn an_index_above_32_bits_is_refused() {
    let bytes = record(vec![0], vec![1], vec![1.0]);
    let wide = schemas::avro::to_bytes(&vec![1u64 << 32]).unwrap();
    let narrow = schemas::avro::to_bytes(&vec![0u32]).unwrap();
    let tail = [&narrow[..], &[2, 2, 0]].concat();
    let at = bytes.windows(tail.len()).position(|it| it == tail).unwrap();
    let wider = [&bytes[..at], &wide, &bytes[at + narrow.len()..]].concat();
    assert!(Event::decode(Kind::TelemetrySample, &wider).is_err());
    assert!(Samples::decode(&wider).is_err());
}
