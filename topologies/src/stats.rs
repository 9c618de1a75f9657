//! Statistics that several processors share: bounds on shares, tests that may be looked at after
//! every sample, quantiles from buckets, smoothing.
//!
//! Everything here answers in three values: *unknown* is the answer where too little was seen,
//! and nobody may read it as yes or no (law: unknown is not bad and not good).
//! Arithmetic is + − × ÷ sqrt and the pinned `libm`, so that a replay on another machine gives
//! the same bits.

mod binomial;
mod histogram;
mod sequential;
mod smooth;

pub use binomial::{Share, lower_bound, tail_at_least, upper_bound};
pub use histogram::{BOUNDS_MS, Histogram, latency_exceeds};
pub use sequential::{Counts, ErrorTest};
pub use smooth::{Baseline, ema};

/// The answer to a question about the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The evidence says so.
    Yes,
    /// The evidence says that it is not so.
    No,
    /// Too little was seen to say.
    Unknown,
}
