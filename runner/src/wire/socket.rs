//! Unix sockets in folders of any length.
//!
//! `sun_path` holds 107 bytes, and a data directory may lie deeper. On Linux such a socket is
//! reached through an open descriptor of its folder; elsewhere it is an error with a sentence.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// `sun_path` of Linux without its final zero.
const PATH_BYTES_MAX: usize = 107;

/// Binds `path` for the owner alone. What a dead process left there is taken over.
///
/// The caller holds the lock that says that no living process serves it.
///
/// # Errors
/// What the operating system says.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    let listener = within(path, |short| UnixListener::bind(short))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to `path`.
///
/// # Errors
/// What the operating system says.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    within(path, |short| UnixStream::connect(short))
}

fn within<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return act(path);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket has no folder"));
    };
    let folder = File::open(folder)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    act(&short)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_socket_in_a_deep_folder_is_bound_and_reached() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("d".repeat(80)).join("e".repeat(80));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s.sock");
        let _dead = bind(&path).unwrap();
        let listener = bind(&path).unwrap();
        let _client = connect(&path).unwrap();
        listener.accept().unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
