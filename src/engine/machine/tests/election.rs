//! Tests of the queue of candidates: R3 (receipt of the record), R6 (when to TAKE office); T3 (SEED), T4
//! (ENROL, WITHDRAW), T5 (TAKE), T19 (REPAIR).

use super::rig::{ME, Rig, config, id, joined_keys, ms, record, seed, stored, written};
use crate::engine::{
    Call, Change, Dead, Effect, Failover, HolderClause, Input, LeaseId, Outcome, Revision, Stored,
    Term, WorkEnd, timing,
};

const LEADER: LeaseId = LeaseId(77);

fn is_take(call: &Call) -> bool {
    matches!(call, Call::Take(_))
}

fn is_seed(call: &Call) -> bool {
    matches!(call, Call::Seed { .. })
}

/// Keys of a leader of ours: node 2 in term 60, and its record.
fn under_leader() -> Vec<Change> {
    let mut keys = joined_keys(id(2), LEADER, 60);
    keys.push(beat(61, 1));
    keys
}

fn beat(modified: i64, n: u64) -> Change {
    Change::Record(Some(written(50, modified, None, record(60, LEADER, id(2), n))))
}

#[test]
fn r3_an_absent_record_is_seeded_first_and_then_waited_out() {
    let mut rig = Rig::joined(config(), Vec::new());
    assert!(rig.asks(is_seed));
    assert!(!rig.asks(is_take));
    let Call::Seed { ended, .. } = rig.done(is_seed) else { unreachable!() };
    assert!(!ended);
    rig.see(vec![seed(102)]);
    rig.wait(timing::wait(timing::SPAN_MAX).saturating_sub(ms(1)));
    assert!(!rig.asks(is_take));
    rig.wait(ms(1));
    assert!(rig.asks(is_take));
}

#[test]
fn t3_a_store_of_this_process_is_seeded_as_ended() {
    let mut own = config();
    own.own_store = true;
    let mut rig = Rig::joined(own, Vec::new());
    assert_eq!(rig.done(is_seed), Call::Seed { d: timing::SPAN_MAX, ended: true });
}

#[test]
fn r3_junk_counts_as_a_record_with_the_longest_d_that_is_not_ended() {
    let junk = Stored {
        created: Revision(50),
        modified: Revision(50),
        lease: None,
        value: None,
        bytes: b"junk".to_vec(),
    };
    let mut rig = Rig::joined(config(), vec![Change::Record(Some(junk))]);
    rig.wait(timing::wait(timing::SPAN_MAX).saturating_sub(ms(1)));
    assert!(!rig.asks(is_take));
    rig.wait(ms(1));
    assert!(rig.asks(is_take));
}

#[test]
fn r3_a_d_above_the_most_is_not_believed() {
    let mut believed = record(60, LEADER, id(2), 1);
    believed.d = timing::SPAN_MAX * 10;
    believed.ended = true;
    let mut rig =
        Rig::joined(config(), vec![Change::Record(Some(written(50, 61, None, believed)))]);
    rig.wait(timing::wait(timing::SPAN_MAX).saturating_sub(ms(1)));
    assert!(!rig.asks(is_take), "not even that it is ended");
    rig.wait(ms(1));
    assert!(rig.asks(is_take));
}

#[test]
fn r3_a_re_list_does_not_begin_the_wait_anew_and_a_beat_does() {
    let mut rig = Rig::joined(config(), under_leader());
    rig.wait(ms(1000));
    rig.list(under_leader());
    rig.wait(ms(100));
    assert!(rig.asks(is_take), "the record is the same as before");

    let mut rig = Rig::joined(config(), under_leader());
    rig.wait(ms(1000));
    rig.see(vec![beat(102, 2)]);
    rig.wait(ms(1099));
    assert!(!rig.asks(is_take));
}

#[test]
fn r6_a_record_that_is_ended_is_not_waited_for() {
    let mut rig = Rig::joined(config(), under_leader());
    let mut ended = record(60, LEADER, id(2), 2);
    ended.ended = true;
    assert!(!rig.asks(is_take));
    rig.see(vec![
        Change::Record(Some(written(50, 102, None, ended))),
        Change::Candidate(LEADER, None),
    ]);
    assert!(rig.asks(is_take), "woken by the event, not by a tick");
}

#[test]
fn r6_the_wait_is_by_the_records_d_and_not_by_the_own() {
    let mut others = joined_keys(id(2), LEADER, 60);
    let mut slow = record(60, LEADER, id(2), 1);
    slow.d = Failover::STABLE.d();
    others.push(Change::Record(Some(written(50, 61, None, slow))));
    let mut fast = config();
    fast.failover = Failover::FAST;
    let mut rig = Rig::joined(fast, others);
    rig.wait(timing::wait(Failover::STABLE.d()).saturating_sub(ms(1)));
    assert!(!rig.asks(is_take));
    rig.wait(ms(1));
    assert!(rig.asks(is_take));
}

#[test]
fn r6_a_silent_leader_is_deposed_after_its_wait_by_the_first_in_line_and_a_rank_later_by_the_next()
{
    let mut rig = Rig::joined(config(), under_leader());
    rig.wait(timing::wait(Failover::DEFAULT.d()).saturating_sub(ms(1)));
    assert!(!rig.asks(is_take));
    rig.wait(ms(1));
    let Call::Take(take) = rig.call(is_take).unwrap() else { unreachable!() };
    assert_eq!(take.older, [(LEADER, Revision(60))]);
    assert_eq!(take.record_modified, Revision(61));
    assert_eq!(take.holder, HolderClause::None, "it is swept with the older ones");

    let mut others = under_leader();
    others.extend(joined_keys(id(3), LeaseId(78), 62));
    let mut rig = Rig::joined(config(), others);
    rig.wait(timing::wait(Failover::DEFAULT.d()) + ms(19));
    assert!(!rig.asks(is_take));
    rig.wait(ms(1));
    assert!(rig.asks(is_take));
}

#[test]
fn r6_the_oldest_of_ours_that_does_not_take_office_is_waited_for_with_patience_then_swept() {
    // Node 2 is the oldest candidate and never takes; the record is ended.
    let mut others = joined_keys(id(2), LEADER, 60);
    let mut ended = record(40, LeaseId(70), id(4), 9);
    ended.ended = true;
    others.push(Change::Record(Some(written(50, 59, None, ended))));
    let mut rig = Rig::joined(config(), others);
    rig.wait((timing::wait(Failover::DEFAULT.d()) + timing::RANK_STEP).saturating_sub(ms(1)));
    assert!(!rig.asks(is_take));
    rig.wait(ms(1));
    assert!(rig.asks(is_take));
}

#[test]
fn r6_a_go_node_that_is_the_oldest_is_never_deposed() {
    let mut others = under_leader();
    others.retain(|change| !matches!(change, Change::Member(..)));
    let mut rig = Rig::joined(config(), others);
    rig.wait_renewed(ms(60_000));
    assert!(!rig.asks(is_take));
    // The Go node's lease ends: this node still waits for its own D.
    rig.see(vec![Change::Candidate(LEADER, None)]);
    rig.wait(timing::wait(Failover::DEFAULT.d()).saturating_sub(ms(1)));
    assert!(!rig.asks(is_take));
    rig.wait(ms(1));
    assert!(rig.asks(is_take));
}

#[test]
fn r6_a_go_node_in_the_middle_counts_for_no_rank_and_is_swept() {
    let mut others = under_leader();
    others.push(Change::Candidate(LeaseId(78), Some(stored(62, LeaseId(78), id(3)))));
    let mut rig = Rig::joined(config(), others);
    rig.wait(timing::wait(Failover::DEFAULT.d()));
    let Call::Take(take) = rig.call(is_take).expect("no rank for it") else { unreachable!() };
    assert_eq!(take.older, [(LEADER, Revision(60)), (LeaseId(78), Revision(62))]);
}

#[test]
fn r6_more_than_a_hundred_older_candidates_are_left_to_others() {
    let mut others = under_leader();
    for other in 3..110 {
        others.extend(joined_keys(id(other), LeaseId(1000 + other), 60 + other));
    }
    let mut rig = Rig::new(config());
    rig.revision = 600;
    rig.start(Dead::default());
    rig.done(|call| matches!(call, Call::ReadJoin { .. }));
    let answer = crate::engine::Answer { ttl: ms(5000), ..Default::default() };
    rig.answer(|call| matches!(call, Call::Grant { .. }), Outcome::Done(answer));
    rig.done(|call| matches!(call, Call::Join(_)));
    let mut changes = joined_keys(ME, rig.lease(), 600);
    changes.extend(others);
    rig.list_exactly(changes);
    rig.wait(ms(30_000));
    assert!(!rig.asks(is_take));
}

#[test]
fn r6_after_a_failed_take_none_is_sent_until_the_view_has_caught_up() {
    let mut rig = Rig::joined(config(), under_leader());
    rig.wait(timing::wait(Failover::DEFAULT.d()));
    rig.revision = 140;
    rig.refused(is_take, Vec::new());
    rig.revision = 110;
    rig.wait_renewed(ms(5000));
    assert!(!rig.asks(is_take));
    rig.input(Input::Progress { revision: Revision(140) });
    rig.wait_renewed(ms(5000));
    assert!(rig.asks(is_take));
}

#[test]
fn r2_the_views_revision_is_that_of_lists_events_and_progress_and_events_come_whole() {
    let mut rig = Rig::joined(config(), under_leader());
    assert_eq!(rig.engine.view().revision(), Revision(100 + 1));
    // TAKE deletes a candidate and writes the record at one revision: the view never shows one without the
    // other.
    let successor = LeaseId(78);
    rig.see(joined_keys(id(3), successor, 102));
    rig.see(vec![
        Change::Candidate(LEADER, None),
        Change::Record(Some(written(50, 103, None, record(102, successor, id(3), 1)))),
        Change::Candidate(successor, Some(written(102, 103, Some(successor), id(3)))),
    ]);
    let record = rig.engine.view().record().unwrap();
    assert_eq!((record.term, record.node), (Term(102), Some(id(3))));
    assert_eq!(rig.engine.view().revision(), Revision(103));
    rig.input(Input::Progress { revision: Revision(140) });
    assert_eq!(rig.engine.view().revision(), Revision(140));
    rig.input(Input::Progress { revision: Revision(120) });
    assert_eq!(rig.engine.view().revision(), Revision(140), "it never goes back by a notice");
}

/// `Delete` needs a holder whose key is younger than the own key. No TAKE leaves such a record: TAKE deletes
/// all older keys, and so the own one. A restored backup can bring such a record, but it was written after
/// the own key was created, so that key is withdrawn by R8 (replaced store). Only a forged record is left as
/// a case; the clause costs nothing and stays.
#[test]
fn t5_the_holders_key_must_end_with_the_take_whatever_its_age() {
    // The record names node 2, whose candidate key is younger than the own key, but the record was written
    // before the own key: it is forged.
    let younger = LeaseId(88);
    let mut others = joined_keys(id(2), younger, 150);
    others.push(Change::Record(Some(written(50, 90, None, record(150, younger, id(2), 1)))));
    let mut rig = Rig::joined(config(), others.clone());
    rig.wait(timing::wait(Failover::DEFAULT.d()));
    let Call::Take(take) = rig.call(is_take).unwrap() else { unreachable!() };
    assert_eq!(take.holder, HolderClause::Delete { lease: younger });

    others.retain(|change| !matches!(change, Change::Candidate(..)));
    let mut rig = Rig::joined(config(), others);
    rig.wait(timing::wait(Failover::DEFAULT.d()));
    let Call::Take(take) = rig.call(is_take).unwrap() else { unreachable!() };
    assert_eq!(take.holder, HolderClause::Gone { lease: younger, term: Term(150) });
}

#[test]
fn t5_an_unanswered_take_may_be_sent_again_with_a_fresh_n() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    rig.wait(timing::wait(timing::SPAN_MAX));
    let Call::Take(first) = rig.answer(is_take, Outcome::Unknown) else { unreachable!() };
    rig.wait(ms(100));
    let Call::Take(second) = rig.call(is_take).unwrap() else { unreachable!() };
    assert!(first.record.n < second.record.n);
}

#[test]
fn t4_a_candidate_key_that_is_not_in_the_view_is_enrolled() {
    let mut rig = Rig::joined(config(), under_leader());
    let lease = rig.lease();
    rig.see(vec![Change::Candidate(lease, None)]);
    let call = rig.call(|call| matches!(call, Call::Enrol { .. })).unwrap();
    assert_eq!(*call, Call::Enrol { lease, id: ME, member_created: Revision(101) });
}

#[test]
fn r8_a_candidate_key_that_a_backup_put_behind_a_later_term_is_withdrawn() {
    let is_withdraw = |call: &Call| matches!(call, Call::Withdraw { .. });
    // Term 150 was taken after the own key was created at 101, and the key still exists.
    let younger = LeaseId(88);
    let mut others = joined_keys(id(2), younger, 150);
    let leader = record(150, younger, id(2), 1);
    others.push(Change::Record(Some(written(50, 151, None, leader.clone()))));
    let mut rig = Rig::joined(config(), others.clone());
    assert!(rig.asks(is_withdraw));
    rig.wait(ms(10_000));
    assert!(!rig.asks(is_take));

    // A forged term of the far future: its record was written before the key was created, so it does not
    // count.
    others.pop();
    let forged = crate::engine::Record { term: Term(1_000_000), ..leader };
    others.push(Change::Record(Some(written(50, 90, None, forged))));
    let mut rig = Rig::joined(config(), others);
    assert!(!rig.asks(is_withdraw));
    rig.wait(timing::wait(timing::SPAN_MAX));
    assert!(rig.asks(is_take));
}

#[test]
fn t19_an_own_candidate_key_with_a_foreign_value_is_withdrawn_and_its_term_closed() {
    let mut rig = Rig::leader();
    rig.effects();
    let lease = rig.lease();
    rig.see(vec![Change::Candidate(lease, Some(written(101, 104, None, id(66))))]);
    rig.wait(Failover::DEFAULT.h());
    rig.refused(|call| matches!(call, Call::Beat { .. }), Vec::new());
    assert!(
        rig.effects().contains(&Effect::TermClosed { term: Term(101), reason: WorkEnd::Deposed })
    );
    let call = rig.call(|call| matches!(call, Call::Withdraw { .. })).unwrap();
    assert_eq!(*call, Call::Withdraw { lease, modified: Revision(104) });
}

#[test]
fn t19_anybody_deletes_a_candidate_key_on_a_wrong_lease_after_a_second() {
    let mut rig = Rig::joined(config(), under_leader());
    rig.see(vec![Change::Candidate(LeaseId(5), Some(written(102, 102, None, id(5))))]);
    let withdraws = |call: &Call| matches!(call, Call::Withdraw { lease: LeaseId(5), .. });
    rig.wait(ms(999));
    assert!(!rig.asks(withdraws));
    rig.wait(ms(1));
    assert!(rig.asks(withdraws));
}

#[test]
fn an_unfit_candidate_withdraws_so_that_the_queue_does_not_stand_still_behind_it() {
    let mut rig = Rig::joined(config(), under_leader());
    rig.input(Input::Unfit);
    assert!(rig.asks(|call| matches!(call, Call::Withdraw { .. })));
}

#[test]
fn an_idle_follower_writes_nothing() {
    let mut rig = Rig::joined(config(), under_leader());
    for beaten in 0..50 {
        rig.wait_renewed(ms(200));
        rig.see(vec![beat(102 + beaten, 2)]);
    }
    let writes: Vec<_> =
        rig.calls.values().filter(|(_, call)| !matches!(call, Call::Renew { .. })).collect();
    assert!(writes.is_empty(), "{writes:?}");
}
