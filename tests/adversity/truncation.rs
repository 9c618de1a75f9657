//! A broker that comes back without the end of the journal, as one does whose disk was restored:
//! nodes that have read it say so and stop, and what they hold of it is evidence.

use std::path::Path;
use std::process::Command;

use crate::bed::Brokers;
use crate::fleet::Fleet;

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_tail_that_the_broker_lost_stops_every_running_node_that_has_read_it() {
    let brokers = Brokers::start(1, &[]);
    let mut fleet = Fleet::start(&brokers.bootstrap, 2);
    fleet.place(0, "kept");
    let folder = brokers.folder(1, &fleet.topic("journal"));
    let older = fleet.home().join("older");
    brokers.tell("end", 1);
    copy(&folder, &older);
    brokers.tell("restart", 1);
    let lost = fleet.place(0, "lost");
    assert_eq!(fleet.place(1, "lost"), lost, "both have read it");
    brokers.tell("end", 1);
    std::fs::remove_dir_all(&folder).unwrap();
    copy(&older, &folder);
    brokers.tell("restart", 1);
    for node in 0..2 {
        let why = fleet.eventually("a node that has read what was lost stops", || {
            let (status, shown) = fleet.ask(node, "GET", "/readyz", "")?;
            let error = &shown["error"];
            (status == 503 && error["code"] == "stopped").then(|| error["message"].to_string())
        });
        assert!(why.contains("is not the one that was read"), "{why}");
        // What is sent is durable in its topic, and nobody here says that it is journaled.
        let late =
            format!(r#"{{"id":"late-{node}","service":"api","kind":"deploy","version":"1"}}"#);
        let answer = fleet.ask(node, "POST", "/api/v1/changes?wait=journaled", &late);
        let (status, said) = answer.unwrap();
        let code = said["error"]["code"].as_str();
        assert_eq!((status, code), (503, Some("not_confirmed")), "{said}");
    }
}
