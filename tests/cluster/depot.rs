//! A fleet that takes checkpoints as often as it can.

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
    /// One node that takes checkpoints into a directory.
    pub(crate) fn start_with_checkpoints(bootstrap: &str) -> Self {
        let fleet = Fleet::empty(bootstrap);
        let url = format!("file://{}", fleet.depot());
        fleet.keeping(&url, &[])
    }

    /// The same at `url`, with what the environment says of it.
    pub(crate) fn start_with_checkpoints_at(
        bootstrap: &str,
        url: &str,
        env: &[(String, String)],
    ) -> Self {
        Fleet::empty(bootstrap).keeping(url, env)
    }

    fn keeping(mut self, url: &str, env: &[(String, String)]) -> Self {
        let file = self.home.path().join("hw.toml");
        std::fs::write(&file, format!("[checkpoints]\nurl = \"{url}\"\nevery_s = 1\n")).unwrap();
        self.words = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        self.env = env.to_vec();
        self.add();
        self
    }

    /// Where checkpoints lie, if in a directory.
    pub(crate) fn depot(&self) -> String {
        self.home.path().join("depot").to_str().unwrap().to_owned()
    }
}
