//! What the control plane declares about a service, and the words that its command becomes.
//!
//! The fields are those of the registry's `service/<name>`, so the same JSON reads here; fields
//! that a runner has no use for are passed over. It is persisted as `service.json` and trusted
//! as far as the runner's own folder is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Slot;
use super::probe::Target;
use crate::error::Error;
use crate::target::RESERVED;

/// A service under supervision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ServiceSpec {
    /// Its name, unique on the host.
    pub name: String,
    /// Command as words; no shell ever sees it. `{port}`, `{dir}` (the release), `{slot}` and
    /// `{venv}` are replaced.
    pub command: Vec<String>,
    /// URL that answers 2xx while it is well; `{port}` as above. Empty: no HTTP probe.
    pub probe_url: String,
    /// Milliseconds after which a probe has failed; 0 is 1,000.
    pub probe_timeout_ms: u64,
    /// Milliseconds between probes; 0 is 250.
    pub probe_every_ms: u64,
    /// Milliseconds in which it must be well after a start; 0 is 10,000.
    pub start_timeout_ms: u64,
    /// Address where the proxy serves it; empty where users reach it directly.
    pub proxy: String,
    /// Requests besides GET and HEAD that are safe to repeat, `METHOD /prefix`.
    pub safe: Vec<String>,
    /// A file whose modification time is its heartbeat, relative to its working folder. For
    /// services without a probe URL.
    pub heartbeat_file: String,
    /// Milliseconds after which a heartbeat is too old; 0 is 2,000.
    pub heartbeat_max_age_ms: u64,
    /// Folder in which it runs; empty is the release's, or one that is kept for it.
    pub cwd: String,
    /// Variables beside the few that every service gets.
    pub variables: BTreeMap<String, String>,
    /// The Python environment that it runs in, where it has one.
    pub environment: Option<EnvironmentSpec>,
    /// The release that was last committed.
    pub release: Option<ReleaseSpec>,
}

/// A virtual environment that can be rebuilt from the local store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct EnvironmentSpec {
    /// `venv`.
    pub kind: String,
    /// `local://environments/<service>/<n>`: the signed manifest of its wheels.
    pub artifact_ref: String,
    /// Digest of that manifest.
    pub digest: String,
}

/// A release by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ReleaseSpec {
    /// Human version.
    pub version: String,
    /// Digest of the signed manifest, `sha256:<hex>`.
    pub digest: String,
    /// `local://releases/<service>/<version>`.
    pub artifact_ref: String,
}

/// What stands for the placeholders of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words<'a> {
    /// For `{port}`.
    pub(crate) port: Option<u16>,
    /// For `{dir}`.
    pub(crate) dir: Option<&'a Path>,
    /// For `{venv}`.
    pub(crate) venv: Option<&'a Path>,
}

/// Longest name of a service, with its scope.
const NAME_MAX: usize = 64;

/// Whether a service may be called so; it is part of paths and of operations' targets.
///
/// # Errors
/// The rule that it breaks.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |it: char| it.is_ascii_alphanumeric() || "._-".contains(it);
    if let Some(other) = name.chars().find(|it| !allowed(*it) && *it != '/') {
        return Err(format!(
            "{other:?} does not belong into its name, which is made of letters a to z, digits and \
             `._-`, with `/` between scopes"
        ));
    }
    let is_plain = |it: &str| !it.is_empty() && !it.starts_with('.');
    // Its scope stands before it: `prod-eu/shop/checkout`.
    if name.len() > NAME_MAX || !name.split('/').all(is_plain) {
        return Err("its name is not made of plain words, with `/` between them".to_owned());
    }
    let first = name.split_once('/').map(|(first, _)| first);
    if first.is_some_and(|it| RESERVED.contains(&it)) {
        return Err("its scope begins with `commit`, `env` or `route`, as operations do".to_owned());
    }
    Ok(())
}

impl ServiceSpec {
    /// Refuses what could not be run or found again.
    ///
    /// # Errors
    /// [`Error::Refused`] with the rule that is broken.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::refused(format!("service {:?}", self.name), why));
        check_name(&self.name).or_else(|why| refuse(&why))?;
        if self.command.first().is_none_or(String::is_empty) {
            return refuse("it has no command");
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return refuse("a word of its command holds a NUL");
        }
        if !self.proxy.is_empty() && self.proxy.parse::<SocketAddr>().is_err() {
            return refuse("its proxy address is not ADDRESS:PORT");
        }
        if !self.probe_url.is_empty() {
            Target::parse(&self.probe_url.replace("{port}", "1"))?;
        }
        Ok(())
    }

    /// Name of its folder. No name holds a `+`, so no two services share one.
    pub(crate) fn folder(&self) -> String {
        self.name.replace('/', "+")
    }

    /// Whether users reach it through the proxy; only then has it releases, shadow and canary.
    pub fn is_proxied(&self) -> bool {
        !self.proxy.is_empty()
    }

    /// Whether it can be seen to be well, other than by its process being there.
    pub(crate) fn is_probed(&self) -> bool {
        !self.probe_url.is_empty() || !self.heartbeat_file.is_empty()
    }

    /// Whether a port must be found for it.
    pub(crate) fn wants_port(&self) -> bool {
        self.command.iter().any(|word| word.contains("{port}"))
    }

    /// The command with its placeholders replaced. Every word stays one word.
    pub(crate) fn words(&self, slot: Slot, values: &Words<'_>) -> Result<Vec<String>, Error> {
        let port = values.port.map(|port| port.to_string());
        let text = |path: Option<&Path>| path.map(|it| it.to_string_lossy().into_owned());
        let values = [
            ("{port}", port),
            ("{dir}", text(values.dir)),
            ("{venv}", text(values.venv)),
            ("{slot}", Some(slot.as_str().to_owned())),
        ];
        self.command.iter().map(|word| replaced(word, &values, &self.name)).collect()
    }

    /// Where it is probed, if it is.
    pub(crate) fn probe_target(&self, port: Option<u16>) -> Option<Target> {
        let port = port.map_or_else(|| "0".to_owned(), |port| port.to_string());
        Target::parse(&self.probe_url.replace("{port}", &port)).ok()
    }

    pub(crate) fn probe_timeout(&self) -> Duration {
        millis(self.probe_timeout_ms, 1_000)
    }

    pub(crate) fn probe_every(&self) -> Duration {
        millis(self.probe_every_ms, 250)
    }

    pub(crate) fn start_timeout(&self) -> Duration {
        millis(self.start_timeout_ms, 10_000)
    }

    pub(crate) fn heartbeat_max_age(&self) -> Duration {
        millis(self.heartbeat_max_age_ms, 2_000)
    }

    /// The heartbeat file of a process that runs in `cwd`.
    pub(crate) fn heartbeat(&self, cwd: &Path) -> Option<PathBuf> {
        (!self.heartbeat_file.is_empty()).then(|| cwd.join(&self.heartbeat_file))
    }
}

fn millis(value: u64, default: u64) -> Duration {
    Duration::from_millis(if value == 0 { default } else { value })
}

/// Replaces left to right in one pass, so that a value is never read as a placeholder.
fn replaced(word: &str, values: &[(&str, Option<String>)], name: &str) -> Result<String, Error> {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match values.iter().find(|(mark, _)| rest.starts_with(mark)) {
            Some((mark, Some(value))) => {
                out.push_str(value);
                rest = &rest[mark.len()..];
            }
            Some((mark, None)) => {
                let why = format!("its command names {mark}, and it has none");
                return Err(Error::refused(format!("service {name:?}"), why));
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn spec(command: &[&str]) -> ServiceSpec {
        ServiceSpec {
            name: "shop".to_owned(),
            command: command.iter().map(|it| (*it).to_owned()).collect(),
            ..ServiceSpec::default()
        }
    }

    #[test]
    fn a_value_never_becomes_another_word_or_placeholder() {
        let dir = Path::new("/x {port}; rm -rf $(y)");
        let words = Words { port: Some(80), dir: Some(dir), venv: None };
        let spec = spec(&["{dir}/run", "--port={port}", "{slot}", "{other}{", "-c", "a b"]);
        let expected = ["/x {port}; rm -rf $(y)/run", "--port=80", "blue", "{other}{", "-c", "a b"];
        assert_eq!(spec.words(Slot::Blue, &words).unwrap(), expected);
    }

    #[test]
    fn a_placeholder_without_a_value_is_refused() {
        assert!(spec(&["{venv}/bin/python"]).words(Slot::Green, &Words::default()).is_err());
    }

    #[test]
    fn a_specification_that_could_not_run_or_be_found_again_is_refused() {
        let good = spec(&["run"]);
        good.check().unwrap();
        let bad = [
            ServiceSpec { name: "../x".to_owned(), ..good.clone() },
            ServiceSpec { name: String::new(), ..good.clone() },
            ServiceSpec { command: Vec::new(), ..good.clone() },
            ServiceSpec { command: vec!["a\0b".to_owned()], ..good.clone() },
            ServiceSpec { proxy: "everywhere".to_owned(), ..good.clone() },
            ServiceSpec { probe_url: "https://localhost/".to_owned(), ..good },
        ];
        for spec in bad {
            assert!(spec.check().is_err(), "{spec:?}");
        }
    }

    #[test]
    fn the_registrys_service_reads_as_a_specification() {
        let json = r#"{"name":"shop","host":"h","command":["a"],"probe_url":"","probe_timeout_ms":5,
            "proxy":"","environment":null,"playbooks":[],"attempts_max":0,"propose_only":false,
            "release":{"version":"1","digest":"sha256:00","artifact_ref":"local://r"}}"#;
        let spec: ServiceSpec = serde_json::from_str(json).unwrap();
        assert_eq!(spec.probe_timeout(), Duration::from_millis(5));
        assert_eq!(spec.release.unwrap().version, "1");
    }
}
