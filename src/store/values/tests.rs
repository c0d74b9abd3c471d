use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::engine::{Assignment, NodeMetadata, Revision, Role, ShardEpoch, ShardId, WorkType};

fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap()
}

fn id(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn metadata(start: SystemTime) -> NodeMetadata {
    NodeMetadata { id: id(5), address: "n5".into(), start, role: Role::Leader }
}

#[test]
fn metadata_is_what_the_go_package_writes() {
    let start = UNIX_EPOCH + Duration::new(1_795_375_514, 621_576_132);
    let wire = r#"{"ID":5,"Address":"n5","Start":"2026-11-22T19:25:14.621576132Z","Role":1}"#;
    assert_eq!(text(encode_metadata(&metadata(start))), wire);
    assert_eq!(decode_metadata(wire.as_bytes()), Some(metadata(start)));
}

#[test]
fn a_candidate_and_a_tick_are_what_the_go_package_writes() {
    assert_eq!(text(encode_id(id(5))), "5");
    assert_eq!(text(encode_tick(Duration::from_millis(100))), "100000000");
    assert_eq!(decode_id(b"5"), Some(id(5)));
    assert_eq!(decode_tick(b"100000000"), Some(Duration::from_millis(100)));
    for junk in ["", "0", "-1", "+1", "01", "1.0", "x", "9223372036854775808", "1 "] {
        assert_eq!(decode_tick(junk.as_bytes()), None, "{junk}");
    }
}

#[test]
fn metadata_is_read_as_go_reads_it() {
    let start = UNIX_EPOCH + Duration::from_secs(3600);
    for wire in [
        r#"{"id":5,"ADDRESS":"n5","start":"1970-01-01T03:00:00+02:00","role":1}"#,
        r#"{"Role":1,"New":{"a":[1,2]},"Start":"1970-01-01T01:00:00Z","Address":"n5","ID":5}"#,
        r#"{"ID":4,"ID":5,"Address":"n5","Address":null,"Start":"1970-01-01T01:00:00.000Z","Role":1}"#,
    ] {
        assert_eq!(decode_metadata(wire.as_bytes()), Some(metadata(start)), "{wire}");
    }
    let sparse =
        NodeMetadata { id: id(0), address: String::new(), start: UNIX_EPOCH, role: Role::Unknown };
    assert_eq!(decode_metadata(b"{}"), Some(sparse.clone()));
    assert_eq!(decode_metadata(br#"{"Role":9}"#), Some(sparse));
    for junk in
        [r#"{"ID":-1}"#, r#"{"ID":"5"}"#, r#"{"ID":5.5}"#, r#"{"Start":"now"}"#, "[]", "5", ""]
    {
        assert_eq!(decode_metadata(junk.as_bytes()), None, "{junk}");
    }
}

#[test]
fn a_start_that_no_calendar_holds_is_written_as_the_epoch() {
    let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
    assert_eq!(decode_metadata(&encode_metadata(&metadata(far))), Some(metadata(UNIX_EPOCH)));
}

#[test]
fn metadata_that_names_another_node_is_junk_under_this_ones_key() {
    let kv = KeyValue {
        key: b"/C/nodes/6".to_vec(),
        value: encode_metadata(&metadata(UNIX_EPOCH)),
        created: Revision(2),
        modified: Revision(3),
        version: 2,
        lease: Some(LeaseId(7)),
    };
    let stored = Stored {
        created: Revision(2),
        modified: Revision(3),
        lease: Some(LeaseId(7)),
        value: None,
        bytes: Vec::new(),
    };
    assert_eq!(change(Key::Node(id(6)), Some(&kv)), Some(Change::Node(id(6), Some(stored))));
}

#[test]
fn our_own_values_are_versioned_json() {
    let record = Record {
        term: Term(41),
        lease: Some(LeaseId(0x7c3f)),
        node: Some(id(5)),
        n: 17,
        d: Duration::from_secs(1),
        ended: false,
        suspended: false,
    };
    assert_eq!(
        text(encode_record(&record)),
        r#"{"v":1,"term":41,"lease":"7c3f","id":5,"n":17,"d_ns":1000000000,"ended":false}"#
    );
    let member = Member {
        lease: LeaseId(0x7c3f),
        d: Duration::from_secs(1),
        f: Duration::from_secs(3),
        tick: Duration::from_millis(50),
        policy: TickPolicy::Adopt,
        pod_uid: None,
        work: vec![WorkOffer {
            work: WorkType::new("probe"),
            shards: 256,
            weight: 1,
            capacity: None,
            as_leader: true,
        }],
        draining: false,
        campaigns: true,
    };
    assert_eq!(
        text(encode_member(&member)),
        r#"{"v":1,"lease":"7c3f","d_ns":1000000000,"f_ns":3000000000,"tick_ns":50000000,"policy":"adopt","work":[{"work":"probe","shards":256,"weight":1,"as_leader":true}]}"#
    );
    let request = DrainRequest { since_unix_ms: 12, why: "disk".into() };
    assert_eq!(text(encode_drain_request(&request)), r#"{"v":1,"since_unix_ms":12,"why":"disk"}"#);
}

#[test]
fn runs_of_shards_are_one_word() {
    let a = Assignment { owner: Some(LeaseId(0xa)), epoch: ShardEpoch(9), draining: false };
    let b = Assignment { owner: Some(LeaseId(0xb)), epoch: ShardEpoch(9), draining: false };
    let plan = PlanTable {
        shards: vec![a, a, b, Assignment { draining: true, ..a }, Assignment::default(), a],
    };
    assert_eq!(
        text(encode_plan(&plan)),
        r#"{"v":1,"owners":["a","b"],"runs":"0-1=0@9 2=1@9 3=0@9! 4=-@0 5=0@9"}"#
    );
    let probe = WorkType::new("probe");
    let held = Held {
        nonce: 0xff,
        shards: [(1, 4), (2, 4), (3, 5), (9, 5)]
            .map(|(shard, epoch)| ((probe.clone(), ShardId(shard)), ShardEpoch(epoch)))
            .into(),
    };
    assert_eq!(
        text(encode_held(&held)),
        r#"{"v":1,"nonce":"ff","shards":{"probe":"1-2@4 3@5 9@5"}}"#
    );
    assert_eq!(text(encode_held(&Held::default())), r#"{"v":1,"nonce":"0"}"#);
}

#[test]
fn the_largest_plan_and_held_key_stay_far_below_etcds_limit() {
    let worst = |shards: u32| {
        let plan = PlanTable {
            shards: (0..shards)
                .map(|shard| Assignment {
                    owner: Some(LeaseId(i64::MAX - i64::from(shard))),
                    epoch: ShardEpoch(i64::MAX - i64::from(shard)),
                    draining: true,
                })
                .collect(),
        };
        let work = WorkType::new("probe");
        let held = Held {
            nonce: u64::MAX,
            shards: (0..shards)
                .map(|shard| ((work.clone(), ShardId(shard)), plan.shards[shard as usize].epoch))
                .collect(),
        };
        let (plan_wire, held_wire) = (encode_plan(&plan), encode_held(&held));
        assert_eq!(decode_plan(&plan_wire), Some(plan));
        assert_eq!(decode_held(&held_wire), Some(held));
        (plan_wire.len(), held_wire.len())
    };
    let (plan, held) = worst(1024);
    assert!(plan < 64 << 10 && held < 32 << 10, "{plan} {held}");
    let (plan, held) = worst(MAX_SHARDS);
    assert!(plan < MAX_VALUE_BYTES && held < MAX_VALUE_BYTES, "{plan} {held}");
}

#[test]
fn fields_of_a_later_version_are_ignored_and_a_later_version_is_junk() {
    let newer = r#"{"v":1,"term":1,"n":2,"d_ns":3,"ended":true,"mood":"good"}"#;
    assert!(decode_record(newer.as_bytes()).is_some());
    let newest = r#"{"v":2,"term":1,"n":2,"d_ns":3,"ended":true}"#;
    assert_eq!(decode_record(newest.as_bytes()), None);
    let policy =
        r#"{"v":1,"lease":"a","d_ns":1,"f_ns":1,"tick_ns":1,"policy":"bold","draining":true}"#;
    assert_eq!(decode_member(policy.as_bytes()).unwrap().policy, TickPolicy::Strict);
}

#[test]
fn shards_that_cannot_be_are_junk() {
    for runs in [
        "1=-@0",
        "0=0@1",
        "0-2=-@0 2=-@0",
        "0=-@-1",
        "0=-@x",
        "0=-",
        "0",
        "0-=-@0",
        "2-0=-@0",
        "0-4294967295=-@0",
        "0-16384=-@0",
    ] {
        let wire = format!(r#"{{"v":1,"owners":[],"runs":"{runs}"}}"#);
        assert_eq!(decode_plan(wire.as_bytes()), None, "{runs}");
    }
    for runs in ["0", "0@", "0@-1", "1@1 1@2", "0-5@1 3@1", "0-4294967295@1", "x@1"] {
        let wire = format!(r#"{{"v":1,"nonce":"1","shards":{{"probe":"{runs}"}}}}"#);
        assert_eq!(decode_held(wire.as_bytes()), None, "{runs}");
    }
    assert_eq!(decode_held(br#"{"v":1,"nonce":"1","shards":{"a/b":"0@1"}}"#), None);
}

#[test]
fn a_short_value_cannot_unfold_into_gigabytes() {
    let many: BTreeMap<String, String> =
        (0..40_000).map(|work| (work.to_string(), "0-16383@1".to_owned())).collect();
    let wire =
        format!(r#"{{"v":1,"nonce":"1","shards":{}}}"#, serde_json::to_string(&many).unwrap());
    assert!(wire.len() < MAX_VALUE_BYTES);
    assert_eq!(decode_held(wire.as_bytes()), None);
    let huge =
        format!(r#"{{"v":1,"term":1,"n":2,"d_ns":3,"ended":true,"x":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(decode_record(huge.as_bytes()), None);
}

fn leases() -> impl Strategy<Value = LeaseId> {
    (1..=i64::MAX).prop_map(LeaseId)
}

fn ids() -> impl Strategy<Value = NodeId> {
    (0..=i64::MAX).prop_map(id)
}

fn spans() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn works() -> impl Strategy<Value = WorkType> {
    "[a-zA-Z\"\\\\é.-]{1,8}".prop_map(WorkType::new)
}

fn offers() -> impl Strategy<Value = WorkOffer> {
    (works(), 1..=MAX_SHARDS, 1..=u32::MAX, option::of(any::<u32>()), any::<bool>()).prop_map(
        |(work, shards, weight, capacity, as_leader)| WorkOffer {
            work,
            shards,
            weight,
            capacity,
            as_leader,
        },
    )
}

proptest! {
    #[test]
    fn a_record_reads_back(
        term in 0..=i64::MAX, lease in option::of(leases()), node in option::of(ids()), n: u64,
        d in spans(), ended: bool, suspended: bool,
    ) {
        let record = Record { term: Term(term), lease, node, n, d, ended, suspended };
        prop_assert_eq!(decode_record(&encode_record(&record)), Some(record));
    }

    #[test]
    fn a_member_reads_back(
        lease in leases(), d in spans(), f in spans(), tick in spans(), adopt: bool,
        pod_uid in option::of(".*"), work in vec(offers(), 0..4), draining: bool,
        campaigns: bool,
    ) {
        let policy = if adopt { TickPolicy::Adopt } else { TickPolicy::Strict };
        let member = Member { lease, d, f, tick, policy, pod_uid, work, draining, campaigns };
        prop_assert_eq!(decode_member(&encode_member(&member)), Some(member));
    }

    #[test]
    fn a_held_key_reads_back(
        nonce: u64,
        shards in vec((works(), 0..40_u32, 0..4_i64), 0..60),
    ) {
        let shards = shards
            .into_iter()
            .map(|(work, shard, epoch)| ((work, ShardId(shard)), ShardEpoch(epoch)))
            .collect();
        let held = Held { nonce, shards };
        prop_assert_eq!(decode_held(&encode_held(&held)), Some(held));
    }

    #[test]
    fn a_plan_reads_back(shards in vec((option::of(1..4_i64), 0..3_i64, any::<bool>()), 0..80)) {
        let shards = shards
            .into_iter()
            .map(|(owner, epoch, draining)| Assignment {
                owner: owner.map(LeaseId),
                epoch: ShardEpoch(epoch),
                draining,
            })
            .collect();
        let plan = PlanTable { shards };
        prop_assert_eq!(decode_plan(&encode_plan(&plan)), Some(plan));
    }

    #[test]
    fn metadata_reads_back(
        node in ids(), address in ".*", secs in -62_135_596_800..253_402_214_400_i64,
        nanos in 0..1_000_000_000_u32, role in 0..3_i64,
    ) {
        let start = SystemTime::from(jiff::Timestamp::new(secs, 0).unwrap())
            + Duration::from_nanos(u64::from(nanos));
        let role = Role::from_number(role).unwrap();
        let metadata = NodeMetadata { id: node, address, start, role };
        prop_assert_eq!(decode_metadata(&encode_metadata(&metadata)), Some(metadata));
    }

    #[test]
    fn numbers_and_requests_read_back(node in ids(), nanos in 1..=i64::MAX as u64, ms: u64, why in ".*") {
        let tick = Duration::from_nanos(nanos);
        prop_assert_eq!(decode_id(&encode_id(node)), Some(node));
        prop_assert_eq!(decode_tick(&encode_tick(tick)), Some(tick));
        prop_assert_eq!(decode_term(&encode_term(Term(node.get()))), Some(Term(node.get())));
        let request = DrainRequest { since_unix_ms: ms, why };
        prop_assert_eq!(decode_drain_request(&encode_drain_request(&request)), Some(request));
    }

    #[test]
    fn junk_never_panics(junk in vec(any::<u8>(), 0..80), at in 0..200_usize, byte: u8) {
        let mut held = encode_held(&Held { nonce: 1, ..Held::default() });
        let mut metadata = encode_metadata(&metadata(UNIX_EPOCH));
        for value in [&mut held, &mut metadata] {
            let at = at % value.len();
            value[at] = byte;
        }
        for value in [junk, held, metadata] {
            let _ = decode_metadata(&value);
            let _ = decode_record(&value);
            let _ = decode_member(&value);
            let _ = decode_held(&value);
            let _ = decode_plan(&value);
            let _ = decode_drain_request(&value);
            let _ = (decode_id(&value), decode_tick(&value), decode_term(&value));
        }
    }
}
