//! `healwright topology`: which processor reads what and says what, as text, for Graphviz, and as
//! a drawing.
//!
//! It is read from `topologies/loop.toml`, which a test of that crate compares with the code, so
//! that what is drawn is what runs. It opens no log and asks no node.
//!
//! Invariants:
//! - Processors stand in the order of the loop, the order in which each entry reaches them.
//! - Events stand in the order in which the loop first meets them: what comes from outside just
//!   before its first reader, everything else with its first speaker.

mod svg;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;

use crate::cli::{self, Form, Picture};
use crate::out::Out;

/// The declaration as the file holds it.
#[derive(Debug, Deserialize)]
struct Declared {
    processor: Vec<Processor>,
}

/// One processor of the loop.
#[derive(Debug, Deserialize)]
struct Processor {
    name: String,
    reads: Vec<String>,
    says: Vec<String>,
}

/// The loop: its processors, and the events between them.
#[derive(Debug)]
pub struct Topology {
    processors: Vec<Processor>,
    events: Vec<Event>,
}

/// An event, and which processors it connects; they are numbers in the order of the loop.
#[derive(Debug)]
struct Event {
    name: String,
    said_by: Vec<usize>,
    read_by: Vec<usize>,
}

/// Prints the topology.
///
/// # Errors
/// The declaration that was compiled in does not read.
pub fn run(out: Out, args: &cli::Topology) -> anyhow::Result<bool> {
    let topology = Topology::declared()?;
    let text = match args.format {
        Picture::Text if out.form == Form::Json => {
            out.json(&topology.json());
            return Ok(true);
        }
        Picture::Text => topology.text(),
        Picture::Dot => topology.dot(),
        Picture::Svg => topology.svg(),
    };
    out.line(text.trim_end());
    Ok(true)
}

impl Topology {
    /// The loop of this program.
    ///
    /// # Errors
    /// The declaration that was compiled in does not read.
    pub fn declared() -> anyhow::Result<Self> {
        Topology::parse(topologies::LOOP).context("reading topologies/loop.toml")
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let declared: Declared = toml::from_str(text)?;
        let mut events: Vec<Event> = Vec::new();
        for (idx, processor) in declared.processor.iter().enumerate() {
            for name in &processor.reads {
                event(&mut events, name).read_by.push(idx);
            }
            for name in &processor.says {
                event(&mut events, name).said_by.push(idx);
            }
        }
        events.sort_by_key(Event::met);
        Ok(Topology { processors: declared.processor, events })
    }

    /// One block for each processor, and what the loop shares with the world.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for (idx, it) in self.processors.iter().enumerate() {
            lines.push(format!("{:>2}  {}", idx + 1, it.name));
            for (verb, names) in [("reads", &it.reads), ("says ", &it.says)] {
                let indented = names.iter().enumerate().map(|(n, name)| {
                    let verb = if n == 0 { verb } else { "     " };
                    format!("      {verb}  {name}")
                });
                lines.extend(indented);
            }
        }
        for (what, events) in [("from outside", self.inputs()), ("for people", self.ends())] {
            lines.push(format!("{what}: {}", events.join(", ")));
        }
        lines.join("\n") + "\n"
    }

    /// A graph for Graphviz: boxes are processors, ellipses events.
    pub fn dot(&self) -> String {
        let mut lines = vec![
            "digraph healwright {".to_owned(),
            "  rankdir=LR; node [fontname=\"sans-serif\"];".to_owned(),
        ];
        lines.extend(self.processors.iter().map(|it| format!("  {:?} [shape=box];", it.name)));
        for it in &self.events {
            lines.push(format!("  \"{}\" [shape=ellipse];", it.name));
            let name = |idx: &usize| &self.processors[*idx].name;
            let said = it.said_by.iter().map(|by| format!("  {:?} -> {:?};", name(by), it.name));
            let read = it.read_by.iter().map(|by| format!("  {:?} -> {:?};", it.name, name(by)));
            lines.extend(said.chain(read));
        }
        lines.push("}".to_owned());
        lines.join("\n") + "\n"
    }

    /// The drawing.
    pub fn svg(&self) -> String {
        svg::draw(self)
    }

    fn json(&self) -> serde_json::Value {
        let processors = self
            .processors
            .iter()
            .map(|it| json!({ "name": it.name, "reads": it.reads, "says": it.says }));
        json!({
            "schema": "healwright.topology.v1",
            "processors": processors.collect::<Vec<_>>(),
            "from_outside": self.inputs(),
            "for_people": self.ends(),
        })
    }

    /// Events that no processor says.
    fn inputs(&self) -> Vec<&str> {
        self.names(|it| it.said_by.is_empty())
    }

    /// Events that no processor reads.
    fn ends(&self) -> Vec<&str> {
        self.names(|it| it.read_by.is_empty())
    }

    fn names(&self, wanted: impl Fn(&Event) -> bool) -> Vec<&str> {
        self.events.iter().filter(|it| wanted(it)).map(|it| it.name.as_str()).collect()
    }
}

impl Event {
    /// Where the loop first meets it; its name settles ties.
    fn met(&self) -> (usize, bool, String) {
        let speaker = self.said_by.first();
        let at = speaker.or_else(|| self.read_by.first()).copied().unwrap_or(0);
        (at, speaker.is_some(), self.name.clone())
    }
}

/// The event of that name, made when it is new.
fn event<'a>(events: &'a mut Vec<Event>, name: &str) -> &'a mut Event {
    let at = events.iter().position(|it| it.name == name).unwrap_or_else(|| {
        events.push(Event { name: name.to_owned(), said_by: Vec::new(), read_by: Vec::new() });
        events.len() - 1
    });
    &mut events[at]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::{expect, expect_file};

    use super::*;

    const SMALL: &str = "[[processor]]\nname = \"ear\"\nreads = [\"heard\"]\nsays = [\"meant\"]\n\
                         [[processor]]\nname = \"mouth\"\nreads = [\"meant\"]\nsays = [\"told\"]\n";

    #[test]
    fn text_lists_each_processor_and_what_the_loop_shares_with_the_world() {
        expect![[r"
             1  ear
                  reads  heard
                  says   meant
             2  mouth
                  reads  meant
                  says   told
            from outside: heard
            for people: told
        "]]
        .assert_eq(&Topology::parse(SMALL).unwrap().text());
    }

    #[test]
    fn dot_has_an_edge_for_each_word_that_is_said_or_read() {
        expect![[r#"
            digraph healwright {
              rankdir=LR; node [fontname="sans-serif"];
              "ear" [shape=box];
              "mouth" [shape=box];
              "heard" [shape=ellipse];
              "heard" -> "ear";
              "meant" [shape=ellipse];
              "ear" -> "meant";
              "meant" -> "mouth";
              "told" [shape=ellipse];
              "mouth" -> "told";
            }
        "#]]
        .assert_eq(&Topology::parse(SMALL).unwrap().dot());
    }

    /// `UPDATE_EXPECT=1` draws it anew.
    #[test]
    fn the_drawing_in_the_documents_is_that_of_the_loop() {
        expect_file!["../docs/topology.svg"].assert_eq(&Topology::declared().unwrap().svg());
    }

    #[test]
    fn every_word_of_the_loop_has_its_mark() {
        let topology = Topology::declared().unwrap();
        let words: usize =
            topology.processors.iter().map(|it| it.reads.len() + it.says.len()).sum();
        let drawn = topology.svg();
        assert_eq!(drawn.matches("<g class=\"mark").count(), words);
        assert_eq!(drawn.matches("class=\"event\"").count(), topology.events.len());
    }
}
