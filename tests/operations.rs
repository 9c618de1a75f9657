//! What an operator sees and does on a real Kafka: the group, the lag, the metrics, and a node
//! that is asked to stop.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "blackbox/ask.rs"]
mod http;

use std::time::{Duration, Instant};

use bed::Brokers;
use fleet::Fleet;
use serde_json::{Value, json};

/// The session after which the group replaces a member that says nothing.
const SESSION: Duration = Duration::from_millis(state::kafka::group::SESSION_MS);
/// A broker that leaves the session of the newer protocol as Kafka ships it.
const AS_SHIPPED: [&str; 2] =
    ["group.consumer.session.timeout.ms=45000", "group.consumer.heartbeat.interval.ms=5000"];

#[test]
fn groups_shows_members_owner_head_and_lag_while_nodes_run_and_after() {
    let brokers = Brokers::start(1, &AS_SHIPPED);
    let mut fleet = Fleet::start(&brokers.bootstrap, 2);
    let owner = fleet.owner();
    fleet.change(owner, "one");
    fleet.await_taken();
    let shown = fleet.eventually("everything is taken and published", || {
        let shown = fleet.groups();
        let lag = &shown["partitions"][0]["lag"];
        let none = json!({ "inbox": 0, "control": 0, "telemetry": 0, "fanout": 0 });
        (*lag == none).then_some(shown)
    });
    assert_eq!(shown["protocol"], "classic", "45 s without an owner are too long");
    let client = |node| format!("healwright@{}", fleet.address(node));
    let members = shown["members"].as_array().unwrap();
    let mut clients: Vec<&str> = members.iter().map(|it| it["client"].as_str().unwrap()).collect();
    clients.sort_unstable();
    let mut expected = [client(0), client(1)];
    expected.sort_unstable();
    assert_eq!(clients, expected);
    let assigned = members.iter().find(|it| it["partitions"] == json!([0])).unwrap();
    assert_eq!(assigned["client"], client(owner));
    let partition = &shown["partitions"][0];
    assert_eq!(partition["owner"]["endpoint"], fleet.address(owner).to_string());
    assert!(partition["epoch"].as_u64().unwrap() >= 1, "{partition}");
    (0..2).for_each(|node| assert!(fleet.stop(node).success()));
    let after = fleet.groups();
    let members = after["members"].as_array().map_or(0, Vec::len);
    assert_eq!(members, 0, "{after}");
    let grown = |shown: &Value| shown["partitions"][0]["head"]["next_seq"].as_u64().unwrap();
    assert!(grown(&shown) <= grown(&after), "the chain is read without any node");
}

/// A stopped owner hands over before its session could end: with classic groups and, where the
/// broker permits a session as short, with those of KIP-848.
#[test]
fn a_node_that_is_asked_to_stop_hands_over_well_before_its_session_ends() {
    let shipped = Brokers::start(1, &AS_SHIPPED);
    for (bootstrap, protocol) in
        [(shipped.bootstrap.as_str(), "classic"), (bed::shared(), "consumer")]
    {
        let mut fleet = Fleet::start(bootstrap, 2);
        let owner = fleet.owner();
        fleet.change(owner, "before");
        let shown = fleet.groups();
        assert_eq!(shown["protocol"], protocol);
        let client = format!("healwright@{}", fleet.address(owner));
        let members = shown["members"].as_array().unwrap();
        let member = members.iter().find(|it| it["client"] == client).unwrap();
        assert_eq!((members.len(), &member["partitions"]), (2, &json!([0])), "{shown}");
        let began = Instant::now();
        assert!(fleet.stop(owner).success(), "a stop that was asked for is no error");
        let stopped = began.elapsed();
        let next = fleet.owner();
        let taken = began.elapsed();
        assert_eq!(next, 1 - owner);
        fleet.change(next, "after");
        fleet.await_taken();
        eprintln!("{protocol}: ended after {stopped:?}, the other in office after {taken:?}");
        assert!(taken < SESSION / 2, "{taken:?} of {SESSION:?}");
        // The batch in hand was closed: everything stands in the journal once.
        fleet.check();
    }
}

#[test]
fn metrics_tell_lag_office_and_the_stages_of_the_cycle() {
    let mut fleet = Fleet::start(bed::shared(), 2);
    let owner = fleet.owner();
    fleet.change(owner, "one");
    fleet.await_taken();
    let owners = fleet.eventually("the owner's gauges are set", || {
        let text = fleet.metrics(owner);
        let none = ["inbox", "control", "telemetry"].iter().all(|stream| {
            text.contains(&format!(
                "healwright_consumer_lag{{partition=\"0\",stream=\"{stream}\"}} 0\n"
            ))
        });
        let here = text.contains("healwright_in_office{partition=\"0\"} 1\n");
        (here && none && text.contains("healwright_fanout_lag{partition=\"0\"} 0\n"))
            .then_some(text)
    });
    for line in [
        "healwright_stopped{partition=\"0\"} 0\n",
        "healwright_unlinked_total{partition=\"0\"} ",
        "healwright_cycle_seconds_bucket{stage=\"take\",le=\"10\"} ",
        "healwright_cycle_seconds_bucket{stage=\"fold\",le=\"10\"} ",
        "healwright_cycle_seconds_bucket{stage=\"append\",le=\"10\"} ",
        "healwright_cycle_seconds_bucket{stage=\"effects\",le=\"10\"} ",
    ] {
        assert!(owners.contains(line), "{line}: {owners}");
    }
    fleet.eventually("the standby says that it stands by", || {
        fleet.metrics(1 - owner).contains("healwright_in_office{partition=\"0\"} 0\n").then_some(())
    });
}
