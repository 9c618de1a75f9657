//! What a command works on: a data directory, read beside whatever is running, and the running
//! node's API where something is to be said.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use state::LogError;
use state::embedded::Reader;
use state::kafka::{Cluster, KafkaReader};

use crate::cli::Global;
use crate::config::Config;
use crate::join::{List, is_local};
use crate::journal::Journal;
use crate::keys::KeyDir;
use crate::node::parts::partition_of;
use crate::node::{Layout, LogChoice};
use crate::projection::Projection;

/// Nodes that are asked before a command gives up finding the one in office.
const REDIRECTS_MAX: usize = 3;

/// A data directory and the means to read it and to speak to its node; on a cluster, the log
/// that lies there.
pub struct Session {
    data: PathBuf,
    config: Config,
    log: LogChoice,
    /// The only partition that is asked for, where one is.
    partition: Option<u32>,
    sources: OnceCell<Vec<Source>>,
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

/// The chains as the cluster holds them, under the deployment that was founded there.
fn on_cluster(cluster: &Cluster, only: Option<u32>) -> anyhow::Result<Vec<Source>> {
    let mut list = List::of_founded(cluster)?;
    let Some((deployment, _)) = list.read()?.founded.clone() else {
        bail!(
            "no deployment has been founded on {cluster:?}; `healwright up --log … \
             --topic-prefix …` founds one"
        );
    };
    let n_partitions = cluster.n_partitions()?;
    if let Some(asked) = only.filter(|it| n_partitions <= *it) {
        bail!("there is no partition {asked}; this system has {n_partitions}, from 0 on");
    }
    let numbers = only.map_or(0..n_partitions, |it| it..it + 1);
    let open = |number| {
        let opened = KafkaReader::open(cluster, &deployment, number);
        opened.map(|it| Source::Cluster(Box::new(it)))
    };
    let opened: Result<Vec<Source>, LogError> = numbers.map(open).collect();
    opened.with_context(|| format!("reading the journal of {cluster:?}"))
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
        let partition = options.partition;
        if let (LogChoice::Embedded, Some(1..)) = (&log, partition) {
            bail!("an embedded log has one partition, 0; take `--partition` out");
        }
        Ok(Session { data, config, log, partition, sources: OnceCell::new() })
    }

    /// The configuration file, or what stands for it when none is named.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the log lies.
    pub fn choice(&self) -> &LogChoice {
        &self.log
    }

    /// The partition that `--partition` names, where it does.
    pub fn only_partition(&self) -> Option<u32> {
        self.partition
    }

    /// The partition that a repair is of: where there are several, it must be named.
    ///
    /// # Errors
    /// It is not named, or the cluster does not answer.
    pub fn partition_to_mend(&self) -> anyhow::Result<u32> {
        let n_partitions = self.n_partitions()?;
        match self.partition {
            Some(named) => Ok(named),
            None if n_partitions == 1 => Ok(0),
            None => bail!("this system has {n_partitions} partitions; add `--partition N`"),
        }
    }

    fn n_partitions(&self) -> anyhow::Result<u32> {
        match &self.log {
            LogChoice::Embedded => Ok(1),
            LogChoice::Kafka(cluster) => Ok(cluster.n_partitions()?),
        }
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

    /// The parts of the partition that `service` belongs to.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn layout_of(&self, service: &str) -> anyhow::Result<Layout> {
        match &self.log {
            LogChoice::Embedded => Ok(self.layout()),
            LogChoice::Kafka(cluster) => {
                let number = partition_of(service, cluster.n_partitions()?);
                Ok(self.layout().partition(number))
            }
        }
    }

    /// The only log, or the one that `--partition` names, read-only.
    ///
    /// # Errors
    /// There is no log, or it is damaged: says which file and what to do. There are several.
    pub fn log(&self) -> anyhow::Result<&dyn Journal> {
        Ok(self.source()?.journal())
    }

    /// The log of one partition, whichever `--partition` names.
    ///
    /// # Errors
    /// As [`Session::logs`]; there is no such partition.
    pub fn log_of(&self, partition: u32) -> anyhow::Result<&dyn Journal> {
        let first = self.partition.unwrap_or(0);
        let all = self.sources()?;
        let source = partition.checked_sub(first).and_then(|n| all.get(n as usize));
        let source = source.with_context(|| match self.partition {
            Some(named) => format!("that is in partition {partition}, and {named} is looked at"),
            None => format!("there is no partition {partition}; this system has {}", all.len()),
        })?;
        Ok(source.journal())
    }

    /// All logs in the order of their partitions, or the one that `--partition` names.
    ///
    /// # Errors
    /// There is no log, or one is damaged: says which file and what to do.
    pub fn logs(&self) -> anyhow::Result<Vec<&dyn Journal>> {
        Ok(self.sources()?.iter().map(Source::journal).collect())
    }

    fn source(&self) -> anyhow::Result<&Source> {
        match self.sources()? {
            [source] => Ok(source),
            all => bail!(
                "this system has {} partitions, each with a journal of its own: say which one \
                 with `--partition N`",
                all.len()
            ),
        }
    }

    fn sources(&self) -> anyhow::Result<&[Source]> {
        if let Some(sources) = self.sources.get() {
            return Ok(sources);
        }
        let sources = match &self.log {
            LogChoice::Embedded => vec![Source::Directory(self.embedded()?)],
            LogChoice::Kafka(cluster) => on_cluster(cluster, self.partition)?,
        };
        Ok(self.sources.get_or_init(|| sources))
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

    /// The chains as a cluster holds them.
    ///
    /// # Errors
    /// The log is not on a cluster, or as [`Session::logs`].
    pub fn on_cluster(&self) -> anyhow::Result<(&Cluster, Vec<&KafkaReader>)> {
        let LogChoice::Kafka(cluster) = &self.log else {
            bail!("an embedded log belongs to one node; name a cluster with `--log kafka://…`")
        };
        let readers = self.sources()?.iter().filter_map(|it| match it {
            Source::Cluster(reader) => Some(&**reader),
            Source::Directory(_) => None,
        });
        Ok((cluster, readers.collect()))
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
        Ok(self.logs()?.into_iter().try_for_each(Journal::catch_up)?)
    }

    /// Everything that the journal holds now.
    ///
    /// # Errors
    /// As [`Session::log`].
    pub fn projection(&self) -> anyhow::Result<Projection> {
        Ok(Projection::of(self.logs()?)?)
    }

    /// Size and root of the latest head that was signed here, by partition. Taken before a
    /// projection they are not ahead of it, while a node goes on beside.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn signed_heads(&self) -> anyhow::Result<BTreeMap<u32, (u64, String)>> {
        let numbers = 0..self.n_partitions()?;
        Ok(numbers.filter_map(|it| Some((it, self.signed_head(it)?))).collect())
    }

    fn signed_head(&self, partition: u32) -> Option<(u64, String)> {
        let note = std::fs::read(self.layout().partition(partition).checkpoint()).ok()?;
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

    /// Why the running node does nothing, if so: what it says of itself.
    pub fn standing_still(&self, running: &Running) -> Option<String> {
        let agent = crate::client::agent(None, std::time::Duration::from_secs(2)).ok()?;
        let asked = agent.get(format!("http://{}/readyz", running.http)).call();
        let mut answer = match asked {
            Ok(answer) => answer,
            Err(error) => return Some(format!("it does not answer at {}: {error}", running.http)),
        };
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        // Where a door asks for names or tokens, its refusal says nothing of the engine.
        let why = body["error"]["message"].as_str().filter(|_| answer.status().as_u16() == 503);
        why.map(str::to_owned)
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
        let agent = crate::client::agent(None, std::time::Duration::from_secs(30))?;
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
