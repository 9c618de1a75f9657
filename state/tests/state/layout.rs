//! What lies on disk, byte for byte where it is short: LAYOUT.md's drift alarm.

use std::fmt::Write as _;

use expect_test::expect;
use rocksdb::{DB, IteratorMode, Options};
use schemas::Stream;
use schemas::ids::hex;
use state::embedded::EmbeddedLog;
use state::{Log, State};

use crate::fixture::{Author, deployment};

#[test]
fn a_directory_holds_what_layout_md_says() {
    let temporary = tempfile::tempdir().unwrap();
    let log = std::sync::Arc::new(EmbeddedLog::open(temporary.path(), &deployment(), 0).unwrap());
    let author = Author::new(0);
    let mut state = State::new(log.clone()).unwrap();
    state.put(b"detection/api", b"red".to_vec());
    state.wake("detection", "api", 7);
    let genesis = log.head().unwrap();
    log.append(&genesis, &author.elect(&genesis), &state.changes()).unwrap();
    let head = log.head().unwrap();
    log.append(&head, &author.batch(&head, 2, 8), &state.changes()).unwrap();
    log.send(Stream::Telemetry, &[b"first".to_vec(), b"second".to_vec()]).unwrap();
    log.forget(Stream::Telemetry, 1).unwrap();
    log.quarantine(b"junk", "why").unwrap();
    drop((state, log));

    let path = temporary.path().join("journal");
    let options = Options::default();
    let families = DB::list_cf(&options, &path).unwrap();
    let db = DB::open_cf_for_read_only(&options, &path, &families, false).unwrap();
    let mut dump = String::new();
    for name in &families {
        let all = db.iterator_cf(db.cf_handle(name).unwrap(), IteratorMode::Start);
        for (key, value) in all.map(Result::unwrap) {
            let shown = if value.len() <= 140 { hex(&value) } else { "…".to_owned() };
            writeln!(dump, "{name} {} {} {shown}", key.escape_ascii(), value.len()).unwrap();
        }
    }
    expect![[r#"
        journal \x00\x00\x00\x00\x00\x00\x00\x00 897 …
        journal \x00\x00\x00\x00\x00\x00\x00\x01 605 …
        state \x00position 8 0000000000000003
        state \x00wdetection\x00api 8 0000000000000007
        state detection/api 3 726564
        telemetry \x00\x00\x00\x00\x00\x00\x00\x00 5 6669727374
        telemetry \x00\x00\x00\x00\x00\x00\x00\x01 6 7365636f6e64
        quarantine quarantine.count 8 0000000000000001
        quarantine \xef\x87Z\x17\x05\xa5\xfd\xac k\xe9\x96\xf4\xdc\x1frn\xa6\xb6\x88a\xebt\x1c7\xde\xf7\'\x7f\x17\x9e7 19 4857510100000003776879000000046a756e6b
        meta deployment 37 746573742d3562636663313265363364656564633165353663636433643337316630646635
        meta format 4 00000001
        meta head 112 370cf01bbdd04daf26ee5576d255100535f92a22897fb05fb5fe107836df246f00000000000000030000000000000001ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d10000000000000000000000000000000000000000000000000000000000000000
        meta partition 4 00000000
        meta position 8 0000000000000003
        meta quarantine.count 8 0000000000000001
        meta telemetry.end 8 0000000000000002
        meta telemetry.floor 8 0000000000000001
    "#]].assert_eq(&dump);
}
