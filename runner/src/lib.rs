//! What is done to a host.

pub mod agent;
pub mod durable;
mod environment;
pub mod error;
pub mod host;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod macos;
pub mod proxy;
pub mod sandbox;
pub mod store;
pub mod supervisor;
mod target;
pub mod windows;
pub mod wire;
