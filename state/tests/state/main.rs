//! The crate's tests through its public face: one binary, because linking RocksDB is slow.

#![allow(clippy::unwrap_used)]

#[path = "../../../tests/kafka/bed.rs"]
#[allow(dead_code, reason = "the root's tests use the rest of it")]
mod bed;
mod checkpoint;
mod contract;
mod damage;
mod embedded;
mod fixture;
mod head_record;
mod kafka;
mod keyed;
mod layout;
mod memory;
