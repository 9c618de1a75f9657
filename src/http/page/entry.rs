//! Entry: what is stored, decoded and as bytes; its hash and place; the way to the signed root;
//! and the means to check all of that in the reader's own browser.
//!
//! The proof is a document of its own, so that the page stays small whatever an entry holds. It
//! carries the stored bytes: the browser derives the leaf from them and takes no hash on trust.

use std::fmt::Write as _;

use ledger::entry::EntryProof;
use schemas::ids::hex;
use schemas::{Cause, Entry, Envelope, Place};
use serde_json::{Value, json};

use super::html::{clip, esc, segment, shell};
use crate::out::local_time;
use crate::words;

/// Bytes of a decoded payload that are shown; the proof holds all of them.
const SHOWN: usize = 24 * 1024;
/// Stored bytes that are shown as digits.
const HEX_SHOWN: usize = 2 * 1024;

/// The page.
pub(super) fn render(entry: &Entry, proof: Option<&EntryProof>) -> String {
    let envelope = &entry.envelope;
    let text = entry.event().map_or_else(|it| it.to_string(), |it| words::sentence(&it));
    let mut main = format!("<h1>{}</h1><dl>", clip(&text));
    row(&mut main, "place", &esc(&envelope.reference()));
    row(&mut main, "type", &esc(&envelope.kind.topic()));
    row(&mut main, "by", &format!("{} ({})", clip(&envelope.actor.id), kind(entry)));
    row(&mut main, "written", &local_time(envelope.wall));
    row(&mut main, "comes from", &origin(envelope));
    if let Some(incident) = &envelope.correlation {
        let link = format!("<a href=\"/incidents/{}\">{}</a>", segment(incident), clip(incident));
        row(&mut main, "incident", &link);
    }
    row(&mut main, "leaf", &format!("<code>{}</code>", entry.leaf()));
    main.push_str("</dl>");
    around(&mut main, envelope.place());
    proven(&mut main, envelope.place(), proof);
    stored(&mut main, entry);
    shell(&format!("entry {}", envelope.place().short()), &main)
}

fn row(main: &mut String, name: &str, value: &str) {
    let _ = write!(main, "<dt>{name}<dd>{value}");
}

fn kind(entry: &Entry) -> &'static str {
    match entry.envelope.actor.kind {
        schemas::ActorKind::Agent => "a program",
        schemas::ActorKind::Human => "a person",
        schemas::ActorKind::System => "the control plane",
    }
}

fn origin(envelope: &Envelope) -> String {
    match &envelope.cause {
        Cause::Observed { stream, position } => {
            format!("outside: {}/{position}", schemas::event::stream_name(*stream))
        }
        Cause::Derived { by, from, .. } => {
            let from = Place { seq: *from, ..envelope.place() }.short();
            format!("<a href=\"/entries/{from}\">entry {from}</a>, folded by {}", esc(by))
        }
        Cause::Owner { epoch, n } => format!("the owner itself: epoch {epoch}, number {n}"),
    }
}

fn around(main: &mut String, place: Place) {
    let at = |seq: u64| Place { seq, ..place }.short();
    main.push_str("<p>");
    if let Some(before) = place.seq.checked_sub(1).map(at) {
        let _ = write!(main, "<a data-row id=\"before\" href=\"/entries/{before}\">before</a> · ");
    }
    let after = at(place.seq.saturating_add(1));
    let _ = write!(main, "<a data-row id=\"after\" href=\"/entries/{after}\">after</a></p>");
}

fn proven(main: &mut String, place: Place, proof: Option<&EntryProof>) {
    main.push_str("<h2 id=\"proof\">Proof</h2>");
    let Some(proof) = proof else {
        main.push_str(
            "<p class=\"card unknown\">… not yet: the next head is about to be signed. Load this \
             page again.</p>",
        );
        return;
    };
    let _ = write!(
        main,
        "<p>It stands under the signed head of {} entries; {} hashes lead from its leaf to the \
         root.</p><p><button id=\"verify\" data-proof=\"/entries/{}/proof\" hidden>verify in this \
         browser</button></p><ol id=\"checks\" aria-live=\"polite\"></ol>\
         <noscript><p class=\"dim\">Without script the browser cannot check it; \
         <code>healwright export --to bundle</code> and <code>healwright verify bundle</code> \
         check every entry.</p></noscript>",
        proof.size,
        proof.path.len(),
        place.short(),
    );
    let path: Vec<String> = proof.path.iter().map(ToString::to_string).collect();
    let _ = write!(
        main,
        "<details id=\"path\"><summary>inclusion proof and signed head</summary>\
         <pre>{}\n\n{}</pre></details>",
        path.join("\n"),
        esc(&String::from_utf8_lossy(&proof.checkpoint)),
    );
}

fn stored(main: &mut String, entry: &Entry) {
    let view = schemas::view::entry(entry);
    let json = serde_json::to_string_pretty(&view).unwrap_or_default();
    let _ = write!(main, "<h2>Decoded</h2><pre>{}</pre>", esc(cut(&json, SHOWN)));
    if json.len() > SHOWN {
        let _ = write!(
            main,
            "<p class=\"dim\">The first {SHOWN} of {} bytes; \
             <code>healwright explain {} -o json</code> prints the rest.</p>",
            json.len(),
            entry.envelope.seq
        );
    }
    main.push_str(
        "<details id=\"bytes\"><summary>the stored bytes</summary><p class=\"dim\">The leaf is \
         SHA-256 of a zero byte and the envelope. The envelope ends in the commitment: SHA-256 of \
         a domain, the salt and the payload.</p>",
    );
    for (name, bytes) in [
        ("envelope", entry.envelope_bytes.as_slice()),
        ("salt", &entry.salt),
        ("payload", &entry.payload),
    ] {
        let shown = &bytes[..bytes.len().min(HEX_SHOWN)];
        let more = if bytes.len() > HEX_SHOWN { " …" } else { "" };
        let _ = write!(
            main,
            "<p class=\"dim\">{name}, {} bytes</p><pre>{}{more}</pre>",
            bytes.len(),
            hex(shown)
        );
    }
    main.push_str("</details>");
}

/// The beginning of `text`, at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|it| text.is_char_boundary(*it)).unwrap_or(0);
    &text[..end]
}

/// Everything that a browser needs to check the entry from its stored bytes.
pub(super) fn document(entry: &Entry, proof: &EntryProof) -> Value {
    let key = &proof.epoch_key;
    json!({
        "schema": "healwright.entry-proof.v1",
        "envelope": hex(&entry.envelope_bytes),
        "salt": hex(&entry.salt),
        "payload": hex(&entry.payload),
        // Decimal strings: a browser's numbers end at 2^53.
        "index": proof.index.to_string(),
        "size": proof.size.to_string(),
        "path": proof.path.iter().map(|it| hex(&it.0)).collect::<Vec<_>>(),
        "note": String::from_utf8_lossy(&proof.checkpoint),
        "deployment": key.deployment,
        "partition": key.partition,
        "epoch": key.epoch.to_string(),
        "epoch_key": key.key,
        "root_key": key.certificate.root,
        "node_key": key.certificate.node,
        "node_signature": key.certificate.node_signature,
        "epoch_signature": key.certificate.epoch_signature,
    })
}
