//! The drawing: a row for each processor, a lane for each event, a mark where one says or reads
//! the other.
//!
//! A grid has no edges to route and so none that cross: what a processor reads and says is its
//! row, who says and reads an event is its lane, and the loop runs from top to bottom. A lane
//! whose ring lies above its dot is where the loop closes: it is read with the next entry.
//!
//! Colours follow the reader's light or dark page; dot and ring differ in shape as well. Nothing
//! is fetched, no script runs, and the font is the page's own.

use std::fmt::Write as _;

use super::{Event, Topology};

/// Width of the names on the left, and of the room that slanted names need on the right.
const LEFT: usize = 130;
const RIGHT: usize = 120;
/// Height of the names on top.
const TOP: usize = 128;
const LANE: usize = 30;
const ROW: usize = 30;
const LEGEND: usize = 56;
/// Radius of a ring and of a dot, which fits into one: some say what they also read.
const RING: usize = 7;
const DOT: usize = 4;

const STYLE: &str = "
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .row { stroke: #d0d7de } .lane { stroke: #8c959f; stroke-width: 1.5 }
    .says circle { fill: #0969da; stroke: #0969da }
    .reads circle { fill: #ffffff; stroke: #9a6700; stroke-width: 2 }
    .back { fill: #ffffff } .outside { stroke-dasharray: 3 3 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .back { fill: #0d1117 }
      .row { stroke: #30363d } .lane { stroke: #6e7681 }
      .says circle { fill: #4493f8; stroke: #4493f8 }
      .reads circle { fill: #0d1117; stroke: #d29922 }
    }
  ";

pub(super) fn draw(topology: &Topology) -> String {
    let (n_rows, n_lanes) = (topology.processors.len(), topology.events.len());
    let (width, rows_end) = (LEFT + n_lanes * LANE + RIGHT, TOP + n_rows * ROW);
    let height = rows_end + LEGEND;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-labelledby=\"name what\">\n  \
         <title id=\"name\">The loop</title>\n  \
         <desc id=\"what\">A row for each processor in the order of the loop, a lane for each \
         event. A dot: says it. A ring: reads it.</desc>\n  <style>{STYLE}</style>\n  \
         <rect class=\"back\" width=\"{width}\" height=\"{height}\"/>\n"
    );
    for (idx, it) in topology.processors.iter().enumerate() {
        let (y, end) = (row(idx), LEFT + n_lanes * LANE);
        let (at, name) = (LEFT - 16, &it.name);
        put(&mut out, &format!("<path class=\"row\" d=\"M{LEFT} {y}H{end}\"/>"));
        let place = format!("x=\"{at}\" y=\"{}\" text-anchor=\"end\"", y + 4);
        put(&mut out, &format!("<text {place}>{name}</text>"));
    }
    for (idx, it) in topology.events.iter().enumerate() {
        lane(&mut out, topology, idx, it);
    }
    legend(&mut out, rows_end + 34);
    out + "</svg>\n"
}

fn lane(out: &mut String, topology: &Topology, idx: usize, event: &Event) {
    let (x, name) = (LEFT + idx * LANE + LANE / 2, &event.name);
    let touched = || event.said_by.iter().chain(&event.read_by).copied();
    let (first, last) = (touched().min().unwrap_or(0), touched().max().unwrap_or(0));
    let (top, bottom) = (row(first), row(last));
    // From its name down to where it is first met the lane only leads the eye.
    let lead = TOP - 4;
    put(out, &format!("<path class=\"lane outside\" d=\"M{x} {lead}V{top}\"/>"));
    put(out, &format!("<path class=\"lane\" d=\"M{x} {top}V{bottom}\"/>"));
    let y = TOP - 10;
    put(
        out,
        &format!(
            "<text class=\"event\" x=\"{x}\" y=\"{y}\" transform=\"rotate(-45 {x} {y})\">\
             {name}</text>"
        ),
    );
    for (kind, radius, rows) in [("reads", RING, &event.read_by), ("says", DOT, &event.said_by)] {
        for by in rows {
            let (y, who) = (row(*by), &topology.processors[*by].name);
            put(
                out,
                &format!(
                    "<g class=\"mark {kind}\"><title>{who} {kind} {name}</title>\
                     <circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/></g>"
                ),
            );
        }
    }
}

fn legend(out: &mut String, y: usize) {
    for (n, (kind, radius)) in [("says", DOT), ("reads", RING)].into_iter().enumerate() {
        let (x, middle) = (LEFT + 15 + n * 90, y - 4);
        put(
            out,
            &format!(
                "<g class=\"{kind}\"><circle cx=\"{x}\" cy=\"{middle}\" r=\"{radius}\"/></g>\
                 <text x=\"{}\" y=\"{y}\">{kind}</text>",
                x + 14
            ),
        );
    }
    let x = LEFT + 200;
    let note = "A ring above its dot is read in the next round. No dot: it comes from outside.";
    put(out, &format!("<text x=\"{x}\" y=\"{y}\">{note}</text>"));
}

fn row(idx: usize) -> usize {
    TOP + idx * ROW + ROW / 2
}

fn put(out: &mut String, element: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "  {element}");
}
