//! Tests of the office: R1 (when clocks are read), R4 (what gives authority), R5 (a closed term stays
//! closed), R7 (clean end), R9 (mixed cluster); T6 (BEAT), T7 (fenced write), T8 (RESIGN), T9 (STOP).

use std::time::Duration;

use super::rig::{ME, Rig, config, id, joined_keys, member, ms, record, seed, stored, written};
use crate::engine::{
    Call, Change, Effect, Failover, Held, Input, LeaseId, NodeMetadata, Outcome, Revision, Role,
    SessionEnd, Term, WorkEnd, timing,
};

fn is_beat(call: &Call) -> bool {
    matches!(call, Call::Beat { .. })
}

fn is_take(call: &Call) -> bool {
    matches!(call, Call::Take(_))
}

fn is_resign(call: &Call) -> bool {
    matches!(call, Call::Resign { .. })
}

fn is_withdraw(call: &Call) -> bool {
    matches!(call, Call::Withdraw { .. })
}

#[test]
fn r1_authority_counts_from_before_the_request_was_sent() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    rig.wait(timing::wait(timing::SPAN_MAX));
    let (take, sent, _) = rig.take_call(is_take);
    rig.pause(ms(300));
    let header = rig.header(Vec::new());
    rig.answer_as(take, sent, Outcome::Done(header));
    let authority = rig.engine.authority().unwrap();
    assert_eq!(authority.until, sent + timing::span(Failover::DEFAULT.d()));
}

#[test]
fn r4_office_is_entered_only_when_take_is_known_to_have_committed() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    rig.wait(timing::wait(timing::SPAN_MAX));
    rig.answer(is_take, Outcome::Unknown);
    assert_eq!(rig.engine.authority(), None);
    assert!(!rig.effects().iter().any(|effect| matches!(effect, Effect::StartWork { .. })));
}

#[test]
fn r4_an_echo_counts_for_the_attempt_whose_n_it_shows_and_for_no_other() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    rig.wait(timing::wait(timing::SPAN_MAX));
    let (first_id, first_sent, first) = rig.take_call(is_take);
    let Call::Take(first) = first else { unreachable!() };
    // The answer of the first attempt is lost, and a second attempt is sent later.
    rig.answer_as(first_id, first_sent, Outcome::Unknown);
    rig.wait(ms(60));
    let Some(Call::Take(second)) = rig.call(is_take) else { panic!("no second attempt") };
    assert_ne!(first.record.n, second.record.n);
    let lease = rig.lease();
    let candidate = written(101, 102, Some(lease), ME);
    rig.see(vec![
        Change::Record(Some(written(50, 102, None, first.record.clone()))),
        Change::Candidate(lease, Some(candidate)),
    ]);
    let authority = rig.engine.authority().unwrap();
    assert_eq!(authority.office.term, Term(101));
    assert_eq!(authority.office.revision, Revision(102));
    assert_eq!(authority.until, first_sent + timing::span(Failover::DEFAULT.d()));
}

#[test]
fn r4_an_echo_of_an_unknown_attempt_gives_office_but_no_authority() {
    let mut rig = Rig::joined(config(), vec![seed(50)]);
    let lease = rig.lease();
    let unknown = record(101, lease, ME, 999);
    rig.see(vec![
        Change::Record(Some(written(50, 102, None, unknown))),
        Change::Candidate(lease, Some(written(101, 102, Some(lease), ME))),
    ]);
    assert!(!rig.is_acting());
    assert_eq!(rig.engine.office().map(|office| office.term), Some(Term(101)));
}

#[test]
fn t6_beats_are_sent_every_h_and_extend_authority_from_their_sending() {
    let mut rig = Rig::leader();
    let before = rig.engine.authority().unwrap().until;
    rig.wait(Failover::DEFAULT.h());
    let (beat, sent, _) = rig.take_call(is_beat);
    rig.pause(ms(30));
    let header = rig.header(Vec::new());
    rig.answer_as(beat, sent, Outcome::Done(header));
    let after = rig.engine.authority().unwrap().until;
    assert_eq!(after, sent + timing::span(Failover::DEFAULT.d()));
    assert!(before < after);
}

#[test]
fn t6_beats_that_commit_out_of_order_or_not_at_all_count_by_the_latest_sending() {
    let mut rig = Rig::leader();
    let mut beats = Vec::new();
    for _ in 0..3 {
        rig.wait(Failover::DEFAULT.h());
        beats.push(rig.take_call(is_beat));
    }
    let (last, last_sent, _) = beats.pop().unwrap();
    let (lost, lost_sent, _) = beats.pop().unwrap();
    let (first, first_sent, _) = beats.pop().unwrap();
    let until = last_sent + timing::span(Failover::DEFAULT.d());
    rig.revision += 1;
    let of_first = rig.header(Vec::new());
    rig.revision += 2;
    let of_last = rig.header(Vec::new());
    for (beat, sent, outcome) in [
        (last, last_sent, Outcome::Done(of_last)),
        (lost, lost_sent, Outcome::Unknown),
        (first, first_sent, Outcome::Done(of_first)),
    ] {
        rig.answer_as(beat, sent, outcome);
        assert_eq!(rig.engine.authority().unwrap().until, until);
    }
}

#[test]
fn t6_an_unanswered_beat_extends_nothing_and_authority_lapses_by_the_own_clock() {
    let mut rig = Rig::leader();
    assert!(rig.is_acting());
    rig.effects();
    rig.wait(timing::span(Failover::DEFAULT.d()));
    assert!(!rig.is_acting());
    let stops: Vec<_> =
        rig.effects().into_iter().filter(|e| matches!(e, Effect::StopWork { .. })).collect();
    assert_eq!(stops, [Effect::StopWork { work: 1, reason: WorkEnd::Suspended }]);
    assert_eq!(rig.engine.role(), Role::Follower);
}

/// A node that received the last record waits by the D in it: a smaller D would let the successor start while
/// this node may still act by an earlier beat.
#[test]
fn t6_d_is_the_same_in_all_records_of_a_term() {
    let mut rig = Rig::leader();
    for _ in 0..20 {
        rig.wait_renewed(Failover::DEFAULT.h());
        let Call::Beat { record, .. } = rig.done(is_beat) else { unreachable!() };
        assert_eq!((record.term, record.d), (Term(101), Failover::DEFAULT.d()));
    }
    rig.input(Input::Resign);
    rig.input(Input::WorkEnded { work: 1 });
    let Some(Call::Resign { record, .. }) = rig.call(is_resign) else { panic!("no resign") };
    assert_eq!(record.d, Failover::DEFAULT.d());
}

#[test]
fn t6_a_late_beat_resumes_a_suspended_term_after_its_work_was_joined() {
    let mut rig = Rig::leader();
    rig.wait(timing::span(Failover::DEFAULT.d()));
    rig.effects();
    rig.done(is_beat);
    // The newest beat, which was sent just now, commits.
    let newest =
        rig.calls.iter().rev().find(|(_, (_, call))| is_beat(call)).map(|(id, _)| *id).unwrap();
    let (sent, _) = rig.calls.remove(&newest).unwrap();
    let header = rig.header(Vec::new());
    rig.answer_as(newest, sent, Outcome::Done(header));
    assert!(rig.is_acting());
    assert!(!rig.effects().iter().any(|effect| matches!(effect, Effect::StartWork { .. })));
    rig.input(Input::WorkEnded { work: 1 });
    assert!(rig.effects().iter().any(|effect| matches!(effect, Effect::StartWork { work: 2, .. })));
}

/// Other nodes must not take over before the record is silent, and people must see why no node acts.
#[test]
fn t6_beats_of_a_leader_without_authority_say_that_it_is_suspended() {
    let mut rig = Rig::leader();
    rig.wait(Failover::DEFAULT.h());
    let Call::Beat { record, .. } = rig.done(is_beat) else { unreachable!() };
    assert!(!record.suspended);
    rig.wait(timing::span(Failover::DEFAULT.d()) + Failover::DEFAULT.h());
    assert!(!rig.is_acting());
    let beats = rig.calls.values().filter_map(|(_, call)| match call {
        Call::Beat { record, .. } => Some((record.n, record.suspended)),
        _ => None,
    });
    let newest = beats.max().unwrap();
    assert!(newest.1, "beat {} was sent without authority", newest.0);
}

#[test]
fn r5_a_refused_beat_closes_the_term_and_the_key_is_withdrawn_not_resigned() {
    let mut rig = Rig::leader();
    rig.input(Input::Tick);
    rig.wait(Failover::DEFAULT.h());
    rig.refused(is_beat, Vec::new());
    assert_eq!(rig.engine.authority(), None);
    assert!(
        rig.effects().contains(&Effect::TermClosed { term: Term(101), reason: WorkEnd::Deposed })
    );
    assert!(rig.asks(is_withdraw), "else the queue would stand still behind it");
    assert!(!rig.asks(is_resign));
}

#[test]
fn r5_answers_of_a_closed_term_are_ignored() {
    let mut rig = Rig::leader();
    rig.wait(Failover::DEFAULT.h() * 2);
    rig.refused(is_beat, Vec::new());
    rig.done(is_beat);
    assert_eq!(rig.engine.authority(), None);
    assert_eq!(rig.engine.office(), None);
}

#[test]
fn r5_the_own_key_gone_from_the_view_closes_the_term_within_that_step() {
    let mut rig = Rig::leader();
    rig.effects();
    let lease = rig.lease();
    rig.see(vec![Change::Candidate(lease, None)]);
    assert_eq!(rig.engine.authority(), None);
    let effects = rig.effects();
    assert!(effects.contains(&Effect::StopWork { work: 1, reason: WorkEnd::KeyLost }));
}

#[test]
fn r7_ended_is_written_only_after_the_work_was_joined() {
    let mut rig = Rig::leader();
    rig.input(Input::Resign);
    rig.wait(ms(100));
    assert!(!rig.asks(is_resign), "the routine still runs");
    rig.input(Input::WorkEnded { work: 1 });
    let Some(Call::Resign { office, record }) = rig.call(is_resign) else { panic!("no resign") };
    assert!(record.ended);
    assert_eq!(*office, Revision(103));
    assert_eq!(rig.engine.authority(), None, "closed on sending");
}

#[test]
fn r7_work_that_will_not_end_leaves_the_record_as_it_is() {
    let mut rig = Rig::leader();
    rig.input(Input::Unfit);
    rig.wait(timing::span(Failover::DEFAULT.d()) + ms(1));
    assert!(!rig.asks(is_resign));
    assert!(rig.asks(is_withdraw));
    assert!(
        rig.effects().contains(&Effect::TermClosed { term: Term(101), reason: WorkEnd::Unfit })
    );
}

#[test]
fn r7_a_candidate_that_waits_and_is_stopped_marks_nothing_ended() {
    let leader = LeaseId(77);
    let mut others = joined_keys(id(2), leader, 60);
    others.push(Change::Record(Some(written(50, 61, None, record(60, leader, id(2), 1)))));
    let mut rig = Rig::joined(config(), others);
    rig.input(Input::Stop);
    let Some(Call::Stop { office, .. }) = rig.call(|call| matches!(call, Call::Stop { .. })) else {
        panic!("no stop")
    };
    assert_eq!(*office, None);
}

#[test]
fn t8_a_lost_resign_is_repeated_until_the_key_is_gone_and_never_acted_past() {
    let mut rig = Rig::leader();
    rig.input(Input::Resign);
    rig.input(Input::WorkEnded { work: 1 });
    rig.answer(is_resign, Outcome::Unknown);
    assert_eq!(rig.engine.authority(), None);
    rig.wait(ms(150));
    assert!(rig.asks(is_resign));
    let lease = rig.lease();
    rig.see(vec![Change::Candidate(lease, None)]);
    rig.refused(is_resign, vec![Change::Candidate(lease, None)]);
    rig.wait(ms(500));
    assert!(!rig.asks(is_resign));
    assert_eq!(rig.engine.authority(), None);
}

#[test]
fn t8_after_a_plain_resign_the_node_enrols_when_another_is_in_office() {
    let is_enrol = |call: &Call| matches!(call, Call::Enrol { .. });
    let mut rig = Rig::leader();
    let (lease, other) = (rig.lease(), LeaseId(77));
    rig.see(joined_keys(id(2), other, 104));
    rig.input(Input::Resign);
    rig.input(Input::WorkEnded { work: 1 });
    rig.done(is_resign);
    rig.see(vec![Change::Candidate(lease, None)]);
    assert!(!rig.asks(is_enrol));
    rig.see(vec![
        Change::Record(Some(written(50, 106, None, record(104, other, id(2), 1)))),
        Change::Candidate(other, Some(written(104, 106, Some(other), id(2)))),
    ]);
    assert!(rig.asks(is_enrol));
}

#[test]
fn t9_stop_ends_the_office_and_empties_held_in_one_transaction_then_revokes() {
    let mut rig = Rig::leader();
    rig.input(Input::Stop);
    assert!(!rig.asks(|call| matches!(call, Call::Stop { .. })), "work still runs");
    rig.input(Input::WorkEnded { work: 1 });
    let call = rig.done(|call| matches!(call, Call::Stop { .. }));
    let Call::Stop { office: Some((office, record)), held, .. } = call else { panic!("{call:?}") };
    assert_eq!((office, record.ended, held), (Revision(103), true, Revision(101)));
    rig.effects();
    rig.done(|call| matches!(call, Call::Revoke { .. }));
    assert_eq!(
        rig.effects().last(),
        Some(&Effect::Role(crate::engine::Standing { role: Role::Unknown, term: None }))
    );
}

#[test]
fn t9_the_revoke_of_a_stopped_leader_lets_its_successor_go_first() {
    let is_revoke = |call: &Call| matches!(call, Call::Revoke { .. });
    let (other, stopped) = (LeaseId(77), |rig: &mut Rig| {
        rig.see(joined_keys(id(2), LeaseId(77), 104));
        rig.input(Input::Stop);
        rig.input(Input::WorkEnded { work: 1 });
        // The view shows the events of STOP only later.
        rig.revision += 1;
        rig.done(|call| matches!(call, Call::Stop { .. }));
        assert!(!rig.asks(is_withdraw), "STOP took the key away, whatever the view still shows");
        assert!(!rig.asks(is_revoke), "the successor's TAKE is on its way");
    });
    let mut rig = Rig::leader();
    stopped(&mut rig);
    rig.see(vec![
        Change::Record(Some(written(50, 106, None, record(104, other, id(2), 1)))),
        Change::Candidate(other, Some(written(104, 106, Some(other), id(2)))),
    ]);
    assert!(rig.asks(is_revoke), "the successor is in office");
    // The successor sends no TAKE: it may be gone as well.
    let mut rig = Rig::leader();
    stopped(&mut rig);
    rig.wait(ms(20));
    assert!(rig.asks(is_revoke));
}

#[test]
fn t9_the_event_of_an_own_stop_that_comes_before_its_answer_is_no_lost_session() {
    let mut rig = Rig::leader();
    let lease = rig.lease();
    rig.input(Input::Stop);
    rig.input(Input::WorkEnded { work: 1 });
    let is_stop = |call: &Call| matches!(call, Call::Stop { .. });
    let (stop, sent, _) = rig.take_call(is_stop);
    rig.effects();
    rig.see(vec![
        Change::Candidate(lease, None),
        Change::Held(lease, Some(written(101, 104, Some(lease), crate::engine::Held::default()))),
    ]);
    let header = rig.header(Vec::new());
    rig.answer_as(stop, sent, Outcome::Done(header));
    // The keys vanish from the view before REVOKE is answered.
    rig.see(vec![Change::Member(ME, None), Change::Node(ME, None), Change::Held(lease, None)]);
    rig.done(|call| matches!(call, Call::Revoke { .. }));
    let effects = rig.effects();
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::SessionLost { .. })));
    assert!(effects.contains(&Effect::Left { clean: true }));
}

#[test]
fn t9_past_the_deadline_the_lease_is_revoked_and_nothing_else() {
    let mut rig = Rig::leader();
    rig.input(Input::Stop);
    rig.input(Input::StopNow);
    assert!(rig.asks(|call| matches!(call, Call::Revoke { .. })));
    assert!(!rig.asks(|call| matches!(call, Call::Stop { .. })));
    assert!(rig.effects().contains(&Effect::Left { clean: false }));
    assert_eq!(rig.engine.authority(), None);
}

#[test]
fn r8_an_older_candidate_in_a_view_past_the_take_is_another_history() {
    let mut rig = Rig::leader();
    rig.see(vec![Change::Candidate(LeaseId(5), Some(stored(60, LeaseId(5), id(2))))]);
    let lost = rig.effects().into_iter().any(|effect| {
        matches!(effect, Effect::SessionLost { reason: SessionEnd::StoreReplaced, .. })
    });
    assert!(lost);
}

#[test]
fn r9_beside_a_go_candidate_authority_ends_with_the_lease_too() {
    let mut rig = Rig::leader();
    assert!(rig.is_acting());
    // Renewals are not answered for less than the TTL (R16, renewals without answer), but beats commit.
    for _ in 0..14 {
        rig.wait(Failover::DEFAULT.h());
        while rig.asks(is_beat) {
            rig.done(is_beat);
        }
    }
    assert!(rig.is_acting());
    rig.see(vec![Change::Candidate(LeaseId(9), Some(stored(104, LeaseId(9), id(9))))]);
    assert!(!rig.is_acting());
}

/// Node key of a Go node, written over this node's.
fn node_key_of_an_intruder() -> Change {
    let metadata = NodeMetadata {
        id: ME,
        address: "intruder".into(),
        start: std::time::UNIX_EPOCH,
        role: Role::Follower,
    };
    Change::Node(ME, Some(stored(104, LeaseId(9), metadata)))
}

#[test]
fn r9_a_node_key_on_a_foreign_lease_makes_the_node_leave_with_the_duplicate_error() {
    let mut rig = Rig::leader();
    rig.see(vec![node_key_of_an_intruder()]);
    let refused = rig.effects().into_iter().any(|effect| {
        matches!(effect, Effect::Refused(crate::engine::Refusal::DuplicateId { address, .. }) if address == "intruder")
    });
    assert!(refused);
    assert_eq!(rig.engine.joined(), None);
}

#[test]
fn r9_a_node_that_is_leaving_goes_on_leaving_when_its_node_key_is_overwritten() {
    let mut rig = Rig::leader();
    let own = rig.lease();
    rig.input(Input::Stop);
    rig.see(vec![node_key_of_an_intruder()]);
    rig.input(Input::WorkEnded { work: 1 });
    rig.done(|call| *call == Call::ReadEnd { lease: own });
    rig.done(|call| *call == Call::Revoke { lease: own });
    let effects = rig.effects();
    assert!(effects.contains(&Effect::Left { clean: true }), "{effects:?}");
    let refused = effects.iter().any(|effect| matches!(effect, Effect::Refused(_)));
    assert!(!refused, "nobody asks any more to be let in: {effects:?}");
}

#[test]
fn t7_a_refused_fenced_write_closes_the_term() {
    let mut rig = Rig::leader();
    rig.input(Input::OfficeOver { term: Term(100) });
    assert!(rig.is_acting(), "another term's");
    rig.input(Input::OfficeOver { term: Term(101) });
    assert_eq!(rig.engine.authority(), None);
}

#[test]
fn a_resign_request_that_names_the_term_ends_it_and_one_that_names_another_does_not() {
    let mut rig = Rig::leader();
    let request = |term| Change::ResignRequest(Some(stored(104, LeaseId(3), Term(term))));
    rig.see(vec![request(99)]);
    assert!(!rig.effects().iter().any(|e| matches!(e, Effect::StopWork { .. })));
    rig.see(vec![request(101)]);
    assert!(rig.effects().contains(&Effect::StopWork { work: 1, reason: WorkEnd::Resigned }));
}

#[test]
fn a_member_of_a_drained_id_gives_up_office_and_does_not_enrol() {
    let mut rig = Rig::leader();
    rig.input(Input::Drain(true));
    rig.input(Input::WorkEnded { work: 1 });
    rig.done(is_resign);
    let lease = rig.lease();
    rig.see(vec![Change::Candidate(lease, None)]);
    rig.wait(ms(3000));
    assert!(!rig.asks(|call| matches!(call, Call::Enrol { .. })));
    let Some(Call::WriteMember { member: written, .. }) =
        rig.call(|call| matches!(call, Call::WriteMember { .. }))
    else {
        panic!("the offer was not changed")
    };
    assert_eq!(*written, crate::engine::Member { draining: true, ..member(lease) });
}

/// Answers each beat `late` after it was sent, for the given time.
fn beats_answered_late(rig: &mut Rig, late: Duration, time: Duration) {
    let until = rig.now + time;
    while rig.now < until {
        rig.wait_renewed(ms(10));
        let due = |rig: &Rig| {
            let mut beats = rig.calls.iter().filter(|(_, (_, call))| is_beat(call));
            beats.find(|(_, (sent, _))| *sent + late <= rig.now).map(|(id, (sent, _))| (*id, *sent))
        };
        while let Some((id, sent)) = due(rig) {
            rig.calls.remove(&id);
            let outcome = Outcome::Done(rig.header(Vec::new()));
            rig.answer_as(id, sent, outcome);
        }
    }
}

fn has_resigned_as_useless(rig: &mut Rig) -> bool {
    rig.effects().contains(&Effect::TermClosed { term: Term(101), reason: WorkEnd::Useless })
}

#[test]
fn r13_an_office_whose_answers_come_too_late_is_resigned_and_taken_again_only_when_healthy() {
    let mut rig = Rig::leader();
    let span = timing::span(Failover::DEFAULT.d());
    let sound = span.saturating_sub(Failover::DEFAULT.h() + ms(10));
    beats_answered_late(&mut rig, sound, ms(6000));
    assert!(!has_resigned_as_useless(&mut rig), "{sound:?} leave enough to act by");
    // A little authority after each answer is not enough.
    beats_answered_late(&mut rig, span.saturating_sub(ms(50)), ms(2300));
    for effect in rig.effects.clone() {
        if let Effect::StopWork { work, .. } = effect {
            rig.input(Input::WorkEnded { work });
        }
    }
    rig.wait_renewed(ms(10));
    assert!(has_resigned_as_useless(&mut rig));
    assert!(!rig.asks(is_beat) || rig.asks(is_resign));
    let lease = rig.lease();
    rig.wait_renewed(span);
    rig.done(is_resign);
    let gone = rig.revision + 1;
    rig.see(vec![Change::Candidate(lease, None)]);
    rig.input(Input::Progress { revision: Revision(gone) });
    rig.wait_renewed(ms(3000));
    let is_enrol = |call: &Call| matches!(call, Call::Enrol { .. });
    assert!(!rig.asks(is_enrol), "no round trip was quick since");
    // Only a quick round trip makes the node healthy.
    let is_check = |call: &Call| matches!(call, Call::Check { .. });
    let own = held_key(lease);
    let slow = Outcome::Done(rig.header(vec![own.clone()]));
    rig.answer(is_check, slow);
    assert!(!rig.asks(is_enrol));
    while !rig.asks(is_check) {
        rig.wait_renewed(ms(10));
    }
    let quick = Outcome::Done(rig.header(vec![own]));
    rig.answer(is_check, quick);
    assert!(rig.asks(is_enrol));
}

#[test]
fn r13_a_process_that_stood_still_is_not_useless() {
    let mut rig = Rig::leader();
    beats_answered_late(&mut rig, ms(5), ms(500));
    rig.pause(ms(4000));
    rig.input(Input::Tick);
    beats_answered_late(&mut rig, ms(5), ms(500));
    assert!(!has_resigned_as_useless(&mut rig));
    assert!(rig.engine.office().is_some());
}

fn held_key(lease: LeaseId) -> Change {
    Change::Held(lease, Some(stored(101, lease, Held::default())))
}
