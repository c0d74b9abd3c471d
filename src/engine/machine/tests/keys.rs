//! Tests of T17 (own keys) and T18 (SWITCH TICK).

use super::rig::{ME, Rig, config, id, joined_keys, member, ms, seed, stored, written};
use crate::engine::{Call, Change, Effect, LeaseId, Member, Outcome, Revision, Role, TickPolicy};

fn is_node(call: &Call) -> bool {
    matches!(call, Call::WriteNode { .. })
}

fn is_switch(call: &Call) -> bool {
    matches!(call, Call::SwitchTick { .. })
}

#[test]
fn t17_the_role_is_written_once_per_change_and_compares_what_was_last_known() {
    let mut rig = Rig::leader();
    let call = rig.done(is_node);
    let Call::WriteNode { modified, metadata, .. } = call else { unreachable!() };
    assert_eq!((modified, metadata.role), (Revision(101), Role::Leader));
    rig.wait(ms(400));
    assert!(!rig.asks(is_node), "nothing changed");
}

#[test]
fn t17_a_foreign_write_costs_one_more_request() {
    let mut rig = Rig::leader();
    let lease = rig.lease();
    let Change::Node(_, Some(mut found)) = joined_keys(ME, lease, 101).remove(0) else {
        unreachable!()
    };
    found.modified = Revision(102);
    rig.refused(is_node, vec![Change::Node(ME, Some(found))]);
    let Some(Call::WriteNode { modified, .. }) = rig.call(is_node) else { panic!("not again") };
    assert_eq!(*modified, Revision(102));
}

#[test]
fn an_own_node_key_that_somebody_deleted_is_put_back() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    rig.see(vec![Change::Node(ME, None)]);
    let Some(Call::WriteNode { modified, .. }) = rig.call(is_node) else { panic!("not put back") };
    assert_eq!(*modified, Revision(0));
}

fn offering(node: i64, lease: LeaseId, tick: u64) -> Vec<Change> {
    let offer = Member { tick: ms(tick), policy: TickPolicy::Adopt, ..member(lease) };
    let mut keys = joined_keys(id(node), lease, 104);
    keys.push(Change::Member(id(node), Some(stored(104, lease, offer))));
    keys
}

#[test]
fn t18_the_tick_is_switched_when_every_live_node_offers_the_new_one() {
    let mut rig = Rig::leader();
    // This node is configured with 50 ms; the other still offers 80 ms.
    let other = LeaseId(77);
    let mut keys = offering(2, other, 80);
    keys.push(Change::Tick(Some(written(90, 91, None, ms(80)))));
    rig.see(keys);
    assert!(!rig.asks(is_switch));
    rig.see(offering(2, other, 50));
    let Some(Call::SwitchTick { modified, view, tick, .. }) = rig.call(is_switch) else {
        panic!("not switched")
    };
    assert_eq!((*modified, *view, *tick), (Revision(91), Revision(105), ms(50)));
}

#[test]
fn t18_a_tick_that_somebody_deleted_is_again_what_the_leader_runs_at() {
    let mut rig = Rig::leader();
    assert!(!rig.asks(is_switch));
    rig.see(vec![Change::Tick(None)]);
    let Some(Call::SwitchTick { modified, tick, .. }) = rig.call(is_switch) else {
        panic!("it stays lost")
    };
    assert_eq!((*modified, *tick), (Revision(0), ms(50)));
}

#[test]
fn t18_a_go_node_forbids_the_switch() {
    let mut rig = Rig::leader();
    let go = LeaseId(9);
    let mut keys = joined_keys(id(9), go, 104);
    keys.retain(|change| matches!(change, Change::Node(..) | Change::Candidate(..)));
    keys.push(Change::Tick(Some(written(90, 91, None, ms(80)))));
    rig.see(keys);
    rig.wait(ms(300));
    assert!(!rig.asks(is_switch));
}

#[test]
fn t18_keys_on_no_lease_are_nobodys_and_forbid_nothing() {
    let mut rig = Rig::leader();
    let stray = |change| match change {
        Change::Node(id, Some(stored)) => {
            Some(Change::Node(id, Some(crate::engine::Stored { lease: None, ..stored })))
        }
        Change::Member(id, Some(stored)) => {
            Some(Change::Member(id, Some(crate::engine::Stored { lease: None, ..stored })))
        }
        _ => None,
    };
    let mut keys: Vec<_> = offering(9, LeaseId(9), 80).into_iter().filter_map(stray).collect();
    keys.push(Change::Tick(Some(written(90, 91, None, ms(80)))));
    rig.see(keys);
    rig.wait(ms(300));
    assert!(rig.asks(is_switch));
}

#[test]
fn t17_an_own_member_record_that_somebody_overwrote_on_its_lease_is_put_right() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    let lease = rig.lease();
    let mut junk = stored(101, lease, member(lease));
    (junk.modified, junk.value) = (Revision(102), None);
    rig.see(vec![Change::Member(ME, Some(junk))]);
    let Some(Call::WriteMember { modified, member: written, .. }) =
        rig.call(|call| matches!(call, Call::WriteMember { .. }))
    else {
        panic!("it stays junk")
    };
    assert_eq!((*modified, written), (Revision(102), &member(lease)));
}

#[test]
fn t18_every_node_changes_its_tick_and_rewrites_its_tick_key() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    rig.effects();
    rig.see(vec![Change::Tick(Some(written(90, 102, None, ms(80))))]);
    assert!(rig.effects().contains(&Effect::TickChanged(ms(80))));
    let lease = rig.lease();
    let call = rig.done(|call| matches!(call, Call::WriteTickKey { .. }));
    assert_eq!(call, Call::WriteTickKey { lease, id: ME, modified: Revision(101), tick: ms(80) });
}

#[test]
fn t17_lease_not_found_is_a_lost_session() {
    let mut rig = Rig::leader();
    rig.answer(is_node, Outcome::LeaseNotFound);
    assert_eq!(rig.engine.joined(), None);
}
