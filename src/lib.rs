//! Healwright as a library: what `main` runs, and what the black-box tests and benches reach.
//!
//! Read [`engine`] first (the owner's cycle), then [`node`] (how everything is put together),
//! then [`dispatch`] (from decision to effect).

pub mod asyncapi;
pub mod bench;
pub mod checkpoints;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
pub mod dispatch;
pub mod doctor;
pub mod engine;
pub mod evidence;
pub mod fanout;
pub mod follow;
pub mod gauges;
pub mod groups;
pub mod http;
pub mod join;
pub mod journal;
pub mod keys;
pub mod node;
pub mod notify;
pub mod observe;
pub mod out;
pub mod parallel;
pub mod projection;
pub mod registry;
pub mod repair;
pub mod session;
pub mod topology;
pub mod up;
pub mod watch;
pub mod words;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, Parser as _};
use schemas::event::{ApprovalVerdict, FreezeVerb};

use crate::cli::{BenchKind, Cli, Command, Form, act, events, read, release, trust};
use crate::node::LogChoice;
use crate::out::Out;
use crate::session::Session;

/// Runs the command line. 0 done, 1 the answer is no, 2 usage or error.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&without_hidden(error)),
    };
    let out = Out { form: cli.global.output, quiet: cli.global.quiet };
    match command(&cli, out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            out.error("failed", &format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

/// The same error, without a suggestion of a command that help does not show.
fn without_hidden(mut error: clap::Error) -> clap::Error {
    let suggested = error.remove(ContextKind::SuggestedSubcommand);
    if let Some(ContextValue::Strings(mut names)) = suggested {
        let all = Cli::command();
        let is_hidden = |name: &str| all.find_subcommand(name).is_some_and(|it| it.is_hide_set());
        names.retain(|name| !is_hidden(name));
        if !names.is_empty() {
            error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(names));
        }
    } else if let Some(other) = suggested {
        error.insert(ContextKind::SuggestedSubcommand, other);
    }
    error
}

/// Usage errors exit with 2 and help with 0; with `-o json` they are JSON too.
fn usage(error: &clap::Error) -> ExitCode {
    let words: Vec<String> =
        std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect();
    let apart = |it: &[String]| matches!(it[0].as_str(), "-o" | "--output") && it[1] == "json";
    let joined = |it: &String| matches!(it.as_str(), "-ojson" | "-o=json" | "--output=json");
    let json = words.windows(2).any(apart) || words.iter().any(joined);
    if error.use_stderr() && json {
        let out = Out { form: Form::Json, quiet: false };
        out.error("usage", error.to_string().trim());
    } else {
        // Nobody is left to tell when the terminal is gone.
        let _ = error.print();
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Refuses a cluster where a command would pass over it in silence.
fn embedded_only(session: &Session, command: &Command) -> anyhow::Result<()> {
    let here = matches!(command, Command::Bench(args) if args.what != BenchKind::Kafka);
    let alone =
        here || matches!(command, Command::Demo(_) | Command::Watch(_) | Command::Repair(_));
    let bare = matches!(command, Command::Verify(args) if args.path.is_none());
    if matches!(session.choice(), LogChoice::Kafka(_)) && (alone || bare) {
        anyhow::bail!(
            "this command works on an embedded log and not on a cluster; leave out `--log`{}",
            if bare { ", or verify what `healwright export --to DIR` writes" } else { "" }
        );
    }
    Ok(())
}

/// Refuses a configuration file where a command would pass over it in silence.
fn configurable(cli: &Cli) -> anyhow::Result<()> {
    let bare = matches!(cli.command, Command::Demo(_) | Command::Watch(_) | Command::Bench(_));
    if bare && cli.global.config.is_some() {
        anyhow::bail!("this command takes no configuration file; `healwright up` does");
    }
    Ok(())
}

fn command(cli: &Cli, out: Out) -> anyhow::Result<bool> {
    configurable(cli)?;
    let session = Session::new(&cli.global)?;
    embedded_only(&session, &cli.command)?;
    match &cli.command {
        Command::Up(args) => up::up(&session, out, args),
        Command::Demo(args) => demo::run(out, args),
        Command::Watch(args) => watch::run(&session, out, args),
        Command::Status => read::status(&session, out),
        Command::Explain(args) => read::explain(&session, out, &args.id),
        Command::Incident(args) => read::incident(&session, out, args),
        Command::Proposals(args) => read::proposals(&session, out, args),
        Command::Approve(args) => act::approve(&session, out, args, ApprovalVerdict::Approve),
        Command::Reject(args) => act::approve(&session, out, args, ApprovalVerdict::Reject),
        Command::Release(args) => release::run(&session, out, args),
        Command::Trust(args) => trust::run(&session, out, args),
        Command::Change(args) => act::change(&session, out, args),
        Command::Events(args) => events::run(&session, out, args),
        Command::Freeze(args) => act::freeze(&session, out, args, FreezeVerb::Freeze),
        Command::Unfreeze(args) => act::freeze(&session, out, args, FreezeVerb::Unfreeze),
        Command::Export(args) => evidence::export(&session, out, &args.to),
        Command::Verify(args) => evidence::verify(&session, out, args),
        Command::Replay => evidence::replay(&session, out),
        Command::Repair(args) => repair::run(&session, out, args),
        Command::Doctor => doctor::run(&session, out),
        Command::Topology(args) => topology::run(out, args),
        Command::Config(args) => cli::config::run(&session, out, args),
        Command::Groups => groups::run(&session, out),
        Command::Node(args) => cli::node::run(&session, out, args),
        Command::Asyncapi => asyncapi::run(out, &cli.global.topic_prefix),
        Command::Checkpoint(args) => cli::checkpoint::run(out, args),
        Command::Bench(args) => bench::run(&session, out, args),
        Command::Completions { shell } => {
            clap_complete::generate(
                *shell,
                &mut Cli::command(),
                "healwright",
                &mut std::io::stdout().lock(),
            );
            Ok(true)
        }
        Command::Runner(args) => up::runner(args),
        Command::Proxy { dir } => up::proxy(dir),
        Command::DemoService(args) => demo::service_main(args),
        Command::SandboxProbe { .. } => up::sandbox_probe(),
    }
}
