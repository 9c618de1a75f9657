//! Whether a cluster answers at all; and where it does not, what it said instead. librdkafka
//! tells that beside the answer, so it is listened for here and nowhere else.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use super::cluster::{Cluster, NODES, START_WITHIN};
use crate::LogError;
use crate::memory::lock;

/// One question; between two of them is looked at what was heard.
const ASK: Duration = Duration::from_secs(1);
const LISTEN: Duration = Duration::from_millis(100);

/// What a client was told about its connections last.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl ClientContext for Heard {
    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        // That all of them are down follows from what was said of each.
        if code != RDKafkaErrorCode::AllBrokersDown {
            *lock(&self.0) = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Heard {}

/// What keeps a client out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Password,
    Certificate,
    Connection,
}

impl Fault {
    /// A broker that refuses a client's certificate says so in an alert of TLS, which librdkafka
    /// hands on as a connection that was lost.
    fn of(code: RDKafkaErrorCode, reason: &str) -> Self {
        if code == RDKafkaErrorCode::Authentication {
            Fault::Password
        } else if code == RDKafkaErrorCode::SSL || reason.contains("SSL alert") {
            Fault::Certificate
        } else {
            Fault::Connection
        }
    }

    /// What to look at.
    fn advice(self) -> &'static str {
        match self {
            Fault::Password => {
                "check `kafka.sasl` of the configuration file: mechanism, username and \
                 password_file"
            }
            Fault::Certificate => {
                "check `kafka.tls` of the configuration file: ca_file, the name in the broker's \
                 certificate, and cert_file where the broker wants one"
            }
            Fault::Connection => {
                "check address and port, and whether the listener wants TLS or SASL (`kafka` in \
                 the configuration file), or start one with `make kafka`"
            }
        }
    }
}

impl Cluster {
    /// Whether a system with this prefix has ever been started on the cluster.
    ///
    /// # Errors
    /// [`LogError::Cluster`]: no broker answers, and why.
    pub fn holds_system(&self) -> Result<bool, LogError> {
        let (_, metadata) = self.reached()?;
        let nodes = self.topic(NODES);
        Ok(metadata.topics().iter().any(|it| it.name() == nodes))
    }

    /// A client that a broker has answered, and the answer.
    pub(crate) fn reached(&self) -> Result<(BaseConsumer<Heard>, Metadata), LogError> {
        let made = self.client().create_with_context(Heard::default());
        let consumer: BaseConsumer<Heard> =
            made.map_err(|error| self.failed("start a client", error))?;
        let until = Instant::now() + START_WITHIN;
        loop {
            let error = match consumer.fetch_metadata(None, ASK) {
                Ok(metadata) => return Ok((consumer, metadata)),
                Err(error) => error,
            };
            // What librdkafka logs lies in the same queue and ends a poll that does not wait.
            let listened = Instant::now() + LISTEN;
            while Instant::now() < listened {
                let _ = consumer.poll(LISTEN / 4);
            }
            let heard = lock(&consumer.context().0).clone();
            let fault = heard.as_ref().map(|(code, reason)| Fault::of(*code, reason));
            let fault = fault.unwrap_or(Fault::Connection);
            // A password that is wrong stays wrong, however often it is shown.
            if until < Instant::now() || fault != Fault::Connection {
                let said = heard.map_or_else(|| error.to_string(), |(_, reason)| reason);
                let why = format!("no broker answers ({said}); {}", fault.advice());
                return Err(self.failed("ask for the topics", why));
            }
        }
    }
}
