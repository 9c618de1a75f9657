//! Where checkpoints may go, and what is said of those that lie there.

use crate::home::{HEALWRIGHT, Home, run};

#[test]
fn an_embedded_log_takes_no_place_for_checkpoints_and_says_what_backs_it_up() {
    let home = Home::new();
    let config = "[checkpoints]\nurl = \"s3://bucket/dir\"\n";
    std::fs::write(home.path().join("hw.toml"), config).unwrap();
    home.run(&["config", "check", "hw.toml"]).expect(0);
    let refused = home.run(&["up", "--config", "hw.toml"]).expect(2);
    assert!(refused.err.contains("healwright export --to DIR"), "{refused:?}");
    assert!(!home.data().join("journal").exists(), "nothing is made before it is refused");
}

#[test]
fn a_checkpoint_that_does_not_verify_is_listed_as_that_and_answers_no() {
    let home = Home::new();
    let folder = home.path().join("depot/local-00/0/checkpoints");
    let url = format!("file://{}", home.path().join("depot").display());
    let missing = home.run(&["checkpoint", "list", &url]).expect(2);
    assert!(missing.err.contains("depot"), "{missing:?}");
    assert!(!home.path().join("depot").exists(), "listing makes nothing");
    std::fs::create_dir_all(&folder).unwrap();
    home.run(&["checkpoint", "list", &url]).expect(0);
    std::fs::write(folder.join("00000000000000000017"), b"HWS\x01").unwrap();
    let listed = home.run(&["checkpoint", "list", &url, "-o", "json"]).expect(1);
    let said = listed.json();
    assert_eq!((&said["entries"], &said["deployment"]), (&17.into(), &"local-00".into()), "{said}");
    assert!(said["error"].as_str().unwrap().contains("signed checkpoint"), "{said}");
}

#[test]
fn another_machine_without_tls_is_refused_by_each_cloud_before_anything_is_sent() {
    let home = Home::new();
    std::fs::write(home.path().join("a.json"), r#"{"gcs_base_url": "http://store.invalid"}"#)
        .unwrap();
    let rows = [
        ("s3", "AWS_ENDPOINT_URL=http://store.invalid", "AWS_ALLOW_HTTP=true"),
        ("gs", "GOOGLE_BASE_URL=http://store.invalid", "GOOGLE_ALLOW_HTTP=true"),
        ("gs", "GOOGLE_SERVICE_ACCOUNT=a.json", "GOOGLE_ALLOW_HTTP=true"),
        ("az", "AZURE_STORAGE_ENDPOINT=http://store.invalid", "AZURE_ALLOW_HTTP=true"),
        ("az", "AZURITE_BLOB_STORAGE_URL=http://store.invalid", "AZURE_ALLOW_HTTP=true"),
    ];
    for (scheme, named, choice) in rows {
        let (name, value) = named.split_once('=').unwrap();
        let mut command = home.command(HEALWRIGHT);
        command.args(["checkpoint", "list", &format!("{scheme}://bucket")]).env(name, value);
        if name.starts_with("AZURITE") {
            command.env("AZURE_STORAGE_USE_EMULATOR", "true");
        }
        let refused = run(command).expect(2).err;
        for word in ["http://store.invalid", "another machine without TLS", choice] {
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
}
