//! Where a service's requests go, and which of them the new version sees.
//!
//! Pure: no socket, no clock, no chance. The share of the canary is a function of the request's
//! running number and a seed, so that a test can say which requests it gets.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Routes are persisted under this name in the proxy's folder.
const FILE: &str = "routes.json";

/// One running instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// `green` or `blue`: the label under which it is measured.
    pub slot: String,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// A slot that serves a share of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// `green` or `blue`.
    pub slot: String,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its share, percent, 0 to 100.
    pub pct: u32,
}

/// The whole of what the proxy knows about a service. Setting it again is a replacement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name of the service.
    pub service: String,
    /// Where users reach it; port 0 takes a free one, which is then kept.
    pub listen: SocketAddr,
    /// The slot that serves.
    pub live: Slot,
    /// The slot that serves a share beside it.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// The slot that is sent copies of safe requests and answers nobody.
    #[serde(default)]
    pub shadow: Option<Slot>,
    /// `METHOD /prefix` of requests that are safe to repeat besides GET and HEAD.
    #[serde(default)]
    pub safe: Vec<String>,
    /// Milliseconds until an upstream that does not answer counts as failed.
    #[serde(default = "timeout_ms_default")]
    pub timeout_ms: u64,
    /// Start of the spread; the same seed picks the same requests.
    #[serde(default)]
    pub seed: u64,
}

fn timeout_ms_default() -> u64 {
    5_000
}

impl Route {
    /// A route that sends everything to `live`.
    pub fn new(service: impl Into<String>, listen: SocketAddr, live: Slot) -> Self {
        Route {
            service: service.into(),
            listen,
            live,
            canary: None,
            shadow: None,
            safe: Vec::new(),
            timeout_ms: timeout_ms_default(),
            seed: 0,
        }
    }

    /// What is wrong with the route, in a sentence.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), String> {
        if self.service.is_empty() {
            return Err("a route needs the name of its service".into());
        }
        if self.timeout_ms == 0 {
            return Err(format!("the time-out of {} is zero", self.service));
        }
        let others =
            [self.canary.as_ref().map(|it| &it.slot), self.shadow.as_ref().map(|it| &it.slot)];
        if others.into_iter().flatten().any(|slot| *slot == self.live.slot) {
            let Slot { slot, .. } = &self.live;
            return Err(format!("slot {slot} of {} cannot stand beside itself", self.service));
        }
        match &self.canary {
            Some(Canary { pct, .. }) if 100 < *pct => {
                Err(format!("a canary of {pct} % for {} is more than all", self.service))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a request may be sent twice (protocol.md §7, last line).
    pub fn is_safe(&self, method: &str, path: &str) -> bool {
        if matches!(method, "GET" | "HEAD") {
            return true;
        }
        self.safe.iter().filter_map(|rule| rule.split_once(' ')).any(|(of, prefix)| {
            of == method
                && path.strip_prefix(prefix).is_some_and(|rest| {
                    rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/')
                })
        })
    }
}

/// Whether the `n`-th request goes to a canary of `pct` percent.
///
/// The numbers `n × golden ratio` modulo 1 fill the unit interval evenly at every length and
/// have no period, so a share is kept within a few requests everywhere, and no pattern in the
/// requests (every fortieth fails, every second is a POST) falls in step with it.
pub fn is_canary(n: u64, pct: u32, seed: u64) -> bool {
    /// 2^64 divided by the golden ratio, made odd.
    const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
    let point = n.wrapping_mul(STEP).wrapping_add(seed);
    let share = (u128::from(pct) << 64) / 100;
    u128::from(point) < share
}

/// Reads the routes of a former life of the proxy; none when there was none.
///
/// # Errors
/// The file cannot be read, or does not decode: it is written by rename only, so that is damage.
pub(super) fn load(dir: &Path) -> io::Result<Vec<Route>> {
    let path = dir.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        let why = format!("{} is damaged: {error}; remove it and set routes anew", path.display());
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

/// Keeps `routes` for the next life: written beside, synced, renamed, the folder synced.
/// A crash leaves the old routes or the new ones.
///
/// # Errors
/// What the operating system says; then the old ones are kept.
pub(super) fn save(dir: &Path, routes: &[Route]) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(routes).map_err(io::Error::other)?;
    let beside = dir.join(format!("{FILE}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn route() -> Route {
        let live = Slot { slot: "green".into(), addr: "127.0.0.1:1".parse().unwrap() };
        Route::new("shop", "127.0.0.1:2".parse().unwrap(), live)
    }

    #[test]
    fn a_share_is_kept_at_every_length() {
        for pct in [0, 1, 5, 25, 50, 99, 100] {
            for seed in [0, 1, u64::MAX / 3] {
                let mut n_canary = 0i64;
                for n in 0..10_000u64 {
                    n_canary += i64::from(is_canary(n, pct, seed));
                    let due = (n + 1) as f64 * f64::from(pct) / 100.0;
                    assert!((n_canary as f64 - due).abs() < 4.0, "{pct} % after {n}");
                }
            }
        }
    }

    #[test]
    fn a_share_is_kept_among_every_fortieth_request_too() {
        let n_canary = (0..40_000).step_by(40).filter(|n| is_canary(*n, 25, 7)).count();
        assert!((240..=260).contains(&n_canary), "{n_canary} of 1000");
    }

    #[test]
    fn only_requests_that_are_safe_to_repeat_may_be_mirrored() {
        let mut route = route();
        route.safe = vec!["POST /search".into(), "PUT /echo/".into()];
        for (method, path, safe) in [
            ("GET", "/orders", true),
            ("HEAD", "/", true),
            ("POST", "/search", true),
            ("POST", "/search/items", true),
            ("POST", "/searches", false),
            ("POST", "/orders", false),
            ("PUT", "/echo/1", true),
            ("PUT", "/search", false),
            ("DELETE", "/orders/1", false),
            ("get", "/orders", false),
        ] {
            assert_eq!(route.is_safe(method, path), safe, "{method} {path}");
        }
    }

    #[test]
    fn a_route_that_makes_no_sense_is_refused_with_a_sentence() {
        let mut same = route();
        same.shadow = Some(same.live.clone());
        assert_eq!(same.check().unwrap_err(), "slot green of shop cannot stand beside itself");
        let mut over = route();
        over.canary = Some(Canary { slot: "blue".into(), addr: over.listen, pct: 101 });
        assert_eq!(over.check().unwrap_err(), "a canary of 101 % for shop is more than all");
        assert_eq!(route().check(), Ok(()));
    }

    #[test]
    fn routes_survive_and_a_half_written_file_beside_them_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), []);
        save(dir.path(), &[route()]).unwrap();
        fs::write(dir.path().join("routes.json.new"), b"[{").unwrap();
        assert_eq!(load(dir.path()).unwrap(), [route()]);
    }

    #[test]
    fn damaged_routes_are_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"[{").unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("routes.json is damaged"), "{error}");
    }
}
