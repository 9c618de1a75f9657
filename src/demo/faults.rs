//! The faults, one after another: each is really done to the running services.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Signal, kill_process, kill_process_group};
use schemas::event::{DeployPhase, Health, L3Outcome, RELEASE_DOMAIN, ReleaseRequested};
use schemas::signature::signature_text;
use schemas::{Actor, ActorKind, Event, Uuid};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Healed;
use super::stage::{SHOP, Stage, WORKER};
use super::wheel;
use crate::cli::act::random_id;
use crate::engine::Input;
use crate::node::OPERATOR;

/// A heal that takes longer is none.
const WITHIN: Duration = Duration::from_secs(60);

/// Release 1.1.0 is really bad: it fails orders, which no shadow is shown, and one page in forty.
/// The shadow sees the first of those about when the canary has seen enough orders fail, and it is
/// rolled back.
pub(super) async fn bad_release(stage: &mut Stage) -> anyhow::Result<Healed> {
    let story = stage.story;
    story.heading(1, "A bad release");
    let mut healed = Healed { name: "bad-release", ..Healed::default() };
    stage.see_only_what_follows();
    let (began, failed) = (Instant::now(), stage.failed());
    request_release(stage).await?;
    let ended = loop {
        let moved = stage.until(WITHIN, |_, event| moved(event)).await?;
        if let Some((text, figure)) = words_of(&moved) {
            story.figure(&text, &figure);
        }
        if matches!(
            moved.phase,
            DeployPhase::RolledBack | DeployPhase::Rejected | DeployPhase::Commit
        ) {
            break (moved.phase, moved.reason);
        }
    };
    healed.seconds = began.elapsed().as_secs_f64();
    healed.failed_requests = stage.failed() - failed;
    let digest = stage.bad_digest.clone();
    let denied = stage.node().engine().ask(move |owner| {
        owner.look("deployment", |view| topologies::deployment::is_denied(view, SHOP, &digest))
    });
    let denied = denied.await.context("the engine has stopped")?;
    match ended {
        (DeployPhase::RolledBack, _) => {
            healed.healed = Some(denied);
            story.figure(
                "rolled back",
                &format!("{:.1} s, {} requests failed", healed.seconds, healed.failed_requests),
            );
            if denied {
                story.line("1.1.0 is on the deny list until you clear it");
            }
        }
        (DeployPhase::Rejected, reason) if !stage.has_sandbox => {
            healed.reason = Some(reason);
        }
        (_, reason) => {
            healed.healed = Some(false);
            healed.reason = Some(reason);
        }
    }
    Ok(healed)
}

async fn request_release(stage: &Stage) -> anyhow::Result<()> {
    let mut release = ReleaseRequested {
        service: SHOP.to_owned(),
        artifact_ref: format!("local://releases/{SHOP}/1.1.0"),
        digest: stage.bad_digest.clone(),
        requested_by: OPERATOR.to_owned(),
        strategy: "blue_green".to_owned(),
        version: Some("1.1.0".to_owned()),
        signature: None,
        nonce: Some(random_id()?),
        reason: None,
    };
    let signature = stage.operator.sign(RELEASE_DOMAIN, &release.statement());
    release.signature = Some(signature_text(&signature));
    let key_id = Some(stage.operator.public().id());
    let actor = Actor { id: OPERATOR.to_owned(), kind: ActorKind::Human, key_id };
    let sent = stage.node().engine().submit(&Input::new(actor, SHOP, release)).await?;
    sent.answer.await.context("the engine has stopped")?;
    stage.story.line("deploying shop 1.1.0 beside 1.0.0 …");
    Ok(())
}

/// A step of the rollout.
struct Moved {
    phase: DeployPhase,
    ring_pct: u32,
    reason: String,
    deltas: BTreeMap<String, f64>,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "of all events only these tell it")]
fn moved(event: &Event) -> Option<Moved> {
    match event {
        Event::DeployState(it) if it.service == SHOP => Some(Moved {
            phase: it.state,
            ring_pct: it.ring_pct,
            reason: it.reason.clone(),
            deltas: it.deltas.clone(),
        }),
        Event::L3ExecutionResult(it)
            if it.outcome == L3Outcome::Rejected && it.service.as_deref() == Some(SHOP) =>
        {
            let reason = it.reason.clone().unwrap_or_default();
            let phase = DeployPhase::Rejected;
            Some(Moved { phase, ring_pct: 0, reason, deltas: BTreeMap::new() })
        }
        _ => None,
    }
}

/// A step in the words of the story, with what was counted so far.
fn words_of(moved: &Moved) -> Option<(String, String)> {
    let count = |key: &str| moved.deltas.get(key).copied().unwrap_or(0.0);
    let n_differ = count("shadow_differ");
    let differs = format!("{n_differ:.0} differ{}", if n_differ == 1.0 { "s" } else { "" });
    let shadow = format!("shadow sees {:.0} requests, {differs}", count("shadow_n"));
    Some(match moved.phase {
        DeployPhase::Preflight => ("tried in the sandbox".to_owned(), String::new()),
        DeployPhase::Apply => ("started beside 1.0.0".to_owned(), "serves nobody".to_owned()),
        DeployPhase::Shadow => ("safe requests are mirrored to it".to_owned(), String::new()),
        DeployPhase::Canary => (format!("canary at {} %", moved.ring_pct), shadow),
        DeployPhase::Rollback => {
            let (n, errors) = (count("canary_n"), count("canary_errors"));
            let (n_before, before) = (count("baseline_n"), count("baseline_errors"));
            let share = |errors: f64, n: f64| 100.0 * errors / n.max(1.0);
            if n > 0.0 {
                let (new, old) = (share(errors, n), share(before, n_before));
                let seen = format!("the shadow sees {:.0} by now, {differs}", count("shadow_n"));
                (format!("stop; {seen}"), format!("errors {new:.0} % against {old:.1} %"))
            } else {
                ("stop".to_owned(), shadow)
            }
        }
        DeployPhase::Rejected => (format!("refused: {}", moved.reason), String::new()),
        DeployPhase::Verify | DeployPhase::Commit => (moved.reason.clone(), String::new()),
        DeployPhase::Plan | DeployPhase::RolledBack => return None,
    })
}

/// The process is really hung: probed, diagnosed, voted, restarted.
pub(super) async fn hung_process(stage: &mut Stage) -> anyhow::Result<Healed> {
    stage.story.heading(2, "A hung process");
    stage.see_only_what_follows();
    let (began, failed) = (Instant::now(), stage.failed());
    kill_process(stage.pid(SHOP)?, Signal::STOP).context("stopping the shop")?;
    stage.story.line("SIGSTOP: the process is there and does not answer");
    let healed = follow_heal(stage, SHOP, began).await?;
    told(stage, "hung-process", began, failed, healed)
}

/// A bad wheel breaks the worker's environment: rebuilt offline, flipped, restarted.
pub(super) async fn broken_venv(stage: &mut Stage) -> anyhow::Result<Healed> {
    stage.story.heading(3, "A broken environment");
    let skipped = |reason: &str| Healed {
        name: "broken-venv",
        reason: Some(reason.to_owned()),
        ..Healed::default()
    };
    if !stage.has_worker {
        stage.story.line("skipped: python3 with its module venv is missing");
        return Ok(skipped("python3 with its module venv is missing"));
    }
    if !stage.has_sandbox {
        stage.story.line("skipped: an environment is tried in a sandbox first, and none runs here");
        return Ok(skipped("bubblewrap does not run here"));
    }
    stage.see_only_what_follows();
    let (began, failed) = (Instant::now(), stage.failed());
    wheel::install_bad(&stage.environment(WORKER))?;
    let pid = stage.pid(WORKER)?;
    kill_process_group(pid, Signal::TERM).context("ending the worker")?;
    stage.story.line("somebody installed a bad wheel; the worker cannot start any more");
    let healed = follow_heal(stage, WORKER, began).await?;
    told(stage, "broken-venv", began, failed, healed)
}

fn told(
    stage: &Stage,
    name: &'static str,
    began: Instant,
    failed: u64,
    reason: Option<String>,
) -> anyhow::Result<Healed> {
    let seconds = began.elapsed().as_secs_f64();
    let failed_requests = stage.failed() - failed;
    if reason.is_none() {
        let figure = format!("{seconds:.1} s, {failed_requests} requests failed");
        stage.story.figure("healed", &figure);
    }
    Ok(Healed { name, healed: Some(reason.is_none()), seconds, failed_requests, reason })
}

/// Tells what is seen, decided and done until the service is well; the reason when it is not.
async fn follow_heal(
    stage: &mut Stage,
    service: &str,
    began: Instant,
) -> anyhow::Result<Option<String>> {
    let story = stage.story;
    let mut told = BTreeSet::new();
    let mut requests = BTreeSet::new();
    let deadline = began + WITHIN;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let step = stage.until(left, |_, event| step_of(event, service, &mut requests)).await?;
        match step {
            Step::Told(text) => {
                if told.insert(text.clone()) {
                    story.figure(&text, &format!("{:.1} s", began.elapsed().as_secs_f64()));
                }
            }
            Step::Healed => return Ok(None),
            Step::Escalated(why) => {
                story.line(&why);
                return Ok(Some(why));
            }
        }
    }
}

enum Step {
    Told(String),
    Healed,
    Escalated(String),
}

/// What an event means for the story of `service`, if anything. `requests` are the requests
/// about it, by which results are known.
#[expect(clippy::wildcard_enum_match_arm, reason = "of all events only these tell it")]
fn step_of(event: &Event, service: &str, requests: &mut BTreeSet<Uuid>) -> Option<Step> {
    match event {
        Event::SloAnomalyDetected(it) if it.service == service && it.health_to == Health::Red => {
            let signal = crate::words::signal_name(it.signal);
            Some(Step::Told(format!("sees: {signal} red")))
        }
        Event::RcaHypothesis(it) if it.service.as_deref() == Some(service) => {
            let pattern = it.pattern.as_str().replace('_', " ");
            Some(Step::Told(format!("infers: {pattern}, confidence {:.2}", it.confidence)))
        }
        Event::HealTriggerEvaluated(it) if it.service.as_deref() == Some(service) && it.fired => {
            Some(Step::Told(format!("decides: {}", it.trigger_type.replace('_', " "))))
        }
        Event::RunnerRequest(it) => {
            let about = |op: &String| op.rsplit([':', '/']).next() == Some(service);
            if it.ops.iter().any(about) {
                requests.insert(it.id);
            }
            None
        }
        Event::RunnerResult(it) if requests.contains(&it.id) => {
            Some(Step::Told(format!("does: {}", it.explanation.trim_end_matches('.'))))
        }
        Event::L3ExecutionResult(it) if it.service.as_deref() == Some(service) => {
            match it.outcome {
                L3Outcome::Promoted => Some(Step::Healed),
                L3Outcome::RolledBack | L3Outcome::Quarantined | L3Outcome::Rejected => None,
            }
        }
        Event::HealEscalated(it) if it.service.as_deref() == Some(service) => {
            let why = it.explanation.clone().unwrap_or_else(|| it.reason.to_string());
            Some(Step::Escalated(why))
        }
        _ => None,
    }
}

/// The same fault keeps coming until the budget is spent; then it refuses, with the reason.
pub(super) async fn spent_budget(stage: &mut Stage) -> anyhow::Result<Value> {
    let story = stage.story;
    story.heading(4, "The same fault again and again");
    for _ in 0..=stage.attempts {
        // A cooling window between two attempts is part of the brake.
        stage.wait_until_ready(WITHIN).await?;
        stage.see_only_what_follows();
        kill_process(stage.pid(SHOP)?, Signal::STOP).context("stopping the shop")?;
        let began = Instant::now();
        if let Some(why) = follow_to_end(stage).await? {
            story.figure(
                "refused, and people are called",
                &format!("{:.1} s", began.elapsed().as_secs_f64()),
            );
            story.line(&why);
            story.line(&stage.users());
            return Ok(json!({ "refused": true, "reason": why }));
        }
        story
            .figure("hung again, healed again", &format!("{:.1} s", began.elapsed().as_secs_f64()));
    }
    Ok(json!({ "refused": false, "reason": "the budget was never spent" }))
}

/// `None` once healed, or the sentence of the refusal.
#[expect(clippy::wildcard_enum_match_arm, reason = "of all events only these tell it")]
async fn follow_to_end(stage: &mut Stage) -> anyhow::Result<Option<String>> {
    stage
        .until(WITHIN, |_, event| match event {
            Event::L3ExecutionResult(it) if it.outcome == L3Outcome::Promoted => Some(None),
            Event::HealEscalated(it) if it.service.as_deref() == Some(SHOP) => {
                Some(Some(it.explanation.clone().unwrap_or_else(|| it.reason.to_string())))
            }
            _ => None,
        })
        .await
}
