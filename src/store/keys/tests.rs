use proptest::prelude::*;

use super::*;

fn keys() -> Keys {
    Keys::new("C").unwrap()
}

fn id(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn text(key: Vec<u8>) -> String {
    String::from_utf8(key).unwrap()
}

fn problem(result: Result<impl std::fmt::Debug, InvalidName>) -> NameProblem {
    result.unwrap_err().problem
}

#[test]
fn keys_are_laid_out_as_the_go_package_lays_them_out() {
    let lease = LeaseId(0x694d_9a1c_0f3e_22a1);
    assert_eq!(text(keys().candidate(lease)), "/C/election/694d9a1c0f3e22a1");
    assert_eq!(text(keys().candidate(LeaseId(0xab))), "/C/election/ab");
    assert_eq!(text(keys().node(id(5))), "/C/nodes/5");
    assert_eq!(text(keys().tick_key(id(5))), "/C/state-data/tick/5");
    assert_eq!(
        text(keys().state("ts/coord/server", id(5)).unwrap()),
        "/C/state-data/ts/coord/server/5"
    );
    let range = keys().state_of_all("k").unwrap();
    assert_eq!(
        (text(range.from), text(range.to)),
        ("/C/state-data/k/".into(), "/C/state-data/k0".into())
    );
}

#[test]
fn one_range_covers_what_every_node_watches_and_no_state_of_users() {
    let keys = keys();
    let watched = keys.watched();
    assert_eq!(text(watched.from.clone()), "/C/bellwether/");
    assert_eq!(text(watched.to.clone()), "/C/nodes0");
    let work = WorkType::new("probe");
    for inside in [
        keys.candidate(LeaseId(1)),
        keys.node(id(0)),
        keys.member(id(i64::MAX)),
        keys.held(LeaseId(i64::MAX)),
        keys.record(),
        keys.plan(&work),
        keys.tick(),
        keys.resign_request(),
        keys.drain_request(id(1)),
    ] {
        assert!(watched.contains(&inside), "{}", text(inside));
    }
    for outside in [
        keys.tick_key(id(1)),
        keys.state("k", id(1)).unwrap(),
        keys.leader_data("last-pass").unwrap(),
        keys.last_run("backup").unwrap(),
        keys.settled(LeaseId(1)),
        keys.shard_data(&work, ShardId(3), "k").unwrap(),
        Keys::new("C2").unwrap().record(),
    ] {
        assert!(!watched.contains(&outside), "{}", text(outside));
    }
}

#[test]
fn every_key_reads_back_as_itself() {
    let keys = Keys::new("team/shop").unwrap();
    let work = WorkType::new("probe");
    for (key, expected) in [
        (keys.candidate(LeaseId(0xbeef)), Key::Candidate(LeaseId(0xbeef))),
        (keys.node(id(0)), Key::Node(id(0))),
        (keys.tick_key(id(7)), Key::TickKey(id(7))),
        (keys.state("a/b", id(7)).unwrap(), Key::State { key: "a/b".into(), node: id(7) }),
        (keys.state("ticks", id(7)).unwrap(), Key::State { key: "ticks".into(), node: id(7) }),
        (keys.member(id(3)), Key::Member(id(3))),
        (keys.held(LeaseId(1)), Key::Held(LeaseId(1))),
        (keys.record(), Key::Record),
        (keys.plan(&work), Key::Plan(work.clone())),
        (keys.tick(), Key::Tick),
        (keys.resign_request(), Key::ResignRequest),
        (keys.drain_request(id(9)), Key::DrainRequest(id(9))),
        (keys.leader_data("x/y").unwrap(), Key::Data("leader/x/y".into())),
        (keys.settled(LeaseId(0xa1)), Key::Data("settled/a1".into())),
    ] {
        assert_eq!(keys.parse(&key), Some(expected), "{}", text(key));
    }
    assert_eq!(keys.cluster(), "team/shop");
}

#[test]
fn what_is_not_spelt_as_we_spell_it_is_foreign() {
    for foreign in [
        "/C/nodes/",
        "/C/nodes/007",
        "/C/nodes/+7",
        "/C/nodes/-1",
        "/C/nodes/7/x",
        "/C/nodes/x",
        "/C/nodes/9223372036854775808",
        "/C/election/",
        "/C/election/AB",
        "/C/election/0ab",
        "/C/election/0",
        "/C/election/ffffffffffffffff",
        "/C/election/+1",
        "/C/bellwether/",
        "/C/bellwether/beat/x",
        "/C/bellwether/plan/",
        "/C/bellwether/plan/a/b",
        "/C/bellwether/x/1",
        "/C/state-data/5",
        "/C/state-data/k/x",
        "/C/state-data/tick/a/5",
        "/C/other/5",
        "/C",
        "/D/nodes/5",
        "",
        "nodes/5",
    ] {
        assert_eq!(keys().parse(foreign.as_bytes()), None, "{foreign}");
    }
    assert_eq!(keys().parse(b"/C/nodes/\xff"), None);
}

#[test]
fn a_bad_cluster_name_is_an_error_that_says_what_to_do() {
    for good in ["gigo-core", "gigo-ws", "test", "C", "team/shop", "nodes", "a b", "größe", "a.b_c"]
    {
        Keys::new(good).unwrap();
    }
    assert_eq!(problem(Keys::new("")), NameProblem::Empty);
    assert_eq!(problem(Keys::new("/a")), NameProblem::EmptySegment);
    assert_eq!(problem(Keys::new("a/")), NameProblem::EmptySegment);
    assert_eq!(problem(Keys::new("a//b")), NameProblem::EmptySegment);
    assert_eq!(problem(Keys::new("a\0b")), NameProblem::Control { at: 1 });
    assert_eq!(problem(Keys::new("a\n")), NameProblem::Control { at: 1 });
    assert_eq!(problem(Keys::new(" a")), NameProblem::Padded);
    assert_eq!(problem(Keys::new("a/nodes")), NameProblem::Reserved { word: "nodes" });
    assert_eq!(
        problem(Keys::new(&"a".repeat(256))),
        NameProblem::TooLong { bytes: 256, most: 255 }
    );
    assert_eq!(
        Keys::new("shop/").unwrap_err().to_string(),
        "cluster name \"shop/\" begins or ends with a slash or has two in a row: use single ones inside"
    );
}

#[test]
fn the_go_packages_own_tick_key_is_refused_to_users() {
    for reserved in ["tick", "tick/a", "tick/a/b"] {
        assert_eq!(problem(keys().state(reserved, id(1))), NameProblem::Reserved { word: "tick" });
        assert_eq!(problem(keys().state_of_all(reserved)), NameProblem::Reserved { word: "tick" });
    }
    for fine in ["ticks", "a/tick", "tick-tock"] {
        keys().state(fine, id(1)).unwrap();
    }
    assert_eq!(problem(keys().state("", id(1))), NameProblem::Empty);
    assert_eq!(problem(keys().state("k/", id(1))), NameProblem::EmptySegment);
    assert_eq!(problem(keys().state("a\u{7f}", id(1))), NameProblem::Control { at: 1 });
    assert_eq!(
        problem(keys().state(&"k".repeat(1025), id(1))),
        NameProblem::TooLong { bytes: 1025, most: 1024 }
    );
    assert_eq!(problem(validate_work_type("a/b")), NameProblem::Slash);
}

#[test]
fn a_long_name_is_cut_short_in_the_message() {
    let error = keys().state(&"ü".repeat(2000), id(1)).unwrap_err();
    assert_eq!(error.value, format!("{}…", "ü".repeat(80)));
}

proptest! {
    #[test]
    fn reading_any_bytes_as_a_key_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = keys().parse(&bytes);
        let _ = keys().parse(&[b"/C/bellwether/".as_slice(), &bytes].concat());
        let _ = keys().parse(&[b"/C/state-data/".as_slice(), &bytes].concat());
    }

    #[test]
    fn any_valid_state_key_reads_back(key in "\\PC{1,20}(/\\PC{1,9}){0,3}", node in 0..=i64::MAX) {
        if let Ok(stored) = keys().state(&key, id(node)) {
            prop_assert_eq!(keys().parse(&stored), Some(Key::State { key, node: id(node) }));
        }
    }
}
