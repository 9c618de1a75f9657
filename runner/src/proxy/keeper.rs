//! A proxy that is there when it is needed: started with the first route, adopted when a former
//! runner started it, started again when it died.
//!
//! A host without proxied services has no proxy process.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use super::control::Stats;
use super::route::{self, Route};
use super::{Control, Error, Router};

/// The proxy of one folder.
#[derive(Clone, Debug)]
pub struct Keeper {
    control: Control,
    program: PathBuf,
    /// One start at a time: of two, the second would find the folder locked.
    starting: Arc<Mutex<()>>,
}

impl Keeper {
    /// Keeps the proxy of `dir`; `program` is this program's file.
    pub fn new(dir: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Self {
        Keeper { control: Control::new(dir), program: program.into(), starting: Arc::default() }
    }

    /// The way to the proxy, whether it runs or not.
    pub fn control(&self) -> &Control {
        &self.control
    }

    fn ensure(&self) -> Result<(), Error> {
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new(&self.program);
        command.arg("proxy").arg("--dir").arg(self.control.dir());
        self.control.adopt_or_start(command).map(|_| ())
    }

    fn is_wanted(&self) -> bool {
        route::load(self.control.dir()).is_ok_and(|routes| !routes.is_empty())
    }
}

impl Router for Keeper {
    fn set_route(&self, route: &Route) -> Result<Route, Error> {
        self.ensure()?;
        self.control.set_route(route)
    }

    fn stats(&self, instance: &str, since: u64) -> Result<Stats, Error> {
        match self.control.stats(instance, since) {
            Ok(stats) => Ok(stats),
            // Dead with routes: users are waiting. Its counts start anew.
            Err(Error::Frame(_)) if self.is_wanted() => {
                tracing::warn!("the proxy is gone and is started again");
                self.ensure()?;
                self.control.stats(instance, since)
            }
            Err(Error::Frame(_)) => {
                Ok(Stats { instance: instance.to_owned(), intervals: Vec::new() })
            }
            Err(error) => Err(error),
        }
    }
}
