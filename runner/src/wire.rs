//! What runner and control plane say to each other, and the lines it travels in.
//!
//! The control plane listens on `DATA/run/control.sock`; a runner calls in and speaks first.
//! Both sides write messages at any time, in order; there is no request and reply but what a
//! message's description says. This module holds the types and the framing, both sides' pure
//! parts, and does not connect, verify or decide anything.
//!
//! A conversation: the runner says [`Hello`](FromRunner::Hello); the control plane answers
//! [`Welcome`](ToRunner::Welcome), gives each [`Service`](ToRunner::Service) of the host, and
//! from then on dispatches, heads and mode epochs as they come. The runner answers a
//! [`Dispatch`](ToRunner::Dispatch) by asking for a [`Lease`](FromRunner::Lease) and then with a
//! [`Result`](FromRunner::Result), which it repeats until
//! [`ResultJournaled`](ToRunner::ResultJournaled), in this conversation or a later one.

mod frame;
mod message;
pub mod socket;

pub use frame::{FrameError, LINE_BYTES_MAX, Lines, Reader, line, send, write};
pub use message::{Base64, Evidence, FromRunner, ModeEpoch, Proven, Seen, ToRunner, Welcome};
