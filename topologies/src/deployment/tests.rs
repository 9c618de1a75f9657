//! What the rollouts of this module are held to. Everything is folded by the real processor;
//! only the world around it is simulated.

mod aborts;
mod acceptance;
mod simulation;
mod stories;
mod stubs;
mod traffic;
mod trouble;
mod world;

/// Whether the full bars run, and not the part that CI has time for.
fn full() -> bool {
    std::env::var_os("HEALWRIGHT_FULL").is_some()
}
