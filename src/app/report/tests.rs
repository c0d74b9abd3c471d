use std::time::SystemTime;

use crate::{
    engine::{
        Assignment, Change, Held, Member, NodeMetadata, PlanTable, Record, Revision, ShardEpoch,
        ShardId, Stored, TickPolicy, WorkOffer, WorkType,
    },
    k8s::crd::{election::ElectionLeader, value::UnixMs},
};

use super::*;

fn stored<T>(revision: i64, lease: i64, value: T) -> Stored<T> {
    let at = Revision(revision);
    let lease = (lease != 0).then_some(LeaseId(lease));
    Stored { created: at, modified: at, lease, value: Some(value), bytes: Vec::new() }
}

pub(crate) fn id(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Node 1 on lease 0xa leads in term 10, node 2 on 0xb follows and holds shard 0 of two; shard 1 is planned for node 2,
/// and no node holds it.
pub(crate) fn two_nodes() -> ClusterView {
    let mut view = ClusterView::of(Revision(99), []);
    for (number, lease, role) in [(1, 0xa, Role::Leader), (2, 0xb, Role::Follower)] {
        let metadata = NodeMetadata {
            id: id(number),
            address: format!("host-{number}:80"),
            // Not zero, which means that the start is not known.
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(500),
            role,
        };
        let member = Member {
            lease: LeaseId(lease),
            d: Duration::from_secs(1),
            f: Duration::from_secs(3),
            tick: Duration::from_millis(50),
            policy: TickPolicy::Strict,
            pod_uid: None,
            work: vec![WorkOffer {
                work: WorkType::new("checks"),
                shards: 2,
                weight: 1,
                capacity: None,
                as_leader: false,
            }],
            draining: false,
            campaigns: true,
        };
        let created = number * 10;
        view.apply(Change::Candidate(LeaseId(lease), Some(stored(created, lease, id(number)))));
        view.apply(Change::Node(id(number), Some(stored(created, lease, metadata))));
        view.apply(Change::Member(id(number), Some(stored(created, lease, member))));
    }
    let shards = [((WorkType::new("checks"), ShardId(0)), ShardEpoch(30))].into();
    let held = Held { nonce: 1, shards };
    view.apply(Change::Held(LeaseId(0xb), Some(stored(31, 0xb, held))));
    let assignment =
        Assignment { owner: Some(LeaseId(0xb)), epoch: ShardEpoch(30), draining: false };
    let plan = PlanTable { shards: vec![assignment; 2] };
    view.apply(Change::Plan(WorkType::new("checks"), Some(stored(30, 0, plan))));
    set_record(&mut view, record());
    view
}

/// Record of node 1 in office.
fn record() -> Record {
    Record {
        term: Term(10),
        lease: Some(LeaseId(0xa)),
        node: Some(id(1)),
        n: 1,
        d: Duration::from_secs(1),
        ended: false,
        suspended: false,
    }
}

fn set_record(view: &mut ClusterView, record: Record) {
    view.apply(Change::Record(Some(stored(40, 0, record))));
}

/// As [`two_nodes`], with a plan of two shards for the work type `old`, which no node offers.
pub(crate) fn with_a_retired_work_type() -> ClusterView {
    let mut view = two_nodes();
    let gone = Assignment { owner: Some(LeaseId(0xd)), ..Assignment::default() };
    let plan = PlanTable { shards: vec![gone; 2] };
    view.apply(Change::Plan(WorkType::new("old"), Some(stored(5, 0, plan))));
    view
}

#[test]
fn a_report_reads_well_and_names_every_node() {
    let report = Report::of_view("shop", &two_nodes(), Some(1_000), None);
    assert_eq!(
        report.render(3_500),
        "\
cluster shop   revision 99
leader 1 at host-1:80, term 10, deposed after 1.1s of silence, last beat 2.5s ago

NODE   ADDRESS     ROLE       KIND         AGE    QUEUE   SHARDS   NOTE
1      host-1:80   Leader     bellwether   3.0s   1       0
2      host-2:80   Follower   bellwether   3.0s   2       1

WORK     SHARDS   HELD   DRAINING   UNOWNED   PER NODE
checks   2        1      0          1         2:1
"
    );
}

#[test]
fn who_calls_itself_leader_and_is_not_in_office_is_not_shown_as_leader() {
    let mut view = two_nodes();
    set_record(&mut view, Record { ended: true, ..record() });
    let report = Report::of_view("shop", &view, None, None);
    let roles: Vec<Role> = report.nodes.iter().map(|it| it.role).collect();
    assert_eq!(roles, [Role::Unknown, Role::Follower]);
    let status = Status {
        nodes: Report::of_view("shop", &two_nodes(), None, None).nodes,
        ..Status::default()
    };
    assert_eq!(Report::of_status(status).nodes[0].role, Role::Unknown);
}

#[test]
fn a_suspended_leader_is_not_named_as_leader() {
    let mut view = two_nodes();
    set_record(&mut view, Record { suspended: true, ..record() });
    let report = Report::of_view("shop", &view, None, None);
    assert_eq!(report.leader, None);
    assert_eq!(
        report.render_leader(0),
        "leader: nobody acts, node 1 at host-1:80 is in office for term 10 and suspended: its beats \
         reach the store, and their answers come too late\n"
    );
    let status = Status {
        leader: Some(LeaderStatus { suspended: true, ..LeaderStatus::default() }),
        ..Status::default()
    };
    assert!(Report::of_status(status).not_acting.is_some());
}

#[test]
fn a_leader_that_is_silent_is_not_named_as_leader() {
    let silence = Some(Duration::from_millis(1_400));
    let report = Report::of_view("shop", &two_nodes(), None, silence);
    assert_eq!(report.leader, None);
    assert_eq!(
        report.render_leader(0),
        "leader: nobody acts, node 1 at host-1:80 is in office for term 10 and suspended: silent for \
         1.4s\n"
    );
    let roles: Vec<Role> = report.nodes.iter().map(|it| it.role).collect();
    assert_eq!(roles, [Role::Unknown, Role::Follower]);
    // No node is in office, so no leader can be silent.
    let nobody = Report::of_view("shop", &ClusterView::default(), None, silence);
    assert_eq!(nobody.not_acting, None);
}

#[test]
fn a_node_that_has_not_heard_its_leader_for_too_long_names_none() {
    let status = |at_unix_ms| {
        let mut status = Status { at_unix_ms, ..Status::default() };
        status.node.failover_d_ms = 1_000;
        status.leader = Some(LeaderStatus {
            id: id(1),
            last_beat_unix_ms: Some(5_000),
            ..LeaderStatus::default()
        });
        Report::of_status(status)
    };
    let heard = status(6_000);
    assert!(heard.leader.is_some() && heard.not_acting.is_none());
    let silent = status(9_000);
    assert_eq!(silent.leader, None);
    assert_eq!(silent.not_acting.and_then(|it| it.silent_ms), Some(4_000));
}

/// Node 1 of two leads in term 7, as reported at second 100.
fn election() -> Election {
    let mut election =
        Election::new("shop", crate::k8s::crd::ElectionSpec { cluster: "shop".into() });
    let node = |id, role| ElectionNode { id, role, ..ElectionNode::default() };
    election.status = Some(ElectionStatus {
        leader: Some(ElectionLeader {
            node: 1,
            name: "shop-1".into(),
            ..ElectionLeader::default()
        }),
        term: Some(7),
        reported_at: Some(UnixMs(100_000)),
        nodes: vec![node(1, ElectionRole::Leader), node(2, ElectionRole::Follower)],
        ..ElectionStatus::default()
    });
    election
}

fn of_election(election: Election, now_unix_ms: u64) -> Report {
    let place = ElectionRef { namespace: "n".into(), cluster: "shop".into() };
    Report::of_election(&place, election, now_unix_ms)
}

#[test]
fn an_election_that_no_leader_has_reported_to_for_long_names_no_leader() {
    let report = of_election(election(), 130_000);
    assert_eq!(report.render_leader(130_000), "leader 1, term 7, reported 30.0s ago\n");
    let last = |now| of_election(election(), now).leader.is_some();
    assert_eq!([last(190_000), last(190_001)], [true, false], "three reports are missing");
    let old = of_election(election(), 400_000);
    assert_eq!((&old.leader, old.nodes[0].role), (&None, Role::Unknown));
    assert_eq!(
        old.render_leader(400_000),
        "leader: not known, shop-1 led in term 7 as reported 5m00s ago, and no leader has reported since\n"
    );
    assert!(old.render(400_000).contains("NOT CURRENT"));
    // A clock that was set ahead by years does not make the report current for years.
    let ahead = of_election(election(), 1_000);
    assert_eq!(ahead.leader, None);
    assert!(ahead.not_known.unwrap().contains("by a clock that is ahead"));
}

#[test]
fn an_election_whose_leader_lost_its_authority_says_that_it_is_not_known() {
    let mut election = election();
    let status = election.status.as_mut().unwrap();
    status.leader = None;
    let said = ("LeaderLost", "shop-1 lost its authority");
    conditions::set(&mut status.conditions, condition::READY, Holds::Unknown, said, None);
    let report = of_election(election, 101_000);
    let why = "shop-1 lost its authority, as reported 1.0s ago";
    assert_eq!(report.not_known.as_deref(), Some(why));
}

#[test]
fn a_picture_that_is_not_current_says_why() {
    let not_current = Some("etcd did not answer get in 1s".to_owned());
    let report = Report { not_current, ..Report::of_view("shop", &two_nodes(), None, None) };
    let shown = report.render(0);
    assert!(shown.ends_with("\nNOT CURRENT: etcd did not answer get in 1s\n"), "{shown}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["not_current"], "etcd did not answer get in 1s");
}

#[test]
fn a_node_whose_metadata_is_malformed_is_shown_as_unreadable() {
    let mut view = two_nodes();
    let (created, modified) = (Revision(20), Revision(20));
    let (lease, bytes) = (Some(LeaseId(0xb)), Vec::new());
    let malformed = Stored { created, modified, lease, value: None, bytes };
    view.apply(Change::Node(id(2), Some(malformed)));
    let nodes = Report::of_view("shop", &view, None, None).nodes;
    assert_eq!((nodes[1].role, &*nodes[1].address), (Role::Unknown, "(unreadable)"));
}

#[test]
fn an_empty_cluster_says_so() {
    let report = Report::of_view("shop", &ClusterView::default(), None, None);
    assert_eq!(report.render(0), "cluster shop   revision 0\nleader: nobody\n\nno nodes\n");
}
