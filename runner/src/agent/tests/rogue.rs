//! A21: a rogue component calls the runner directly. It may send what it likes and grants every
//! lease; nothing that does not stand in the ledger is executed.
#![allow(clippy::unwrap_used)]

use schemas::event::{Decision, Mode};
use schemas::{Hash, Ns};

use super::bed::{Bed, HOST, Plane};
use crate::wire::{Base64, Evidence, FromRunner, ModeEpoch, ToRunner};

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) as usize) % n
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let at = self.below(bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
    }
}

/// What the rogue has seen: true evidence, and the ledger up to it.
struct Seen {
    honest: Evidence,
    other: Evidence,
    plane: Plane,
}

impl Seen {
    /// A request that nobody decided on, as an entry at the honest one's place.
    fn forged(&self, dice: &mut Dice) -> Base64 {
        let n = 1_000 + dice.below(1_000_000) as u64;
        let approval = self.honest.entries[1].index;
        let request = self.plane.request(n, &["restart:shop"], approval);
        let seq = self.honest.entries[0].index;
        Base64(self.plane.entry(seq, HOST, &request.into()).to_bytes())
    }

    /// A ledger in which the forged request stands, signed by `signer`.
    fn forged_ledger(&self, dice: &mut Dice, signer: impl FnOnce(&mut Plane)) -> Evidence {
        let mut plane = self.plane.clone();
        let approval = plane.append("p", plane.decision(Decision::Approved));
        let n = 1_000 + dice.below(1_000_000) as u64;
        let seq = plane.append(HOST, plane.request(n, &["restart:shop"], approval));
        signer(&mut plane);
        plane.evidence(self.honest.from, &[seq, approval])
    }

    fn variant(&self, dice: &mut Dice) -> Evidence {
        let mut it = self.honest.clone();
        match dice.below(16) {
            0 => dice.flip(&mut it.entries[0].entry.0),
            1 => dice.flip(&mut it.checkpoint.0),
            2 => dice.flip(&mut it.epoch_key.0),
            3 => {
                let at = dice.below(it.entries[0].path.len());
                dice.flip(&mut it.entries[0].path[at].0);
            }
            4 => {
                let at = dice.below(it.entries[0].path.len());
                it.entries[0].path.remove(at);
            }
            5 => it.entries[0].path.push(Hash::of(&[&[dice.below(256) as u8]])),
            6 => it.entries[0].index ^= 1 << dice.below(63),
            7 => it.entries[0].entry = self.forged(dice),
            8 => dice.flip(&mut it.entries[1].entry.0),
            9 => {
                let at = dice.below(it.entries[1].path.len());
                dice.flip(&mut it.entries[1].path[at].0);
            }
            10 => it.entries[1] = self.other.entries[dice.below(2)].clone(),
            11 => it.entries.truncate(dice.below(2)),
            12 => it.entries.swap(0, 1),
            // The rogue's own keys for our deployment's name.
            13 => {
                let seed = 2 + dice.below(200) as u8;
                return self.forged_ledger(dice, |plane| plane.seed = seed);
            }
            // A deployment of its own.
            14 => {
                let seed = 2 + dice.below(200) as u8;
                let signer = |plane: &mut Plane| *plane = grown(Plane::new(seed), plane);
                return self.forged_ledger(dice, signer);
            }
            // The real log key, and a history that was rewritten below the kept head.
            _ => {
                let signer = |plane: &mut Plane| {
                    let mut rewritten = plane.clone();
                    (rewritten.entries, rewritten.tree) = Default::default();
                    for (seq, entry) in plane.entries.iter().enumerate() {
                        let mut entry = entry.clone();
                        if seq == 0 {
                            let tick = schemas::event::Tick { partition: 0, now: Ns(1) };
                            entry = rewritten.entry(0, "tick", &tick.into());
                        }
                        rewritten.tree.push(entry.leaf());
                        rewritten.entries.push(entry);
                    }
                    *plane = rewritten;
                };
                return self.forged_ledger(dice, signer);
            }
        }
        it
    }
}

/// `fresh` with the entries of `plane`.
fn grown(mut fresh: Plane, plane: &Plane) -> Plane {
    (fresh.entries, fresh.tree) = (plane.entries.clone(), plane.tree.clone());
    fresh
}

#[test]
fn a21_a_rogue_that_calls_the_runner_directly_executes_nothing() {
    let full = std::env::var_os("HEALWRIGHT_FULL").is_some();
    let n_variants = if full { 10_000 } else { 1_000 };
    let mut bed = Bed::new();
    let other = bed.decided(99, &["restart:shop"]);
    let honest = bed.decided(1, &["restart:shop"]);
    let seen = Seen { honest: honest.clone(), other, plane: bed.plane.clone() };
    let mut dice = Dice(21);
    for n in 0..n_variants {
        let evidence = Box::new(seen.variant(&mut dice));
        let mode = ModeEpoch { epoch: 1, mode: Mode::Normal };
        let said = bed.say(ToRunner::Dispatch { evidence, mode });
        for message in said {
            if let FromRunner::Lease { request_id, nonce } = message {
                let remaining_ms = 2_000;
                bed.say(ToRunner::LeaseGrant { request_id, nonce, remaining_ms, mode });
            }
        }
        assert_eq!(bed.machine.n_calls(), 0, "variant {n} of seed 21 was executed");
    }
    // The runner is as willing as before: what was refused was refused for what it is.
    let said = bed.dispatch_again(&honest);
    let effects = bed.grant(&said, 2_000);
    bed.carry_out(effects);
    assert_eq!(bed.machine.n_calls(), 1);
}

#[test]
fn unlogged_request_refused() {
    let mut bed = Bed::new();
    let honest = bed.decided(1, &["restart:shop"]);
    let seen = Seen { honest: honest.clone(), other: honest, plane: bed.plane.clone() };
    let mut evidence = seen.honest.clone();
    evidence.entries[0].entry = seen.forged(&mut Dice(1));
    let said = bed.dispatch(&evidence);
    assert_eq!(super::bed::rule(&mut bed, &said), "request_unproven");
    assert_eq!(bed.machine.n_calls(), 0);
}

#[test]
fn a_lease_for_a_request_that_nobody_made_starts_nothing() {
    let mut bed = Bed::new();
    let request_id = bed.plane.request(1, &[], 0).id;
    for nonce in 0..10 {
        let mode = bed.mode;
        let grant = ToRunner::LeaseGrant { request_id, nonce, remaining_ms: u64::MAX, mode };
        assert_eq!(bed.say(grant), []);
    }
}

#[test]
fn a_forger_does_not_shut_out_the_true_request_of_an_id() {
    let mut bed = Bed::new();
    let honest = bed.decided(1, &["restart:shop"]);
    let mut evidence = honest.clone();
    evidence.entries[0].path.clear();
    let said = bed.dispatch(&evidence);
    assert_eq!(super::bed::rule(&mut bed, &said), "request_unproven");
    let mut evidence = honest.clone();
    (evidence.from, evidence.consistency) = (bed.seen().size, Vec::new());
    evidence.entries.truncate(1);
    let said = bed.dispatch(&evidence);
    assert_eq!(super::bed::rule(&mut bed, &said), "approval_unproven");
    let said = bed.dispatch_again(&honest);
    let effects = bed.grant(&said, 2_000);
    let done = super::bed::result(&bed.carry_out(effects));
    assert_eq!(done.explanation, "Did restart:shop.");
}
