//! A process that shares a partition with others: it follows the chain and folds along, takes
//! office when the group assigns it, and leaves when it must (protocol.md §2, "Election" and
//! "Yield").
//!
//! The group says who should try; the chain says who is. Having yielded, a member contests only
//! after the group has had time to say that it is no longer assigned, so a process that was
//! paused does not starve the one that took over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use schemas::Head;
use state::kafka::KafkaLog;
use state::kafka::group::Membership;
use state::{Log, LogError, State, Store};

use super::fold::Place;
use super::owner::Owner;
use super::thread::{Seat, Shared, Work, serve, wall_now};
use super::{EngineError, heads, replay};
use crate::checkpoints::start::Expected;

/// A standby looks at least this often, so that a stop or an assignment is never missed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After yielding, the group has this long to say that somebody else is assigned: more than a
/// heartbeat, less than a session.
const CONTEST_AFTER: Duration = Duration::from_secs(2);
/// Batches are read in runs of about this size.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Takes office when called.
pub type Elect = Box<dyn FnMut() -> Result<Owner, EngineError> + Send>;

/// One process's part in one partition.
pub struct Member {
    log: Arc<KafkaLog>,
    membership: Arc<Membership>,
    partition: u32,
    elect: Elect,
    /// Entries up to which senders have been answered.
    settled: u64,
    /// Not before this does it contest.
    contest_at: Instant,
    /// The state that folding passes through, on another node's word.
    expected: Option<Expected>,
}

/// How a time in office ended.
enum End {
    /// The engine stops, or the group has given the partition to somebody else.
    Left,
    /// Somebody else took or claims it.
    Yielded,
}

impl Member {
    /// A member that takes office with `elect` when the group assigns `partition` to it.
    pub fn new(
        log: Arc<KafkaLog>,
        membership: Arc<Membership>,
        partition: u32,
        elect: Elect,
    ) -> Result<Self, EngineError> {
        let settled = log.followed()?.next_seq;
        let contest_at = Instant::now();
        Ok(Member { log, membership, partition, elect, settled, contest_at, expected: None })
    }

    /// Has the state compared where folding comes to this position.
    pub fn expect(&mut self, expected: Option<Expected>) {
        self.expected = expected;
    }

    pub(super) fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }

    pub(super) fn next_seq(&self) -> Result<u64, EngineError> {
        Ok(self.log.followed()?.next_seq)
    }

    pub(super) fn run(mut self, shared: &Shared, todo: &Receiver<Work>) {
        while !shared.stop.load(Ordering::SeqCst) {
            let ended = self.stand_by(shared, todo).and_then(|()| self.hold(shared, todo));
            if let Err(error) = ended {
                // What others appended cannot be folded, or is not the chain that was read:
                // nothing is decided here any more, and a person is told.
                shared.seat.send_modify(|seat| seat.here = false);
                shared.halt_for_good(&error.to_string());
                return;
            }
        }
    }

    /// Folds along with what the owner appends until it is this process's turn.
    fn stand_by(&mut self, shared: &Shared, todo: &Receiver<Work>) -> Result<(), EngineError> {
        let mut state = State::new(self.log.clone())?;
        let mut place = None;
        while !shared.stop.load(Ordering::SeqCst) {
            let head = self.log.followed()?;
            let place = place.get_or_insert_with(|| Place {
                genesis: schemas::link::genesis(&head.deployment, head.partition),
                partition: head.partition,
                wall: wall_now(),
            });
            self.compare(&mut state, place, &head)?;
            replay::catch_up::<dyn Log>(&*self.log, &*self.log, &mut state, place, &head)?;
            self.settle(shared, &head, &mut state)?;
            if self.may_try() {
                return Ok(());
            }
            match todo.recv_timeout(LOOK_EVERY) {
                Ok(Work::See(see)) => see(&mut state),
                // A question to the owner is dropped, which its asker notices.
                Ok(Work::Ask(_) | Work::Input | Work::Telemetry)
                | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(())
    }

    /// Folds up to where another node's checkpoint was taken, once the chain reaches there, and
    /// compares the two states.
    fn compare(
        &mut self,
        state: &mut State,
        place: &Place,
        head: &Head,
    ) -> Result<(), EngineError> {
        let log: &dyn Log = &*self.log;
        let Some(position) = self.expected.as_ref().map(|it| it.position) else { return Ok(()) };
        if head.next_seq < position {
            return Ok(());
        }
        let there = Head { next_seq: position, ..head.clone() };
        replay::catch_up(log, &*self.log, state, place, &there)?;
        let expected = self.expected.take().filter(|_| self.log.position().ok() == Some(position));
        let Some(Expected { state: theirs, node, .. }) = expected else { return Ok(()) };
        // The owner's state holds the tree's full tiles, which no fold says.
        heads::regrow(log, state, position)?;
        let ours = state.digest()?;
        self.log.commit(position, &state.changes())?;
        state.commit();
        if ours != theirs {
            return Err(EngineError::StateDiffers { position, ours, theirs, node });
        }
        tracing::info!(position, node, "the state is the one that the owner had here");
        metrics::counter!("healwright_states_compared_total").increment(1);
        Ok(())
    }

    fn may_try(&self) -> bool {
        self.membership.is_assigned(self.partition) && self.contest_at <= Instant::now()
    }

    /// Answers senders from what the chain holds, and says who is in office.
    fn settle(
        &mut self,
        shared: &Shared,
        head: &Head,
        state: &mut State,
    ) -> Result<(), EngineError> {
        while self.settled < head.next_seq {
            for batch in Log::read(&*self.log, self.settled, READ_BYTES)? {
                shared.answers().read(&batch);
                self.settled = batch.next_seq();
            }
        }
        shared.answers().passed(&head.positions, state);
        self.announce(shared, head, false)?;
        Ok(())
    }

    fn announce(&self, shared: &Shared, head: &Head, here: bool) -> Result<(), EngineError> {
        if shared.seat.borrow().epoch != head.epoch || shared.seat.borrow().here != here {
            let elected = self.log.elected()?;
            let node = elected.as_ref().map(|it| it.certificate.node);
            let endpoint = elected.map(|it| it.endpoint).unwrap_or_default();
            shared.seat.send_replace(Seat { here, epoch: head.epoch, endpoint, node });
        }
        shared.moved.send_if_modified(|moved| {
            let grown = moved.next_seq < head.next_seq;
            moved.next_seq = head.next_seq.max(moved.next_seq);
            grown
        });
        Ok(())
    }

    /// Takes office and holds it.
    fn hold(&mut self, shared: &Shared, todo: &Receiver<Work>) -> Result<(), EngineError> {
        if shared.stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.membership.hold(self.partition, true);
        let ended = self.in_office(shared, todo);
        self.log.release();
        self.membership.hold(self.partition, false);
        let end = ended?;
        self.settled = self.settled.max(shared.moved.borrow().next_seq);
        let head = self.log.followed()?;
        self.announce(shared, &head, false)?;
        if matches!(end, End::Yielded) {
            self.contest_at = Instant::now() + CONTEST_AFTER;
        }
        Ok(())
    }

    fn in_office(&mut self, shared: &Shared, todo: &Receiver<Work>) -> Result<End, EngineError> {
        let mut owner = match (self.elect)() {
            Ok(owner) => owner,
            Err(error) => return yielded(error),
        };
        self.announce(shared, owner.head(), true)?;
        let (membership, partition) = (&self.membership, self.partition);
        let served = serve(shared, todo, &mut owner, || membership.is_assigned(partition));
        if let Err(error) = served {
            return yielded(error);
        }
        if let Err(error) = owner.sign_head(wall_now(), true) {
            tracing::warn!(%error, "the last head was not signed");
        }
        Ok(End::Left)
    }
}

/// What ends a time in office and not the member's: somebody else is in office or claims it, or
/// the cluster does not answer now.
fn yielded(error: EngineError) -> Result<End, EngineError> {
    let over = matches!(
        &error,
        EngineError::Superseded { .. }
            | EngineError::Log(
                LogError::Yielded { .. } | LogError::Unanswered { .. } | LogError::Cluster { .. }
            )
    );
    if over {
        tracing::info!(%error, "office is over");
        return Ok(End::Yielded);
    }
    Err(error)
}
