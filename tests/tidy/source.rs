//! Rust text taken apart just far enough: what is code, what is a comment or a string, what
//! belongs to tests, and where each function begins and ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One Rust file.
pub(crate) struct Source {
    /// Relative to the root of the repository.
    pub(crate) path: PathBuf,
    /// As it stands.
    pub(crate) text: String,
    /// The same lines with comments and the insides of strings blanked out.
    pub(crate) code: String,
    /// Whether the whole file is built for tests only.
    pub(crate) is_test: bool,
}

/// The files, with those marked that some parent declares under `cfg(test)`.
pub(crate) fn read(files: Vec<(PathBuf, String)>) -> Vec<Source> {
    let mut sources: Vec<Source> = files
        .into_iter()
        .map(|(path, text)| Source { code: blank(&text), is_test: is_test_path(&path), path, text })
        .collect();
    let test_only: BTreeSet<PathBuf> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let stem = source.path.with_extension("");
        source.is_test |= stem.ancestors().any(|it| test_only.contains(it));
    }
    sources
}

/// A single file, for samples.
pub(crate) fn one(path: &str, text: &str) -> Source {
    read(vec![(PathBuf::from(path), text.to_owned())]).remove(0)
}

impl Source {
    /// Lines of code outside tests, with their numbers.
    pub(crate) fn product_lines(&self) -> Vec<(usize, &str)> {
        if self.is_test {
            return Vec::new();
        }
        let inside = test_blocks(&self.code);
        let lines = self.code.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(|(n, _)| !inside.iter().any(|it| it.contains(n))).collect()
    }

    /// Name, first and last line of each function.
    pub(crate) fn functions(&self) -> Vec<(String, usize, usize)> {
        let lines: Vec<&str> = self.code.lines().collect();
        let mut functions = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            if let Some(end) = block_end(&lines, at) {
                functions.push((name, at + 1, end + 1));
            }
        }
        functions
    }
}

fn is_test_path(path: &Path) -> bool {
    path.components().any(|it| it.as_os_str() == "tests" || it.as_os_str() == "benches")
        || path.file_stem().is_some_and(|it| it == "tests")
}

/// Paths, without extension, of the modules that a file declares under `cfg(test)`.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let is_root = source.path.file_stem().is_some_and(|it| it == "lib" || it == "main");
    let directory = match is_root {
        true => source.path.parent().unwrap_or_else(|| Path::new("")).to_owned(),
        false => source.path.with_extension(""),
    };
    let lines: Vec<&str> = source.code.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    pairs
        .filter_map(|pair| {
            let name = pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ")?;
            Some(directory.join(name.strip_suffix(';')?))
        })
        .collect()
}

/// Line ranges of `#[cfg(test)]` blocks.
fn test_blocks(code: &str) -> Vec<std::ops::RangeInclusive<usize>> {
    let lines: Vec<&str> = code.lines().collect();
    let marked = (0..lines.len()).filter(|at| lines[*at].trim() == "#[cfg(test)]");
    marked.filter_map(|at| Some(at + 1..=block_end(&lines, at)? + 1)).collect()
}

/// The line on which the first block opened at or after `start` closes; none where a statement
/// ends first.
fn block_end(lines: &[&str], start: usize) -> Option<usize> {
    let mut depth = 0;
    let mut brackets = 0;
    for (at, line) in lines.iter().enumerate().skip(start) {
        for character in line.chars() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                ';' if depth == 0 && brackets == 0 => return None,
                _ => continue,
            }
            if depth == 0 && character == '}' {
                return Some(at);
            }
        }
    }
    None
}

fn function_name(line: &str) -> Option<String> {
    let at = line.find("fn ")?;
    let before = line[..at].trim();
    let known = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "default"];
    if !before.split_whitespace().all(|it| known.contains(&it)) {
        return None;
    }
    let rest = &line[at + 3..];
    let end = rest.find(|it: char| !it.is_alphanumeric() && it != '_')?;
    (end > 0).then(|| rest[..end].to_owned())
}

/// `text` with comments and the insides of strings and characters replaced by spaces; lines
/// stay where they are.
pub(crate) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (taken, keep) = token(rest, first);
        let (head, tail) = rest.split_at(taken);
        if keep {
            out.push_str(head);
        } else {
            out.extend(head.chars().map(|it| if it == '\n' { '\n' } else { ' ' }));
        }
        rest = tail;
    }
    out
}

/// Bytes of the next token, and whether it is code.
fn token(rest: &str, first: char) -> (usize, bool) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if let Some(n) = raw_string(rest) {
        return (n, false);
    }
    match first {
        '"' => (quoted(rest, '"'), false),
        '\'' if is_character(rest) => (quoted(rest, '\''), false),
        _ if first.is_alphanumeric() || first == '_' => {
            let end = rest.find(|it: char| !it.is_alphanumeric() && it != '_');
            // `b"` and `c"` begin a string; their letter is code of one byte.
            (end.unwrap_or(rest.len()), true)
        }
        _ => (first.len_utf8(), true),
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Bytes of a raw string, if one begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let body = ["br", "cr", "r"].iter().find_map(|it| rest.strip_prefix(it))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = inside.find(&close)?;
    Some(rest.len() - inside.len() + end + close.len())
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Whether a quote begins a character and not a lifetime.
fn is_character(rest: &str) -> bool {
    let mut characters = rest.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}

#[test]
fn comments_and_strings_are_no_code() {
    let text = "let a = \"now() { // no\"; // fs::\n/* a /* b */ c */ let b = r#\"\"}\"#;\n\
                let c = '{'; let d: &'static str = b\"\\\"}\"; '\\'';\n";
    let code = blank(text);
    assert_eq!(code.lines().count(), text.lines().count());
    for gone in ["now", "fs", "{", "}", "a /*", "\\"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    for kept in ["let a =", "let b =", "let c =", "'static str"] {
        assert!(code.contains(kept), "{kept} not in {code}");
    }
}

#[test]
fn test_blocks_and_test_files_are_told_from_the_product() {
    let lib = "//! Head.\nmod a;\n#[cfg(test)]\nmod stories;\nfn f() {}\n\
               #[cfg(test)]\nmod tests {\n    fn g() { x.unwrap() }\n}\nfn h() {}\n";
    let files = [("c/src/lib.rs", lib), ("c/src/stories.rs", "x"), ("c/src/stories/b.rs", "y")];
    let files = files.map(|(path, text)| (PathBuf::from(path), text.to_owned()));
    let sources = read(files.into());
    let product: Vec<usize> = sources[0].product_lines().iter().map(|it| it.0).collect();
    assert_eq!(product, [1, 2, 3, 4, 5, 10]);
    assert!(sources[1].is_test && sources[2].is_test && !sources[0].is_test);
    assert!(one("c/tests/suite/a.rs", "").is_test);
}

#[test]
fn functions_are_found_with_their_last_line() {
    let text = "impl A {\n    pub(crate) const fn a() -> [u8; 2] {\n        {}\n    }\n}\n\
                trait B {\n    fn b();\n    fn c() {}\n}\nlet f: fn (u8) = g;\n";
    let found = one("x.rs", text).functions();
    let found: Vec<_> = found.iter().map(|it| (it.0.as_str(), it.1, it.2)).collect();
    assert_eq!(found, [("a", 2, 4), ("c", 8, 8)]);
}
