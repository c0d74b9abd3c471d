use super::*;
use crate::{
    engine::NodeId,
    node::{ClusterNode, Membership, status::LeaderStatus},
    store::memory::{MemoryStore, Seen},
};

fn joined() -> Vitals {
    Vitals {
        span_max: Duration::from_secs(3),
        membership: Membership { joined: true, role: Role::Follower, ..Membership::default() },
        leader: Some(LeaderStatus { id: NodeId::new(1).unwrap(), ..LeaderStatus::default() }),
        ..Vitals::default()
    }
}

fn passes(probe: &Probe) -> bool {
    matches!(probe, Probe::Pass(_))
}

#[test]
fn a_follower_that_is_joined_and_synced_is_ready() {
    assert!(passes(&readiness(&joined(), Duration::ZERO)));
}

#[test]
fn who_is_not_joined_or_not_synced_or_in_a_stuck_election_is_not_ready() {
    let mut out = joined();
    out.membership.joined = false;
    out.problem = Some("etcd does not answer".into());
    let said = readiness(&out, Duration::ZERO);
    assert_eq!(said, Probe::Fail("not joined: etcd does not answer".into()));

    let old = Vitals { view_age: Duration::from_secs(11), ..joined() };
    assert!(!passes(&readiness(&old, Duration::ZERO)));
    assert_eq!(leadership(&old).leader, None);

    assert!(passes(&readiness(&joined(), Duration::from_secs(6))));
    assert!(!passes(&readiness(&joined(), Duration::from_secs(7))));
}

#[test]
fn a_leader_whose_authority_has_lapsed_is_not_the_leader_here() {
    let mut vitals = joined();
    vitals.membership.role = Role::Leader;
    vitals.authority_left = Some(Duration::ZERO);
    assert!(!leadership(&vitals).here);
    vitals.authority_left = Some(Duration::from_millis(1));
    assert!(leadership(&vitals).here);
}

#[test]
fn no_leader_is_named_that_does_not_act_or_that_was_heard_of_too_long_ago() {
    let at = |view_age_ms, suspended| {
        let mut vitals = joined();
        vitals.view_age = Duration::from_millis(view_age_ms);
        vitals.leader.as_mut().unwrap().suspended = suspended;
        leadership(&vitals).leader.map(|it| it.id)
    };
    assert_eq!([at(10_000, false), at(10_001, false), at(0, true)], [Some("1".into()), None, None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_driver_has_failed_is_not_live_and_one_that_left_is() {
    let store = MemoryStore::new();
    let node = |id| {
        let node = ClusterNode::builder().id(id).cluster("C").store(Arc::new(store.clone()));
        Arc::new(node.build().unwrap())
    };
    let left = node(1);
    left.close().await.unwrap();
    assert_eq!(NodeSource::new(left).liveness().await, Probe::Pass("the node has left".into()));
    let failed = node(2);
    let source = NodeSource::new(Arc::clone(&failed) as _);
    assert!(passes(&source.liveness().await));
    store.faults().break_on(|seen| matches!(seen, Seen::Health));
    assert!(failed.status().await.is_err());
    for _ in 0..2 {
        let live = source.liveness().await;
        let Probe::Fail(said) = live else { panic!("{live:?}") };
        assert!(said.contains("driver has failed"), "{said}");
        assert!(!passes(&source.readiness().await));
        // However the program goes on.
        let _ = failed.close().await;
    }
}
