//! The rules over documents and words.

/// Words that talk down to a reader or hide what happened.
const BANNED: [&str; 5] = ["simply", "oops", "obviously", "of course", "just works"];

/// Complaints about a Markdown document, as `line: why`.
pub(crate) fn complaints(text: &str) -> Vec<String> {
    let prose = without_code(text);
    let mut found = words(&prose);
    for (at, line) in prose.lines().enumerate() {
        // `![` is an image and `<!--` a comment.
        let line = line.replace("![", "").replace("<!--", "");
        if line.contains('!') {
            found.push(format!("{}: an exclamation mark", at + 1));
        }
    }
    found
}

/// Complaints about banned words, as `line: why`.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for word in BANNED {
            if is_spoken(&line, word) {
                found.push(format!("{}: the word {word:?}", at + 1));
            }
        }
    }
    found
}

/// Whether a word stands alone in a line; in quotation marks it is only mentioned.
fn is_spoken(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let stands_alone = |it: Option<char>| !it.is_some_and(char::is_alphanumeric);
        stands_alone(before) && stands_alone(after) && before != Some('"')
    })
}

/// `text` with code blocks and code spans blanked out.
fn without_code(text: &str) -> String {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence {
            lines.push(String::new());
            continue;
        }
        // Odd pieces lie between backticks.
        let pieces = line.split('`').enumerate();
        lines.push(pieces.filter(|(n, _)| n % 2 == 0).map(|(_, piece)| piece).collect());
    }
    lines.join("\n")
}

#[test]
fn loud_and_condescending_prose_is_refused() {
    for word in BANNED {
        assert_eq!(complaints(&format!("It {word} heals.")).len(), 1, "{word}");
        assert_eq!(complaints(&format!("\"{word}\" is mentioned, x{word}y is not it.")).len(), 0);
    }
    assert_eq!(complaints("It heals!"), ["1: an exclamation mark"]);
    let good = "Run `assert!(x)` and see ![a picture](b.png).\n```\necho !\n```\n<!-- a -->";
    assert_eq!(complaints(good), Vec::<String>::new());
    let after_code = format!("a\n```\nb\n```\n{}", BANNED[0]);
    assert_eq!(complaints(&after_code).len(), 1);
    assert!(complaints(&after_code)[0].starts_with("5: "));
}
