use super::*;
use crate::node::status::{LeaderStatus, SelfStatus, StoreStatus};

fn joined() -> Status {
    Status {
        node: SelfStatus { joined: true, role: "Follower".into(), ..SelfStatus::default() },
        leader: Some(LeaderStatus { id: "1".into(), ..LeaderStatus::default() }),
        ..Status::default()
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
    out.node.joined = false;
    out.node.problem = Some("etcd does not answer".into());
    let said = readiness(&out, Duration::ZERO);
    assert_eq!(said, Probe::Fail("not joined: etcd does not answer".into()));

    let store = StoreStatus { view_age_ms: 11_000, ..StoreStatus::default() };
    assert!(!passes(&readiness(&Status { store, ..joined() }, Duration::ZERO)));

    assert!(passes(&readiness(&joined(), Duration::from_secs(6))));
    assert!(!passes(&readiness(&joined(), Duration::from_secs(7))));
}

#[test]
fn a_leader_whose_authority_has_lapsed_is_not_the_leader_here() {
    let mut status = joined();
    status.node.role = "Leader".into();
    status.node.authority_left_ms = Some(0);
    assert!(!leadership(&status).here);
    status.node.authority_left_ms = Some(1);
    assert!(leadership(&status).here);
}
