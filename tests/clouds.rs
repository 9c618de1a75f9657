//! Checkpoints in buckets: nodes of the real program on a real Kafka keep them on servers that
//! speak the protocols of S3, Azure Blob Storage and Google Cloud Storage, and check who asks.
//!
//! The servers are emulators (S3Proxy; Azurite; a door of our own before S3Proxy for Google's),
//! and what is shown is shown of them, not of the clouds.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "kafka/bed.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod bed;
#[path = "cluster/fleet.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fleet;
#[path = "blackbox/home.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod home;
#[path = "blackbox/ask.rs"]
mod http;
#[path = "clouds/server.rs"]
mod server;

use std::collections::BTreeSet;

use fleet::Fleet;
use healwright::checkpoints::{self, Uploaded};
use healwright::keys::Identity;
use home::{HEALWRIGHT, Home, Ran, until};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use schemas::Hash;
use schemas::ids::hex;
use schemas::signature::KeyPair;
use serde_json::Value;
use server::{Cloud, Folder, Server};
use state::checkpoint::Checkpoint;
use tokio_stream::StreamExt as _;

/// S3 and Google list so many objects in one answer; Azure, with 5000, is not tried that far.
const LISTED_AT_ONCE_MAX: u32 = 1000;

/// A fleet of one node that keeps its checkpoints in a folder of the server's bucket.
fn fleet(server: &Server, folder: &str, env: &[(String, String)]) -> Fleet {
    let url = format!("{}/{folder}", server.bucket);
    Fleet::start_with_checkpoints_at(bed::shared(), &url, env)
}

/// Says a change and waits for a checkpoint that has it. One follows a batch and not sooner than a
/// second after the last, so more is said meanwhile.
fn take(fleet: &mut Fleet, node: usize, change: &str) -> u64 {
    let place = fleet.place(node, change).unwrap();
    let seq: u64 = place.rsplit_once('/').unwrap().1.parse().unwrap();
    let mut count = 0;
    until("a checkpoint is taken", || {
        count += 1;
        fleet.change(node, &format!("{change}-{count}"));
        fleet.metric(node, &Fleet::taken(0)).filter(|it| seq < *it)
    })
}

/// `healwright checkpoint list` for whom the environment says.
fn list(env: &[(String, String)], url: &str) -> Ran {
    let home = Home::new();
    let mut command = home.command(HEALWRIGHT);
    fleet::describe(&mut command, env);
    command.args(["checkpoint", "list", url, "-o", "json"]);
    home::run(command)
}

fn listed(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// No word of a key was said.
fn check_silence(server: &Server, said: &str) {
    for secret in server.secrets() {
        assert!(!said.contains(&secret), "a secret is in {said}");
    }
}

impl Folder {
    /// Bytes of all files of checkpoints that lie there.
    fn bytes(&self) -> u64 {
        let listed = self.objects.list(None).collect::<Result<Vec<_>, _>>();
        let listed = self.runtime.block_on(listed).unwrap();
        let files = listed.iter().filter(|it| it.location.as_ref().contains("/files/"));
        files.map(|it| it.size).sum()
    }

    fn files(&self, deployment: &str, next_seq: u64) -> BTreeSet<String> {
        let signed = checkpoints::manifest(&self.depot, deployment, 0, next_seq).unwrap();
        signed.checkpoint.files.iter().map(|(.., hash)| hex(&hash.0)).collect()
    }

    /// Puts what lies at `from` in the place of `to`.
    fn put_over(&self, from: &Path, to: &Path) {
        self.runtime.block_on(async {
            let found = self.objects.get(from).await.unwrap().bytes().await.unwrap();
            self.objects.put(to, found.into()).await.unwrap();
        });
    }

    fn delete(&self, path: &Path) {
        self.runtime.block_on(self.objects.delete(path)).unwrap();
    }
}

/// A node takes checkpoints and sends each file once; an empty node begins with the newest one;
/// what is spoiled there is passed over.
fn check_the_way_there_and_back(cloud: Cloud) {
    let Some(server) = cloud.server() else { return };
    let (name, folder) = ("kept/here", server.folder("kept/here"));
    let mut fleet = fleet(server, name, &server.env);
    let url = format!("{}/{name}", server.bucket);
    let taken = ["first", "second", "third"].map(|change| take(&mut fleet, 0, change));
    assert!(taken.is_sorted_by(|a, b| a < b), "{taken:?}");
    until("what lies there is what was sent, each file once", || {
        let sent = fleet.metric(0, "healwright_checkpoint_sent_bytes_total");
        (sent == Some(folder.bytes())).then_some(())
    });

    let new = fleet.add();
    let restored = fleet.metric(new, &Fleet::restored(0)).unwrap();
    assert!(taken[2] <= restored, "{restored} of {taken:?}");
    fleet.stop(new);
    fleet.stop(0);
    std::fs::remove_dir_all(fleet.home().join(format!("data-{new}/journal"))).unwrap();

    let before = listed(&list(&server.env, &url).expect(0));
    assert_eq!(before.len(), 3);
    let deployment = before[0]["deployment"].as_str().unwrap();
    let places = checkpoints::places(&folder.depot, deployment, 0).unwrap();
    let [newest, second, third] = places[..] else { panic!("{places:?}") };
    let at = |part: &str, name: &str| Path::from_iter([deployment, "0", part, name]);
    let manifest = |seq: u64| at("checkpoints", &format!("{seq:020}"));
    // An older one in the place of the newest, and a file gone that the next one needs.
    folder.put_over(&manifest(second), &manifest(newest));
    let files = folder.files(deployment, second);
    let lost = files.difference(&folder.files(deployment, third)).next().unwrap().clone();
    folder.delete(&at("files", &lost));
    let after = listed(&list(&server.env, &url).expect(1));
    let error = after[2]["error"].as_str().unwrap();
    assert!(error.contains(&format!("lies in the place of {newest}")), "{error}");

    fleet.restart(new);
    assert_eq!(fleet.metric(new, &Fleet::restored(0)), Some(third));
    assert_eq!(fleet.metric(new, "healwright_checkpoints_passed_over_total"), Some(2));
    let told = fleet.said_by(new);
    assert!(told.contains(&lost) && told.contains("it is not there (404"), "{told}");
    take(&mut fleet, new, "after");
    fleet.await_taken();
    fleet.check();
    check_silence(server, &fleet.said());
}

#[test]
fn s3_takes_checkpoints_gives_them_back_and_spoiled_ones_are_passed_over() {
    check_the_way_there_and_back(Cloud::S3);
}

#[test]
fn azure_takes_checkpoints_gives_them_back_and_spoiled_ones_are_passed_over() {
    check_the_way_there_and_back(Cloud::Azure);
}

#[test]
fn google_takes_checkpoints_gives_them_back_and_spoiled_ones_are_passed_over() {
    check_the_way_there_and_back(Cloud::Google);
}

/// Another key, and a bucket that is not there: where, what, and what to do, on one line, and no
/// secret; the node goes on without.
fn check_refusals(cloud: Cloud, keys: &str, container: &str) {
    let Some(server) = cloud.server() else { return };
    let stranger = server.env_of_a_stranger();
    let url = format!("{}/refused", server.bucket);
    let mut fleet = fleet(server, "refused", &stranger);
    let said = list(&stranger, &url).expect(2).err;
    assert_eq!(said.lines().count(), 1, "{said}");
    for word in [&server.bucket, "http://127.0.0.1:", "the credentials are refused (40", keys] {
        assert!(said.contains(word), "{word}: {said}");
    }

    fleet.place(0, "goes-on").unwrap();
    fleet.await_metric(0, "healwright_checkpoints_total{outcome=\"failed\"}", 0);
    let told = fleet.said();
    for word in ["no checkpoint can be looked for", "no checkpoint was taken", keys] {
        assert!(told.contains(word), "{word}: {told}");
    }

    let absent = list(&server.env, &format!("{}x/dir", server.bucket)).expect(2).err;
    assert_eq!(absent.lines().count(), 1, "{absent}");
    let what = format!("there is no {container} `checkpointsx` (404");
    assert!(absent.contains(&what) && absent.contains("make it, or correct the URL"), "{absent}");
    check_silence(server, &[said, told, absent].concat());
}

#[test]
fn s3_refuses_another_key_and_a_missing_bucket_in_words_to_act_on() {
    check_refusals(Cloud::S3, "AWS_SECRET_ACCESS_KEY", "bucket");
}

#[test]
fn azure_refuses_another_key_and_a_missing_container_in_words_to_act_on() {
    check_refusals(Cloud::Azure, "AZURE_STORAGE_ACCOUNT_KEY", "container");
}

#[test]
fn google_refuses_another_key_and_a_missing_bucket_in_words_to_act_on() {
    check_refusals(Cloud::Google, "GOOGLE_SERVICE_ACCOUNT", "bucket");
}

#[test]
fn s3_over_tls_is_believed_by_an_authority_that_the_environment_names_and_no_other() {
    let server = Cloud::S3.server().unwrap();
    let (mut env, authority) = server.secured();
    let url = format!("{}/secured", server.bucket);
    let said = list(&env, &url).expect(2).err;
    assert!(said.contains("no answer (invalid peer certificate: UnknownIssuer)"), "{said}");
    env.push(("SSL_CERT_FILE".to_owned(), authority));
    list(&env, &url).expect(0);
}

/// A large file and more small ones than a cloud tells at once go there, are found there, and come
/// back bit for bit.
fn check_a_large_checkpoint(cloud: Cloud) {
    let Some(server) = cloud.server() else { return };
    let folder = server.folder("large");
    let [root, node] = [1, 2].map(|it| KeyPair::from_seed(&[it; 32]));
    let identity = Identity::new("test", "a", &root, node);
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let mut files = Vec::new();
    let large: Vec<u8> = (0..20_000_000u32).map(|it| (it >> 7) as u8).collect();
    let small = (0..LISTED_AT_ONCE_MAX).map(|it| it.to_string().into_bytes());
    for (n, bytes) in small.chain([large.clone()]).enumerate() {
        let name = format!("{n}.sst");
        std::fs::write(journal.join(&name), &bytes).unwrap();
        files.push((name, bytes.len() as u64, Hash::of(&[&bytes])));
    }
    let n_files = files.len();
    let nothing = Hash::of(&[]);
    let made = Checkpoint {
        deployment: identity.deployment.clone(),
        partition: 0,
        next_seq: 1,
        position: 1,
        batch: nothing,
        state: nothing,
        files,
    };
    let send = || checkpoints::upload(&folder.depot, home.path(), &made, &identity).unwrap();
    assert_eq!(send(), Uploaded { files: n_files, bytes: made.bytes() });
    assert_eq!(send(), Uploaded { files: 0, bytes: 0 });
    let target = home.path().join("target");
    let restored =
        checkpoints::restore(&folder.depot, &identity.deployment, 0, &target, |_| Ok(()));
    assert_eq!(restored.unwrap().unwrap().files, n_files);
    let name = format!("journal/{LISTED_AT_ONCE_MAX}.sst");
    assert!(std::fs::read(target.join(name)).unwrap() == large);
}

#[test]
fn s3_takes_files_of_many_pieces_and_more_files_than_it_lists_at_once() {
    check_a_large_checkpoint(Cloud::S3);
}

#[test]
fn azure_takes_files_of_many_pieces_and_a_thousand_files() {
    check_a_large_checkpoint(Cloud::Azure);
}

#[test]
fn google_takes_files_of_many_pieces_and_more_files_than_it_lists_at_once() {
    check_a_large_checkpoint(Cloud::Google);
}
