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
        let _ = writeln!(stdout, "{}", printable(text));
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

    /// `text` in colour where that is wanted.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        if !is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty()) {
            return text.to_owned();
        }
        format!("\u{1b}[{}m{text}\u{1b}[0m", colour as u8)
    }
}

/// Colours by meaning; the number is the terminal's.
#[derive(Debug, Clone, Copy)]
pub enum Colour {
    /// Well.
    Good = 32,
    /// Worth a look.
    Warn = 33,
    /// Not well.
    Bad = 31,
    /// Beside the point.
    Dim = 2,
    /// A heading.
    Bold = 1,
}

/// Whether stdout is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// `text` without control characters and bidi overrides, but with our own colours kept.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.char_indices();
    while let Some((at, it)) = chars.next() {
        let colour = our_colour(&text[at..]);
        if it == '\u{1b}' && colour > 0 {
            clean.push_str(&text[at..at + colour]);
            chars.by_ref().take(colour - 1).for_each(drop);
        } else if it == '\n' || it == '\t' || !is_hostile(it) {
            clean.push(it);
        } else {
            clean.extend(it.escape_unicode());
        }
    }
    clean
}

fn is_hostile(it: char) -> bool {
    it.is_control()
        || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// Length of one of our own colour sequences at the front of `text`; 0 if there is none.
fn our_colour(text: &str) -> usize {
    const OURS: [&str; 6] =
        ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m"];
    OURS.iter().find(|it| text.starts_with(**it)).map_or(0, |it| it.len())
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
        assert_eq!(printable("\u{1b}[32mok\u{1b}[0m"), "\u{1b}[32mok\u{1b}[0m");
    }
}
