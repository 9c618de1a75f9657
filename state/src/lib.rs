//! What is remembered: the log, the keyed state, and what both keep on disk.
//!
//! Three names to open first: [`Log`] is the contract of one partition's streams and chain,
//! [`Store`] is keyed state at a committed position, and [`State`] is what a fold reads and
//! writes: a pending overlay over a cache over a store. [`embedded::EmbeddedLog`] keeps log and
//! store in one RocksDB, so that a batch and what it changes are one synced write;
//! [`memory::MemoryLog`] keeps both in memory, for simulation. LAYOUT.md describes every byte
//! on disk. [`kafka::KafkaLog`] keeps the streams and the chain on a cluster, and a copy of the
//! chain with the state beside its process.
//!
//! No meaning of any event lives here, and no tokio: traits are synchronous and are called from
//! threads of their own.
//!
//! Invariants:
//! - A record that does not read back as it was written stops the partition with its position;
//!   nothing is skipped in silence.
//! - The store never leads the chain.
//! - What a fold read from a damaged store can never be appended ([`Changes`]).

mod cache;
pub mod checkpoint;
mod error;
pub mod head_record;
mod in_place;
mod keyed;
pub mod log;
mod records;
mod store;

pub use error::{Damage, LogError};
pub use head_record::{HeadError, HeadRecord};
pub use in_place::{Edit, Line, Resident};
pub use keyed::{State, Wake};
pub use log::{Append, Log, embedded, kafka, memory};
pub use records::Records;
pub use store::{Changes, Store};
