//! How long it takes from the sample that shows a failure to the decision to repair it.
//!
//! Services under care are scraped, and with each scrape one more of them is gone: detection says
//! the anomaly, an incident opens, diagnosis names its cause, the gate lets a repair begin, it is
//! proposed, voted on in both layers and approved by policy. The clock runs from before the scrape
//! is sent until the request to the host's runner, the last consequence, has been read back from
//! the journal. The engine is the one that a node runs; nobody answers the request.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use schemas::event::{Health, Series, TelemetrySample};
use schemas::signature::KeyPair;
use schemas::{Entry, Event, Uuid};
use state::kafka::group::Membership;
use state::kafka::{Cluster, KafkaLog};
use topologies::config::{Host, Service};
use topologies::detection::{self, Phase};
use topologies::profile::Profile;
use topologies::rules::Rules;

use super::{elect, identity};
use crate::dispatch::Confirmations;
use crate::engine::{Bell, Engine, Handle, Member, wall_now};
use crate::node::Activator;
use crate::node::parts::{Part, Parts};
use crate::up;

/// Services that fail, one after the other.
const SERVICES: u32 = 200;
/// How often they are scraped until they have been well for long enough.
const SCRAPED_EVERY: Duration = Duration::from_millis(250);
/// Within this the node is in office, they are judged, and each decision is there.
const WITHIN: Duration = Duration::from_secs(60);
/// What is read of the journal at a time.
const READ_BYTES: usize = 1024 * 1024;

/// What each of the decisions took, in a system of its own beside the one that is measured.
pub(super) fn measure(cluster: &Cluster, dir: &Path) -> anyhow::Result<Vec<Duration>> {
    cluster.prepare(Some(1), &[])?;
    let engine = join(cluster, dir)?;
    // A system that was measured before keeps its services, and they have failed.
    let run = wall_now().0;
    // One is left: where all are gone a person is asked.
    let names = (0..=SERVICES).map(|n| format!("measured-{run}-{n}")).collect();
    up::runtime()?.block_on(Bed { handle: engine.handle(), names }.measure())
}

/// What a node runs on a partition that it shares with others.
fn join(cluster: &Cluster, dir: &Path) -> anyhow::Result<Engine> {
    let identity = identity();
    let bell = Bell::default();
    let ringing = bell.clone();
    let news = Arc::new(move || ringing.ring());
    let log = KafkaLog::open(cluster, dir, &identity.deployment, 0, news.clone())?;
    let (log, head) = (Arc::new(log), dir.join("head"));
    let membership = Arc::new(Membership::join(cluster, "bench", news)?);
    let office = log.clone();
    let take_office = Box::new(move || elect(&office, &identity, &head));
    Ok(Engine::join(Member::new(log, membership, 0, take_office)?, &bell)?)
}

struct Bed {
    handle: Handle,
    names: Vec<String>,
}

impl Bed {
    async fn measure(&self) -> anyhow::Result<Vec<Duration>> {
        let mut seat = self.handle.seat();
        let is_ours = tokio::time::timeout(WITHIN, seat.wait_for(|it| it.here)).await;
        is_ours.context("nobody is in office")?.context("the engine has stopped")?;
        self.care().await?;
        self.await_judged().await?;
        // A process that is missed once may be between two starts; the second time it is gone.
        self.scrape(1)?;
        let mut took = Vec::new();
        for (n, name) in self.names.iter().take(SERVICES as usize).enumerate() {
            let from = self.handle.follow().borrow().next_seq;
            let began = Instant::now();
            self.scrape(n + 2)?;
            let decided = tokio::time::timeout(WITHIN, self.await_decision(from, name)).await;
            decided.with_context(|| format!("nothing is decided on {name}"))??;
            took.push(began.elapsed());
        }
        Ok(took)
    }

    async fn care(&self) -> anyhow::Result<()> {
        let confirmations = Confirmations::default();
        let part = Part { number: 0, engine: self.handle.clone(), confirmations };
        let operator = KeyPair::from_seed(&[3; 32]);
        let activator = Activator::new(Parts::new(vec![part]), operator);
        activator.activate("rules", &Rules::current()).await?;
        // No repair ends, for nobody makes one.
        let (ceiling_per_type, ceiling_global) = (SERVICES, SERVICES);
        let profile = Profile { ceiling_per_type, ceiling_global, ..Profile::local() };
        activator.activate("profile", &profile).await?;
        let runner = KeyPair::from_seed(&[4; 32]).public();
        let host = Host { host: "bench".to_owned(), key: runner, sandbox: Vec::new() };
        activator.activate("runner/bench", &host).await?;
        for name in &self.names {
            let command = vec!["true".to_owned()];
            let service = Service {
                name: name.clone(),
                host: "bench".to_owned(),
                command,
                ..Service::default()
            };
            activator.activate(&format!("service/{name}"), &service).await?;
        }
        Ok(())
    }

    /// Scrapes until every service has been well for long enough to be judged.
    async fn await_judged(&self) -> anyhow::Result<()> {
        let until = Instant::now() + WITHIN;
        loop {
            self.scrape(0)?;
            let names = self.names.clone();
            let are_judged = self.handle.ask(move |owner| {
                owner.look(detection::PROCESSOR.name, |view| {
                    names.iter().all(|name| {
                        let health = detection::health(view, name);
                        health.is_some_and(|it| it.phase == Phase::Ready && it.is_green())
                    })
                })
            });
            if are_judged.await.context("the engine has stopped")? {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "the services are not judged after {WITHIN:?}");
            tokio::time::sleep(SCRAPED_EVERY).await;
        }
    }

    /// Sends whether each process exists; the first `n_gone` do not.
    fn scrape(&self, n_gone: usize) -> anyhow::Result<()> {
        let series = |name: &String| Series {
            service: name.clone(),
            host: "bench".to_owned(),
            key: "process_up".to_owned(),
            labels: Default::default(),
        };
        let n = self.names.len();
        let sample = TelemetrySample {
            source: "bench".to_owned(),
            exporter: String::new(),
            series: self.names.iter().map(series).collect(),
            series_idx: (0..n as u32).collect(),
            ts_ns: vec![wall_now().0; n],
            value: (0..n).map(|it| if it < n_gone { 0.0 } else { 1.0 }).collect(),
            snapshot: None,
        };
        Ok(self.handle.telemetry(&[Event::from(sample).encode()?])?)
    }

    /// Reads the journal from `from` on until a repair is requested of what diagnosis says of the
    /// anomaly of `service`.
    async fn await_decision(&self, mut from: u64, service: &str) -> anyhow::Result<()> {
        let (log, mut moved) = (self.handle.log(), self.handle.follow());
        let mut chain = Chain { service, anomaly: None, incident: None };
        loop {
            moved.borrow_and_update();
            for batch in log.read(from, READ_BYTES)? {
                for entry in &batch.entries {
                    from = entry.envelope.seq + 1;
                    if chain.is_decided_by(entry)? {
                        return Ok(());
                    }
                }
            }
            moved.changed().await.context("the engine has stopped")?;
        }
    }
}

/// From an anomaly of a service to the request for its repair.
struct Chain<'a> {
    service: &'a str,
    anomaly: Option<Uuid>,
    incident: Option<String>,
}

impl Chain<'_> {
    fn is_decided_by(&mut self, entry: &Entry) -> anyhow::Result<bool> {
        let (event, incident) = (entry.event()?, &entry.envelope.correlation);
        if let Event::SloAnomalyDetected(it) = &event
            && it.service == self.service
            && it.health_to == Health::Red
        {
            self.anomaly = Some(it.anomaly_id);
        }
        if let Event::RcaHypothesis(it) = &event
            && self.anomaly.is_some_and(|own| it.anomaly_ids.contains(&own))
        {
            self.incident.clone_from(incident);
        }
        let is_request = matches!(event, Event::RunnerRequest(_));
        Ok(is_request && self.incident.is_some() && self.incident == *incident)
    }
}
