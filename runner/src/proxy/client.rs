//! The control socket's side that asks, blocking: for the host, which has threads and no runtime.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::control::{Answer, Ask, Stats, Status};
use super::route::Route;
use super::{Error, SOCKET};
use crate::wire::{FrameError, Reader, socket, write};

/// A proxy answers within milliseconds, or a disk is in trouble.
const PATIENCE: Duration = Duration::from_secs(5);

/// Steers requests. Calls may repeat: setting the same route twice changes nothing.
pub trait Router: Send + Sync {
    /// Replaces a service's route. When it returns, the route is on disk and the next request
    /// sees it; requests under way end where they began.
    ///
    /// # Errors
    /// The old route serves on.
    fn set_route(&self, route: &Route) -> Result<Route, Error>;

    /// Counts after interval `since` of the proxy's life `instance`. Asking with a higher
    /// number says that what came before is had.
    ///
    /// # Errors
    /// Nothing was forgotten.
    fn stats(&self, instance: &str, since: u64) -> Result<Stats, Error>;
}

/// The way to the proxy that serves a folder. Each call is a connection of its own, so one
/// that broke off spoils no other.
#[derive(Clone, Debug)]
pub struct Control {
    dir: PathBuf,
}

impl Control {
    /// The way to the proxy of `dir`, whether it runs or not.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Control { dir: dir.into() }
    }

    /// Who serves the folder. An answer is proof that the proxy lives, whoever started it.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn status(&self) -> Result<Status, Error> {
        let Answer::Status(status) = self.ask(&Ask::Status)? else { return Err(unexpected()) };
        Ok(status)
    }

    /// Adopts the proxy of the folder, or starts one with `command` (`healwright proxy --dir
    /// DIR`) in a process group of its own, so that it outlives its starter.
    ///
    /// # Errors
    /// It ended, or did not answer within five seconds; its words are in `proxy.log`.
    pub fn adopt_or_start(&self, mut command: Command) -> Result<Status, Error> {
        if let Ok(status) = self.status() {
            return Ok(status);
        }
        let doing = || format!("start the proxy of {}", self.dir.display());
        std::fs::create_dir_all(&self.dir).map_err(Error::io(doing()))?;
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("proxy.log"));
        let log = log.map_err(Error::io(doing()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(Error::io(doing()))?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Ok(status) = self.status() {
                // Whoever starts a process has to take its end, or it stays as a zombie.
                std::thread::spawn(move || child.wait());
                return Ok(status);
            }
            if let Some(status) = child.try_wait().map_err(Error::io(doing()))? {
                let why = io::Error::other(format!("it ended with {status}; see proxy.log"));
                return Err(Error::io(doing())(why));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(Error::io(doing())(io::Error::from(io::ErrorKind::TimedOut)))
    }

    /// Stops serving a service.
    ///
    /// # Errors
    /// It is served on.
    pub fn remove_route(&self, service: &str) -> Result<(), Error> {
        let Answer::Done = self.ask(&Ask::RemoveRoute { service: service.to_owned() })? else {
            return Err(unexpected());
        };
        Ok(())
    }

    /// Ends the proxy once the requests under way have ended.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn stop(&self) -> Result<(), Error> {
        let Answer::Done = self.ask(&Ask::Stop)? else { return Err(unexpected()) };
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn ask(&self, ask: &Ask) -> Result<Answer, Error> {
        let mut stream = socket::connect(&self.dir.join(SOCKET)).map_err(FrameError::from)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(FrameError::from)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(FrameError::from)?;
        write(&mut stream, ask)?;
        match Reader::new(stream).read()? {
            Some(Answer::Refused { why }) => Err(Error::Refused(why)),
            Some(answer) => Ok(answer),
            None => Err(FrameError::Cut.into()),
        }
    }
}

impl Router for Control {
    fn set_route(&self, route: &Route) -> Result<Route, Error> {
        let ask = Ask::SetRoute { route: Box::new(route.clone()) };
        let Answer::Route { route } = self.ask(&ask)? else { return Err(unexpected()) };
        Ok(*route)
    }

    fn stats(&self, instance: &str, since: u64) -> Result<Stats, Error> {
        let Answer::Stats(stats) =
            self.ask(&Ask::Stats { instance: instance.to_owned(), since })?
        else {
            return Err(unexpected());
        };
        Ok(stats)
    }
}

fn unexpected() -> Error {
    Error::Refused("the proxy answered something else than what was asked".to_owned())
}
