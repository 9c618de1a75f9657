//! `loop.toml` and the code declare the same loop.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use expect_test::expect_file;
use schemas::Kind;
use topologies::{LOOP, PROCESSORS};

/// The declaration that the code makes.
fn declaration() -> String {
    let mut text = String::new();
    for it in PROCESSORS {
        let list = |kinds: &[Kind]| {
            let lines: String = kinds.iter().map(|it| format!("    {:?},\n", it.name())).collect();
            if lines.is_empty() { "[]".to_owned() } else { format!("[\n{lines}]") }
        };
        let (reads, says) = (list(it.reads), list(it.says));
        let name = it.name;
        let _ = write!(text, "\n[[processor]]\nname = {name:?}\nreads = {reads}\nsays = {says}\n");
    }
    text
}

#[test]
fn the_loop_is_the_declared_one() {
    let head: Vec<&str> = LOOP.lines().take_while(|it| it.starts_with('#')).collect();
    expect_file!["../loop.toml"].assert_eq(&format!("{}\n{}", head.join("\n"), declaration()));
    let declared: toml::Table = toml::from_str(LOOP).unwrap();
    assert_eq!(declared["processor"].as_array().map(Vec::len), Some(PROCESSORS.len()));
}

#[test]
fn names_are_unique_and_each_kind_has_one_speaker_in_the_loop() {
    let mut names: Vec<&str> = PROCESSORS.iter().map(|it| it.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), PROCESSORS.len());
    // What several may say is said on purpose: refusals, and the outcome of the third layer.
    let shared = [
        Kind::AnnotationAdded,
        Kind::L3ExecutionResult,
        Kind::RunnerRequest,
        Kind::SandboxResult,
        Kind::GovernanceDecision,
    ];
    for kind in Kind::ALL.iter().filter(|it| !shared.contains(it)) {
        let speakers: Vec<&str> =
            PROCESSORS.iter().filter(|it| it.says.contains(kind)).map(|it| it.name).collect();
        assert!(speakers.len() <= 1, "{kind:?} is said by {speakers:?}");
    }
}

#[test]
fn no_processor_says_what_only_the_world_may_say() {
    let inputs = [
        Kind::ConfigActivated,
        Kind::ChangeObserved,
        Kind::ReleaseRequested,
        Kind::ApprovalGiven,
        Kind::FreezeCommand,
        Kind::RunnerResult,
        Kind::TelemetrySealed,
        Kind::Tick,
        Kind::OwnerElected,
    ];
    for it in PROCESSORS {
        assert!(it.says.iter().all(|kind| !inputs.contains(kind)), "{}", it.name);
    }
}
