//! A service is healed while another node than its own is in office: its runner's words are
//! passed on.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "blackbox/ask.rs"]
mod http;
#[path = "blackbox/web.rs"]
mod web;

use std::path::Path;

use bed::Brokers;
use fleet::Fleet;
use rustix::process::{Signal, kill_process};
use web::process_of;

/// A configuration with one service in a scope of its own.
fn config(home: &Path, partitions: u64) -> String {
    format!(
        "profile = \"local\"\n[kafka]\npartitions = {partitions}\n[[service]]\n\
         name = \"prod-eu/shop/web\"\n{}",
        web::lines(home)
    )
}

#[test]
fn a_service_is_healed_by_an_owner_on_another_node() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_with_service(&brokers.bootstrap, |home| config(home, 2));
    let home = fleet.home().to_owned();
    let first = fleet.eventually("the service runs", || process_of(&home));
    let second = fleet.add();
    // A founder that is silent for longer than its session loses its offices and does not get
    // them back by itself: what others hold stays where it is.
    fleet.signal(0, Signal::STOP);
    fleet.eventually("the other node takes every office", || {
        let all = fleet.get(second, "/readyz")?;
        (all["office"] == "here").then_some(())
    });
    fleet.signal(0, Signal::CONT);
    let partition = fleet.partition_of("prod-eu/shop/web");
    let elsewhere = || {
        let shown = fleet.groups();
        let owner = shown["partitions"][partition]["owner"]["endpoint"].as_str()?.to_owned();
        (owner == fleet.address(second).to_string()).then_some(())
    };
    fleet.eventually("the founder's runner speaks through its node", || {
        let relayed = fleet.metric(0, "healwright_relayed_conversations_total")?;
        (relayed > 0).then_some(())
    });
    fleet.eventually("the other node is in office for the service", elsewhere);

    // What was never seen to be well is unknown when it is gone, and the unknown is not healed.
    fleet.eventually("the other node sees that the service is well", || {
        let status = fleet.get(second, "/api/v1/status")?;
        (status["services"][0]["health"] == "green").then_some(())
    });
    kill_process(first, Signal::KILL).unwrap();
    let again = fleet
        .eventually("the service is started again", || process_of(&home).filter(|it| *it != first));
    eprintln!("{first:?} is dead, {again:?} runs");
    fleet.eventually("what was done stands in the journal", || {
        (!fleet.events("l3.execution.result.v1").is_empty()).then_some(())
    });
    elsewhere().expect("the other node has been in office all the time");
    let which = ["--partition", &partition.to_string()];
    fleet.verify_export_of(&which);
    // A runner ends with its node when that is asked to; the service outlives both.
    assert!(fleet.stop(0).success());
    let _ = kill_process(again, Signal::KILL);
}
