//! A service that nobody here wrote: Python's own server, which writes down its process.

use std::net::TcpListener;
use std::path::Path;

use rustix::process::Pid;

/// How it is started and probed, as lines of a `[[service]]`.
pub(crate) fn lines(home: &Path) -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let pid = home.join("pid");
    let start =
        format!("echo $$ > {}; exec python3 -m http.server {port} --bind 127.0.0.1", pid.display());
    format!(
        "command = [\"/bin/sh\", \"-c\", \"{start}\"]\nprobe_url = \"http://127.0.0.1:{port}/\"\n"
    )
}

/// The process that was started last.
pub(crate) fn process_of(home: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(home.join("pid")).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}
