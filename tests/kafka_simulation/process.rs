//! What a process does when it is its turn: what `engine::member` does with a thread, as plain
//! calls around the real owner and the real catching up.

use std::sync::{Arc, PoisonError};

use healwright::engine::fold::Place;
use healwright::engine::heads::Heads;
use healwright::engine::owner::{Cycle, Office, Owner};
use healwright::engine::{EngineError, replay};
use schemas::Ns;
use state::{Log, LogError, State};

use crate::broken::Break;
use crate::log::Sim;
use crate::node::Role;
use crate::seed::Seed;
use crate::world::N_NODES;

impl Sim {
    /// One turn of a process, unless it is in the middle of another.
    pub(crate) fn step(self: &Arc<Self>, node: usize) {
        let was_busy = std::mem::replace(&mut self.busy_ones()[node], true);
        if !was_busy {
            self.turn(node);
            self.busy_ones()[node] = false;
        }
    }

    fn busy_ones(&self) -> std::sync::MutexGuard<'_, [bool; N_NODES]> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(self: &Arc<Self>, node: usize) {
        let mut world = self.world();
        let is_paused = !world.is_calm && world.step < world.nodes[node].paused_until;
        if is_paused || world.nodes[node].is_halted() {
            return;
        }
        if world.nodes[node].role == Role::Down {
            if world.is_calm || world.seed.one_in(4) {
                let (end, broken) = (world.records().len(), world.rules.broken);
                world.nodes[node].start(end, broken);
                world.tell(format_args!("P{node} starts"));
            }
            return;
        }
        if world.mishap(100) {
            drop(world);
            return self.crashes(node);
        }
        let is_in_office = world.nodes[node].role == Role::InOffice;
        drop(world);
        match is_in_office {
            true => self.cycle(node),
            false => self.stand_by(node),
        }
    }

    fn crashes(&self, node: usize) {
        self.take_owner(node);
        self.world().crash(node);
    }

    fn take_owner(&self, node: usize) -> Option<Owner> {
        self.owners[node].lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_owner(&self, node: usize, owner: Owner) {
        *self.owners[node].lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
    }

    /// Reads a little, folds along now and then, and takes office when the group has said so.
    fn stand_by(self: &Arc<Self>, node: usize) {
        let mut world = self.world();
        let n = if world.is_calm { 100 } else { world.seed.below(4) };
        for _ in 0..n {
            if !world.read(node) {
                break;
            }
        }
        let it = &world.nodes[node];
        let wants = it.is_told && it.role == Role::Standby;
        let fault = it.fault.clone();
        let folds = world.seed.one_in(4);
        drop(world);
        let went = match fault {
            Some(fault) => Err(fault.into()),
            None if wants => self.elect(node),
            None if folds => self.fold_along(node),
            None => Ok(()),
        };
        if let Err(error) = went {
            self.ended(node, &error);
        }
    }

    /// Folds what the copy holds beyond the state.
    pub(crate) fn fold_along(self: &Arc<Self>, node: usize) -> Result<(), EngineError> {
        let log = self.handle(node);
        let head = self.world().nodes[node].followed()?;
        let mut state = State::new(log.clone())?;
        let place = Place {
            genesis: schemas::link::genesis(&head.deployment, head.partition),
            partition: head.partition,
            wall: self.wall(node),
        };
        replay::catch_up::<dyn Log>(&*log, &*log, &mut state, &place, &head)?;
        let mut world = self.world();
        if world.seed.one_in(2) {
            world.nodes[node].flush();
        }
        Ok(())
    }

    /// Clocks of processes differ by up to a second.
    fn wall(&self, node: usize) -> Ns {
        let world = self.world();
        world.now + Ns::from_ms(500 * node as u64)
    }

    fn elect(self: &Arc<Self>, node: usize) -> Result<(), EngineError> {
        let log = self.handle(node);
        let heads = Heads::open(&self.record(node), None)?;
        let (sim, mut seed, mut is_first) = (self.clone(), Seed(self.world().seed.next()), true);
        let office = Office {
            log: log.clone(),
            store: log,
            identity: &self.identities[node],
            endpoint: format!("127.0.0.1:{node}"),
            heads,
            chance: Box::new(move |buffer| {
                buffer.iter_mut().for_each(|byte| *byte = seed.next() as u8);
                // The first is the seed of the epoch's key.
                if std::mem::take(&mut is_first) {
                    sim.world().nodes[node].epoch_seed.copy_from_slice(buffer);
                }
            }),
        };
        let owner = Owner::elect(office, self.wall(node))?;
        self.put_owner(node, owner);
        let mut world = self.world();
        world.nodes[node].role = Role::InOffice;
        world.weather.elections += 1;
        world.tell(format_args!("P{node} is in office"));
        Ok(())
    }

    fn cycle(self: &Arc<Self>, node: usize) {
        let Some(mut owner) = self.take_owner(node) else { return };
        if !self.world().nodes[node].is_told {
            return self.leave(node, Role::Standby);
        }
        let wall = self.wall(node);
        let cycle = match owner.cycle(wall) {
            Ok(cycle) => cycle,
            Err(error) => return self.ended(node, &error),
        };
        if self.world().mishap(40) {
            return self.crashes(node);
        }
        self.effects(node, &cycle);
        let signs = self.world().seed.one_in(8);
        if signs && let Err(error) = owner.sign_head(wall, true) {
            return self.ended(node, &error);
        }
        self.put_owner(node, owner);
    }

    /// Step 6: answers, and effects of what was derived.
    fn effects(&self, node: usize, cycle: &Cycle) {
        let mut world = self.world();
        for taken in &cycle.taken {
            world.answer(taken.stream, taken.position, taken.seq);
        }
        if let Some(batch) = &cycle.batch {
            world.dispatch(batch);
        }
        if world.seed.one_in(4) {
            world.nodes[node].flush();
        }
    }

    fn leave(&self, node: usize, role: Role) {
        let mut world = self.world();
        world.nodes[node].role = role;
        world.nodes[node].flush();
        world.tell(format_args!("P{node} leaves office"));
    }

    /// A turn ended with an error: a crash, the end of office, or the end of the partition here.
    fn ended(&self, node: usize, error: &EngineError) {
        if self.world().nodes[node].is_crashing {
            return self.crashes(node);
        }
        // As `engine::member` tells them apart.
        let is_over = matches!(
            error,
            EngineError::Superseded { .. }
                | EngineError::Log(
                    LogError::Yielded { .. }
                        | LogError::Unanswered { .. }
                        | LogError::Cluster { .. }
                )
        );
        self.take_owner(node);
        let mut world = self.world();
        if !is_over {
            return world.halt(node, error.to_string());
        }
        let has_yielded = matches!(error, EngineError::Log(LogError::Yielded { .. }));
        world.weather.yields += u32::from(has_yielded);
        let is_superseded = matches!(error, EngineError::Superseded { .. });
        world.weather.superseded += u32::from(is_superseded);
        world.tell(format_args!("P{node} yields: {error}"));
        // It contests only after it has asked the group.
        world.nodes[node].is_told = world.assigned == node;
        let for_good = world.breaks(Break::StepsDownForGood);
        drop(world);
        self.leave(node, if for_good { Role::Out } else { Role::Standby });
    }

    /// Bad weather for so many turns.
    pub(crate) fn storm(self: &Arc<Self>, n_turns: u32) {
        self.world().configure();
        for _ in 0..n_turns {
            let mut world = self.world();
            world.fate();
            if world.seed.one_in(4) {
                world.new_input();
            }
            if world.seed.one_in(6) {
                world.retry();
            }
            let node = world.seed.below(N_NODES as u64) as usize;
            drop(world);
            self.step(node);
        }
    }

    /// Good weather until everybody is answered, and then everybody reads to the end.
    pub(crate) fn settle(self: &Arc<Self>) {
        let mut world = self.world();
        world.is_calm = true;
        world.assigned = world.seed.below(N_NODES as u64) as usize;
        if let Some(other) = (0..N_NODES).find(|it| !world.nodes[*it].is_halted())
            && world.nodes[world.assigned].is_halted()
        {
            world.assigned = other;
        }
        let assigned = world.assigned;
        world.tell(format_args!("calm; the group assigns P{assigned}"));
        drop(world);
        for n in 0..300 {
            let mut world = self.world();
            (0..N_NODES).for_each(|it| world.nodes[it].is_told = it == assigned);
            world.fate();
            let is_owner = world.nodes[assigned].role == Role::InOffice;
            if is_owner && world.clients.unanswered.is_empty() && !world.topic.any_flying() {
                break;
            }
            if n % 4 == 0 {
                world.retry();
            }
            drop(world);
            (0..N_NODES).for_each(|node| self.step(node));
        }
        for node in 0..N_NODES {
            self.take_owner(node);
            self.reads_to_the_end(node);
        }
    }

    fn reads_to_the_end(self: &Arc<Self>, node: usize) {
        if self.world().nodes[node].role == Role::Down {
            self.step(node);
        }
        if self.world().nodes[node].is_halted() {
            return;
        }
        if let Err(error) = self.is_ready_for_office(node) {
            self.world().halt(node, error.to_string());
        }
    }

    /// Reads and folds everything, and has the tree's full tiles, which are the owner's to keep.
    fn is_ready_for_office(self: &Arc<Self>, node: usize) -> Result<(), EngineError> {
        let log = self.handle(node);
        let head = Log::head(&*log)?;
        self.fold_along(node)?;
        let mut heads = Heads::open(&self.record(node), None)?;
        let mut state = State::new(log.clone())?;
        heads.restore(&*log, &*log, &mut state, &head)
    }

    fn record(&self, node: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("head-{node}"))
    }
}
