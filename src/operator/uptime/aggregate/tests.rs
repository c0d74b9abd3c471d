use proptest::prelude::*;

use super::*;
use crate::{
    engine::ShardId,
    operator::uptime::{result::result_key, testing},
};

const NOW: u64 = 1_700_000_000_000;

fn node(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn check() -> Check {
    testing::check("a", 10)
}

fn key() -> CheckKey {
    CheckKey::new("default", "a")
}

/// A result of the check, of the slot that begins at `due_unix_ms`.
fn result(due_unix_ms: u64, failures: u32) -> CheckResult {
    CheckResult {
        spec: check().spec_hash(),
        generation: None,
        due_unix_ms,
        ran_unix_ms: due_unix_ms + 1,
        epoch: ShardEpoch(1),
        verdict: if failures == 0 { Verdict::Up } else { Verdict::Down },
        latency_us: Some(1500),
        certificate_expires: None,
        message: if failures == 0 { "well" } else { "refused" }.into(),
        failures,
        after_unix_ms: None,
    }
}

fn results(of: &[(i64, CheckResult)]) -> Results {
    let mut results = Results::default();
    for (id, result) in of {
        let key = result_key(ShardId(3), &key());
        results.put(node(*id), &key, &serde_json::to_vec(result).unwrap()).unwrap();
    }
    results
}

fn now(results: &Results, previous: &BTreeMap<CheckKey, Stored>, now_unix_ms: u64) -> Aggregate {
    aggregate(&Checks::of([check()]), results, previous, long_after(now_unix_ms))
}

/// Moment of a leader that has listened for a long time.
fn long_after(unix_ms: u64) -> Moment {
    Moment { unix_ms, listened_for: Duration::from_secs(86_400) }
}

fn total(aggregate: &Aggregate) -> u64 {
    aggregate.statuses[&key()].counted.unwrap().missed
}

fn status(aggregate: &Aggregate) -> &UptimeCheckStatus {
    &aggregate.statuses[&key()].status
}

#[test]
fn a_check_that_was_never_run_is_unknown_and_that_is_no_change() {
    let aggregate = now(&Results::default(), &BTreeMap::new(), NOW);
    assert_eq!(
        (status(&aggregate).state, status(&aggregate).message.as_str()),
        (State::Unknown, "not run yet")
    );
    assert_eq!((aggregate.changes.len(), aggregate.summary.unknown), (0, 1));
    let first = now(&results(&[(7, result(NOW, 0))]), &aggregate.statuses, NOW);
    assert_eq!(first.missed, 0, "there was nothing to miss before the first run");
}

#[test]
fn a_result_makes_a_status_that_says_who_when_and_why() {
    let aggregate = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW + 100);
    assert_eq!(
        *status(&aggregate),
        UptimeCheckStatus {
            state: State::Up,
            up: Some(true),
            target: "tcp localhost:1".into(),
            latency: Some(Span::millis(2)),
            last_change: Some(UnixMs(NOW + 1)),
            last_run: Some(UnixMs(NOW + 1)),
            checked_by: Some("7".into()),
            cluster: None,
            message: "well".into(),
            observed_generation: None,
            consecutive_failures: 0,
            certificate_expires: None,
            conditions: Vec::new(),
        }
    );
    let change = &aggregate.changes[0];
    assert_eq!((change.from, change.to, change.at_unix_ms), (State::Unknown, State::Up, NOW + 1));
}

#[test]
fn a_change_is_told_once_and_its_time_is_kept() {
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    let down = now(&results(&[(7, result(NOW + 10_000, 1))]), &up.statuses, NOW + 10_000);
    assert_eq!(down.changes.len(), 1);
    assert_eq!((down.changes[0].from, down.changes[0].to), (State::Up, State::Down));
    let still = now(&results(&[(7, result(NOW + 20_000, 2))]), &down.statuses, NOW + 20_000);
    assert_eq!(still.changes, []);
    assert_eq!(status(&still).last_change, Some(UnixMs(NOW + 10_001)));
    assert_eq!(status(&still).consecutive_failures, 2);
}

#[test]
fn a_check_is_down_only_after_as_many_failures_as_its_threshold() {
    let mut resource = check().resource().clone();
    resource.spec.failure_threshold = 3;
    let checks = Checks::of([Check::new(resource).unwrap()]);
    let spec = checks.checks[&key()].spec_hash();
    let mut previous = BTreeMap::new();
    let mut states = Vec::new();
    for (slot, failures) in [0, 1, 2, 3, 0].into_iter().enumerate() {
        let at = NOW + slot as u64 * 10_000;
        let result = CheckResult { spec, ..result(at, failures) };
        let aggregate = aggregate(&checks, &results(&[(7, result)]), &previous, long_after(at));
        states.push(status(&aggregate).state);
        previous = aggregate.statuses;
    }
    assert_eq!(states, [State::Up, State::Up, State::Up, State::Down, State::Up]);
}

#[test]
fn the_newest_owner_counts_whatever_the_clocks_of_others_say() {
    let former = CheckResult { epoch: ShardEpoch(4), ..result(NOW + 60_000, 1) };
    let owner = CheckResult { epoch: ShardEpoch(5), ..result(NOW, 0) };
    let aggregate = now(&results(&[(1, former), (2, owner)]), &BTreeMap::new(), NOW);
    assert_eq!(
        (status(&aggregate).state, status(&aggregate).checked_by.as_deref()),
        (State::Up, Some("2"))
    );
}

/// Epochs restart in a store that was wiped, and each node puts its earlier results back.
#[test]
fn a_stale_result_of_a_wiped_history_gives_way_whatever_its_epoch() {
    let (checks, later) = (Checks::of([check()]), NOW + 3_600_000);
    let before = CheckResult { epoch: ShardEpoch(400), ..result(NOW, 0) };
    let after = CheckResult { epoch: ShardEpoch(1), ..result(later, 0) };
    let both = results(&[(1, before), (2, after)]);
    let aggregate = now(&both, &BTreeMap::new(), later);
    assert_eq!(status(&aggregate).checked_by.as_deref(), Some("2"));
    assert_eq!(both.outlived(node(1), &checks, later).len(), 1);
    assert!(both.outlived(node(2), &checks, later).is_empty(), "the new owner takes its own away");
}

#[test]
fn a_state_that_no_recent_result_supports_is_unknown_and_says_since_when() {
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    // Two intervals of 10 s, the timeout of 10 s, and the grace, counted from the run.
    let fresh = NOW + 1 + 20_000 + 10_000 + 5_000;
    for results in [results(&[(7, result(NOW, 0))]), Results::default()] {
        assert_eq!(status(&now(&results, &up.statuses, fresh)).state, State::Up);
        let stale = now(&results, &up.statuses, fresh + 1);
        assert_eq!(status(&stale).state, State::Unknown);
        assert!(
            status(&stale).message.contains("2023-11-14T22:13:20.001Z, when node 7"),
            "{stale:?}"
        );
        assert_eq!((stale.changes[0].to, stale.changes[0].at_unix_ms), (State::Unknown, fresh + 1));
        let again = now(&results, &stale.statuses, fresh + 5_000);
        assert_eq!((again.changes.len(), status(&again)), (0, status(&stale)));
    }
}

#[test]
fn a_result_from_the_future_supports_no_state_and_gives_way_to_one_of_now() {
    let hour = 3_600_000;
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    let ahead = results(&[(7, result(NOW + hour, 0))]);
    let unknown = now(&ahead, &up.statuses, NOW + 1000);
    assert_eq!(status(&unknown).state, State::Unknown);
    assert!(status(&unknown).message.contains("in the future"), "{unknown:?}");
    assert_eq!(unknown.changes[0].at_unix_ms, NOW + 1000);
    // Clocks may differ by an interval.
    let near = results(&[(7, result(NOW + 9_000, 0))]);
    let still = now(&near, &up.statuses, NOW);
    assert_eq!((status(&still).state, still.changes.len()), (State::Up, 0));
    let later = NOW + 20_000;
    let right = CheckResult { epoch: ShardEpoch(1), ..result(later, 1) };
    let wrong = CheckResult { epoch: ShardEpoch(2), ..result(NOW + hour, 0) };
    let both = now(&results(&[(1, right), (2, wrong)]), &unknown.statuses, later);
    assert_eq!(
        (status(&both).state, status(&both).checked_by.as_deref()),
        (State::Down, Some("1"))
    );
}

#[test]
fn slots_are_counted_on_after_a_clock_that_was_ahead() {
    let hour = 3_600_000;
    let wrong = now(&results(&[(7, result(NOW + hour, 0))]), &BTreeMap::new(), NOW + hour);
    let later = NOW + 1000;
    let first = now(&results(&[(7, result(NOW, 0))]), &wrong.statuses, later);
    let next = CheckResult { after_unix_ms: Some(NOW + hour), ..result(NOW + 40_000, 0) };
    let second = now(&results(&[(7, next)]), &first.statuses, NOW + 40_001);
    assert_eq!((first.missed, second.missed), (0, 3));
}

#[test]
fn a_new_leader_changes_no_state_before_it_has_listened_for_as_long_as_a_result_is_fresh() {
    let fresh_for = Duration::from_secs(2 * 10 + 10 + 5);
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    let later = NOW + 70_000;
    let unknown = now(&Results::default(), &up.statuses, later);
    assert_eq!(status(&unknown).state, State::Unknown);
    // The result disappeared with its node, or still exists and is old.
    for results in [Results::default(), results(&[(7, result(NOW, 0))])] {
        for before in [&up.statuses, &unknown.statuses] {
            let new = Moment { unix_ms: later, listened_for: fresh_for };
            let checks = Checks::of([check()]);
            let heard = aggregate(&checks, &results, before, new);
            assert_eq!(heard.changes, []);
            let (heard, before) = (status(&heard), &before[&key()].status);
            assert_eq!((heard.state, heard.last_change), (before.state, before.last_change));
            assert_eq!(heard.message, before.message);
        }
    }
}

#[test]
fn a_new_leader_counts_no_slot_as_missed_whose_result_another_may_have_seen() {
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    let heard = |listened_for| {
        let moment = Moment { unix_ms: NOW + 70_000, listened_for };
        let checks = Checks::of([check()]);
        aggregate(&checks, &Results::default(), &up.statuses, moment).missed
    };
    // The last slot whose result cannot arrive any more began at most 45 s after the first result.
    let missed = [20, 25, 45, 60].map(|secs| heard(Duration::from_secs(secs)));
    assert_eq!((missed[0], missed[1]), (0, 0));
    assert!(missed[2] >= 1 && missed[3] > missed[2], "{missed:?}");
}

#[test]
fn a_check_that_never_ran_misses_its_slots_and_they_are_counted_once() {
    let mut seen = now(&Results::default(), &BTreeMap::new(), NOW);
    let mut missed = 0;
    for ms in (0..=65_000).step_by(500) {
        seen = now(&Results::default(), &seen.statuses, NOW + ms);
        missed += seen.missed;
    }
    // A slot counts as missed two intervals and five seconds after its start.
    let slot = check().timing().slot_at(NOW).0;
    let expected = (NOW + 65_000 - 25_000 - slot) / 10_000 + 1;
    assert_eq!((missed, total(&seen)), (expected, expected));
    let ran = check().timing().slot_at(NOW + 65_000).0;
    let last = now(&results(&[(7, result(ran, 0))]), &seen.statuses, NOW + 65_000);
    assert_eq!(total(&last), (ran - slot) / 10_000, "all but the one that ran");
}

#[test]
fn a_run_that_says_nothing_about_its_target_makes_the_check_unknown() {
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    let own = CheckResult {
        verdict: Verdict::Unknown,
        message: "this node is out of file descriptors".into(),
        ..result(NOW + 10_000, 0)
    };
    let aggregate = now(&results(&[(7, own)]), &up.statuses, NOW + 10_000);
    assert_eq!(status(&aggregate).state, State::Unknown);
    assert!(status(&aggregate).message.contains("file descriptors"));
}

#[test]
fn a_result_of_another_spec_says_nothing_and_the_status_stays_until_it_is_stale() {
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    let other = CheckResult { spec: SpecHash(1), ..result(NOW + 10_000, 1) };
    let aggregate = now(&results(&[(7, other)]), &up.statuses, NOW + 10_000);
    assert_eq!(aggregate.statuses, up.statuses);
}

#[test]
fn a_check_that_is_gone_has_no_status_any_more() {
    let up = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    let aggregate = aggregate(
        &Checks::default(),
        &results(&[(7, result(NOW, 0))]),
        &up.statuses,
        long_after(NOW),
    );
    assert_eq!(aggregate, Aggregate::default());
}

#[test]
fn slots_without_a_result_are_counted_once() {
    let first = now(&results(&[(7, result(NOW, 0))]), &BTreeMap::new(), NOW);
    assert_eq!(first.missed, 0);
    let late = CheckResult { after_unix_ms: Some(NOW), ..result(NOW + 40_000, 0) };
    let second = now(&results(&[(7, late.clone())]), &first.statuses, NOW + 40_000);
    assert_eq!(second.missed, 3);
    assert_eq!(now(&results(&[(7, late)]), &second.statuses, NOW + 40_100).missed, 0);
}

#[test]
fn a_slot_is_not_missed_if_its_result_was_seen_before_its_node_died_or_was_told_and_not_seen() {
    let seen = now(&results(&[(7, result(NOW + 10_000, 0))]), &BTreeMap::new(), NOW + 10_000);
    // The next owner knows only of the slot before.
    let next = CheckResult { after_unix_ms: Some(NOW), ..result(NOW + 20_000, 0) };
    assert_eq!(now(&results(&[(8, next)]), &seen.statuses, NOW + 20_000).missed, 0);
    // Several results were published between two aggregations.
    let told = CheckResult { after_unix_ms: Some(NOW + 80_000), ..result(NOW + 90_000, 0) };
    assert_eq!(now(&results(&[(8, told)]), &seen.statuses, NOW + 90_000).missed, 0);
}

#[test]
fn junk_in_the_store_is_refused_and_harms_nothing() {
    let mut results = results(&[(7, result(NOW, 0))]);
    assert!(matches!(results.put(node(1), "uptime/x", b"{}"), Err(Junk::Key { .. })));
    let key = result_key(ShardId(3), &key());
    assert!(matches!(results.put(node(1), &key, b"{\"spec\":7}"), Err(Junk::Value { .. })));
    assert_eq!(status(&now(&results, &BTreeMap::new(), NOW)).state, State::Up);
    assert!(results.put(node(7), &key, b"\xff").is_err());
    assert_eq!(status(&now(&results, &BTreeMap::new(), NOW)).state, State::Unknown);
}

#[test]
fn a_result_is_outlived_when_a_newer_owner_has_published_or_the_check_is_gone() {
    let former = CheckResult { epoch: ShardEpoch(4), ..result(NOW, 0) };
    let checks = Checks::of([check()]);
    let alone = results(&[(1, former.clone())]);
    assert!(alone.outlived(node(1), &checks, NOW).is_empty(), "nobody has run it since");
    let key = result_key(ShardId(3), &key());
    assert_eq!(alone.outlived(node(1), &Checks::default(), NOW), std::slice::from_ref(&key));
    let both = results(&[(1, former), (2, CheckResult { epoch: ShardEpoch(5), ..result(NOW, 0) })]);
    assert_eq!(both.outlived(node(1), &checks, NOW), [key]);
    assert!(both.outlived(node(2), &checks, NOW).is_empty());
}

proptest! {
    #[test]
    fn the_order_in_which_results_arrive_does_not_matter(
        of in prop::collection::vec((0_i64..4, 0_u64..5, 0_u32..3, 1_i64..4), 1..12),
    ) {
        let of: BTreeMap<i64, CheckResult> = of
            .into_iter()
            .map(|(id, slot, failures, epoch)| {
                (id, CheckResult { epoch: ShardEpoch(epoch), ..result(NOW + slot * 10_000, failures) })
            })
            .collect();
        let forth: Vec<_> = of.into_iter().collect();
        let back: Vec<_> = forth.iter().cloned().rev().collect();
        let previous = BTreeMap::new();
        prop_assert_eq!(now(&results(&forth), &previous, NOW), now(&results(&back), &previous, NOW));
    }
}
