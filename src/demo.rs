//! `healwright demo`: three real faults healed, a budget spent, and the account verified.
//!
//! Everything in it is real: processes, sockets, traffic, signals, a virtual environment, the
//! engine, the runner, the proxy. It stays on loopback, needs neither root nor network, and
//! leaves nothing behind, on Ctrl-C either.

mod faults;
pub mod load;
mod proofs;
pub mod service;
mod stage;
mod story;
mod wheel;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::{self, Form};
use crate::out::{Colour, Out};
use crate::up;
use stage::{Place, Stage};
use story::Story;

/// Requests per second.
pub const RATE: u32 = 50;

/// What became of one fault.
#[derive(Clone, Debug, Default)]
pub struct Healed {
    /// `bad-release`, `hung-process` or `broken-venv`.
    pub name: &'static str,
    /// Whether it was healed; `None` where a part of the machine is missing.
    pub healed: Option<bool>,
    /// From the fault until it was healed.
    pub seconds: f64,
    /// Requests of users that failed meanwhile.
    pub failed_requests: u64,
    /// Why it was not tried, or not healed.
    pub reason: Option<String>,
}

impl Healed {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "healed": self.healed,
            "seconds": self.seconds,
            "failed_requests": self.failed_requests,
            "reason": self.reason,
        })
    }
}

/// Runs the demo.
///
/// # Errors
/// What keeps it from running at all; a fault that is not healed is an answer (exit 1).
pub fn run(out: Out, args: &cli::Demo) -> anyhow::Result<bool> {
    up::start_logs();
    let metrics = up::metrics()?;
    up::runtime()?.block_on(async {
        let story = Story::new(out, args.fast);
        let place = Place::new(args)?;
        let mut stage = None;
        let stop = up::Stop::listen()?;
        let told = tokio::select! {
            told = async {
                let stage = stage.insert(Stage::set(&place, args, metrics, story).await?);
                tell(stage, args).await
            } => told,
            () = stop.told() => {
                story.remark("stopped; taking everything down");
                Err(anyhow::anyhow!("stopped before the end"))
            }
        };
        if let Some(stage) = stage {
            stage.strike().await;
        }
        place.clear(story).await;
        let told = told?;
        if out.form == Form::Json {
            out.json(&told);
        }
        Ok(is_good(&told))
    })
}

/// Everything that was tried was healed, refused or proven as it should be.
fn is_good(told: &Value) -> bool {
    let faults = told["faults"]
        .as_array()
        .is_some_and(|faults| faults.iter().all(|it| it["healed"] != Value::Bool(false)));
    let verified = ["ok", "flipped_byte_located", "truncation_detected"];
    faults
        && told["budget"]["refused"] == Value::Bool(true)
        && verified.iter().all(|it| told["verify"][it] == Value::Bool(true))
        && told["replay"]["identical"] == Value::Bool(true)
}

async fn tell(stage: &mut Stage, args: &cli::Demo) -> anyhow::Result<Value> {
    let story = stage.story;
    let began = Instant::now();
    story.opening(stage);
    stage.wait_until_ready(Duration::from_secs(30)).await?;
    story.line(&format!("healthy, and seen to be, after {:.1} s", began.elapsed().as_secs_f64()));
    let release = faults::bad_release(stage).await.context("the bad release")?;
    story.pause().await;
    let early = proofs::early_head(stage)?;
    let hung = faults::hung_process(stage).await.context("the hung process")?;
    story.pause().await;
    let venv = faults::broken_venv(stage).await.context("the broken environment")?;
    story.pause().await;
    let budget = faults::spent_budget(stage).await.context("the spent budget")?;
    story.pause().await;
    let (verify, replay) = proofs::prove(stage, &early)?;
    let faults: Vec<Value> = [&release, &hung, &venv].map(Healed::json).into();
    story.closing(stage, args);
    Ok(json!({
        "schema": "healwright.demo.v1",
        "faults": faults,
        "budget": budget,
        "verify": verify,
        "replay": replay,
        "seconds": began.elapsed().as_secs_f64(),
    }))
}

/// `healwright demo-service`: the release by name, or a file that holds the name.
///
/// # Errors
/// No such release, or the port is taken.
pub fn service_main(args: &cli::DemoService) -> anyhow::Result<bool> {
    let name = match std::fs::read_to_string(&args.release) {
        Ok(text) => text.trim().to_owned(),
        Err(_) => args.release.clone(),
    };
    let release: service::Release = name.parse()?;
    up::runtime()?.block_on(service::serve(release, args.port))?;
    Ok(true)
}

/// Heals one bad release and one hung process on a stage of its own, for `bench heal`.
///
/// # Errors
/// The stage cannot be set.
pub async fn measure(
    args: &cli::Demo,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    quiet: Out,
) -> anyhow::Result<[Healed; 2]> {
    let story = Story::silent(quiet);
    let place = Place::new(args)?;
    let measured = async {
        let mut stage = Stage::set(&place, args, metrics, story).await?;
        stage.wait_until_ready(Duration::from_secs(30)).await?;
        let release = faults::bad_release(&mut stage).await?;
        let hung = faults::hung_process(&mut stage).await?;
        stage.strike().await;
        Ok::<_, anyhow::Error>([release, hung])
    }
    .await;
    place.clear(story).await;
    measured
}

/// A heading of the story.
pub(crate) fn heading(out: Out, n: u32, text: &str) -> String {
    out.paint(Colour::Bold, &format!("{n:>2}  {text}"))
}
