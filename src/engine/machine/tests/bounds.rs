//! Tests of the engine's memory: its size stays bounded over long runs.

use std::{collections::BTreeMap, time::Duration};

use super::rig::{ME, Rig, config, held, id, joined_keys, ms, plan, record, table, work, written};
use crate::engine::{
    Answer, BootTime, Call, Change, Effect, Input, LeaseId, NodeId, Outcome, ShardId, timing,
};

/// Number of rounds of a long run.
const LONG_RUN: i64 = 10_000;
/// Number of rounds after which all bounded state has reached its bound.
const WARM: i64 = 1_000;
/// Allowance for numbers that get longer.
const DIGITS: usize = 2_000;

/// Size of the engine's state, in characters of its debug output.
fn size(rig: &Rig) -> usize {
    format!("{:?}", rig.engine).len()
}

/// Repeats `once`, and asserts that the engine does not grow.
fn leaves_nothing_behind(rig: &mut Rig, mut once: impl FnMut(&mut Rig, i64)) {
    let mut most = 0;
    for round in 0..LONG_RUN {
        once(rig, round);
        if round % 7 == 0 {
            let size = size(rig);
            if WARM <= round {
                assert!(size < most + DIGITS, "{round}: {size} characters, at first {most}");
            } else {
                most = most.max(size);
            }
        }
    }
}

/// Answers all calls in flight that the test itself does not answer.
fn answer_the_rest(rig: &mut Rig) {
    let ttl = config().ttl;
    for id in rig.calls.keys().copied().collect::<Vec<_>>() {
        let (sent, call) = rig.calls.remove(&id).unwrap();
        let outcome = match call {
            Call::Renew { .. } => Outcome::Done(Answer { ttl, ..Answer::default() }),
            Call::Beat { .. } | Call::WriteNode { .. } => Outcome::Done(rig.header(Vec::new())),
            _ => Outcome::Failed,
        };
        rig.answer_as(id, sent, outcome);
    }
}

/// Answers a call: it took effect at the next revision, which the view has not reached.
fn done_ahead(rig: &mut Rig, like: impl Fn(&Call) -> bool) -> Call {
    rig.revision += 1;
    let call = rig.done(like);
    rig.revision -= 1;
    call
}

fn is_take(call: &Call) -> bool {
    matches!(call, Call::Take(_))
}

fn is_enrol(call: &Call) -> bool {
    matches!(call, Call::Enrol { .. })
}

fn is_resign(call: &Call) -> bool {
    matches!(call, Call::Resign { .. })
}

/// Runs through one more term: resigns the office, enrols, takes office.
fn one_more_term(rig: &mut Rig) {
    let lease = rig.lease();
    rig.input(Input::Resign);
    let stopped = rig.effects().into_iter().find_map(|effect| match effect {
        Effect::StopWork { work, .. } => Some(work),
        _ => None,
    });
    rig.input(Input::WorkEnded { work: stopped.expect("the leader's work ends") });
    let Call::Resign { record, .. } = done_ahead(rig, is_resign) else { unreachable!() };
    let at = rig.revision + 1;
    rig.see(vec![
        Change::Candidate(lease, None),
        Change::Record(Some(written(50, at, None, record))),
    ]);
    rig.wait(Duration::from_secs(1));
    done_ahead(rig, is_enrol);
    let term = rig.revision + 1;
    rig.see(vec![Change::Candidate(lease, Some(written(term, term, Some(lease), ME)))]);
    let Call::Take(take) = done_ahead(rig, is_take) else { unreachable!() };
    let at = rig.revision + 1;
    rig.see(vec![
        Change::Record(Some(written(50, at, None, take.record))),
        Change::Candidate(lease, Some(written(term, at, Some(lease), ME))),
    ]);
    answer_the_rest(rig);
    assert_eq!(rig.engine.office().map(|office| office.term.0), Some(term));
}

#[test]
fn ten_thousand_terms_leave_nothing_behind() {
    let mut rig = Rig::leader();
    answer_the_rest(&mut rig);
    leaves_nothing_behind(&mut rig, |rig, _| one_more_term(rig));
}

/// Ends a session that holds a shard, and starts the next one.
fn one_more_session(rig: &mut Rig) {
    let old = rig.lease();
    let ttl = config().ttl;
    rig.wait(ttl / 3);
    rig.answer(|call| matches!(call, Call::Renew { .. }), Outcome::LeaseNotFound);
    let (work, shard) = (work(), ShardId(0));
    rig.input(Input::ShardEnded { work, shard });
    rig.done(|call| *call == Call::ReadEnd { lease: old });
    rig.answer(|call| *call == Call::Revoke { lease: old }, Outcome::LeaseNotFound);
    rig.wait(Duration::from_secs(3));
    rig.done(|call| matches!(call, Call::ReadJoin { .. }));
    let granted = Outcome::Done(Answer { ttl, ..Answer::default() });
    rig.answer(|call| matches!(call, Call::Grant { .. }), granted);
    rig.revision += 1;
    rig.done(|call| matches!(call, Call::Join(_)));
    let (me, at) = (rig.lease(), rig.revision);
    let mut changes = joined_keys(ME, me, at);
    changes.push(Change::Tick(Some(written(40, 40, None, config().tick))));
    changes.push(Change::Record(Some(written(50, 61, None, record(60, OTHER, id(2), 1)))));
    changes.extend(joined_keys(id(2), OTHER, 60));
    rig.list_exactly(changes);
    let at = at + 1;
    rig.see(vec![plan(at, table([Some(me), None, None, None], at))]);
    done_ahead(rig, |call| matches!(call, Call::WriteHeld { .. }));
    let claimed = written(at - 1, at + 1, Some(me), held(&[(0, at)]));
    rig.see(vec![Change::Held(me, Some(claimed))]);
    let started = |effect: &Effect| matches!(effect, Effect::StartShard { .. });
    assert!(rig.effects().iter().any(started));
    answer_the_rest(rig);
}

const OTHER: LeaseId = LeaseId(77);

#[test]
fn ten_thousand_lost_sessions_leave_nothing_behind() {
    let mut rig = Rig::joined(config(), joined_keys(id(2), OTHER, 60));
    leaves_nothing_behind(&mut rig, |rig, _| one_more_session(rig));
}

fn joins(rig: &mut Rig, node: NodeId, lease: LeaseId) {
    let at = rig.revision + 1;
    rig.see(joined_keys(node, lease, at));
}

fn goes(rig: &mut Rig, node: NodeId, lease: LeaseId) {
    rig.see(vec![
        Change::Held(lease, None),
        Change::Member(node, None),
        Change::Node(node, None),
        Change::Candidate(lease, None),
    ]);
}

#[test]
fn ten_thousand_nodes_that_came_and_went_leave_nothing_behind() {
    let mut rig = Rig::leader();
    leaves_nothing_behind(&mut rig, |rig, round| {
        let (node, lease) = (id(10 + round), LeaseId(1_000 + round));
        joins(rig, node, lease);
        goes(rig, node, lease);
        rig.pause(ms(100));
        rig.input(Input::Tick);
        answer_the_rest(rig);
    });
}

/// Lets many nodes join and leave within a second, so that the engine prunes its vanished keys.
fn many_come_and_go(rig: &mut Rig) {
    for other in 0..200 {
        let (node, lease) = (id(100 + other), LeaseId(10_000 + other));
        joins(rig, node, lease);
        goes(rig, node, lease);
        rig.pause(ms(5));
    }
}

/// Time at which each vanished held key that the engine remembers was first seen as gone.
fn vanished(rig: &Rig) -> BTreeMap<LeaseId, BootTime> {
    rig.engine.watched.vanished.iter().map(|(lease, vanished)| (*lease, vanished.at)).collect()
}

#[test]
fn a_held_key_that_vanished_is_forgotten_when_nobody_can_be_waiting_for_it() {
    let mut rig = Rig::joined(config(), joined_keys(id(2), OTHER, 60));
    goes(&mut rig, id(2), OTHER);
    assert!(vanished(&rig).contains_key(&OTHER));
    rig.pause(timing::SPAN_MAX * 2);
    many_come_and_go(&mut rig);
    assert!(!vanished(&rig).contains_key(&OTHER));
}

#[test]
fn a_held_key_that_vanished_is_remembered_while_a_plan_names_it_or_it_is_there_as_junk() {
    let (owner, junk) = (OTHER, LeaseId(78));
    let mut others = joined_keys(id(2), owner, 60);
    others.push(plan(61, table([Some(owner), None, None, None], 61)));
    let mut rig = Rig::joined(config(), others);
    goes(&mut rig, id(2), owner);
    rig.see(vec![Change::Held(junk, Some(written(90, 90, None, held(&[]))))]);
    let at = rig.now;
    rig.pause(timing::SPAN_MAX * 20);
    many_come_and_go(&mut rig);
    let remembered = vanished(&rig);
    assert_eq!((remembered.get(&owner), remembered.get(&junk)), (Some(&at), Some(&at)));
}

/// A leader whose view lagged may still name the key in a plan: the wait must not start again.
#[test]
fn a_held_key_that_vanished_just_now_is_waited_for_from_then_on_if_a_plan_names_it_later() {
    let mut rig = Rig::joined(config(), joined_keys(id(2), OTHER, 60));
    goes(&mut rig, id(2), OTHER);
    let at = rig.now;
    many_come_and_go(&mut rig);
    let now = rig.revision + 1;
    rig.see(vec![plan(now, table([Some(OTHER), None, None, None], now))]);
    assert_eq!(vanished(&rig).get(&OTHER), Some(&at));
}
