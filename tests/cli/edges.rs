//! What a command must not leave behind, take, or be told.

use crate::ask;
use crate::home::{Home, Node};

/// Folders of readers among the temporary files.
fn readers(home: &Home) -> Vec<String> {
    let names = std::fs::read_dir(home.tmp()).unwrap().flatten();
    let names = names.map(|it| it.file_name().to_string_lossy().into_owned());
    names.filter(|it| it.starts_with("healwright-reader-")).collect()
}

fn signal(node: &Node, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(node.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_tail_that_is_ended_leaves_no_folder_behind() {
    use rustix::process::Signal;
    let home = Home::new();
    drop(home.up());
    for ended_by in [Signal::TERM, Signal::INT] {
        let tail = home.start(&["events", "tail"], "following the journal");
        assert_eq!(readers(&home).len(), 1);
        signal(&tail, ended_by);
        drop(tail);
        assert_eq!(readers(&home), Vec::<String>::new(), "{ended_by:?}");
    }
}

#[test]
fn a_data_directory_is_known_by_its_journal_when_the_note_of_its_deployment_is_gone() {
    let home = Home::new();
    drop(home.up());
    std::fs::remove_file(home.data().join("deployment")).unwrap();
    let verified = home.run(&["verify"]).expect(0).out;
    assert!(verified.starts_with("verified: "), "{verified}");
}

#[test]
fn an_export_into_the_data_directory_is_refused() {
    let home = Home::new();
    drop(home.up());
    let data = home.data();
    for place in [data.join("bundle"), data.join("run/../bundle"), data.clone()] {
        let ran = home.run(&["export", "--to", place.to_str().unwrap()]).expect(2);
        assert!(ran.err.contains("lies inside the data directory"), "{ran:?}");
    }
    assert!(!data.join("bundle").exists());
}

#[test]
fn a_change_at_a_time_that_no_entry_can_hold_is_the_senders_to_mend() {
    let home = Home::new();
    let node = home.up();
    let body = r#"{"id":"c-1","kind":"deploy","service":"shop","version":"1","author":"",
        "at":"2300-01-01T00:00:00Z","summary":""}"#;
    let answer = ask::ask(node.http().parse().unwrap(), "POST", "/api/v1/changes", body).unwrap();
    let (status, said) = ask::parts(&answer).unwrap();
    assert_eq!(status, 400, "{said}");
    assert!(said.contains("2300-01-01T00:00:00Z lies after 2262-04-11"), "{said}");
}
