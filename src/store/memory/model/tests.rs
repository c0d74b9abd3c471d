use super::*;
use crate::store::{CompareOp, Target};

const L1: LeaseId = LeaseId(0x11);
const L2: LeaseId = LeaseId(0x22);

fn model() -> Model {
    Model::new(ModelConfig::default())
}

fn at(ms: u64) -> BootTime {
    BootTime(Duration::from_millis(ms))
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn put_op(key: &str, value: &str, lease: Option<LeaseId>) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease }
}

fn put(model: &mut Model, key: &str, value: &str, lease: Option<LeaseId>) -> Revision {
    let txn = Txn { then: vec![put_op(key, value, lease)], ..Txn::default() };
    model.txn(at(0), &txn).unwrap().revision
}

fn delete(model: &mut Model, range: KeyRange) -> TxnAnswer {
    model.txn(at(0), &Txn { then: vec![Op::Delete(range)], ..Txn::default() }).unwrap()
}

fn compare(
    range: KeyRange,
    target: fn(Revision) -> Target,
    op: CompareOp,
    revision: i64,
) -> Compare {
    Compare { range, target: target(Revision(revision)), op }
}

fn kv(key: &str, value: &str, revisions: [i64; 3], lease: Option<LeaseId>) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: value.into(),
        created: Revision(revisions[0]),
        modified: Revision(revisions[1]),
        version: revisions[2],
        lease,
    }
}

fn gone(key: &str, revision: i64, previous: Option<KeyValue>) -> Event {
    Event { kv: kv(key, "", [0, revision, 0], None), deleted: true, previous }
}

fn list(model: &mut Model, range: KeyRange) -> Vec<KeyValue> {
    model.get(at(0), &Get::range(range)).unwrap().kvs
}

fn all() -> KeyRange {
    KeyRange { from: b"a".to_vec(), to: b"z".to_vec() }
}

#[test]
fn a_new_store_is_at_revision_one_and_each_change_is_one_more() {
    let mut model = model();
    assert_eq!(model.revision(), Revision(1));
    assert_eq!(put(&mut model, "b", "1", None), Revision(2));
    assert_eq!(put(&mut model, "b", "2", None), Revision(3));
    assert_eq!(delete(&mut model, KeyRange::key("x")).revision, Revision(3));
    assert_eq!(list(&mut model, all()), [kv("b", "2", [2, 3, 2], None)]);
    assert_eq!(delete(&mut model, KeyRange::key("b")).revision, Revision(4));
    assert_eq!(put(&mut model, "b", "3", None), Revision(5));
    assert_eq!(list(&mut model, all()), [kv("b", "3", [5, 5, 1], None)]);
}

#[test]
fn a_transaction_is_one_revision_and_reads_its_own_writes_in_order() {
    let mut model = model();
    put(&mut model, "a", "0", None);
    put(&mut model, "b", "0", None);
    let read = Op::Get(Get::range(all()));
    let old = Op::Get(Get { at: Some(Revision(2)), ..Get::range(all()) });
    let txn = Txn {
        then: vec![
            read.clone(),
            put_op("c", "1", None),
            read.clone(),
            old,
            Op::Delete(KeyRange { from: b"a".to_vec(), to: b"c".to_vec() }),
            read,
        ],
        ..Txn::default()
    };
    let (a, b, c) = (
        kv("a", "0", [2, 2, 1], None),
        kv("b", "0", [3, 3, 1], None),
        kv("c", "1", [4, 4, 1], None),
    );
    assert_eq!(
        model.txn(at(0), &txn).unwrap(),
        TxnAnswer {
            succeeded: true,
            revision: Revision(4),
            cluster: model.cluster(),
            reads: vec![
                vec![a.clone(), b.clone()],
                vec![],
                vec![a.clone(), b.clone(), c.clone()],
                vec![a.clone()],
                vec![],
                vec![c.clone()],
            ],
            deleted: vec![0, 0, 0, 0, 2, 0],
        }
    );
    let put = Event { kv: c, deleted: false, previous: None };
    assert_eq!(
        model.events(&all(), Revision(4), WithPrevious::Yes).unwrap(),
        [(Revision(4), vec![put, gone("a", 4, Some(a)), gone("b", 4, Some(b))])]
    );
}

#[test]
fn what_does_not_exist_compares_as_revision_zero() {
    let mut model = model();
    put(&mut model, "a", "", None);
    put(&mut model, "c", "", None);
    let empty = || KeyRange { from: b"x".to_vec(), to: b"y".to_vec() };
    for (compare, holds) in [
        (compare(KeyRange::key("b"), Target::Created, CompareOp::Equal, 0), true),
        (compare(KeyRange::key("b"), Target::Modified, CompareOp::Less, 1), true),
        (compare(KeyRange::key("a"), Target::Created, CompareOp::Equal, 2), true),
        (compare(KeyRange::key("a"), Target::Created, CompareOp::NotEqual, 2), false),
        (compare(empty(), Target::Created, CompareOp::Equal, 0), true),
        (compare(empty(), Target::Modified, CompareOp::Less, 1), true),
        (compare(empty(), Target::Modified, CompareOp::Greater, 0), false),
        (compare(all(), Target::Modified, CompareOp::Less, 4), true),
        (compare(all(), Target::Modified, CompareOp::Less, 3), false),
        (compare(all(), Target::Modified, CompareOp::Greater, 1), true),
    ] {
        let txn = Txn { compares: vec![compare.clone()], ..Txn::default() };
        assert_eq!(model.txn(at(0), &txn).unwrap().succeeded, holds, "{compare:?}");
    }
}

#[test]
fn an_unknown_lease_is_told_only_if_its_put_is_to_be_carried_out() {
    let mut model = model();
    let txn = |revision| Txn {
        compares: vec![compare(KeyRange::key("a"), Target::Created, CompareOp::Equal, revision)],
        then: vec![put_op("b", "", None), put_op("a", "", Some(L1))],
        otherwise: vec![],
    };
    assert!(!model.txn(at(0), &txn(9)).unwrap().succeeded);
    assert!(matches!(model.txn(at(0), &txn(0)), Err(StoreError::LeaseNotFound)));
    assert_eq!((model.revision(), model.is_empty()), (Revision(1), true));
}

#[test]
fn a_key_hangs_on_the_lease_of_its_last_put() {
    let mut model = model();
    model.grant(at(0), L1, secs(5)).unwrap();
    model.grant(at(0), L2, secs(5)).unwrap();
    for key in ["moved", "kept", "freed"] {
        put(&mut model, key, "", Some(L1));
    }
    put(&mut model, "moved", "", Some(L2));
    put(&mut model, "freed", "", None);
    model.revoke(at(0), L1).unwrap();
    let left: Vec<_> = list(&mut model, all()).into_iter().map(|kv| kv.key).collect();
    assert_eq!(left, [b"freed".to_vec(), b"moved".to_vec()]);
    assert!(matches!(model.revoke(at(0), L1), Err(StoreError::LeaseNotFound)));
}

#[test]
fn a_revoke_deletes_all_keys_in_their_order_and_in_one_revision() {
    let mut model = model();
    model.grant(at(0), L1, secs(5)).unwrap();
    for key in ["c", "a", "b"] {
        put(&mut model, key, key, Some(L1));
    }
    assert_eq!(model.revoke(at(0), L1).unwrap().revision, Revision(5));
    let previous = |key, at| Some(kv(key, key, [at, at, 1], Some(L1)));
    let events = vec![
        gone("a", 5, previous("a", 3)),
        gone("b", 5, previous("b", 4)),
        gone("c", 5, previous("c", 2)),
    ];
    assert_eq!(
        model.events(&all(), Revision(5), WithPrevious::Yes).unwrap(),
        [(Revision(5), events)]
    );
    model.grant(at(0), L1, secs(5)).unwrap();
    assert_eq!(model.revoke(at(0), L1).unwrap().revision, Revision(5));
}

#[test]
fn a_lease_lives_whole_seconds_above_a_floor_and_ends_when_the_loop_finds_it() {
    let mut model = model();
    assert_eq!(model.grant(at(100), L1, secs(1)).unwrap().ttl, secs(2));
    assert_eq!(model.grant(at(100), L2, Duration::from_millis(4001)).unwrap().ttl, secs(5));
    assert!(matches!(model.grant(at(100), L1, secs(1)), Err(StoreError::LeaseExists)));
    put(&mut model, "a", "", Some(L1));
    assert_eq!(model.next_expiry(), Some(at(2500)));
    model.advance(at(2499));
    assert_eq!(model.len(), 1);
    model.advance(at(2500));
    assert_eq!((model.len(), model.next_expiry()), (0, Some(at(5500))));
    let fast = ModelConfig { election_timeout: Duration::from_millis(500), ..Default::default() };
    assert_eq!(Model::new(fast).grant(at(0), L1, secs(1)).unwrap().ttl, secs(1));
}

#[test]
fn a_renewed_lease_lives_on_and_an_expired_one_cannot_be_renewed() {
    let mut model = model();
    model.grant(at(100), L1, secs(2)).unwrap();
    put(&mut model, "a", "", Some(L1));
    assert_eq!(model.keep_alive(at(1900), L1).ttl, secs(2));
    assert_eq!(model.next_expiry(), Some(at(4000)));
    // Expired, but not yet found by the loop: the answer waits for the end of the lease, so its keys are
    // gone too.
    assert_eq!(model.keep_alive(at(3950), L1).ttl, Duration::ZERO);
    assert!(model.is_empty());
    assert_eq!(model.keep_alive(at(3950), L2).ttl, Duration::ZERO);
}

#[test]
fn after_a_failover_leases_begin_anew_and_the_deposed_leader_still_answers() {
    let mut model = model();
    model.grant(at(0), L1, secs(2)).unwrap();
    let deposed = model.failover(at(1900));
    assert_eq!(model.next_expiry(), Some(at(5000)));
    model.revoke(at(2000), L1).unwrap();
    assert_eq!(deposed.keep_alive(L1).ttl, secs(2));
    assert_eq!(model.keep_alive(at(2000), L1).ttl, Duration::ZERO);
}

#[test]
fn the_past_can_be_read_until_it_is_compacted() {
    let mut model = model();
    for value in ["1", "2", "3"] {
        put(&mut model, "a", value, None);
    }
    delete(&mut model, KeyRange::key("a"));
    let mut read = |revision| {
        let get = Get { at: Some(Revision(revision)), ..Get::key("a") };
        model.get(at(0), &get).map(|answer| (answer.revision.0, answer.kvs))
    };
    assert_eq!(read(1).unwrap(), (5, vec![]));
    assert_eq!(read(3).unwrap(), (5, vec![kv("a", "2", [2, 3, 2], None)]));
    assert_eq!(read(5).unwrap(), (5, vec![]));
    assert!(matches!(read(6), Err(StoreError::Denied { .. })));

    model.compact(Revision(4)).unwrap();
    let mut read = |revision| {
        let get = Get { at: Some(Revision(revision)), ..Get::key("a") };
        model.get(at(0), &get).map(|answer| (answer.revision.0, answer.kvs))
    };
    assert!(matches!(
        read(3),
        Err(StoreError::Compacted { asked: Revision(3), oldest: Revision(4) })
    ));
    assert_eq!(read(4).unwrap(), (5, vec![kv("a", "3", [2, 4, 3], None)]));
    assert!(matches!(model.compact(Revision(4)), Err(StoreError::Compacted { .. })));
    assert!(matches!(model.compact(Revision(6)), Err(StoreError::Denied { .. })));
}

#[test]
fn events_come_from_where_they_are_asked_for_and_not_from_before_the_compaction() {
    let mut model = model();
    for value in ["1", "2", "3"] {
        put(&mut model, "a", value, None);
    }
    put(&mut model, "zz", "", None);
    model.compact(Revision(3)).unwrap();
    let event = |value, revision, previous| {
        let kv = kv("a", value, [2, revision, revision - 1], None);
        (Revision(revision), vec![Event { kv, deleted: false, previous }])
    };
    assert!(matches!(
        model.events(&all(), Revision(2), WithPrevious::Yes),
        Err(StoreError::Compacted { asked: Revision(2), oldest: Revision(3) })
    ));
    assert_eq!(
        model.events(&all(), Revision(3), WithPrevious::Yes).unwrap(),
        [event("2", 3, None), event("3", 4, Some(kv("a", "2", [2, 3, 2], None)))]
    );
    assert_eq!(model.events(&all(), Revision(4), WithPrevious::No).unwrap(), [event("3", 4, None)]);
    assert_eq!(model.events(&all(), Revision(5), WithPrevious::No).unwrap(), []);
    assert_eq!(model.events(&all(), Revision(99), WithPrevious::No).unwrap(), []);
}

#[test]
fn a_limit_cuts_a_read_short_and_says_so() {
    let mut model = model();
    for key in ["c", "a", "b"] {
        put(&mut model, key, key, None);
    }
    let get = |limit, at| Get { limit, at, keys_only: true, ..Get::range(all()) };
    let answer = model.get(at(0), &get(2, None)).unwrap();
    assert_eq!(answer.kvs, [kv("a", "", [3, 3, 1], None), kv("b", "", [4, 4, 1], None)]);
    assert!(answer.more);
    assert!(!model.get(at(0), &get(3, None)).unwrap().more);
    assert!(model.get(at(0), &get(1, Some(Revision(3)))).unwrap().more);
    assert!(!model.get(at(0), &get(1, Some(Revision(2)))).unwrap().more);
}

#[test]
fn a_malformed_transaction_changes_nothing() {
    let mut model = model();
    let delete = Op::Delete(KeyRange::prefix("a"));
    for ops in [
        vec![put_op("a", "1", None), put_op("a", "2", None)],
        vec![put_op("ab", "1", None), delete],
        vec![put_op("", "1", None)],
        vec![put_op("a", &"x".repeat(2 << 20), None)],
        vec![Op::Get(Get::key("a")); 129],
    ] {
        for txn in [
            Txn { then: ops.clone(), ..Txn::default() },
            Txn { otherwise: ops.clone(), ..Txn::default() },
        ] {
            assert!(matches!(model.txn(at(0), &txn), Err(StoreError::Denied { .. })));
        }
    }
    assert_eq!(model.revision(), Revision(1));
}

#[test]
fn a_wiped_store_begins_again_and_keeps_its_cluster_id() {
    let mut model = model();
    model.set_cluster(7);
    model.grant(at(0), L1, secs(2)).unwrap();
    put(&mut model, "a", "", Some(L1));
    model.wipe();
    assert_eq!((model.revision(), model.len(), model.cluster()), (Revision(1), 0, 7));
    assert!(matches!(model.revoke(at(0), L1), Err(StoreError::LeaseNotFound)));
}

#[test]
fn a_backup_comes_back_with_its_leases_renewed_and_its_revisions_bumped_if_asked() {
    let mut model = model();
    model.grant(at(0), L1, secs(2)).unwrap();
    put(&mut model, "a", "1", Some(L1));
    let backup = model.clone();
    put(&mut model, "a", "2", Some(L1));
    model.advance(at(1900));

    let mut plain = model.clone();
    plain.restore(&backup, None);
    assert_eq!(plain.revision(), Revision(2));
    assert_eq!(list(&mut plain, all()), [kv("a", "1", [2, 2, 1], Some(L1))]);
    assert_eq!(plain.next_expiry(), Some(at(5000)));

    model.restore(&backup, Some(1000));
    assert_eq!(model.revision(), Revision(1002));
    assert_eq!(list(&mut model, all()), [kv("a", "1", [2, 2, 1], Some(L1))]);
    assert!(matches!(
        model.events(&all(), Revision(3), WithPrevious::No),
        Err(StoreError::Compacted { .. })
    ));
    assert_eq!(put(&mut model, "a", "3", Some(L1)), Revision(1003));
    assert_eq!(model.events(&all(), Revision(1003), WithPrevious::No).unwrap().len(), 1);
}
