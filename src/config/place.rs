//! Where in a file something is wrong: each complaint begins with FILE:LINE:COLUMN.

use std::string::FromUtf8Error;

use toml::de::{DeArray, DeTable};

use super::check::Wrong;
use super::{did_you_mean, nearest};

/// A TOML error with file, line, column and the near name.
pub(super) fn explain(name: &str, text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    let message = error.message();
    let near = unknown_field(message);
    let hint = hint(message);
    format!("{}: {message}{hint}{}", place(name, text, at), did_you_mean(near.as_deref()))
}

/// What would be right, where the parser says only what is wrong.
fn hint(message: &str) -> &'static str {
    let numbers = ["invalid float", "invalid integer", "invalid date", "invalid leading"];
    if message.contains("socket address") {
        "; an address and a port, as in `\"127.0.0.1:8080\"`"
    } else if numbers.iter().any(|it| message.contains(it)) {
        "; text stands in quotes, as in `\"127.0.0.1:8080\"`"
    } else {
        ""
    }
}

/// What is wrong with a file that reads, at the key that the sentence names.
pub(super) fn point(name: &str, text: &str, wrong: &Wrong) -> String {
    let sentence = format!("{:#}", wrong.why);
    let at = offset(text, &wrong.within, &sentence);
    format!("{}: {sentence}", place(name, text, at))
}

/// What is wrong with a file that is no text.
pub(super) fn not_text(name: &str, error: &FromUtf8Error) -> String {
    let (good, bad) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
    let good = String::from_utf8_lossy(good);
    let byte = bad.first().copied().unwrap_or_default();
    let place = place(name, &good, good.len());
    format!("{place}: byte 0x{byte:02x} is no UTF-8; save the file as UTF-8")
}

fn place(name: &str, text: &str, at: usize) -> String {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|it| *it != '\n').count() + 1;
    format!("{name}:{line}:{column}")
}

/// Where the first key stands that `sentence` names and that is there; else where the table
/// stands that it belongs in.
fn offset(text: &str, within: &str, sentence: &str) -> usize {
    let Ok(document) = DeTable::parse(text) else { return 0 };
    let table = document.get_ref();
    let named = sentence.split('`').skip(1).step_by(2);
    let places: Vec<Result<usize, usize>> =
        named.map(|key| find(table, within.split('.').chain(key.split('.')))).collect();
    if let Some(found) = places.iter().find_map(|it| it.ok()) {
        return found;
    }
    let table = find(table, within.split('.')).unwrap_or_else(|near| near);
    places.into_iter().filter_map(Result::err).fold(table, usize::max)
}

/// Where the key at the end of `path` stands, or in `Err` the last one on the way that is there.
fn find<'a>(root: &DeTable<'_>, path: impl Iterator<Item = &'a str>) -> Result<usize, usize> {
    let (mut table, mut array, mut at) = (Some(root), None, 0);
    for part in path.filter(|it| !it.is_empty()) {
        let key = table.and_then(|it| it.iter().find(|(key, _)| key.get_ref() == part));
        let item = array.and_then(|it: &DeArray<'_>| it.get(part.parse::<usize>().ok()?));
        let (start, value) = match (key, item) {
            (Some((key, value)), _) => (key.span().start, value.get_ref()),
            (None, Some(value)) => (value.span().start, value.get_ref()),
            (None, None) => return Err(at),
        };
        (table, array, at) = (value.as_table(), value.as_array(), start);
    }
    Ok(at)
}

/// From serde's "unknown field `x`, expected one of `a`, `b`", the expected name nearest to x.
fn unknown_field(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field `")?;
    let (given, expected) = rest.split_once('`')?;
    let names = expected.split('`').skip(1).step_by(2);
    nearest(given, names).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::config::Config;

    #[test]
    fn every_complaint_begins_with_file_line_and_column() {
        let shop = "[[service]]\nname = \"shop\"\nprobe_url = \"http://127.0.0.1:1/\"\n";
        for (text, said) in [
            ("# é\nprofile = \"lokal\"\n", "hw.toml:2:1: `profile` \"lokal\" is none of"),
            ("[numbers]\n  attempt_max = 3\n", "hw.toml:2:3: `numbers.attempt_max` is no number"),
            ("[numbers]\ndebounce_ms = \"5\"\n", "hw.toml:2:1: `numbers.debounce_ms`: invalid"),
            ("[numbers]\nattempts_max = -1\n", "hw.toml:2:1: `numbers.attempts_max`: invalid"),
            ("numbers.rings = [5]\n", "hw.toml:1:9: `rings` must rise"),
            (&format!("\n{shop}"), "hw.toml:2:1: service shop: `command` is empty"),
            (
                &format!("{shop}command = [\"x\"]\n{}", shop.replace("shop", "../x")),
                "hw.toml:6:1: service `name` \"../x\": ",
            ),
            ("\n[http]\nlisten = \"0.0.0.0:80\"\n", "hw.toml:3:1: `http.listen` can be"),
            ("[escalation]\nwebhook = \"ftp://x\"\n", "hw.toml:2:1: `escalation.webhook`"),
            ("http.listen = 127.0.0.1:1\n", "hw.toml:1:20: invalid float, expected nothing; text"),
            ("http.listen = \"1\"\n", "hw.toml:1:15: invalid socket address syntax; an address"),
            ("[escalation]\nca_file = \"x\"\n", "hw.toml:2:1: `escalation.ca_file` is given"),
            ("[kafka.tls]\ncert_file = \"a\"\n", "hw.toml:2:1: `kafka.tls.cert_file` and"),
            ("[schema_registry]\npassword_file = \"a\"\n", "hw.toml:2:1: `schema_registry.user"),
            ("[checkpoints]\nurl = \"ftp://a\"\n", "hw.toml:2:1: reading `checkpoints.url`"),
        ] {
            let error = format!("{:#}", Config::parse("hw.toml", text).unwrap_err());
            assert!(error.starts_with(said), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_byte_that_is_no_text_is_pointed_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hw.toml");
        std::fs::write(&path, b"# \xc3\xa9\n# \xc3\xa9 \xff\n").unwrap();
        let error = Config::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("hw.toml:2:5: byte 0xff is no UTF-8; save the file as UTF-8"));
    }
}
