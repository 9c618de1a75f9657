//! One runner's conversation: it says hello, is told its services, mode and open requests, and
//! from then on whatever the journal holds for it.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use runner::wire::{FromRunner, ModeEpoch, Reader, ToRunner, Welcome, send};
use schemas::event::{ConfigActivated, Mode};
use schemas::signature::PublicKey;
use schemas::{Actor, ActorKind, Entry, Event, Kind, Uuid};
use tokio::io::{AsyncRead, AsyncWrite};
use topologies::config::Host;

use super::proofs;
use crate::engine::bookkeeping::{self, First};
use crate::engine::{Input, fold};
use crate::node::parts::Part;

/// Journal records are read in runs of about this size.
const READ_BYTES: usize = 1024 * 1024;
/// A witness is shown a new head this often, when there is one.
const HEAD_EVERY: Duration = Duration::from_secs(1);
/// A lease with less than this left is renewed before it is granted.
const LEASE_WORTH: Duration = Duration::from_millis(1200);

/// What a conversation needs.
pub(super) struct Office {
    pub(super) part: Part,
    pub(super) deployment: String,
}

type From = Box<dyn AsyncRead + Send + Unpin>;
type To = Box<dyn AsyncWrite + Send + Unpin>;

/// A runner that has said hello.
pub(super) struct Called {
    pub(super) hello: FromRunner,
    /// What it says it is.
    pub(super) host: Host,
    seen: u64,
    pub(super) from: Reader<From>,
    pub(super) to: To,
}

/// Hears a runner's first word.
pub(super) async fn hear<R, W>(from: Reader<R>, to: W) -> anyhow::Result<Called>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let mut from = from.boxed();
    let hello = from.next::<FromRunner>().await?;
    let Some(hello @ FromRunner::Hello { .. }) = hello else {
        bail!("a runner must say hello first");
    };
    let FromRunner::Hello { host, key, seen, sandbox, .. } = hello.clone() else {
        bail!("a runner must say hello first");
    };
    let host = Host { host, key, sandbox };
    Ok(Called { hello, host, seen: seen.size, from, to: Box::new(to) })
}

/// The registered runner of a host.
pub(super) async fn registered(host: &str, part: &Part) -> anyhow::Result<Option<Host>> {
    let host = host.to_owned();
    let known = part.engine.see(move |state| {
        fold::look(state, "config", |view| topologies::config::host(view, &host))
    });
    known.await.context("the engine has stopped")
}

/// Refuses a runner under another key than its host's registered one, and says whether there is
/// one.
pub(super) async fn is_registered(caller: &Host, part: &Part) -> anyhow::Result<bool> {
    let known = registered(&caller.host, part).await?;
    if known.as_ref().is_some_and(|it| it.key != caller.key) {
        metrics::counter!("healwright_runners_refused_total").increment(1);
        let host = &caller.host;
        bail!("{host} calls with another key than the registered one and is not let in (C12)");
    }
    Ok(known.is_some())
}

struct Conversation {
    office: Office,
    host: String,
    /// Its registered key.
    key: PublicKey,
    /// Size of the last head that the runner was shown.
    seen: u64,
    /// Entries of the journal that have been looked at.
    next: u64,
    to: To,
}

/// Holds the conversation with a registered runner until either side ends it.
pub(super) async fn hold(called: Called, office: Office) -> anyhow::Result<()> {
    let Called { host, seen, from, to, .. } = called;
    if !is_registered(&host, &office.part).await? {
        bail!("{} is not registered", host.host);
    }
    let next = office.part.engine.follow().borrow().next_seq;
    let mut talk = Conversation { office, host: host.host, key: host.key, seen, next, to };
    talk.greet().await?;
    talk.go_on(from).await
}

impl Conversation {
    /// Welcome, services, open requests: everything that the journal already holds.
    async fn greet(&mut self) -> anyhow::Result<()> {
        let host = self.host.clone();
        let standing = self.office.part.engine.ask(move |owner| {
            let mode = owner.look("mode", topologies::mode::current);
            let services = owner.look("config", topologies::config::services);
            // Signers first: without them no artifact is taken.
            let names = services.iter().filter(|it| it.host == host);
            let names = names.map(|it| format!("service/{}", it.name));
            let services: Vec<u64> = std::iter::once("signers".to_owned())
                .chain(names)
                .filter_map(|name| owner.active_config(&name))
                .map(|it| it.seq)
                .collect();
            let open = owner.look(bookkeeping::PROCESSOR.name, |view| {
                view.list::<First>("open/").into_iter().map(|(_, it)| it.seq).collect::<Vec<_>>()
            });
            (mode, services, open)
        });
        let (mode, services, open) = standing.await.context("the engine has stopped")?;
        let mode = mode.map(|(mode, epoch)| ModeEpoch { epoch, mode });
        let deployment = self.office.deployment.clone();
        let partition = self.office.part.number;
        self.say(&ToRunner::Welcome(Welcome { deployment, partition, mode })).await?;
        for seq in services {
            self.send_service(seq).await?;
        }
        for seq in open {
            self.dispatch(seq).await?;
        }
        Ok(())
    }

    async fn go_on(&mut self, mut from: Reader<From>) -> anyhow::Result<()> {
        let mut moved = self.office.part.engine.follow();
        let mut heads = tokio::time::interval(HEAD_EVERY);
        heads.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.read_on().await?;
        loop {
            tokio::select! {
                message = from.next::<FromRunner>() => {
                    let Some(message) = message? else { return Ok(()) };
                    self.hear(message).await?;
                }
                changed = moved.changed() => {
                    changed.context("the engine has stopped")?;
                    self.read_on().await?;
                }
                _ = heads.tick() => self.show_head().await?,
            }
        }
    }

    /// What the journal holds since the last look.
    async fn read_on(&mut self) -> anyhow::Result<()> {
        let end = self.office.part.engine.follow().borrow().next_seq;
        while self.next < end {
            let (log, from) = (self.office.part.engine.log(), self.next);
            let read = tokio::task::spawn_blocking(move || log.read(from, READ_BYTES)).await??;
            for batch in &read {
                for entry in batch.entries.iter().filter(|it| it.envelope.seq >= from) {
                    self.look_at(entry).await?;
                }
                self.next = batch.next_seq();
            }
        }
        Ok(())
    }

    async fn look_at(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let kind = entry.envelope.kind;
        if kind == Kind::RunnerRequest && entry.envelope.key == self.host {
            return self.dispatch(entry.envelope.seq).await;
        }
        if kind == Kind::ModeChanged
            && let Ok(Event::ModeChanged(it)) = entry.event()
        {
            let mode = ModeEpoch { epoch: it.mode_epoch, mode: it.to };
            return self.say(&ToRunner::ModeEpoch(mode)).await;
        }
        if kind == Kind::ConfigActivated
            && let Ok(Event::ConfigActivated(it)) = entry.event()
            && self.is_for_host(&it)
            && self.is_in_force(&it.name, entry.envelope.seq).await?
        {
            if it.name.starts_with("runner/") {
                let is_own = it.runner_key() == Some(self.key);
                ensure!(is_own, "{} is registered under another key now", self.host);
                return Ok(());
            }
            return self.send_service(entry.envelope.seq).await;
        }
        Ok(())
    }

    fn is_for_host(&self, config: &ConfigActivated) -> bool {
        let body = config.body.as_deref().unwrap_or_default();
        let service = || serde_json::from_str::<topologies::config::Service>(body);
        match config.name.as_str() {
            "signers" => true,
            name if name.strip_prefix("runner/") == Some(&self.host) => true,
            name => name.starts_with("service/") && service().is_ok_and(|it| it.host == self.host),
        }
    }

    /// An entry that the folds have refused, or that a later one has replaced, defines nothing.
    async fn is_in_force(&mut self, name: &str, seq: u64) -> anyhow::Result<bool> {
        let name = name.to_owned();
        let active = self.office.part.engine.ask(move |owner| owner.active_config(&name));
        let active = active.await.context("the engine has stopped")?;
        Ok(active.is_some_and(|it| it.seq == seq))
    }

    async fn hear(&mut self, message: FromRunner) -> anyhow::Result<()> {
        match message {
            FromRunner::Hello { .. } => bail!("a runner says hello once"),
            FromRunner::Lease { request_id, nonce } => self.lease(request_id, nonce).await,
            FromRunner::Result { request_id, payload } => self.result(request_id, &payload.0).await,
            FromRunner::Telemetry { n, record, .. } => {
                let engine = self.office.part.engine.clone();
                let stored =
                    tokio::task::spawn_blocking(move || engine.telemetry(&[record.0])).await?;
                stored.context("storing telemetry")?;
                self.say(&ToRunner::TelemetryStored { n }).await
            }
            FromRunner::EpochConfirmed { mode_epoch } => {
                self.office.part.confirmations.confirm(&self.host, mode_epoch);
                Ok(())
            }
            FromRunner::HeadSeen { size, cosignature, .. } => {
                self.seen = self.seen.max(size);
                self.cosigned(size, cosignature).await
            }
            FromRunner::EvidenceRefused { why, seen, .. } => {
                metrics::counter!("healwright_evidence_refused_total").increment(1);
                tracing::error!(host = self.host, size = seen.size, why, "a runner refuses a head");
                bail!("{} refuses the chain: {why}", self.host)
            }
            FromRunner::EvidenceWanted { request_id, seen } => {
                self.seen = seen.size;
                match request_id {
                    Some(id) => self.dispatch_again(id).await,
                    None => Ok(()),
                }
            }
            FromRunner::Registered { service, error } => {
                if let Some(why) = error {
                    tracing::error!(service, why, "a service is not supervised");
                }
                Ok(())
            }
        }
    }

    /// A runner that signs otherwise than its registered key would is not the registered one.
    async fn cosigned(&mut self, size: u64, line: String) -> anyhow::Result<()> {
        let host = self.host.clone();
        let told = self.office.part.engine.ask(move |owner| owner.cosigned(&host, size, &line));
        let told = told.await.context("the engine has stopped")?;
        told.with_context(|| format!("{} cosigns a head of {size} entries", self.host))
    }

    async fn dispatch_again(&mut self, id: Uuid) -> anyhow::Result<()> {
        let open = self.office.part.engine.ask(move |owner| {
            owner
                .look(bookkeeping::PROCESSOR.name, |view| view.load::<First>(&format!("open/{id}")))
        });
        match open.await.context("the engine has stopped")? {
            Some(first) => self.dispatch(first.seq).await,
            None => Ok(()),
        }
    }

    /// A grant carries what is left of the owner's lease. An owner that the chain has left
    /// cannot renew it, and then the start is denied.
    async fn lease(&mut self, request_id: Uuid, nonce: u64) -> anyhow::Result<()> {
        let engine = self.office.part.engine.clone();
        let mut moved = engine.follow();
        for _ in 0..2 {
            if engine.lease_left() > LEASE_WORTH {
                break;
            }
            moved.mark_unchanged();
            engine.ask(|owner| owner.want_tick()).await.context("the engine has stopped")?;
            engine.wake();
            // The owner's next batch or the end of the old lease, whichever is first.
            let _ = tokio::time::timeout(LEASE_WORTH, moved.changed()).await;
        }
        let asked = engine.ask(move |owner| {
            let mode = owner.look("mode", topologies::mode::current);
            let open = owner.look(bookkeeping::PROCESSOR.name, |view| {
                view.load::<First>(&format!("open/{request_id}")).is_some()
            });
            (mode, open)
        });
        let (mode, open) = asked.await.context("the engine has stopped")?;
        let left = engine.lease_left();
        let denied = match mode {
            _ if !open => Some("the request is not open"),
            None => Some("the operating mode is unknown"),
            Some(_) if left.is_zero() => Some("the owner's lease has ended"),
            Some(_) => None,
        };
        let message = match denied {
            Some(reason) => ToRunner::LeaseDenied { request_id, nonce, reason: reason.to_owned() },
            None => ToRunner::LeaseGrant {
                request_id,
                nonce,
                remaining_ms: u64::try_from(left.as_millis()).unwrap_or(0),
                mode: mode_epoch(mode),
            },
        };
        self.say(&message).await
    }

    /// What does not decode is not acknowledged: the runner keeps it, and a person is told.
    async fn result(&mut self, request_id: Uuid, payload: &[u8]) -> anyhow::Result<()> {
        let result = Event::decode(Kind::RunnerResult, payload)?;
        let actor = Actor { id: self.host.clone(), kind: ActorKind::Agent, key_id: None };
        let input = Input::new(actor, self.host.clone(), result);
        let sent = self.office.part.engine.submit(&input).await?;
        let answer = sent.answer.await.context("the engine has stopped")?;
        let place = schemas::envelope::reference(self.office.part.number, answer.seq);
        self.say(&ToRunner::ResultJournaled { request_id, place }).await
    }

    async fn send_service(&mut self, seq: u64) -> anyhow::Result<()> {
        let evidence = Box::new(self.evidence(vec![seq]).await?);
        self.say(&ToRunner::Service { evidence }).await
    }

    async fn dispatch(&mut self, seq: u64) -> anyhow::Result<()> {
        let asked = self.office.part.engine.ask(move |owner| {
            let entry = proofs::entry(owner, seq)?;
            let mode = owner.look("mode", topologies::mode::current);
            Ok::<_, crate::engine::EngineError>((entry, mode))
        });
        let (entry, mode) = asked.await.context("the engine has stopped")??;
        let Ok(Event::RunnerRequest(request)) = entry.event() else { return Ok(()) };
        if entry.envelope.key != self.host {
            return Ok(());
        }
        let approvals = request.binding.iter().flat_map(|it| &it.approvals);
        let mut seqs = vec![seq];
        seqs.extend(approvals.filter_map(|it| proofs::seq_of(it)));
        let evidence = Box::new(self.evidence(seqs).await?);
        self.say(&ToRunner::Dispatch { evidence, mode: mode_epoch(mode) }).await
    }

    async fn show_head(&mut self) -> anyhow::Result<()> {
        let grown = self.office.part.engine.follow().borrow().next_seq > self.seen;
        if !grown {
            return Ok(());
        }
        let evidence = Box::new(self.evidence(Vec::new()).await?);
        self.say(&ToRunner::Head { evidence }).await
    }

    async fn evidence(&mut self, seqs: Vec<u64>) -> anyhow::Result<runner::wire::Evidence> {
        let from = self.seen;
        let asked = self.office.part.engine.ask(move |owner| {
            let evidence = proofs::evidence(owner, from, &seqs)?;
            Ok::<_, crate::engine::EngineError>((evidence, owner.head().next_seq))
        });
        let (evidence, size) = asked.await.context("the engine has stopped")??;
        // The runner keeps each head that it accepts, in the order in which they are sent.
        self.seen = size;
        Ok(evidence)
    }

    async fn say(&mut self, message: &ToRunner) -> anyhow::Result<()> {
        Ok(send(&mut self.to, message).await?)
    }
}

/// A mode that is not known yet is frozen under no number: nothing may start under it.
fn mode_epoch(mode: Option<(Mode, u64)>) -> ModeEpoch {
    let (mode, epoch) = mode.unwrap_or((Mode::Frozen, 0));
    ModeEpoch { epoch, mode }
}
