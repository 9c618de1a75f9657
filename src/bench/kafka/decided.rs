//! How long it takes from the sample that shows a failure to the decision on it.
//!
//! Services under care are scraped, and with each scrape one more of them is gone: detection says
//! the anomaly, an incident opens, diagnosis names its cause, and the gate decides whether a repair
//! may begin. The clock runs from before the scrape is sent until that decision has been read back
//! from the journal, on a running engine.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use schemas::event::{Health, Series, TelemetrySample};
use schemas::signature::KeyPair;
use schemas::{Entry, Event, Uuid};
use topologies::config::Service;
use topologies::detection::{self, Phase};
use topologies::profile::Profile;
use topologies::rules::Rules;

use crate::dispatch::Confirmations;
use crate::engine::{Handle, wall_now};
use crate::node::Activator;
use crate::node::parts::{Part, Parts};
use crate::up;

/// Services that fail, one after the other.
const SERVICES: usize = 200;
/// How often they are scraped until they have been well for long enough.
const SCRAPED_EVERY: Duration = Duration::from_millis(250);
/// Within this they are judged, and each decision is there.
const WITHIN: Duration = Duration::from_secs(60);
/// What is read of the journal at a time.
const READ_BYTES: usize = 1024 * 1024;

/// What each of the decisions took.
pub(super) fn measure(handle: &Handle) -> anyhow::Result<Vec<Duration>> {
    // A system that was measured before keeps its services, and they have failed.
    let run = wall_now().0;
    let names = (0..SERVICES).map(|n| format!("measured-{run}-{n}")).collect();
    up::runtime()?.block_on(Bed { handle: handle.clone(), names }.measure())
}

struct Bed {
    handle: Handle,
    names: Vec<String>,
}

impl Bed {
    async fn measure(&self) -> anyhow::Result<Vec<Duration>> {
        self.care().await?;
        self.await_judged().await?;
        // A process that is missed once may be between two starts; the second time it is gone.
        self.scrape(1)?;
        let mut took = Vec::new();
        for (n, name) in self.names.iter().enumerate() {
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
        activator.activate("profile", &Profile::local()).await?;
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

    /// Reads the journal from `from` on until the gate has decided on what diagnosis says of the
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

/// From an anomaly of a service to the decision on it.
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
        let is_decision = matches!(event, Event::HealTriggerEvaluated(_));
        Ok(is_decision && self.incident.is_some() && self.incident == *incident)
    }
}
