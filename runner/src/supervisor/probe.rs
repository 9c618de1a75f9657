//! One HTTP GET over loopback or the local network: does it answer 2xx in time?
//!
//! By hand, on blocking sockets: a probe must not share a runtime, a pool or a parser with what
//! it judges. It speaks no TLS and follows no redirect.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use crate::error::Error;

/// Bytes of a status line, at most.
const STATUS_LINE_BYTES_MAX: usize = 4096;

/// A URL that can be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    path: String,
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Whether it answered 2xx in time.
    pub passed: bool,
    /// Milliseconds until it was known.
    pub ms: f64,
    /// What it saw, in a few words.
    pub detail: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// [`Error::Refused`] for any other scheme and for characters that would split the request.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let refuse = |why: &str| Err(Error::refused(format!("probe URL {url:?}"), why));
        let Some(rest) = url.strip_prefix("http://") else {
            return refuse("only http:// can be probed");
        };
        if rest.chars().any(|it| it.is_control() || it.is_whitespace()) {
            return refuse("it holds a space or a control character");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        if host.is_empty() || host.contains(['@', '#']) {
            return refuse("it names no plain host");
        }
        // An address of version 6 in brackets has colons of its own.
        let port = host.rsplit_once(':').map(|(_, port)| port).filter(|it| !it.ends_with(']'));
        if port.is_some_and(|it| it.parse::<u16>().is_err()) {
            return refuse("its port is no number up to 65535");
        }
        let has_port = port.is_some();
        let host = if has_port { host.to_owned() } else { format!("{host}:80") };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Target { host, path })
    }

    /// Probes once.
    pub fn probe(&self, timeout: Duration) -> Seen {
        let start = Instant::now();
        let result = self.status(start + timeout);
        let ms = start.elapsed().as_secs_f64() * 1e3;
        match result {
            Ok(status) => {
                let passed = (200..300).contains(&status);
                Seen { passed, ms, detail: format!("it answered {status}") }
            }
            Err(error) => Seen { passed: false, ms, detail: words(&error, timeout) },
        }
    }

    fn status(&self, deadline: Instant) -> io::Result<u16> {
        let mut stream = connect(&self.host, deadline)?;
        stream.set_write_timeout(Some(left(deadline)?))?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: healwright-probe\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n",
            self.path, self.host
        );
        stream.write_all(request.as_bytes())?;
        let mut line = Vec::new();
        let mut buffer = [0; 512];
        while !line.contains(&b'\n') {
            stream.set_read_timeout(Some(left(deadline)?))?;
            let n = stream.read(&mut buffer)?;
            if n == 0 || line.len() > STATUS_LINE_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.extend_from_slice(&buffer[..n]);
        }
        status_of(&line).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|it| *it == b'\n').next()?).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/1.")?;
    words.next()?.parse().ok()
}

fn connect(host: &str, deadline: Instant) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = host.to_socket_addrs()?.collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn words(error: &io::Error, timeout: Duration) -> String {
    if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
        return format!("it did not answer within {} ms", timeout.as_millis());
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "nothing listens there".to_owned();
    }
    format!("it did not answer as HTTP: {error}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Probes a server that answers with `answer`, and says what it was asked.
    fn probe(answer: &'static [u8]) -> (Seen, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                asked.push(byte[0]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(asked).unwrap()
        });
        let target = Target::parse(&format!("http://127.0.0.1:{port}/health?full=1#x")).unwrap();
        let seen = target.probe(Duration::from_secs(5));
        (seen, server.join().unwrap())
    }

    #[test]
    fn only_an_answer_of_2xx_passes() {
        let (seen, asked) = probe(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert!(seen.passed);
        assert!(asked.starts_with("GET /health?full=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
        assert!(probe(b"HTTP/1.0 200 OK\n\n").0.passed);
        for answer in [
            &b"HTTP/1.1 503 Busy\r\n\r\n"[..],
            b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/1.1 \r\n",
            b"",
        ] {
            assert!(!probe(answer).0.passed, "{answer:?}");
        }
    }

    #[test]
    fn a_server_that_accepts_and_says_nothing_fails_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let seen = target.probe(Duration::from_millis(50));
        assert!(!seen.passed);
        assert_eq!(seen.detail, "it did not answer within 50 ms");
    }

    #[test]
    fn a_url_that_would_split_the_request_is_refused() {
        for url in [
            "https://a/",
            "ftp://a",
            "a",
            "http://",
            "http://a b/",
            "http://a/\r\nX: y",
            "http://u@h/",
        ] {
            assert!(Target::parse(url).is_err(), "{url:?}");
        }
        assert_eq!(
            Target::parse("http://[::1]/x").unwrap(),
            Target { host: "[::1]:80".to_owned(), path: "/x".to_owned() }
        );
    }
}
