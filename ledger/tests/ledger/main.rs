//! What the ledger claims, tested from outside: vectors of others, threats by their id, and the
//! spec's acceptance names. The full bars run with `HEALWRIGHT_FULL=1`.

#![allow(clippy::unwrap_used)]

mod bundle;
mod chain;
mod entry;
mod fixture;
mod flips;
mod note;
mod tree;
mod vectors;
mod verifier;
mod witness;
