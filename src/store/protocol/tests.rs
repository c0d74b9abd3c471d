use std::time::UNIX_EPOCH;

use CompareOp::{Equal, Less, NotEqual};
use Target::{Created, Modified};

use super::{transactions::*, *};
use crate::{
    engine::{
        Assignment, Change, Held, HolderClause, Join, JoinTick, Member, NodeId, NodeMetadata,
        PlanTable, Record, Role, ShardEpoch, ShardId, Stored, Take, Term, TickPolicy, WorkType,
        timing::SPAN_MAX,
    },
    store::{
        Compare, CompareOp, KeyRange, Store, Target,
        memory::{Fault, MemoryStore, Seen},
    },
};

const L: LeaseId = LeaseId(0xa1);
const OTHER: LeaseId = LeaseId(0xb2);
const THIRD: LeaseId = LeaseId(0xc3);
const SECOND: Duration = Duration::from_secs(1);

fn keys() -> Keys {
    Keys::new("C").unwrap()
}

fn id() -> NodeId {
    NodeId::new(5).unwrap()
}

fn work() -> WorkType {
    WorkType::new("probe")
}

fn record() -> Record {
    Record {
        term: Term(9),
        lease: Some(L),
        node: Some(id()),
        n: 3,
        d: SECOND,
        ended: false,
        suspended: false,
    }
}

fn ended() -> Record {
    Record { ended: true, ..record() }
}

fn metadata() -> NodeMetadata {
    NodeMetadata { id: id(), address: "n5".into(), start: UNIX_EPOCH, role: Role::Follower }
}

fn member() -> Member {
    Member {
        lease: L,
        d: SECOND,
        f: 3 * SECOND,
        tick: SECOND,
        policy: TickPolicy::Strict,
        pod_uid: None,
        work: Vec::new(),
        draining: false,
        campaigns: true,
    }
}

fn table() -> PlanTable {
    let owned = Assignment { owner: Some(OTHER), epoch: ShardEpoch(8), draining: false };
    PlanTable { shards: vec![owned, Assignment::default()] }
}

fn held() -> Held {
    Held { nonce: 6, shards: [((work(), ShardId(0)), ShardEpoch(8))].into() }
}

fn txn(call: &Call) -> Txn {
    match transaction(&keys(), call) {
        Request::Txn(txn) => txn,
        other => panic!("not a transaction: {other:?}"),
    }
}

fn on(key: &str, target: fn(Revision) -> Target, op: CompareOp, revision: i64) -> Compare {
    compare(KeyRange::key(key), target, op, Revision(revision))
}

fn over(prefix: &str, target: fn(Revision) -> Target, op: CompareOp, revision: i64) -> Compare {
    compare(KeyRange::prefix(prefix), target, op, Revision(revision))
}

fn puts(key: &str, value: impl Into<Vec<u8>>, lease: Option<LeaseId>) -> Op {
    put(key.into(), value.into(), lease)
}

fn deletes(key: &str) -> Op {
    delete(key.into())
}

fn reads<const N: usize>(keys: [&str; N]) -> Vec<Op> {
    gets(keys.map(Into::into))
}

const RECORD: &str = "/C/bellwether/beat";
const CAND: &str = "/C/election/a1";
const HELD: &str = "/C/bellwether/held/a1";
const NODE: &str = "/C/nodes/5";
const MEMBER: &str = "/C/bellwether/members/5";
const TICK: &str = "/C/bellwether/tick";
const PLAN: &str = "/C/bellwether/plan/probe";
const EMPTY_HELD: &str = r#"{"v":1,"nonce":"7"}"#;
const BEATEN: &str =
    r#"{"v":1,"term":9,"lease":"a1","id":5,"n":3,"d_ns":1000000000,"ended":false}"#;
const ENDED: &str = r#"{"v":1,"term":9,"lease":"a1","id":5,"n":3,"d_ns":1000000000,"ended":true}"#;

#[test]
fn t1_grant_t11_revoke_and_the_renewal_name_the_lease() {
    let grant = Call::Grant { lease: L, ttl: 5 * SECOND };
    assert_eq!(transaction(&keys(), &grant), Request::Grant { lease: L, ttl: 5 * SECOND });
    assert_eq!(transaction(&keys(), &Call::Revoke { lease: L }), Request::Revoke(L));
    assert_eq!(transaction(&keys(), &Call::Renew { lease: L }), Request::KeepAlive(L));
}

#[test]
fn t2_join_is_preceded_by_one_linearizable_read() {
    assert_eq!(
        txn(&Call::ReadJoin { id: id() }),
        Txn {
            compares: vec![],
            then: vec![
                get(TICK.into()),
                Op::Get(Get::range(KeyRange::prefix("/C/state-data/tick/"))),
                get(NODE.into()),
                get(MEMBER.into()),
            ],
            otherwise: vec![],
        }
    );
}

fn join(cluster_tick: JoinTick, candidate: bool) -> Call {
    Call::Join(Box::new(Join {
        lease: L,
        metadata: metadata(),
        tick: SECOND,
        member: member(),
        candidate,
        nonce: 7,
        cluster_tick,
    }))
}

fn joined(compares: Vec<Compare>, puts_after: Vec<Op>) -> Txn {
    let mut txn = Txn {
        compares: vec![
            on(NODE, Created, Equal, 0),
            on(MEMBER, Created, Equal, 0),
            on(HELD, Created, Equal, 0),
        ],
        then: vec![
            puts(
                NODE,
                r#"{"ID":5,"Address":"n5","Start":"1970-01-01T00:00:00Z","Role":2}"#,
                Some(L),
            ),
            puts("/C/state-data/tick/5", "1000000000", Some(L)),
            puts(
                MEMBER,
                r#"{"v":1,"lease":"a1","d_ns":1000000000,"f_ns":3000000000,"tick_ns":1000000000,"policy":"strict"}"#,
                Some(L),
            ),
            puts(HELD, EMPTY_HELD, Some(L)),
        ],
        otherwise: reads([NODE, MEMBER, HELD, TICK]),
    };
    txn.compares.extend(compares);
    txn.then.extend(puts_after);
    txn
}

#[test]
fn t2_join_creates_all_keys_of_a_node_if_none_of_them_exists() {
    let cand = puts(CAND, "5", Some(L));
    assert_eq!(
        txn(&join(JoinTick::Keep { modified: Revision(4) }, true)),
        joined(vec![on(TICK, Modified, Equal, 4)], vec![cand])
    );
    assert_eq!(
        txn(&join(JoinTick::Keep { modified: Revision(4) }, false)),
        joined(vec![on(TICK, Modified, Equal, 4)], vec![])
    );
}

#[test]
fn t2_join_sets_a_tick_only_if_no_live_node_can_differ() {
    let tick = puts(TICK, "1000000000", None);
    assert_eq!(
        txn(&join(JoinTick::Create { read: Revision(11), modified: Revision(0) }, false)),
        joined(
            vec![on(TICK, Modified, Equal, 0), over("/C/state-data/tick/", Modified, Less, 12),],
            vec![tick.clone()]
        )
    );
    let replaced = |strays| txn(&join(JoinTick::Replace { modified: Revision(4), strays }, false));
    let with_nodes = |mut txn: Txn| {
        txn.otherwise.push(Op::Get(Get::range(keys().nodes())));
        txn
    };
    assert_eq!(
        replaced(None),
        with_nodes(joined(
            vec![on(TICK, Modified, Equal, 4), over("/C/nodes/", Created, Equal, 0)],
            vec![tick.clone()]
        ))
    );
    let since = |prefix| over(prefix, Modified, Less, 12);
    assert_eq!(
        replaced(Some(Revision(11))),
        with_nodes(joined(
            vec![on(TICK, Modified, Equal, 4), since("/C/nodes/"), since("/C/state-data/tick/")],
            vec![tick]
        ))
    );
}

#[test]
fn t2_join_clears_an_operators_keys_away_only_as_they_were_seen() {
    assert_eq!(
        txn(&Call::DeleteSquatter { id: id(), node: Revision(3), member: Revision(0) }),
        Txn {
            compares: vec![on(NODE, Modified, Equal, 3), on(MEMBER, Modified, Equal, 0)],
            then: vec![deletes(NODE)],
            otherwise: reads([NODE, MEMBER]),
        }
    );
}

#[test]
fn t3_seed_creates_the_record_of_nobody_with_the_longest_wait() {
    let seed = r#"{"v":1,"term":0,"n":0,"d_ns":3000000000,"ended":false}"#;
    assert_eq!(
        txn(&Call::Seed { d: SPAN_MAX, ended: false }),
        Txn {
            compares: vec![on(RECORD, Created, Equal, 0)],
            then: vec![puts(RECORD, seed, None)],
            otherwise: reads([RECORD]),
        }
    );
    let own = r#"{"v":1,"term":0,"n":0,"d_ns":3000000000,"ended":true}"#;
    assert_eq!(txn(&Call::Seed { d: SPAN_MAX, ended: true }).then, [puts(RECORD, own, None)]);
}

#[test]
fn t4_enrol_queues_a_living_member_and_withdraw_leaves_the_record_alone() {
    assert_eq!(
        txn(&Call::Enrol { lease: L, id: id(), member_created: Revision(6) }),
        Txn {
            compares: vec![on(CAND, Created, Equal, 0), on(MEMBER, Created, Equal, 6)],
            then: vec![puts(CAND, "5", Some(L))],
            otherwise: reads([CAND, MEMBER]),
        }
    );
    assert_eq!(
        txn(&Call::Withdraw { lease: L, modified: Revision(8) }),
        Txn {
            compares: vec![on(CAND, Modified, Equal, 8)],
            then: vec![deletes(CAND)],
            otherwise: reads([CAND]),
        }
    );
}

fn take(older: Vec<(LeaseId, Revision)>, holder: HolderClause) -> Txn {
    txn(&Call::Take(Box::new(Take {
        term: Term(9),
        record_modified: Revision(14),
        record_value: b"seen".to_vec(),
        older,
        holder,
        record: record(),
    })))
}

fn taken(compares: Vec<Compare>, deletes: Vec<Op>) -> Txn {
    let own = vec![puts(CAND, "5", Some(L)), puts(RECORD, BEATEN, None)];
    Txn {
        compares: [
            vec![
                on(CAND, Created, Equal, 9),
                on(RECORD, Modified, Equal, 14),
                is_still(RECORD.into(), b"seen"),
            ],
            compares,
        ]
        .concat(),
        then: [deletes, own].concat(),
        otherwise: reads([CAND, RECORD]),
    }
}

#[test]
fn t5_take_proves_the_claim_and_writes_itself_into_the_record() {
    assert_eq!(take(vec![], HolderClause::None), taken(vec![], vec![]));
}

#[test]
fn t5_take_sweeps_all_older_candidates_away_and_proves_the_oldest() {
    assert_eq!(
        take(vec![(OTHER, Revision(4)), (THIRD, Revision(7))], HolderClause::None),
        taken(
            vec![on("/C/election/b2", Created, Equal, 4)],
            vec![deletes("/C/election/b2"), deletes("/C/election/c3")],
        )
    );
}

#[test]
fn t5_take_ends_the_holders_key_or_proves_that_it_is_gone() {
    assert_eq!(
        take(vec![], HolderClause::Delete { lease: OTHER }),
        taken(vec![], vec![deletes("/C/election/b2")])
    );
    assert_eq!(
        take(vec![], HolderClause::Gone { lease: OTHER, term: Term(4) }),
        taken(vec![on("/C/election/b2", Created, NotEqual, 4)], vec![])
    );
}

#[test]
fn t6_beat_writes_the_record_while_the_office_stands() {
    assert_eq!(
        txn(&Call::Beat { office: Revision(15), record: record() }),
        Txn {
            compares: vec![on(CAND, Modified, Equal, 15)],
            then: vec![puts(RECORD, BEATEN, None)],
            otherwise: reads([CAND, RECORD]),
        }
    );
}

#[test]
fn t7_fence_compares_the_mod_revision_of_the_candidate_key() {
    assert_eq!(in_office(&keys(), (L, Revision(15))), on(CAND, Modified, Equal, 15));
}

#[test]
fn t8_resign_marks_the_record_ended_and_leaves_the_queue_in_one_step() {
    assert_eq!(
        txn(&Call::Resign { office: Revision(15), record: ended() }),
        Txn {
            compares: vec![on(CAND, Modified, Equal, 15)],
            then: vec![puts(RECORD, ENDED, None), deletes(CAND)],
            otherwise: reads([CAND, RECORD]),
        }
    );
}

#[test]
fn t9_stop_empties_the_held_key_and_ends_the_record_only_from_office() {
    let stop = |office| txn(&Call::Stop { lease: L, held: Revision(12), nonce: 7, office });
    let otherwise = reads([CAND, RECORD, HELD]);
    assert_eq!(
        stop(None),
        Txn {
            compares: vec![on(HELD, Modified, Equal, 12)],
            then: vec![puts(HELD, EMPTY_HELD, Some(L)), deletes(CAND)],
            otherwise: otherwise.clone(),
        }
    );
    assert_eq!(
        stop(Some((Revision(15), ended()))),
        Txn {
            compares: vec![on(HELD, Modified, Equal, 12), on(CAND, Modified, Equal, 15)],
            then: vec![puts(HELD, EMPTY_HELD, Some(L)), puts(RECORD, ENDED, None), deletes(CAND)],
            otherwise,
        }
    );
}

#[test]
fn t10_end_touches_only_what_it_has_read() {
    assert_eq!(
        txn(&Call::ReadEnd { lease: L }),
        Txn { compares: vec![], then: reads([RECORD, HELD]), otherwise: vec![] }
    );
    let end = |record, held| txn(&Call::End { lease: L, record, held });
    assert_eq!(
        end(Some((Revision(20), ended())), Some((Revision(12), 7))),
        Txn {
            compares: vec![on(RECORD, Modified, Equal, 20), on(HELD, Modified, Equal, 12)],
            then: vec![puts(RECORD, ENDED, None), puts(HELD, EMPTY_HELD, Some(L)), deletes(CAND)],
            otherwise: reads([RECORD, HELD]),
        }
    );
    assert_eq!(
        end(None, None),
        Txn { compares: vec![], then: vec![deletes(CAND)], otherwise: reads([RECORD, HELD]) }
    );
}

#[test]
fn t12_claim_and_t13_release_write_the_held_key_as_last_known_under_the_plan_as_seen() {
    let write =
        |plans| txn(&Call::WriteHeld { lease: L, held: Revision(12), plans, content: held() });
    let then = vec![puts(HELD, r#"{"v":1,"nonce":"6","shards":{"probe":"0@8"}}"#, Some(L))];
    assert_eq!(
        write(vec![(work(), b"plan".to_vec())]),
        Txn {
            compares: vec![on(HELD, Modified, Equal, 12), is_still(PLAN.into(), b"plan")],
            then: then.clone(),
            otherwise: reads([HELD]),
        }
    );
    assert_eq!(
        write(vec![]),
        Txn { compares: vec![on(HELD, Modified, Equal, 12)], then, otherwise: reads([HELD]) }
    );
}

#[test]
fn t14_check_is_a_linearizable_read_of_the_held_key() {
    assert_eq!(transaction(&keys(), &Call::Check { lease: L }), Request::Get(Get::key(HELD)));
}

#[test]
fn t15_plan_is_fenced_and_proves_every_owner_it_takes_from() {
    let wire = r#"{"v":1,"owners":["b2"],"runs":"0=0@8 1=-@0"}"#;
    let office = (L, Revision(15));
    assert_eq!(
        txn(&Call::InitPlan { office, work: work(), table: table() }),
        Txn {
            compares: vec![on(CAND, Modified, Equal, 15), on(PLAN, Created, Equal, 0)],
            then: vec![puts(PLAN, wire, None)],
            otherwise: reads([PLAN, CAND]),
        }
    );
    let proofs = vec![(OTHER, b"22".to_vec()), (THIRD, b"23".to_vec())];
    let plan = Call::Plan { office, work: work(), modified: Revision(30), proofs, table: table() };
    assert_eq!(
        txn(&plan),
        Txn {
            compares: vec![
                on(CAND, Modified, Equal, 15),
                on(PLAN, Modified, Equal, 30),
                is_still("/C/bellwether/held/b2".into(), b"22"),
                is_still("/C/bellwether/held/c3".into(), b"23"),
            ],
            then: vec![puts(PLAN, wire, None)],
            otherwise: reads([PLAN, CAND]),
        }
    );
    assert_eq!(
        txn(&Call::DeleteHeld {
            office,
            lease: OTHER,
            modified: Revision(22),
            value: b"junk".to_vec()
        }),
        Txn {
            compares: vec![
                on(CAND, Modified, Equal, 15),
                on("/C/bellwether/held/b2", Modified, Equal, 22),
                is_still("/C/bellwether/held/b2".into(), b"junk"),
            ],
            then: vec![deletes("/C/bellwether/held/b2")],
            otherwise: reads(["/C/bellwether/held/b2", CAND]),
        }
    );
}

#[test]
fn t16_shard_write_compares_the_mod_revision_of_the_held_key() {
    assert_eq!(holds(&keys(), L, Revision(12)), on(HELD, Modified, Equal, 12));
}

#[test]
fn t17_own_keys_are_written_as_last_known_or_read() {
    let own = |key: &str, value: &str| Txn {
        compares: vec![on(key, Modified, Equal, 6)],
        then: vec![puts(key, value, Some(L))],
        otherwise: reads([key]),
    };
    let modified = Revision(6);
    assert_eq!(
        txn(&Call::WriteNode { lease: L, modified, metadata: metadata() }),
        own(NODE, r#"{"ID":5,"Address":"n5","Start":"1970-01-01T00:00:00Z","Role":2}"#)
    );
    assert_eq!(
        txn(&Call::WriteMember { id: id(), modified, member: member() }),
        own(
            MEMBER,
            r#"{"v":1,"lease":"a1","d_ns":1000000000,"f_ns":3000000000,"tick_ns":1000000000,"policy":"strict"}"#
        )
    );
    assert_eq!(
        txn(&Call::WriteTickKey { lease: L, id: id(), modified, tick: SECOND }),
        own("/C/state-data/tick/5", "1000000000")
    );
    assert_eq!(own_key(b"k".to_vec(), modified, b"v".to_vec(), L), own("k", "v"));
    assert_eq!(
        delete_own_key(b"k".to_vec(), modified),
        Txn { then: vec![deletes("k")], ..own("k", "") }
    );
}

#[test]
fn t18_switch_of_the_tick_proves_that_nobody_joined_or_changed_its_offer() {
    let office = (L, Revision(15));
    assert_eq!(
        txn(&Call::SwitchTick { office, modified: Revision(4), view: Revision(40), tick: SECOND }),
        Txn {
            compares: vec![
                on(CAND, Modified, Equal, 15),
                on(TICK, Modified, Equal, 4),
                over("/C/bellwether/members/", Modified, Less, 41),
                over("/C/nodes/", Created, Less, 41),
            ],
            then: vec![puts(TICK, "1000000000", None)],
            otherwise: reads([CAND, TICK]),
        }
    );
}

#[test]
fn t19_repair_deletes_a_broken_candidate_key_as_it_was_seen() {
    assert_eq!(
        txn(&Call::Withdraw { lease: OTHER, modified: Revision(8) }).compares,
        [on("/C/election/b2", Modified, Equal, 8)]
    );
}

/// R11 (every check reads a range): etcd answers a transaction without any operation from one member's own
/// state.
#[test]
fn r11_every_request_that_only_checks_reads_through_the_quorum() {
    for call in [Call::ReadJoin { id: id() }, Call::ReadEnd { lease: L }] {
        let txn = txn(&call);
        assert!(txn.then.iter().all(|op| matches!(op, Op::Get(Get { at: None, .. }))));
        assert!(!txn.then.is_empty());
    }
}

#[test]
fn the_largest_plan_and_take_that_the_protocol_allows_fit_a_transaction() {
    let proofs = (1..=100).map(|lease| (LeaseId(lease), Vec::new())).collect();
    let office = (L, Revision(15));
    let modified = Revision(30);
    txn(&Call::Plan { office, work: work(), modified, proofs, table: table() });
    let many = (1..=100).map(|lease| (LeaseId(lease), Revision(lease))).collect();
    take(many, HolderClause::Delete { lease: LeaseId(1000) });
}

#[test]
#[should_panic(expected = "plan: 129 compares, etcd takes 128")]
fn more_than_etcd_takes_is_our_own_bug() {
    let many = (1..=127).map(|lease| (LeaseId(lease), Vec::new())).collect();
    let office = (L, Revision(15));
    txn(&Call::Plan { office, work: work(), modified: Revision(1), proofs: many, table: table() });
}

#[tokio::test]
async fn a_call_done_or_refused_shows_what_was_read_and_what_is_absent() {
    let store = MemoryStore::new();
    let cluster = store.with_model(|model| model.cluster());
    let answer = |revision, changes| Answer {
        revision: Revision(revision),
        cluster,
        changes,
        ttl: Duration::ZERO,
    };
    let send = |call| {
        let store = store.clone();
        async move { send(&store, &keys(), &call, SECOND).await }
    };
    assert_eq!(
        send(Call::ReadJoin { id: id() }).await,
        Outcome::Done(answer(
            1,
            vec![Change::Tick(None), Change::Node(id(), None), Change::Member(id(), None)]
        ))
    );
    let seed = Call::Seed { d: SPAN_MAX, ended: true };
    assert_eq!(send(seed.clone()).await, Outcome::Done(answer(2, vec![])));
    let seeded = Record {
        term: Term(0),
        lease: None,
        node: None,
        n: 0,
        d: SPAN_MAX,
        ended: true,
        suspended: false,
    };
    let bytes = values::encode_record(&seeded);
    let at = Revision(2);
    let stored = Stored { created: at, modified: at, lease: None, value: Some(seeded), bytes };
    let shown = Change::Record(Some(stored));
    assert_eq!(send(seed).await, Outcome::Refused(answer(2, vec![shown.clone()])));
    let beat = Call::Beat { office: Revision(2), record: record() };
    assert_eq!(
        send(beat).await,
        Outcome::Refused(answer(2, vec![Change::Candidate(L, None), shown]))
    );
    assert_eq!(
        send(Call::Check { lease: L }).await,
        Outcome::Done(answer(2, vec![Change::Held(L, None)]))
    );
    let granted = Answer { revision: Revision(0), ttl: 5 * SECOND, ..answer(0, vec![]) };
    let grant = Call::Grant { lease: L, ttl: 5 * SECOND };
    assert_eq!(send(grant.clone()).await, Outcome::Done(granted.clone()));
    assert_eq!(send(grant).await, Outcome::LeaseExists);
    assert_eq!(send(Call::Renew { lease: L }).await, Outcome::Done(granted));
    assert_eq!(send(Call::Renew { lease: OTHER }).await, Outcome::Done(answer(0, vec![])));
    assert_eq!(send(Call::Revoke { lease: OTHER }).await, Outcome::LeaseNotFound);
    let tick = Call::WriteTickKey { lease: OTHER, id: id(), modified: Revision(0), tick: SECOND };
    assert_eq!(send(tick).await, Outcome::LeaseNotFound);
}

#[tokio::test]
async fn junk_in_an_else_branch_shows_as_a_key_without_a_value() {
    let store = MemoryStore::new();
    let junk = Txn { then: vec![puts(RECORD, "junk", None)], ..Txn::default() };
    store.txn(junk, SECOND).await.unwrap();
    let Outcome::Refused(answer) =
        send(&store, &keys(), &Call::Seed { d: SPAN_MAX, ended: false }, SECOND).await
    else {
        panic!("the record exists");
    };
    let stored = Stored {
        created: Revision(2),
        modified: Revision(2),
        lease: None,
        value: None,
        bytes: b"junk".to_vec(),
    };
    assert_eq!(answer.changes, [Change::Record(Some(stored))]);
}

#[tokio::test]
async fn an_unanswered_call_is_unknown_and_a_refused_one_failed() {
    let store = MemoryStore::new();
    let seed = Call::Seed { d: SPAN_MAX, ended: false };
    for (fault, expected) in [
        (Fault::LostRequest, Outcome::Unknown),
        (Fault::LostAnswer, Outcome::Unknown),
        (Fault::Interrupted, Outcome::Unknown),
        (Fault::Unreachable, Outcome::Failed),
        (Fault::Denied, Outcome::Failed),
        (Fault::Overloaded, Outcome::Failed),
    ] {
        store.faults().set(move |seen| matches!(seen, Seen::Txn(_)).then_some(fault));
        let outcome = send(&store, &keys(), &seed, Duration::from_millis(20)).await;
        assert_eq!(outcome, expected, "{fault:?}");
    }
}

#[test]
fn foreign_keys_are_skipped_and_counted() {
    let kv = |key: &str, value: &str| KeyValue {
        key: key.into(),
        value: value.into(),
        created: Revision(2),
        modified: Revision(3),
        version: 1,
        lease: None,
    };
    let tick = |value| Stored {
        created: Revision(2),
        modified: Revision(3),
        lease: None,
        value,
        bytes: Vec::new(),
    };
    let kvs = [kv("/C/bellwether/what", ""), kv(TICK, "5"), kv("/C/nodes/x", ""), kv("/C/ox", "")];
    assert_eq!(
        Decoded::of_list(&keys(), &kvs),
        Decoded {
            changes: vec![Change::Tick(Some(tick(Some(Duration::from_nanos(5)))))],
            foreign: 3
        }
    );
    let event = |key: &str, deleted| Event { kv: kv(key, "x"), deleted, previous: None };
    let events = [
        event(TICK, true),
        event(TICK, false),
        event("/C/nodes/x", true),
        event("/C/nodes/5", true),
    ];
    assert_eq!(
        Decoded::of_events(&keys(), &events),
        Decoded {
            changes: vec![
                Change::Tick(None),
                Change::Tick(Some(tick(None))),
                Change::Node(id(), None)
            ],
            foreign: 1
        }
    );
}
