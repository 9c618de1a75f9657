//! The program: policy of exit codes, and a table of contents.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Entries and state values are small, many and freed long after they were made, often on
/// another thread; on them the system's allocator spends more time than the folds do.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    healwright::run()
}
