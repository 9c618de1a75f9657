//! The registry: what has been activated. Every other processor reads its numbers, services and
//! signers here, as they stood at the place it folds.
//!
//! Invariants:
//! - Once there are signers, only what one of them has signed takes effect; the first signers
//!   are named by the node that creates the deployment.
//! - Versions of a name rise, so a configuration that was signed once never comes back.
//! - What is refused changes nothing, here and in every other processor, and is said.

mod admission;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemas::event::ConfigActivated;
use schemas::signature::PublicKey;
use schemas::{Event, Kind, Ns};
use serde::{Deserialize, Serialize};

use crate::fold::{Folded, Output, Processor, View};
use crate::profile::Profile;
use crate::rules::{self, Rules};
use crate::said;

/// The processor.
pub const PROCESSOR: Processor = Processor {
    name: "config",
    reads: &[Kind::ConfigActivated],
    says: &[Kind::AnnotationAdded],
    step,
};

/// Names of a person's word for a playbook begin so. Persisted: frozen.
pub const VOUCH: &str = "vouch/";

/// A service under care. Body of `config.activated.v1` named `service/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Its name, unique in the deployment.
    pub name: String,
    /// Name of the host whose runner supervises it; left out it is the host of the node that
    /// reads this file. No runner needs to have that name yet: the service waits for it.
    pub host: String,
    /// Command as words; no shell ever sees it. `{port}` is replaced by the slot's port.
    pub command: Vec<String>,
    /// URL that answers 2xx while it is well; `{port}` as above. Empty: no HTTP probe.
    pub probe_url: String,
    /// Milliseconds after which a probe has failed.
    pub probe_timeout_ms: u64,
    /// Address where the proxy serves it, empty where users reach it directly. Only a proxied
    /// service has releases, shadow and canary.
    pub proxy: String,
    /// The Python environment it runs in, where it has one.
    pub environment: Option<Environment>,
    /// Playbooks that may act on it, in order of preference; empty is all.
    pub playbooks: Vec<String>,
    /// Attempts in [`Service::attempts_window_ms`]; 0 takes the profile's number.
    pub attempts_max: u32,
    /// Window of its budget, milliseconds; 0 takes the profile's.
    pub attempts_window_ms: u64,
    /// Propose and wait for a person, always.
    pub propose_only: bool,
    /// The release that was last committed.
    pub release: Option<Release>,
    /// Services that it calls.
    pub depends_on: Vec<String>,
    /// Milliseconds between probes; 0 takes the profile's number.
    pub probe_every_ms: u64,
    /// Milliseconds in which it must be well after a start; 0 is the runner's own.
    pub start_timeout_ms: u64,
    /// Requests besides GET and HEAD that are safe to repeat, `METHOD /prefix`.
    pub safe: Vec<String>,
    /// A file whose modification time is its heartbeat, for services without a probe URL.
    pub heartbeat_file: String,
    /// Milliseconds after which a heartbeat is too old; 0 is the runner's own.
    pub heartbeat_max_age_ms: u64,
    /// Folder in which it runs; empty is the release's, or one that is kept for it.
    pub cwd: String,
    /// Variables beside the few that every service gets.
    pub variables: BTreeMap<String, String>,
}

/// A release by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default, JsonSchema)]
pub struct Release {
    /// Human version.
    pub version: String,
    /// Digest of the signed manifest, `sha256:<hex>`.
    pub digest: String,
    /// `local://releases/<service>/<version>`.
    pub artifact_ref: String,
}

/// A virtual environment that can be rebuilt from the local wheel store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default, JsonSchema)]
pub struct Environment {
    /// `venv`.
    pub kind: String,
    /// `local://environments/<service>/<n>`: the signed manifest of its wheels.
    pub artifact_ref: String,
    /// Digest of that manifest.
    pub digest: String,
}

/// Who may sign what. Body of `config.activated.v1` named `signers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Signers {
    /// Public key by name.
    pub keys: BTreeMap<String, PublicKey>,
}

/// A host's runner. Body of `config.activated.v1` named `runner/<host>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub host: String,
    /// Key under which it signs results.
    pub key: PublicKey,
    /// Sandbox kinds that it has, empty where none.
    pub sandbox: Vec<String>,
}

/// A person's word for a playbook. Body of `config.activated.v1` named `vouch/<playbook>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Vouch {
    /// Service on which its latch is lifted too; empty is none.
    pub service: String,
    /// What was done about the cause.
    pub reason: String,
}

fn step(view: &mut View<'_>, entry: &Folded<'_>) -> Vec<Output> {
    let Event::ConfigActivated(config) = entry.event else { return Vec::new() };
    let body = config.body.as_deref().unwrap_or_default();
    if let Err(why) = admission::admits(view, config, body) {
        return why.map(|why| said::refusal(entry, PROCESSOR.name, why)).into_iter().collect();
    }
    let name = config.name.as_str();
    view.save(&format!("version/{name}"), &config.version);
    view.save(&format!("at/{name}"), &entry.envelope.seq);
    if name == "profile" {
        keep::<Profile>(view, "profile", body);
    } else if name == "signers" {
        keep::<Signers>(view, "signers", body);
    } else if name == rules::KEY {
        if let Ok(Rules { version }) = serde_json::from_str(body) {
            view.save(rules::KEY, &version);
        }
    } else if name.starts_with("service/") {
        keep::<Service>(view, name, body);
    } else if name.starts_with("runner/") {
        keep::<Host>(view, name, body);
    } else if name.starts_with(VOUCH) {
        view.save(name, &entry.now());
    }
    Vec::new()
}

/// Keeps a body that reads as its type and that state can hold; the first rules ask neither.
fn keep<T: serde::de::DeserializeOwned + Serialize>(view: &mut View<'_>, key: &str, body: &str) {
    let value = serde_json::from_str::<T>(body).ok();
    if let Some(value) = value.filter(|it| schemas::avro::to_bytes(it).is_ok()) {
        view.save(key, &value);
    }
}

/// The configuration that this entry has put in force; `None` where it is none or was refused.
/// Whoever acts on a configuration asks here and not the entry.
pub fn activated<'a>(view: &View<'_>, entry: &Folded<'a>) -> Option<&'a ConfigActivated> {
    let Event::ConfigActivated(config) = entry.event else { return None };
    // The first rules did not ask.
    let asked = rules::are_second(view);
    let at: Option<u64> = view.peek(PROCESSOR.name, &format!("at/{}", config.name));
    (!asked || at == Some(entry.envelope.seq)).then_some(config)
}

/// Whether a configuration that is about to be folded takes effect: for what stands before this
/// processor in the loop.
pub fn takes_effect(view: &View<'_>, config: &ConfigActivated) -> bool {
    let body = config.body.as_deref().unwrap_or_default();
    !rules::are_second(view) || admission::admits(view, config, body).is_ok()
}

/// When a person last vouched for that playbook.
pub fn vouched_at(view: &View<'_>, playbook: &str) -> Option<Ns> {
    view.peek(PROCESSOR.name, &format!("{VOUCH}{playbook}"))
}

/// The active profile; before one is activated, the spec's numbers.
pub fn profile(view: &View<'_>) -> Profile {
    view.peek(PROCESSOR.name, "profile").unwrap_or_default()
}

/// Version of the active profile: the policy version that decisions name; 0 before the first.
pub fn policy_version(view: &View<'_>) -> u64 {
    view.peek(PROCESSOR.name, "version/profile").unwrap_or(0)
}

/// The service of that name.
pub fn service(view: &View<'_>, name: &str) -> Option<Service> {
    view.peek(PROCESSOR.name, &format!("service/{name}"))
}

/// All services, in order of name.
pub fn services(view: &View<'_>) -> Vec<Service> {
    registered(view).into_iter().map(|(_, it)| it).collect()
}

/// All services with the names that they are registered under, in order of these: what is signed
/// may say another name inside, or none.
pub(crate) fn registered(view: &View<'_>) -> Vec<(String, Service)> {
    let found = view.peek_list(PROCESSOR.name, "service/").into_iter();
    found.map(|(key, it)| (key.strip_prefix("service/").unwrap_or(&key).to_owned(), it)).collect()
}

/// The registered signers.
pub fn signers(view: &View<'_>) -> Signers {
    view.peek(PROCESSOR.name, "signers").unwrap_or_default()
}

/// All runners, in order of host.
pub fn hosts(view: &View<'_>) -> Vec<Host> {
    view.peek_list(PROCESSOR.name, "runner/").into_iter().map(|(_, it)| it).collect()
}

/// The runner of that host.
pub fn host(view: &View<'_>, name: &str) -> Option<Host> {
    view.peek(PROCESSOR.name, &format!("runner/{name}"))
}
