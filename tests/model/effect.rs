//! The effect: how a decision reaches a host at most once, and never after a freeze was
//! acknowledged (protocol.md §7).
//!
//! Modelled: two processes, of which the second is elected at any time and the first may never
//! hear of it; their appends, read-backs and lease bases; one freeze; a runner with two workers,
//! its receipts, lease, mode epoch and confirmation; crashes of the runner and pauses between
//! any two of its steps; dispatches that are lost, late and doubled; time in whole ticks.
//!
//! Left out: how the chain comes about (that is the other model: here a batch links iff its
//! author is the chain's owner as it lands), proofs (every dispatch is of a journaled request),
//! and drift (all clocks tick alike, so the wait is D and not D and drift). One request: two of
//! them share nothing but the lease. A process that starts anew is one that reads late.

use stateright::{Model, Property};

use crate::effect_promises;

/// D, in ticks.
const LEASE: u8 = 2;

/// A rule of the protocol that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    None,
    KeepsNoReceipts,
    KeepsReceiptsAfterTheEffect,
    PrunesReceiptsOnceJournaled,
    LooksUpThenWrites,
    ChecksExpiryBeforeItInserts,
    AcknowledgesBeforeLeasesHaveEnded,
    CountsLeasesFromTheGrantsArrival,
    RenewsLeasesAsFormerOwner,
    GrantsWithoutTheModeEpoch,
    ConfirmsDuringAStart,
    DispatchesOnce,
    PrunesAtExpiryUnjournaled,
}

/// A process that is, was or will be owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    /// When it first sent its newest batch since read back linked.
    lease_base: Option<u8>,
    appending: Option<Append>,
    /// When it read the freeze linked.
    freeze_read: Option<u8>,
}

/// The one batch that an owner has on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Append {
    sent: u8,
    freezes: bool,
}

/// What the runner's receipts file says about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Receipt {
    None,
    Started,
    /// Final: the last check failed, the host was called, or nobody knows.
    NotStarted,
    Finished,
    Unknown,
}

/// Where a worker of the runner stands; it may be paused there for as long as fate likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Worker {
    Idle,
    /// The dispatch is verified.
    Verified,
    /// What is to be checked under one lock is checked, and nothing is written yet: only where a
    /// rule is broken.
    LookedUp,
    /// `started` is on disk.
    Recorded,
    /// The last check has passed: from here to the first instruction the runner confirms
    /// nothing. With the end of the lease that was checked.
    Checked {
        lease_end: u8,
    },
    Running,
}

/// A question for a lease, and the answer on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Grant {
    asked: u8,
    /// What is left of D, and whether the granting process knew of the freeze.
    answer: Option<(u8, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Runner {
    pub(crate) receipt: Receipt,
    pub(crate) workers: [Worker; 2],
    /// On its monotone clock; 0 before the first.
    lease_end: u8,
    grant: Option<Grant>,
    /// Whether it knows the mode epoch of the freeze, on disk.
    is_frozen: bool,
    is_confirmed: bool,
}

/// How a freeze was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Acknowledged {
    ByConfirmation,
    ByWaiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) now: u8,
    pub(crate) owners: [Owner; 2],
    /// Whose batches link.
    current: usize,
    pub(crate) is_frozen: bool,
    pub(crate) acknowledged: Option<Acknowledged>,
    /// Copies of the dispatch on their way.
    dispatches: u8,
    n_dispatched: u8,
    pub(crate) runner: Runner,
    /// What the journal holds as the request's result.
    pub(crate) result: Option<Receipt>,
    pub(crate) n_starts: u8,
    /// A start after the acknowledgement: whether it is the stated gap.
    pub(crate) late_start: Option<bool>,
    left: Faults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Crashes of the runner.
    pub(crate) crashes: u8,
    /// Dispatches lost or doubled.
    pub(crate) any: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Tick,
    Elected,
    Sends {
        owner: usize,
        freezes: bool,
    },
    LandsAndIsReadBack {
        owner: usize,
    },
    ReadsFreeze {
        owner: usize,
    },
    Acknowledges {
        owner: usize,
    },
    Grants {
        owner: usize,
    },
    TellsMode,
    Dispatches,
    DispatchIsLost,
    DispatchIsDoubled,
    AsksForLease,
    TakesGrant,
    Confirms,
    TakesDispatch,
    /// A worker that stands there goes on.
    Steps(Worker),
    RunnerCrashes,
    JournalsResult,
    Prunes,
}

/// A world to explore: which rule is broken, and the bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect {
    pub(crate) broken: Break,
    /// Ticks until the end of the world.
    pub(crate) ticks: u8,
    /// When the request expires.
    pub(crate) expires: u8,
    pub(crate) faults: Faults,
}

impl Model for Effect {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let idle = Owner::default();
        let first = Owner { lease_base: Some(0), ..idle };
        let runner = Runner {
            receipt: Receipt::None,
            workers: [Worker::Idle; 2],
            lease_end: 0,
            grant: None,
            is_frozen: false,
            is_confirmed: false,
        };
        vec![State {
            now: 0,
            owners: [first, idle],
            current: 0,
            is_frozen: false,
            acknowledged: None,
            dispatches: 0,
            n_dispatched: 0,
            runner,
            result: None,
            n_starts: 0,
            late_start: None,
            left: self.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_idle = state.dispatches == 0 && state.runner.workers == [Worker::Idle; 2];
        if state.result.is_some() && is_idle && state.left.any == 0 {
            return;
        }
        if state.now < self.ticks {
            actions.push(Action::Tick);
        }
        self.steps_of_owners(state, actions);
        self.steps_of_runner(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = *state;
        let now = state.now;
        match action {
            Action::Tick => state.now += 1,
            Action::Elected => {
                state.current = 1;
                state.owners[1].lease_base = Some(now);
                state.owners[1].freeze_read = state.is_frozen.then_some(now);
            }
            Action::Sends { owner, freezes } => {
                let appending = Append { sent: now, freezes };
                state.owners[owner].appending = Some(appending);
            }
            Action::LandsAndIsReadBack { owner } => self.read_back(&mut state, owner),
            Action::ReadsFreeze { owner } => state.owners[owner].freeze_read = Some(now),
            Action::Acknowledges { .. } => {
                let is_confirmed = state.runner.is_confirmed;
                let (by, wait) = (Acknowledged::ByConfirmation, Acknowledged::ByWaiting);
                state.acknowledged = Some(if is_confirmed { by } else { wait });
            }
            Action::Grants { owner } => {
                let it = &state.owners[owner];
                let knows =
                    it.freeze_read.is_some() && !self.breaks(Break::GrantsWithoutTheModeEpoch);
                let rest = it.lease_base? + LEASE - now;
                state.runner.grant.as_mut()?.answer = Some((rest, knows));
            }
            Action::TellsMode => state.runner.is_frozen = true,
            Action::Dispatches => (state.dispatches, state.n_dispatched) = (1, 1),
            Action::DispatchIsLost => {
                state.left.any -= 1;
                state.dispatches -= 1;
            }
            Action::DispatchIsDoubled => {
                state.left.any -= 1;
                state.dispatches += 1;
            }
            Action::AsksForLease => {
                state.runner.grant = Some(Grant { asked: now, answer: None });
            }
            Action::TakesGrant => self.take_grant(&mut state),
            Action::Confirms => state.runner.is_confirmed = true,
            Action::TakesDispatch => {
                state.dispatches -= 1;
                *state.runner.worker(Worker::Idle)? = Worker::Verified;
            }
            Action::Steps(at) => {
                let next = self.step(&mut state, at);
                *state.runner.worker(at)? = next;
            }
            Action::RunnerCrashes => state.crash_runner(),
            Action::JournalsResult => {
                state.result = Some(state.runner.receipt);
                if self.breaks(Break::PrunesReceiptsOnceJournaled) {
                    state.runner.receipt = Receipt::None;
                }
            }
            Action::Prunes => state.runner.receipt = Receipt::None,
        }
        // Nobody minds which of the two workers does it.
        state.runner.workers.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        effect_promises::all()
    }
}

impl Effect {
    fn breaks(&self, rule: Break) -> bool {
        self.broken == rule
    }

    fn steps_of_owners(&self, state: &State, actions: &mut Vec<Action>) {
        for (owner, it) in state.owners.iter().enumerate() {
            if it.appending.is_some() {
                actions.push(Action::LandsAndIsReadBack { owner });
            } else if it.lease_base.is_some() {
                if it.lease_base < Some(state.now) {
                    actions.push(Action::Sends { owner, freezes: false });
                }
                if !state.is_frozen {
                    actions.push(Action::Sends { owner, freezes: true });
                }
            }
            if state.is_frozen && it.freeze_read.is_none() {
                actions.push(Action::ReadsFreeze { owner });
            }
            if self.may_acknowledge(state, it) {
                actions.push(Action::Acknowledges { owner });
            }
            let is_asked = state.runner.grant.is_some_and(|it| it.answer.is_none());
            if is_asked && it.lease_base.is_some_and(|base| state.now < base + LEASE) {
                actions.push(Action::Grants { owner });
            }
        }
        if state.current == 0 {
            actions.push(Action::Elected);
        }
        if state.owners.iter().any(|it| it.freeze_read.is_some()) && !state.runner.is_frozen {
            actions.push(Action::TellsMode);
        }
        // Nothing comes back: the dispatch is repeated, by whoever is owner then.
        let is_open = state.result.is_none() && state.runner.receipt == Receipt::None;
        let is_away = 0 < state.dispatches || state.runner.workers != [Worker::Idle; 2];
        let is_over = self.breaks(Break::DispatchesOnce) && 0 < state.n_dispatched;
        if is_open && !is_away && !is_over && state.now < self.expires {
            actions.push(Action::Dispatches);
        }
        if 0 < state.left.any && 0 < state.dispatches {
            actions.push(Action::DispatchIsLost);
        }
        if 0 < state.left.any && 0 < state.n_dispatched {
            actions.push(Action::DispatchIsDoubled);
        }
    }

    fn may_acknowledge(&self, state: &State, it: &Owner) -> bool {
        let is_early = self.breaks(Break::AcknowledgesBeforeLeasesHaveEnded);
        let has_waited = |read: u8| is_early || read + LEASE <= state.now;
        let is_sure = |read| state.runner.is_confirmed || has_waited(read);
        state.acknowledged.is_none() && it.freeze_read.is_some_and(is_sure)
    }

    fn steps_of_runner(&self, state: &State, actions: &mut Vec<Action>) {
        let it = &state.runner;
        let is_wanted = it.workers.contains(&Worker::Recorded) && it.lease_end <= state.now;
        if is_wanted && it.grant.is_none_or(|grant| grant.asked < state.now) {
            actions.push(Action::AsksForLease);
        }
        if it.grant.is_some_and(|grant| grant.answer.is_some()) {
            actions.push(Action::TakesGrant);
        }
        let is_starting = it.workers.iter().any(|it| matches!(it, Worker::Checked { .. }));
        let may_confirm = !is_starting || self.breaks(Break::ConfirmsDuringAStart);
        if it.is_frozen && !it.is_confirmed && may_confirm {
            actions.push(Action::Confirms);
        }
        if it.workers.contains(&Worker::Idle) && 0 < state.dispatches {
            actions.push(Action::TakesDispatch);
        }
        let is_same = it.workers[0] == it.workers[1];
        let at_work =
            it.workers.iter().skip(usize::from(is_same)).filter(|at| **at != Worker::Idle);
        actions.extend(at_work.map(|at| Action::Steps(*at)));
        if 0 < state.left.crashes {
            actions.push(Action::RunnerCrashes);
        }
        let is_final =
            matches!(it.receipt, Receipt::NotStarted | Receipt::Finished | Receipt::Unknown);
        if is_final && state.result.is_none() {
            actions.push(Action::JournalsResult);
        }
        let is_kept = state.result.is_none() && !self.breaks(Break::PrunesAtExpiryUnjournaled);
        if is_final && !is_kept && self.expires <= state.now {
            actions.push(Action::Prunes);
        }
    }

    /// A batch links iff its author is the chain's owner as it lands.
    fn read_back(&self, state: &mut State, owner: usize) {
        let is_linked = owner == state.current;
        let it = &mut state.owners[owner];
        let Some(appended) = it.appending.take() else { return };
        if is_linked || self.breaks(Break::RenewsLeasesAsFormerOwner) {
            it.lease_base = Some(appended.sent);
        }
        if is_linked && appended.freezes {
            it.freeze_read = it.freeze_read.or(Some(state.now));
            state.is_frozen = true;
        }
    }

    fn take_grant(&self, state: &mut State) {
        let it = &mut state.runner;
        let Some(Grant { asked, answer: Some((rest, knows)) }) = it.grant.take() else { return };
        let from_arrival = self.breaks(Break::CountsLeasesFromTheGrantsArrival);
        // The mode epoch is on disk before the lease is used.
        it.is_frozen |= knows;
        it.lease_end = if from_arrival { state.now } else { asked } + rest;
    }

    /// What a worker does between two pauses, and where it stands then.
    fn step(&self, state: &mut State, at: Worker) -> Worker {
        let now = state.now;
        let it = &mut state.runner;
        let late =
            self.breaks(Break::KeepsNoReceipts) || self.breaks(Break::KeepsReceiptsAfterTheEffect);
        let is_known = it.receipt != Receipt::None;
        let is_new = !is_known && now < self.expires;
        let is_split = self.breaks(Break::LooksUpThenWrites)
            || self.breaks(Break::ChecksExpiryBeforeItInserts);
        match at {
            Worker::Verified if !is_new => Worker::Idle,
            Worker::Verified if late => Worker::Recorded,
            Worker::Verified if is_split => Worker::LookedUp,
            Worker::LookedUp if is_known && !self.breaks(Break::LooksUpThenWrites) => Worker::Idle,
            // Insert if absent, under one lock with the check that it has not expired.
            Worker::Verified | Worker::LookedUp => {
                it.receipt = Receipt::Started;
                Worker::Recorded
            }
            Worker::Recorded if now < it.lease_end && !it.is_frozen => {
                Worker::Checked { lease_end: it.lease_end }
            }
            Worker::Recorded => {
                it.receipt = Receipt::NotStarted;
                Worker::Idle
            }
            Worker::Checked { lease_end } => {
                state.n_starts += 1;
                if let Some(by) = state.acknowledged {
                    let is_gap = by == Acknowledged::ByWaiting && lease_end <= now;
                    state.late_start = Some(is_gap && state.late_start != Some(false));
                }
                Worker::Running
            }
            Worker::Running => {
                if !self.breaks(Break::KeepsNoReceipts) {
                    it.receipt = Receipt::Finished;
                }
                Worker::Idle
            }
            Worker::Idle => Worker::Idle,
        }
    }
}

impl Runner {
    /// A worker that stands there.
    fn worker(&mut self, at: Worker) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|it| **it == at)
    }
}

impl State {
    /// What is not on disk is gone, and the runner is up again; a start that has no finish is
    /// answered as unknown.
    fn crash_runner(&mut self) {
        self.left.crashes -= 1;
        let it = &mut self.runner;
        (it.workers, it.lease_end, it.grant) = ([Worker::Idle; 2], 0, None);
        if it.receipt == Receipt::Started {
            it.receipt = Receipt::Unknown;
        }
    }
}
