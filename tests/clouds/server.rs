//! A server under a test that speaks what a cloud speaks, and its bucket as somebody else sees it.
//!
//! Servers are shared by the tests of this process and end with it; each test has a folder of its
//! own in the bucket.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use healwright::checkpoints::Depot;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::prefix::PrefixStore;
use tokio::runtime::Runtime;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clouds/clouds.sh");

/// Whose protocol is spoken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cloud {
    S3,
    Azure,
    Google,
}

/// A server.
pub(crate) struct Server {
    cloud: Cloud,
    dir: PathBuf,
    /// Its bucket, as a URL.
    pub(crate) bucket: String,
    /// The environment that its user has.
    pub(crate) env: Vec<(String, String)>,
}

impl Cloud {
    /// Its server. Azure's needs Node.js, which is not small: its absence is told, and is a
    /// failure in CI and where all clients are asked for.
    pub(crate) fn server(self) -> Option<&'static Server> {
        static SERVERS: [OnceLock<Option<Server>>; 3] = [const { OnceLock::new() }; 3];
        let start = || self.is_possible().then(|| Server::start(self));
        SERVERS[self as usize].get_or_init(start).as_ref()
    }

    fn is_possible(self) -> bool {
        let has_npm = || Command::new("npm").arg("--version").output().is_ok();
        if !matches!(self, Cloud::Azure) || has_npm() {
            return true;
        }
        let all = std::env::var("HEALWRIGHT_TEST_CLIENTS").is_ok_and(|it| it == "all");
        let demanded = all || std::env::var_os("CI").is_some();
        assert!(!demanded, "no Azurite to test on: npm is missing; install Node.js 18 or later");
        // Not by a macro: a test that passes would keep it to itself.
        let _ = writeln!(
            std::io::stderr(),
            "NOT TESTED: checkpoints do not go to Azurite here, for npm is missing; install \
             Node.js 18 or later, or demand it with HEALWRIGHT_TEST_CLIENTS=all"
        );
        false
    }

    fn word(self) -> &'static str {
        match self {
            Cloud::S3 => "s3",
            Cloud::Azure => "azure",
            Cloud::Google => "google",
        }
    }
}

impl Server {
    fn start(cloud: Cloud) -> Self {
        // It outlives this value: the guard removes it.
        let home = tempfile::tempdir().unwrap().keep();
        let dir = home.join("server");
        let mut command = Command::new(SCRIPT);
        command.args(["start", cloud.word(), "--dir"]).arg(&dir);
        let ran = command.stderr(Stdio::piped()).output().unwrap();
        let why = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "no server of {cloud:?} to test on: {why}");
        let said = String::from_utf8(ran.stdout).unwrap();
        let pairs = said.lines().map(|line| line.split_once('=').unwrap());
        let mut env: Vec<(String, String)> =
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (_, bucket) = env.remove(0);
        // A test that is killed leaves no server behind: the pipe closes with its process.
        let (server, home) = (dir.display(), home.display());
        let after = format!("cat >/dev/null; '{SCRIPT}' stop --dir '{server}'; rmdir '{home}'");
        let guard = Command::new("setsid").args(["sh", "-c", &after]).stdin(Stdio::piped()).spawn();
        std::mem::forget(guard.unwrap().stdin);
        Server { cloud, dir, bucket, env }
    }

    /// The environment of somebody who has another key.
    pub(crate) fn env_of_a_stranger(&self) -> Vec<(String, String)> {
        let change = |(name, value): &(String, String)| {
            let value = match name.as_str() {
                "AWS_SECRET_ACCESS_KEY" => "another".to_owned(),
                "AZURE_STORAGE_ACCOUNT_KEY" => "YW5vdGhlcg==".to_owned(),
                "GOOGLE_SERVICE_ACCOUNT" => self.dir.join("stranger.json").display().to_string(),
                _ => value.clone(),
            };
            (name.clone(), value)
        };
        self.env.iter().map(change).collect()
    }

    /// The environment that finds the server behind TLS, and the certificate of its authority.
    pub(crate) fn secured(&self) -> (Vec<(String, String)>, String) {
        let secrets = self.dir.join("secrets");
        let endpoint = std::fs::read_to_string(secrets.join("endpoint")).unwrap();
        let mut env = self.env.clone();
        env.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
        env.push(("AWS_ENDPOINT_URL".to_owned(), endpoint.trim().to_owned()));
        (env, secrets.join("ca.pem").display().to_string())
    }

    /// What must not be said anywhere: keys, or a line of one.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let keys = ["AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"];
        let named = self.env.iter().filter(|(name, _)| keys.contains(&name.as_str()));
        let mut secrets: Vec<String> = named.map(|(_, value)| value.clone()).collect();
        for name in ["account.key", "stranger.key"] {
            let text = std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            secrets.extend(text.lines().filter(|it| !it.contains("---")).map(str::to_owned));
        }
        assert!(!secrets.is_empty());
        secrets
    }

    /// What whoever writes there can reach of a folder.
    pub(crate) fn folder(&self, name: &str) -> Folder {
        let options = self.env.iter().map(|(name, value)| (name.to_lowercase(), value));
        let bucket = &self.bucket;
        let objects: Box<dyn ObjectStore> = match self.cloud {
            Cloud::S3 => {
                let builder = AmazonS3Builder::new().with_url(bucket).with_allow_http(true);
                let with = |it: AmazonS3Builder, (name, value): (String, &String)| {
                    it.with_config(name.parse().unwrap(), value)
                };
                Box::new(options.fold(builder, with).build().unwrap())
            }
            Cloud::Azure => {
                let builder = MicrosoftAzureBuilder::new().with_url(bucket).with_allow_http(true);
                let with = |it: MicrosoftAzureBuilder, (name, value): (String, &String)| {
                    it.with_config(name.parse().unwrap(), value)
                };
                Box::new(options.fold(builder, with).build().unwrap())
            }
            Cloud::Google => {
                let builder = GoogleCloudStorageBuilder::new().with_url(bucket);
                let with = |it: GoogleCloudStorageBuilder, (name, value): (String, &String)| {
                    it.with_config(name.parse().unwrap(), value)
                };
                Box::new(options.fold(builder, with).build().unwrap())
            }
        };
        let runtime = healwright::up::runtime().unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(objects, name));
        let depot = Depot::of(objects.clone(), runtime.handle().clone());
        Folder { objects, depot, runtime }
    }
}

/// A folder of the bucket.
pub(crate) struct Folder {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) depot: Depot,
    pub(crate) runtime: Runtime,
}
