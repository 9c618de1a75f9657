//! Every command of the README runs in a test.
//!
//! A table says of each how it is run; a command that is not in the table fails, and so does a
//! row that the README no longer has. What takes long is run shortened, or by the test that the
//! row names.

#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "blackbox/home.rs"]
mod home;

use std::net::TcpListener;
use std::path::PathBuf;

use healwright::config::words;
use home::{HEALWRIGHT, Home, Node};
use serde_json::Value;

/// How a command of the README is run here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// Starts a node that the following commands speak to; ready when it says this.
    Node(&'static str),
    /// Runs to its end and answers 0.
    Done,
    /// Runs to its end; 1 says that this machine lacks something.
    Answer,
    /// A bench: ends with 0 and one JSON object with these keys; run with these words instead.
    Bench(&'static [&'static str], &'static [&'static str]),
    /// Run by something else, and by what.
    Elsewhere(&'static str),
}

use How::{Answer, Bench, Done, Elsewhere, Node as StartNode};

/// The README's commands, in its order.
const TABLE: &[(&str, How)] = &[
    ("make demo", Elsewhere("tests/demo.rs runs what this target runs, as `demo --fast`")),
    ("make test", Elsewhere("runs this test")),
    ("make install", Elsewhere("copies the program that all tests run")),
    (
        "healwright watch --http http://127.0.0.1:8000/ --start \"python3 -m http.server 8000\" \
         --budget 3/10m",
        StartNode("watching python3"),
    ),
    ("healwright status", Done),
    ("healwright incident list", Done),
    ("healwright proposals list", Done),
    ("healwright events list --limit 20", Done),
    ("healwright freeze --reason \"planned maintenance\" --yes", Done),
    ("healwright unfreeze --reason \"maintenance is over\" --yes", Done),
    ("healwright config check healwright.toml", Done),
    ("healwright up --config healwright.toml", StartNode("ready: http://")),
    ("healwright change record shop 1.4.2 --kind deploy --id deploy-1142", Done),
    ("healwright doctor", Answer),
    ("healwright export --to bundle", Done),
    ("healwright verify bundle", Done),
    ("healwright replay", Done),
    ("healwright bench journal", Bench(&["bench", "journal"], &["ratio"])),
    ("healwright bench telemetry", Bench(&["bench", "telemetry"], &["samples_per_s"])),
    ("healwright bench replay", Bench(&["bench", "replay"], &["events_per_s_core"])),
    ("healwright bench idle", Bench(&["bench", "idle"], &["rss_mb", "core", "ready_p50_s"])),
    (
        "healwright bench heal --runs 20",
        Bench(&["bench", "heal", "--runs", "1"], &["bad-release", "hung-process"]),
    ),
    (
        "cargo test --workspace --lib of_200_rollouts -- --nocapture",
        Elsewhere("a test among those of topologies; this prints its figure"),
    ),
    ("healwright demo --fast", Elsewhere("tests/demo.rs")),
    ("make bench-kafka", Elsewhere("the last test here runs its script with fewer samples")),
];

/// A file of the repository.
fn read(name: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(name)).unwrap()
}

/// The lines in blocks of this language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let (mut inside, mut found) = (false, Vec::new());
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == format!("```{language}");
        } else if inside && !line.is_empty() {
            found.push(line.to_owned());
        }
    }
    found
}

#[test]
fn every_command_of_the_readme_is_run_as_the_table_says() {
    let table: Vec<String> = TABLE.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(blocks(&read("README.md"), "sh"), table);
    let makefile = read("Makefile");
    for target in ["demo", "test", "install", "bench-kafka"] {
        assert!(makefile.contains(&format!("\n{target}: ")), "no target {target}");
    }
    assert!(makefile.contains("\t$(HEALWRIGHT) demo"));
    assert!(makefile.contains("\tcargo test --workspace"));
}

#[test]
fn the_configuration_of_the_operators_guide_is_good() {
    let home = Home::new();
    let text = blocks(&read("docs/operations.md"), "toml").join("\n");
    assert!(text.contains("[[service]]"), "{text}");
    std::fs::write(home.path().join("hw.toml"), text).unwrap();
    home.run(&["config", "check", "hw.toml"]).expect(0);
}

#[test]
fn the_readme_can_be_followed_from_top_to_bottom() {
    let home = Home::new();
    std::fs::write(home.path().join("healwright.toml"), "profile = \"local\"\n").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut node: Option<Node> = None;
    for (command, how) in TABLE {
        let words = words(&command.replace("8000", &port.to_string())).unwrap();
        let mut words: Vec<&str> = words.iter().map(String::as_str).skip(1).collect();
        match how {
            StartNode(ready) => {
                // Two nodes on one directory are refused, and the default port may be taken.
                drop(node.take());
                end_server(port);
                if words[0] == "up" {
                    words.extend(["--http", "127.0.0.1:0"]);
                }
                node = Some(home.start(&words, ready));
            }
            Done => drop(home.run(&words).expect(0)),
            Answer => {
                let ran = home.run(&words);
                assert!(ran.code == 0 || ran.code == 1, "{ran:?}");
            }
            Bench(..) | Elsewhere(_) => {}
        }
    }
    drop(node);
    end_server(port);
}

/// Ends the server that `watch` started: it goes on when the node stops.
fn end_server(port: u16) {
    let name = format!("http.server\0{port}\0");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let pid = process.file_name().to_string_lossy().parse().ok();
        let is_server = String::from_utf8_lossy(&command).contains(&name);
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw).filter(|_| is_server) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn every_bench_prints_its_figure() {
    let home = Home::new();
    for (command, how) in TABLE {
        let Bench(instead, keys) = how else { continue };
        let mut run = home.command(HEALWRIGHT);
        run.args(*instead).args(["-o", "json"]);
        let ran = home::run(run).expect(0);
        let figures: Value = ran.json();
        for key in *keys {
            assert!(!figures[key].is_null(), "{command} has no {key}: {figures}");
        }
    }
}

/// It ends with 0 when each contender comes to the result that the filler foretold.
#[test]
fn the_bench_on_kafka_agrees_with_its_reference() {
    let built = PathBuf::from(HEALWRIGHT).parent().and_then(|it| it.parent()).unwrap().to_owned();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/peers/run.sh");
    let mut run = std::process::Command::new(script);
    run.env("CARGO_TARGET_DIR", built).args(["--samples", "200000", "--series", "1000"]);
    run.args(["--warmup", "0", "--session-ms", "6000"]);
    run.args(["--contenders", "raw_poll,raw_batches,raw_produce,healwright,streams_cached"]);
    let report = home::run(run).expect(0).json();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 10, "five contenders, two shapes: {report}");
    for it in results {
        assert_eq!(it["agrees_with_reference"], true, "{it}");
    }
}
