//! The rules over Rust files. Each returns its complaints as `line: why`.

use super::source::Source;
#[cfg(test)]
use super::source::one;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 100;

/// What a fold must not reach: it would replay differently. There are no exceptions.
const IMPURE: [(&str, &str); 12] = [
    ("::now(", "time is the tick of the entry"),
    ("rand", "ids and choices are derived from content"),
    ("env::", "configuration is an entry"),
    ("fs::", "files are the program's"),
    ("tokio", "a fold never waits"),
    ("async ", "a fold never waits"),
    ("HashMap", "its order differs between runs"),
    ("HashSet", "its order differs between runs"),
    ("Instant", "time is the tick of the entry"),
    ("SystemTime", "time is the tick of the entry"),
    ("thread::", "order is the journal's"),
    ("std::net", "answers from outside are entries"),
];

/// No clock, chance, I/O, async or hash order in the pure crates.
pub(crate) fn purity(source: &Source) -> Vec<String> {
    if !source.path.starts_with("schemas/src") && !source.path.starts_with("topologies/src") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (n, line) in source.product_lines() {
        for (word, why) in IMPURE {
            if has_word(line, word) {
                found.push(format!("{n}: {word} in a pure crate: {why}"));
            }
        }
    }
    found
}

/// Whether `word` stands in `line` and does not continue a longer name on its left or right.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |it: char| it.is_alphanumeric() || it == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().filter(|_| !word.starts_with(':'));
        let after = line[at + word.len()..].chars().next().filter(|_| word.ends_with(is_name));
        !before.is_some_and(is_name) && !after.is_some_and(is_name)
    })
}

/// Files, functions and lines within their limits.
pub(crate) fn lengths(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let n_lines = source.text.lines().count();
    if n_lines > FILE_LINES_MAX {
        found.push(format!("1: {n_lines} lines, at most {FILE_LINES_MAX}"));
    }
    for (at, (line, code)) in source.text.lines().zip(source.code.lines()).enumerate() {
        let n = line.chars().count();
        // A golden transcript is as long as what was said.
        let is_string = code.trim().is_empty() && !line.trim_start().starts_with("//");
        let is_transcript = is_string || code.contains("expect![");
        if n > LINE_CHARS_MAX && !is_transcript {
            found.push(format!("{}: {n} characters, at most {LINE_CHARS_MAX}", at + 1));
        }
    }
    for (name, first, last) in source.functions() {
        let n = last - first + 1;
        if n > FUNCTION_LINES_MAX {
            found.push(format!("{first}: {name} has {n} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
    found
}

/// Every file begins with what it is for, in a sentence.
pub(crate) fn head(source: &Source) -> Vec<String> {
    let first = source.text.lines().next().unwrap_or_default();
    let is_head = first.strip_prefix("//! ").is_some_and(|it| it.len() > 10);
    if is_head { Vec::new() } else { vec!["1: no module head (`//! …`)".to_owned()] }
}

/// `foo.rs` beside `foo/`.
pub(crate) fn no_mod_file(source: &Source) -> Vec<String> {
    if !source.path.ends_with("mod.rs") {
        return Vec::new();
    }
    vec!["1: called mod.rs; it is `foo.rs` beside `foo/`".to_owned()]
}

/// No unwrap outside tests, no ignored test, nothing left to do anywhere.
pub(crate) fn leftovers(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (n, line) in source.product_lines() {
        for word in [".unwrap()", ".unwrap_err()"] {
            if line.contains(word) {
                found.push(format!("{n}: {word} outside tests"));
            }
        }
    }
    for (at, line) in source.code.lines().enumerate() {
        for word in ["#[ignore", "todo!", "unimplemented!", "dbg!"] {
            if line.contains(word) {
                found.push(format!("{}: {word}", at + 1));
            }
        }
    }
    found
}

/// No name that says only that it is a thing.
pub(crate) fn names(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in source.code.lines().enumerate() {
        let n = at + 1;
        if line.contains("fn get_") {
            found.push(format!("{n}: a getter is named by what it returns"));
        }
        for keyword in ["struct ", "enum ", "trait "] {
            let Some((_, rest)) = line.split_once(keyword) else { continue };
            let name = rest.split(|it: char| !it.is_alphanumeric()).next().unwrap_or_default();
            for empty in ["Manager", "Helper", "Helpers", "Util", "Utils"] {
                if name.ends_with(empty) {
                    found.push(format!("{n}: {name} does not say what it is"));
                }
            }
        }
    }
    found
}

/// Messages of error enums: lower case, no full stop, no "failed to".
pub(crate) fn error_texts(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        let Some((_, rest)) = line.split_once("#[error(\"") else { continue };
        let Some((message, _)) = rest.rsplit_once("\")]") else { continue };
        let n = at + 1;
        // `RocksDB` and the like keep their capitals.
        let word = message.split(' ').next().unwrap_or_default();
        let is_sentence =
            word.starts_with(char::is_uppercase) && !word.chars().skip(1).any(char::is_uppercase);
        if is_sentence {
            found.push(format!("{n}: the message begins with a capital"));
        }
        if message.ends_with('.') {
            found.push(format!("{n}: the message ends with a full stop"));
        }
        if message.contains("failed to") {
            found.push(format!("{n}: say `cannot …`, not `failed to …`"));
        }
    }
    found
}

#[test]
fn every_impure_word_is_refused_in_pure_crates_only() {
    for (sample, n) in [
        ("let a = std::time::Instant::now();", 2),
        ("use std::collections::HashMap;", 1),
        ("use std::collections::HashSet;", 1),
        ("std::time::SystemTime::UNIX_EPOCH", 1),
        ("let x = rand::random();", 1),
        ("std::env::var(\"A\")", 1),
        ("std::fs::read(path)", 1),
        ("tokio::spawn(async move {})", 2),
        ("std::thread::sleep(d)", 1),
        ("std::net::TcpStream::connect(a)", 1),
        ("entry.now() + operand + InstantiateNot", 0),
        ("// HashMap, Instant::now() and fs:: in words", 0),
        ("let a = \"HashMap\";", 0),
    ] {
        assert_eq!(purity(&one("topologies/src/a.rs", sample)).len(), n, "{sample}");
        assert_eq!(purity(&one("schemas/src/a.rs", sample)).len(), n, "{sample}");
        assert!(purity(&one("state/src/a.rs", sample)).is_empty(), "{sample}");
    }
    let in_tests = "#[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n}\n";
    assert!(purity(&one("schemas/src/a.rs", in_tests)).is_empty());
}

#[test]
fn what_is_too_long_is_refused() {
    let line = |n: usize| format!("//! {}\n", "x".repeat(n - 4));
    assert!(lengths(&one("a.rs", &line(100))).is_empty());
    assert_eq!(lengths(&one("a.rs", &line(101))), ["1: 101 characters, at most 100"]);
    let transcript = format!("let a = r#\"\n{}\"#;\n", line(200).replace("//!", "..."));
    assert!(lengths(&one("a.rs", &transcript)).is_empty());
    let golden = format!("    let why = expect![[r#\"{}\"#]];\n", line(200).trim());
    assert!(lengths(&one("a.rs", &golden)).is_empty());
    let call = format!("let a = \"{}\";\n", "x".repeat(100));
    assert_eq!(lengths(&one("a.rs", &call)).len(), 1);
    assert!(lengths(&one("a.rs", &line(10).repeat(500))).is_empty());
    assert_eq!(lengths(&one("a.rs", &line(10).repeat(501))), ["1: 501 lines, at most 500"]);
    let function = |n: usize| format!("fn f() {{\n{}}}\n", "    a();\n".repeat(n - 2));
    assert!(lengths(&one("a.rs", &function(70))).is_empty());
    assert_eq!(lengths(&one("a.rs", &function(71))), ["1: f has 71 lines, at most 70"]);
}

#[test]
fn a_file_without_a_head_is_refused() {
    assert!(head(&one("a.rs", "//! What it is for.\n")).is_empty());
    for sample in ["", "use a;\n", "//! tbd\n", "// What it is for.\n", "\n//! Too late here.\n"] {
        assert_eq!(head(&one("a.rs", sample)).len(), 1, "{sample:?}");
    }
    assert_eq!(no_mod_file(&one("src/a/mod.rs", "")).len(), 1);
    assert!(no_mod_file(&one("src/model.rs", "")).is_empty());
}

#[test]
fn unwraps_and_leftovers_are_refused() {
    for sample in [
        "x.unwrap();",
        "x.unwrap_err();",
        concat!("#[", "ignore]"),
        concat!("to", "do!()"),
        concat!("d", "bg!(x)"),
        concat!("unimpl", "emented!()"),
    ] {
        assert_eq!(leftovers(&one("src/a.rs", sample)).len(), 1, "{sample}");
    }
    assert!(leftovers(&one("tests/a.rs", "x.unwrap();")).is_empty());
    assert!(leftovers(&one("src/a.rs", "x.unwrap_or(1); // .unwrap()")).is_empty());
    assert_eq!(leftovers(&one("tests/a.rs", concat!("#[", "ignore = \"slow\"]"))).len(), 1);
}

#[test]
fn empty_names_are_refused() {
    for sample in ["pub fn get_head(&self) -> u8 {", "struct LogManager;", "enum StringUtils {"] {
        assert_eq!(names(&one("a.rs", sample)).len(), 1, "{sample}");
    }
    for sample in ["fn get(&self, key: &[u8])", "struct Management;", "fn target_of()"] {
        assert!(names(&one("a.rs", sample)).is_empty(), "{sample}");
    }
}

#[test]
fn error_messages_are_held_to_their_form() {
    let text = |message: &str| format!("    #[error(\"{message}\")]\n");
    for bad in ["Cannot open log", "cannot open log.", "failed to open log"] {
        assert_eq!(error_texts(&one("a.rs", &text(bad))).len(), 1, "{bad}");
    }
    for good in ["cannot open log", "offset 7 of {name} is corrupt", "RocksDB says {0}", "{0}"] {
        assert!(error_texts(&one("a.rs", &text(good))).is_empty(), "{good}");
    }
}
