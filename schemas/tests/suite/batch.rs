//! Records of the journal: what is written is what is read, and damage is named.

use proptest::collection::vec;
use proptest::prelude::*;
use schemas::batch::{Damage, Stored};
use schemas::envelope::{Redaction, leaf};
use schemas::{Batch, Entry, Error, Event, Hash, Head, Header, Kind, codec, link};

use crate::chain::{Deployment, Draft, envelope, key, tick};
use crate::generate;

fn three() -> (Head, Batch) {
    let (head, _) = Deployment::new().elected();
    let batch = Draft::after(&head).ticks(3).sign(&key(11));
    (head, batch)
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let (_, batch) = three();
    let bytes = batch.encode();
    let again = Batch::decode(&bytes).unwrap();
    assert_eq!(again, batch);
    assert_eq!(again.hash(), batch.hash());
    assert_eq!(again.encode(), bytes);
    assert_eq!(Header::decode(&batch.header_bytes), Ok(batch.header));
}

#[test]
fn an_entry_alone_is_read_as_it_was_written() {
    let (_, batch) = three();
    for entry in &batch.entries {
        assert_eq!(Entry::from_bytes(&entry.to_bytes()).as_ref(), Ok(entry));
        assert_eq!(entry.to_bytes().len(), entry.size());
    }
}

#[test]
fn an_entry_alone_with_another_payload_is_refused() {
    let (_, mut batch) = three();
    batch.entries[0].payload = tick(9).encode().unwrap();
    assert_eq!(Entry::from_bytes(&batch.entries[0].to_bytes()), Err(Error::Commitment));
}

#[test]
fn a_batch_of_nothing_is_no_batch() {
    let (head, _) = Deployment::new().elected();
    let empty = Draft::after(&head).sign(&key(11));
    let why = Batch::decode(&empty.encode()).unwrap_err();
    let error = Error::Malformed { what: "batch header", why: "it counts no entries".to_owned() };
    assert_eq!(why, Damage { entry: None, error });
}

#[test]
fn damage_names_the_entry_that_it_hit() {
    let (_, batch) = three();
    let header = 4 + batch.header_bytes.len() + 64;
    let mut bytes = batch.encode();
    // The format mark of the second entry's envelope.
    bytes[header + batch.entries[0].size() + 4] ^= 1;
    assert_eq!(Batch::decode(&bytes).unwrap_err().entry, Some(1));
    bytes.truncate(header + batch.entries[0].size() + batch.entries[1].size() + 7);
    bytes[header + batch.entries[0].size() + 4] ^= 1;
    assert_eq!(Batch::decode(&bytes).unwrap_err().entry, Some(2));
    bytes.truncate(20);
    assert_eq!(Batch::decode(&bytes).unwrap_err().entry, None);

    let mut touched = batch;
    touched.entries[2].payload[12] ^= 1;
    let damage = touched.check_body().unwrap_err();
    assert_eq!(damage, Damage { entry: Some(2), error: Error::Commitment });
}

#[test]
fn a_record_checked_where_it_lies_says_what_the_batch_says() {
    let (_, batch) = three();
    let stored = Stored::check(&batch.encode()).unwrap();
    assert_eq!((&stored.header, stored.hash), (&batch.header, batch.hash()));
    assert_eq!(stored.leaves, batch.entries.leaves().unwrap());
}

/// Whatever bit flips, in the header, a signature, an envelope, a salt, a payload or a length: the
/// record is refused, or it has another hash than the one that was signed.
#[test]
fn no_flipped_bit_of_a_record_goes_unnoticed_where_it_lies() {
    let (_, batch) = three();
    let mut bytes = batch.encode();
    let first = 4 + batch.header_bytes.len() + 64;
    let ends: Vec<usize> = batch
        .entries
        .iter()
        .scan(first, |end, it| {
            *end += it.size();
            Some(*end)
        })
        .collect();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        match Stored::check(&bytes) {
            Ok(stored) => {
                assert_ne!(stored.hash, batch.hash(), "bit {bit}");
                assert!(bit / 8 < first, "bit {bit} of the entries");
            }
            // An envelope is bound by its leaf alone, and the leaves by the batch.
            Err(Damage { entry: Some(entry), .. }) => {
                let of = ends.partition_point(|end| *end <= bit / 8);
                assert!(of == entry as usize || bit / 8 < first, "bit {bit}: entry {entry}");
            }
            Err(Damage { entry: None, .. }) => {}
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes.push(0);
    assert_eq!(Stored::check(&bytes).unwrap_err().entry, Some(2), "bytes behind the last entry");
}

/// Spec 80 §12. Joined without lengths, these two would share their bytes.
#[test]
fn length_prefix_prevents_field_shift() {
    let event = tick(1);
    let leaf_of = |key: &str, actor: &str| {
        let mut envelope = envelope(&event, 0);
        envelope.key = key.to_owned();
        envelope.actor.id = actor.to_owned();
        leaf(&envelope.encode())
    };
    assert_ne!(leaf_of("checkout", "owner"), leaf_of("checkou", "towner"));
    assert_ne!(leaf_of("", "owner"), leaf_of("owner", ""));
}

/// Spec 80 §12, with the finest unit that we keep.
#[test]
fn timestamps_are_not_truncated() {
    let event = tick(1);
    let leaf_at = |wall: u64, tick: u64| {
        let mut envelope = envelope(&event, 0);
        (envelope.wall.0, envelope.tick.0) = (wall, tick);
        leaf(&envelope.encode())
    };
    for time in [0, 1_772_366_400_000_000_000, (1 << 53) - 1, 1 << 53, u64::MAX - 1_000] {
        assert_ne!(leaf_at(time, 0), leaf_at(time + 1, 0), "a nanosecond at {time}");
        assert_ne!(leaf_at(time, 0), leaf_at(time + 1_000, 0), "a microsecond at {time}");
        assert_ne!(leaf_at(0, time), leaf_at(0, time + 1), "a nanosecond of tick at {time}");
    }
}

/// Spec 10 §12: a reader of v1 verifies an entry whose payload has a field more than it knows.
/// Hashes are over stored bytes, so nothing that it cannot read is lost to verification.
#[test]
fn unknown_fields_survive_rehash() {
    let mut schema: serde_json::Value = serde_json::from_str(Kind::Tick.avsc()).unwrap();
    let field = serde_json::json!({"name": "leap", "type": "long", "default": 0});
    schema["fields"].as_array_mut().unwrap().push(field);
    let newer = apache_avro::Schema::parse(&schema).unwrap();
    let mut payload = vec![0xC3, 0x01];
    payload.extend(newer.fingerprint::<apache_avro::rabin::Rabin>().bytes);
    payload.extend(&tick(1).encode().unwrap()[10..]);
    payload.push(2);

    let (head, _) = Deployment::new().elected();
    let mut draft = Draft::after(&head).ticks(1);
    let envelope = envelope(&tick(1), head.next_seq + 1);
    draft.entries.push(Entry::new(envelope, [7; 32], payload.clone()));
    let bytes = draft.sign(&key(11)).encode();

    let read = Batch::decode(&bytes).unwrap();
    assert!(link(&head, &read).is_ok(), "it links and every commitment holds");
    assert_eq!(read.entries[1].payload, payload, "the unknown field is kept");
    assert_eq!(read.encode(), bytes);
    let mut cut = read.entries[1].clone();
    cut.payload.pop();
    assert_eq!(cut.check(), Err(Error::Commitment), "and it is part of what is hashed");
    assert!(read.entries[1].event().is_err(), "reading it is another matter");
}

#[test]
fn a_summarized_payload_says_where_the_full_one_is() {
    let (_, batch) = three();
    let full = vec![0; 9000];
    let schemas::cap::Capped::Summarized { payload, .. } = schemas::cap::cap(Kind::Tick, full)
    else {
        panic!("9000 bytes are above the cap")
    };
    let mut envelope = batch.entries[0].envelope.clone();
    envelope.redaction = Redaction::Summary;
    let error = Entry::new(envelope, [0; 32], payload).event().unwrap_err();
    let hash_of_full = Hash::of(&[&[0; 9000]]).to_digest();
    assert_eq!(error, Error::Summarized { kind: "tick.v1".to_owned(), hash_of_full });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(500, 50_000)))]

    #[test]
    fn generated_batches_go_through_their_bytes(payloads in vec(generate::payload(), 1..6)) {
        let (head, _) = Deployment::new().elected();
        let mut draft = Draft::after(&head);
        for (kind, payload) in payloads {
            // An election may only open a batch, which link.rs is about.
            if kind == Kind::OwnerElected {
                continue;
            }
            draft = draft.says(&Event::decode(kind, &payload).unwrap());
        }
        let batch = draft.ticks(1).sign(&key(11));
        let bytes = batch.encode();
        let read = Batch::decode(&bytes).unwrap();
        prop_assert!(link(&head, &read).is_ok());
        prop_assert_eq!(read.encode(), bytes);
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        let _ = Batch::decode(&bytes);
        let _ = Entry::from_bytes(&bytes);
        let _ = Header::decode(&bytes);
        for kind in Kind::ALL {
            let _ = codec::datum(*kind, &bytes);
        }
    }

    #[test]
    fn mutated_records_never_panic(
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let (head, batch) = three();
        let mut bytes = batch.encode();
        for (at, to) in flips {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(batch) = Batch::decode(&bytes) {
            let _ = link(&head, &batch);
            let _ = batch.next_seq();
        }
    }
}
