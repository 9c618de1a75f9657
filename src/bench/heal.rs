//! Faults healed for real, again and again: the demo's bad release and hung process.

use serde_json::json;

use super::Measured;
use crate::cli;
use crate::demo::{self, Healed};
use crate::out::Out;
use crate::{up, words};

pub(super) fn run(runs: u32, out: Out) -> anyhow::Result<Measured> {
    let metrics = up::metrics()?;
    let (mut releases, mut hung) = (Vec::new(), Vec::new());
    up::runtime()?.block_on(async {
        for run in 1..=runs {
            let args = cli::Demo { fast: true, keep: None, seed: u64::from(run) };
            let [release, process] = demo::measure(&args, metrics.clone(), out).await?;
            out.remark(&format!(
                "{run}/{runs}: bad release {}, hung process {}",
                words::span(release.seconds),
                words::span(process.seconds)
            ));
            releases.push(release);
            hung.push(process);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    let (release, hung) = (spread(&releases), spread(&hung));
    let figures = json!({
        "schema": "healwright.bench.heal.v1",
        "runs": runs,
        "bad-release": release.0,
        "hung-process": hung.0,
    });
    Ok((figures, vec![format!("bad release   {}", release.1), format!("hung process  {}", hung.1)]))
}

fn spread(healed: &[Healed]) -> (serde_json::Value, String) {
    let mut seconds: Vec<f64> = healed.iter().map(|it| it.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let at = |share: usize| seconds.get((seconds.len() * share / 100).min(seconds.len() - 1));
    let at = |share: usize| at(share).copied().unwrap_or_default();
    let n_healed = healed.iter().filter(|it| it.healed == Some(true)).count();
    let (p50, p95, max) = (at(50), at(95), at(100));
    let value = json!({ "p50_s": p50, "p95_s": p95, "max_s": max, "healed": n_healed });
    let text = format!(
        "{n_healed} of {} healed; p50 {}, p95 {}, max {}",
        healed.len(),
        words::span(p50),
        words::span(p95),
        words::span(max)
    );
    (value, text)
}
