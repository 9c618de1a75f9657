//! Metrics are named in the source, explained in the operator's guide, and asked for by
//! dashboards and alarms: three lists that must not drift apart.

use std::collections::BTreeMap;

/// What a metric is; a histogram is asked for by its parts only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A counter or a gauge.
    Plain,
    Histogram,
}

const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];
/// What the names of our metrics begin with; other words of a query are Prometheus's own.
const FAMILIES: [&str; 6] = ["healwright_", "avn_", "rca_", "deploy_", "trust_", "l1_"];

/// The metrics that a source file sets, by name.
pub(crate) fn set(source: &str) -> BTreeMap<String, Shape> {
    let mut found = BTreeMap::new();
    let shapes =
        [("counter!(", Shape::Plain), ("gauge!(", Shape::Plain), ("histogram!(", Shape::Histogram)];
    for (opening, shape) in shapes {
        for rest in source.split(opening).skip(1) {
            let name = rest.trim_start().strip_prefix('"').and_then(|it| it.split_once('"'));
            found.extend(name.map(|(name, _)| (name.to_owned(), shape)));
        }
    }
    found
}

/// The names that a document explains: the first cell of a row, in backticks.
pub(crate) fn explained(document: &str) -> Vec<String> {
    let cells = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(name, _)| name.to_owned()).collect()
}

/// What is wrong with the queries in `text`, under the metrics that are `set`.
pub(crate) fn complaints(text: &str, set: &BTreeMap<String, Shape>) -> Vec<String> {
    let word = |it: char| !(it.is_ascii_alphanumeric() || it == '_');
    let ours = |it: &&str| FAMILIES.iter().any(|family| it.starts_with(family));
    let known = |it: &str| {
        let part = PARTS.iter().find_map(|part| it.strip_suffix(part));
        match part.and_then(|name| set.get(name)) {
            Some(Shape::Histogram) => true,
            Some(Shape::Plain) | None => set.get(it) == Some(&Shape::Plain),
        }
    };
    let asked = text.split(word).filter(ours);
    asked.filter(|it| !known(it)).map(|it| format!("nothing sets the metric {it}")).collect()
}

/// The alarms that a file of rules names.
pub(crate) fn alarms(rules: &str) -> Vec<String> {
    let named = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    named.map(str::to_owned).collect()
}

#[test]
fn a_metric_that_nobody_sets_or_a_histogram_that_is_asked_whole_is_refused() {
    let set = set("gauge!(\"healwright_a\"); histogram!(\n    \"rca_b\", \"x\" => y)");
    assert_eq!(set.len(), 2);
    assert_eq!(complaints("max by (x) (healwright_a) + rate(rca_b_bucket[1m])", &set), [""; 0]);
    for wrong in ["healwright_c", "rca_b{quantile=\"0.5\"}", "healwright_a_bucket"] {
        assert_eq!(complaints(wrong, &set).len(), 1, "{wrong}");
    }
    assert_eq!(explained("| `healwright_a` | what |\n| b |"), ["healwright_a"]);
    assert_eq!(alarms("rules:\n  - alert: Down\n    expr: up"), ["Down"]);
}
