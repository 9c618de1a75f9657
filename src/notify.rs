//! Telling people: each escalation goes to the webhook and to the command that the
//! configuration names, and nowhere else.
//!
//! It follows the journal, so nobody is told of something that is not in it. Delivery is at
//! least once: the escalation id is in the message. What could not be delivered is logged and
//! counted; the escalation itself stands in the journal and on the page whatever happens here.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use schemas::{Entry, Event, Kind};
use serde_json::{Value, json};

use crate::config::Escalation;
use crate::engine::Handle;
use crate::follow::Follower;
use crate::words;

/// A receiver that does not answer within this time has failed.
const WITHIN: Duration = Duration::from_secs(5);

/// Follows the journal from its present end and tells people of each escalation.
pub fn follow(engine: &Handle, targets: Escalation) {
    if targets == Escalation::default() {
        return;
    }
    let mut follower = Follower::from_end(engine);
    let seat = engine.seat();
    tokio::spawn(async move {
        while let Some(batches) = follower.next().await {
            // One of the processes that share a journal tells, and it is the one in office.
            if !seat.borrow().here {
                continue;
            }
            for entry in batches.iter().flat_map(|it| &it.entries) {
                tell(entry, &targets).await;
            }
        }
    });
}

async fn tell(entry: &Entry, targets: &Escalation) {
    if entry.envelope.kind != Kind::HealEscalated {
        return;
    }
    let Ok(event) = entry.event() else { return };
    let message = message(entry, &event);
    let targets = targets.clone();
    let told = tokio::task::spawn_blocking(move || {
        let webhook = targets.webhook.as_deref().map_or(Ok(()), |url| post(url, &message));
        let command =
            if targets.command.is_empty() { Ok(()) } else { run(&targets.command, &message) };
        (webhook, command)
    });
    let Ok((webhook, command)) = told.await else { return };
    for (target, outcome) in [("webhook", webhook), ("command", command)] {
        if let Err(error) = outcome {
            metrics::counter!("healwright_notifications_failed_total").increment(1);
            tracing::warn!(target, %error, "an escalation could not be delivered");
        }
    }
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

fn post(url: &str, message: &Value) -> anyhow::Result<()> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(WITHIN)).build().into();
    agent.post(url).header("content-type", "application/json").send(message.to_string())?;
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
