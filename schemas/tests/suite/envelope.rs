//! The envelope: everything but the payload, in bytes that are hashed as they are stored.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use schemas::cap::PAYLOAD_BYTES_MAX;
use schemas::envelope::{ENVELOPE_BYTES_MAX, Redaction, commitment};
use schemas::{Actor, ActorKind, Cause, Entry, Envelope, Hash, Kind, Ns, Stream, Uuid, link};

use crate::chain::{envelope, tick};

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        (0..3usize, any::<u64>()).prop_map(|(stream, position)| Cause::Observed {
            stream: [Stream::Inbox, Stream::Control, Stream::Telemetry][stream],
            position,
        }),
        (".{0,12}", any::<u64>(), any::<u32>()).prop_map(|(by, from, ordinal)| Cause::Derived {
            by,
            from,
            ordinal
        }),
        any::<(u64, u64)>().prop_map(|(epoch, n)| Cause::Owner { epoch, n }),
    ]
}

fn actor() -> impl Strategy<Value = Actor> {
    let kinds = [ActorKind::Agent, ActorKind::Human, ActorKind::System];
    let kind = proptest::sample::select(kinds.to_vec());
    (".{1,12}", kind, option::of(".{0,16}")).prop_map(|(id, kind, key_id)| Actor {
        id,
        kind,
        key_id,
    })
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let place =
        (any::<[u8; 16]>(), proptest::sample::select(Kind::ALL), any::<u32>(), any::<u64>());
    let said = (".{0,12}", any::<u64>(), any::<u64>(), actor(), cause());
    let rest = (option::of(".{0,12}"), option::of("[0-9a-f]{32}"), any::<u8>(), any::<u64>());
    let redactions = vec![Redaction::None, Redaction::Redacted, Redaction::Summary];
    let bound = (proptest::sample::select(redactions), any::<[u8; 32]>());
    (place, said, rest, bound).prop_map(|(place, said, rest, bound)| Envelope {
        event_id: Uuid(place.0),
        kind: place.1,
        partition: place.2,
        seq: place.3,
        key: said.0,
        tick: Ns(said.1),
        wall: Ns(said.2),
        actor: said.3,
        cause: said.4,
        correlation: rest.0,
        trace_id: rest.1,
        priority: rest.2,
        ttl_ms: rest.3,
        redaction: bound.0,
        commitment: Hash(bound.1),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(1_000, 100_000)))]

    #[test]
    fn an_envelope_is_read_as_it_was_written(envelope in envelopes()) {
        let bytes = envelope.encode();
        let read = Envelope::decode(&bytes).unwrap();
        prop_assert_eq!(&read, &envelope);
        prop_assert_eq!(read.encode(), bytes);
    }

    /// Equal bytes, equal fields: no two envelopes share a leaf.
    #[test]
    fn two_envelopes_never_share_their_bytes(one in envelopes(), other in envelopes()) {
        prop_assert_eq!(one == other, one.encode() == other.encode());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = Envelope::decode(&bytes);
        let marked = [b"HWE\x01", &bytes[..]].concat();
        let _ = Envelope::decode(&marked);
    }

    /// Whatever decodes was written in this form and in no other: nothing malleable is a leaf.
    #[test]
    fn a_mutated_envelope_is_refused_or_is_another_one(
        envelope in envelopes(),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut bytes = envelope.encode();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(read) = Envelope::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    /// An event's id says what it came from: other causes, other chains, other ids.
    #[test]
    fn event_ids_differ_by_cause_and_chain(one in cause(), other in cause()) {
        let (here, there) = (link::genesis("a-00", 0), link::genesis("a-00", 1));
        prop_assert_eq!(one == other, one.event_id(&here) == other.event_id(&here));
        prop_assert_ne!(one.event_id(&here), one.event_id(&there));
        let text = one.event_id(&here).to_string();
        prop_assert_eq!((&text[14..15], text.parse()), ("8", Ok(one.event_id(&here))));
    }

    #[test]
    fn a_commitment_binds_salt_and_payload(
        salt in any::<[u8; 32]>(),
        payload in vec(any::<u8>(), 0..64),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let mut flipped = [&salt[..], &payload].concat();
        let at = at.index(flipped.len());
        flipped[at] ^= 1u8 << bit;
        let (salt_of_flipped, payload_of_flipped) = flipped.split_first_chunk().unwrap();
        prop_assert_ne!(
            commitment(&salt, &payload),
            commitment(salt_of_flipped, payload_of_flipped)
        );
    }
}

/// Spec 10 §12.
#[test]
fn envelope_requires_actor() {
    let mut without_id = envelope(&tick(1), 0);
    without_id.actor.id = String::new();
    let why = Envelope::decode(&without_id.encode()).unwrap_err().to_string();
    assert_eq!(why, "envelope is malformed: the actor has no id");

    let whole = envelope(&tick(1), 0).encode();
    let name = b"\x00\x00\x00\x05owner";
    let at = whole.windows(name.len()).position(|it| it == name).unwrap() + name.len();
    for kind in [0, 4, 255] {
        let mut without_kind = whole.clone();
        without_kind[at] = kind;
        let why = Envelope::decode(&without_kind).unwrap_err().to_string();
        assert_eq!(why, format!("actor is malformed: no kind {kind}"));
    }
}

/// What does not fit is refused before it is appended: once it stands in a chain it is read.
#[test]
fn an_entry_above_its_bounds_does_not_fit() {
    let event = tick(1);
    let entry = |key: usize, payload: usize| {
        let mut envelope = envelope(&event, 0);
        envelope.key = "k".repeat(key);
        Entry::new(envelope, [0; 32], vec![0; payload])
    };
    let overhead = entry(0, 0).envelope_bytes.len();
    assert!(entry(ENVELOPE_BYTES_MAX - overhead, PAYLOAD_BYTES_MAX).fits());
    assert!(!entry(ENVELOPE_BYTES_MAX - overhead + 1, 0).fits());
    assert!(!entry(0, PAYLOAD_BYTES_MAX + 1).fits());
    let too_long = entry(2 * ENVELOPE_BYTES_MAX, 0);
    assert_eq!(Entry::from_bytes(&too_long.to_bytes()), Ok(too_long));
}

#[test]
fn every_prefix_of_an_envelope_is_refused() {
    let bytes = envelope(&tick(1), 0).encode();
    for end in 0..bytes.len() {
        assert!(Envelope::decode(&bytes[..end]).is_err(), "{end} bytes");
    }
}
