//! Curves as inline SVG, rendered here: no script draws anything.
//!
//! A slot without a value is a gap in the line, and its place is grey: nothing unknown looks
//! good. Lines lie in a picture that stretches with the page; texts and marks do not, so they
//! are as large on a phone as on a desk. Styles stand in the stylesheet, because the content
//! policy allows none inline.

use std::fmt::Write as _;

use schemas::Ns;

use super::html::esc;
use crate::projection::sli::Indicator;
use crate::words;

/// Height of the picture that a line is drawn in, in its own units; the width is the number of
/// slots.
const HEIGHT: f64 = 100.0;

/// What is drawn, and what it is held against.
pub(super) struct Drawn<'a> {
    pub(super) of: Indicator,
    pub(super) values: &'a [Option<f64>],
    pub(super) objective: f64,
}

/// A moment that is marked on a curve.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moment {
    pub(super) name: &'static str,
    pub(super) at: Ns,
}

/// The time that a curve covers.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Ns,
    pub(super) to: Ns,
}

impl Span {
    fn share(self, at: Ns) -> f64 {
        let whole = self.to.since(self.from).as_s().max(1e-9);
        (at.since(self.from).as_s() / whole).clamp(0.0, 1.0)
    }
}

impl Drawn<'_> {
    /// The value at the top of the picture.
    fn top(&self) -> f64 {
        match self.of {
            Indicator::Answers | Indicator::Probes => 1.0,
            Indicator::Latency => {
                let highest = self.values.iter().flatten().copied().fold(self.objective, f64::max);
                (highest * 1.1).max(1.0)
            }
        }
    }

    /// Where a value lies, with a margin for the thickness of the line.
    fn y(&self, value: f64) -> f64 {
        let share = (value / self.top()).clamp(0.0, 1.0);
        HEIGHT - 4.0 - share * (HEIGHT - 8.0)
    }

    /// What the curve shows, for those who cannot see it.
    fn told(&self) -> String {
        let seen: Vec<f64> = self.values.iter().flatten().copied().collect();
        let n_missed = seen.iter().filter(|it| !self.of.keeps(**it, self.objective)).count();
        let objective = self.of.asks(self.objective);
        if seen.is_empty() {
            return format!("{}: no data; the objective is {objective}", self.of.name());
        }
        format!(
            "{}: {} of {} slots measured, {n_missed} of them outside the objective ({objective})",
            self.of.name(),
            seen.len(),
            self.values.len(),
        )
    }

    /// Gaps, objective, line and misses, in the units of the picture.
    fn picture(&self) -> String {
        let mut out = String::new();
        let gaps = runs(self.values, |it| it.is_none());
        if !gaps.is_empty() {
            let gaps = gaps.iter().map(|(from, to)| format!("M{from} 0H{to}V{HEIGHT}H{from}z"));
            let _ = write!(out, "<path class=\"gap\" d=\"{}\"/>", gaps.collect::<String>());
        }
        let n = self.values.len();
        let objective = self.y(self.objective);
        let _ = write!(out, "<path class=\"objective\" d=\"M0 {objective:.1}H{n}\"/>");
        let line = self.path(|_| true);
        let missed = self.path(|it| !self.of.keeps(it, self.objective));
        let _ = write!(out, "<path class=\"line\" d=\"{line}\"/>");
        if !missed.is_empty() {
            let _ = write!(out, "<path class=\"missed\" d=\"{missed}\"/>");
        }
        out
    }

    /// Steps: a value holds for its whole slot and for nothing beside it.
    fn path(&self, wanted: impl Fn(f64) -> bool) -> String {
        let mut out = String::new();
        let mut ends_at = None;
        for (n, value) in self.values.iter().enumerate() {
            let Some(value) = value.filter(|it| wanted(*it)) else { continue };
            let y = self.y(value);
            let _ = match ends_at == Some(n) {
                true => write!(out, "V{y:.1}H{}", n + 1),
                false => write!(out, "M{n} {y:.1}H{}", n + 1),
            };
            ends_at = Some(n + 1);
        }
        out
    }
}

/// Runs of slots for which `wanted` holds, as first and end.
fn runs<T>(slots: &[T], wanted: impl Fn(&T) -> bool) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (n, slot) in slots.iter().enumerate() {
        if !wanted(slot) {
            continue;
        }
        match found.last_mut() {
            Some((_, end)) if *end == n => *end = n + 1,
            _ => found.push((n, n + 1)),
        }
    }
    found
}

/// A curve in the height of a line of text.
pub(super) fn sparkline(drawn: &Drawn<'_>) -> String {
    let told = esc(&drawn.told());
    format!(
        "<svg class=\"spark\" role=\"img\" aria-label=\"{told}\" viewBox=\"0 0 {} {HEIGHT}\" \
         preserveAspectRatio=\"none\"><title>{told}</title>{}</svg>",
        drawn.values.len(),
        drawn.picture()
    )
}

/// Pixels from the top of a chart to the line's picture, for each row of marks.
const MARK_ROW: usize = 16;
/// Pixels of the line's picture.
const PLOT: usize = 120;

/// A curve with its axis and the moments marked, each with its time since the first of them.
pub(super) fn chart(drawn: &Drawn<'_>, span: Span, moments: &[Moment]) -> String {
    let top = MARK_ROW * moments.len() + 8;
    let (bottom, height) = (top + PLOT, top + PLOT + 20);
    let told = esc(&drawn.told());
    let mut out = format!(
        "<svg class=\"chart\" role=\"img\" aria-label=\"{told}\" width=\"100%\" \
         height=\"{height}\"><title>{told}</title>\
         <svg x=\"0\" y=\"{top}\" width=\"100%\" height=\"{PLOT}\" viewBox=\"0 0 {} {HEIGHT}\" \
         preserveAspectRatio=\"none\"><rect class=\"plot\" width=\"100%\" \
         height=\"100%\"/>{}</svg>",
        drawn.values.len(),
        drawn.picture()
    );
    let onset = moments.first().map_or(span.from, |it| it.at);
    for (row, moment) in moments.iter().enumerate() {
        mark(&mut out, span.share(moment.at), row, bottom, &label(moment, onset));
    }
    let y = top as f64 + drawn.y(drawn.objective) * PLOT as f64 / HEIGHT;
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"4\" y=\"{:.0}\">objective: {}</text>\
         <text class=\"axis\" x=\"0\" y=\"{}\">{}</text>\
         <text class=\"axis end\" x=\"100%\" y=\"{}\">{}</text></svg>",
        // Above the line, where there is room.
        if y < top as f64 + 20.0 { y + 14.0 } else { y - 5.0 },
        esc(&drawn.of.asks(drawn.objective)),
        bottom + 15,
        since(span.from, onset),
        bottom + 15,
        since(span.to, onset),
    );
    out
}

fn mark(out: &mut String, share: f64, row: usize, bottom: usize, label: &str) {
    let (x, y) = (share * 100.0, MARK_ROW * row + 13);
    let side = if share > 0.6 { " end" } else { "" };
    let dx = if share > 0.6 { -4 } else { 4 };
    let _ = write!(
        out,
        "<line class=\"mark\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"{}\" y2=\"{bottom}\"/>\
         <text class=\"mark{side}\" x=\"{x:.2}%\" dx=\"{dx}\" y=\"{y}\">{label}</text>",
        y - 10,
    );
}

fn label(moment: &Moment, onset: Ns) -> String {
    match moment.at == onset {
        true => moment.name.to_owned(),
        false => format!("{} {}", moment.name, since(moment.at, onset)),
    }
}

/// A time since the onset, signed.
pub(super) fn since(at: Ns, onset: Ns) -> String {
    match at >= onset {
        true => format!("+{}", words::span(at.since(onset).as_s())),
        false => format!("−{}", words::span(onset.since(at).as_s())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use expect_test::{Expect, expect};

    use super::*;

    fn drawn(values: &[Option<f64>]) -> Drawn<'_> {
        Drawn { of: Indicator::Answers, values, objective: 0.95 }
    }

    fn check(values: &[Option<f64>], picture: &Expect) {
        picture.assert_eq(&drawn(values).picture().replace("/><", "/>\n<"));
    }

    #[test]
    fn a_slot_without_data_is_a_gap_and_never_a_value() {
        check(
            &[Some(1.0), None, None, Some(0.5), Some(1.0)],
            &expect![[r#"
                <path class="gap" d="M1 0H3V100H1z"/>
                <path class="objective" d="M0 8.6H5"/>
                <path class="line" d="M0 4.0H1M3 50.0H4V4.0H5"/>
                <path class="missed" d="M3 50.0H4"/>"#]],
        );
    }

    #[test]
    fn what_nothing_is_known_of_has_no_line() {
        check(
            &[None, None],
            &expect![[r#"
                <path class="gap" d="M0 0H2V100H0z"/>
                <path class="objective" d="M0 8.6H2"/>
                <path class="line" d=""/>"#]],
        );
        assert!(drawn(&[None]).told().contains("no data"));
    }

    #[test]
    fn moments_are_marked_where_they_were() {
        let span = Span { from: Ns::from_s(100), to: Ns::from_s(140) };
        let moments = [
            Moment { name: "onset", at: Ns::from_s(110) },
            Moment { name: "healed", at: Ns::from_s(130) },
        ];
        let values = [Some(1.0); 4];
        let chart = chart(&drawn(&values), span, &moments);
        assert!(chart.contains("x1=\"25.00%\"") && chart.contains(">onset<"), "{chart}");
        assert!(chart.contains("x1=\"75.00%\"") && chart.contains(">healed +20.0 s<"), "{chart}");
        assert!(chart.contains(">−10.0 s<") && chart.contains(">+30.0 s<"), "{chart}");
    }
}
