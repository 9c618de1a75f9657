//! The services that a proxy serves: their listeners, their routes, and how a route is replaced.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::Error;
use super::forward::{Pool, Routing, Target, answer};
use super::meter::{Book, Role};
use super::mirror::Mirror;
use super::route::{Route, load, save};

/// Connections of users at once, per service; one more waits to be accepted.
const N_CONNECTIONS_MAX: usize = 4_096;
/// A client may take so long for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// An upstream on the same host that takes longer to accept is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A pool connection that nobody used for so long is closed.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// A service that is served.
struct Served {
    routing: Arc<RwLock<Arc<Routing>>>,
    stop: watch::Sender<bool>,
}

/// Everything that control and listeners share.
pub(super) struct Shared {
    dir: PathBuf,
    pool: Pool,
    /// The counts.
    pub(super) book: Mutex<Book>,
    /// One change of routes at a time, across its write to disk.
    services: tokio::sync::Mutex<BTreeMap<String, Served>>,
    connections: Arc<Semaphore>,
}

impl Shared {
    /// Resumes the routes of `dir`.
    pub(super) async fn start(dir: &Path) -> Result<Arc<Self>, Error> {
        let routes = load(dir).map_err(Error::io("resume the routes"))?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            pool: pool(),
            book: Mutex::new(Book::new(super::now())),
            services: tokio::sync::Mutex::default(),
            connections: Arc::new(Semaphore::new(N_CONNECTIONS_MAX)),
        });
        let mut services = shared.services.lock().await;
        for route in routes {
            let (listener, addr) = bind(&route).await?;
            debug_assert_eq!(addr, route.listen, "a kept route names its port");
            let name = route.service.clone();
            services.insert(name, shared.begin(shared.routing(route), listener));
        }
        drop(services);
        Ok(shared)
    }

    /// Replaces the route of a service, or adds it. When this returns it is on disk, and the
    /// next request sees it.
    ///
    /// Order: bind, keep, swap. A crash or refusal before the swap leaves the old route serving.
    pub(super) async fn set_route(self: &Arc<Self>, mut route: Route) -> Result<Route, Error> {
        route.check().map_err(Error::Refused)?;
        let mut services = self.services.lock().await;
        let kept = services.get(&route.service).map(|served| current(&served.routing));
        let moves = kept.as_ref().is_none_or(|kept| kept.route.listen != route.listen);
        let listener = if moves {
            let (listener, addr) = bind(&route).await?;
            route.listen = addr;
            Some(listener)
        } else {
            None
        };
        self.keep(&services, &route.service, Some(&route)).await?;
        let routing = self.routing(route.clone());
        match (listener, services.get(&route.service)) {
            (None, Some(served)) => {
                *served.routing.write().unwrap_or_else(PoisonError::into_inner) = routing;
            }
            (Some(listener), _) => {
                let served = self.begin(routing, listener);
                if let Some(former) = services.insert(route.service.clone(), served) {
                    former.stop.send_replace(true);
                }
            }
            (None, None) => (),
        }
        Ok(route)
    }

    /// Stops serving a service; requests under way end.
    pub(super) async fn remove_route(&self, service: &str) -> Result<(), Error> {
        let mut services = self.services.lock().await;
        self.keep(&services, service, None).await?;
        if let Some(former) = services.remove(service) {
            former.stop.send_replace(true);
        }
        Ok(())
    }

    /// All routes as they are served.
    pub(super) async fn routes(&self) -> Vec<Route> {
        let services = self.services.lock().await;
        services.values().map(|served| current(&served.routing).route.clone()).collect()
    }

    /// Accepts no more and waits for what is under way, at most `patience`.
    pub(super) async fn drain(&self, patience: Duration) {
        for served in self.services.lock().await.values() {
            served.stop.send_replace(true);
        }
        let all = self.connections.acquire_many(N_CONNECTIONS_MAX as u32);
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("the proxy ends with connections under way");
        }
    }

    async fn keep(
        &self,
        services: &BTreeMap<String, Served>,
        changed: &str,
        route: Option<&Route>,
    ) -> Result<(), Error> {
        let others = services.iter().filter(|(name, _)| *name != changed);
        let mut routes: Vec<Route> =
            others.map(|(_, served)| current(&served.routing).route.clone()).collect();
        routes.extend(route.cloned());
        let dir = self.dir.clone();
        let kept = tokio::task::spawn_blocking(move || save(&dir, &routes)).await;
        kept.map_err(std::io::Error::other).flatten().map_err(Error::io("keep the routes"))
    }

    fn routing(&self, route: Route) -> Arc<Routing> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let mut target =
            |slot: &str, addr| Target { addr, meter: book.meter(&route.service, slot, Role::Live) };
        let live = target(&route.live.slot, route.live.addr);
        let canary = route.canary.as_ref().map(|it| target(&it.slot, it.addr));
        let mirror = route.shadow.as_ref().map(|it| {
            let meter = book.meter(&route.service, &it.slot, Role::Shadow);
            let timeout = Duration::from_millis(route.timeout_ms);
            Arc::new(Mirror::new(it.addr, meter, self.pool.clone(), timeout))
        });
        let pool = self.pool.clone();
        Arc::new(Routing { route, live, canary, mirror, n_requests: AtomicU64::new(0), pool })
    }

    fn begin(&self, routing: Arc<Routing>, listener: TcpListener) -> Served {
        let routing = Arc::new(RwLock::new(routing));
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::clone(&self.connections);
        tokio::spawn(accept(listener, Arc::clone(&routing), connections, stopped));
        Served { routing, stop }
    }
}

fn current(routing: &RwLock<Arc<Routing>>) -> Arc<Routing> {
    Arc::clone(&routing.read().unwrap_or_else(PoisonError::into_inner))
}

fn pool() -> Pool {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .build(connector)
}

async fn bind(route: &Route) -> Result<(TcpListener, SocketAddr), Error> {
    let Route { service, listen: addr, .. } = route;
    let refused = |source| Error::Listen { service: service.clone(), addr: *addr, source };
    let listener = TcpListener::bind(addr).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    Ok((listener, bound))
}

async fn accept(
    listener: TcpListener,
    routing: Arc<RwLock<Arc<Routing>>>,
    connections: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let serving = connection(stream, peer, Arc::clone(&routing), stopped.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, mostly: those in use come back when connections end.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    routing: Arc<RwLock<Arc<Routing>>>,
    mut stopped: watch::Receiver<bool>,
) {
    // Without it small answers wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| answer(current(&routing), peer, request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        _ = stopped.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection broke off");
    }
}
