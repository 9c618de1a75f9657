//! The program as the next release has it, as far as schemas go: what a rolling upgrade meets.
//! It is built with `--features next-schemas`, for a test, and nobody installs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    healwright::run()
}
