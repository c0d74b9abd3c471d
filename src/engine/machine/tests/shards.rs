//! Tests of shard work: T12 (CLAIM), T13 (RELEASE), T14 (CHECK), T15 (PLAN), T16 (SHARD WRITE).

use super::rig::{
    ME, Rig, config, held, id, joined_keys, member, ms, plan, record, stored, table, work, written,
};
use crate::engine::{
    Answer, Call, Change, Effect, Held, Input, LeaseId, Outcome, Revision, SessionEnd, ShardEnd,
    ShardEpoch, ShardId, Stored, timing,
};

const LEADER: LeaseId = LeaseId(77);

fn is_write(call: &Call) -> bool {
    matches!(call, Call::WriteHeld { .. })
}

fn is_check(call: &Call) -> bool {
    matches!(call, Call::Check { .. })
}

fn is_plan(call: &Call) -> bool {
    matches!(call, Call::Plan { .. })
}

fn start(shard: u32, epoch: i64) -> Effect {
    Effect::StartShard { work: work(), shard: ShardId(shard), epoch: ShardEpoch(epoch) }
}

fn stop(shard: u32, reason: ShardEnd) -> Effect {
    Effect::StopShard { work: work(), shard: ShardId(shard), reason }
}

fn starts(rig: &mut Rig) -> Vec<Effect> {
    let effects = rig.effects();
    effects.into_iter().filter(|effect| matches!(effect, Effect::StartShard { .. })).collect()
}

fn ended(rig: &mut Rig, shard: u32) {
    rig.input(Input::ShardEnded { work: work(), shard: ShardId(shard) });
}

/// Rig of a follower under node 2.
fn follower() -> Rig {
    let mut others = joined_keys(id(2), LEADER, 60);
    others.push(Change::Record(Some(written(50, 61, None, record(60, LEADER, id(2), 1)))));
    Rig::joined(config(), others)
}

/// Rig of a follower that holds shard 0 in epoch 102, with h = 110.
fn owner() -> Rig {
    let mut rig = follower();
    let me = rig.lease();
    rig.see(vec![plan(102, table([Some(me), None, None, None], 102))]);
    rig.revision = 110;
    rig.done(is_write);
    rig.see(vec![Change::Held(me, Some(written(101, 110, Some(me), held(&[(0, 102)]))))]);
    rig
}

#[test]
fn t12_a_shard_is_started_only_after_its_claim_has_committed() {
    let mut rig = follower();
    let me = rig.lease();
    rig.see(vec![plan(102, table([Some(me), None, Some(LEADER), Some(me)], 102))]);
    assert_eq!(starts(&mut rig), []);
    let call = rig.call(is_write).unwrap().clone();
    let Call::WriteHeld { held: h, plans, content, .. } = call else { unreachable!() };
    assert_eq!((h, plans), (Revision(101), vec![(work(), b"as of 102".to_vec())]));
    assert_eq!(content.shards, held(&[(0, 102), (3, 102)]).shards);
    rig.done(is_write);
    assert_eq!(starts(&mut rig), [start(0, 102), start(3, 102)]);
}

#[test]
fn t12_a_shard_that_another_held_key_shows_is_not_claimed() {
    let mut rig = follower();
    let me = rig.lease();
    rig.see(vec![
        Change::Held(LEADER, Some(stored(102, LEADER, held(&[(0, 90)])))),
        plan(102, table([Some(me), None, None, None], 102)),
    ]);
    assert!(!rig.asks(is_write));
}

#[test]
fn t12_an_unanswered_claim_is_checked_and_settled_by_another_write() {
    let mut rig = follower();
    let me = rig.lease();
    rig.see(vec![plan(102, table([Some(me), None, None, None], 102))]);
    rig.answer(is_write, Outcome::Unknown);
    assert!(!rig.asks(is_write), "not before it is known what h is");
    // The plan gives the shard to another node meanwhile: the settling write is sent all the same, without
    // the shard.
    rig.see(vec![plan(103, table([Some(LEADER), None, None, None], 103))]);
    let at_h = Change::Held(me, Some(stored(101, me, Held::default())));
    let answer = Outcome::Done(rig.header(vec![at_h]));
    rig.answer(is_check, answer);
    assert_eq!(starts(&mut rig), [], "the write may yet come");
    let Call::WriteHeld { held: h, content, plans, .. } = rig.done(is_write) else {
        unreachable!()
    };
    assert_eq!((h, content.shards.len(), plans.len()), (Revision(101), 0, 0));
}

/// A restored store reuses revisions: this write was sent after the one at h.
#[test]
fn r8_a_later_own_write_that_is_found_at_h_shows_another_store() {
    let mut rig = follower();
    let me = rig.lease();
    rig.see(vec![plan(102, table([Some(me), None, None, None], 102))]);
    let Call::WriteHeld { content, .. } = rig.answer(is_write, Outcome::Unknown) else {
        unreachable!()
    };
    rig.effects();
    let at_h = Change::Held(me, Some(written(101, 101, Some(me), content)));
    let answer = Outcome::Done(rig.header(vec![at_h]));
    rig.answer(is_check, answer);
    let lost = Effect::SessionLost { lease: me, reason: SessionEnd::StoreReplaced };
    assert!(rig.effects().contains(&lost));
}

#[test]
fn t14_a_late_own_write_is_adopted_by_its_nonce_and_any_other_ends_the_session() {
    let mut rig = follower();
    let me = rig.lease();
    rig.see(vec![plan(102, table([Some(me), None, None, None], 102))]);
    let Call::WriteHeld { content, .. } = rig.answer(is_write, Outcome::Unknown) else {
        unreachable!()
    };
    let late = Change::Held(me, Some(written(101, 105, Some(me), content)));
    let answer = Outcome::Done(rig.header(vec![late]));
    rig.answer(is_check, answer);
    assert_eq!(starts(&mut rig), [start(0, 102)]);
    assert_eq!(rig.engine.shard_authority().unwrap().held, Revision(105));

    let mut rig = owner();
    rig.effects();
    rig.wait(timing::CHECK_EVERY);
    let forged = Change::Held(me, Some(written(101, 111, Some(me), held(&[(0, 102)]))));
    let answer = Outcome::Done(rig.header(vec![forged]));
    rig.answer(is_check, answer);
    let effects = rig.effects();
    assert!(effects.contains(&stop(0, ShardEnd::SessionLost)));
    let lost = |effect: &Effect| {
        matches!(effect, Effect::SessionLost { reason: SessionEnd::HeldLost, .. })
    };
    assert!(effects.iter().any(lost));
}

/// A restore with bumped revisions: only the held key goes back, to a value that this same node wrote.
#[test]
fn t14_a_held_key_that_a_backup_brought_back_ends_the_session() {
    let mut rig = follower();
    let me = rig.lease();
    rig.see(vec![plan(102, table([Some(me), None, None, None], 102))]);
    rig.revision = 110;
    let Call::WriteHeld { content: old, .. } = rig.done(is_write) else { unreachable!() };
    rig.see(vec![plan(111, table([Some(me), Some(me), None, None], 102))]);
    rig.revision = 120;
    rig.done(is_write);
    rig.effects();
    rig.wait(timing::CHECK_EVERY);
    rig.revision = 1_000_000;
    let brought = Change::Held(me, Some(written(101, 110, Some(me), old)));
    let answer = Outcome::Done(rig.header(vec![brought]));
    rig.answer(is_check, answer);
    let effects = rig.effects();
    let lost = |effect: &Effect| {
        matches!(effect, Effect::SessionLost { reason: SessionEnd::HeldLost, .. })
    };
    assert!(effects.iter().any(lost), "{effects:?}");
    assert!(effects.contains(&stop(0, ShardEnd::SessionLost)), "{effects:?}");
}

#[test]
fn t14_shard_authority_counts_from_when_the_check_was_sent_and_lapses_without_one() {
    let mut rig = owner();
    let me = rig.lease();
    rig.effects();
    rig.wait(timing::CHECK_EVERY);
    let (check, sent, _) = rig.take_call(is_check);
    rig.pause(ms(200));
    let at_h = Change::Held(me, Some(written(101, 110, Some(me), held(&[(0, 102)]))));
    let answer = Outcome::Done(rig.header(vec![at_h]));
    rig.answer_as(check, sent, answer);
    assert_eq!(rig.engine.shard_authority().unwrap().until, sent + timing::span(timing::F));
    // Renewals are answered, checks are not.
    for _ in 0..30 {
        rig.wait(ms(100));
        if rig.asks(|call| matches!(call, Call::Renew { .. })) {
            let ttl = ms(5000);
            let renewed = Outcome::Done(Answer { ttl, ..Answer::default() });
            rig.answer(|call| matches!(call, Call::Renew { .. }), renewed);
        }
    }
    assert!(rig.effects().contains(&stop(0, ShardEnd::Lapsed)));
}

#[test]
fn t13_a_draining_shard_is_stopped_joined_and_only_then_released() {
    let mut rig = owner();
    let me = rig.lease();
    rig.effects();
    let mut drained = table([Some(me), None, None, None], 102);
    drained.shards[0].draining = true;
    rig.see(vec![plan(112, drained)]);
    assert!(rig.effects().contains(&stop(0, ShardEnd::Moved)));
    rig.wait(ms(300));
    assert!(!rig.asks(is_write), "its tasks still run");
    ended(&mut rig, 0);
    let Call::WriteHeld { content, .. } = rig.call(is_write).unwrap() else { unreachable!() };
    assert!(content.shards.is_empty());
}

#[test]
fn t13_an_epoch_that_was_released_is_never_claimed_again() {
    let mut rig = owner();
    let me = rig.lease();
    let mut drained = table([Some(me), None, None, None], 102);
    drained.shards[0].draining = true;
    rig.see(vec![plan(112, drained)]);
    ended(&mut rig, 0);
    rig.done(is_write);
    rig.see(vec![plan(113, table([Some(me), None, None, None], 102))]);
    rig.wait(ms(50));
    assert!(!rig.asks(is_write));
    rig.see(vec![plan(114, table([Some(me), None, None, None], 114))]);
    assert!(rig.asks(is_write));
}

#[test]
fn t13_while_the_plan_says_nothing_the_holder_goes_on() {
    let mut rig = owner();
    rig.effects();
    rig.see(vec![plan(112, table([None, None, None, None], 0))]);
    rig.see(vec![Change::Plan(work(), None)]);
    assert!(!rig.effects().iter().any(|effect| matches!(effect, Effect::StopShard { .. })));
    assert!(!rig.asks(is_write));
}

#[test]
fn r10_a_new_incarnation_keeps_no_shard_of_the_old_one() {
    let mut rig = owner();
    let old = rig.lease();
    rig.effects();
    rig.see(vec![Change::Member(ME, None)]);
    assert!(rig.effects().contains(&stop(0, ShardEnd::SessionLost)));
    assert_eq!(rig.engine.shard_authority(), None);
    ended(&mut rig, 0);
    rig.wait(ms(100));
    assert!(rig.asks(|call| *call == Call::ReadEnd { lease: old }));
}

fn keep_in_office(rig: &mut Rig, time: std::time::Duration) {
    let until = rig.now + time;
    while rig.now < until {
        rig.wait_renewed(ms(50).min(until.since(rig.now)));
        while rig.asks(|call| matches!(call, Call::Beat { .. })) {
            rig.done(|call| matches!(call, Call::Beat { .. }));
        }
    }
}

#[test]
fn t15_an_absent_plan_is_created_as_all_nobody() {
    let rig = Rig::leader();
    let Some(Call::InitPlan { table, .. }) = rig.call(|call| matches!(call, Call::InitPlan { .. }))
    else {
        panic!("no plan")
    };
    assert!(table.shards.iter().all(|assignment| assignment.owner.is_none()));
}

#[test]
fn t15_a_shard_of_nobody_is_given_away_only_after_the_longest_wait() {
    let mut rig = Rig::leader();
    rig.done(|call| matches!(call, Call::InitPlan { .. }));
    let mut keys = joined_keys(id(2), LEADER, 104);
    keys.push(plan(104, table([None; 4], 0)));
    rig.see(keys);
    keep_in_office(&mut rig, timing::wait(timing::SPAN_MAX).saturating_sub(ms(10)));
    assert!(!rig.asks(is_plan));
    keep_in_office(&mut rig, ms(10));
    let Some(Call::Plan { table, proofs, .. }) = rig.call(is_plan) else { panic!("no plan") };
    assert!(table.shards.iter().all(|assignment| assignment.owner == Some(LEADER)));
    assert!(proofs.is_empty());
}

#[test]
fn t15_a_holder_that_the_plan_does_not_name_is_entered_with_its_epoch() {
    let mut rig = Rig::leader();
    rig.done(|call| matches!(call, Call::InitPlan { .. }));
    let mut keys = joined_keys(id(2), LEADER, 104);
    keys.push(Change::Held(LEADER, Some(written(104, 104, Some(LEADER), held(&[(2, 88)])))));
    keys.push(plan(104, table([None; 4], 0)));
    rig.see(keys);
    rig.wait(timing::PLAN_EVERY);
    let Some(Call::Plan { table, .. }) = rig.call(is_plan) else { panic!("no plan") };
    assert_eq!((table.shards[2].owner, table.shards[2].epoch), (Some(LEADER), ShardEpoch(88)));
    assert_eq!(table.shards[0].owner, None);
}

/// Rig of a leader whose plan gives all four shards to a worker with that held key.
fn leader_over(holder: Held) -> Rig {
    let mut rig = Rig::leader();
    rig.done(|call| matches!(call, Call::InitPlan { .. }));
    let mut keys = joined_keys(id(2), LEADER, 104);
    keys.push(Change::Held(LEADER, Some(written(104, 104, Some(LEADER), holder))));
    keys.push(plan(104, table([Some(LEADER); 4], 90)));
    rig.see(keys);
    rig
}

#[test]
fn t15_from_an_owner_that_has_it_a_shard_is_only_drained() {
    let mut rig = leader_over(held(&[(0, 90), (1, 90), (2, 90), (3, 90)]));
    rig.see(joined_keys(id(3), LeaseId(78), 105));
    rig.wait(timing::PLAN_EVERY);
    let Some(Call::Plan { table, proofs, .. }) = rig.call(is_plan) else { panic!("no plan") };
    assert!(proofs.is_empty());
    assert!(table.shards.iter().all(|assignment| assignment.owner == Some(LEADER)));
    assert_eq!(table.shards.iter().filter(|assignment| assignment.draining).count(), 2);
}

#[test]
fn t15_from_an_owner_that_lacks_it_a_shard_is_taken_with_proof_and_a_higher_epoch() {
    let mut rig = leader_over(held(&[(0, 90), (1, 90)]));
    rig.see(joined_keys(id(3), LeaseId(78), 105));
    rig.wait(timing::PLAN_EVERY);
    let Some(Call::Plan { table, proofs, .. }) = rig.call(is_plan) else { panic!("no plan") };
    assert_eq!(*proofs, [(LEADER, b"as of 104".to_vec())]);
    for assignment in &table.shards[2..] {
        assert_eq!(assignment.owner, Some(LeaseId(78)));
        assert!(ShardEpoch(90) < assignment.epoch);
    }
}

#[test]
fn t15_an_owner_that_vanished_with_the_shard_is_waited_out_and_one_without_it_is_not() {
    let mut rig = leader_over(held(&[(0, 90), (1, 90), (2, 90)]));
    rig.see(joined_keys(id(3), LeaseId(78), 105));
    rig.wait(timing::PLAN_EVERY);
    rig.answer(is_plan, Outcome::Unknown);
    rig.see(vec![
        Change::Held(LEADER, None),
        Change::Member(id(2), None),
        Change::Node(id(2), None),
        Change::Candidate(LEADER, None),
    ]);
    keep_in_office(&mut rig, ms(400));
    let Some(Call::Plan { table, .. }) = rig.call(is_plan) else { panic!("no plan") };
    assert_eq!(table.shards[3].owner, Some(LeaseId(78)), "known to have been lacked");
    assert_eq!(table.shards[0].owner, Some(LEADER), "its owner may still act");
    let mut given = table.clone();
    rig.revision += 1;
    rig.done(is_plan);
    given.shards[3].epoch = ShardEpoch(106);
    let claimed = written(105, rig.revision + 1, Some(LeaseId(78)), held(&[(3, 106)]));
    rig.see(vec![plan(rig.revision + 1, given), Change::Held(LeaseId(78), Some(claimed))]);
    keep_in_office(&mut rig, timing::wait(timing::F));
    let last =
        rig.calls.values().rev().find(|(_, call)| is_plan(call)).map(|(_, call)| call.clone());
    let Some(Call::Plan { table, proofs, .. }) = last else { panic!("no plan after the wait") };
    assert_eq!(table.shards[0].owner, Some(LeaseId(78)));
    assert!(proofs.iter().all(|(lease, _)| *lease != LEADER));
}

#[test]
fn t15_a_junk_held_key_is_as_good_as_gone_and_deleted_after_its_wait() {
    let mut rig = leader_over(held(&[(0, 90)]));
    let junk = Stored {
        created: Revision(104),
        modified: Revision(106),
        lease: None,
        value: None,
        bytes: b"junk".to_vec(),
    };
    rig.see(vec![Change::Held(LEADER, Some(junk))]);
    let is_delete = |call: &Call| matches!(call, Call::DeleteHeld { lease: LEADER, .. });
    keep_in_office(&mut rig, timing::wait(timing::F).saturating_sub(ms(100)));
    assert!(!rig.asks(is_delete));
    keep_in_office(&mut rig, ms(200));
    assert!(rig.asks(is_delete));
}

#[test]
fn t15_a_held_key_that_was_taken_off_its_lease_is_as_good_as_gone_too() {
    let holder = held(&[(0, 90), (1, 90), (2, 90), (3, 90)]);
    let mut rig = leader_over(holder.clone());
    rig.see(joined_keys(id(3), LeaseId(78), 105));
    rig.see(vec![Change::Held(LEADER, Some(written(104, 106, None, holder)))]);
    let given_away = |rig: &Rig| {
        let plans = rig.calls.values().filter_map(|(_, call)| match call {
            Call::Plan { table, .. } => Some(table),
            _ => None,
        });
        plans.flat_map(|table| &table.shards).any(|shard| shard.owner == Some(LeaseId(78)))
    };
    keep_in_office(&mut rig, timing::wait(timing::F).saturating_sub(ms(100)));
    assert!(!given_away(&rig), "its owner may still act");
    let is_delete = |call: &Call| matches!(call, Call::DeleteHeld { lease: LEADER, .. });
    assert!(!rig.asks(is_delete));
    keep_in_office(&mut rig, ms(200));
    assert!(rig.asks(is_delete) && given_away(&rig));
}

#[test]
fn t15_the_leader_takes_shards_only_when_it_is_alone() {
    let mut rig = leader_over(held(&[(0, 90), (1, 90), (2, 90), (3, 90)]));
    let me = rig.lease();
    rig.wait(timing::PLAN_EVERY);
    assert!(!rig.asks(is_plan), "a follower has them all");
    let mut drained = member(LEADER);
    drained.draining = true;
    rig.see(vec![Change::Member(id(2), Some(stored(104, LEADER, drained)))]);
    rig.wait(timing::PLAN_EVERY);
    let Some(Call::Plan { table, .. }) = rig.call(is_plan) else { panic!("no plan") };
    assert!(table.shards.iter().all(|assignment| assignment.draining));
    assert!(table.shards.iter().all(|assignment| assignment.owner != Some(me)));
}

#[test]
fn t15_a_held_key_that_comes_as_junk_counts_as_vanished_from_then_on() {
    let mut rig = Rig::leader();
    let junk = LeaseId(9);
    rig.see(vec![Change::Held(junk, Some(written(104, 104, None, held(&[(0, 3)]))))]);
    assert_eq!(rig.engine.watched.vanished.get(&junk).map(|vanished| vanished.at), Some(rig.now));
}

fn lost(rig: &mut Rig) -> Option<SessionEnd> {
    rig.effects().into_iter().find_map(|effect| match effect {
        Effect::SessionLost { reason, .. } => Some(reason),
        _ => None,
    })
}

#[test]
fn r14_an_owner_whose_checks_are_answered_too_late_gives_its_incarnation_up_blindly() {
    let mut rig = owner();
    let me = rig.lease();
    rig.effects();
    rig.wait_renewed(ms(5_999));
    assert_eq!(rig.engine.joined(), Some(me));
    rig.wait_renewed(ms(1));
    assert_eq!(lost(&mut rig), Some(SessionEnd::UselessOwner));
    let is_stop = |call: &Call| matches!(call, Call::Stop { held: Revision(110), .. });
    assert!(!rig.asks(is_stop), "its work has not been joined");
    ended(&mut rig, 0);
    assert!(rig.asks(is_stop));
    assert!(rig.asks(|call| *call == Call::Revoke { lease: me }));
    // The late answer is ignored, and the node joins only after a quick round trip.
    let shows = Outcome::Done(rig.header(vec![]));
    rig.answer(is_check, shows);
    assert!(starts(&mut rig).is_empty());
    assert_eq!(rig.engine.joined(), None);
}

#[test]
fn r15_a_node_that_did_not_claim_in_time_gets_one_shard_after_its_pause_and_then_its_share() {
    let mut rig = leader_over(Held::default());
    rig.see(joined_keys(id(3), LeaseId(78), 105));
    let given = |rig: &Rig, to: LeaseId| {
        let last = rig.calls.values().rev().find(|(_, call)| is_plan(call));
        let Some((_, Call::Plan { table, .. })) = last else { return None };
        Some(table.shards.iter().filter(|shard| shard.owner == Some(to)).count())
    };
    // The table of the last PLAN takes effect; the other node claims, LEADER lives and does not claim.
    let mut epoch = 105;
    let mut commit = |rig: &mut Rig| {
        epoch += 10;
        rig.revision = epoch;
        let Call::Plan { table, .. } = rig.done(is_plan) else { unreachable!() };
        let shards: Vec<_> = (0..4)
            .filter(|shard| table.shards[*shard as usize].owner == Some(LeaseId(78)))
            .map(|shard| (shard, table.shards[shard as usize].epoch.0))
            .collect();
        let claimed = written(105, epoch + 1, Some(LeaseId(78)), held(&shards));
        rig.see(vec![plan(epoch + 1, table), Change::Held(LeaseId(78), Some(claimed))]);
    };
    keep_in_office(&mut rig, ms(100));
    assert_eq!((given(&rig, LEADER), given(&rig, LeaseId(78))), (Some(2), Some(2)));
    commit(&mut rig);
    keep_in_office(&mut rig, ms(600));
    assert_eq!((given(&rig, LEADER), given(&rig, LeaseId(78))), (Some(0), Some(4)));
    commit(&mut rig);
    keep_in_office(&mut rig, ms(500));
    assert!(!rig.asks(is_plan), "nothing is drained towards it");
    keep_in_office(&mut rig, ms(700));
    let Some(Call::Plan { table, .. }) = rig.call(is_plan) else { panic!("no probation") };
    assert_eq!(table.shards.iter().filter(|shard| shard.draining).count(), 1);
}

#[test]
fn r15_a_leader_that_works_beside_a_doubted_node_gives_it_a_shard_on_probation_although_shares_are_even()
 {
    let mut rig = leader_over(held(&[(0, 90), (1, 90)]));
    let me = rig.lease();
    // LEADER does not claim the other two shards in time, and the leader takes them itself.
    keep_in_office(&mut rig, timing::StoreTiming::ETCD.claim_within + ms(50));
    rig.revision = 110;
    let Call::Plan { table, .. } = rig.done(is_plan) else { unreachable!() };
    let owners: Vec<_> = table.shards.iter().map(|shard| shard.owner).collect();
    assert_eq!(owners, [Some(LEADER), Some(LEADER), Some(me), Some(me)]);
    let epoch = table.shards[2].epoch.0;
    rig.see(vec![plan(111, table)]);
    rig.done(is_write);
    let own = written(101, 112, Some(me), held(&[(2, epoch), (3, epoch)]));
    rig.see(vec![Change::Held(me, Some(own))]);
    keep_in_office(&mut rig, ms(500));
    assert!(!rig.asks(is_plan), "LEADER is paused");
    keep_in_office(&mut rig, ms(600));
    let Some(Call::Plan { table, .. }) = rig.call(is_plan) else { panic!("no probation") };
    let drained = table.shards.iter().filter(|shard| shard.draining);
    assert_eq!(drained.map(|shard| shard.owner).collect::<Vec<_>>(), [Some(me)]);
}

#[test]
fn r15_a_node_that_was_deposed_gets_no_shard_until_it_is_heard() {
    let mut rig = leader_over(Held::default());
    rig.see(joined_keys(id(3), LeaseId(78), 105));
    rig.see(vec![Change::Candidate(LEADER, None)]);
    keep_in_office(&mut rig, ms(100));
    let owners = |rig: &Rig| {
        let last = rig.calls.values().rev().find(|(_, call)| is_plan(call));
        let Some((_, Call::Plan { table, .. })) = last else { panic!("no plan") };
        table.shards.iter().map(|shard| shard.owner).collect::<Vec<_>>()
    };
    assert_eq!(owners(&rig), [Some(LeaseId(78)); 4]);
}

#[test]
fn r16_a_lease_whose_renewals_are_not_answered_is_given_up() {
    let mut rig = follower();
    let me = rig.lease();
    rig.wait_renewed(ms(2000));
    rig.effects();
    rig.wait(config().ttl);
    assert_eq!(lost(&mut rig), Some(SessionEnd::Unanswered));
    assert!(rig.asks(|call| *call == Call::Revoke { lease: me }));
    rig.wait(ms(5000));
    assert_eq!(rig.engine.joined(), None);
    assert!(!rig.asks(|call| matches!(call, Call::ReadJoin { .. })), "the old lease may live");
}

#[test]
fn a_drained_node_lets_go_of_its_shards_even_if_nobody_plans() {
    let mut rig = owner();
    rig.effects();
    rig.input(Input::Drain(true));
    assert!(rig.effects().contains(&stop(0, ShardEnd::Moved)));
    ended(&mut rig, 0);
    let Some(Call::WriteHeld { content, .. }) = rig.call(is_write) else { panic!("no release") };
    assert!(content.shards.is_empty());
}
