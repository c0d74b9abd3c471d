use serde_json::json;

use super::*;
use crate::engine::{Change, Held, PlanTable, ShardEpoch, ShardId, Stored};

fn id(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Browsers, the command line and users' scripts read this JSON.
#[test]
fn a_status_in_json_has_ids_terms_leases_and_roles_as_strings() {
    let status = Status {
        cluster: "shop".into(),
        node: SelfStatus {
            id: id(i64::MAX),
            role: Role::Leader,
            term: Some(Term(7)),
            incarnation: Some(LeaseId(0x2a)),
            ..SelfStatus::default()
        },
        leader: Some(LeaderStatus { id: id(1), term: Term(7), ..LeaderStatus::default() }),
        nodes: vec![NodeStatus {
            id: id(2),
            role: Role::Follower,
            incarnation: Some(LeaseId(-1)),
            kind: Kind::Bellwether,
            ..NodeStatus::default()
        }],
        timeline: vec![Reign { term: Term(7), id: id(1), from_unix_ms: 5, ..Reign::default() }],
        work: vec![WorkStatus {
            work: "checks".into(),
            held_by: vec![Some(Holder::Node(id(2))), Some(Holder::Unknown), None],
            planned_for: vec![Some(id(2)), None, None],
            ..WorkStatus::default()
        }],
        ..Status::default()
    };
    let shown = serde_json::to_value(&status).unwrap();
    let expected = json!({
        "cluster": "shop",
        "node": {
            "id": "9223372036854775807", "address": "", "role": "Leader", "joined": false, "term": "7",
            "incarnation": "2a", "authority_left_ms": null, "shard_authority_left_ms": null,
            "lease_left_ms": null, "lease_ttl_ms": 0, "tick_ms": 0.0, "failover_d_ms": 0,
            "failover_h_ms": 0, "last_tick_unix_ms": null, "sessions_lost": 0, "problem": null,
        },
        "leader": {
            "id": "1", "address": null, "term": "7", "last_beat_unix_ms": null, "suspended": false,
        },
        "nodes": [{
            "id": "2", "address": "", "role": "Follower", "start_unix_ms": 0,
            "incarnation": "ffffffffffffffff", "kind": "bellwether", "shards": 0, "draining": false,
            "queue": null,
        }],
        "timeline": [{
            "term": "7", "id": "1", "from_unix_ms": 5, "to_unix_ms": null, "end": "running",
        }],
        "work": [{
            "work": "checks", "held_by": ["2", "?", null], "planned_for": ["2", null, null],
            "draining": [], "unowned": 0,
        }],
        "store": {
            "kind": "", "endpoint": "", "healthy": false, "problem": null, "revision": "0",
            "view_age_ms": 0,
        },
        "at_unix_ms": 0,
    });
    assert_eq!(shown, expected);
    assert_eq!(serde_json::from_value::<Status>(shown).unwrap(), status);
}

#[test]
fn the_other_kinds_and_ends_have_the_words_of_the_documentation() {
    let words =
        json!([Kind::Go, Kind::Unknown, ReignEnd::Ended, ReignEnd::Silent, ReignEnd::Replaced]);
    assert_eq!(words, json!(["go", "-", "ended", "silent", "replaced"]));
}

#[test]
fn a_role_that_is_not_known_is_read_as_unknown_and_a_malformed_id_is_refused() {
    for text in ["", "Unknown", "Regent"] {
        assert_eq!(serde_json::from_value::<Role>(json!(text)).unwrap(), Role::Unknown);
    }
    assert!(serde_json::from_value::<NodeId>(json!("-1")).is_err());
}

fn stored<T>(lease: i64, value: Option<T>) -> Stored<T> {
    let at = Revision(lease);
    Stored { created: at, modified: at, lease: Some(LeaseId(lease)), value, bytes: Vec::new() }
}

/// Node 1 without a member record holds the oldest candidate key; node 2 claims to lead; the metadata
/// of node 3 is malformed.
fn view() -> ClusterView {
    let metadata = |node| NodeMetadata {
        id: id(node),
        address: format!("host-{node}"),
        start: UNIX_EPOCH + Duration::from_millis(5),
        role: Role::Leader,
    };
    let key = |node| Change::Candidate(LeaseId(node), Some(stored(node, Some(id(node)))));
    let node = |node, value| Change::Node(id(node), Some(stored(node, value)));
    let shards = [((WorkType::new("checks"), ShardId(1)), ShardEpoch(1))].into();
    let held = Change::Held(LeaseId(2), Some(stored(2, Some(Held { nonce: 1, shards }))));
    let table = PlanTable { shards: vec![crate::engine::Assignment::default(); 2] };
    let plan = Change::Plan(WorkType::new("checks"), Some(stored(1, Some(table))));
    let nodes = [node(1, Some(metadata(1))), node(2, Some(metadata(2))), node(3, None)];
    ClusterView::of(Revision(9), nodes.into_iter().chain([key(2), key(1), held, plan]))
}

#[test]
fn the_leader_is_named_by_the_view_and_not_by_what_nodes_say() {
    let nodes = NodeStatus::all(&view());
    let shown: Vec<_> = nodes.iter().map(|it| (it.role, it.queue, it.shards)).collect();
    let (leader, unknown) = (Role::Leader, Role::Unknown);
    assert_eq!(shown, [(leader, Some(1), 0), (unknown, Some(2), 1), (unknown, None, 0)]);
    assert_eq!(nodes.iter().map(|it| it.start_unix_ms).collect::<Vec<_>>(), [5, 5, 0]);
    assert!(nodes.iter().all(|it| it.kind == Kind::Go));
}

#[test]
fn work_shows_its_holders_by_shard_number() {
    let expected = WorkStatus {
        work: "checks".into(),
        held_by: vec![None, Some(Holder::Unknown)],
        planned_for: vec![None, None],
        ..WorkStatus::default()
    };
    assert_eq!(WorkStatus::all(&view()), [expected]);
}
