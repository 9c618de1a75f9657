//! What runner and control plane say to each other, and the lines it travels in.
mod frame;
pub mod socket;

pub use frame::{FrameError, LINE_BYTES_MAX, Lines, Reader, line, send, write};
