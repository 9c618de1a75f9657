//! Replay with payloads compared: a journal of real decisions is made first, with changes,
//! ticks and faults, then folded again from zero.

use schemas::event::{ChangeKind, ChangeObserved, ConfigActivated};
use schemas::signature::KeyPair;
use schemas::{Actor, Ns, Stream};
use serde_json::json;
use state::Log as _;
use topologies::config::Signers;
use topologies::profile::Profile;
use topologies::rules::Rules;

use super::{Folder, Measured, owner};
use crate::engine::{Input, wall_now};
use crate::evidence::replay_log;
use crate::node::OPERATOR;

/// Inputs of the journal that is made.
const INPUTS: u64 = 200_000;
/// Inputs between two cycles.
const PER_CYCLE: u64 = 500;

/// What a node activates when it starts: signers, rules and a profile, all signed.
fn configuration() -> anyhow::Result<Vec<Vec<u8>>> {
    let key = KeyPair::from_seed(&[3; 32]);
    let signers = Signers { keys: [(OPERATOR.to_owned(), key.public())].into() };
    let bodies = [
        ("signers", serde_json::to_string(&signers)?),
        ("rules", serde_json::to_string(&Rules::current())?),
        ("profile", serde_json::to_string(&Profile::local())?),
    ];
    let mut records = Vec::new();
    for (name, body) in bodies {
        let config = ConfigActivated::signed(name, 1, body, OPERATOR, &key);
        records.push(Input::new(Actor::system("bench"), name, config).encode()?);
    }
    Ok(records)
}

pub(super) fn run() -> anyhow::Result<Measured> {
    let folder = Folder::new("bench-replay")?;
    let (mut owner, log) = owner(&folder.path().join("data"))?;
    let mut records = configuration()?;
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
            #[cfg(feature = "next-schemas")]
            region: None,
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
