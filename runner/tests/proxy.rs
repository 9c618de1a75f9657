//! The proxy as its users and its host see it: real sockets on loopback, one process.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::convert::Infallible;
use std::future::pending;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use runner::proxy::{
    Canary, Control, Counts, Interval, Role, Route, Router as _, Slot, run, serve,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What a test's upstream does with `METHOD /path` and a body: a status and a body, after a time.
type Behaviour = fn(&str, &[u8]) -> (u16, String, Duration);

fn echo(head: &str, body: &[u8]) -> (u16, String, Duration) {
    (200, format!("{head} {}", body.len()), Duration::ZERO)
}

fn broken(_: &str, _: &[u8]) -> (u16, String, Duration) {
    (500, "no".into(), Duration::ZERO)
}

fn hung(_: &str, _: &[u8]) -> (u16, String, Duration) {
    (200, "late".into(), Duration::from_secs(3600))
}

/// A proxy in a folder of its own, and upstreams, on one runtime.
struct Bed {
    runtime: Runtime,
    dir: TempDir,
    control: Control,
}

struct Upstream {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Bed {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let control = Control::new(dir.path());
        let bed = Bed { runtime, dir, control };
        bed.start();
        bed
    }

    fn start(&self) {
        let dir = self.dir.path().to_owned();
        self.runtime.spawn(async move { serve(&dir, pending()).await.unwrap() });
        until(|| self.control.status().is_ok());
    }

    fn upstream(&self, behaviour: Behaviour) -> Upstream {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let log = Arc::clone(&seen);
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let log = Arc::clone(&log);
                let service = service_fn(move |it| respond(it, behaviour, Arc::clone(&log)));
                let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Upstream { addr, seen }
    }

    fn route(&self, live: &Upstream) -> Route {
        let live = Slot { slot: "green".into(), addr: live.addr };
        Route::new("shop", "127.0.0.1:0".parse().unwrap(), live)
    }

    /// Counts of a slot in a role so far, all intervals together.
    fn counts(&self, slot: &str, role: Role) -> Counts {
        let stats = self.control.stats("", 0).unwrap();
        sum(stats.intervals.iter().filter(|it| it.slot == slot && it.role == role))
    }

    fn counted(&self, slot: &str, role: Role, n: u64) -> Counts {
        until(|| n <= self.counts(slot, role).requests);
        self.counts(slot, role)
    }
}

async fn respond(
    request: Request<Incoming>,
    behaviour: Behaviour,
    log: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let head = format!("{} {}", request.method(), request.uri());
    let mut names: Vec<String> = request.headers().keys().map(|it| it.to_string()).collect();
    names.sort();
    let body = request.into_body().collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    log.lock().unwrap().push(format!("{head} [{}] {}", names.join(","), body.len()));
    let (status, text, after) = behaviour(&head, &body);
    if !after.is_zero() {
        tokio::time::sleep(after).await;
    }
    Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
}

fn sum<'a>(intervals: impl Iterator<Item = &'a Interval>) -> Counts {
    let mut sum = Counts::default();
    for Interval { counts, .. } in intervals {
        sum.requests += counts.requests;
        sum.errors += counts.errors;
        sum.buckets.iter_mut().zip(counts.buckets).for_each(|(all, n)| *all += n);
        sum.compared += counts.compared;
        sum.differ += counts.differ;
        sum.skipped += counts.skipped;
    }
    sum
}

/// Waits for something that happens soon, or fails.
fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never happened");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One request on a connection of its own: the status and the body.
fn ask(addr: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: shop\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn requests_reach_the_live_slot_and_are_counted_once() {
    let bed = Bed::new();
    let green = bed.upstream(echo);
    let route = bed.control.set_route(&bed.route(&green)).unwrap();
    assert_eq!(ask(route.listen, "GET /items?n=3", ""), (200, "GET /items?n=3 0".into()));
    assert_eq!(ask(route.listen, "POST /orders", "abc"), (200, "POST /orders 3".into()));
    let counts = bed.counted("green", Role::Live, 2);
    assert_eq!((counts.requests, counts.errors, counts.buckets.iter().sum()), (2, 0, 2u64));
    let seen = green.seen.lock().unwrap();
    assert_eq!(seen[1], "POST /orders [content-length,host,x-forwarded-for] 3");
}

#[test]
fn a_canary_gets_its_share_and_its_errors_are_its_own() {
    let bed = Bed::new();
    let (green, blue) = (bed.upstream(echo), bed.upstream(broken));
    let mut route = bed.route(&green);
    route.canary = Some(Canary { slot: "blue".into(), addr: blue.addr, pct: 25 });
    let route = bed.control.set_route(&route).unwrap();
    let n_errors = (0..100).filter(|_| ask(route.listen, "GET /", "").0 == 500).count();
    assert!((23..=27).contains(&n_errors), "{n_errors} of 100");
    let (live, canary) = (
        bed.counted("green", Role::Live, 100 - n_errors as u64),
        bed.counted("blue", Role::Live, n_errors as u64),
    );
    assert_eq!((live.errors, canary.errors), (0, n_errors as u64));
}

#[test]
fn a_shadow_sees_the_same_safe_requests_and_answers_nobody() {
    let bed = Bed::new();
    let (green, blue) = (bed.upstream(echo), bed.upstream(broken));
    let mut route = bed.route(&green);
    route.shadow = Some(Slot { slot: "blue".into(), addr: blue.addr });
    route.safe = vec!["POST /search".into()];
    let route = bed.control.set_route(&route).unwrap();
    for (head, body) in
        [("GET /items", ""), ("POST /orders", "order"), ("POST /search", "words"), ("HEAD /", "")]
    {
        assert_eq!(ask(route.listen, head, body).0, 200, "{head}");
    }
    let counts = bed.counted("blue", Role::Shadow, 3);
    assert_eq!((counts.requests, counts.errors), (3, 3));
    assert_eq!((counts.compared, counts.differ, counts.skipped), (3, 3, 0));
    assert_eq!(bed.counts("green", Role::Live).errors, 0);
    // The same bytes and headers: nothing tells the shadow its part.
    let mut live = green.seen.lock().unwrap().clone();
    live.retain(|line| !line.starts_with("POST /orders"));
    let mut shadow = blue.seen.lock().unwrap().clone();
    live.sort();
    shadow.sort();
    assert_eq!(live, shadow);
}

#[test]
fn equal_answers_do_not_differ_and_one_changed_byte_does() {
    fn answers(head: &str, body: &[u8]) -> (u16, String, Duration) {
        let (status, text, after) = echo(head, body);
        (status, if head.ends_with("/3") { text + "!" } else { text }, after)
    }
    let bed = Bed::new();
    let (green, blue) = (bed.upstream(echo), bed.upstream(answers));
    let mut route = bed.route(&green);
    route.shadow = Some(Slot { slot: "blue".into(), addr: blue.addr });
    let route = bed.control.set_route(&route).unwrap();
    (0..10).for_each(|n| assert_eq!(ask(route.listen, &format!("GET /{n}"), "").0, 200));
    let counts = bed.counted("blue", Role::Shadow, 10);
    assert_eq!((counts.compared, counts.differ, counts.errors), (10, 1, 0));
}

#[test]
fn a_hung_shadow_delays_nobody_and_what_it_misses_is_counted() {
    let bed = Bed::new();
    let (green, blue) = (bed.upstream(echo), bed.upstream(hung));
    let mut route = bed.route(&green);
    route.shadow = Some(Slot { slot: "blue".into(), addr: blue.addr });
    route.timeout_ms = 600_000;
    let route = bed.control.set_route(&route).unwrap();
    let start = Instant::now();
    (0..40).for_each(|_| assert_eq!(ask(route.listen, "GET /", "").0, 200));
    assert!(start.elapsed() < Duration::from_secs(10), "the shadow was waited for");
    until(|| bed.counts("blue", Role::Shadow).skipped == 8);
    assert_eq!(bed.counted("green", Role::Live, 40).errors, 0);
}

#[test]
fn a_body_over_the_cap_is_served_and_not_mirrored() {
    let bed = Bed::new();
    let (green, blue) = (bed.upstream(echo), bed.upstream(echo));
    let mut route = bed.route(&green);
    route.shadow = Some(Slot { slot: "blue".into(), addr: blue.addr });
    route.safe = vec!["POST /search".into()];
    let route = bed.control.set_route(&route).unwrap();
    let body = "x".repeat(1024 * 1024);
    assert_eq!(ask(route.listen, "POST /search", &body), (200, "POST /search 1048576".into()));
    until(|| bed.counts("blue", Role::Shadow).skipped == 1);
    assert_eq!(bed.counts("blue", Role::Shadow).requests, 0);
}

#[test]
fn an_upstream_that_is_down_or_late_is_an_error_of_the_slot() {
    let bed = Bed::new();
    let mut route = bed.route(&bed.upstream(hung));
    route.timeout_ms = 50;
    let route = bed.control.set_route(&route).unwrap();
    assert_eq!(ask(route.listen, "GET /", "").0, 504);
    let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut route = Route { listen: route.listen, ..route };
    route.live.addr = down;
    bed.control.set_route(&route).unwrap();
    assert_eq!(ask(route.listen, "GET /", "").0, 502);
    assert_eq!(bed.counted("green", Role::Live, 2).errors, 2);
}

#[test]
fn a_client_that_leaves_or_stalls_is_no_error_of_the_slot() {
    let bed = Bed::new();
    let mut route = bed.route(&bed.upstream(echo));
    route.timeout_ms = 100;
    let route = bed.control.set_route(&route).unwrap();
    let head = "POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 9\r\n\r\nabc";
    // One leaves within its request, one stalls within it until it is told so.
    TcpStream::connect(route.listen).unwrap().write_all(head.as_bytes()).unwrap();
    let mut stalled = TcpStream::connect(route.listen).unwrap();
    stalled.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stalled.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    ask(route.listen, "GET /", "");
    let counts = bed.counted("green", Role::Live, 1);
    assert_eq!((counts.requests, counts.errors), (1, 0));
}

#[test]
fn a_route_is_replaced_whole_while_requests_under_way_end_where_they_began() {
    fn slow(head: &str, body: &[u8]) -> (u16, String, Duration) {
        let (status, text, _) = echo(head, body);
        (status, format!("old {text}"), Duration::from_millis(400))
    }
    let bed = Bed::new();
    let (old, new) = (bed.upstream(slow), bed.upstream(echo));
    let mut route = bed.control.set_route(&bed.route(&old)).unwrap();
    let listen = route.listen;
    let under_way = std::thread::spawn(move || ask(listen, "GET /", ""));
    until(|| old.seen.lock().unwrap().len() == 1);
    route.live.addr = new.addr;
    bed.control.set_route(&route).unwrap();
    assert_eq!(ask(listen, "GET /", ""), (200, "GET / 0".into()));
    assert_eq!(under_way.join().unwrap(), (200, "old GET / 0".into()));
    assert_eq!(bed.counted("green", Role::Live, 2).errors, 0);
}

#[test]
fn no_request_fails_while_routes_are_replaced_again_and_again() {
    let bed = Bed::new();
    let slots = [bed.upstream(echo), bed.upstream(echo)];
    let route = bed.control.set_route(&bed.route(&slots[0])).unwrap();
    let n_failed = Arc::new(AtomicU64::new(0));
    let users: Vec<_> = (0..4)
        .map(|_| {
            let (n_failed, listen) = (Arc::clone(&n_failed), route.listen);
            std::thread::spawn(move || {
                for _ in 0..100 {
                    let failed = ask(listen, "GET /", "").0 != 200;
                    n_failed.fetch_add(u64::from(failed), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for n in 0..20 {
        let mut route = route.clone();
        route.live.addr = slots[n % 2].addr;
        bed.control.set_route(&route).unwrap();
    }
    users.into_iter().for_each(|user| user.join().unwrap());
    assert_eq!(n_failed.load(Ordering::Relaxed), 0);
    assert_eq!(bed.counted("green", Role::Live, 400).requests, 400);
}

#[test]
fn a_restarted_proxy_resumes_its_routes_and_gives_counts_of_a_new_life() {
    let bed = Bed::new();
    let route = bed.control.set_route(&bed.route(&bed.upstream(echo))).unwrap();
    ask(route.listen, "GET /", "");
    bed.counted("green", Role::Live, 1);
    let former = bed.control.stats("", 0).unwrap();
    bed.control.stop().unwrap();
    until(|| bed.control.status().is_err() && TcpStream::connect(route.listen).is_err());
    bed.start();
    let status = bed.control.status().unwrap();
    assert_eq!(status.routes, std::slice::from_ref(&route));
    assert_ne!(status.instance, former.instance);
    assert_eq!(ask(route.listen, "GET /", "").0, 200);
    // The reader's place in the former life says nothing about this one.
    until(|| !bed.control.stats(&former.instance, 1_000_000).unwrap().intervals.is_empty());
}

#[test]
fn a_second_proxy_on_the_folder_is_refused() {
    let bed = Bed::new();
    let error = bed.runtime.block_on(serve(bed.dir.path(), pending())).unwrap_err();
    assert!(error.to_string().ends_with("is served by another proxy"), "{error}");
    assert!(bed.control.status().is_ok());
}

#[test]
fn a_refused_route_leaves_the_old_one_serving() {
    let bed = Bed::new();
    let route = bed.control.set_route(&bed.route(&bed.upstream(echo))).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let moved = Route { listen: taken.local_addr().unwrap(), ..route.clone() };
    let error = bed.control.set_route(&moved).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on 127.0.0.1:"), "{error}");
    let over = Canary { slot: "blue".into(), addr: route.live.addr, pct: 101 };
    let error = bed.control.set_route(&Route { canary: Some(over), ..route.clone() }).unwrap_err();
    assert_eq!(error.to_string(), "a canary of 101 % for shop is more than all");
    assert_eq!(bed.control.status().unwrap().routes, std::slice::from_ref(&route));
    assert_eq!(ask(route.listen, "GET /", "").0, 200);
}

#[test]
fn a_removed_service_is_no_longer_served() {
    let bed = Bed::new();
    let route = bed.control.set_route(&bed.route(&bed.upstream(echo))).unwrap();
    bed.control.remove_route("shop").unwrap();
    until(|| TcpStream::connect(route.listen).is_err());
    assert_eq!(bed.control.status().unwrap().routes, []);
}

/// Not a test of its own: the proxy process of the test below, which starts this very program.
#[test]
fn proxy_process() {
    if let Some(dir) = std::env::var_os("HEALWRIGHT_TEST_PROXY") {
        run(dir.as_ref()).unwrap();
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "proxy_process"]).env("HEALWRIGHT_TEST_PROXY", dir);
    command
}

#[test]
fn a_proxy_process_is_adopted_and_a_killed_one_is_started_again_with_its_routes() {
    let upstreams = Bed::new();
    let green = upstreams.upstream(echo);
    let dir = tempfile::tempdir().unwrap();
    let control = Control::new(dir.path());
    let first = control.adopt_or_start(command(dir.path())).unwrap();
    let route = control.set_route(&upstreams.route(&green)).unwrap();
    // A second starter finds it, and starts nothing.
    let again = Control::new(dir.path()).adopt_or_start(Command::new("/nowhere")).unwrap();
    assert_eq!((again.pid, &again.instance), (first.pid, &first.instance));
    assert_eq!(ask(route.listen, "GET /", "").0, 200);

    let pid = rustix::process::Pid::from_raw(first.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until(|| control.status().is_err());
    let second = control.adopt_or_start(command(dir.path())).unwrap();
    assert_ne!(second.instance, first.instance);
    assert_eq!(second.routes, std::slice::from_ref(&route));
    assert_eq!(ask(route.listen, "GET /", "").0, 200);
    control.stop().unwrap();
    until(|| control.status().is_err());
}

#[test]
fn a_proxy_that_cannot_start_is_an_error_that_says_where_to_look() {
    let dir = tempfile::tempdir().unwrap();
    let error = Control::new(dir.path()).adopt_or_start(Command::new("/bin/false")).unwrap_err();
    assert!(error.to_string().contains("it ended with exit status: 1; see proxy.log"), "{error}");
}

/// Prints what the way through the proxy costs; asserts nothing, for it depends on the machine.
#[test]
fn added_latency_is_printed() {
    let bed = Bed::new();
    let green = bed.upstream(echo);
    let route = bed.control.set_route(&bed.route(&green)).unwrap();
    let p50 = |addr| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut times: Vec<Duration> = (0..1_000)
            .map(|_| {
                let start = Instant::now();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
                let mut answer = Vec::new();
                let mut chunk = [0; 1024];
                while !answer.ends_with(b"GET / 0") {
                    let n = stream.read(&mut chunk).unwrap();
                    answer.extend_from_slice(&chunk[..n]);
                }
                start.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    let (direct, proxied) = (p50(green.addr), p50(route.listen));
    let rate = 1.0 / proxied.as_secs_f64();
    println!("p50 direct {direct:?}, proxied {proxied:?}; {rate:.0} requests/s on one connection");
}
