//! Cycles whose batches are on their way to the disk, and the one order in which their effects
//! follow (decision 0016). No thread and no clock: the engine and its simulation run this.

use std::collections::VecDeque;

use schemas::Ns;

use super::EngineError;
use super::owner::{Cycle, Owner};
use super::stages::Stage;

/// Begun cycles, oldest first, each with what its caller wants to remember of it.
pub struct Ahead<T>(VecDeque<(T, Cycle)>);

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Ahead(VecDeque::new())
    }
}

impl<T> Ahead<T> {
    /// Begins one cycle, then hands out in order every cycle that is settled, and waits for those
    /// beyond the number that `may_wait` lets go on; signs the tree head last, if one is due.
    /// Answers whether more was waiting.
    ///
    /// # Errors
    /// The partition stops, see [`EngineError`]. What was begun before is settled and handed out
    /// all the same, where the log still can.
    pub fn turn(
        &mut self,
        owner: &mut Owner,
        wall: Ns,
        mark: T,
        may_wait: impl FnOnce(&Cycle) -> usize,
        mut settled: impl FnMut(T, Cycle),
    ) -> Result<bool, EngineError> {
        let begun = owner.begin(wall);
        let n = begun.as_ref().map_or(0, may_wait);
        let more = begun.as_ref().is_ok_and(|it| it.more);
        let stopped = begun.map(|cycle| self.0.push_back((mark, cycle))).err();
        self.settle(owner, n, &mut settled)?;
        if let Some(error) = stopped {
            return Err(error);
        }
        owner.enter(Stage::Effects);
        let signed = owner.sign_head(wall, false);
        // What is signed is settled; and where it could not be signed, nothing else will follow.
        let n = if signed.is_ok() { n } else { 0 };
        self.settle(owner, n, &mut settled)?;
        signed.map(|()| more)
    }

    /// Batches that are on their way.
    pub fn n_batches(&self) -> usize {
        self.0.iter().filter(|(_, cycle)| cycle.batch.is_some()).count()
    }

    fn settle(
        &mut self,
        owner: &mut Owner,
        n: usize,
        settled: &mut impl FnMut(T, Cycle),
    ) -> Result<(), EngineError> {
        while let Some((_, oldest)) = self.0.front() {
            if self.0.len() <= n && !owner.is_settled(oldest)? {
                break;
            }
            owner.settle(oldest)?;
            owner.enter(Stage::Effects);
            if let Some((mark, cycle)) = self.0.pop_front() {
                settled(mark, cycle);
            }
        }
        Ok(())
    }
}
