use super::*;
use crate::operator::uptime::{check::SpecHash, testing};

const SHARDS: u32 = 1;
const SHARD: ShardId = ShardId(0);

fn checks(names: &[&str]) -> Checks {
    Checks::of(names.iter().map(|name| testing::check(name, 10)))
}

fn book(checks: &Checks) -> Book {
    let mut book = Book::new(SHARD, SHARDS, Claims::new());
    book.adopt(checks);
    book
}

fn published(failures: u32) -> Told {
    Told { failures, standing: Standing::Proven }
}

/// Claims and starts all due runs.
fn start(book: &mut Book, now: u64) -> Vec<Due> {
    let due = book.due(now);
    book.claimed(book.claims_with(&due));
    for due in &due {
        book.started(due.check.key());
    }
    due
}

#[test]
fn a_check_that_runs_is_not_due_again_until_it_has_ended() {
    let checks = checks(&["a"]);
    let mut book = book(&checks);
    let [first] = start(&mut book, 1_000_000).try_into().unwrap();
    assert_eq!(book.due(1_050_000).len(), 0);
    assert_eq!(book.next_due_in(1_050_000), None);
    assert!(book.ended(&first.check, Some(published(0))));
    let [second] = book.due(1_050_000).try_into().unwrap();
    assert_eq!((second.slot.0 - first.slot.0) % 10_000, 0);
    assert_eq!(second.after, Some(first.slot));
}

#[test]
fn the_longest_overdue_comes_first() {
    let checks = checks(&["a", "b", "c", "d"]);
    let due = book(&checks).due(1_000_000);
    assert_eq!(due.len(), 4);
    assert!(due.is_sorted_by_key(|due| due.slot));
}

#[test]
fn a_slot_that_was_claimed_is_left_out_and_not_taken_for_told() {
    let checks = checks(&["a"]);
    let mut book = book(&checks);
    let [told] = start(&mut book, 1_000_000).try_into().unwrap();
    book.ended(&told.check, Some(published(0)));
    let mut slot = told.slot;
    // Three owners in a row die during their run.
    for _ in 0..3 {
        slot = Slot(slot.0 + 10_000);
        let [lost] = start(&mut book, slot.0).try_into().unwrap();
        assert_eq!((lost.slot, lost.after), (slot, Some(told.slot)));
        let claims = book.claims().clone();
        book = Book::new(SHARD, SHARDS, claims);
        book.adopt(&checks);
        assert_eq!(book.due(slot.0 + 9_999).len(), 0, "the slot is taken");
    }
}

#[test]
fn a_slot_that_is_given_back_is_run_by_the_next_owner_as_if_it_had_never_been_claimed() {
    let checks = checks(&["a"]);
    let mut first = book(&checks);
    let next_due = |book: &mut Book, now| {
        let [given] = start(book, now).try_into().unwrap();
        book.given_back(&given.check, given.before);
        assert!(book.has_unsaved());
        let mut next = Book::new(SHARD, SHARDS, book.claims().clone());
        next.adopt(&checks);
        let [again] = next.due(now + 1).try_into().unwrap();
        assert_eq!((again.slot, again.after), (given.slot, given.after));
        assert_eq!(again.failures_before, given.failures_before);
        given.slot
    };
    // First the very first slot, then a slot after a result.
    next_due(&mut first, 1_000_000);
    let [told] = start(&mut first, 1_000_000).try_into().unwrap();
    first.ended(&told.check, Some(published(2)));
    let slot = next_due(&mut first, told.slot.0 + 10_000);
    assert_eq!(first.claims().values().map(|it| it.failures).collect::<Vec<_>>(), [2]);
    assert_eq!(slot.0 - told.slot.0, 10_000);
}

#[test]
fn a_result_that_was_not_published_is_not_taken_for_told() {
    let checks = checks(&["a"]);
    let mut book = book(&checks);
    let [first] = start(&mut book, 1_000_000).try_into().unwrap();
    book.ended(&first.check, Some(published(2)));
    let [second] = start(&mut book, first.slot.0 + 10_000).try_into().unwrap();
    book.ended(&second.check, None);
    let [third] = book.due(second.slot.0 + 10_000).try_into().unwrap();
    assert_eq!((third.after, third.failures_before), (Some(first.slot), 2));
}

#[test]
fn failures_are_handed_on_with_the_claims_and_end_with_the_spec() {
    let checks = checks(&["a"]);
    let mut first = book(&checks);
    let [run] = start(&mut first, 1_000_000).try_into().unwrap();
    first.ended(&run.check, Some(published(3)));
    assert!(first.has_unsaved());
    let mut second = Book::new(SHARD, SHARDS, first.claims().clone());
    second.adopt(&checks);
    assert_eq!(second.due(run.slot.0 + 10_000)[0].failures_before, 3);
    second.adopt(&Checks::of([testing::check("a", 11)]));
    let [changed] = second.due(run.slot.0 + 1).try_into().unwrap();
    assert_eq!(changed.failures_before, 0, "and it is due at once");
}

#[test]
fn a_check_that_is_gone_is_told_once_and_not_run() {
    let mut book = book(&checks(&["a", "b"]));
    let gone = book.adopt(&checks(&["b"]));
    assert_eq!(gone, [CheckKey::new("default", "a")]);
    assert!(book.adopt(&checks(&["b"])).is_empty());
    let [left] = book.due(1_000_000).try_into().unwrap();
    assert_eq!(*left.check.key(), CheckKey::new("default", "b"));
}

#[test]
fn a_check_that_waits_for_a_place_is_not_due_again_and_is_run_in_the_slot_in_which_it_gets_one() {
    let checks = checks(&["a"]);
    let mut book = book(&checks);
    let [first] = book.due(1_000_000).try_into().unwrap();
    book.waits(first.check.key());
    assert_eq!((book.due(1_050_000).len(), book.next_due_in(1_050_000)), (0, None));
    let due = book.due_of(first.check.key(), 1_050_000).unwrap();
    assert_eq!(due.slot.0 - first.slot.0, 50_000);
    book.waits_no_more(first.check.key());
    assert_eq!(book.due(1_050_000).len(), 1);
}

#[test]
fn whether_a_target_answers_is_handed_on_with_the_claims() {
    let checks = checks(&["a"]);
    let mut first = book(&checks);
    let [run] = start(&mut first, 1_000_000).try_into().unwrap();
    assert_eq!(run.standing, Standing::Unproven);
    first.ended(&run.check, Some(published(0)));
    let [run] = start(&mut first, 1_010_000).try_into().unwrap();
    let mut second = Book::new(SHARD, SHARDS, first.claims().clone());
    second.adopt(&checks);
    assert_eq!(
        (run.standing, second.due(1_020_000)[0].standing),
        (Standing::Proven, Standing::Proven)
    );
    first.ended(&run.check, Some(Told { failures: 1, standing: Standing::Unproven }));
    assert_eq!(first.due(1_020_000)[0].standing, Standing::Unproven);
}

#[test]
fn a_claim_of_a_clock_that_was_ahead_is_forgotten_with_its_check_and_takes_no_other_along() {
    let mut book = book(&checks(&["a", "b"]));
    let hour = 3_600_000;
    let [wrong, _] = start(&mut book, 1_000_000 + 48 * hour).try_into().unwrap();
    book.ended(&wrong.check, None);
    let gone = wrong.check.key().clone();
    let other = if &*gone.name == "a" { "b" } else { "a" };
    let mut next = Book::new(SHARD, SHARDS, book.claims().clone());
    next.adopt(&checks(&[other]));
    let due = next.due(1_000_000);
    assert!(!next.claims_with(&due).contains_key(&gone));
}

#[test]
fn claims_of_a_check_that_is_gone_are_kept_for_a_day() {
    let mut book = book(&checks(&["a", "b"]));
    start(&mut book, 1_000_000);
    let gone = CheckKey::new("default", "a");
    book.adopt(&checks(&["b"]));
    book.ended(&testing::check("b", 10), Some(published(0)));
    assert!(book.claims_with(&book.due(1_050_000)).contains_key(&gone));
    let due = book.due(1_000_000 + 2 * FORGOTTEN_AFTER_MS);
    assert!(!book.claims_with(&due).contains_key(&gone));
}

#[test]
fn only_checks_of_the_shard_are_in_the_book() {
    let names: Vec<String> = (0..40).map(|n| format!("check-{n}")).collect();
    let checks = Checks::of(names.iter().map(|name| testing::check(name, 10)));
    let due: usize = (0..4)
        .map(|shard| {
            let mut book = Book::new(ShardId(shard), 4, Claims::new());
            book.adopt(&checks);
            book.due(1_000_000).len()
        })
        .sum();
    assert_eq!(due, 40);
}

#[test]
fn junk_claims_do_not_panic() {
    let checks = checks(&["a"]);
    let spec = checks.checks.values().next().unwrap().spec_hash();
    for due_unix_ms in [0, 1, u64::MAX] {
        for (spec, told_unix_ms) in [(spec, None), (spec, Some(u64::MAX)), (SpecHash(0), Some(0))] {
            let claim =
                Claim { spec, due_unix_ms, told_unix_ms, failures: u32::MAX, proven: false };
            let claims = Claims::from([(CheckKey::new("default", "a"), claim)]);
            let mut book = Book::new(SHARD, SHARDS, claims);
            book.adopt(&checks);
            for due in start(&mut book, 1_000_000) {
                book.ended(&due.check, Some(published(0)));
            }
            let _ = book.next_due_in(1_000_000);
        }
    }
}
