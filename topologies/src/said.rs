//! What the processors share when they speak: who said an entry, how a refusal is said, and
//! spans in words.
//!
//! A refused step is always an event with its reason (architecture.md, rule 7): an input that
//! has no event of its own for "no" is answered by an annotation on its entry.

use schemas::event::{AnnotationAdded, AnnotationKind};
use schemas::{Cause, Ns, Uuid, envelope};

use crate::fold::{Folded, Output};

/// Whether `processor` derived this entry. What a fold says never counts when it comes from
/// outside, however well it is copied (95-threats.md, A04).
pub fn by(entry: &Folded<'_>, processor: &str) -> bool {
    matches!(&entry.envelope.cause, Cause::Derived { by, .. } if by == processor)
}

/// Reference of the entry that this one was derived from.
pub fn from_reference(entry: &Folded<'_>) -> Option<String> {
    match &entry.envelope.cause {
        Cause::Derived { from, .. } => Some(envelope::reference(entry.envelope.partition, *from)),
        Cause::Observed { .. } | Cause::Owner { .. } => None,
    }
}

/// What stands for this entry in derived ids: partition and sequence.
pub fn place(entry: &Folded<'_>) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&entry.envelope.partition.to_be_bytes());
    bytes[4..].copy_from_slice(&entry.envelope.seq.to_be_bytes());
    bytes
}

/// `processor` refuses what this entry asks for; `sentence` names the rule and the command that
/// would change it.
pub fn refusal(entry: &Folded<'_>, processor: &str, sentence: impl Into<String>) -> Output {
    note(entry, processor, AnnotationKind::Correction, sentence.into())
}

/// `processor` states something about this entry.
pub fn note(entry: &Folded<'_>, processor: &str, kind: AnnotationKind, sentence: String) -> Output {
    let name: [&[u8]; 3] = [processor.as_bytes(), &place(entry), sentence.as_bytes()];
    let annotation = AnnotationAdded {
        id: Uuid::named("healwright/annotation/v1", &name),
        log_id: entry.reference(),
        kind,
        author: processor.to_owned(),
        data: sentence,
        created_at: entry.now(),
    };
    Output::new(entry.reference(), annotation).of_incident(entry.envelope.correlation.clone())
}

/// A span as people say it: `250 ms`, `4.3 s`, `10 min`, `1 h`.
pub fn span(span: Ns) -> String {
    let ms = span.as_ms();
    let whole =
        |unit: u64, name: &str| ms.is_multiple_of(unit).then(|| format!("{} {name}", ms / unit));
    if ms < 1_000 {
        return format!("{ms} ms");
    }
    let minutes = || whole(60_000, "min");
    let exact = if ms >= 3_600_000 {
        whole(3_600_000, "h").or_else(minutes)
    } else if ms >= 60_000 {
        minutes()
    } else {
        whole(1_000, "s")
    };
    exact.unwrap_or_else(|| match ms {
        3_600_000.. => format!("{:.1} h", ms as f64 / 3_600_000.0),
        60_000.. => format!("{:.1} min", ms as f64 / 60_000.0),
        _ => format!("{:.1} s", ms as f64 / 1_000.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_people_say_them() {
        let said: Vec<String> =
            [0, 250, 1_000, 4_300, 60_000, 90_000, 600_000, 3_600_000, 5_400_000, 4_000_000]
                .map(|ms| span(Ns::from_ms(ms)))
                .to_vec();
        let wanted =
            ["0 ms", "250 ms", "1 s", "4.3 s", "1 min", "1.5 min", "10 min", "1 h", "90 min"];
        assert_eq!(said[..9], wanted);
        assert_eq!(said[9], "1.1 h");
    }
}
