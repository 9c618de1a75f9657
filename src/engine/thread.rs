//! The thread around the owner: it waits, feeds the clock in, and tells senders what became of
//! their inputs once they stand in the chain.
//!
//! On an embedded log the owner is there from the start. On a cluster the thread stands by, folds
//! along, and takes and leaves office as the group says ([`super::member`]); senders are answered
//! there from the chain, whoever wrote it.

mod answers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use schemas::signature::PublicKey;
use schemas::{Ns, Stream};
use state::{Log, LogError, State};
use tokio::sync::{oneshot, watch};

use self::answers::Answers;
use super::ahead::Ahead;
use super::bookkeeping::{self, First};
use super::owner::{Cycle, Owner, Taken};
use super::stages::Stopwatch;
use super::{EngineError, Input, Member};

/// What became of an input.
pub type Answer = Taken;

/// Seals are at least this far apart, so that samples share an fsync (protocol.md §4).
const SEAL_SPACING: Duration = Duration::from_millis(50);
/// Batches that may be on their way to the disk while the next one is folded.
pub const AHEAD: usize = 2;
/// D of protocol.md §7.
pub const LEASE: Duration = Duration::from_secs(2);
/// Work that may wait before senders do.
const QUEUE: usize = 4096;

type Ask = Box<dyn FnOnce(&mut Owner) + Send>;
type See = Box<dyn FnOnce(&mut State) + Send>;

/// What the thread is to do. The channel drops what waits in it when the thread ends, so that who
/// has asked is not left waiting.
pub(super) enum Work {
    Input,
    Telemetry,
    Ask(Ask),
    See(See),
}

/// Wakes an engine that may not run yet: what a log calls when something has come in.
#[derive(Clone, Default)]
pub struct Bell(Arc<OnceLock<SyncSender<Work>>>);

impl Bell {
    /// Has the engine look.
    pub fn ring(&self) {
        if let Some(work) = self.0.get() {
            // A full queue already wakes the thread, and one that has ended needs no waking.
            let _ = work.try_send(Work::Input);
        }
    }
}

/// Who holds office on this partition, as far as this process has read the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// Whether this process does.
    pub here: bool,
    /// Epoch of the last election.
    pub epoch: u64,
    /// Where the elected node answers.
    pub endpoint: String,
    /// Its key, as the election says.
    pub node: Option<PublicKey>,
}

/// An input on its way: where it is durable, and the answer that comes once it is journaled.
pub struct Sent {
    /// Stream that it was sent to.
    pub stream: Stream,
    /// Its position there.
    pub position: u64,
    /// What became of it.
    pub answer: oneshot::Receiver<Answer>,
}

/// Where the engine stands, for everyone who follows the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Number of entries in the chain.
    pub next_seq: u64,
    /// Why the partition stopped, if it did.
    pub stopped: Option<String>,
    /// Whether it stays so until the process is started again.
    pub for_good: bool,
}

pub(super) struct Shared {
    log: Arc<dyn Log>,
    pub(super) answers: Mutex<Answers>,
    work: SyncSender<Work>,
    pub(super) moved: watch::Sender<Moved>,
    pub(super) seat: watch::Sender<Seat>,
    pub(super) stop: AtomicBool,
    newest: Mutex<Option<Instant>>,
    /// Whether several processes share the log, so that sending waits for a broker.
    is_shared: bool,
}

/// The running engine. Dropping it stops the thread after the batch in hand.
pub struct Engine {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// How the rest of the program reaches the engine.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Engine {
    /// Runs `owner` on a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(owner: Owner, log: Arc<dyn Log>) -> Result<Self, EngineError> {
        let (work, todo) = sync_channel(QUEUE);
        let next_seq = owner.head().next_seq;
        let shared = Shared::new(log, work, next_seq, false);
        let here = Seat { here: true, epoch: owner.head().epoch, ..Seat::default() };
        shared.seat.send_replace(here);
        let running = shared.clone();
        Engine::spawn(shared, move || {
            let mut owner = owner;
            run(&running, &todo, &mut owner);
        })
    }

    /// Runs `member` on a thread of its own; `bell` wakes it from now on.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn join(member: Member, bell: &Bell) -> Result<Self, EngineError> {
        let (work, todo) = sync_channel(QUEUE);
        let next_seq = member.next_seq()?;
        let shared = Shared::new(member.log(), work.clone(), next_seq, true);
        // A bell belongs to one engine; a second one would wake nobody.
        let _ = bell.0.set(work);
        let running = shared.clone();
        Engine::spawn(shared, move || member.run(&running, &todo))
    }

    fn spawn(
        shared: Arc<Shared>,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<Self, EngineError> {
        let thread = std::thread::Builder::new().name("owner".to_owned()).spawn(run);
        let thread = thread
            .map_err(|source| EngineError::Io { what: "starting the owner".to_owned(), source })?;
        Ok(Engine { handle: Handle(shared), thread: Some(thread) })
    }

    /// A handle for senders and followers.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Has the thread end after the batch in hand, without waiting for it.
    pub fn stop(&self) {
        self.handle.0.stop.store(true, Ordering::SeqCst);
        self.handle.nudge(Work::Input);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by itself; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Handle {
    /// Hands `input` over; the answer comes once its batch is durable and read back.
    ///
    /// # Errors
    /// The log refuses the record, or does not answer.
    pub async fn submit(&self, input: &Input) -> Result<Sent, EngineError> {
        let stream = input.stream();
        let record = input.encode()?;
        let client_id = bookkeeping::client_id(&input.event);
        if !self.0.is_shared {
            // Held while sending, so that the answer cannot come before the waiter is known.
            let mut answers = self.0.answers();
            if let Some(why) = answers.closed() {
                return Err(EngineError::Stopped { why });
            }
            let position = self.0.log.send(stream, &[record])?.start;
            let answer = answers.wait((stream, position), client_id);
            drop(answers);
            self.nudge(Work::Input);
            return Ok(Sent { stream, position, answer });
        }
        if let Some(first) = self.first_of(client_id.clone()).await {
            return Ok(Sent::repeat(stream, first.seq));
        }
        let log = self.0.log.clone();
        let sent = tokio::task::spawn_blocking(move || log.send(stream, &[record])).await;
        let stopped = |_| EngineError::Io {
            what: "sending an input".to_owned(),
            source: std::io::ErrorKind::Interrupted.into(),
        };
        let position = sent.map_err(stopped)??.start;
        let answer = self.0.answers().wait((stream, position), client_id);
        self.nudge(Work::Input);
        Ok(Sent { stream, position, answer })
    }

    /// The entry that an earlier event with the same client id became, from folded state alone.
    async fn first_of(&self, client_id: Option<String>) -> Option<First> {
        let key = client_id?;
        self.see(move |state| bookkeeping::first(state, &key)).await.ok().flatten()
    }

    /// Makes telemetry records durable; they are sealed into the chain with the next cycle.
    ///
    /// # Errors
    /// The log refuses them.
    pub fn telemetry(&self, records: &[Vec<u8>]) -> Result<(), LogError> {
        self.0.log.send(Stream::Telemetry, records)?;
        self.nudge(Work::Telemetry);
        Ok(())
    }

    /// Runs `ask` on the owner's thread between two cycles.
    pub fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Owner) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.nudge(Work::Ask(Box::new(move |owner| {
            // The one who asked may have gone; then nobody needs the answer.
            let _ = sender.send(ask(owner));
        })));
        receiver
    }

    /// Looks at the folded state between two batches, in office or not.
    pub fn see<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.nudge(Work::See(Box::new(move |state| {
            // The one who asked may have gone; then nobody needs the answer.
            let _ = sender.send(look(state));
        })));
        receiver
    }

    /// Whether several processes share the log.
    pub fn is_shared(&self) -> bool {
        self.0.is_shared
    }

    /// Who holds office.
    pub fn seat(&self) -> watch::Receiver<Seat> {
        self.0.seat.subscribe()
    }

    /// What is left of the owner's lease: it ends [`LEASE`] after the owner first sent its newest
    /// batch since read back linked, so an owner that the chain has left cannot renew.
    pub fn lease_left(&self) -> Duration {
        let newest = *self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.map_or(Duration::ZERO, |sent| LEASE.saturating_sub(sent.elapsed()))
    }

    /// Follows the end of the journal.
    pub fn follow(&self) -> watch::Receiver<Moved> {
        self.0.moved.subscribe()
    }

    /// The log, for followers that read behind the owner.
    pub fn log(&self) -> Arc<dyn Log> {
        self.0.log.clone()
    }

    /// Stops the partition for good: what its journal holds cannot be read, so nothing may be
    /// decided on it.
    pub fn condemn(&self, why: &str) {
        self.0.halt_for_good(why);
        self.0.stop.store(true, Ordering::SeqCst);
        self.nudge(Work::Input);
    }

    /// Why the partition stands still, if it does.
    pub fn stopped(&self) -> Option<String> {
        self.0.moved.borrow().stopped.clone()
    }

    /// Has the owner run a cycle now.
    pub fn wake(&self) {
        self.nudge(Work::Input);
    }

    fn nudge(&self, work: Work) {
        match self.0.work.try_send(work) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // A full queue already wakes the owner; only a question must not be lost.
            Err(TrySendError::Full(work @ (Work::Ask(_) | Work::See(_)))) => {
                let _ = self.0.work.send(work);
            }
            Err(TrySendError::Full(Work::Input | Work::Telemetry)) => {}
        }
    }
}

/// Wall-clock time.
pub fn wall_now() -> Ns {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ns(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

impl Shared {
    fn new(log: Arc<dyn Log>, work: SyncSender<Work>, next_seq: u64, is_shared: bool) -> Arc<Self> {
        Arc::new(Shared {
            log,
            answers: Mutex::new(Answers::new(is_shared)),
            work,
            moved: watch::Sender::new(Moved { next_seq, ..Moved::default() }),
            seat: watch::Sender::default(),
            stop: AtomicBool::new(false),
            newest: Mutex::default(),
            is_shared,
        })
    }

    pub(super) fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says loudly that the partition stands still, and why.
    pub(super) fn halt(&self, why: &str) {
        self.stand_still(why, false);
    }

    /// As [`Shared::halt`], until the process is started again. On a shared log another process
    /// may still journal what was sent, so who waits there goes on waiting.
    pub(super) fn halt_for_good(&self, why: &str) {
        self.stand_still(why, true);
        if !self.is_shared {
            self.answers().close(why);
        }
    }

    fn stand_still(&self, why: &str, for_good: bool) {
        tracing::error!(error = why, "the partition stopped");
        self.moved.send_modify(|moved| {
            moved.stopped = Some(why.to_owned());
            moved.for_good |= for_good;
        });
    }

    /// The input that it stood still at is passed over.
    fn goes_on(&self) {
        self.moved.send_if_modified(|moved| !moved.for_good && moved.stopped.take().is_some());
    }
}

impl Sent {
    fn repeat(stream: Stream, seq: u64) -> Self {
        let (sender, answer) = oneshot::channel();
        let taken = Taken { stream, position: 0, seq, repeated: true, refused: None };
        // The receiver is in this very struct.
        let _ = sender.send(taken);
        Sent { stream, position: 0, answer }
    }
}

fn run(shared: &Shared, todo: &Receiver<Work>, owner: &mut Owner) {
    let outcome = serve(shared, todo, owner, || true);
    if let Err(error) = outcome {
        // Damage says itself what repairs it.
        let damaged = matches!(&error, EngineError::Log(it) if it.damage().is_some());
        let then = if damaged { "" } else { "; once that is mended, stop the node and start it" };
        shared.halt_for_good(&format!("{error}{then}"));
        return;
    }
    if let Err(error) = owner.sign_head(wall_now(), true) {
        tracing::warn!(%error, "the last head was not signed");
    }
}

/// Runs cycles until the engine is stopped or office is `over`. A fold that panicked halts the
/// partition and not the process: it can still be frozen.
pub(super) fn serve(
    shared: &Shared,
    todo: &Receiver<Work>,
    owner: &mut Owner,
    mut in_office: impl FnMut() -> bool,
) -> Result<(), EngineError> {
    let stopwatch = Stopwatch::default();
    owner.watched(stopwatch.watch());
    let mut last_cycle = Instant::now();
    while !shared.stop.load(Ordering::SeqCst) && in_office() {
        wait(todo, owner, last_cycle);
        last_cycle = Instant::now();
        match cycles(shared, owner, &stopwatch) {
            Err(error @ EngineError::Panicked { .. }) => shared.halt(&error.to_string()),
            Ok(()) if !owner.is_halted() => shared.goes_on(),
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Waits until something is to be done: an input, a seal that is due, or a tick.
fn wait(todo: &Receiver<Work>, owner: &mut Owner, last_cycle: Instant) {
    let until_due = owner.next_due().since(wall_now()).as_duration();
    let until_signed = owner.heads().due_in(wall_now());
    let mut deadline = Instant::now() + until_due.min(until_signed);
    loop {
        match todo.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Work::Input) => return,
            Ok(Work::Telemetry) => deadline = deadline.min(last_cycle + SEAL_SPACING),
            Ok(Work::Ask(ask)) => ask(owner),
            Ok(Work::See(see)) => see(owner.state_mut()),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Runs cycles until nothing more waits. While more does, the embedded log syncs one as the next
/// is folded; a shared log answers an append when it is linked, and its effects do not wait.
fn cycles(shared: &Shared, owner: &mut Owner, stopwatch: &Stopwatch) -> Result<(), EngineError> {
    let mut ahead = Ahead::default();
    let may_wait = |it: &Cycle| if it.more && !shared.is_shared { AHEAD } else { 0 };
    loop {
        let (sent, before) = (Instant::now(), owner.head().next_seq);
        let settled = |sent, cycle| settled(shared, sent, cycle);
        let more = ahead.turn(owner, wall_now(), sent, may_wait, settled)?;
        stopwatch.finish(before < owner.head().next_seq);
        if !more {
            return Ok(());
        }
    }
}

/// What follows once a batch stands in the chain.
fn settled(shared: &Shared, sent: Instant, cycle: Cycle) {
    let mut answers = shared.answers();
    cycle.taken.into_iter().for_each(|taken| answers.give(taken));
    drop(answers);
    if cycle.batch.is_some() {
        *shared.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        metrics::counter!("healwright_batches_total").increment(1);
        shared.moved.send_modify(|moved| moved.next_seq = cycle.next_seq);
    }
}
