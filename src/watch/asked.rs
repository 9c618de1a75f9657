//! What `watch` is asked for, checked before anything is written or started.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use runner::supervisor::{Target, check_name};
use topologies::config::Service;
use topologies::profile::Profile;

use crate::cli;
use crate::config::check::Brake;
use crate::config::{budget, words as split};
use crate::keys;

/// The service that the options describe.
///
/// # Errors
/// An option that could not be followed, and what it may be.
pub(super) fn service(args: &cli::Watch) -> anyhow::Result<Service> {
    let command = split(&args.start)?;
    let path = std::env::var_os("PATH");
    check_program(&command[0], path.as_deref()).context("reading --start")?;
    let (attempts_max, attempts_window_ms) = budget(&args.budget)?;
    let debounce_ms = Profile::local().debounce_ms;
    let brake = Brake { attempts_max, window_ms: attempts_window_ms, debounce_ms };
    if let Some(why) = brake.never_trips() {
        bail!("--budget {:?}: {why}; allow fewer attempts or a longer time", args.budget);
    }
    if !args.http.starts_with("http://") {
        bail!("--http {:?} is no http:// URL of the service", args.http);
    }
    Target::parse(&args.http.replace("{port}", "1")).context("reading --http")?;
    let name = args.name.clone().unwrap_or_else(|| name_of(&command[0]));
    schemas::canonical::identifier(&name)
        .with_context(|| format!("naming the service {name:?}; choose one with --name"))?;
    if let Err(why) = check_name(&name) {
        bail!("naming the service {name:?}: {why}; choose another with --name");
    }
    Ok(Service {
        name,
        host: keys::host_name(),
        command,
        probe_url: args.http.clone(),
        attempts_max,
        attempts_window_ms,
        propose_only: args.propose_only,
        cwd: std::env::current_dir().context("asking for this folder")?.display().to_string(),
        variables: path_variable(),
        ..Service::default()
    })
}

/// Refuses a program that could not be started: found in this folder or in PATH, as the runner
/// will look for it.
fn check_program(program: &str, path: Option<&OsStr>) -> anyhow::Result<()> {
    // Placeholders are filled in by the runner, and without PATH it has one of its own.
    let (false, Some(path)) = (program.contains('{'), path) else { return Ok(()) };
    let named = PathBuf::from(program);
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![named],
        false => std::env::split_paths(path).map(|folder| folder.join(&named)).collect(),
    };
    let files: Vec<&PathBuf> = places.iter().filter(|it| it.is_file()).collect();
    if files.iter().any(|it| is_executable(it)) {
        return Ok(());
    }
    match files.first() {
        Some(file) => {
            let file = file.display();
            bail!("{file} is not executable; `chmod +x {file}`, or name its interpreter first")
        }
        None if program.contains('/') => {
            bail!("there is no program {program}; its path is looked for from this folder")
        }
        None => bail!("there is no program {program} in PATH; check its spelling or give its path"),
    }
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|it| it.permissions().mode() & 0o111 != 0)
}

/// The command's last path part, as far as it is a name.
fn name_of(command: &str) -> String {
    let last = command.rsplit('/').next().unwrap_or(command);
    let allowed = |it: &char| it.is_ascii_alphanumeric() || "._-".contains(*it);
    let name: String = last.chars().filter(allowed).collect();
    let name = name.trim_start_matches(['.', '-', '_']).to_owned();
    if name.is_empty() { "service".to_owned() } else { name }
}

/// The user's PATH, so that the command is found as it is in the user's shell.
fn path_variable() -> BTreeMap<String, String> {
    std::env::var("PATH").map(|path| ("PATH".to_owned(), path)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_that_could_not_be_started_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serve");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let path = Some(dir.path().as_os_str());
        let said = |program: &str| {
            check_program(program, path).map_or_else(|it| it.to_string(), |()| "good".to_owned())
        };
        let full = file.display().to_string();
        assert!(said("srve").starts_with("there is no program srve in PATH"), "{}", said("srve"));
        assert!(said("/no/where").contains("looked for from this folder"));
        assert!(said("serve").contains(&format!("{full} is not executable; `chmod +x")));
        assert!(said(&full).contains("is not executable"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        for good in ["serve", &full, "{venv}/bin/python"] {
            assert_eq!(said(good), "good", "{good}");
        }
    }
}
