//! A system of several partitions on a real Kafka: scopes are spread over partitions and
//! partitions over nodes, and whoever looks sees one system.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "adversity/foreign.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod foreign;
#[path = "blackbox/ask.rs"]
mod http;
#[path = "adversity/poison.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod poison;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bed::Brokers;
use fleet::Fleet;
use foreign::{Chain, Foreign};
use healwright::keys::KeyDir;
use serde_json::Value;

const PARTITIONS: u64 = 4;
/// The bar of the issue: a killed owner's partitions decide again within this.
const AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// Services of eight scopes, two in each.
fn services() -> Vec<String> {
    let of = |n: usize| ["cart", "checkout"].map(|it| format!("prod-{n}/shop/{it}"));
    (0..8).flat_map(of).collect()
}

fn partition_of(place: &str) -> u64 {
    let (partition, _) = place.strip_prefix("immutable:log:").unwrap().split_once('/').unwrap();
    partition.parse().unwrap()
}

/// Owners by partition, once every partition has one.
fn owners(fleet: &Fleet) -> BTreeMap<u64, String> {
    let shown = fleet.groups();
    let all = shown["partitions"].as_array().unwrap().iter().filter_map(|it| {
        let owner = it["owner"]["endpoint"].as_str()?;
        Some((it["partition"].as_u64().unwrap(), owner.to_owned()))
    });
    all.collect()
}

/// How many partitions a node says it is in office on.
fn in_office(fleet: &Fleet, node: usize) -> u64 {
    fleet.get(node, "/readyz").map_or(0, |it| it["in_office"].as_u64().unwrap_or(0))
}

#[test]
fn scopes_are_spread_and_a_killed_owners_partitions_decide_again_in_seconds() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_partitioned(&brokers.bootstrap, 2, PARTITIONS);
    fleet.eventually("each node holds half of the partitions", || {
        (0..2).all(|node| in_office(&fleet, node) == PARTITIONS / 2).then_some(())
    });
    for (n, service) in services().iter().enumerate() {
        fleet.change_of(n % 2, &format!("first-{n}"), service);
    }
    fleet.await_taken();
    let mut lies = BTreeMap::<String, BTreeSet<u64>>::new();
    for change in fleet.events("change.observed.v1") {
        let service = change["payload"]["service"].as_str().unwrap();
        let scope = service.rsplit_once('/').unwrap().0.to_owned();
        lies.entry(scope).or_default().insert(partition_of(change["place"].as_str().unwrap()));
    }
    assert!(lies.values().all(|it| it.len() == 1), "a scope came apart: {lies:?}");
    let hit: BTreeSet<u64> = lies.values().flatten().copied().collect();
    assert!(hit.len() > 1, "nothing is spread: {lies:?}");
    let shared: BTreeSet<String> = owners(&fleet).into_values().collect();
    assert_eq!(shared.len(), 2, "both nodes are in office");

    fleet.kill(0);
    let began = std::time::Instant::now();
    for (n, service) in services().iter().enumerate() {
        fleet.place_of(1, &format!("second-{n}"), service);
    }
    let took = began.elapsed();
    eprintln!("all partitions decide again after {took:?}");
    assert!(took < AGAIN_WITHIN, "{took:?}");
    assert_eq!(in_office(&fleet, 1), PARTITIONS);
    fleet.restart(0);
    fleet.eventually("the group shares the partitions out again", || {
        (0..2).all(|node| in_office(&fleet, node) == PARTITIONS / 2).then_some(())
    });
    for (n, service) in services().iter().enumerate() {
        // A repeat is recognised whichever node hears it, and whoever took it first.
        fleet.change_of(0, &format!("second-{n}"), service);
        fleet.change_of(0, &format!("third-{n}"), service);
    }
    fleet.await_taken();
    fleet.check();
    fleet.check_typed_topic();
    for partition in 0..PARTITIONS {
        fleet.verify_export_of(&["--partition", &partition.to_string()]);
    }
    let ran = fleet.run(99, &["export", "--to", "nowhere"]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(said.contains("4 partitions") && said.contains("--partition N"), "{said}");
}

/// B10, on several partitions: one command stops all of it, at whichever node it is given.
#[test]
fn one_command_freezes_every_partition_and_one_ends_it() {
    let brokers = Brokers::start(1, &[]);
    let fleet = Fleet::start_partitioned(&brokers.bootstrap, 2, PARTITIONS);
    fleet.eventually("each node holds half of the partitions", || {
        (0..2).all(|node| in_office(&fleet, node) == PARTITIONS / 2).then_some(())
    });
    // The founder has the operator's key, so it is where a person sits.
    let modes = |node: usize| -> Option<Vec<String>> {
        let status = fleet.get(node, "/api/v1/status")?;
        let all = status["partitions"].as_array()?.iter();
        Some(all.map(|it| it["mode"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let all_are = |mode: &str| {
        for node in 0..2 {
            fleet.eventually(&format!("every partition is {mode}"), || {
                let modes = modes(node)?;
                (modes.len() as u64 == PARTITIONS && modes.iter().all(|it| it == mode))
                    .then_some(())
            });
        }
    };
    all_are("normal");
    let one = fleet.run(0, &["freeze", "--partition", "1"]);
    let said = String::from_utf8_lossy(&one.stderr).into_owned();
    assert!(!one.status.success() && said.contains("of the whole system"), "{said}");
    let frozen = fleet.run(0, &["freeze", "--reason", "a test", "-o", "json"]);
    assert!(frozen.status.success(), "{}", String::from_utf8_lossy(&frozen.stderr));
    let told: Value = serde_json::from_slice(&frozen.stdout).unwrap();
    assert_eq!(told["partitions"].as_array().unwrap().len() as u64, PARTITIONS, "{told}");
    all_are("frozen");
    let again = fleet.run(0, &["freeze", "--reason", "a test"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("frozen already"), "{said}");
    let thawed = fleet.run(0, &["unfreeze", "--yes", "--reason", "it is over"]);
    assert!(thawed.status.success(), "{}", String::from_utf8_lossy(&thawed.stderr));
    all_are("normal");
}

/// One partition's history is contradicted, so every node that reads it stands still there. Each
/// of them would make room for another; the partition that is well must not lose its owner.
#[test]
fn a_partition_that_stands_still_on_every_node_leaves_the_other_in_office() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_partitioned(&brokers.bootstrap, 2, 2);
    fleet.eventually("each node holds a partition", || {
        (0..2).all(|node| in_office(&fleet, node) == 1).then_some(())
    });
    let well = services().into_iter().find(|it| fleet.partition_of(it) == 1).unwrap();
    let topic = fleet.topic("journal");
    let root = KeyDir::of(&fleet.home().join("data-0")).existing_root().unwrap();
    let record = poison::contradiction(&Chain::read(&brokers.bootstrap, &topic), &root);
    Foreign::new(&brokers.bootstrap).write(&topic, &[record]);
    for node in 0..2 {
        fleet.eventually("partition 0 stands still there", || {
            let (status, body) = fleet.ask(node, "GET", "/readyz", "")?;
            (status == 503 && body.to_string().contains("an election names a batch")).then_some(())
        });
    }
    // One of them steps aside, the other stays.
    let stays = fleet.eventually("one node has stepped aside", || {
        let aside = (0..2).find(|it| fleet.said_by(*it).contains("this node steps aside"))?;
        Some(1 - aside)
    });
    for n in 0..20 {
        fleet.place_of(n % 2, &format!("aside-{n}"), &well).unwrap();
    }
    // It comes back when the other goes.
    fleet.kill(stays);
    fleet.place_of(1 - stays, "back", &well).unwrap();
}

/// A node brings its partitions back side by side; what is spoiled of one concerns that one alone.
#[test]
fn an_empty_node_begins_each_partition_with_its_newest_checkpoint_that_holds() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_partitioned_with_checkpoints(&brokers.bootstrap, 2);
    let second = fleet.add();
    let mut lies = BTreeMap::new();
    for (n, service) in services().into_iter().enumerate() {
        let place = fleet.place_of(0, &format!("where-{n}"), &service).unwrap();
        lies.insert(partition_of(&place), service);
    }
    let of_each = [&lies[&0], &lies[&1]];
    for round in ["first", "second"] {
        for (partition, service) in of_each.iter().enumerate() {
            let place = fleet.place_of(0, &format!("{round}-{partition}"), service).unwrap();
            let seq = place.rsplit_once('/').unwrap().1.parse().unwrap();
            fleet.eventually("whoever is in office has taken a checkpoint", || {
                (0..2)
                    .any(|it| fleet.metric(it, &Fleet::taken(partition)) > Some(seq))
                    .then_some(())
            });
        }
    }
    fleet.stop(second);
    fleet.stop(0);
    let data = fleet.home().join(format!("data-{second}"));
    std::fs::remove_dir_all(data.join("journal")).unwrap();
    std::fs::remove_dir_all(data.join("partitions/1/journal")).unwrap();
    let [kept, mut spoiled] = [0, 1].map(|it| fleet.checkpoints(it));
    let spoilt = spoiled.pop().unwrap();
    std::fs::write(spoilt, "not a manifest").unwrap();

    fleet.restart(second);
    for (partition, left) in [kept, spoiled].iter().enumerate() {
        let newest = left.last().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(
            fleet.metric(second, &Fleet::restored(partition)),
            Some(newest),
            "partition {partition}"
        );
    }
    assert_eq!(fleet.metric(second, "healwright_checkpoints_passed_over_total"), Some(1));
    for (partition, service) in of_each.iter().enumerate() {
        fleet.place_of(second, &format!("after-{partition}"), service).unwrap();
    }
    fleet.check();
}

#[test]
fn another_number_of_partitions_is_refused_and_none_at_all_takes_what_is_there() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start_partitioned(&brokers.bootstrap, 1, PARTITIONS);
    let ran = fleet.run(7, &["up", "--partitions", "2", "--http", "127.0.0.1:0", "--no-runner"]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        !ran.status.success() && said.contains("it has 4 partitions and 2 are wanted"),
        "{said}"
    );
    let ran = fleet.run(7, &["up", "--partition", "2", "--http", "127.0.0.1:0", "--no-runner"]);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains("`--partitions N`"), "{said}");
    fleet.forget_words();
    let second = fleet.add();
    fleet.eventually("a node that was told nothing shares all partitions", || {
        (in_office(&fleet, second) == PARTITIONS / 2).then_some(())
    });
}
