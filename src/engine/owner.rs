//! The owner of a partition and its cycle (protocol.md §2), as plain calls.
//!
//! No thread, no clock, no socket: the wall clock is an argument and chance is a closure. The
//! simulation crashes this code at every step; the thread in `thread.rs` only feeds it.

mod cycle;
mod intake;
mod witness;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::batch::{BATCH_BYTES_MAX, Header};
use schemas::event::{HeadCosigned, OwnerElected, stream_name};
use schemas::signature::{EpochClaim, KeyPair, PublicKey};
use schemas::telemetry::Samples;
use schemas::{Actor, Batch, Cause, Entry, Event, Hash, Head, Ns, Positions, Stream};
use state::{Append, Log, State, Store};
use topologies::View;

use super::EngineError;
use super::bookkeeping;
use super::fold::{self, Draft, Fault, Incoming, Place};
use super::heads::Heads;
use super::stages::{Stage, Watch};
use crate::keys::Identity;

pub use cycle::{Cycle, Taken};
pub use intake::seal_digest;

/// Ticks while there is something to do (protocol.md §3).
pub const TICK_ACTIVE: Ns = Ns::from_ms(250);
/// Ticks while there is nothing to do.
pub const TICK_IDLE: Ns = Ns::from_s(5);
/// At most this much telemetry under one seal. protocol.md §4 permits 8 MiB; the memory of a
/// partition grows with it, and a sample costs no more.
const SEAL_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Fewer inputs are taken once a batch has grown to this; the rest of the way to the record
/// limit is room for the consequences of the last one.
const BATCH_BYTES_FULL: usize = BATCH_BYTES_MAX / 2;

/// Fills a buffer with chance: the salts. Seeded in simulations.
pub type Chance = Box<dyn FnMut(&mut [u8]) + Send>;

/// The owner of one partition.
pub struct Owner {
    log: Arc<dyn Log>,
    store: Arc<dyn Store>,
    state: State,
    head: Head,
    taken: Positions,
    epoch_key: KeyPair,
    said: u64,
    place: Place,
    heads: Heads,
    chance: Chance,
    /// Inputs that stand alone, with the reason: those that do not come to rest, and those
    /// that a person passed over.
    alone: BTreeMap<(Stream, u64), String>,
    halted: Option<(Stream, u64)>,
    tick_wanted: bool,
    /// Memory of the samples that were sealed last.
    spare: Samples<'static>,
    /// The newest head that a witness confirmed and that is not journaled yet.
    cosigned: Option<HeadCosigned>,
    /// Told which stage of the cycle begins; it holds the clock that this type does not.
    watch: Option<Watch>,
}

/// Why a cycle did not come to its end.
enum Stop {
    /// Take again from the head's positions.
    Again,
    /// The partition stops.
    Engine(EngineError),
}

impl Stop {
    fn into_error(self) -> EngineError {
        match self {
            Stop::Engine(error) => error,
            Stop::Again => unreachable!("an election derives nothing, so it cannot loop"),
        }
    }
}

impl<E: Into<EngineError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Engine(error.into())
    }
}

/// What an owner is made of.
pub struct Office<'a> {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The store that belongs to the log.
    pub store: Arc<dyn Store>,
    /// Keys and deployment.
    pub identity: &'a Identity,
    /// Where this node answers.
    pub endpoint: String,
    /// Tree, head record and checkpoint file.
    pub heads: Heads,
    /// Salts and the epoch's seed.
    pub chance: Chance,
}

/// Inputs on their way into one batch.
#[derive(Default)]
struct Draught {
    drafts: Vec<Draft>,
    bytes: usize,
    taken: Vec<Taken>,
    positions: Positions,
    more: bool,
}

impl Draught {
    fn add(&mut self, drafts: Vec<Draft>) {
        // Salt, lengths and envelope come to about 320 bytes beside the payload.
        self.bytes += drafts.iter().map(|it| it.payload.len() + 320).sum::<usize>();
        self.drafts.extend(drafts);
    }
}

impl Owner {
    /// Reads the chain to its end, folds what the state lacks, and takes office by appending
    /// `owner.elected`; office is held when that batch is read back linked.
    ///
    /// # Errors
    /// A damaged log, a head record that is ahead of it, or folds that now say something else
    /// than the chain holds.
    pub fn elect(office: Office<'_>, wall: Ns) -> Result<Self, EngineError> {
        let Office { log, store, identity, endpoint, mut heads, mut chance } = office;
        let mut state = State::new(store.clone())?;
        let head = log.head()?;
        let place = Place {
            genesis: schemas::link::genesis(&head.deployment, head.partition),
            partition: head.partition,
            wall,
        };
        super::replay::catch_up(&*log, &*store, &mut state, &place, &head)?;
        heads.restore(&*log, &*store, &mut state, &head)?;
        let mut seed = [0; 32];
        chance(&mut seed);
        let epoch_key = KeyPair::from_seed(&seed);
        let taken = head.positions;
        let mut owner = Owner {
            log,
            store,
            state,
            head,
            taken,
            epoch_key,
            said: 0,
            place,
            heads,
            chance,
            alone: BTreeMap::new(),
            halted: None,
            tick_wanted: false,
            spare: Samples::default(),
            cosigned: None,
            watch: None,
        };
        loop {
            let elected = owner.election(identity, &endpoint);
            let mut draught = Draught { positions: owner.head.positions, ..Draught::default() };
            let input = owner.own(elected.clone().into(), "owner".to_owned());
            owner
                .fold_into(&mut draught, input, &Samples::default(), None)
                .map_err(Stop::into_error)?;
            let epoch = owner.head.epoch + 1;
            if owner.append(draught, epoch)?.is_some() {
                owner.log.settle(owner.head.next_seq)?;
                owner.heads.epoch(ledger::EpochKey::elected(
                    &owner.head.deployment,
                    owner.head.partition,
                    &elected,
                ));
                return Ok(owner);
            }
            owner.reread()?;
        }
    }

    fn election(&self, identity: &Identity, endpoint: &str) -> OwnerElected {
        let claim = EpochClaim {
            deployment: &self.head.deployment,
            partition: self.head.partition,
            epoch: self.head.epoch + 1,
            key: self.epoch_key.public(),
        };
        OwnerElected {
            epoch: claim.epoch,
            node: identity.node_name.clone(),
            endpoint: endpoint.to_owned(),
            epoch_key: claim.key,
            certificate: identity.certify(&claim),
        }
    }

    /// One cycle: take, fold to rest, append. Nothing has happened to the world yet when it
    /// returns; answers and effects are the caller's.
    ///
    /// After a fold has panicked the partition is halted: only `inbox.control` is taken, so
    /// that it can still be frozen.
    ///
    /// # Errors
    /// The partition stops: see [`EngineError`].
    pub fn cycle(&mut self, wall: Ns) -> Result<Cycle, EngineError> {
        let cycle = self.begin(wall)?;
        self.settle(&cycle)?;
        Ok(cycle)
    }

    /// As [`Owner::cycle`], and returns while the batch may still be on its way to the disk, so
    /// that the next cycle runs meanwhile. Nothing of it may be told or done before
    /// [`Owner::settle`] has returned (decision 0016).
    ///
    /// # Errors
    /// As [`Owner::cycle`].
    pub fn begin(&mut self, wall: Ns) -> Result<Cycle, EngineError> {
        self.place.wall = wall;
        self.enter(Stage::Take);
        loop {
            match self.cycle_once(wall) {
                Ok(cycle) => return Ok(cycle),
                Err(Stop::Again) => {}
                Err(Stop::Engine(error)) => return Err(error),
            }
        }
    }

    /// Waits until the batch of `cycle` and all before it are durable and read back.
    ///
    /// # Errors
    /// The log cannot say so; the partition stops.
    pub fn settle(&self, cycle: &Cycle) -> Result<(), EngineError> {
        Ok(self.log.settle(cycle.next_seq)?)
    }

    /// Whether [`Owner::settle`] would not wait.
    ///
    /// # Errors
    /// The log cannot say so.
    pub fn is_settled(&self, cycle: &Cycle) -> Result<bool, EngineError> {
        Ok(cycle.next_seq <= self.log.head()?.next_seq)
    }

    fn cycle_once(&mut self, wall: Ns) -> Result<Cycle, Stop> {
        let mut draught = Draught { positions: self.taken, ..Draught::default() };
        if self.halted.is_some() {
            self.take_inputs(&mut draught, Stream::Control)?;
        } else {
            self.take_tick(&mut draught, wall)?;
            self.take_inputs(&mut draught, Stream::Control)?;
            self.take_inputs(&mut draught, Stream::Inbox)?;
            self.take_telemetry(&mut draught)?;
            self.take_cosigned(&mut draught)?;
        }
        let (taken, more) = (std::mem::take(&mut draught.taken), draught.more);
        self.taken = draught.positions;
        if draught.drafts.is_empty() {
            return Ok(Cycle { batch: None, taken, more, next_seq: self.head.next_seq });
        }
        let epoch = self.head.epoch;
        match self.append(draught, epoch)? {
            Some(batch) => {
                Ok(Cycle { next_seq: batch.next_seq(), batch: Some(batch), taken, more })
            }
            None => {
                self.reread()?;
                Ok(Cycle { more: true, ..Cycle::default() })
            }
        }
    }

    /// When the next cycle has something to do although nothing comes in.
    pub fn next_due(&self) -> Ns {
        let last = fold::last_tick(&self.state);
        let wake = self.state.next_wake().map_or(last + TICK_IDLE, Ns);
        wake.max(last + TICK_ACTIVE).min(last + TICK_IDLE)
    }

    /// Signs the tree head, if one is due or `now_or_never`.
    ///
    /// # Errors
    /// The entries read back differently, or the head record refuses.
    pub fn sign_head(&mut self, wall: Ns, force: bool) -> Result<(), EngineError> {
        self.heads.sign(&*self.log, &self.head, &self.epoch_key, wall, force)
    }

    /// The end of the chain.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The tree and its signed heads.
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Reads the folded state through the eyes of `processor`.
    pub fn look<T>(&mut self, processor: &'static str, look: impl FnOnce(&View<'_>) -> T) -> T {
        fold::look(&mut self.state, processor, look)
    }

    /// The folded state, for looking at it between two cycles.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Version, digest and place of a configuration in force.
    pub fn active_config(&mut self, name: &str) -> Option<bookkeeping::Active> {
        bookkeeping::active_config(&mut self.state, name)
    }

    /// The registered key of a signer.
    pub fn signer(&mut self, name: &str) -> Option<PublicKey> {
        fold::signer(&mut self.state, name)
    }

    /// Has the next cycle tick, though nothing else is to be done: while a start lease is
    /// wanted, the chain moves more often than a lease lasts (protocol.md §7).
    pub fn want_tick(&mut self) {
        self.tick_wanted = true;
    }

    /// The log that it writes.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// The tree and its signed heads, with the state that holds its full tiles.
    pub fn tree(&self) -> (&Heads, &State) {
        (&self.heads, &self.state)
    }

    /// Has `watch` told which stage of each cycle begins.
    pub fn watched(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        if let Some(watch) = &mut self.watch {
            watch(stage);
        }
    }

    fn next_seq(&self, draught: &Draught) -> u64 {
        self.head.next_seq + draught.drafts.len() as u64
    }

    /// Something the owner itself says.
    fn own(&mut self, event: Event, key: String) -> Incoming {
        let mut epoch = self.head.epoch;
        if let Event::OwnerElected(elected) = &event {
            epoch = elected.epoch;
        }
        let n = self.said;
        self.said += 1;
        let payload = event.encode().expect("the owner's own records hold no number above i64");
        let (actor, cause) = (Actor::system("owner"), Cause::Owner { epoch, n });
        Incoming { payload, event, key, actor, cause, correlation: None, priority: 5, ttl: Ns(0) }
    }

    fn fold_into(
        &mut self,
        draught: &mut Draught,
        input: Incoming,
        samples: &Samples<'_>,
        from: Option<(Stream, u64)>,
    ) -> Result<(), Stop> {
        let seq = self.next_seq(draught);
        self.enter(Stage::Fold);
        let folded = fold::fold(&mut self.state, &self.place, seq, input, samples);
        self.enter(Stage::Take);
        match folded {
            Ok(drafts) => draught.add(drafts),
            Err(fault) => return Err(self.fault(fault, from)),
        }
        Ok(())
    }

    /// A fault leaves half an input on the overlay: all of it goes. A loop is taken again and
    /// then stands alone; a panic halts the partition.
    fn fault(&mut self, fault: Fault, from: Option<(Stream, u64)>) -> Stop {
        self.state.discard();
        self.taken = self.head.positions;
        let (stream, position) = from.unwrap_or((Stream::Inbox, self.taken.inbox));
        let (processor, seq, message) = match fault {
            Fault::Loop => {
                let reason = "its consequences do not come to rest within 32 steps";
                self.alone.insert((stream, position), reason.to_owned());
                return Stop::Again;
            }
            Fault::Panic { processor, seq, message } => (processor, seq, message),
            Fault::Said { processor, why } => (processor, self.head.next_seq, why),
        };
        self.halted = Some((stream, position));
        Stop::Engine(EngineError::Panicked {
            processor: processor.to_owned(),
            place: schemas::envelope::reference(self.place.partition, seq),
            partition: self.place.partition,
            stream: stream_name(stream).to_owned(),
            position,
            message,
        })
    }

    /// Lets the input at `position` stand alone, by a person's decision, and goes on. Answers
    /// whether it is the one that the partition stands still at; any other is left as it is.
    pub fn pass_over(&mut self, stream: Stream, position: u64, reason: &str) -> bool {
        if self.halted != Some((stream, position)) {
            return false;
        }
        self.alone.insert((stream, position), reason.to_owned());
        self.halted = None;
        true
    }

    /// Whether the partition stands still at an input whose fold panicked.
    pub fn is_halted(&self) -> bool {
        self.halted.is_some()
    }

    /// Signs and begins to append; `None` when another batch came first. On `Appended` the state
    /// that was written with the batch becomes the state.
    fn append(&mut self, draught: Draught, epoch: u64) -> Result<Option<Arc<Batch>>, EngineError> {
        self.enter(Stage::Append);
        let entries = self.seal_entries(draught.drafts);
        let header = Header {
            deployment: self.head.deployment.clone(),
            partition: self.head.partition,
            epoch,
            prev: self.head.hash,
            first_seq: self.head.next_seq,
            count: 0,
            positions: draught.positions,
            wall: self.place.wall,
            body: Hash::default(),
        };
        let leaves: Vec<Hash> = entries.iter().map(Entry::leaf).collect();
        self.heads.grow(&leaves, &mut self.state);
        let batch = Batch::sign_leaves(header, entries, leaves, &self.epoch_key);
        match self.log.begin(&self.head, &batch, &self.state.changes())? {
            Append::Appended(head) => {
                self.state.commit();
                self.head = head;
                Ok(Some(Arc::new(batch)))
            }
            Append::Lost(_) => Ok(None),
        }
    }

    fn seal_entries(&mut self, drafts: Vec<Draft>) -> Vec<Entry> {
        let mut salts = vec![0; drafts.len() * 32];
        (self.chance)(&mut salts);
        let salted = drafts.into_iter().zip(salts.chunks_exact(32));
        salted
            .map(|(draft, chunk)| {
                let mut salt = [0; 32];
                salt.copy_from_slice(chunk);
                Entry::new(draft.envelope, salt, draft.payload)
            })
            .collect()
    }

    /// On `Lost`: drop the overlay, read the chain to its end, and begin again from there.
    fn reread(&mut self) -> Result<(), EngineError> {
        self.state.discard();
        self.log.settle(u64::MAX)?;
        let head = self.log.head()?;
        if head.epoch > self.head.epoch && head.epoch_key != Some(self.epoch_key.public()) {
            let place = schemas::envelope::reference(head.partition, self.head.next_seq);
            return Err(EngineError::Superseded { place });
        }
        let Owner { log, store, state, place, .. } = self;
        super::replay::catch_up(&**log, &**store, state, place, &head)?;
        self.heads.restore(&*self.log, &*self.store, &mut self.state, &head)?;
        self.taken = head.positions;
        self.head = head;
        Ok(())
    }
}
