//! Log and store of one process on the simulated cluster: what `state::kafka` does with threads
//! and a broker, done in one thread with fate, by the same rules (`state::kafka::verdict`).

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use healwright::engine::owner::Owner;
use healwright::keys::Identity;
use schemas::link::election;
use schemas::signature::KeyPair;
use schemas::{Batch, Cause, Hash, Head, Stream};
use state::kafka::verdict::{Waiting, offered};
use state::{Append, Changes, Log, LogError, Records, Store};

use crate::broken::{Break, signed_again};
use crate::node::Role;
use crate::world::{N_NODES, World};

/// Waits end after so many steps of fate, as when a process is told to stop.
const N_WAITS_MAX: u64 = 400;

pub(crate) struct Sim {
    world: Mutex<World>,
    /// The owner of each process that is not in the middle of something.
    pub(crate) owners: [Mutex<Option<Owner>>; N_NODES],
    /// Which processes are in the middle of something.
    pub(crate) busy: Mutex<[bool; N_NODES]>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) folder: tempfile::TempDir,
}

impl Sim {
    pub(crate) fn new(seed: u64, broken: Break) -> Arc<Self> {
        let key = |n| KeyPair::from_seed(&[n; 32]);
        let named = |n: u8| Identity::new("sim", &format!("P{n}"), &key(1), key(10 + n));
        let identities: Vec<Identity> = (0..N_NODES as u8).map(named).collect();
        let world = Mutex::new(World::new(seed, broken, &identities[0].deployment));
        // Head records are fsynced; in memory that costs nothing and the order is the same.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (owners, busy) = (Default::default(), Mutex::default());
        Arc::new(Sim { world, owners, busy, identities, folder })
    }

    /// Owners hold the simulation that holds them.
    pub(crate) fn end(&self) {
        for owner in &self.owners {
            *owner.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn handle(self: &Arc<Self>, node: usize) -> Arc<Handle> {
        Arc::new(Handle { sim: self.clone(), node })
    }
}

/// One process's handle.
pub(crate) struct Handle {
    sim: Arc<Sim>,
    node: usize,
}

impl Handle {
    /// Sends until the batch is read back linked or cannot be any more.
    fn persist(&self, batch: &Batch) -> Result<Append, LogError> {
        let (waiting, hash) = (Waiting::of(batch), batch.hash());
        let unanswered = Err(LogError::Unanswered { what: "append" });
        let on_their_word = schemas::link(self.sim.world().nodes[self.node].head(), batch);
        for n_waits in 0..N_WAITS_MAX {
            let mut world = self.sim.world();
            let it = &world.nodes[self.node];
            if let Some(fault) = &it.fault {
                return Err(fault.clone());
            }
            let claimed = if world.breaks(Break::NeverYields) { 0 } else { it.claimed };
            if let Some(answer) = waiting.outcome(it.head(), claimed) {
                return answer;
            }
            if world.mishap(50) {
                world.nodes[self.node].is_crashing = true;
                return unanswered;
            }
            if n_waits == 0 {
                self.first_sent(&mut world, batch);
            }
            // Sent again when nothing of it is on its way, and now and then all the same.
            if n_waits == 0 || !world.is_on_its_way(&hash) || world.mishap(20) {
                world.send(self.node, batch);
            }
            drop(world);
            self.meanwhile();
            let world = self.sim.world();
            if world.breaks(Break::AcknowledgesOnTheBrokersWord) && world.topic.has(&hash) {
                return on_their_word.map_or(unanswered, |head| Ok(Append::Appended(head)));
            }
        }
        unanswered
    }

    /// Where a broken process does too early what follows an append.
    fn first_sent(&self, world: &mut World, batch: &Batch) {
        if world.breaks(Break::DispatchesBeforeReadBack) {
            world.dispatch(batch);
        }
        if world.breaks(Break::AnswersARepeatWhoseFirstIsUnlinked) {
            answer_repeats(world, self.node, batch);
        }
    }

    /// Others go on while this process waits: fate, this reader, and other processes, which may
    /// wait in turn. A paused process does not read.
    fn meanwhile(&self) {
        let mut world = self.sim.world();
        world.fate();
        if world.mishap(25) {
            world.pause(self.node);
        }
        let is_paused = !world.is_calm && world.step < world.nodes[self.node].paused_until;
        // Each process follows the journal while others wait, and while it waits itself.
        let reader = world.seed.below(N_NODES as u64) as usize;
        let reads = if world.is_calm || world.seed.one_in(2) { self.node } else { reader };
        if world.may_read(reads) {
            world.read(reads);
        }
        let others = is_paused || world.seed.one_in(3);
        // A former owner is the likeliest to disturb.
        let disturbs = is_paused && !world.seed.one_in(4);
        let owner = world.nodes.iter().position(|it| it.role == Role::InOffice);
        let any = world.seed.below(N_NODES as u64) as usize;
        let other = owner.filter(|_| disturbs).unwrap_or(any);
        drop(world);
        if others {
            self.sim.step(other);
        }
    }

    fn append_now(&self, expected: &Head, batch: &Batch) -> Result<Append, LogError> {
        if self.sim.world().breaks(Break::AcknowledgesOnTheBrokersWord) {
            // What it takes for its own is mostly there.
            self.sim.world().read_to_end(self.node)?;
        }
        let head = self.sim.world().nodes[self.node].followed()?;
        match offered(&head, expected, batch, batch.encode().len())? {
            Some(appended) => Ok(appended),
            None => self.persist(batch),
        }
    }

    /// What a broken process keeps of a batch that it has lost.
    fn lost(&self, batch: &Batch, changes: &Changes) {
        let mut world = self.sim.world();
        if election(batch).is_some() {
            return;
        }
        if world.breaks(Break::KeepsTheOverlayAfterLost) {
            world.nodes[self.node].state.apply(changes);
        }
        if world.breaks(Break::RetriesWithoutTakingAgain) {
            world.nodes[self.node].kept = Some(Arc::new(batch.clone()));
        }
    }

    /// The batch that is really sent: a broken process sends what it has kept.
    fn again(&self, batch: &Batch) -> Option<Batch> {
        if election(batch).is_some() {
            return None;
        }
        let mut world = self.sim.world();
        let it = &mut world.nodes[self.node];
        let lost = it.kept.take()?;
        Some(signed_again(&lost, batch, &KeyPair::from_seed(&it.epoch_seed)))
    }
}

/// Answers the repeats that `batch` has taken with places that are not in the chain yet.
fn answer_repeats(world: &mut World, node: usize, batch: &Batch) {
    let (from, to) = (world.nodes[node].head().positions, batch.header.positions);
    let ranges =
        [(Stream::Control, from.control..to.control), (Stream::Inbox, from.inbox..to.inbox)];
    for (stream, positions) in ranges {
        for position in positions {
            let Some(id) = world.id_at(stream, position) else { continue };
            let first = batch.entries.iter().find_map(|it| match it.envelope.cause {
                Cause::Observed { stream, position } => {
                    let is_it = world.id_at(stream, position).as_ref() == Some(&id);
                    is_it.then_some((position, it.envelope.seq))
                }
                Cause::Owner { .. } | Cause::Derived { .. } => None,
            });
            if let Some((_, seq)) = first.filter(|(first, _)| *first != position) {
                world.answer(stream, position, seq);
            }
        }
    }
}

impl Log for Handle {
    fn head(&self) -> Result<Head, LogError> {
        let mut world = self.sim.world();
        if world.mishap(15) {
            return Err(LogError::Unanswered { what: "read of the journal's end" });
        }
        let is_old = world.breaks(Break::ElectsOnAnOldHead) && world.mishap(2);
        if !is_old {
            world.read_to_end(self.node)?;
        }
        world.nodes[self.node].followed()
    }

    fn read(&self, from_seq: u64, bytes_max: usize) -> Result<Vec<Batch>, LogError> {
        let mut world = self.sim.world();
        world.follow(self.node);
        let it = &world.nodes[self.node];
        let first = it.copy.iter().position(|it| from_seq < it.record.batch.next_seq());
        let from = first.filter(|at| it.copy[*at].record.batch.header.first_seq <= from_seq);
        if from.is_none() && from_seq != it.head().next_seq {
            return Err(it.diverged("its copy lacks an entry"));
        }
        let (mut bytes, mut batches) = (0, Vec::new());
        for copied in &it.copy[from.unwrap_or(it.copy.len())..] {
            bytes += copied.record.batch.entries.iter().map(schemas::Entry::size).sum::<usize>();
            if !batches.is_empty() && bytes > bytes_max {
                break;
            }
            batches.push(copied.record.batch.clone());
        }
        Ok(batches)
    }

    fn append(
        &self,
        expected: &Head,
        batch: &Batch,
        changes: &Changes,
    ) -> Result<Append, LogError> {
        changes.sound()?;
        let again = self.again(batch);
        let batch = again.as_ref().unwrap_or(batch);
        if self.sim.world().breaks(Break::RemembersRepeatsOutsideTheState) {
            let ids = changes.pairs().filter(|(key, _)| is_repeat(key));
            let ids = ids.filter_map(|(key, value)| Some((key.to_vec(), value?.to_vec())));
            self.sim.world().nodes[self.node].memory.extend(ids);
        }
        let appended = self.append_now(expected, batch);
        if matches!(appended, Ok(Append::Lost(_)) | Err(LogError::Yielded { .. })) {
            self.lost(batch, changes);
        }
        let appended = appended?;
        if let Append::Appended(head) = &appended {
            let mut world = self.sim.world();
            world.weather.appended += 1;
            let state = &mut world.nodes[self.node].state;
            if state.position == batch.header.first_seq {
                state.apply(changes);
                state.position = head.next_seq;
            }
        }
        Ok(appended)
    }

    fn send(&self, stream: Stream, records: &[Vec<u8>]) -> Result<Range<u64>, LogError> {
        let mut world = self.sim.world();
        let stream = world.streams.entry(stream).or_default();
        let from = stream.len() as u64;
        stream.extend(records.iter().cloned());
        Ok(from..stream.len() as u64)
    }

    /// At most four records, and sometimes fewer than there are: reads lag.
    fn take(&self, stream: Stream, from: u64, _bytes_max: usize) -> Result<Records, LogError> {
        let mut world = self.sim.world();
        world.follow(self.node);
        world.nodes[self.node].followed()?;
        let n = 1 + world.seed.below(4) as usize;
        let mut taken = Records::default();
        let there = world.streams.get(&stream).map_or(&[][..], |it| it);
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        for (position, record) in (from..).zip(there.iter().skip(skip).take(n)) {
            taken.push(position, record);
        }
        Ok(taken)
    }

    fn quarantine(&self, record: &[u8], _reason: &str) -> Result<Hash, LogError> {
        Ok(Hash::of(&[record]))
    }

    fn forget(&self, _stream: Stream, _before: u64) -> Result<(), LogError> {
        Ok(())
    }
}

fn is_repeat(key: &[u8]) -> bool {
    key.windows(7).any(|it| it == b"client/") && key.first() != Some(&0)
}

impl Store for Handle {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, LogError> {
        let world = self.sim.world();
        let it = &world.nodes[self.node];
        let remembers = world.breaks(Break::RemembersRepeatsOutsideTheState) && is_repeat(key);
        let pairs = if remembers { &it.memory } else { &it.state.pairs };
        Ok(pairs.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), LogError> {
        let world = self.sim.world();
        let from = world.nodes[self.node].state.pairs.range(prefix.to_vec()..);
        for (key, value) in from.take_while(|(key, _)| key.starts_with(prefix)) {
            each(key, value);
        }
        Ok(())
    }

    fn position(&self) -> Result<u64, LogError> {
        Ok(self.sim.world().nodes[self.node].state.position)
    }

    fn commit(&self, next_seq: u64, changes: &Changes) -> Result<(), LogError> {
        changes.sound()?;
        let mut world = self.sim.world();
        let state = &mut world.nodes[self.node].state;
        state.apply(changes);
        state.position = next_seq;
        Ok(())
    }
}
