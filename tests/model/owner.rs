//! What a process does with the chain: the owner's cycle, election, yield (protocol.md §2).

use std::ops::Range;

use crate::chain::{Batch, Break, Chain, Id, Role, State, Told, places};

impl Chain {
    /// The broker has it; whether it is in the chain is for its readers to see.
    pub(crate) fn land(&self, state: &mut State, batch: Batch) {
        state.log.push(batch);
        let author = &state.processes[batch.id.author()];
        let hears = author.is_up && author.role == Role::Owner(Some(batch));
        if hears && self.breaks(Break::AcknowledgesOnTheBrokersWord) {
            let from = author.folded.position;
            self.answer(state, from..batch.position, &batch);
        }
    }

    pub(crate) fn elect(&self, state: &mut State, process: usize) {
        while state.processes[process].folded.n_read < state.log.len() {
            self.read(state, process);
            if state.processes[process].role == Role::Halted {
                return;
            }
        }
        let it = &mut state.processes[process];
        it.n_built += 1;
        let election = Batch {
            id: Id::new(process, it.n_built),
            prev: it.folded.head,
            epoch: it.folded.epoch + 1,
            elects: true,
            position: it.folded.position,
            inputs: 0,
            derived: it.folded.counted,
        };
        it.role = Role::Candidate(election);
        state.sent.push(election);
    }

    /// Steps 1 to 3 of the owner's cycle.
    pub(crate) fn take(&self, state: &mut State, process: usize, n: usize) {
        let it = &mut state.processes[process];
        it.n_built += 1;
        let (id, prev, epoch) = (Id::new(process, it.n_built), it.folded.head, it.folded.epoch);
        let kept = it.kept.take().filter(|_| self.breaks(Break::RetriesWithoutTakingAgain));
        let from = it.folded.position;
        let batch = kept.map_or_else(
            || {
                let position = from + n as u8;
                let is_memory = self.breaks(Break::RemembersRepeatsOutsideTheState);
                let known = if is_memory { it.memory } else { it.folded.inputs };
                let inputs = self.inputs(from..position, known);
                let derived = it.folded.counted;
                Batch { id, prev, epoch, elects: false, position, inputs, derived }
            },
            |kept| Batch { id, prev, epoch, ..kept },
        );
        if self.breaks(Break::RemembersRepeatsOutsideTheState) {
            it.memory |= batch.inputs;
        }
        it.role = Role::Owner(Some(batch));
        state.sent.push(batch);
        let places = from..batch.position;
        if self.breaks(Break::AnswersARepeatWhoseFirstIsUnlinked) {
            let repeats = places.filter(|at| batch.inputs & 1 << at == 0);
            repeats.for_each(|at| self.answer(state, at..at + 1, &batch));
        }
        if self.breaks(Break::DispatchesBeforeReadBack) {
            self.dispatch(state, &batch);
        }
    }

    /// The inputs among `places` that repeat nothing known, as bits.
    fn inputs(&self, places: Range<u8>, known: u8) -> u8 {
        places.fold(0, |inputs, at| {
            let has_id = self.inbox[usize::from(at)] != 0;
            let is_repeat = has_id && self.first(at, known | inputs).is_some();
            if is_repeat { inputs } else { inputs | 1 << at }
        })
    }

    /// The place in `known` that the input at `at` repeats, or is.
    pub(crate) fn first(&self, at: u8, known: u8) -> Option<u8> {
        let client = |at: u8| self.inbox[usize::from(at)];
        let is_same = |it: &u8| *it == at || (client(*it) != 0 && client(*it) == client(at));
        places(known).find(is_same)
    }

    /// One record, folded, and what it means to the reader's role.
    pub(crate) fn read(&self, state: &mut State, process: usize) {
        let it = &mut state.processes[process];
        if it.is_beyond && self.breaks(Break::ReadsOnAfterTruncation) {
            it.is_beyond = false;
            it.folded.n_read = it.folded.n_read.min(state.log.len());
            return;
        }
        if it.is_beyond {
            it.role = Role::Halted;
            return;
        }
        let batch = state.log[it.folded.n_read];
        let names_a_stranger = !it.folded.holds(batch.prev);
        if batch.elects && names_a_stranger {
            it.role = Role::Halted;
            return;
        }
        let (head, position, epoch) = (it.folded.head, it.folded.position, it.epoch());
        let is_linked = it.folded.read(&batch, self.broken);
        let is_own = it.on_its_way() == Some(batch);
        let is_lost = is_linked && matches!(it.role, Role::Owner(_));
        let is_warned = batch.elects && epoch < batch.epoch && !self.breaks(Break::NeverYields);
        if is_own && is_linked {
            it.role = Role::Owner(None);
            self.appended(state, position..batch.position, &batch);
        } else if is_own && batch.prev == head {
            it.role = Role::Halted;
        } else if is_own || is_lost || is_warned {
            self.yields(state, process);
        }
    }

    /// Steps 5 and 6.
    fn appended(&self, state: &mut State, places: Range<u8>, batch: &Batch) {
        self.answer(state, places, batch);
        if !self.breaks(Break::DispatchesBeforeReadBack) {
            self.dispatch(state, batch);
        }
    }

    /// A process stops sending, drops its overlay, and asks the group whether it is assigned.
    pub(crate) fn yields(&self, state: &mut State, process: usize) {
        let it = &mut state.processes[process];
        if !it.is_in_office() {
            return;
        }
        let lost = it.on_its_way().filter(|it| !it.elects);
        let is_out = self.breaks(Break::StepsDownForGood);
        it.role = if is_out { Role::Out } else { Role::Follower };
        it.is_told = state.assigned == process;
        if let Some(lost) = lost.filter(|_| self.breaks(Break::KeepsTheOverlayAfterLost)) {
            it.folded.fold(&lost);
        }
        it.kept = lost.filter(|_| self.breaks(Break::RetriesWithoutTakingAgain));
    }

    /// Whoever sent these inputs is told where they stand; a repeat, where its first stands.
    fn answer(&self, state: &mut State, places: Range<u8>, batch: &Batch) {
        for at in places {
            let holds = |it: &&Batch| self.first(at, it.inputs).is_some();
            let it = &state.processes[batch.id.author()];
            let is_linked = |other: &&Batch| it.folded.holds(other.id);
            let first = state.log.iter().filter(is_linked).find(holds);
            let Some(first) = Some(batch).filter(holds).or(first) else { continue };
            let told = (at, first.id);
            self.note(state, told, |it| &mut it.answered);
        }
    }

    /// Effects of the inputs of `batch` start.
    fn dispatch(&self, state: &mut State, batch: &Batch) {
        for at in places(batch.inputs) {
            self.note(state, (at, batch.id), |it| &mut it.dispatched);
        }
    }

    /// What is true already stays true, for the chain only grows: only the rest is remembered.
    fn note(&self, state: &mut State, it: (u8, Id), told: fn(&mut State) -> &mut Told) {
        let folded = self.folded(&state.log);
        let told = told(state);
        if !folded.holds(it.1) && !told.contains(&it) {
            told.push(it);
            told.sort_unstable();
        }
    }
}
