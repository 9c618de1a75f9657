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
    /// On a terminal it is broken between words.
    pub fn line(&self, text: &str) {
        let columns = if is_terminal() { columns() } else { usize::MAX };
        let mut stdout = io::stdout().lock();
        for line in broken(text, columns) {
            // A closed pipe means that the reader has seen enough.
            let _ = writeln!(stdout, "{}", coloured(&line));
        }
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
    /// separated by tabs, for `cut` and `awk`. On a terminal the last column, which holds
    /// sentences, is folded into the room that is left.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        if !is_terminal() {
            rows.iter().for_each(|row| self.line(&row.join("\t")));
            return;
        }
        lay(head, rows, columns()).iter().for_each(|it| self.line(it));
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

/// The narrowest room in which a sentence is folded beside other columns.
const ROOM_MIN: usize = 28;

/// The lines of a table on a screen of so many columns.
fn lay(head: &[&str], rows: &[Vec<String>], columns: usize) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|it| it.to_uppercase()).collect();
    let rows: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let Some(last) = head.len().checked_sub(1) else { return Vec::new() };
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..last).map(width).collect();
    let before = widths.iter().map(|it| it + 2).sum::<usize>();
    // Where nothing is left beside the other columns, sentences go below them.
    let indent = if before + ROOM_MIN <= columns { before } else { 4 };
    let room = columns.saturating_sub(indent).max(ROOM_MIN);
    let mut lines = Vec::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        let mut line: String = cells.collect();
        let mut folded = fold(&row[last], room).into_iter();
        if indent == before {
            line.push_str(&folded.next().unwrap_or_default());
        }
        lines.push(line.trim_end().to_owned());
        lines.extend(folded.map(|it| format!("{:indent$}{it}", "")));
    }
    lines
}

/// `text` in lines of at most `width`, broken between words.
fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut room = 0;
    for word in text.split_whitespace() {
        let n = word.chars().count();
        match lines.last_mut().filter(|_| n < room) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
                room -= n + 1;
            }
            None => {
                lines.push(word.to_owned());
                room = width.saturating_sub(n);
            }
        }
    }
    lines
}

/// A line broken between words where it is longer than `columns`; what follows is indented by two
/// more than it.
fn broken(text: &str, columns: usize) -> Vec<String> {
    if text.chars().count() <= columns {
        return vec![text.to_owned()];
    }
    let indent = text.chars().take_while(|it| *it == ' ').count();
    let (mut lines, mut rest, mut before) = (Vec::new(), text.to_owned(), indent);
    while rest.chars().count() > columns {
        let shown: Vec<char> = rest.chars().take(columns + 1).collect();
        let Some(at) = shown.iter().rposition(|it| *it == ' ').filter(|at| *at > before) else {
            // A word as wide as the screen is left to the terminal.
            break;
        };
        lines.push(shown[..at].iter().collect());
        let next: String = rest.chars().skip(at).collect();
        before = indent + 2;
        rest = format!("{:before$}{}", "", next.trim_start());
    }
    lines.push(rest);
    lines
}

/// Columns of the terminal; 80 where it does not say.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map(|it| usize::from(it.ws_col)).ok().filter(|it| *it > 0).unwrap_or(80)
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
    fn a_long_line_is_broken_between_words_and_keeps_its_indent() {
        assert_eq!(broken("  one two three", 80), ["  one two three"]);
        assert_eq!(broken("  one two three four", 11), ["  one two", "    three", "    four"]);
        let word = "x".repeat(20);
        assert_eq!(broken(&word, 10), [word.as_str()]);
        assert_eq!(broken(&format!("a {word} b"), 10), ["a".to_owned(), format!("  {word} b")]);
    }

    #[test]
    fn a_table_folds_its_sentences_into_the_room_that_is_left() {
        let rows = [vec!["+1.0 s".to_owned(), "12".to_owned(), "one two three four".to_owned()]];
        let head = ["after", "entry", "what"];
        let lines = lay(&head, &rows, 15 + ROOM_MIN);
        assert_eq!(lines, ["AFTER   ENTRY  WHAT", "+1.0 s  12     one two three four"]);
        let rows = [vec!["+1.0 s".to_owned(), "12".to_owned(), "word ".repeat(9)]];
        let lines = lay(&head, &rows, 15 + ROOM_MIN);
        assert_eq!(lines[1], "+1.0 s  12     word word word word word");
        assert_eq!(lines[2], "               word word word word");
        let lines = lay(&head, &rows, 30);
        assert_eq!(lines[3], "    word word word word word");
        assert!(lines.iter().all(|it| it.chars().count() <= 32), "{lines:?}");
    }

    #[test]
    fn a23_no_control_byte_of_the_journal_reaches_the_terminal() {
        let hostile = "a\u{1b}]0;title\u{7}b\u{1b}[2Jc\rd\u{202e}e\u{9b}31m";
        let clean = printable(hostile);
        assert!(!clean.chars().any(is_hostile), "{clean:?}");
        assert_eq!(coloured(&format!("{}ok{PLAIN}", Colour::Good.mark())), "\u{1b}[32mok\u{1b}[0m");
    }
}
