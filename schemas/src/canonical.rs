//! Canonical text: what a cause must look like before it is hashed (spec 40 §3, threat A01).
//!
//! The attack is a text that looks like, or normalises to, the text of a privileged cause.
//! So text is normalised once, here at the edge, and what could hide or disguise something is
//! refused and never repaired: a repaired text is one that nobody wrote.
//!
//! This module does not decide who may raise a cause. A hash proves equal text and nothing
//! about its author; provenance is checked beside it.
//!
//! Invariants:
//! - What a function here returns, it returns again unchanged.
//! - Equal canonical text and equal cause hash are the same thing, under one Unicode version.

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::{canonical_combining_class, is_public_assigned};
use unicode_security::{GeneralSecurityProfile as _, MixedScript as _, skeleton};

use crate::wire::Writer;
use crate::{Error, Hash};

/// Longest canonical text in bytes: a cause fits into a payload with room for the rest.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Longest identifier in bytes.
pub const IDENTIFIER_BYTES_MAX: usize = 256;
/// Most combining marks in a row; UAX 15 "Stream-Safe Text" allows 30, and no script needs
/// more than a few. It bounds what normalisation must sort.
const MARKS_MAX: usize = 30;
/// Domain of a cause hash. It names the Unicode version, because under another version other
/// texts are equal. Persisted: frozen.
const CAUSE_DOMAIN: &str = "healwright/cause/v1/unicode-18.0.0";

// A new Unicode version is a new hash domain and a decision record, not a dependency update.
const _: () = {
    let (major, minor, patch) = unicode_normalization::UNICODE_VERSION;
    assert!(major == 18 && minor == 0 && patch == 0);
    let (major, minor, patch) = unicode_security::UNICODE_VERSION;
    assert!(major == 18 && minor == 0 && patch == 0);
};

/// `text` in NFC, if nothing in it can hide or disguise something.
///
/// # Errors
/// [`Error::Malformed`] names the code point and the rule: a control, a direction override, an
/// unassigned, private or invisible code point, a space other than U+0020, too many marks on
/// one letter, too many bytes, or a text that a second normalisation changes.
pub fn text(text: &str) -> Result<String, Error> {
    checked("text", text, TEXT_BYTES_MAX)
}

/// As [`text()`], of any length: for what is only shown and has its limit elsewhere.
///
/// # Errors
/// As [`text()`], without the number of bytes.
pub fn prose(text: &str) -> Result<String, Error> {
    checked("text", text, usize::MAX)
}

/// `text` as the name of something: canonical, one script, no look-alike of an ASCII name.
///
/// ASCII letters and digits, `- . _ : / @ +`, and the letters that UTS 39 allows in
/// identifiers.
///
/// # Errors
/// [`Error::Malformed`], as [`text()`] and for an empty or mixed-script name.
pub fn identifier(text: &str) -> Result<String, Error> {
    const WHAT: &str = "identifier";
    let name = checked(WHAT, text, IDENTIFIER_BYTES_MAX)?;
    if name.is_empty() {
        return Err(Error::malformed(WHAT, "it is empty"));
    }
    if let Some(strange) = name.chars().find(|it| !is_of_identifier(*it)) {
        let why = format!("U+{:04X} does not belong into a name", u32::from(strange));
        return Err(Error::malformed(WHAT, why));
    }
    if !name.as_str().is_single_script() {
        return Err(Error::malformed(WHAT, "it mixes scripts"));
    }
    if !name.is_ascii() && skeleton(&name).all(|it| it.is_ascii()) {
        return Err(Error::malformed(WHAT, "it looks like an ASCII name and is none"));
    }
    Ok(name)
}

/// The hash of a cause: what fired, on what, on which evidence, raised by whom.
///
/// Each part is length-prefixed, so that no letter can move from one to the next. The parts are
/// what [`text()`] or [`identifier`] returned; they are normalised again all the same, so that a
/// caller who forgot cannot give one text two hashes.
pub fn cause_hash(kind: &str, subject: &str, evidence_digest: &Hash, raised_by: &str) -> Hash {
    let mut out = Writer::default();
    out.text(CAUSE_DOMAIN).text(&nfc(kind)).text(&nfc(subject));
    out.bytes(&evidence_digest.0).text(&nfc(raised_by));
    Hash::of(&[&out.0])
}

fn nfc(text: &str) -> String {
    text.nfc().collect()
}

fn checked(what: &'static str, text: &str, bytes_max: usize) -> Result<String, Error> {
    // Before normalising, so that a long text costs nothing.
    within(what, text, bytes_max)?;
    clean(what, text)?;
    let once = nfc(text);
    within(what, &once, bytes_max)?;
    // Again, because a composition could bring forth what the parts were not.
    clean(what, &once)?;
    if nfc(&once) != once {
        return Err(Error::malformed(what, "a second normalisation changes it"));
    }
    Ok(once)
}

fn within(what: &'static str, text: &str, bytes_max: usize) -> Result<(), Error> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    Err(Error::malformed(what, format!("{} bytes, at most {bytes_max}", text.len())))
}

fn clean(what: &'static str, text: &str) -> Result<(), Error> {
    let mut n_marks = 0;
    for character in text.chars() {
        if let Some(rule) = forbidden(character) {
            let why = format!("U+{:04X} is {rule}", u32::from(character));
            return Err(Error::malformed(what, why));
        }
        n_marks = if canonical_combining_class(character) == 0 { 0 } else { n_marks + 1 };
        if n_marks > MARKS_MAX {
            return Err(Error::malformed(what, format!("more than {MARKS_MAX} marks in a row")));
        }
    }
    Ok(())
}

/// Why a character may stand in no canonical text.
fn forbidden(character: char) -> Option<&'static str> {
    if matches!(character, ' '..='~') {
        return None;
    }
    Some(match character {
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => "a direction override",
        '\u{200E}' | '\u{200F}' | '\u{061C}' => "a direction mark",
        '\u{FFF9}'..='\u{FFFD}' => "no text",
        _ if character.is_control() => "a control",
        _ if !is_public_assigned(character) => "unassigned or private",
        _ if character.is_whitespace() => "a space other than U+0020",
        _ if is_invisible(character) => "invisible",
        _ => return None,
    })
}

/// UTS 39 leaves default-ignorable code points out of a skeleton: what has none is not seen.
fn is_invisible(character: char) -> bool {
    skeleton(character.encode_utf8(&mut [0; 4])).next().is_none()
}

fn is_of_identifier(character: char) -> bool {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        '-' | '.' | '_' | ':' | '/' | '@' | '+' => true,
        _ => !character.is_ascii() && character.identifier_allowed(),
    }
}
