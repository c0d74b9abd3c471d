use std::time::{Duration, SystemTime};

use super::*;
use crate::engine::{Assignment, Role, ShardEpoch, TickPolicy, WorkOffer};

fn stored<T>(revision: i64, lease: i64, value: T) -> Stored<T> {
    let at = Revision(revision);
    let lease = (lease != 0).then_some(LeaseId(lease));
    Stored { created: at, modified: at, lease, value: Some(value), bytes: Vec::new() }
}

fn id(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn checks() -> WorkType {
    WorkType::new("checks")
}

fn candidate(created: i64, lease: i64, node: i64) -> Change {
    Change::Candidate(LeaseId(lease), Some(stored(created, lease, id(node))))
}

/// A member that offers the work type.
fn member(node: i64, lease: i64, work: &WorkType) -> Change {
    let (work, shards, weight) = (work.clone(), 4, 1);
    let member = Member {
        lease: LeaseId(lease),
        d: Duration::from_secs(1),
        f: Duration::from_secs(3),
        tick: Duration::from_millis(50),
        policy: TickPolicy::Strict,
        pod_uid: None,
        work: vec![WorkOffer { work, shards, weight, capacity: None, as_leader: false }],
        draining: false,
        campaigns: true,
    };
    Change::Member(id(node), Some(stored(node, lease, member)))
}

/// A held key with shards of `checks`.
fn held(lease: i64, shards: &[u32]) -> Change {
    let shards = shards.iter().map(|shard| ((checks(), ShardId(*shard)), ShardEpoch(30)));
    Change::Held(
        LeaseId(lease),
        Some(stored(31, lease, Held { nonce: 0, shards: shards.collect() })),
    )
}

/// A plan of four shards, all for one incarnation.
fn plan(work: &WorkType, owner: i64) -> Change {
    let owner = (owner != 0).then_some(LeaseId(owner));
    let assignment = Assignment { owner, epoch: ShardEpoch(30), draining: false };
    Change::Plan(work.clone(), Some(stored(30, 0, PlanTable { shards: vec![assignment; 4] })))
}

fn record(ended: bool) -> Record {
    Record {
        term: Term(10),
        lease: Some(LeaseId(0xa)),
        node: Some(id(1)),
        n: 1,
        d: Duration::from_secs(1),
        ended,
        suspended: false,
    }
}

fn set_record(view: &mut ClusterView, record: Record) {
    view.apply(Change::Record(Some(stored(40, 0, record))));
}

/// Node 1 on lease 0xa leads in term 10, node 2 on 0xb follows and holds shard 0; all four shards are
/// planned for node 2.
fn two_nodes() -> ClusterView {
    let mut view = ClusterView::of(Revision(99), []);
    for (node, lease, role) in [(1, 0xa, Role::Leader), (2, 0xb, Role::Follower)] {
        let (address, start) = (format!("host-{node}:80"), SystemTime::UNIX_EPOCH);
        let metadata = NodeMetadata { id: id(node), address, start, role };
        view.apply(candidate(node * 10, lease, node));
        view.apply(Change::Node(id(node), Some(stored(node * 10, lease, metadata))));
        view.apply(member(node, lease, &checks()));
    }
    view.apply(held(0xb, &[0]));
    view.apply(plan(&checks(), 0xb));
    set_record(&mut view, record(false));
    view
}

/// Node 1 of [`two_nodes`] in office.
fn node_1() -> Leader {
    let d = Some(Duration::from_secs(1));
    Leader { id: id(1), lease: LeaseId(0xa), term: Term(10), d, suspended: false }
}

#[test]
fn the_record_says_which_node_leads_and_an_ended_one_says_none() {
    let mut view = two_nodes();
    assert_eq!(view.leader(), Some(node_1()));
    assert_eq!(view.seated(), Some((Term(10), LeaseId(0xa))));
    set_record(&mut view, Record { suspended: true, ..record(false) });
    assert_eq!(view.leader(), Some(Leader { suspended: true, ..node_1() }));
    set_record(&mut view, record(true));
    assert_eq!(view.leader(), None);
    view.apply(Change::Record(None));
    assert_eq!(view.leader(), None);
}

#[test]
fn a_record_whose_candidate_key_is_gone_or_of_another_term_names_no_leader() {
    let mut view = two_nodes();
    view.apply(candidate(50, 0xa, 1));
    assert_eq!(view.leader(), None);
    view.apply(Change::Candidate(LeaseId(0xa), None));
    assert_eq!(view.leader(), None);
}

#[test]
fn a_record_with_a_span_that_no_node_writes_names_no_leader() {
    let mut view = two_nodes();
    set_record(&mut view, Record { d: LARGEST_SPAN + Duration::from_millis(1), ..record(false) });
    assert_eq!((view.leader(), view.sound_record()), (None, None));
    assert!(view.record().is_some());
}

#[test]
fn a_node_without_a_member_record_leads_while_its_key_is_the_oldest() {
    let mut view = two_nodes();
    set_record(&mut view, record(true));
    view.apply(candidate(3, 0xc, 7));
    let go = Leader { id: id(7), lease: LeaseId(0xc), term: Term(3), d: None, suspended: false };
    assert_eq!(view.leader(), Some(go));
    view.apply(member(7, 0xc, &checks()));
    assert_eq!(view.leader(), None, "it is ours: only a record says that it leads");
}

/// The protocol covers this case: an operator deleted the member record of the node in office.
#[test]
fn a_leader_whose_member_record_was_deleted_leads_until_its_candidate_key_goes() {
    let mut view = two_nodes();
    view.apply(Change::Member(id(1), None));
    assert_eq!(view.leader(), Some(node_1()), "and is not taken for a node of the Go package");
}

#[test]
fn the_queue_is_in_the_order_of_the_keys_and_follows_those_that_come_again() {
    let mut view = two_nodes();
    let queue = |view: &ClusterView| view.queue().map(|(lease, _)| lease.0).collect::<Vec<_>>();
    assert_eq!(queue(&view), [0xa, 0xb]);
    view.apply(candidate(50, 0xa, 1));
    assert_eq!(queue(&view), [0xb, 0xa]);
    view.apply(Change::Candidate(LeaseId(0xb), None));
    assert_eq!(queue(&view), [0xa]);
}

#[test]
fn a_lease_is_the_nodes_whose_member_record_hangs_on_it() {
    let mut view = two_nodes();
    assert_eq!((view.node_of(LeaseId(0xa)), view.node_of(LeaseId(0xc))), (Some(id(1)), None));
    // Node 1 registers its next incarnation.
    view.apply(member(1, 0xc, &checks()));
    assert_eq!((view.node_of(LeaseId(0xa)), view.node_of(LeaseId(0xc))), (None, Some(id(1))));
    view.apply(Change::Member(id(1), None));
    assert!(!view.is_ours(LeaseId(0xc)));
}

#[test]
fn shards_show_which_node_should_hold_them_and_which_does() {
    let mut view = two_nodes();
    view.apply(held(0xd, &[3, 99]));
    let shard = |held| Shard { planned: Some(id(2)), held, draining: false };
    let (two, unknown) = (Some(Holder::Node(id(2))), Some(Holder::Unknown));
    assert_eq!(view.shards(&checks()), [two, None, None, unknown].map(shard));
    assert_eq!(view.shards(&WorkType::new("other")), []);
    assert_eq!([0xa, 0xb, 0xd].map(|lease| view.shards_held(LeaseId(lease))), [0, 1, 2]);
}

#[test]
fn unowned_shards_are_those_of_the_plan_that_no_held_key_has() {
    let mut view = ClusterView::default();
    view.apply(member(1, 1, &checks()));
    view.apply(plan(&checks(), 0));
    for (change, unowned) in [
        (held(1, &[]), 4),
        (held(1, &[0, 1]), 2),
        (held(1, &[0, 1]), 2),
        (held(2, &[1, 2, 99]), 1),
        // Shard 1 has two holders for a moment: it is owned until both have released it.
        (held(1, &[0]), 1),
        (Change::Held(LeaseId(2), None), 3),
        (Change::Held(LeaseId(1), None), 4),
    ] {
        view.apply(change);
        assert_eq!(view.unowned(&checks()), unowned);
        let free = view.shards(&checks()).iter().filter(|shard| shard.held.is_none()).count();
        assert_eq!(free, unowned);
    }
    assert!(view.holders.is_empty());
}

#[test]
fn shards_of_work_that_no_live_member_offers_are_shown_and_not_missed() {
    let mut view = ClusterView::default();
    view.apply(plan(&checks(), 0));
    let shown = |view: &ClusterView| (view.shards(&checks()).len(), view.unowned(&checks()));
    view.apply(member(1, 1, &WorkType::new("other")));
    assert_eq!(shown(&view), (4, 0));
    view.apply(member(2, 2, &checks()));
    assert_eq!(shown(&view), (4, 4));
    view.apply(Change::Member(id(2), None));
    assert_eq!(shown(&view), (4, 0));
}

#[test]
fn a_node_is_drained_by_its_own_wish_and_by_an_operators() {
    let mut view = two_nodes();
    let request = crate::engine::DrainRequest { since_unix_ms: 1, why: String::new() };
    view.apply(Change::DrainRequest(id(1), Some(stored(50, 0, request))));
    let mut wish = Arc::unwrap_or_clone(view.members[&id(2)].clone());
    wish.value.as_mut().unwrap().draining = true;
    view.apply(Change::Member(id(2), Some(wish)));
    assert_eq!([1, 2, 3].map(|node| view.is_drained(id(node))), [true, true, false]);
    view.apply(Change::DrainRequest(id(1), None));
    assert!(!view.is_drained(id(1)));
}

#[test]
fn the_revision_never_goes_back() {
    let mut view = ClusterView::of(Revision(9), []);
    for (to, now) in [(12, 12), (11, 12)] {
        view.advance(Revision(to));
        assert_eq!(view.revision(), Revision(now));
    }
}
