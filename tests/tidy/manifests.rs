//! The rules over `Cargo.toml` files: who may see whom, and where versions and reasons stand.

use std::path::Path;

use toml::Table;

/// The arrows of architecture.md: a crate, and those it may see. A seventh crate or another
/// arrow needs a decision record.
const EDGES: [(&str, &[&str]); 7] = [
    ("schemas", &[]),
    ("kafka-calls", &[]),
    ("topologies", &["schemas"]),
    ("state", &["kafka-calls", "schemas"]),
    ("ledger", &["schemas"]),
    ("runner", &["ledger", "schemas"]),
    ("healwright", &["ledger", "runner", "schemas", "state", "topologies"]),
];

/// The one crate that may hold unsafe code, under stricter lints of its own (docs/decisions/0013).
const UNSAFE: &str = "kafka-calls";

/// One crate's manifest.
pub(crate) struct Manifest {
    name: String,
    text: String,
}

/// The root's manifest and those of its members.
pub(crate) fn read(root: &Path) -> Vec<Manifest> {
    let text = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = parse(&text)["workspace"]["members"].as_array().unwrap().clone();
    let mut manifests = vec![Manifest { name: "healwright".to_owned(), text }];
    for member in members {
        let name = member.as_str().unwrap().to_owned();
        let text = std::fs::read_to_string(root.join(&name).join("Cargo.toml")).unwrap();
        manifests.push(Manifest { name, text });
    }
    manifests
}

fn parse(text: &str) -> Table {
    text.parse().unwrap()
}

/// Names that a manifest depends on, in any section and for any target.
fn depends_on(manifest: &Table) -> Vec<String> {
    let mut names = Vec::new();
    for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
        let found = manifest.get(section).and_then(toml::Value::as_table);
        names.extend(found.into_iter().flat_map(|it| it.keys().cloned()));
    }
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    for target in targets.into_iter().flat_map(Table::values) {
        names.extend(target.as_table().map(depends_on).unwrap_or_default());
    }
    names
}

/// Edges between our crates that the architecture does not draw, and those it draws in vain.
pub(crate) fn edges(manifests: &[Manifest]) -> Vec<String> {
    let ours: Vec<&str> = EDGES.iter().map(|it| it.0).collect();
    let mut found = Vec::new();
    for manifest in manifests {
        let Some((_, permitted)) = EDGES.iter().find(|it| it.0 == manifest.name) else {
            found.push(format!("{} is a crate that no decision record names", manifest.name));
            continue;
        };
        let seen = depends_on(&parse(&manifest.text));
        let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
        for name in seen.iter().filter(|it| ours.contains(it) && !permitted.contains(it)) {
            found.push(format!("{} must not see {name}", manifest.name));
        }
        for name in permitted.iter().filter(|it| !seen.contains(it)) {
            found.push(format!("{} does not see {name}: take the arrow away", manifest.name));
        }
    }
    for name in ours.iter().filter(|name| manifests.iter().all(|it| it.name != **name)) {
        found.push(format!("{name} is no member of the workspace"));
    }
    found
}

/// Versions only in the root; beside every dependency of a crate the reason for it; the lints
/// of the workspace in every crate.
pub(crate) fn dependencies(manifests: &[Manifest]) -> Vec<String> {
    let mut found = Vec::new();
    for manifest in manifests {
        let name = &manifest.name;
        let table = parse(&manifest.text);
        let lints = table.get("lints").and_then(|it| it.get("workspace"));
        let takes = lints.and_then(toml::Value::as_bool) == Some(true);
        if !takes && name != UNSAFE {
            found.push(format!("{name} does not take the workspace's lints"));
        }
        let mut inside = false;
        for line in manifest.text.lines() {
            if line.starts_with('[') {
                inside = line.contains("dependencies") && !line.contains("workspace");
                continue;
            }
            if !inside || line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (stated, reason) = line.split_once(" # ").unwrap_or((line, ""));
            if !stated.contains("workspace = true") {
                found.push(format!("{name}: the version of `{stated}` belongs into the root"));
            }
            if reason.trim().is_empty() {
                found.push(format!("{name}: `{stated}` without a reason"));
            }
        }
    }
    found
}

#[cfg(test)]
fn sample(name: &str, dependencies: &str) -> Manifest {
    let text = format!("[lints]\nworkspace = true\n\n{dependencies}");
    Manifest { name: name.to_owned(), text }
}

#[cfg(test)]
fn permitted() -> Vec<Manifest> {
    let line = |it: &&str| format!("{it}.workspace = true # a reason\n");
    let lines = |it: &[&str]| it.iter().map(line).collect::<String>();
    EDGES.iter().map(|it| sample(it.0, &format!("[dependencies]\n{}", lines(it.1)))).collect()
}

#[test]
fn the_drawn_edges_pass_and_any_other_is_refused() {
    assert_eq!(edges(&permitted()), Vec::<String>::new());
    for section in ["[dependencies]", "[dev-dependencies]", "[target.'cfg(unix)'.dependencies]"] {
        let mut manifests = permitted();
        let state = manifests.iter_mut().find(|it| it.name == "state").unwrap();
        let kept = "[dependencies]\nkafka-calls.workspace = true\nschemas.workspace = true\n";
        let text = match section == "[dependencies]" {
            true => format!("{kept}topologies.workspace = true\n"),
            false => format!("{kept}{section}\ntopologies.workspace = true\n"),
        };
        *state = sample("state", &text);
        assert_eq!(edges(&manifests), ["state must not see topologies"], "{section}");
    }
    let mut manifests = permitted();
    manifests.push(sample("seventh", ""));
    assert_eq!(edges(&manifests), ["seventh is a crate that no decision record names"]);
    manifests.pop();
    manifests.remove(0);
    assert_eq!(edges(&manifests), ["schemas is no member of the workspace"]);
    manifests[0] = sample("topologies", "");
    assert!(edges(&manifests)[0].contains("topologies does not see schemas"));
}

#[test]
fn a_version_outside_the_root_or_a_missing_reason_is_refused() {
    assert_eq!(dependencies(&permitted()), Vec::<String>::new());
    let of = |text: &str| dependencies(&[sample("state", text)]);
    let version = of("[dependencies]\nserde = \"1\" # a reason\n");
    assert_eq!(version, ["state: the version of `serde = \"1\"` belongs into the root"]);
    let reason = of("[dev-dependencies]\nserde.workspace = true\n");
    assert_eq!(reason, ["state: `serde.workspace = true` without a reason"]);
    let unlinted = Manifest { name: "state".to_owned(), text: "[dependencies]\n".to_owned() };
    assert_eq!(dependencies(&[unlinted]), ["state does not take the workspace's lints"]);
}
