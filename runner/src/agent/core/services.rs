//! The services that this runner supervises, and the keys whose artifacts it takes: each was
//! proven as an entry of the chain before the host was told.
//!
//! `registered.json` keeps the entry's sequence per name, so that an older definition, once
//! valid and proven still, never comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemas::event::{ConfigActivated, Event};
use schemas::signature::PublicKey;
use serde::Deserialize;

use super::super::Error;
use super::super::gate::Ticket;
use super::super::refusal::Refusal;
use super::super::verify::proven_first;
use super::{Agent, Effect, Job};
use crate::durable::{self, Steps};
use crate::wire::{Evidence, FromRunner};

/// The configuration that names the signers of artifacts.
const SIGNERS: &str = "signers";
/// What a service's configuration is named, before its own name.
const SERVICE: &str = "service/";

/// A proven definition of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Name of the configuration: `service/<name>`.
    pub name: String,
    /// Sequence of the entry that defines it.
    pub seq: u64,
    /// The definition, JSON.
    pub body: String,
}

/// What is registered, and what waits for a mode that allows it.
#[derive(Debug)]
pub(super) struct Registry {
    path: PathBuf,
    kept: BTreeMap<String, u64>,
    under_way: BTreeSet<String>,
    deferred: BTreeMap<String, Registration>,
}

impl Registry {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("registered.json");
        let kept = durable::read_json(&path)?.unwrap_or_default();
        Ok(Registry { path, kept, under_way: BTreeSet::new(), deferred: BTreeMap::new() })
    }

    /// Services that are supervised, or are about to be: a request for one that is just being
    /// started is not one for a stranger.
    pub(super) fn services(&self) -> BTreeSet<String> {
        let names = self.kept.keys().chain(&self.under_way);
        names.filter_map(|it| it.strip_prefix(SERVICE)).map(str::to_owned).collect()
    }

    fn keep(&mut self, name: &str, seq: u64) -> Result<(), Error> {
        if self.kept.get(name).is_none_or(|kept| *kept < seq) {
            let mut next = self.kept.clone();
            next.insert(name.to_owned(), seq);
            durable::replace_json(&self.path, &next, &Steps::default())?;
            self.kept = next;
        }
        Ok(())
    }
}

impl Agent {
    /// Takes a definition out of its evidence and gives it to the host.
    pub(super) fn service(&mut self, evidence: &Evidence) -> Result<Vec<Effect>, Error> {
        if let Err(effects) = self.accept(evidence, None)? {
            return Ok(effects);
        }
        let definition = match self.definition(evidence) {
            Ok(definition) => definition,
            Err(refusal) => {
                tracing::warn!(%refusal, "a configuration is refused");
                let (why, seen) = (refusal.to_string(), self.seen());
                let say = FromRunner::EvidenceRefused { request_id: None, why, seen };
                return Ok(vec![Effect::Say(say)]);
            }
        };
        let registration = match &definition {
            Definition::Service(it) | Definition::Signers(it, _) => it,
        };
        let kept = self.registry.kept.get(&registration.name);
        if kept.is_some_and(|kept| registration.seq < *kept) {
            return Ok(Vec::new());
        }
        match definition {
            Definition::Service(registration) => Ok(self.register(registration)),
            // Keys start nothing, and in a frozen deployment going back needs them too.
            Definition::Signers(registration, keys) => {
                self.registry.keep(&registration.name, registration.seq)?;
                let service = registration.name;
                let registered = FromRunner::Registered { service, error: None };
                Ok(vec![Effect::Trust(keys), Effect::Say(registered)])
            }
        }
    }

    /// Takes what came of a registration. One that the gate kept back waits, or goes on under
    /// the mode that came in between.
    pub(super) fn registered(
        &mut self,
        registration: Registration,
        outcome: Result<Result<(), String>, Refusal>,
    ) -> Result<Vec<Effect>, Error> {
        self.registry.under_way.remove(&registration.name);
        let Ok(registered) = outcome else { return Ok(self.register(registration)) };
        let Registration { name, seq, .. } = registration;
        if registered.is_ok() {
            self.registry.keep(&name, seq)?;
        }
        let service = name.strip_prefix(SERVICE).unwrap_or(&name).to_owned();
        Ok(vec![Effect::Say(FromRunner::Registered { service, error: registered.err() })])
    }

    /// Registers what waited for a mode that allows it.
    pub(super) fn deferred_services(&mut self) -> Vec<Effect> {
        let deferred = std::mem::take(&mut self.registry.deferred);
        deferred.into_values().flat_map(|it| self.register(it)).collect()
    }

    /// Supervision may start a process, so it passes the gate like any start; in a mode that
    /// allows none it waits.
    fn register(&mut self, registration: Registration) -> Vec<Effect> {
        let known = self.gate.known();
        let Some(known) = known.filter(|known| known.mode.allows_action()) else {
            self.registry.deferred.insert(registration.name.clone(), registration);
            return Vec::new();
        };
        let ticket =
            Ticket { mode_epoch: known.epoch, lease_end: Duration::MAX, is_rollback: false };
        let (gate, clock) = (Arc::clone(&self.gate), Arc::clone(&self.clock));
        vec![Effect::Work(Box::new(Job::registration(registration, ticket, gate, clock)))]
    }

    fn definition(&self, evidence: &Evidence) -> Result<Definition, Refusal> {
        let services = self.registry.services();
        let knowledge = self.knowledge(&services);
        let knowledge =
            knowledge.ok_or(Refusal::UnsignedHead(ledger::Error::Subject("partition")))?;
        let entry = proven_first(evidence, &knowledge)?;
        let Ok(Event::ConfigActivated(config)) = entry.event() else {
            return Err(Refusal::NotAService(entry.envelope.kind.topic()));
        };
        let (name, seq, body) = (config.name, entry.envelope.seq, config.body.unwrap_or_default());
        if ConfigActivated::digest_of(&body) != config.digest {
            return Err(Refusal::NotAService("a body that its digest does not cover".to_owned()));
        }
        if name == SIGNERS {
            let signers = serde_json::from_str::<Signers>(&body);
            let signers = signers.map_err(|it| Refusal::NotAService(it.to_string()))?;
            let keys = signers.keys.into_values().collect();
            return Ok(Definition::Signers(Registration { name, seq, body }, keys));
        }
        let Some(service) = name.strip_prefix(SERVICE) else {
            return Err(Refusal::NotAService(name));
        };
        let claimed = serde_json::from_str::<Claimed>(&body).unwrap_or_default();
        if claimed.name != service {
            return Err(Refusal::NotAService("a body that is about another service".to_owned()));
        }
        if claimed.host != knowledge.host {
            return Err(Refusal::OtherHost(claimed.host));
        }
        Ok(Definition::Service(Registration { name, seq, body }))
    }
}

/// What a proven configuration brings.
enum Definition {
    Service(Registration),
    Signers(Registration, Vec<PublicKey>),
}

/// Body of the configuration named `signers`.
#[derive(Deserialize)]
struct Signers {
    #[serde(default)]
    keys: BTreeMap<String, PublicKey>,
}

/// What a service's body says about whom it is for; the host reads the rest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Claimed {
    name: String,
    host: String,
}
