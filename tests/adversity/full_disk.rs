//! A broker whose disk is full: it stops, and what it had acknowledged is there when there is
//! room again.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bed::Brokers;
use crate::fleet::Fleet;

/// Small enough to be filled in a moment, large enough for a broker's segments.
const SIZE: &str = "64m";

/// A filesystem of its own size; it ends with the test.
struct Disk(PathBuf);

impl Disk {
    /// `None` where it is said that nothing can be mounted here.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={SIZE}");
        let mut mount = Command::new("mount");
        let ran = mount.args(["-t", "tmpfs", "-o", &size, "healwright-test"]).arg(at).output();
        let why = match ran {
            Ok(ran) if ran.status.success() => return Some(Disk::guarded(at)),
            Ok(ran) => String::from_utf8_lossy(&ran.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(
            std::env::var_os("HEALWRIGHT_TEST_NO_MOUNT").is_some(),
            "a small filesystem cannot be mounted ({why}): run as root, or say that it cannot be \
             here with HEALWRIGHT_TEST_NO_MOUNT=1"
        );
        eprintln!("not run, for nothing can be mounted here: {why}");
        None
    }

    /// A test that is killed leaves no mount behind: the pipe closes with its process.
    fn guarded(at: &Path) -> Self {
        let after = format!("cat >/dev/null; umount --lazy '{}' 2>/dev/null", at.display());
        let guard = Command::new("setsid").args(["sh", "-c", &after]).stdin(Stdio::piped()).spawn();
        std::mem::forget(guard.unwrap().stdin);
        Disk(at.to_owned())
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left is the guard's.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_broker_whose_disk_is_full_acknowledges_nothing_that_it_does_not_keep() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk")) else { return };
    let logs = format!("log.dirs={}/data", disk.0.display());
    let brokers = Brokers::start(1, &[&logs]);
    let mut fleet = Fleet::start(&brokers.bootstrap, 2);
    for n in 0..10 {
        fleet.change(n % 2, &format!("before-{n}"));
    }
    disk.fill();
    let mut acknowledged = 0;
    let refused = (0..10_000).find(|n| {
        let there = fleet.acknowledges(n % 2, &format!("while-it-fills-{n}"));
        acknowledged += u32::from(there);
        !there
    });
    let refused = refused.expect("a full disk takes no more");
    for node in 0..2 {
        assert!(!fleet.acknowledges(node, &format!("full-{node}")), "node {node} says it is kept");
    }
    disk.free();
    brokers.tell("restart", 1);
    // The nodes are not told: they find it by themselves.
    for node in 0..2 {
        fleet.await_decision(node, &format!("after-{node}"));
    }
    // What was refused may be kept or not; sent again, it is kept once.
    fleet.change(0, &format!("while-it-fills-{refused}"));
    fleet.await_taken();
    eprintln!("{acknowledged} changes acknowledged after the disk was full");
    fleet.check();
    fleet.check_typed_topic();
    fleet.verify_export();
}

#[test]
fn a_full_disk_on_one_of_three_brokers_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk")) else { return };
    let logs = format!("2:log.dirs={}/data", disk.0.display());
    let brokers = Brokers::start(3, &[&logs]);
    let mut fleet = Fleet::start(&brokers.bootstrap, 2);
    fleet.change(0, "before");
    disk.fill();
    for n in 0..200 {
        fleet.change(n % 2, &format!("full-{n}"));
    }
    fleet.await_decision(1, "decided-while-full");
    disk.free();
    brokers.tell("restart", 2);
    // The one that has come back holds everything: the others may go, one after the other.
    for n in [1, 3] {
        brokers.tell("kill", n);
        fleet.await_decision(0, &format!("without-{n}"));
        brokers.tell("restart", n);
    }
    fleet.await_taken();
    fleet.check();
    fleet.verify_export();
}
