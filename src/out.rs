//! What goes to standard output, and how: a table for people, JSON for programs.
//!
//! Data goes to stdout and everything else to stderr. A reader that closes the pipe early is no
//! error. Colour only where stdout is a terminal and `NO_COLOR` is not set.

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::{Value, json};

use crate::cli::Form;

/// The way out.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    /// Table or JSON.
    pub form: Form,
    /// Say only what was asked for.
    pub quiet: bool,
}

impl Out {
    /// One line of data. Control characters from the journal never reach the terminal (A23).
    pub fn line(&self, text: &str) {
        let mut stdout = io::stdout().lock();
        // A closed pipe means that the reader has seen enough.
        let _ = writeln!(stdout, "{}", coloured(text));
    }

    /// One JSON document on one line.
    pub fn json(&self, value: &Value) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{value}");
    }

    /// A remark beside the data, unless `--quiet`.
    pub fn remark(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{}", printable(text));
        }
    }

    /// An error: one line, or a JSON object where JSON was asked for.
    pub fn error(&self, code: &str, message: &str) {
        let mut stderr = io::stderr().lock();
        let _ = match self.form {
            Form::Table => writeln!(stderr, "error: {}", printable(message)),
            Form::Json => {
                let body = json!({ "error": { "code": code, "message": message } });
                writeln!(stderr, "{body}")
            }
        };
    }

    /// Columns under a head. Without a terminal the head is left out and the columns are
    /// separated by tabs, for `cut` and `awk`.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        if !is_terminal() {
            rows.iter().for_each(|row| self.line(&row.join("\t")));
            return;
        }
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let head: Vec<String> = head.iter().map(|it| it.to_uppercase()).collect();
        for row in std::iter::once(&head).chain(rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            self.line(cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }

    /// `text` in colour, where that is wanted. The colour stands in it as a mark that only
    /// [`Out::line`] turns into a sequence: nothing else of a text ever reaches the terminal as
    /// one.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        if !is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty()) {
            return text.to_owned();
        }
        format!("{}{text}{PLAIN}", colour.mark())
    }
}

/// Ends a colour; of the Unicode range that stands for nothing.
const PLAIN: char = '\u{f8e0}';

impl Colour {
    fn mark(self) -> char {
        char::from_u32(PLAIN as u32 + self as u32).unwrap_or(PLAIN)
    }

    /// The terminal's sequence of a mark, if it is one.
    fn sequence(mark: char) -> Option<&'static str> {
        let of = |colour: Colour| colour.mark() == mark;
        match mark {
            PLAIN => Some("\u{1b}[0m"),
            _ if of(Colour::Bold) => Some("\u{1b}[1m"),
            _ if of(Colour::Dim) => Some("\u{1b}[2m"),
            _ if of(Colour::Bad) => Some("\u{1b}[31m"),
            _ if of(Colour::Good) => Some("\u{1b}[32m"),
            _ if of(Colour::Warn) => Some("\u{1b}[33m"),
            _ => None,
        }
    }
}

/// Colours by meaning.
#[derive(Debug, Clone, Copy)]
pub enum Colour {
    /// Well.
    Good = 1,
    /// Worth a look.
    Warn = 2,
    /// Not well.
    Bad = 3,
    /// Beside the point.
    Dim = 4,
    /// A heading.
    Bold = 5,
}

/// Whether stdout is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// `text` without control characters and bidi overrides: they are shown as escapes.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for it in text.chars() {
        if it == '\n' || it == '\t' || !is_hostile(it) {
            clean.push(it);
        } else {
            clean.extend(it.escape_unicode());
        }
    }
    clean
}

/// [`printable`], with our own marks as colours.
fn coloured(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for it in printable(text).chars() {
        match Colour::sequence(it) {
            Some(sequence) => clean.push_str(sequence),
            None => clean.push(it),
        }
    }
    clean
}

fn is_hostile(it: char) -> bool {
    it.is_control()
        || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// A wall time on screen: local, with its offset.
pub fn local_time(at: schemas::Ns) -> String {
    let Ok(at) = jiff::Timestamp::from_nanosecond(i128::from(at.0)) else { return String::new() };
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a23_no_control_byte_of_the_journal_reaches_the_terminal() {
        let hostile = "a\u{1b}]0;title\u{7}b\u{1b}[2Jc\rd\u{202e}e\u{9b}31m";
        let clean = printable(hostile);
        assert!(!clean.chars().any(is_hostile), "{clean:?}");
        assert_eq!(coloured(&format!("{}ok{PLAIN}", Colour::Good.mark())), "\u{1b}[32mok\u{1b}[0m");
    }
}
