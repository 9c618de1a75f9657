//! The Linux host on this machine: real processes, real sandboxes, a real environment.
//!
//! The services are this very test program, called so that it runs one test that serves HTTP
//! (`support::as_a_service`); the inner part of the sandbox is made the same way. So nothing
//! is needed but the kernel, and bubblewrap and python3 where a test says so.

#![cfg(target_os = "linux")]
// A test that this machine cannot run says so; nothing else prints.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "linux/environments.rs"]
mod environments;
#[path = "linux/releases.rs"]
mod releases;
#[path = "linux/sandboxes.rs"]
mod sandboxes;
#[path = "linux/services.rs"]
mod services;
#[path = "linux/support.rs"]
mod support;
