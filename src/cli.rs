//! The command line: what can be asked for, declared once. Help, completions and the manual
//! derive from these declarations; those of a noun with many verbs stand beside what they do.

pub mod act;
pub mod checkpoint;
pub mod config;
pub mod events;
pub mod node;
pub mod read;
pub mod release;
pub mod repair;
pub mod trust;
pub mod verdict;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use schemas::event::ChangeKind;

pub use checkpoint::Checkpoint;
pub use events::Events;
pub use node::NodeCommand;
pub use release::Release;
pub use repair::Repair;
pub use trust::Trust;

/// Heals services by itself, and proves afterwards what it did, why, and that it was allowed to.
#[derive(Debug, Parser)]
#[command(name = "healwright", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 the answer is no, 2 usage or error.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Data directory [default: $XDG_DATA_HOME/healwright]
    #[arg(long, global = true, env = "HEALWRIGHT_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The log: `embedded`, or kafka://HOST:PORT[,HOST:PORT…]
    #[arg(long, global = true, default_value = "embedded", value_name = "LOG")]
    pub log: String,
    /// What the names of this system's topics begin with
    #[arg(long, global = true, default_value = "healwright.", value_name = "PREFIX")]
    pub topic_prefix: String,
    /// The partition that is looked at, where a system on a cluster has several
    #[arg(long, global = true, value_name = "N")]
    pub partition: Option<u32>,
    /// Configuration file; commands other than `up` take from it how a cluster is spoken to
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, global = true, default_value = "table", value_name = "FORM")]
    pub output: Form,
    /// Say only what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// For programs: stable, with a `schema` field.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: log, processors, ledger, HTTP, page and a local runner
    Up(Up),
    /// Watch three real faults being healed, then verify the account
    Demo(Demo),
    /// Heal one service of your own
    Watch(Watch),
    /// One screen: mode, services, incidents, budgets, last verified head
    Status,
    /// Why something was done: an incident, a proposal or an entry
    Explain(Id),
    /// What went wrong, and what came of it
    #[command(subcommand)]
    Incident(Incident),
    /// Repairs that were proposed
    #[command(subcommand)]
    Proposals(Proposals),
    /// Sign a proposal's plan
    Approve(Approve),
    /// Sign against a proposal's plan
    Reject(Approve),
    /// Roll a release out, blue/green with shadow and canary
    #[command(subcommand)]
    Release(Release),
    /// How much each playbook may do alone, and a person's word for one
    #[command(subcommand)]
    Trust(Trust),
    /// Tell Healwright about changes that others make
    #[command(subcommand)]
    Change(Change),
    /// The journal, event by event
    #[command(subcommand)]
    Events(Events),
    /// Stop everything that changes anything; one signature is enough
    Freeze(Freeze),
    /// Lift a freeze; needs every registered signer
    Unfreeze(Freeze),
    /// Write a bundle that anyone can verify offline
    Export(Export),
    /// Check a bundle or a data directory against its own proofs
    Verify(Verify),
    /// Fold the journal anew and compare every decision byte for byte
    Replay,
    /// Mend what the system must not mend by itself
    #[command(subcommand)]
    Repair(Repair),
    /// What this machine has and lacks
    Doctor,
    /// Which processor reads what and says what
    Topology(Topology),
    /// The configuration file
    #[command(subcommand)]
    Config(Config),
    /// Who shares a log on a cluster: members, partitions, owners, and how far behind they are
    Groups,
    /// Who belongs to a deployment on a cluster
    #[command(subcommand)]
    Node(NodeCommand),
    /// The typed topics on a cluster as an AsyncAPI 3.0 document
    Asyncapi,
    /// Copies of chain and state that nodes on a cluster begin with
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Measure this machine
    Bench(Bench),
    /// Completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The host agent; `up`, `demo` and `watch` start it
    #[command(hide = true)]
    Runner(Runner),
    /// The L7 proxy; the runner starts it
    #[command(hide = true)]
    Proxy {
        /// Directory of its routes and socket
        #[arg(long)]
        dir: PathBuf,
    },
    /// The service that the demo breaks
    #[command(hide = true)]
    DemoService(DemoService),
    /// Starts a command inside a sandbox and probes it; the runner calls this
    #[command(hide = true, disable_help_flag = true)]
    SandboxProbe {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// `healwright up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Address of API and page
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Schema registry of the typed topics, http://HOST:PORT; with `--log kafka://…` alone
    #[arg(long, value_name = "URL")]
    pub schema_registry: Option<String>,
    /// Partitions of the system that this founds; of one that is there, how many it must have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: Option<u32>,
    /// Name of this machine's host for services and runner [default: the machine's own]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Do not start the local runner
    #[arg(long)]
    pub no_runner: bool,
}

/// `healwright topology`.
#[derive(Debug, Args)]
pub struct Topology {
    /// text, dot for Graphviz, or svg
    #[arg(long, default_value = "text", hide_possible_values = true, value_name = "FORM")]
    pub format: Picture,
}

/// How the topology is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// A block for each processor.
    Text,
    /// A graph for Graphviz.
    Dot,
    /// A drawing.
    Svg,
}

/// `healwright demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Under 45 s: shorter pauses, the same faults
    #[arg(long)]
    pub fast: bool,
    /// Keep everything in this directory afterwards
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Seed of the traffic and of the demo service's faults
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// `healwright watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// URL that answers 2xx while the service is well
    #[arg(long, value_name = "URL")]
    pub http: String,
    /// Command that starts the service; split into words, no shell
    #[arg(long, value_name = "CMD")]
    pub start: String,
    /// Attempts and window, as in 3/10m
    #[arg(long, default_value = "3/10m", value_name = "N/TIME")]
    pub budget: String,
    /// Propose repairs and wait for `healwright approve`
    #[arg(long)]
    pub propose_only: bool,
    /// Name of the service [default: the first word of CMD]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Address of API and page [default: a free loopback port]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
}

/// Something by its id.
#[derive(Debug, Args)]
pub struct Id {
    /// Id, or the beginning of one
    pub id: String,
}

/// Which part of a list.
#[derive(Debug, Clone, Args)]
pub struct Slice {
    /// Only what happened within this time, as in 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only what happened before this time ago, as in 1h
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// At most this many, newest kept
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

/// `healwright incident`.
#[derive(Debug, Subcommand)]
pub enum Incident {
    /// Incidents, newest first
    List {
        /// open, resolved or all
        #[arg(long, default_value = "all", value_name = "STATUS")]
        status: String,
        /// Which part
        #[command(flatten)]
        slice: Slice,
    },
    /// One incident: what, since when, why, what was done
    Show(Id),
    /// One incident, line by line from the journal
    Timeline(Id),
}

/// `healwright proposals`.
#[derive(Debug, Subcommand)]
pub enum Proposals {
    /// Proposals, newest first; those that wait for a person on top
    List {
        /// Which part
        #[command(flatten)]
        slice: Slice,
    },
    /// One proposal: plan, votes, decision
    Show(Id),
}

/// `healwright approve` and `healwright reject`.
#[derive(Debug, Args)]
pub struct Approve {
    /// Proposal, or the beginning of its id
    pub id: String,
    /// Why, for the audit
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// Sign only if the plan has this digest
    #[arg(long, value_name = "DIGEST")]
    pub expect_digest: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print the plan and the digest that would be signed
    #[arg(long)]
    pub dry_run: bool,
}

/// `healwright change`.
#[derive(Debug, Subcommand)]
pub enum Change {
    /// Record a change
    Record {
        /// Service that changed
        service: String,
        /// Version after it
        version: String,
        /// What sort of change
        #[arg(long, default_value = "deploy", value_name = "KIND", value_parser = change_kind())]
        kind: String,
        /// Your own id; a repeat is answered with the first one's place
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// One line
        #[arg(long, default_value = "", value_name = "TEXT")]
        summary: String,
    },
}

fn change_kind() -> PossibleValuesParser {
    PossibleValuesParser::new(ChangeKind::ALL.iter().map(|it| it.as_str()))
}

/// `healwright freeze` and `healwright unfreeze`.
#[derive(Debug, Args)]
pub struct Freeze {
    /// Why, for the audit
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// `healwright export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Directory to write; must not exist
    #[arg(long, value_name = "BUNDLE")]
    pub to: PathBuf,
}

/// `healwright verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Bundle or data directory [default: the data directory]
    pub path: Option<PathBuf>,
    /// Demand this deployment id
    #[arg(long, value_name = "ID")]
    pub deployment: Option<String>,
    /// A witness's head record to hold against it
    #[arg(long, value_name = "FILE")]
    pub witness: Option<PathBuf>,
}

/// `healwright config`.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Check a configuration file
    Check {
        /// The file
        file: PathBuf,
    },
    /// The configuration in force
    Show {
        /// Every number, also those that nobody set
        #[arg(long)]
        effective: bool,
        /// Where each number comes from
        #[arg(long)]
        origin: bool,
    },
    /// JSON Schema of the configuration file
    Schema,
}

/// `healwright bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure
    pub what: BenchKind,
    /// Runs of `heal`, and of each fault in it
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub runs: u32,
    /// Partitions of the topic that `kafka` reads
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub partitions: u32,
    /// Series in it
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub series: u64,
    /// Samples that are taken before measuring begins
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub warmup: u64,
    /// Processes of the brokers, whose CPU time is told too
    #[arg(long, default_value = "", value_name = "PID,…")]
    pub broker_pids: String,
}

/// What `bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchKind {
    /// Durable appends, chained and in the tree, against this machine's fdatasync
    Journal,
    /// Telemetry through durable append, seal and detection
    Telemetry,
    /// Memory, CPU time and start of a node with its runner while nothing happens
    Idle,
    /// Replay with payloads compared
    Replay,
    /// Faults healed for real
    Heal,
    /// Telemetry from a filled topic through seal, detection and the journal of a cluster
    Kafka,
}

/// `healwright runner`.
#[derive(Debug, Args)]
pub struct Runner {
    /// Directory of the runner's own
    #[arg(long)]
    pub dir: PathBuf,
    /// Socket of the control plane
    #[arg(long)]
    pub socket: PathBuf,
    /// Deployment that it belongs to
    #[arg(long)]
    pub deployment: String,
    /// Name of its host
    #[arg(long)]
    pub host: String,
}

/// `healwright demo-service`.
#[derive(Debug, Args)]
pub struct DemoService {
    /// good, slow or broken
    #[arg(long)]
    pub release: String,
    /// Port on loopback
    #[arg(long)]
    pub port: u16,
}
