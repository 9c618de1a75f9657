//! A01 INJECTION: no crafted text passes for a privileged cause, and equal text is equal hash.
//!
//! The privileged causes here stand for any: what matters is that nothing an outsider can write
//! hashes to one of them unless it *is* that text, and that provenance is checked beside it.

use proptest::collection::vec;
use proptest::prelude::*;
use schemas::canonical::{IDENTIFIER_BYTES_MAX, TEXT_BYTES_MAX, cause_hash, identifier, text};
use schemas::{Error, Hash};
use unicode_normalization::UnicodeNormalization as _;

const PRIVILEGED: [&str; 4] = [
    "restart_service",
    "rollback-release",
    "unfreeze:prod-eu/shop",
    "rebuild environment caf\u{e9}",
];

/// What attackers put into names: look-alikes, invisible code points, overrides, other widths,
/// decomposed and singleton forms, combining marks, unassigned and private code points.
const POISON: [&str; 40] = [
    "\u{0}",
    "\n",
    "\r",
    "\t",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{ad}",
    "\u{300}",
    "\u{301}",
    "\u{345}",
    "\u{34f}",
    "\u{378}",
    "\u{430}",
    "\u{435}",
    "\u{43e}",
    "\u{441}",
    "\u{61c}",
    "\u{115f}",
    "\u{180e}",
    "\u{200b}",
    "\u{200c}",
    "\u{200d}",
    "\u{200e}",
    "\u{202e}",
    "\u{2028}",
    "\u{2060}",
    "\u{2066}",
    "\u{212a}",
    "\u{2000}",
    "\u{3000}",
    "\u{3164}",
    "\u{e000}",
    "\u{feff}",
    "\u{ff52}",
    "\u{fffd}",
    "\u{1d5cb}",
    "\u{e0020}",
    "\u{fe0f}",
    "\u{2dd0}",
];

fn digest() -> Hash {
    Hash::of(&[b"evidence"])
}

fn hash_of(kind: &str) -> Hash {
    cause_hash(kind, "checkout", &digest(), "diagnosis")
}

/// One privileged cause, mutated a few times.
fn mutated() -> impl Strategy<Value = (usize, String)> {
    let poison = prop_oneof![
        4 => prop::sample::select(POISON.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[ -~]".prop_map(String::from),
    ];
    let edit = (any::<prop::sample::Index>(), 0..4u8, poison);
    (0..PRIVILEGED.len(), any::<bool>(), vec(edit, 0..4)).prop_map(|(which, decomposed, edits)| {
        let name = PRIVILEGED[which];
        let mut letters: Vec<String> =
            if decomposed { name.nfd().map(String::from).collect() } else { split(name) };
        for (at, how, poison) in edits {
            let at = at.index(letters.len());
            match how {
                0 => letters.insert(at, poison),
                1 => letters[at] = poison,
                2 => letters[at].push_str(&poison),
                _ if letters.len() > 1 => drop(letters.remove(at)),
                _ => {}
            }
        }
        (which, letters.concat())
    })
}

fn split(text: &str) -> Vec<String> {
    text.chars().map(String::from).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(10_000, 1_000_000)))]

    /// The bar of A01: nothing but the cause itself, or its other Unicode spelling, has its hash.
    #[test]
    fn a01_injection_no_mutation_has_the_hash_of_a_privileged_cause((which, crafted) in mutated()) {
        let privileged = PRIVILEGED[which];
        let is_the_same_text = crafted.nfc().eq(privileged.nfc());
        prop_assert_eq!(hash_of(&crafted) == hash_of(privileged), is_the_same_text);
        match text(&crafted) {
            Ok(canonical) => prop_assert_eq!(canonical == privileged, is_the_same_text),
            // A refused text is never the privileged one in another spelling.
            Err(_) => prop_assert!(!is_the_same_text),
        }
    }

    /// Nothing that is accepted as a name looks like the privileged name without being it.
    #[test]
    fn a01_injection_no_accepted_name_looks_like_a_privileged_one((which, crafted) in mutated()) {
        let Ok(accepted) = identifier(&crafted) else { return Ok(()) };
        let skeleton = |it: &str| unicode_security::skeleton(it).collect::<String>();
        for privileged in &PRIVILEGED[..3] {
            if accepted != *privileged && skeleton(&accepted) == skeleton(privileged) {
                // Only ASCII can look like ASCII here (`rn` and `m`, `0` and `O`).
                prop_assert!(accepted.is_ascii(), "{:?} for {}", accepted, PRIVILEGED[which]);
            }
        }
    }

    #[test]
    fn a01_equal_text_is_equal_hash(one in ".{0,6}", other in ".{0,6}") {
        if let (Ok(one), Ok(other)) = (text(&one), text(&other)) {
            prop_assert_eq!(one == other, hash_of(&one) == hash_of(&other));
        }
    }

    #[test]
    fn canonical_text_is_canonical_again(any_text in "\\PC{0,20}") {
        if let Ok(once) = text(&any_text) {
            prop_assert_eq!(text(&once), Ok(once));
        }
        if let Ok(once) = identifier(&any_text) {
            prop_assert_eq!(identifier(&once), Ok(once));
        }
    }

    /// Letters cannot move from one part of a cause to the next.
    #[test]
    fn parts_of_a_cause_do_not_run_together(
        parts in "[a-c]{0,4}",
        cut in 0..5usize,
        other in 0..5usize,
    ) {
        let (cut, other) = (cut.min(parts.len()), other.min(parts.len()));
        let at = |cut: usize| cause_hash(&parts[..cut], &parts[cut..], &digest(), "diagnosis");
        prop_assert_eq!(cut == other, at(cut) == at(other));
    }
}

/// Every code point alone, in a text that is otherwise harmless: 1,112,064 of them.
#[test]
fn a01_every_code_point_is_kept_as_it_is_composed_or_refused() {
    for character in '\0'..=char::MAX {
        let crafted = format!("a{character}b");
        match text(&crafted) {
            Ok(canonical) => {
                assert!(canonical.nfc().eq(crafted.nfc()), "{:x}", character as u32);
                let decomposed: String = crafted.nfd().collect();
                assert_eq!(text(&decomposed).as_ref(), Ok(&canonical), "{:x}", character as u32);
                assert_eq!(hash_of(&decomposed), hash_of(&canonical));
            }
            Err(Error::Malformed { what: "text", .. }) => {}
            Err(error) => panic!("{:x}: {error}", character as u32),
        }
        if let Ok(name) = identifier(&crafted) {
            assert!(!name.contains(char::is_whitespace), "{:x}", character as u32);
            assert!(name.is_ascii() || !looks_ascii(&name), "{:x}", character as u32);
        }
    }
}

fn looks_ascii(name: &str) -> bool {
    unicode_security::skeleton(name).all(|it| it.is_ascii())
}

#[test]
fn what_hides_or_disguises_is_refused_by_name() {
    for (crafted, rule) in [
        ("restart\u{0}", "U+0000 is a control"),
        ("restart\n", "U+000A is a control"),
        ("restart\u{85}", "U+0085 is a control"),
        ("\u{202e}tratser", "U+202E is a direction override"),
        ("\u{2066}restart", "U+2066 is a direction override"),
        ("re\u{200f}start", "U+200F is a direction mark"),
        ("re\u{200b}start", "U+200B is invisible"),
        ("re\u{ad}start", "U+00AD is invisible"),
        ("re\u{feff}start", "U+FEFF is invisible"),
        ("re\u{3164}start", "U+3164 is invisible"),
        ("re\u{e0073}start", "U+E0073 is invisible"),
        ("re\u{fe0f}start", "U+FE0F is invisible"),
        ("re\u{a0}start", "U+00A0 is a space other than U+0020"),
        ("re\u{3000}start", "U+3000 is a space other than U+0020"),
        ("re\u{2028}start", "U+2028 is a space other than U+0020"),
        ("re\u{378}start", "U+0378 is unassigned or private"),
        ("re\u{e000}start", "U+E000 is unassigned or private"),
        ("re\u{fdd0}start", "U+FDD0 is unassigned or private"),
        ("re\u{10ffff}start", "U+10FFFF is unassigned or private"),
        ("re\u{fffd}start", "U+FFFD is no text"),
    ] {
        let why = text(crafted).unwrap_err().to_string();
        assert_eq!(why, format!("text is malformed: {rule}"));
        assert!(identifier(crafted).is_err(), "{crafted:?}");
    }
}

#[test]
fn decomposed_and_singleton_spellings_are_one_text() {
    assert_eq!(text("cafe\u{301}").as_deref(), Ok("caf\u{e9}"));
    assert_eq!(hash_of("cafe\u{301}"), hash_of("caf\u{e9}"));
    // U+212A KELVIN SIGN is canonically the letter K: provenance tells the raiser, not the hash.
    assert_eq!(text("\u{212a}").as_deref(), Ok("K"));
    // Width and style are compatibility forms: other texts, other hashes.
    for styled in ["\u{ff52}estart", "\u{1d5cb}estart", "\u{24e1}estart"] {
        assert_ne!(hash_of(styled), hash_of("restart"));
        assert!(identifier(styled).is_err(), "{styled}");
    }
}

#[test]
fn ordinary_names_are_names() {
    for name in [
        "checkout",
        "prod-eu/shop",
        "service/checkout",
        "runner/host-a",
        "inc-5f3a91c2",
        "ci@example.org",
        "1.1.0+build.7",
        "trigger:restart_service",
        "caf\u{e9}",
        "расчёт",
        "決済サービス",
        "결제",
    ] {
        assert_eq!(identifier(name).as_deref(), Ok(name));
    }
}

#[test]
fn strange_names_are_none() {
    for (name, why) in [
        ("", "it is empty"),
        ("check out", "U+0020 does not belong into a name"),
        ("check\"out", "U+0022 does not belong into a name"),
        ("check$(out)", "U+0024 does not belong into a name"),
        ("check\\out", "U+005C does not belong into a name"),
        ("<b>", "U+003C does not belong into a name"),
        ("check\u{43e}ut", "it mixes scripts"),
        ("shop-\u{3b1}", "it mixes scripts"),
        // "scope" in Cyrillic letters: one script, and still not what it seems.
        ("\u{455}\u{441}\u{43e}\u{440}\u{435}", "it looks like an ASCII name and is none"),
        ("\u{1f680}", "U+1F680 does not belong into a name"),
    ] {
        let error = identifier(name).unwrap_err().to_string();
        assert_eq!(error, format!("identifier is malformed: {why}"), "{name}");
    }
}

#[test]
fn length_is_bounded_before_and_after_normalisation() {
    assert!(text(&"a".repeat(TEXT_BYTES_MAX)).is_ok());
    assert!(text(&"a".repeat(TEXT_BYTES_MAX + 1)).is_err());
    assert!(identifier(&"a".repeat(IDENTIFIER_BYTES_MAX)).is_ok());
    assert!(identifier(&"a".repeat(IDENTIFIER_BYTES_MAX + 1)).is_err());
    // U+0958 grows from three bytes to six, because its composition is excluded.
    let growing = "\u{958}".repeat(TEXT_BYTES_MAX / 3);
    assert!(text(&growing).unwrap_err().to_string().contains("at most 4096"));
}

#[test]
fn a_letter_bears_a_bounded_number_of_marks() {
    assert!(text(&format!("a{}", "\u{316}".repeat(30))).is_ok());
    assert!(text(&format!("a{}", "\u{316}".repeat(31))).is_err());
}

/// The domain is persisted in every cause hash: another version of Unicode is another domain.
#[test]
fn a_cause_hash_is_golden() {
    expect_test::expect!["613c5fe9328f87def2b0a8b4167908abfef9b0fa5c7ae50cb02674102be29fd7"]
        .assert_eq(&cause_hash("restart_service", "checkout", &digest(), "diagnosis").to_string());
}
