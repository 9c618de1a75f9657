//! A fleet that takes checkpoints as often as it can.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::Fleet;

/// Says to a command which clouds there are: those of `env` and none of the tester's own.
pub(crate) fn describe(command: &mut Command, env: &[(String, String)]) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|it| text.starts_with(it)) {
            command.env_remove(&name);
        }
    }
    command.env("NO_PROXY", "127.0.0.1").envs(env.iter().cloned());
}

impl Fleet {
    /// The gauge of the newest checkpoint that a node has taken of a partition.
    pub(crate) fn taken(partition: usize) -> String {
        format!("healwright_checkpoint_next_seq{{partition=\"{partition}\"}}")
    }

    /// The gauge of the checkpoint that a node began a partition with.
    pub(crate) fn restored(partition: usize) -> String {
        format!("healwright_restored_next_seq{{partition=\"{partition}\"}}")
    }

    /// One node that takes checkpoints into a directory.
    pub(crate) fn start_with_checkpoints(bootstrap: &str) -> Self {
        let fleet = Fleet::empty(bootstrap);
        let url = format!("file://{}", fleet.depot());
        fleet.keeping(&url, &[])
    }

    /// The same of a system of several partitions.
    pub(crate) fn start_partitioned_with_checkpoints(bootstrap: &str, partitions: u64) -> Self {
        let fleet = Fleet::empty(bootstrap);
        let url = format!("file://{}", fleet.depot());
        fleet.configured(&format!(
            "[kafka]\npartitions = {partitions}\n[checkpoints]\nurl = \"{url}\"\nevery_s = 1\n"
        ))
    }

    /// One node, at `url`, with what the environment says of it.
    pub(crate) fn start_with_checkpoints_at(
        bootstrap: &str,
        url: &str,
        env: &[(String, String)],
    ) -> Self {
        Fleet::empty(bootstrap).keeping(url, env)
    }

    fn keeping(mut self, url: &str, env: &[(String, String)]) -> Self {
        self.env = env.to_vec();
        self.configured(&format!("[checkpoints]\nurl = \"{url}\"\nevery_s = 1\n"))
    }

    fn configured(mut self, text: &str) -> Self {
        let file = self.home.path().join("hw.toml");
        fs::write(&file, text).unwrap();
        self.words = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        self.add();
        self
    }

    /// Manifests of a partition's checkpoints there, oldest first.
    pub(crate) fn checkpoints(&self, partition: u32) -> Vec<PathBuf> {
        let deployment = fs::read_dir(self.depot()).unwrap().next().unwrap().unwrap().path();
        let folder = deployment.join(partition.to_string()).join("checkpoints");
        let mut found: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
        found.sort();
        found
    }

    /// Where checkpoints lie, if in a directory.
    pub(crate) fn depot(&self) -> String {
        self.home.path().join("depot").to_str().unwrap().to_owned()
    }
}
