//! Telling people: each escalation goes to the webhook and to the command that the
//! configuration names, and nowhere else.
//!
//! It follows the journal, so nobody is told of something that is not in it. Of the processes
//! that share a journal, the one in office tells.
//!
//! - Delivery is at least once: the escalation id is in the message.
//! - When every target has taken a message, that is recorded as an input. Whoever takes office
//!   next tells what has no record, so an owner that dies in between silences nothing.
//! - A target that fails is tried again after growing pauses, and each failure is logged and
//!   counted. After an hour the escalation is given up, and that is recorded with its reason.
//! - What is older than an hour when its journal is first followed is not told again, so neither
//!   an upgrade nor an old journal floods a receiver.
//!
//! The escalation itself stands in the journal and on the page whatever happens here.

mod untold;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use schemas::{Entry, Event};
use serde_json::{Value, json};
use state::LogError;
use tokio::sync::watch;

use self::untold::{Outcome, TRIED_FOR, Untold, Waiting};
use crate::client;
use crate::config::Escalation;
use crate::engine::{Handle, Seat, wall_now};
use crate::follow::Follower;
use crate::words;

/// A receiver that does not answer within this time has failed.
const WITHIN: Duration = Duration::from_secs(5);
/// Between two tries to tell that the partition stands still.
const STOP_PAUSE: Duration = Duration::from_secs(10);

/// Follows the journal and tells people of each escalation that nobody was told of.
pub fn follow(engine: &Handle, targets: Escalation) {
    if targets == Escalation::default() {
        return;
    }
    tokio::spawn(tell_stops(engine.clone(), targets.clone()));
    let engine = engine.clone();
    tokio::spawn(async move {
        match Teller::new(engine, targets).await {
            Ok(mut teller) => while teller.step().await.is_some() {},
            Err(error) => tracing::error!(%error, "nobody is told of escalations"),
        }
    });
}

struct Teller {
    engine: Handle,
    seat: watch::Receiver<Seat>,
    follower: Follower,
    untold: Untold,
    targets: Escalation,
}

impl Teller {
    async fn new(engine: Handle, targets: Escalation) -> Result<Self, LogError> {
        let follower = Follower::from_before_election(&engine, TRIED_FOR).await?;
        tracing::info!(
            from = follower.next_seq(),
            "escalations without a record are told from here on; older ones are not told again"
        );
        let seat = engine.seat();
        Ok(Teller { engine, seat, follower, untold: Untold::default(), targets })
    }

    /// Reads what there is, then tells one, or waits. `None` when the engine has stopped.
    async fn step(&mut self) -> Option<()> {
        while self.follower.is_behind() {
            self.read().await?;
        }
        // Whoever has read its own election has read every record that came before it.
        let seat = self.seat.borrow().clone();
        let in_office = seat.here && seat.epoch == self.untold.epoch();
        self.untold.settle(in_office);
        let now = wall_now();
        if let Some(waiting) = self.untold.due(now).filter(|_| in_office) {
            attempt(&self.engine, waiting, &self.targets).await;
            return Some(());
        }
        match self.untold.pause(now).filter(|_| in_office) {
            None => self.read().await,
            Some(pause) => {
                // The time of the next try comes first, or news does.
                tokio::time::timeout(pause, self.read()).await.unwrap_or(Some(()))
            }
        }
    }

    async fn read(&mut self) -> Option<()> {
        let batches = self.follower.next().await?;
        batches.iter().for_each(|batch| self.untold.fold(batch));
        Some(())
    }
}

/// Tells the targets that have not taken it, and has the journal record what came of it.
async fn attempt(engine: &Handle, waiting: &mut Waiting, targets: &Escalation) {
    if waiting.outcome.is_none() && tell(waiting, targets).await {
        waiting.outcome = Some(Outcome::Told);
    }
    let now = wall_now();
    let Some(outcome) = waiting.outcome else { return waiting.try_later(now) };
    let place = waiting.entry.envelope.reference();
    if outcome == Outcome::GivenUp {
        tracing::error!(place, failure = waiting.failure, "an escalation is given up");
    }
    match engine.submit(&waiting.record(outcome, now)).await {
        Ok(_) => waiting.sent(),
        Err(error) => {
            tracing::warn!(place, %error, "what became of an escalation is not recorded yet");
            waiting.try_later(now);
        }
    }
}

/// Tells people that the partition stands still, whenever it comes to that. It journals nothing
/// then, not even this, so it is told by each node on which it stands still, and not recorded.
async fn tell_stops(engine: Handle, targets: Escalation) {
    let mut moved = engine.follow();
    loop {
        let Ok(why) = moved.wait_for(|it| it.stopped.is_some()).await.map(|it| it.stopped.clone())
        else {
            return;
        };
        let host = crate::keys::host_name();
        let message = json!({
            "schema": "healwright.stopped.v1",
            "text": format!("Healwright on {host} stands still: {}", why.unwrap_or_default()),
            "at": wall_now(),
        });
        let (mut took, mut failure) = (BTreeSet::new(), String::new());
        let given_up = wall_now() + TRIED_FOR;
        while !deliver(&targets, &mut took, &mut failure, &message).await && wall_now() < given_up {
            tokio::time::sleep(STOP_PAUSE).await;
        }
        if moved.wait_for(|it| it.stopped.is_none()).await.is_err() {
            return;
        }
    }
}

/// Whether every target has taken it.
async fn tell(waiting: &mut Waiting, targets: &Escalation) -> bool {
    let Ok(event) = waiting.entry.event() else {
        waiting.failure = "its payload cannot be read here".to_owned();
        return false;
    };
    let message = message(&waiting.entry, &event);
    deliver(targets, &mut waiting.took, &mut waiting.failure, &message).await
}

/// Tells the targets that have not taken `message`; whether every one has now, and the last
/// failure.
async fn deliver(
    targets: &Escalation,
    taken: &mut BTreeSet<&'static str>,
    failure: &mut String,
    message: &Value,
) -> bool {
    let (wants, took, message) = (targets.clone(), taken.clone(), message.clone());
    let told = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        if let Some(url) = wants.webhook.filter(|_| !took.contains("webhook")) {
            told.push(("webhook", post(&url, wants.ca_file.as_deref(), &message)));
        }
        if !wants.command.is_empty() && !took.contains("command") {
            told.push(("command", run(&wants.command, &message)));
        }
        told
    });
    let Ok(told) = told.await else {
        *failure = "telling was cut short".to_owned();
        return false;
    };
    let mut all = true;
    for (target, outcome) in told {
        if let Err(error) = outcome {
            metrics::counter!("healwright_notifications_failed_total").increment(1);
            tracing::warn!(target, %error, "people could not be told");
            *failure = format!("{target}: {error:#}");
            all = false;
        } else {
            taken.insert(target);
        }
    }
    all
}

fn message(entry: &Entry, event: &Event) -> Value {
    json!({
        "schema": "healwright.escalation.v1",
        "text": words::sentence(event),
        "place": entry.envelope.reference(),
        "at": entry.envelope.wall,
        "incident_id": entry.envelope.correlation,
        "escalation": event,
    })
}

fn post(url: &str, ca_file: Option<&Path>, message: &Value) -> anyhow::Result<()> {
    let request = client::agent(ca_file, WITHIN)?.post(url);
    let answer = request.header("content-type", "application/json").send(message.to_string())?;
    anyhow::ensure!(answer.status().is_success(), "it answered {}", answer.status());
    Ok(())
}

/// Runs a command with the message on its standard input; it is killed when it takes too long.
fn run(words: &[String], message: &Value) -> anyhow::Result<()> {
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input has been told all the same.
        let _ = writeln!(stdin, "{message}");
    }
    let deadline = std::time::Instant::now() + WITHIN;
    loop {
        if let Some(status) = child.try_wait()? {
            anyhow::ensure!(status.success(), "{} ended with {status}", words[0]);
            return Ok(());
        }
        if std::time::Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("{} took longer than {} s", words[0], WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
