use std::collections::BTreeMap;

use super::{picture::*, *};
use crate::{
    engine::{Holder, LeaseId, NodeId, Role},
    k8s::{
        conditions,
        crd::{condition, election::ElectionRole},
    },
    node::{
        KV,
        status::{LeaderStatus, NodeStatus, WorkStatus},
    },
};

const HOUR_MS: u64 = 3_600_000;

fn node(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Node 1 leads since an hour; node 2 follows and works on two of three shards, the third is nobody's.
fn status() -> Status {
    let live = |id, role, shards| NodeStatus {
        id: node(id),
        address: format!("10.0.0.{id}:8080"),
        role,
        incarnation: Some(LeaseId(0xa1)),
        shards,
        ..NodeStatus::default()
    };
    Status {
        leader: Some(LeaderStatus {
            id: node(1),
            address: Some("10.0.0.1:8080".into()),
            term: Term(7),
            ..LeaderStatus::default()
        }),
        nodes: vec![live(1, Role::Leader, 0), live(2, Role::Follower, 2)],
        timeline: vec![Reign {
            term: Term(7),
            id: node(1),
            from_unix_ms: HOUR_MS,
            to_unix_ms: None,
            end: ReignEnd::Running,
        }],
        work: vec![WorkStatus {
            work: "uptime".into(),
            held_by: vec![Some(Holder::Node(node(2))), Some(Holder::Node(node(2))), None],
            draining: vec![1],
            unowned: 1,
            ..WorkStatus::default()
        }],
        ..Status::default()
    }
}

/// Only node 1 has told its pod; what node 2 has told is junk.
fn pods() -> Pods {
    let kv = |value: &str| vec![KV { key: POD_KEY.into(), value: value.into() }];
    Pods::read(&BTreeMap::from([
        (node(1), kv(r#"{"name":"web-1","uid":"u1"}"#)),
        (node(2), kv("{")),
    ]))
}

fn holds(status: &ElectionStatus, type_: &str) -> String {
    conditions::find(&status.conditions, type_).unwrap().status.clone()
}

#[test]
fn the_picture_names_leader_nodes_and_shards() {
    let picture = picture(&status(), &pods(), None, 3 * HOUR_MS);
    let leader = picture.leader.clone().unwrap();
    assert_eq!(
        (leader.node, leader.name.as_str(), leader.address.as_str()),
        (1, "web-1", "10.0.0.1:8080")
    );
    assert_eq!(picture.node_count, Some(2));
    assert_eq!(picture.nodes[0].role, ElectionRole::Leader);
    assert_eq!(picture.nodes[1].pod, None);
    assert_eq!(picture.nodes[1].shards_owned, 2);
    let shards = picture.shards.clone().unwrap();
    assert_eq!((shards.total, shards.owned, shards.draining, shards.unowned), (3, 2, 1, 1));
    assert_eq!(holds(&picture, condition::READY), "True");
    assert_eq!(holds(&picture, condition::STABLE), "True");
    assert_eq!(holds(&picture, condition::SHARDS_OWNED), "False");
}

#[test]
fn shards_of_work_that_nobody_offers_are_neither_owned_nor_missed() {
    let mut status = status();
    let [uptime] = status.work.as_mut_slice() else { panic!("one work type") };
    (uptime.held_by[2], uptime.unowned) = (Some(Holder::Node(node(2))), 0);
    status.work.push(WorkStatus {
        work: "old".into(),
        held_by: vec![None; 4],
        ..WorkStatus::default()
    });
    let picture = picture(&status, &pods(), None, 3 * HOUR_MS);
    let shards = picture.shards.clone().unwrap();
    assert_eq!((shards.total, shards.owned, shards.unowned), (7, 3, 0));
    assert_eq!(holds(&picture, condition::SHARDS_OWNED), "True");
}

#[test]
fn a_cluster_without_a_leader_is_not_ready() {
    let nobody = Status { leader: None, ..status() };
    let picture = picture(&nobody, &pods(), None, 3 * HOUR_MS);
    assert_eq!(picture.leader, None);
    assert_eq!(holds(&picture, condition::READY), "False");
    assert_eq!(holds(&picture, condition::STABLE), "False");
}

#[test]
fn a_leader_that_has_just_begun_is_not_stable() {
    let picture = picture(&status(), &pods(), None, HOUR_MS + 1000);
    assert_eq!(holds(&picture, condition::READY), "True");
    assert_eq!(holds(&picture, condition::STABLE), "False");
}

#[test]
fn that_time_has_passed_is_no_news() {
    let before = picture(&status(), &pods(), None, 3 * HOUR_MS);
    let after = picture(&status(), &pods(), Some(&before), 3 * HOUR_MS + 5000);
    assert!(is_same_but_seen(&before, &after));
    let moved = picture(
        &Status { nodes: status().nodes[..1].to_vec(), ..status() },
        &pods(),
        Some(&before),
        3 * HOUR_MS + 5000,
    );
    assert!(!is_same_but_seen(&before, &moved));
}

#[test]
fn how_the_former_term_ended_is_told() {
    let reign = |term, id, end| Reign { term: Term(term), id: node(id), end, ..Reign::default() };
    let now = reign(7, 1, ReignEnd::Running);
    let told = |end| former_end(&[reign(5, 2, end), now], Term(7));
    assert_eq!(told(ReignEnd::Ended), "node 2 had ended term 5 cleanly");
    assert_eq!(told(ReignEnd::Silent), "node 2 of term 5 was silent for too long");
    assert_eq!(former_end(&[now], Term(7)), "no earlier term is known");
}

fn ended(manner: Manner) -> Ended {
    let picture = picture(&status(), &pods(), None, 3 * HOUR_MS);
    Ended {
        term: crate::engine::Term(7),
        fence: crate::k8s::fence::Fence::of(9),
        manner,
        name: "web-1".into(),
        pod: None,
        others: picture.nodes.into_iter().filter(|node| node.id == 2).collect(),
        may_be_succeeded: false,
    }
}

#[test]
fn of_a_term_that_ended_without_a_successor_it_is_said_that_no_node_leads() {
    let told = ended::status_of(&ended(Manner::Clean), 3 * HOUR_MS + 1);
    assert_eq!((&told.leader, told.term, told.node_count), (&None, Some(7), Some(1)));
    assert_eq!((&told.shards, told.since), (&None, None));
    assert_eq!(told.reported_at.unwrap().0, 3 * HOUR_MS);
    assert_eq!(holds(&told, condition::READY), "False");
    assert_eq!(holds(&told, condition::SHARDS_OWNED), "Unknown");
    let ready = conditions::find(&told.conditions, condition::READY).unwrap();
    assert_eq!(ready.message, "web-1 left office of term 7, and no node has taken it since");
}

#[test]
fn of_a_leader_that_lost_its_authority_it_is_said_that_it_is_not_known_who_leads() {
    let told = ended::status_of(&ended(Manner::Lost), 3 * HOUR_MS);
    assert_eq!((&told.leader, told.term, told.node_count), (&None, Some(7), None));
    assert!(told.nodes.is_empty() && told.shards.is_none() && told.checks.is_none());
    for type_ in [condition::READY, condition::STABLE, condition::SHARDS_OWNED] {
        assert_eq!(holds(&told, type_), "Unknown", "{type_}");
    }
}

#[test]
fn until_a_leader_has_looked_the_checks_are_as_they_were_told_last() {
    let checks = |up| ElectionChecks { total: 3, up, down: 3 - up, unknown: 0 };
    let mut last = ElectionStatus::default();
    picture::count(&mut last, Some(checks(2)), None);
    let mut new = ElectionStatus::default();
    picture::count(&mut new, None, Some(&last));
    assert_eq!((&new.checks, &new.summary), (&Some(checks(2)), &last.summary));
    picture::count(&mut new, Some(checks(1)), Some(&last));
    assert_eq!(new.summary.as_deref(), Some("3 checks: 1 up, 2 down"));
}
