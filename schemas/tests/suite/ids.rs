//! Hashes, UUIDs and times in text: one spelling out, the usual ones in, nothing else.

use proptest::prelude::*;
use schemas::{Hash, Ns, Uuid};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(500, 50_000)))]

    #[test]
    fn texts_are_read_as_they_were_written(
        hash in any::<[u8; 32]>(),
        uuid in any::<[u8; 16]>(),
        ns in 0..=i64::MAX as u64,
    ) {
        let (hash, uuid, ns) = (Hash(hash), Uuid(uuid), Ns(ns));
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        prop_assert_eq!(hash.to_digest().parse(), Ok(hash));
        prop_assert_eq!(uuid.to_string().parse(), Ok(uuid));
        prop_assert_eq!(uuid.to_string().to_uppercase().parse(), Ok(uuid));
        prop_assert_eq!(ns.to_string().parse(), Ok(ns));
    }

    #[test]
    fn hostile_texts_never_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<Hash>();
        let _ = text.parse::<Uuid>();
        let _ = text.parse::<Ns>();
    }
}

#[test]
fn a_uuid_is_hyphenated_in_the_usual_places_only() {
    let text = Uuid::named("test", &[b"a"]).to_string();
    for wrong in [
        text.replace('-', ""),
        format!("-{}", &text[..35]),
        text.replacen('-', "_", 1),
        format!("{{{}}}", &text[..34]),
        String::new(),
    ] {
        assert!(wrong.parse::<Uuid>().is_err(), "{wrong}");
    }
}

#[test]
fn derived_uuids_separate_their_parts() {
    let named = |parts: &[&[u8]]| Uuid::named("test", parts);
    assert_eq!(named(&[b"ab", b"c"]), named(&[b"ab", b"c"]));
    assert_ne!(named(&[b"ab", b"c"]), named(&[b"a", b"bc"]));
    assert_ne!(named(&[b"abc"]), named(&[b"abc", b""]));
    assert_ne!(named(&[b"a"]), Uuid::named("other", &[b"a"]));
}

#[test]
fn times_keep_their_nanoseconds() {
    let time = Ns(1_772_366_400_000_000_001);
    assert_eq!(time.to_string(), "2026-03-01T12:00:00.000000001Z");
    assert_eq!("2026-03-01T13:00:00.000000001+01:00".parse(), Ok(time));
    assert!("1969-12-31T23:59:59Z".parse::<Ns>().is_err());
    assert_eq!(Ns::MAX.to_string().parse(), Ok(Ns::MAX));
    let late = "2300-01-01T00:00:00Z".parse::<Ns>().unwrap_err().to_string();
    assert!(late.contains("lies after 2262-04-11"), "{late}");
}

#[test]
fn spans_never_wrap() {
    assert_eq!(Ns(5) - Ns(7), Ns(0));
    assert_eq!(Ns(u64::MAX) + Ns(1), Ns(u64::MAX));
    assert_eq!(Ns(1) + Ns::from_ms(u64::MAX), Ns::MAX);
    assert_eq!(Ns::from_s(u64::MAX), Ns::MAX);
}
