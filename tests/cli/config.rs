//! Where every number of a configuration comes from.

use crate::home::Home;

#[test]
fn every_number_is_shown_with_where_it_comes_from() {
    let home = Home::new();
    let config = "profile = \"production\"\n[numbers]\nattempts_max = 1\n";
    std::fs::write(home.path().join("hw.toml"), config).unwrap();
    let _node =
        home.start(&["up", "--http", "127.0.0.1:0", "--config", "hw.toml"], "ready: http://");
    let shown = home.run(&["config", "show", "--effective", "--origin", "-o", "json"]).expect(0);
    let numbers = shown.json()["numbers"].as_array().unwrap().clone();
    let origin = |name: &str| {
        let number = numbers.iter().find(|it| it["name"] == name).expect(name);
        number["origin"].as_str().unwrap().to_owned()
    };
    assert_eq!(origin("trust_min"), "profile production");
    assert!(origin("attempts_max").starts_with("the configuration, version 1"), "{numbers:?}");
    let own = home.run(&["config", "show", "--origin", "-o", "json"]).expect(0).json();
    assert_eq!(own["numbers"].as_array().map(Vec::len), Some(1), "{own}");
}

#[test]
fn the_configurations_that_the_compose_file_mounts_are_good() {
    let home = Home::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/healwright");
    let compose = include_str!("../../docker-compose.yml");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(compose.contains(&format!("./ops/healwright/{name}:")), "{name} is not mounted");
        home.run(&["config", "check", path.to_str().unwrap()]).expect(0);
    }
}

#[test]
fn an_unreadable_configuration_is_pointed_at_with_line_and_column() {
    let home = Home::new();
    let check = |text: &str, said: &str| {
        std::fs::write(home.path().join("hw.toml"), text).unwrap();
        let ran = home.run(&["config", "check", "hw.toml"]).expect(2);
        assert!(ran.err.contains(said), "{ran:?}");
        let ran = home.run(&["up", "--config", "hw.toml"]).expect(2);
        assert!(ran.err.contains(said), "{ran:?}");
        assert!(!home.data().exists(), "a bad configuration starts nothing");
    };
    check("profile = \"local\"\n[http]\n  lisen = \"127.0.0.1:1\"\n", "hw.toml:3:3: unknown field");
    check("[http]\nlisen = \"127.0.0.1:1\"\n", "did you mean `listen`?");
    check("profile = \"local\n", "hw.toml:1:");
    check("profile = \"lokal\"\n", "hw.toml:1:1: `profile` \"lokal\" is none of local, production");
    check("[numbers]\nattempt_max = 3\n", "hw.toml:2:1: `numbers.attempt_max` is no number");
    check("[numbers]\nattempt_max = 3\n", "did you mean `attempts_max`?");
    check("[numbers]\nprobe_period_ms = 0\n", "hw.toml:2:1: `probe_period_ms` is 0");
    let shop = "[[service]]\nname = \"shop\"\ncommand = [\"x\"]\n\
                probe_url = \"http://127.0.0.1:1/\"\n";
    check(
        &format!("{shop}attempts_window_ms = 18446744073709551615\n"),
        "hw.toml:5:1: service shop",
    );
    check(&format!("{shop}{shop}"), "hw.toml:6:1: `name` \"shop\" stands twice");
}
