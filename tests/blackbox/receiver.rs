//! Somebody who is to be told: a webhook that answers as the test says, and keeps what it heard.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// A message that does not come within this time never will.
const WITHIN: Duration = Duration::from_secs(60);

/// How it answers.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// Not at all; the connection stays open.
    Never,
    /// With 500, once, and with 200 from then on.
    RefusesOnce,
    /// With 200.
    Takes,
}

/// A webhook on loopback.
pub(crate) struct Webhook {
    /// Where it listens.
    pub(crate) at: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    heard: Receiver<Value>,
}

impl Webhook {
    /// One that answers in this way.
    pub(crate) fn new(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let (told, heard) = channel();
        let answering = answer.clone();
        std::thread::spawn(move || serve(&listener, &answering, &told));
        Webhook { at, answer, heard }
    }

    /// Has it answer in another way.
    pub(crate) fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The next message, if there is one by now.
    pub(crate) fn heard(&self) -> Option<Value> {
        self.heard.try_recv().ok()
    }

    /// The next message.
    pub(crate) fn hear(&self) -> Value {
        self.heard.recv_timeout(WITHIN).unwrap()
    }
}

fn serve(listener: &TcpListener, answer: &Mutex<Answer>, told: &Sender<Value>) {
    let mut silent = Vec::new();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let Some(body) = read(&stream) else { continue };
        let mut answer = answer.lock().unwrap();
        let status = match *answer {
            Answer::Never => None,
            Answer::RefusesOnce => Some("500 Internal Server Error"),
            Answer::Takes => Some("200 OK"),
        };
        if matches!(*answer, Answer::RefusesOnce) {
            *answer = Answer::Takes;
        }
        drop(answer);
        match status {
            None => silent.push(stream),
            Some(status) => {
                let text =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                // Whoever hangs up early has its answer.
                let _ = stream.write_all(text.as_bytes());
            }
        }
        if told.send(body).is_err() {
            return;
        }
    }
}

/// The body of one request; `None` when the sender goes away.
fn read(stream: &TcpStream) -> Option<Value> {
    let mut lines = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(said) = line.strip_prefix("content-length:") {
            length = said.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}
