//! Where checkpoints may go, and what is said of those that lie there.

use crate::home::Home;

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
