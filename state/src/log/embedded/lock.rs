//! One process per data directory.
//!
//! DATA/LOCK is locked for the process's life (`flock`, which the kernel releases however the
//! process ends) and holds `pid name`, so that a second process can say who is there. The text
//! informs; only the lock decides.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::LogError;

/// The lock of a data directory, held until it is dropped.
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Closing the file is not enough: a child that another thread is just starting holds a copy
    /// of it until it runs its program, and the lock with it.
    fn drop(&mut self) {
        // It goes with the process in any case.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join("LOCK");
        let mut open = OpenOptions::new();
        open.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut file = open.open(&path).map_err(|error| LogError::io("open", &path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(&mut file, dir)),
            Err(errno) => return Err(LogError::io("lock", &path, errno.into())),
        }
        let text = format!("{} {}\n", std::process::id(), program());
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|error| LogError::io("write", &path, error))?;
        Ok(Lock { file })
    }
}

fn busy(file: &mut File, dir: &Path) -> LogError {
    let mut text = String::new();
    // The owner may be between taking the lock and writing its name; then nobody is named.
    let read = file.read_to_string(&mut text);
    let (pid, name) = text.trim().split_once(' ').unwrap_or(("0", "another process"));
    LogError::Busy {
        pid: read.ok().and_then(|_| pid.parse().ok()).unwrap_or(0),
        name: name.to_owned(),
        dir: dir.to_owned(),
    }
}

/// File name of the running program.
fn program() -> String {
    let first = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&first).file_name().unwrap_or_default();
    let name = name.to_string_lossy().replace(char::is_control, "?");
    if name.is_empty() { "healwright".to_owned() } else { name }
}
