//! The agent's shell: a socket, a few threads, a host.
//!
//! One thread owns the [`Agent`] and writes to the socket; one connects and reads; a fixed few
//! carry out work; one fetches what the proxy counted. Whatever is durable is done by the first,
//! in order, before its effect leaves.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use schemas::signature::PublicKey;

use super::core::{Agent, Effect, Finished, Job};
use super::telemetry::{Collector, Outbox, PERIOD, samples_of};
use super::{Error, Identity, SystemClock};
use crate::host::Host;
use crate::proxy::Router;
use crate::wire::{FrameError, FromRunner, Reader, ToRunner, socket, write};

/// Work at once; more waits.
const N_WORKERS: usize = 8;
/// Messages that are read and not yet taken; then the sender waits.
const N_INPUTS_MAX: usize = 256;
/// Leases and answers are looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// A control plane that takes no bytes for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to connect: first and longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What the agent needs of the machine it runs on.
pub trait Machine: Send + Sync {
    /// Where requests are carried out.
    fn host(&self) -> &dyn Host;

    /// Supervises a service, or replaces how it is supervised: the body of its
    /// `config.activated`, as JSON. Repeating it changes nothing.
    ///
    /// # Errors
    /// Why not, in a sentence.
    fn register(&self, body: &str) -> Result<(), String>;

    /// Takes artifacts that were signed by one of these keys, and by no other.
    fn trust(&self, keys: Vec<PublicKey>);

    /// Sandbox kinds that work here; empty where none does.
    fn sandbox_kinds(&self) -> Vec<String>;

    /// The proxy whose counts are sent, where there is one.
    fn router(&self) -> Option<Arc<dyn Router>>;
}

enum Input {
    Connected(UnixStream),
    Message(Box<ToRunner>),
    Disconnected(String),
    Finished(Finished),
}

/// Runs the agent of `identity` until `stop` is set. It calls the control plane at `socket`;
/// `collector` is where the machine's sink leads.
///
/// # Errors
/// A file of the runner is damaged, or the disk fails.
pub fn run(
    identity: Identity,
    socket: &Path,
    machine: &Arc<dyn Machine>,
    collector: &Arc<Collector>,
    stop: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let host = identity.host.clone();
    let agent = Agent::open(identity, Arc::new(SystemClock::default()))?;
    let (inputs, taken) = sync_channel(N_INPUTS_MAX);
    let mut shell = Shell {
        agent,
        outbox: Outbox::new(&host),
        jobs: workers(machine, &inputs),
        sandbox: machine.sandbox_kinds(),
        machine: Arc::clone(machine),
        stream: None,
    };
    let reader = {
        let (socket, stop) = (socket.to_owned(), Arc::clone(stop));
        thread::spawn(move || read(&socket, &inputs, &stop))
    };
    let meter = machine.router().map(|router| {
        let (stop, collector) = (Arc::clone(stop), Arc::clone(collector));
        thread::spawn(move || fetch(&*router, &host, &collector, &stop))
    });
    let ended = shell.serve(&taken, collector, stop);
    // The reader may be in a read or a send: closing both ends of what it waits for frees it.
    stop.store(true, Ordering::Relaxed);
    shell.hang_up();
    drop(taken);
    let _ = reader.join();
    if let Some(meter) = meter {
        let _ = meter.join();
    }
    ended
}

struct Shell {
    agent: Agent,
    outbox: Outbox,
    machine: Arc<dyn Machine>,
    jobs: Sender<Job>,
    sandbox: Vec<String>,
    stream: Option<UnixStream>,
}

impl Shell {
    fn serve(
        &mut self,
        inputs: &Receiver<Input>,
        collector: &Collector,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let (mut ticked, mut filled) = (Instant::now(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            match inputs.recv_timeout(TICK.saturating_sub(ticked.elapsed())) {
                Ok(input) => self.take(input)?,
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if TICK <= ticked.elapsed() {
                ticked = Instant::now();
                let effects = self.agent.tick()?;
                self.carry_out(effects);
            }
            if PERIOD <= filled.elapsed() {
                filled = Instant::now();
                self.outbox.fill(collector);
                self.send_telemetry();
            }
        }
        Ok(())
    }

    fn take(&mut self, input: Input) -> Result<(), Error> {
        let effects = match input {
            Input::Connected(stream) => {
                self.stream = Some(stream);
                vec![Effect::Say(self.agent.hello(&self.sandbox))]
            }
            Input::Message(message) => {
                if let ToRunner::TelemetryStored { n } = *message {
                    self.outbox.stored(n);
                    self.send_telemetry();
                }
                self.agent.take(*message)?
            }
            Input::Disconnected(why) => {
                tracing::info!(%why, "the conversation with the control plane ended");
                self.hang_up();
                Vec::new()
            }
            Input::Finished(finished) => self.agent.finished(finished)?,
        };
        self.carry_out(effects);
        Ok(())
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Say(message) => self.say(&message),
                Effect::Work(job) => {
                    // The workers live as long as this thread holds the sender.
                    let _ = self.jobs.send(*job);
                }
                Effect::Trust(keys) => self.machine.trust(keys),
                Effect::Close(why) => {
                    tracing::error!(%why, "the conversation is closed");
                    self.hang_up();
                }
            }
        }
    }

    fn send_telemetry(&mut self) {
        if self.stream.is_none() {
            return;
        }
        for message in self.outbox.messages() {
            self.say(&message);
        }
    }

    /// Says it where somebody listens. What has to arrive is kept elsewhere and said again.
    fn say(&mut self, message: &FromRunner) {
        let Some(stream) = &mut self.stream else { return };
        if let Err(error) = write(stream, message) {
            tracing::info!(%error, "the control plane does not listen");
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        self.outbox.disconnected();
        if let Some(stream) = self.stream.take() {
            // The reader sees the end of it, and connects anew.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn workers(machine: &Arc<dyn Machine>, inputs: &SyncSender<Input>) -> Sender<Job> {
    let (jobs, waiting) = channel::<Job>();
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..N_WORKERS {
        let (machine, inputs) = (Arc::clone(machine), inputs.clone());
        let waiting = Arc::clone(&waiting);
        thread::spawn(move || {
            loop {
                let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = job else { return };
                let finished = job.run(&*machine);
                if inputs.send(Input::Finished(finished)).is_err() {
                    return;
                }
            }
        });
    }
    jobs
}

fn read(socket: &Path, inputs: &SyncSender<Input>, stop: &AtomicBool) {
    let mut backoff = BACKOFF.0;
    while !stop.load(Ordering::Relaxed) {
        let why = match converse(socket, inputs) {
            Ok(()) => {
                backoff = BACKOFF.0;
                "the control plane closed it".to_owned()
            }
            Err(error) => error.to_string(),
        };
        if inputs.send(Input::Disconnected(why)).is_err() {
            return;
        }
        thread::sleep(backoff);
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

fn converse(path: &Path, inputs: &SyncSender<Input>) -> Result<(), FrameError> {
    let stream = socket::connect(path)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut reader = Reader::new(stream.try_clone()?);
    let gone = |_| FrameError::Cut;
    inputs.send(Input::Connected(stream)).map_err(gone)?;
    while let Some(message) = reader.read()? {
        inputs.send(Input::Message(Box::new(message))).map_err(gone)?;
    }
    Ok(())
}

/// Fetches what the proxy counted. What was put into the collector is acknowledged with the
/// next fetch.
fn fetch(router: &dyn Router, host: &str, collector: &Arc<Collector>, stop: &AtomicBool) {
    let sink = collector.sink();
    let (mut instance, mut since) = (String::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        match router.stats(&instance, since) {
            Ok(stats) => {
                if stats.instance != instance {
                    (instance, since) = (stats.instance, 0);
                }
                since = stats.intervals.last().map_or(since, |it| it.seq);
                let samples = samples_of(host, &stats.intervals);
                if !samples.is_empty() {
                    sink(samples);
                }
            }
            Err(error) => tracing::debug!(%error, "the proxy gives no counts"),
        }
        thread::sleep(PERIOD);
    }
}
