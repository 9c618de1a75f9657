//! The chain: who may write it, and what its readers make of it (protocol.md §1 and §2).
//!
//! Modelled: the link rule, the owner's cycle, election, yield, retry, answers, dispatch, and a
//! journal whose appends are lost, late, doubled and overtaken; processes that crash, are slow
//! (a zombie is a process that reads late) and learn late what the group has assigned; a tail
//! that is cut off. One step of a process is what it does without waiting.
//!
//! Left out, because nothing here rests on it: signatures (every author is correct, so a
//! batch's `prev` implies its sequence), `inbox.control` and `telemetry` (one position stands
//! for the three), ticks, and the size of a batch. The whole inbox is there from the beginning:
//! what arrives later is what an owner has not taken yet. A store is at the place up to which
//! its process has read: a store that lags is a process that has not read.

use std::fmt;

use stateright::{Model, Property};

use crate::chain_promises;

/// The places that are set in `bits`.
pub(crate) fn places(bits: u8) -> impl Iterator<Item = u8> {
    (0..u8::BITS as u8).filter(move |at| bits & 1 << at != 0)
}

/// Inputs that a batch takes at most.
const TAKEN_MAX: usize = 2;

/// A rule of the protocol that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    None,
    AcknowledgesOnTheBrokersWord,
    KeepsTheOverlayAfterLost,
    RemembersRepeatsOutsideTheState,
    AnswersARepeatWhoseFirstIsUnlinked,
    ChecksNeitherPrevNorPositions,
    ElectsOnAnOldHead,
    RetriesWithoutTakingAgain,
    StepsDownForGood,
    NeverYields,
    DispatchesBeforeReadBack,
    ReadsOnAfterTruncation,
    ForgetsInARestartWhatItRead,
}

/// Which process built a batch, and as its how-manyth: it stands for the batch's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(u8);

/// What the first batch names as `prev`.
const GENESIS: Id = Id(0);

/// Batches of one process at most: the ids of three fit into 64 bits.
const N_BUILT_MAX: u8 = 20;

impl Id {
    pub(crate) fn new(process: usize, n_built: u8) -> Self {
        assert!(n_built <= N_BUILT_MAX, "an id stands for one batch");
        Id(process as u8 * N_BUILT_MAX + n_built)
    }

    fn bit(self) -> u64 {
        1 << self.0
    }

    pub(crate) fn author(self) -> usize {
        usize::from((self.0 - 1) / N_BUILT_MAX)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("genesis"),
            n => write!(f, "P{}#{}", self.author(), (n - 1) % N_BUILT_MAX + 1),
        }
    }
}

/// A record of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Batch {
    pub(crate) id: Id,
    pub(crate) prev: Id,
    pub(crate) epoch: u8,
    /// Whether it is `owner.elected`, and nothing else.
    pub(crate) elects: bool,
    /// Up to where the inbox is taken.
    pub(crate) position: u8,
    /// Places of the inbox whose inputs it holds, as bits.
    pub(crate) inputs: u8,
    /// What its fold derived: how many inputs stood in the chain before its own.
    pub(crate) derived: u8,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Batch { id, prev, epoch, position, .. } = self;
        if self.elects {
            return write!(f, "{id:?}: election to epoch {epoch} after {prev:?}");
        }
        let inputs: Vec<u8> = places(self.inputs).collect();
        write!(f, "{id:?}: inputs {inputs:?}, inbox to {position}, epoch {epoch}, after {prev:?}")
    }
}

/// What a reader knows of the chain after so many records of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Folded {
    pub(crate) n_read: usize,
    pub(crate) head: Id,
    /// All batches of the chain, as bits.
    pub(crate) chain: u64,
    pub(crate) epoch: u8,
    pub(crate) position: u8,
    /// The state: which inputs stand in the chain, as bits, and how many.
    pub(crate) inputs: u8,
    pub(crate) counted: u8,
}

impl Folded {
    pub(crate) const GENESIS: Folded =
        Folded { n_read: 0, head: GENESIS, chain: 1, epoch: 0, position: 0, inputs: 0, counted: 0 };

    /// The link rule, and the fold of a batch that it admits.
    pub(crate) fn read(&mut self, batch: &Batch, broken: Break) -> bool {
        let is_next = batch.prev == self.head && self.position <= batch.position;
        let is_excused = broken == Break::ChecksNeitherPrevNorPositions
            || (broken == Break::ElectsOnAnOldHead && batch.elects);
        let epoch = if batch.elects { self.epoch + 1 } else { self.epoch };
        self.n_read += 1;
        if batch.epoch != epoch || !(is_next || is_excused) {
            return false;
        }
        self.head = batch.id;
        self.chain |= batch.id.bit();
        self.epoch = epoch;
        self.position = batch.position;
        self.fold(batch);
        true
    }

    /// Whether that batch is in the chain as far as it is read.
    pub(crate) fn holds(&self, id: Id) -> bool {
        self.chain & id.bit() != 0
    }

    pub(crate) fn fold(&mut self, batch: &Batch) {
        self.inputs |= batch.inputs;
        self.counted += batch.inputs.count_ones() as u8;
    }
}

/// What a process takes itself for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Follower,
    /// Its election is on its way.
    Candidate(Batch),
    /// With the one batch that may be on its way.
    Owner(Option<Batch>),
    /// Stepped down for good.
    Out,
    /// Stopped loudly: it is beyond a point of divergence, or an author skipped on its head.
    Halted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) is_up: bool,
    /// Whether it takes itself for assigned.
    pub(crate) is_told: bool,
    pub(crate) role: Role,
    pub(crate) folded: Folded,
    pub(crate) n_built: u8,
    /// Whether it has read records that were cut off since; its client finds out as it reads on.
    pub(crate) is_beyond: bool,
    /// What broken processes keep: a batch that was lost, and places already taken.
    pub(crate) kept: Option<Batch>,
    pub(crate) memory: u8,
}

/// What may still go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Crashes of a process; appends lost, late or doubled.
    pub(crate) any: u8,
    /// Changes of the group's mind.
    pub(crate) rotations: u8,
    /// Cut tails.
    pub(crate) cuts: u8,
}

/// What somebody outside was told about a place of the inbox: the batch in which it stands.
pub(crate) type Told = Vec<(u8, Id)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) log: Vec<Batch>,
    /// Appends on their way: those of one process stay in order, by author.
    pub(crate) sent: Vec<Batch>,
    /// Appends that may land whenever they like: put off, or a second copy.
    late: Vec<Batch>,
    pub(crate) processes: Vec<Process>,
    /// Whom the group has assigned the partition.
    pub(crate) assigned: usize,
    pub(crate) answered: Told,
    pub(crate) dispatched: Told,
    left: Faults,
    pub(crate) is_cut: bool,
}

/// One step of a process, of the broker or of fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    LearnsAssignment { process: usize },
    ReadsAndSendsElection { process: usize },
    TakesAndSends { process: usize, n: usize },
    SendsAgain { process: usize },
    GivesUp { process: usize },
    Reads { process: usize },
    Crashes { process: usize },
    Starts { process: usize },
    Lands(Batch),
    LandsAndWillAgain(Batch),
    IsLost(Batch),
    IsLate(Batch),
    GroupAssigns { process: usize },
    TailIsCut { to: usize },
}

/// A world to explore: which rule is broken, the inbox by client id (0: none), and the bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) broken: Break,
    pub(crate) inbox: &'static [u8],
    pub(crate) n_processes: usize,
    pub(crate) faults: Faults,
}

impl Model for Chain {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let process = Process {
            is_up: true,
            is_told: false,
            role: Role::Follower,
            folded: Folded::GENESIS,
            n_built: 0,
            is_beyond: false,
            kept: None,
            memory: 0,
        };
        vec![State {
            log: Vec::new(),
            sent: Vec::new(),
            late: Vec::new(),
            processes: vec![process; self.n_processes],
            assigned: 0,
            answered: Vec::new(),
            dispatched: Vec::new(),
            left: self.faults,
            is_cut: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        self.fates(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut state = state.clone();
        match action {
            Action::LearnsAssignment { process } => {
                let is_assigned = state.assigned == process;
                let it = &mut state.processes[process];
                it.is_told = is_assigned;
                if !is_assigned && it.is_in_office() {
                    it.role = Role::Follower;
                }
            }
            Action::ReadsAndSendsElection { process } => self.elect(&mut state, process),
            Action::TakesAndSends { process, n } => self.take(&mut state, process, n),
            Action::SendsAgain { process } => {
                state.sent.extend(state.processes[process].on_its_way());
            }
            Action::GivesUp { process } => self.yields(&mut state, process),
            Action::Reads { process } => self.read(&mut state, process),
            Action::Crashes { process } => {
                state.left.any -= 1;
                state.processes[process].crash();
            }
            Action::Starts { process } => {
                let it = &mut state.processes[process];
                it.is_up = true;
                if self.breaks(Break::ForgetsInARestartWhatItRead) {
                    it.is_beyond = state.log.len() < it.folded.n_read;
                }
            }
            Action::Lands(batch) => {
                state.leave(batch);
                self.land(&mut state, batch);
            }
            Action::LandsAndWillAgain(batch) => {
                state.left.any -= 1;
                state.leave(batch);
                state.late.push(batch);
                self.land(&mut state, batch);
            }
            Action::IsLate(batch) => {
                state.left.any -= 1;
                state.leave(batch);
                state.late.push(batch);
            }
            Action::IsLost(batch) => {
                state.left.any -= 1;
                state.leave(batch);
            }
            Action::GroupAssigns { process } => {
                state.left.rotations -= 1;
                state.assigned = process;
            }
            Action::TailIsCut { to } => {
                state.left.cuts -= 1;
                state.is_cut = true;
                state.log.truncate(to);
                for it in &mut state.processes {
                    it.is_beyond |= to < it.folded.n_read;
                }
            }
        }
        state.sent.sort_by_key(|it| it.id.author());
        state.late.sort_unstable();
        if self.faults.cuts == 0 {
            self.forget_what_is_dead(&mut state);
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        chain_promises::all()
    }
}

impl Process {
    /// Its store, and that it was halted, outlive it.
    fn crash(&mut self) {
        let is_halted = self.role == Role::Halted;
        self.role = if is_halted { Role::Halted } else { Role::Follower };
        (self.is_up, self.is_told, self.kept, self.memory) = (false, false, None, 0);
    }

    /// Whether it is owner or wants to be.
    pub(crate) fn is_in_office(&self) -> bool {
        matches!(self.role, Role::Candidate(_) | Role::Owner(_))
    }

    pub(crate) fn on_its_way(&self) -> Option<Batch> {
        match self.role {
            Role::Candidate(batch) | Role::Owner(Some(batch)) => Some(batch),
            Role::Owner(None) | Role::Follower | Role::Out | Role::Halted => None,
        }
    }

    /// The epoch that a foreign election must exceed to make it yield.
    pub(crate) fn epoch(&self) -> u8 {
        match self.role {
            Role::Candidate(election) => election.epoch,
            Role::Owner(_) | Role::Follower | Role::Out | Role::Halted => self.folded.epoch,
        }
    }
}

impl State {
    /// Takes one copy of `batch` off the way.
    fn leave(&mut self, batch: Batch) {
        if let Some(at) = self.sent.iter().position(|it| *it == batch) {
            self.sent.remove(at);
        } else if let Some(at) = self.late.iter().position(|it| *it == batch) {
            self.late.remove(at);
        }
    }

    /// The next append of each process.
    fn next_sent(&self) -> impl Iterator<Item = &Batch> {
        self.sent.chunk_by(|a, b| a.id.author() == b.id.author()).map(|it| &it[0])
    }
}

impl Chain {
    pub(crate) fn breaks(&self, rule: Break) -> bool {
        self.broken == rule
    }

    /// What happens by itself. Nothing of it can go on for ever, so that a world comes to rest,
    /// and what is not done then is never done.
    pub(crate) fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        (0..self.n_processes).for_each(|process| self.steps_of(state, process, actions));
        actions.extend(state.next_sent().chain(&state.late).map(|batch| Action::Lands(*batch)));
        actions.dedup();
    }

    /// What may go wrong, as long as faults are left.
    fn fates(&self, state: &State, actions: &mut Vec<Action>) {
        let processes = 0..self.n_processes;
        if 0 < state.left.any {
            let up = processes.clone().filter(|it| state.processes[*it].is_up);
            actions.extend(up.map(|process| Action::Crashes { process }));
            for batch in state.next_sent() {
                actions.push(Action::IsLost(*batch));
                actions.push(Action::IsLate(*batch));
                actions.push(Action::LandsAndWillAgain(*batch));
            }
        }
        if 0 < state.left.rotations {
            let others = processes.filter(|it| *it != state.assigned);
            actions.extend(others.map(|process| Action::GroupAssigns { process }));
        }
        if 0 < state.left.cuts {
            actions.extend((0..state.log.len()).map(|to| Action::TailIsCut { to }));
        }
    }

    fn steps_of(&self, state: &State, process: usize, actions: &mut Vec<Action>) {
        let it = &state.processes[process];
        if !it.is_up {
            actions.push(Action::Starts { process });
            return;
        }
        if it.role == Role::Halted {
            return;
        }
        // A follower touches nobody: it reads when it is to be a candidate.
        let is_behind = it.folded.n_read < state.log.len() && it.role != Role::Follower;
        if is_behind || it.is_beyond {
            actions.push(Action::Reads { process });
        }
        if it.is_told != (state.assigned == process) {
            actions.push(Action::LearnsAssignment { process });
        }
        match it.role {
            Role::Follower if it.is_told && !it.is_beyond => {
                actions.push(Action::ReadsAndSendsElection { process });
            }
            Role::Owner(None) => {
                let rest = self.inbox.len() - usize::from(it.folded.position);
                let takes = (1..=rest.min(TAKEN_MAX)).map(|n| Action::TakesAndSends { process, n });
                actions.extend(takes);
            }
            Role::Candidate(batch) | Role::Owner(Some(batch)) => {
                // Nothing comes back in time.
                if !state.sent.contains(&batch) && !state.log.contains(&batch) {
                    let is_head = batch.prev == it.folded.head;
                    let again = Action::SendsAgain { process };
                    actions.push(if is_head { again } else { Action::GivesUp { process } });
                }
            }
            Role::Follower | Role::Out | Role::Halted => {}
        }
    }

    /// A batch that has missed its place can never link, nor can an election warn below its
    /// epoch: unless its author waits for it, nobody would notice that it lands.
    fn forget_what_is_dead(&self, state: &mut State) {
        let folded = self.folded(&state.log);
        let State { sent, late, processes, .. } = state;
        let may_matter = |it: &Batch| {
            let warns = it.elects && folded.epoch < it.epoch;
            let is_awaited = processes[it.id.author()].on_its_way() == Some(*it);
            warns || is_awaited || folded.clone().read(it, self.broken)
        };
        sent.retain(may_matter);
        late.retain(may_matter);
    }

    /// What a reader of the whole log knows.
    pub(crate) fn folded(&self, log: &[Batch]) -> Folded {
        let mut folded = Folded::GENESIS;
        log.iter().for_each(|batch| _ = folded.read(batch, self.broken));
        folded
    }
}
