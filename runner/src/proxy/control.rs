//! The control socket's side that answers: one JSON line asks, one answers.
//!
//! Who may open the socket may steer the host's traffic: its folder and file belong to the
//! runner's user alone.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::listen::Shared;
use super::meter::{INTERVAL, Interval};
use super::route::Route;
use super::{Error, now};
use crate::wire::{FrameError, Reader, send, socket};

/// Intervals in one answer; a reader that is behind asks again.
const N_INTERVALS_MAX: usize = 1_000;

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Ask {
    /// Replace a service's route.
    SetRoute {
        /// The new route.
        route: Box<Route>,
    },
    /// Stop serving a service.
    RemoveRoute {
        /// The service.
        service: String,
    },
    /// Give the counts after `since`; what came before is had and may be forgotten.
    Stats {
        /// Of which life of the proxy `since` speaks; of another, it counts as 0.
        instance: String,
        /// Number of the last interval that the reader has.
        since: u64,
    },
    /// Say who you are.
    Status,
    /// End.
    Stop,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum Answer {
    /// The route that serves now.
    Route {
        /// With its real port.
        route: Box<Route>,
    },
    /// Counts.
    Stats(Stats),
    /// Who it is.
    Status(Status),
    /// It is done.
    Done,
    /// It is not done.
    Refused {
        /// Why, in a sentence.
        why: String,
    },
}

/// Counts that the reader does not have yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Life of the proxy; numbers of intervals start anew with each.
    pub instance: String,
    /// Closed intervals in order, at most a thousand.
    pub intervals: Vec<Interval>,
}

/// Who a proxy is and what it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Life of the proxy.
    pub instance: String,
    /// Its process.
    pub pid: u32,
    /// The routes that it serves.
    pub routes: Vec<Route>,
}

struct Server {
    shared: Arc<Shared>,
    instance: String,
    stop: Notify,
}

/// Answers on `path` until `stop` is done or somebody says stop.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    path: &Path,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let doing = || format!("serve {}", path.display());
    let listener = socket::bind(path).map_err(Error::io(doing()))?;
    listener.set_nonblocking(true).map_err(Error::io(doing()))?;
    let listener = UnixListener::from_std(listener).map_err(Error::io(doing()))?;
    let server = Arc::new(Server {
        shared: Arc::clone(shared),
        instance: format!("{}-{}", std::process::id(), now().0),
        stop: Notify::new(),
    });
    let mut stop = std::pin::pin!(stop);
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        tokio::select! {
            () = stop.as_mut() => return Ok(()),
            () = server.stop.notified() => return Ok(()),
            _ = interval.tick() => {
                shared.book.lock().unwrap_or_else(PoisonError::into_inner).close(now());
            }
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    tokio::spawn(Arc::clone(&server).converse(stream));
                }
            }
        }
    }
}

impl Server {
    async fn converse(self: Arc<Self>, stream: UnixStream) {
        if let Err(error) = self.answer_all(stream).await {
            tracing::debug!(%error, "a control connection broke off");
        }
    }

    async fn answer_all(&self, stream: UnixStream) -> Result<(), FrameError> {
        let (input, mut output) = stream.into_split();
        let mut input = Reader::new(input);
        while let Some(ask) = input.next::<Ask>().await? {
            let is_stop = matches!(ask, Ask::Stop);
            let answer = match self.act(ask).await {
                Ok(answer) => answer,
                Err(error) => Answer::Refused { why: error.to_string() },
            };
            send(&mut output, &answer).await?;
            if is_stop {
                self.stop.notify_one();
            }
        }
        Ok(())
    }

    async fn act(&self, ask: Ask) -> Result<Answer, Error> {
        Ok(match ask {
            Ask::SetRoute { route } => {
                Answer::Route { route: Box::new(self.shared.set_route(*route).await?) }
            }
            Ask::RemoveRoute { service } => {
                self.shared.remove_route(&service).await?;
                Answer::Done
            }
            Ask::Stats { instance, since } => {
                let since = if instance == self.instance { since } else { 0 };
                let mut book = self.shared.book.lock().unwrap_or_else(PoisonError::into_inner);
                let intervals = book.after(since, N_INTERVALS_MAX);
                Answer::Stats(Stats { instance: self.instance.clone(), intervals })
            }
            Ask::Status => Answer::Status(Status {
                instance: self.instance.clone(),
                pid: std::process::id(),
                routes: self.shared.routes().await,
            }),
            Ask::Stop => Answer::Done,
        })
    }
}
