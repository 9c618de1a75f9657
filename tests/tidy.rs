//! What a reviewer would otherwise look for by hand: edges between crates, purity, lengths,
//! module heads, words. Each rule is a function over text, and each is shown to refuse a broken
//! sample, so that a rule which has stopped looking does not pass for a clean repository.
//!
//! It reads files that git knows or would add, and runs nothing of the product.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "tidy/manifests.rs"]
mod manifests;
#[path = "tidy/metrics.rs"]
mod metrics;
#[path = "tidy/prose.rs"]
mod prose;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::path::PathBuf;
use std::process::Command;

/// The root of the repository, as cargo says when it runs the test.
fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test"))
}

/// Files that git tracks or would add, relative to the root, in order.
fn files(extension: &str) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut files: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    files.retain(|it| it.extension().is_some_and(|it| it == extension));
    files.retain(|it| root().join(it).is_file());
    files.sort();
    files.dedup();
    files
}

/// Each file with its text.
fn texts(extension: &str) -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        (path, text)
    };
    files(extension).into_iter().map(read).collect()
}

/// Every complaint of `rule` over the Rust files, with file and line.
fn complaints(rule: impl Fn(&source::Source) -> Vec<String>) -> Vec<String> {
    let sources = source::read(texts("rs"));
    sources
        .iter()
        .flat_map(|it| {
            let path = it.path.display();
            rule(it).into_iter().map(|why| format!("{path}:{why}")).collect::<Vec<_>>()
        })
        .collect()
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn crates_see_only_what_the_architecture_permits() {
    none(&manifests::edges(&manifests::read(&root())));
}

#[test]
fn every_dependency_has_its_version_in_the_root_and_its_reason_beside_it() {
    none(&manifests::dependencies(&manifests::read(&root())));
}

#[test]
fn pure_crates_have_no_clock_no_chance_no_io_and_no_hash_order() {
    none(&complaints(rules::purity));
}

#[test]
fn files_functions_and_lines_are_short() {
    none(&complaints(rules::lengths));
}

#[test]
fn every_file_says_what_it_is_for() {
    none(&complaints(rules::head));
}

#[test]
fn no_file_is_called_mod() {
    none(&complaints(rules::no_mod_file));
}

#[test]
fn nothing_is_unwrapped_ignored_or_left_to_do() {
    none(&complaints(rules::leftovers));
}

#[test]
fn names_say_what_a_thing_is() {
    none(&complaints(rules::names));
}

#[test]
fn errors_are_lower_case_without_full_stop() {
    none(&complaints(rules::error_texts));
}

#[test]
fn documents_are_plain_and_calm() {
    let read = texts("md").into_iter().flat_map(|(path, text)| {
        let why = prose::complaints(&text);
        why.into_iter().map(move |why| format!("{}:{why}", path.display()))
    });
    none(&read.collect::<Vec<_>>());
}

#[test]
fn banned_words_are_in_no_source_either() {
    none(&complaints(|it| prose::words(&it.text)));
}

#[test]
fn every_metric_is_explained_and_every_dashboard_and_alarm_asks_for_one_that_is_set() {
    let sources = texts("rs");
    let program = sources.iter().filter(|(path, _)| path.starts_with("src"));
    let set = program.flat_map(|(_, text)| metrics::set(text)).collect();
    let guide = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let explained = metrics::explained(&guide);
    let alarms: Vec<String> =
        texts("yml").iter().flat_map(|(_, text)| metrics::alarms(text)).collect();
    assert!(!alarms.is_empty(), "ops/prometheus/alerts.yml names no alarm");
    let silent = std::collections::BTreeMap::keys(&set).chain(&alarms);
    let silent = silent.filter(|name| !explained.contains(name));
    let mut wrong: Vec<String> =
        silent.map(|name| format!("docs/operations.md does not explain {name}")).collect();
    for (path, text) in texts("json").iter().chain(&texts("yml")) {
        if path.starts_with("ops") {
            let why = metrics::complaints(text, &set);
            wrong.extend(why.into_iter().map(|why| format!("{}: {why}", path.display())));
        }
    }
    none(&wrong);
}
