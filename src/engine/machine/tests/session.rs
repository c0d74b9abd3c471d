//! Tests of the session: R8 (replaced store), R10 (lost session), R12 (one GRANT per lease id); T1 (GRANT),
//! T2 (JOIN), T10 (END), T11 (REVOKE).

use std::time::{Duration, UNIX_EPOCH};

use super::rig::{ME, Rig, config, id, joined_keys, member, ms, record, seed, stored, written};
use crate::engine::{
    Answer, Call, Change, Dead, Effect, Held, Input, JoinTick, LeaseId, NodeMetadata, Outcome,
    Refusal, Revision, Role, SessionEnd, TickPolicy,
};

const OLD: LeaseId = LeaseId(70);

fn is_join(call: &Call) -> bool {
    matches!(call, Call::Join(_))
}

fn is_read(call: &Call) -> bool {
    matches!(call, Call::ReadJoin { .. })
}

fn is_grant(call: &Call) -> bool {
    matches!(call, Call::Grant { .. })
}

fn is_renew(call: &Call) -> bool {
    matches!(call, Call::Renew { .. })
}

fn is_revoke(call: &Call) -> bool {
    matches!(call, Call::Revoke { .. })
}

fn metadata(node: i64, address: &str) -> NodeMetadata {
    NodeMetadata { id: id(node), address: address.into(), start: UNIX_EPOCH, role: Role::Follower }
}

/// Own node and member keys on that lease.
fn holder(lease: Option<LeaseId>) -> Vec<Change> {
    let mut record = member(OLD);
    record.pod_uid = Some("pod-a".into());
    vec![
        Change::Node(ME, Some(written(60, 60, lease, metadata(1, "there:1")))),
        Change::Member(ME, Some(written(60, 60, lease, record))),
    ]
}

fn granted() -> Outcome {
    Outcome::Done(Answer { ttl: Duration::from_secs(5), ..Answer::default() })
}

fn to_grant(rig: &mut Rig) {
    rig.start(Dead::default());
    rig.done(is_read);
}

#[test]
fn t1_the_lease_is_announced_before_the_grant_leaves() {
    let mut rig = Rig::new(config());
    let effects = {
        rig.start(Dead::default());
        let (read, sent, _) = rig.take_call(is_read);
        let outcome = Outcome::Done(rig.header(Vec::new()));
        let input = Input::Answered { id: read, sent_at: sent, received_at: rig.now, outcome };
        rig.engine.step(rig.now, input)
    };
    let announced = effects.iter().position(|effect| matches!(effect, Effect::Announce { .. }));
    let grants = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Send { call: Call::Grant { .. }, .. }));
    assert!(announced.is_some() && announced < grants, "{effects:?}");
}

#[test]
fn r12_a_grant_whose_answer_is_lost_is_abandoned_and_never_repeated() {
    let mut rig = Rig::new(config());
    to_grant(&mut rig);
    let Call::Grant { lease: first, .. } = rig.answer(is_grant, Outcome::Unknown) else {
        unreachable!()
    };
    assert_eq!(rig.call(is_revoke), Some(&Call::Revoke { lease: first }));
    rig.wait(ms(100));
    rig.done(is_read);
    let Some(Call::Grant { lease: second, .. }) = rig.call(is_grant) else { panic!("no grant") };
    assert_ne!(first, *second);
}

#[test]
fn t2_an_unanswered_join_is_sent_again_as_it_was_and_known_by_its_own_keys() {
    let mut rig = Rig::new(config());
    to_grant(&mut rig);
    rig.answer(is_grant, granted());
    let first = rig.answer(is_join, Outcome::Unknown);
    let Call::Join(first) = first else { unreachable!() };
    rig.wait(ms(100));
    let Some(Call::Join(second)) = rig.call(is_join) else { panic!("not sent again") };
    assert_eq!((first.lease, &first.member), (second.lease, &second.member));
    let own = joined_keys(ME, first.lease, 101);
    rig.refused(is_join, own);
    assert_eq!(rig.engine.joined(), Some(first.lease));
}

/// JOIN compares that its lease has no held key, but the held key of the first JOIN still exists.
#[test]
fn t2_a_second_join_after_an_operator_deleted_node_and_member_costs_the_lease() {
    let mut rig = Rig::new(config());
    to_grant(&mut rig);
    rig.answer(is_grant, granted());
    let Call::Join(first) = rig.answer(is_join, Outcome::Unknown) else { unreachable!() };
    rig.wait(ms(100));
    rig.revision = 102;
    let left = |change: &Change| matches!(change, Change::Held(..) | Change::Candidate(..));
    let shows = joined_keys(ME, first.lease, 101).into_iter().filter(left).collect();
    rig.refused(is_join, shows);
    assert_eq!(rig.engine.joined(), None, "what is left on this lease is of an unknown past");
    let held = Change::Held(first.lease, Some(stored(101, first.lease, Held::default())));
    let shows = Outcome::Done(rig.header(vec![held]));
    rig.answer(|call| *call == Call::ReadEnd { lease: first.lease }, shows);
    rig.done(|call| matches!(call, Call::End { lease, .. } if *lease == first.lease));
    rig.wait(ms(100));
    assert!(!rig.asks(is_read) && !rig.asks(is_join), "not before it is gone");
    rig.answer(is_revoke, Outcome::LeaseNotFound);
    rig.wait(ms(100));
    rig.done(is_read);
    rig.answer(is_grant, granted());
    let Call::Join(second) = rig.done(is_join) else { unreachable!() };
    assert_ne!(first.lease, second.lease);
    assert_eq!(rig.engine.joined(), Some(second.lease));
}

#[test]
fn t2_a_live_holder_of_the_id_is_named_and_the_node_comes_to_rest() {
    let mut rig = Rig::new(config());
    rig.start(Dead::default());
    let shows = Outcome::Done(rig.header(holder(Some(OLD))));
    rig.answer(is_read, shows);
    let refusal = Refusal::DuplicateId { address: "there:1".into(), holder: Some(OLD) };
    assert_eq!(rig.effects(), [Effect::Refused(refusal)]);
    rig.wait(ms(10_000));
    assert!(rig.calls.is_empty(), "at rest until it is started again: {:?}", rig.calls);
}

#[test]
fn t10_a_proven_dead_life_is_ended_before_joining_and_its_record_marked() {
    let mut rig = Rig::new(config());
    rig.start(Dead { leases: Vec::new(), pod_uid: Some("pod-a".into()) });
    let shows = Outcome::Done(rig.header(holder(Some(OLD))));
    rig.answer(is_read, shows);
    let open = record(60, OLD, ME, 5);
    let shows = Outcome::Done(rig.header(vec![
        Change::Record(Some(written(50, 61, None, open.clone()))),
        Change::Held(OLD, Some(stored(60, OLD, Held::default()))),
    ]));
    rig.answer(|call| *call == Call::ReadEnd { lease: OLD }, shows);
    let call = rig.call(|call| matches!(call, Call::End { .. })).unwrap().clone();
    let Call::End { lease, record: Some((at, ended)), held: Some((held_at, _)) } = call else {
        panic!("{call:?}")
    };
    assert_eq!((lease, at, held_at), (OLD, Revision(61), Revision(60)));
    assert!(ended.ended && ended.term == open.term);
    rig.done(|call| matches!(call, Call::End { .. }));
    assert!(!rig.asks(is_read), "not before it is gone");
    rig.answer(is_revoke, Outcome::LeaseNotFound);
    rig.done(is_read);
    assert!(rig.asks(is_grant));
}

#[test]
fn t10_a_last_beat_that_came_between_is_read_again() {
    let mut rig = Rig::new(config());
    rig.start(Dead { leases: vec![OLD], pod_uid: None });
    let shows = |rig: &Rig, at| {
        let beat = written(50, at, None, record(60, OLD, ME, 5));
        Outcome::Done(rig.header(vec![Change::Record(Some(beat))]))
    };
    let outcome = shows(&rig, 61);
    rig.answer(|call| matches!(call, Call::ReadEnd { .. }), outcome);
    rig.refused(|call| matches!(call, Call::End { .. }), Vec::new());
    let outcome = shows(&rig, 62);
    rig.answer(|call| matches!(call, Call::ReadEnd { .. }), outcome);
    let Some(Call::End { record: Some((at, _)), .. }) =
        rig.call(|call| matches!(call, Call::End { .. }))
    else {
        panic!("no second end")
    };
    assert_eq!(*at, Revision(62));
}

#[test]
fn t10_a_record_of_another_lease_is_never_touched() {
    let mut rig = Rig::new(config());
    rig.start(Dead { leases: vec![OLD], pod_uid: None });
    let other = written(50, 61, None, record(60, LeaseId(99), id(2), 5));
    let shows = Outcome::Done(rig.header(vec![Change::Record(Some(other))]));
    rig.answer(|call| matches!(call, Call::ReadEnd { .. }), shows);
    assert!(!rig.asks(|call| matches!(call, Call::End { .. })));
    assert!(rig.asks(is_revoke));
}

#[test]
fn t2_an_operators_key_without_a_lease_is_deleted_when_seen_for_a_second() {
    let is_squatter = |call: &Call| matches!(call, Call::DeleteSquatter { .. });
    let mut rig = Rig::new(config());
    rig.start(Dead::default());
    let shows = Outcome::Done(rig.header(holder(None)));
    rig.answer(is_read, shows);
    rig.wait(ms(999));
    assert!(!rig.asks(is_squatter) && !rig.asks(is_read));
    rig.wait(ms(1));
    let shows = Outcome::Done(rig.header(holder(None)));
    rig.answer(is_read, shows);
    let call = rig.done(is_squatter);
    let (node, member) = (Revision(60), Revision(60));
    assert_eq!(call, Call::DeleteSquatter { id: ME, node, member });
    assert!(rig.asks(is_read));
}

fn ticks(cluster: Option<u64>, others: &[u64]) -> Vec<Change> {
    let mut changes = vec![Change::Tick(cluster.map(|tick| written(40, 41, None, ms(tick))))];
    for (other, tick) in (10..).zip(others) {
        let stored = stored(42, LeaseId(other), ms(*tick));
        changes.push(Change::TickKey(id(other), Some(stored)));
    }
    changes
}

fn judged(policy: TickPolicy, shows: Vec<Change>) -> Result<(JoinTick, Duration), Refusal> {
    let mut own = config();
    own.tick_policy = policy;
    let mut rig = Rig::new(own);
    rig.start(Dead::default());
    let shows = Outcome::Done(rig.header(shows));
    rig.answer(is_read, shows);
    if let Some(Effect::Refused(refusal)) = rig.effects().pop() {
        return Err(refusal);
    }
    rig.answer(is_grant, granted());
    let Some(Call::Join(join)) = rig.call(is_join) else { panic!("neither joined nor refused") };
    Ok((join.cluster_tick, join.tick))
}

#[test]
fn t2_the_clusters_tick_is_created_kept_replaced_adopted_or_disagreed_with() {
    use TickPolicy::{Adopt, Strict};
    let keep = JoinTick::Keep { modified: Revision(41) };
    let replace = JoinTick::Replace { modified: Revision(41), strays: None };
    let create = JoinTick::Create { read: Revision(100), modified: Revision(0) };
    let disagree = |tick| Refusal::TickDisagreement { cluster: ms(tick), own: ms(50) };
    assert_eq!(judged(Strict, ticks(None, &[])), Ok((create, ms(50))));
    assert_eq!(judged(Strict, ticks(None, &[50])), Ok((create, ms(50))), "Go nodes only");
    assert_eq!(judged(Strict, ticks(None, &[80])), Err(disagree(80)));
    assert_eq!(judged(Strict, ticks(Some(50), &[50, 50])), Ok((keep, ms(50))));
    assert_eq!(judged(Strict, ticks(Some(80), &[80])), Err(disagree(80)));
    assert_eq!(judged(Strict, ticks(Some(80), &[])), Ok((replace, ms(50))));
    assert_eq!(judged(Adopt, ticks(Some(80), &[80])), Ok((keep, ms(80))));
}

/// Rig of a node that joins a cluster with another tick and no tick keys; then JOIN finds these node keys.
fn joins_beside(policy: TickPolicy, lease: Option<LeaseId>) -> Rig {
    let mut own = config();
    own.tick_policy = policy;
    let mut rig = Rig::new(own);
    rig.start(Dead::default());
    let shows = Outcome::Done(rig.header(ticks(Some(80), &[])));
    rig.answer(is_read, shows);
    rig.answer(is_grant, granted());
    let node = Change::Node(id(9), Some(written(60, 60, lease, metadata(9, "there:1"))));
    rig.refused(is_join, vec![node]);
    rig.wait(ms(400));
    let shows = Outcome::Done(rig.header(ticks(Some(80), &[])));
    rig.answer(is_read, shows);
    rig
}

#[test]
fn t2_a_stray_node_key_without_a_lease_does_not_keep_the_old_tick_for_ever() {
    let rig = joins_beside(TickPolicy::Strict, None);
    let Some(Call::Join(join)) = rig.call(is_join) else { panic!("not joined: {:?}", rig.calls) };
    let strays = Some(Revision(100));
    assert_eq!(join.cluster_tick, JoinTick::Replace { modified: Revision(41), strays });
    assert_eq!(join.tick, ms(50));
}

#[test]
fn t2_a_live_node_whose_tick_key_is_gone_counts_for_the_clusters_tick() {
    let mut rig = joins_beside(TickPolicy::Strict, Some(OLD));
    let refusal = Refusal::TickDisagreement { cluster: ms(80), own: ms(50) };
    assert!(rig.effects().contains(&Effect::Refused(refusal)));

    let rig = joins_beside(TickPolicy::Adopt, Some(OLD));
    let Some(Call::Join(join)) = rig.call(is_join) else { panic!("not joined: {:?}", rig.calls) };
    assert_eq!(join.cluster_tick, JoinTick::Keep { modified: Revision(41) });
}

#[test]
fn t2_a_tick_key_without_a_lease_is_nobodys_and_one_on_a_lease_counts_while_that_lives() {
    let stray = |lease| {
        let mut changes = ticks(Some(80), &[]);
        changes.push(Change::TickKey(id(9), Some(written(42, 42, lease, ms(80)))));
        judged(TickPolicy::Strict, changes)
    };
    let replace = JoinTick::Replace { modified: Revision(41), strays: None };
    assert_eq!(stray(None), Ok((replace, ms(50))));
    let disagree = Refusal::TickDisagreement { cluster: ms(80), own: ms(50) };
    assert_eq!(stray(Some(LeaseId(9))), Err(disagree));
}

/// The answer of a JOIN was lost, and the next try, with another offer, begins with a read.
#[test]
fn t2_an_own_join_found_by_a_read_is_joined_and_what_it_said_is_what_is_corrected() {
    let mut rig = Rig::new(config());
    to_grant(&mut rig);
    rig.answer(is_grant, granted());
    let Call::Join(first) = rig.answer(is_join, Outcome::Unknown) else { unreachable!() };
    rig.wait(ms(100));
    // Another client changed the tick: JOIN is refused, and the answer shows no own keys.
    rig.refused(is_join, Vec::new());
    rig.input(Input::Drain(true));
    rig.wait(ms(400));
    let mut found = joined_keys(ME, first.lease, 101);
    found.push(Change::TickKey(ME, Some(stored(101, first.lease, ms(80)))));
    rig.effects();
    let shows = Outcome::Done(rig.header(found));
    rig.answer(is_read, shows);
    let joined = rig.effects().into_iter().find_map(|effect| match effect {
        Effect::Joined { lease, tick, .. } => Some((lease, tick)),
        _ => None,
    });
    assert_eq!(joined, Some((first.lease, ms(80))), "it had adopted that tick");
    let Some(Call::WriteMember { modified, member, .. }) =
        rig.call(|call| matches!(call, Call::WriteMember { .. }))
    else {
        panic!("what JOIN said is taken for what is wanted")
    };
    assert_eq!((*modified, member.draining), (Revision(101), true));
}

#[test]
fn t11_a_revoke_that_finds_no_lease_is_done_and_one_without_an_answer_is_repeated() {
    let mut rig = Rig::new(config());
    rig.start(Dead { leases: vec![OLD, LeaseId(71)], pod_uid: None });
    rig.done(|call| *call == Call::ReadEnd { lease: OLD });
    rig.answer(is_revoke, Outcome::Unknown);
    assert!(!rig.asks(|call| *call == Call::ReadEnd { lease: LeaseId(71) }), "not before");
    rig.wait(ms(200));
    rig.answer(|call| *call == Call::Revoke { lease: OLD }, Outcome::LeaseNotFound);
    assert!(rig.asks(|call| *call == Call::ReadEnd { lease: LeaseId(71) }));
}

#[test]
fn a_tick_disagreement_registers_nothing() {
    let mut rig = Rig::new(config());
    rig.start(Dead::default());
    let shows = Outcome::Done(rig.header(ticks(Some(80), &[80])));
    rig.answer(is_read, shows);
    rig.wait(ms(10_000));
    assert!(rig.calls.is_empty(), "{:?}", rig.calls);
}

#[test]
fn r10_a_renewal_that_finds_no_lease_closes_the_term_ends_the_old_lease_and_joins_anew() {
    let mut rig = Rig::leader();
    let old = rig.lease();
    rig.wait(ms(1700));
    rig.effects();
    rig.answer(is_renew, Outcome::Done(Answer::default()));
    let effects = rig.effects();
    assert!(effects.contains(&Effect::SessionLost { lease: old, reason: SessionEnd::LeaseLost }));
    assert_eq!(rig.engine.authority(), None);
    rig.wait(ms(500));
    assert!(!rig.asks(|call| matches!(call, Call::ReadEnd { .. })), "its work still runs");
    rig.input(Input::WorkEnded { work: 1 });
    rig.done(|call| *call == Call::ReadEnd { lease: old });
    rig.answer(|call| *call == Call::Revoke { lease: old }, Outcome::LeaseNotFound);
    rig.done(is_read);
    rig.answer(is_grant, granted());
    rig.done(is_join);
    assert_ne!(rig.lease(), old);
}

/// Rig of a node that has lost its lease, ended it, and reads before its next JOIN; with that lease.
fn joining_again() -> (Rig, LeaseId) {
    let mut rig = Rig::joined(config(), Vec::new());
    let old = rig.lease();
    rig.wait(config().ttl / 3);
    rig.answer(is_renew, Outcome::LeaseNotFound);
    rig.done(|call| *call == Call::ReadEnd { lease: old });
    rig.answer(is_revoke, Outcome::LeaseNotFound);
    rig.wait(ms(3_000));
    (rig, old)
}

#[test]
fn r10_keys_that_a_backup_brought_back_under_an_own_earlier_lease_are_ended_at_once() {
    let (mut rig, old) = joining_again();
    rig.effects();
    let back = Outcome::Done(rig.header(joined_keys(ME, old, 101)));
    rig.answer(is_read, back);
    assert!(rig.asks(|call| *call == Call::ReadEnd { lease: old }), "{:?}", rig.effects);
}

/// The calls about the earlier lease belong to the incarnation that is given up: the engine sends them again.
#[test]
fn r16_a_lease_that_is_given_up_while_an_earlier_one_is_ended_does_not_stop_the_join() {
    let (mut rig, old) = joining_again();
    rig.done(is_read);
    rig.answer(is_grant, granted());
    rig.refused(is_join, joined_keys(ME, old, 101));
    let asks = |rig: &Rig| {
        rig.calls.values().filter(|(_, call)| *call == Call::ReadEnd { lease: old }).count()
    };
    assert_eq!(asks(&rig), 1);
    rig.wait(config().ttl + ms(1_000));
    assert_eq!(
        asks(&rig),
        2,
        "the renewals were not answered for a TTL, and the first question counts no more"
    );
}

#[test]
fn a_node_that_is_started_again_while_its_old_lease_is_ended_asks_about_that_again() {
    let mut rig = Rig::joined(config(), Vec::new());
    let old = rig.lease();
    let metadata = metadata(1, "intruder");
    rig.see(vec![Change::Node(ME, Some(stored(104, LeaseId(9), metadata)))]);
    let asks = |rig: &Rig| {
        rig.calls.values().filter(|(_, call)| *call == Call::ReadEnd { lease: old }).count()
    };
    assert_eq!(asks(&rig), 1);
    rig.start(Dead::default());
    assert_eq!(asks(&rig), 2);
}

#[test]
fn r10_work_that_will_not_end_costs_the_clean_end_but_not_the_return() {
    let mut rig = Rig::leader();
    let old = rig.lease();
    rig.wait(ms(1700));
    rig.answer(is_renew, Outcome::Done(Answer::default()));
    rig.wait(ms(3000));
    assert!(!rig.asks(|call| matches!(call, Call::ReadEnd { .. } | Call::End { .. })));
    rig.answer(|call| *call == Call::Revoke { lease: old }, Outcome::LeaseNotFound);
    rig.done(is_read);
    rig.answer(is_grant, granted());
    let Some(Call::Join(join)) = rig.call(is_join) else { panic!("no join") };
    assert!(join.candidate);
}

#[test]
fn r10_a_node_that_is_told_to_leave_without_a_session_has_not_left_while_its_work_runs() {
    let left = |rig: &mut Rig| {
        rig.effects().into_iter().find(|effect| matches!(effect, Effect::Left { .. }))
    };
    for told_late in [false, true] {
        let mut rig = Rig::leader();
        let old = rig.lease();
        rig.wait(ms(1700));
        rig.answer(is_renew, Outcome::Done(Answer::default()));
        let stop = |rig: &mut Rig, now| {
            if told_late == now {
                rig.input(Input::Stop);
            }
        };
        stop(&mut rig, false);
        rig.wait(ms(3000));
        rig.answer(|call| *call == Call::Revoke { lease: old }, Outcome::LeaseNotFound);
        stop(&mut rig, true);
        rig.wait(ms(3000));
        assert_eq!(left(&mut rig), None);
        rig.input(Input::WorkEnded { work: 1 });
        while rig.asks(is_revoke) {
            rig.done(is_revoke);
        }
        assert_eq!(left(&mut rig), Some(Effect::Left { clean: true }));
    }
}

#[test]
fn r10_the_own_member_key_gone_from_the_view_ends_the_session() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    let lease = rig.lease();
    rig.effects();
    rig.see(vec![Change::Member(ME, None)]);
    let lost = Effect::SessionLost { lease, reason: SessionEnd::MemberLost };
    assert!(rig.effects().contains(&lost));
}

#[test]
fn r8_a_smaller_revision_than_one_received_before_it_was_sent_is_another_store() {
    let mut rig = Rig::leader();
    rig.wait(ms(200));
    rig.revision = 30;
    rig.done(|call| matches!(call, Call::Beat { .. }));
    let effects = rig.effects();
    let lost = effects.iter().find_map(|effect| match effect {
        Effect::SessionLost { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(lost, Some(SessionEnd::StoreReplaced));
    assert!(effects.contains(&Effect::StoreReplaced));
    assert_eq!(rig.engine.authority(), None);
}

/// A write makes a revision of its own, so its answer carries a greater revision than any before.
#[test]
fn r8_a_write_that_gets_a_revision_received_before_it_was_sent_shows_another_store() {
    let mut rig = Rig::leader();
    let lease = rig.lease();
    rig.wait(ms(200));
    let (id, sent_at, _) = rig.take_call(|call| matches!(call, Call::Beat { .. }));
    let outcome = Outcome::Done(rig.header(Vec::new()));
    rig.effects();
    rig.input(Input::Answered { id, sent_at, received_at: rig.now, outcome });
    let lost = Effect::SessionLost { lease, reason: SessionEnd::StoreReplaced };
    assert!(rig.effects().contains(&lost));
    assert_eq!(rig.engine.authority(), None);
}

/// Users' watches continue while their node has no session, and must list again too.
#[test]
fn r8_a_store_that_is_replaced_during_a_join_is_noticed_without_a_session_to_lose() {
    let mut rig = Rig::new(config());
    to_grant(&mut rig);
    rig.wait(ms(10));
    rig.answer(is_grant, granted());
    rig.effects();
    rig.revision = 30;
    rig.done(is_join);
    let effects = rig.effects();
    assert!(effects.contains(&Effect::StoreReplaced), "{effects:?}");
}

#[test]
fn r8_a_renewals_header_proves_nothing() {
    let mut rig = Rig::leader();
    rig.wait(ms(1700));
    let ttl = Duration::from_secs(5);
    let behind = Answer { revision: Revision(3), cluster: 7, ttl, ..Answer::default() };
    rig.answer(is_renew, Outcome::Done(behind));
    assert!(rig.engine.joined().is_some());
}

#[test]
fn a_renewal_that_is_not_answered_is_sent_again_and_proves_nothing_either_way() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    rig.wait(ms(1700));
    rig.answer(is_renew, Outcome::Unknown);
    rig.wait(ms(900));
    assert!(rig.asks(is_renew));
    assert!(rig.engine.joined().is_some());
}

#[test]
fn stop_in_the_middle_of_a_join_ends_the_lease_before_it_has_left() {
    let left = |rig: &mut Rig| {
        rig.effects().into_iter().find(|effect| matches!(effect, Effect::Left { .. }))
    };
    let mut rig = Rig::new(config());
    to_grant(&mut rig);
    let Call::Grant { lease, .. } = rig.answer(is_grant, granted()) else { unreachable!() };
    assert!(rig.asks(is_join));
    rig.input(Input::Stop);
    rig.done(|call| *call == Call::ReadEnd { lease });
    rig.answer(is_revoke, Outcome::Unknown);
    rig.wait(ms(200));
    assert_eq!(left(&mut rig), None);
    rig.done(|call| *call == Call::Revoke { lease });
    assert_eq!(left(&mut rig), Some(Effect::Left { clean: true }));
}

#[test]
fn a_lease_that_is_granted_after_the_node_has_stopped_is_given_back() {
    let mut rig = Rig::new(config());
    to_grant(&mut rig);
    let (grant, sent, Call::Grant { lease, .. }) = rig.take_call(is_grant) else { unreachable!() };
    rig.input(Input::Stop);
    rig.done(|call| matches!(call, Call::ReadEnd { .. }));
    rig.answer(is_revoke, Outcome::LeaseNotFound);
    assert!(!rig.asks(is_revoke));
    rig.answer_as(grant, sent, granted());
    assert_eq!(rig.call(is_revoke), Some(&Call::Revoke { lease }));
}

#[test]
fn a_node_that_has_left_can_be_started_again() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    let first = rig.lease();
    rig.input(Input::Stop);
    rig.done(|call| matches!(call, Call::Stop { .. }));
    rig.done(is_revoke);
    assert!(rig.effects().contains(&Effect::Left { clean: true }));
    rig.start(Dead::default());
    rig.done(is_read);
    rig.answer(is_grant, granted());
    rig.done(is_join);
    assert_ne!(rig.lease(), first);
}
