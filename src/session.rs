//! What a command works on: a data directory, read beside whatever is running, and the running
//! node's API where something is to be said.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use state::embedded::Reader;
use state::kafka::{Cluster, KafkaReader};

use crate::cli::Global;
use crate::config::Config;
use crate::join::{List, is_local};
use crate::journal::Journal;
use crate::keys::KeyDir;
use crate::node::{Layout, LogChoice, PARTITION};
use crate::projection::Projection;

/// Nodes that are asked before a command gives up finding the one in office.
const REDIRECTS_MAX: usize = 3;

/// A data directory and the means to read it and to speak to its node; on a cluster, the log
/// that lies there.
pub struct Session {
    data: PathBuf,
    config: Config,
    log: LogChoice,
    reader: OnceCell<Source>,
}

enum Source {
    Directory(Reader),
    Cluster(Box<KafkaReader>),
}

impl Source {
    fn journal(&self) -> &dyn Journal {
        match self {
            Source::Directory(reader) => reader,
            Source::Cluster(reader) => &**reader,
        }
    }
}

/// What a running node leaves for commands.
#[derive(Debug, Clone, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: i32,
    /// Its address.
    pub http: String,
    /// The schema registry that it has agreed with.
    #[serde(default)]
    pub schema_registry: Option<String>,
}

/// The chain as the cluster holds it, under the deployment that was founded there.
fn on_cluster(cluster: &Cluster) -> anyhow::Result<KafkaReader> {
    let mut list = List::of_founded(cluster)?;
    let Some((deployment, _)) = list.read()?.founded.clone() else {
        bail!(
            "no deployment has been founded on {cluster:?}; `healwright up --log … \
             --topic-prefix …` founds one"
        );
    };
    KafkaReader::open(cluster, &deployment, PARTITION)
        .with_context(|| format!("reading the journal of {cluster:?}"))
}

/// The data directory when none is named.
pub fn data_default() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    std::env::var_os("XDG_DATA_HOME")
        .map_or_else(|| home.join(".local/share"), PathBuf::from)
        .join("healwright")
}

impl Session {
    /// A session on what the options of every command name.
    ///
    /// # Errors
    /// The configuration file is not good, the log is named in no form that is known, or a secret
    /// for it cannot be read.
    pub fn new(options: &Global) -> anyhow::Result<Self> {
        let data = options.data.clone().unwrap_or_else(data_default);
        let config = match &options.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let log = if options.log == "embedded" {
            LogChoice::Embedded
        } else {
            let cluster = Cluster::parse(&options.log, &options.topic_prefix)?;
            let settings = config.kafka.settings(is_local(&cluster))?;
            LogChoice::Kafka(cluster.secured(settings))
        };
        Ok(Session { data, config, log, reader: OnceCell::new() })
    }

    /// The configuration file, or what stands for it when none is named.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the log lies.
    pub fn choice(&self) -> &LogChoice {
        &self.log
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The data directory's parts.
    pub fn layout(&self) -> Layout {
        Layout(self.data.clone())
    }

    /// Its keys.
    pub fn keys(&self) -> KeyDir {
        KeyDir::of(&self.data)
    }

    /// The log, read-only.
    ///
    /// # Errors
    /// There is no log, or it is damaged; says which file and what to do.
    pub fn log(&self) -> anyhow::Result<&dyn Journal> {
        Ok(self.source()?.journal())
    }

    fn source(&self) -> anyhow::Result<&Source> {
        if let Some(source) = self.reader.get() {
            return Ok(source);
        }
        let source = match &self.log {
            LogChoice::Embedded => Source::Directory(self.embedded()?),
            LogChoice::Kafka(cluster) => Source::Cluster(Box::new(on_cluster(cluster)?)),
        };
        Ok(self.reader.get_or_init(|| source))
    }

    /// The data directory, where the log lies in it; it holds the folded state too.
    ///
    /// # Errors
    /// As [`Session::log`].
    pub fn directory(&self) -> anyhow::Result<Option<&Reader>> {
        match self.source()? {
            Source::Directory(reader) => Ok(Some(reader)),
            Source::Cluster(_) => Ok(None),
        }
    }

    /// The chain as a cluster holds it.
    ///
    /// # Errors
    /// The log is not on a cluster, or as [`Session::log`].
    pub fn on_cluster(&self) -> anyhow::Result<(&Cluster, &KafkaReader)> {
        match (&self.log, self.source()?) {
            (LogChoice::Kafka(cluster), Source::Cluster(reader)) => Ok((cluster, reader)),
            (LogChoice::Embedded | LogChoice::Kafka(_), _) => {
                bail!("an embedded log belongs to one node; name a cluster with `--log kafka://…`")
            }
        }
    }

    /// The signed head that the owner on a cluster has shown last.
    ///
    /// # Errors
    /// None has been shown, or the cluster does not answer.
    pub fn shown_head(&self) -> anyhow::Result<Vec<u8>> {
        let shown = match self.source()? {
            Source::Directory(_) => None,
            Source::Cluster(reader) => reader.signed_head()?,
        };
        shown.context("no owner has signed a head on this cluster yet")
    }

    /// The data directory, read-only.
    fn embedded(&self) -> anyhow::Result<Reader> {
        if !self.layout().journal().exists() {
            bail!(
                "{} holds no journal; `healwright up --data {0}` starts one, `--data` names \
                 another directory",
                self.data.display()
            );
        }
        Reader::open(&self.data).with_context(|| format!("opening {} to read", self.data.display()))
    }

    /// Sees what has been appended since.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn refresh(&self) -> anyhow::Result<()> {
        Ok(self.log()?.catch_up()?)
    }

    /// Everything that the journal holds now.
    ///
    /// # Errors
    /// As [`Session::log`].
    pub fn projection(&self) -> anyhow::Result<Projection> {
        Ok(Projection::of(self.log()?)?)
    }

    /// Size and root of the latest signed head, where there is one.
    pub fn signed_head(&self) -> Option<(u64, String)> {
        let note = std::fs::read(self.layout().checkpoint()).ok()?;
        let note = ledger::note::Note::parse(&note).ok()?;
        let checkpoint = ledger::checkpoint::Checkpoint::parse(note.text()).ok()?;
        Some((checkpoint.size, checkpoint.root.to_string()))
    }

    /// The running node, if one runs.
    pub fn running(&self) -> Option<Running> {
        let text = std::fs::read_to_string(self.layout().running()).ok()?;
        let running: Running = serde_json::from_str(&text).ok()?;
        let pid = rustix::process::Pid::from_raw(running.pid)?;
        rustix::process::test_kill_process(pid).ok()?;
        Some(running)
    }

    /// Posts `body` to the running node.
    ///
    /// # Errors
    /// No node runs here, or it refuses: its sentence.
    pub fn post<T: Serialize>(&self, path: &str, body: &T) -> anyhow::Result<(u16, Value)> {
        let Some(running) = self.running() else {
            bail!(
                "no node runs on {0}; start it with `healwright up --data {0}`",
                self.data.display()
            );
        };
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(std::time::Duration::from_secs(30)))
            .build()
            .into();
        let body = serde_json::to_string(body).context("writing the request")?;
        // On a shared log an input is durable before it is journaled; a command waits for its
        // place all the same.
        let mut url = format!("http://{}{path}?wait=journaled", running.http);
        // A node that is not in office names the one that is; office moves, but not in circles.
        for _ in 0..REDIRECTS_MAX {
            let mut request = agent.post(&url).header("content-type", "application/json");
            if let Ok(token) = std::env::var("HEALWRIGHT_TOKEN") {
                request = request.header("authorization", &format!("Bearer {token}"));
            }
            let mut response = request.send(&body).with_context(|| format!("asking {url}"))?;
            let status = response.status().as_u16();
            let to = response.headers().get("location").and_then(|it| it.to_str().ok());
            if let Some(to) = to.filter(|_| status == 307) {
                url = to.to_owned();
                continue;
            }
            let text = response.body_mut().read_to_string().context("reading the answer")?;
            let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
            return Ok((status, value));
        }
        bail!("no node says that it is in office; try again in some seconds")
    }

    /// As [`Session::post`], with every refusal an error that carries the node's sentence.
    ///
    /// # Errors
    /// As [`Session::post`].
    pub fn say<T: Serialize>(&self, path: &str, body: &T) -> anyhow::Result<Value> {
        let (status, value) = self.post(path, body)?;
        if status < 300 {
            return Ok(value);
        }
        let message = value["error"]["message"].as_str().unwrap_or("no reason was given");
        bail!("refused ({status}): {message}")
    }
}
