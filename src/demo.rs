//! `healwright demo`.
use crate::cli;
use crate::out::Out;
/// Runs the demo.
///
/// # Errors
/// What keeps it from running.
pub fn run(_out: Out, _args: &cli::Demo) -> anyhow::Result<bool> { anyhow::bail!("not wired") }
/// `healwright demo-service`.
///
/// # Errors
/// What keeps it from running.
pub fn service_main(_args: &cli::DemoService) -> anyhow::Result<bool> { anyhow::bail!("not wired") }
