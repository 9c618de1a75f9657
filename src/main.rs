//! The program: policy of exit codes, and a table of contents.

use std::process::ExitCode;

fn main() -> ExitCode {
    healwright::run()
}
