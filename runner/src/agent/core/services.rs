//! The services that this runner supervises: each was proven as an entry of the chain before its
//! command was given to the host.
//!
//! `registered.json` keeps the entry's sequence per service, so that an older definition, once
//! valid and proven still, never comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemas::event::{ConfigActivated, Event};

use super::super::Error;
use super::super::gate::Ticket;
use super::super::refusal::Refusal;
use super::super::verify::proven_first;
use super::{Agent, Effect, Job};
use crate::durable::{self, Steps};
use crate::wire::{Evidence, FromRunner};

/// A proven definition of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub service: String,
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
    deferred: BTreeMap<String, Registration>,
}

impl Registry {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("registered.json");
        let kept = durable::read_json(&path)?.unwrap_or_default();
        Ok(Registry { path, kept, deferred: BTreeMap::new() })
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.kept.keys().cloned().collect()
    }

    fn keep(&mut self, service: &str, seq: u64) -> Result<(), Error> {
        if self.kept.get(service).is_none_or(|kept| *kept < seq) {
            let mut next = self.kept.clone();
            next.insert(service.to_owned(), seq);
            durable::replace_json(&self.path, &next, &Steps::default())?;
            self.kept = next;
        }
        Ok(())
    }
}

impl Agent {
    /// Takes a service's definition out of its evidence and gives it to the host.
    pub(super) fn service(&mut self, evidence: &Evidence) -> Result<Vec<Effect>, Error> {
        if let Err(effects) = self.accept(evidence, None)? {
            return Ok(effects);
        }
        let registration = match self.registration(evidence) {
            Ok(registration) => registration,
            Err(refusal) => {
                tracing::warn!(%refusal, "a service is refused");
                let (why, seen) = (refusal.to_string(), self.seen());
                let say = FromRunner::EvidenceRefused { request_id: None, why, seen };
                return Ok(vec![Effect::Say(say)]);
            }
        };
        let is_older =
            self.registry.kept.get(&registration.service).is_some_and(|it| registration.seq < *it);
        if is_older {
            return Ok(Vec::new());
        }
        Ok(self.register(registration))
    }

    /// Takes what came of a registration. One that the gate kept back waits, or goes on under
    /// the mode that came in between.
    pub(super) fn registered(
        &mut self,
        registration: Registration,
        outcome: Result<Result<(), String>, Refusal>,
    ) -> Result<Vec<Effect>, Error> {
        let Ok(registered) = outcome else { return Ok(self.register(registration)) };
        let Registration { service, seq, .. } = registration;
        if registered.is_ok() {
            self.registry.keep(&service, seq)?;
        }
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
            self.registry.deferred.insert(registration.service.clone(), registration);
            return Vec::new();
        };
        let ticket =
            Ticket { mode_epoch: known.epoch, lease_end: Duration::MAX, is_rollback: false };
        let (gate, clock) = (Arc::clone(&self.gate), Arc::clone(&self.clock));
        vec![Effect::Work(Box::new(Job::registration(registration, ticket, gate, clock)))]
    }

    fn registration(&self, evidence: &Evidence) -> Result<Registration, Refusal> {
        let services = self.registry.names();
        let knowledge = self.knowledge(&services);
        let knowledge =
            knowledge.ok_or(Refusal::UnsignedHead(ledger::Error::Subject("partition")))?;
        let entry = proven_first(evidence, &knowledge)?;
        let Ok(Event::ConfigActivated(config)) = entry.event() else {
            return Err(Refusal::NotAService(entry.envelope.kind.topic()));
        };
        let body = config.body.unwrap_or_default();
        let Some(service) = config.name.strip_prefix("service/") else {
            return Err(Refusal::NotAService(config.name));
        };
        if ConfigActivated::digest_of(&body) != config.digest {
            return Err(Refusal::NotAService("a body that its digest does not cover".to_owned()));
        }
        let definition: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let field = |name: &str| definition.get(name).and_then(serde_json::Value::as_str);
        if field("name") != Some(service) {
            return Err(Refusal::NotAService("a body that is about another service".to_owned()));
        }
        let host = field("host").unwrap_or_default();
        if host != knowledge.host {
            return Err(Refusal::OtherHost(host.to_owned()));
        }
        Ok(Registration { service: service.to_owned(), seq: entry.envelope.seq, body })
    }
}
