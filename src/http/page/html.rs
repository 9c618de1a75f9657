//! What every page shares: its frame, its marks, and the escape that text from the journal
//! passes through.

use schemas::event::{Health, IncidentStatus};

use crate::engine::wall_now;
use crate::out::local_time;
use crate::projection::IncidentView;

/// No page grows beyond about this (design: under 100 KB); what is left out is said.
pub(super) const BYTES_MAX: usize = 88 * 1024;
/// Characters of one text from the journal that a list shows; its entry shows all of them.
const CLIPPED: usize = 240;

/// Text that cannot become markup.
pub(super) fn esc(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for it in crate::out::printable(text).chars() {
        match it {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(it),
        }
    }
    safe
}

/// The beginning of a text, escaped.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(CLIPPED) {
        Some((end, _)) => format!("{} …", esc(&text[..end])),
        None => esc(text),
    }
}

/// A path segment: an id from the journal may hold what ends a path.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The frame around a page.
pub(super) fn shell(title: &str, main: &str) -> String {
    let now = local_time(wall_now());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} — Healwright</title><link rel=\"stylesheet\" href=\"/style.css\">\
         <link rel=\"icon\" href=\"data:,\"></head><body>\
         <header><strong><a href=\"/\">Healwright</a></strong>\
         <form action=\"/\" role=\"search\"><input id=\"search\" name=\"q\" type=\"search\" \
         placeholder=\"find an incident\" aria-label=\"find an incident\" \
         maxlength=\"100\"></form>\
         <span class=\"end\"><span id=\"refreshed\">as of {now}, not live</span> \
         <button id=\"pause\" hidden>pause</button></span></header>\
         <p id=\"keys\" class=\"card\" hidden><kbd>j</kbd> and <kbd>k</kbd> move · \
         <kbd>enter</kbd> opens · <kbd>u</kbd> goes up · <kbd>/</kbd> finds · \
         <kbd>?</kbd> hides this</p>\
         <main>{main}</main><footer class=\"dim\"><span id=\"hint\" hidden>\
         <kbd>?</kbd> lists the keys</span></footer>\
         <script src=\"/live.js\" defer></script>\
         <script src=\"/verify.js\" defer></script></body></html>"
    )
}

/// A page for something that is not there.
pub(super) fn missing(what: &str, id: &str) -> String {
    let main = format!(
        "<h1>No {what} {}</h1><p>It may be older than what is shown here; \
         <code>healwright {} list</code> reads the whole journal.</p><p><a href=\"/\">Now</a></p>",
        clip(id),
        if what == "entry" { "events" } else { what }
    );
    shell("not found", &main)
}

/// The class of a colour.
pub(super) fn class(health: Health) -> &'static str {
    match health {
        Health::Green => "ok",
        Health::Amber => "amber",
        Health::Red => "red",
        Health::Unknown => "unknown",
    }
}

/// Where an incident stands, as a mark.
pub(super) fn status(view: &IncidentView) -> &'static str {
    match view.incident.status {
        IncidentStatus::Resolved => "<span class=\"ok\">● resolved</span>",
        IncidentStatus::Open | IncidentStatus::Mitigating if view.escalated => {
            "<span class=\"amber\">▲ with people</span>"
        }
        IncidentStatus::Mitigating => "<span class=\"amber\">▲ being healed</span>",
        IncidentStatus::Open => "<span class=\"red\">■ open</span>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a23_nothing_from_the_journal_becomes_markup() {
        let hostile = "<script>alert('1')</script>\u{202e}\u{1b}[31m\"";
        let safe = esc(hostile);
        assert!(!safe.contains('<') && !safe.contains('\u{1b}') && !safe.contains('\u{202e}'));
        assert_eq!(esc("a < b & 'c'"), "a &lt; b &amp; &#39;c&#39;");
        assert_eq!(segment("../x?a=\"<"), "..%2Fx%3Fa%3D%22%3C");
        assert_eq!(clip(&"é".repeat(300)).chars().count(), CLIPPED + 2);
    }
}
