//! What this crate promises, as one test binary: bytes, schemas, links, views and refusals.
//!
//! It holds no test of a processor and touches no file but the goldens and the released schemas.

#![allow(clippy::unwrap_used, missing_docs)]

mod batch;
mod canonical;
mod cap;
mod chain;
mod codec;
mod contract;
mod envelope;
mod generate;
mod golden;
mod ids;
mod link;
mod released;
mod telemetry;
mod view;

/// Number of generated cases: `ci` in the ordinary run, `full` with `HEALWRIGHT_FULL=1`.
fn cases(ci: u32, full: u32) -> u32 {
    if std::env::var_os("HEALWRIGHT_FULL").is_some() { full } else { ci }
}
