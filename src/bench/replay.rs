//! Replay with payloads compared: a journal of real decisions is made first, with changes,
//! ticks and faults, then folded again from zero.

use schemas::event::{ChangeKind, ChangeObserved, ConfigActivated, ConfigKind};
use schemas::{Actor, Ns, Stream};
use serde_json::json;
use state::Log as _;
use topologies::profile::Profile;

use super::{Folder, Measured, owner};
use crate::engine::{Input, wall_now};
use crate::evidence::replay_log;

/// Inputs of the journal that is made.
const INPUTS: u64 = 200_000;
/// Inputs between two cycles.
const PER_CYCLE: u64 = 500;

pub(super) fn run() -> anyhow::Result<Measured> {
    let folder = Folder::new("bench-replay")?;
    let (mut owner, log) = owner(&folder.path().join("data"))?;
    let body = serde_json::to_string(&Profile::local())?;
    let profile = ConfigActivated {
        kind: ConfigKind::Policy,
        name: "profile".to_owned(),
        version: 1,
        digest: ConfigActivated::digest_of(&body),
        approved_by: "bench".to_owned(),
        audit_log_id: None,
        body: Some(body),
        signature: None,
    };
    let mut records = vec![Input::new(Actor::system("bench"), "profile", profile).encode()?];
    let mut wall = wall_now();
    for n in 0..INPUTS {
        let change = ChangeObserved {
            id: format!("change-{n}"),
            service: format!("service-{}", n % 50),
            kind: ChangeKind::Deploy,
            version: format!("1.{n}"),
            reference: String::new(),
            author: "bench".to_owned(),
            summary: "a change".to_owned(),
            at: None,
        };
        records.push(Input::new(Actor::system("bench"), change.service.clone(), change).encode()?);
        if n % PER_CYCLE == 0 {
            log.send(Stream::Inbox, &std::mem::take(&mut records))?;
            wall = wall + Ns::from_ms(250);
            while owner.cycle(wall)?.more {}
        }
    }
    let journal: &dyn state::Log = &*log;
    let report = replay_log(journal)?;
    let rate = report.replayed.events as f64 / report.cpu_s;
    let figures = json!({
        "schema": "healwright.bench.replay.v1",
        "events_per_s_core": rate,
        "events": report.replayed.events,
        "identical": report.replayed.identical(),
    });
    let lines = vec![format!(
        "{} events folded again and compared: {rate:.0} events/s on one core, {}",
        report.replayed.events,
        if report.replayed.identical() { "identical" } else { "DIFFERENT" }
    )];
    Ok((figures, lines))
}
