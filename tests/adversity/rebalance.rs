//! The group gives the partition to somebody else while a burst is being taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::process::Signal;
use schemas::Event;

use crate::bed;
use crate::fleet::Fleet;
use crate::foreign::{Chain, Foreign};
use crate::poison;

/// So many inputs are written at once.
const BURST: usize = 100;
/// And so often: more than idle nodes see, less than keeps them from ever catching up.
const BURST_EVERY: Duration = Duration::from_millis(200);

/// How a time in office ends.
const ENDS: [End; 4] = [End::Stop, End::Pause, End::Kill, End::Join];

#[derive(Clone, Copy, Debug)]
enum End {
    /// The owner is asked to stop, and comes back.
    Stop,
    /// The owner is paused, its session ends, and it wakes with a batch in its hands.
    Pause,
    /// The owner dies, and comes back.
    Kill,
    /// Nobody leaves; one more comes, and then the owner is asked to stop.
    Join,
}

#[test]
fn an_owner_that_changes_in_the_middle_of_a_burst_loses_nothing_and_doubles_nothing() {
    let mut fleet = Fleet::start(bed::shared(), 2);
    let inbox = fleet.topic("inbox");
    let times = if std::env::var_os("HEALWRIGHT_FULL").is_some() { 5 } else { 1 };
    let mut bursts = Vec::new();
    for (round, end) in ENDS.iter().cycle().take(ENDS.len() * times).enumerate() {
        // Dropped when the change is over, or has panicked.
        let (going, over) = channel::<()>();
        let written = std::thread::scope(|scope| {
            let (going, inbox) = (going, &inbox);
            let (told, first) = channel();
            let writer = scope.spawn(move || write(inbox, round, &told, &over));
            // What is written from here on may meet the owner or the next one.
            first.recv().unwrap();
            change_owner(&mut fleet, *end, round);
            drop(going);
            writer.join().unwrap()
        });
        fleet.acknowledged(written.iter().cloned());
        bursts.push(written);
    }
    fleet.await_taken();
    fleet.check();
    let chain = Chain::read(bed::shared(), &fleet.topic("journal"));
    let taken = taken(&chain);
    let spans = |burst: &Vec<String>| {
        let epochs: BTreeSet<u64> = burst.iter().map(|id| taken[id].1).collect();
        1 < epochs.len()
    };
    let in_the_middle: Vec<bool> = bursts.iter().map(spans).collect();
    eprintln!(
        "{} inputs in {} epochs, owner changed inside a burst: {in_the_middle:?}, skipped: {:?}",
        taken.len(),
        chain.head.epoch,
        chain.skipped
    );
    assert!(in_the_middle.iter().all(|it| *it), "{in_the_middle:?}");
    // Every node's answer is what an independent reader of the topic finds.
    for id in bursts.iter().filter_map(|burst| burst.last()) {
        let place = format!("immutable:log:0/{}", taken[id].0);
        for node in 0..2 {
            assert_eq!(fleet.place(node, id).as_ref(), Some(&place), "{id} at node {node}");
        }
    }
    fleet.verify_export();
}

/// Writes bursts until it is over, as clients do that do not wait: ids of what is durable.
fn write(inbox: &str, round: usize, first: &Sender<()>, over: &Receiver<()>) -> Vec<String> {
    let foreign = Foreign::new(bed::shared());
    let mut written = Vec::new();
    while over.recv_timeout(BURST_EVERY) == Err(RecvTimeoutError::Timeout) {
        let ids = (0..BURST).map(|n| format!("burst-{round}-{}", written.len() + n));
        let ids: Vec<String> = ids.collect();
        // Every tenth is sent twice, as a client does that heard no answer.
        let twice = ids.iter().step_by(10);
        let all = ids.iter().chain(twice).map(|id| poison::change(id, String::new()));
        foreign.write(inbox, &all.collect::<Vec<_>>());
        written.extend(ids);
        // Heard once, and then by nobody.
        let _ = first.send(());
    }
    written
}

fn change_owner(fleet: &mut Fleet, end: End, round: usize) {
    let owner = fleet.owner();
    let other = usize::from(owner == 0);
    fleet.await_decision(other, &format!("before-{round}"));
    match end {
        End::Stop => {
            assert!(fleet.stop(owner).success(), "{}", fleet.said());
        }
        End::Pause => fleet.signal(owner, Signal::STOP),
        End::Kill => fleet.kill(owner),
        End::Join => {
            let joined = fleet.add();
            fleet.change(joined, &format!("joined-{round}"));
            assert!(fleet.stop(owner).success(), "{}", fleet.said());
        }
    }
    fleet.await_decision(other, &format!("without-{round}"));
    match end {
        End::Stop | End::Kill | End::Join => fleet.restart(owner),
        End::Pause => fleet.signal(owner, Signal::CONT),
    }
    fleet.await_decision(owner, &format!("again-{round}"));
}

/// Sequence and epoch of every change in the chain; one that stands twice is the end.
fn taken(chain: &Chain) -> BTreeMap<String, (u64, u64)> {
    let mut taken = BTreeMap::new();
    for batch in &chain.batches {
        for entry in &batch.entries {
            if let Ok(Event::ChangeObserved(change)) = entry.event() {
                let at = (entry.envelope.seq, batch.header.epoch);
                let earlier = taken.insert(change.id.clone(), at);
                assert_eq!(earlier, None, "{} stands twice", change.id);
            }
        }
    }
    taken
}
