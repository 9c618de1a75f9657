//! The coverage table is held to its word: all 155 rows, three states, and no test that is not
//! there.
//!
//! Whether a test shows what its row says is for a reviewer; that it exists is for a machine.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// Last id of each group, spec 00 §13.
const GROUPS: [(u32, u32); 5] = [(0, 34), (1, 29), (2, 22), (3, 25), (4, 45)];

/// One row of the table.
#[derive(Debug, PartialEq)]
struct Row {
    id: String,
    feature: String,
    state: String,
    tests: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test"))
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The rows of a document; a line that is no row of four cells is none.
fn rows(text: &str) -> Vec<Row> {
    let cells = |line: &str| -> Option<[String; 4]> {
        let inside = line.strip_prefix("| ")?.strip_suffix('|')?;
        let cells: Vec<String> = inside.split('|').map(|it| it.trim().to_owned()).collect();
        cells.try_into().ok()
    };
    let is_id = |it: &str| it.split_once('.').is_some_and(|it| it.1.parse::<u32>().is_ok());
    let rows = text.lines().filter_map(cells).filter(|it| is_id(&it[0]));
    rows.map(|[id, feature, state, tests]| Row { id, feature, state, tests: quoted(&tests) })
        .collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn wanted() -> Vec<String> {
    GROUPS
        .iter()
        .flat_map(|(group, last)| (1..=*last).map(move |n| format!("{group}.{n}")))
        .collect()
}

/// What is wrong with the rows, given the names of all functions there are.
fn complaints(rows: &[Row], functions: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let ids: Vec<&str> = rows.iter().map(|it| it.id.as_str()).collect();
    let wanted = wanted();
    if ids != wanted {
        let missing: Vec<_> = wanted.iter().filter(|it| !ids.contains(&it.as_str())).collect();
        found.push(format!(
            "{} rows, not {} in order; missing {missing:?}",
            ids.len(),
            wanted.len()
        ));
    }
    for row in rows {
        let Row { id, feature, state, tests } = row;
        let kind = state.split(':').next().unwrap_or_default();
        if !["works", "partly", "not yet"].contains(&kind) {
            found.push(format!("{id}: {state:?} is none of works, partly, not yet"));
        }
        if kind == "works" && state != "works" || kind == "partly" && state == "partly" {
            found.push(format!("{id}: works is whole, and partly says which part"));
        }
        if tests.is_empty() != (kind == "not yet") {
            found.push(format!("{id}: {state} with {} tests", tests.len()));
        }
        if feature.is_empty() {
            found.push(format!("{id}: no feature"));
        }
        for test in tests.iter().filter(|it| !functions.contains(*it)) {
            found.push(format!("{id}: there is no test {test}"));
        }
    }
    found
}

/// Names of all test functions in the repository.
fn functions() -> BTreeSet<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let texts = listed.lines().filter_map(|it| std::fs::read_to_string(root().join(it)).ok());
    texts.flat_map(|it| functions_of(&it)).collect()
}

/// Names after `fn` on lines that follow a test attribute, whatever stands between.
fn functions_of(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(rest) = declared.filter(|_| marked) {
            let name = rest.split(|it: char| !it.is_alphanumeric() && it != '_').next();
            names.push(name.unwrap_or_default().to_owned());
            marked = false;
        }
    }
    names
}

#[test]
fn coverage_has_155_rows() {
    let rows = rows(&document("coverage.md"));
    assert_eq!(rows.len(), 155);
    let found = complaints(&rows, &functions());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn what_is_not_proven_here_is_said_in_these_words() {
    let text = document("capabilities.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|it| it.starts_with("| ") && !it.starts_with("| capability"))
        .map(|it| it.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 8);
    for row in rows {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(["real", "not yet", "files"].iter().any(|it| row[1].starts_with(it)), "{row:?}");
        for system in &row[2..] {
            assert_eq!(*system, "not proven here: no such hardware", "{row:?}");
        }
    }
}

/// A table on which nothing is claimed.
fn empty_table() -> Vec<Row> {
    let row = |id| Row { id, feature: "f".to_owned(), state: "not yet".to_owned(), tests: vec![] };
    wanted().into_iter().map(row).collect()
}

#[test]
fn a_claim_that_is_not_shown_is_refused() {
    let functions = BTreeSet::from(["a_claim".to_owned()]);
    for (n, state, tests) in [
        (0, "works", &["a_claim"][..]),
        (0, "partly: half", &["a_claim"]),
        (0, "not yet: a label", &[]),
        (1, "works", &[]),
        (1, "works", &["no_claim"]),
        (1, "works: mostly", &["a_claim"]),
        (1, "partly", &["a_claim"]),
        (1, "partly: half", &[]),
        (1, "soon", &["a_claim"]),
        (1, "not yet", &["a_claim"]),
    ] {
        let mut rows = empty_table();
        rows[7].state = state.to_owned();
        rows[7].tests = tests.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(complaints(&rows, &functions).len(), n, "{state} {tests:?}");
    }
}

#[test]
fn a_table_with_a_row_less_or_in_another_order_is_refused() {
    let complaints = |rows: &[Row]| complaints(rows, &BTreeSet::new()).len();
    assert_eq!(complaints(&empty_table()), 0);
    let mut shorter = empty_table();
    shorter.remove(3);
    assert_eq!(complaints(&shorter), 1);
    let mut swapped = empty_table();
    swapped.swap(0, 1);
    assert_eq!(complaints(&swapped), 1);
    let mut longer = empty_table();
    longer.push(empty_table().remove(0));
    assert_eq!(complaints(&longer), 1);
}

#[test]
fn only_functions_behind_a_test_attribute_are_tests() {
    let text =
        "fn a() {}\n#[test]\n#[allow(x)]\nfn b() {}\nfn c() {}\n#[tokio::test]\nasync fn d()";
    assert_eq!(functions_of(text), ["b", "d"]);
}

#[test]
fn rows_are_read_from_a_table() {
    let text = "| id | feature | state | test |\n|---|---|---|---|\n\
                | 1.2 | errors | works | `a`, `b_c` |\nwords\n| 1.3 | x | not yet |  |\n";
    let read = rows(text);
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].tests, ["a", "b_c"]);
    assert_eq!((read[1].state.as_str(), read[1].tests.len()), ("not yet", 0));
}
