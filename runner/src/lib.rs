//! What is done to a host.

pub mod proxy;
pub mod wire;
