//! The thread around the owner: it waits, feeds the clock in, and tells senders what became of
//! their inputs after the append.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use schemas::{Ns, Stream};
use state::{Log, LogError};
use tokio::sync::{oneshot, watch};

use super::owner::{Owner, Taken};
use super::{EngineError, Input};

/// What became of an input.
pub type Answer = Taken;

/// Seals are at least this far apart, so that samples share an fsync (protocol.md §4).
const SEAL_SPACING: Duration = Duration::from_millis(50);
/// D of protocol.md §7.
pub const LEASE: Duration = Duration::from_secs(2);
/// Work that may wait before senders do.
const QUEUE: usize = 4096;

type Ask = Box<dyn FnOnce(&mut Owner) + Send>;

enum Work {
    Input,
    Telemetry,
    Ask(Ask),
}

/// Where the engine stands, for everyone who follows the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Number of entries in the chain.
    pub next_seq: u64,
    /// Why the partition stopped, if it did.
    pub stopped: Option<String>,
}

struct Shared {
    log: Arc<dyn Log>,
    waiters: Mutex<BTreeMap<(Stream, u64), oneshot::Sender<Answer>>>,
    work: Sender<Work>,
    moved: watch::Sender<Moved>,
    stop: AtomicBool,
    newest: Mutex<Option<Instant>>,
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
        let (work, todo) = bounded(QUEUE);
        let start = Moved { next_seq: owner.head().next_seq, stopped: None };
        let shared = Arc::new(Shared {
            log,
            waiters: Mutex::default(),
            work,
            moved: watch::Sender::new(start),
            stop: AtomicBool::new(false),
            newest: Mutex::default(),
        });
        let handle = Handle(shared.clone());
        let thread = std::thread::Builder::new()
            .name("owner".to_owned())
            .spawn(move || run(&shared, &todo, owner))
            .map_err(|source| EngineError::Io { what: "starting the owner".to_owned(), source })?;
        Ok(Engine { handle, thread: Some(thread) })
    }

    /// A handle for senders and followers.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.0.stop.store(true, Ordering::SeqCst);
        self.handle.nudge(Work::Input);
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
    /// The log refuses the record.
    pub fn submit(&self, input: &Input) -> Result<oneshot::Receiver<Answer>, EngineError> {
        let (sender, receiver) = oneshot::channel();
        let stream = input.stream();
        let record = input.encode()?;
        {
            // Held while sending, so that the answer cannot come before the waiter is known.
            let mut waiters = self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            let range = self.0.log.send(stream, &[record])?;
            waiters.insert((stream, range.start), sender);
        }
        self.nudge(Work::Input);
        Ok(receiver)
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

    /// Has the owner run a cycle now.
    pub fn wake(&self) {
        self.nudge(Work::Input);
    }

    fn nudge(&self, work: Work) {
        match self.0.work.try_send(work) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            // A full queue already wakes the owner; only a question must not be lost.
            Err(TrySendError::Full(work @ Work::Ask(_))) => {
                let _ = self.0.work.send(work);
            }
            Err(TrySendError::Full(_)) => {}
        }
    }
}

/// Wall-clock time.
pub fn wall_now() -> Ns {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ns(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn run(shared: &Shared, todo: &Receiver<Work>, mut owner: Owner) {
    let mut last_cycle = Instant::now();
    while !shared.stop.load(Ordering::SeqCst) {
        wait(todo, &mut owner, last_cycle);
        last_cycle = Instant::now();
        if let Err(error) = cycles(shared, &mut owner) {
            tracing::error!(%error, "the partition stopped");
            shared.moved.send_modify(|moved| moved.stopped = Some(error.to_string()));
            if !matches!(error, EngineError::Panicked { .. }) {
                return;
            }
        }
    }
    if let Err(error) = owner.sign_head(wall_now(), true) {
        tracing::warn!(%error, "the last head was not signed");
    }
}

/// Waits until something is to be done: an input, a seal that is due, or a tick.
fn wait(todo: &Receiver<Work>, owner: &mut Owner, last_cycle: Instant) {
    let until_due = owner.next_due().since(wall_now()).as_duration();
    let until_signed = owner.heads().due_in(wall_now());
    let mut deadline = Instant::now() + until_due.min(until_signed);
    loop {
        match todo.recv_deadline(deadline) {
            Ok(Work::Input) => return,
            Ok(Work::Telemetry) => deadline = deadline.min(last_cycle + SEAL_SPACING),
            Ok(Work::Ask(ask)) => ask(owner),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn cycles(shared: &Shared, owner: &mut Owner) -> Result<(), EngineError> {
    loop {
        let sent = Instant::now();
        let cycle = owner.cycle(wall_now())?;
        if cycle.batch.is_some() {
            *shared.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        }
        let mut waiters = shared.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        for taken in cycle.taken {
            if let Some(waiter) = waiters.remove(&(taken.stream, taken.position)) {
                // A sender that has hung up learns the place by sending again.
                let _ = waiter.send(taken);
            }
        }
        drop(waiters);
        if cycle.batch.is_some() {
            metrics::counter!("healwright_batches_total").increment(1);
            shared.moved.send_modify(|moved| moved.next_seq = owner.head().next_seq);
        }
        owner.sign_head(wall_now(), false)?;
        if !cycle.more {
            return Ok(());
        }
    }
}
