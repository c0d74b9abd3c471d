use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn timing() -> Timing {
    Timing::new(10 * SECOND, 3_000)
}

fn claimed(slot: u64) -> Known {
    Known::Claimed(Slot(slot))
}

#[test]
fn a_new_check_is_run_at_once() {
    let slot = timing().next(Known::Nothing, 104_000);
    assert_eq!((slot, slot.due_in(104_000)), (Slot(103_000), Duration::ZERO));
}

#[test]
fn the_next_slot_is_one_interval_after_the_last_one() {
    assert_eq!(timing().next(claimed(103_000), 103_200), Slot(113_000));
    assert_eq!(timing().next(claimed(103_000), 113_000), Slot(113_000));
}

#[test]
fn a_slot_that_has_begun_and_was_not_claimed_is_run_late() {
    let slot = timing().next(claimed(103_000), 121_999);
    assert_eq!((slot, slot.due_in(121_999)), (Slot(113_000), Duration::ZERO));
}

#[test]
fn of_slots_that_passed_without_a_run_only_the_current_one_is_run() {
    assert_eq!(timing().next(claimed(103_000), 145_000), Slot(143_000));
    assert_eq!(timing().between(Slot(103_000), Slot(143_000)), 3);
    assert_eq!(timing().between(Slot(103_000), Slot(113_000)), 0);
    assert_eq!(timing().between(Slot(113_000), Slot(103_000)), 0);
}

#[test]
fn a_slot_claimed_by_a_clock_that_is_ahead_is_not_run_again() {
    assert_eq!(timing().next(claimed(113_000), 112_000), Slot(123_000));
}

#[test]
fn a_slot_claimed_by_a_clock_that_was_set_back_is_not_waited_for() {
    let (timing, wrong) = (timing(), claimed(9_000_003_000));
    let slot = timing.next(wrong, 104_000);
    assert_eq!((slot, slot.due_in(104_000)), (Slot(103_000), Duration::ZERO));
    assert_eq!(timing.next(Known::Claimed(slot), 104_000), Slot(113_000), "then at the usual pace");
}

proptest! {
    /// An owner asks repeatedly, and claims due slots. For any earlier claim, by any clock, it never waits
    /// for longer than two intervals.
    #[test]
    fn a_check_is_run_within_two_intervals_whatever_was_claimed_before(
        hash: u64, before: u64, start in 1_000_000_u64..2_000_000, look_ms in 1_u64..1000,
    ) {
        let timing = Timing::new(SECOND, hash);
        let due = (start..=start + 2000 + look_ms).step_by(look_ms as usize)
            .find(|now| timing.next(claimed(before), *now).0 <= *now);
        prop_assert!(due.is_some());
    }
}

#[test]
fn nothing_overflows_at_the_ends_of_time() {
    for interval in [Duration::ZERO, SECOND, Duration::MAX] {
        let timing = Timing::new(interval, u64::MAX);
        for now in [0, 1, u64::MAX] {
            for known in [Known::Nothing, claimed(0), claimed(u64::MAX)] {
                let _ = timing.next(known, now);
            }
        }
    }
}

/// An event in the life of a check's owner.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Time passes and the owner runs due slots.
    Pass { ms: u64 },
    /// The check moves to a node whose clock is off by `skew_ms`. The old owner finished first.
    Move { skew_ms: i64 },
    /// The owner dies, and another one starts after `after_ms`.
    Crash { after_ms: u64 },
    /// The owner dies between the claim and the end of its next run.
    CrashInRun { after_ms: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0_u64..1500).prop_map(|ms| Event::Pass { ms }),
        2 => (-400_i64..400).prop_map(|skew_ms| Event::Move { skew_ms }),
        1 => (0_u64..5000).prop_map(|after_ms| Event::Crash { after_ms }),
        1 => (0_u64..5000).prop_map(|after_ms| Event::CrashInRun { after_ms }),
    ]
}

proptest! {
    /// The claim and the last slot with a result are in the store and survive their owner; everything else
    /// that an owner knows is lost with it.
    #[test]
    fn every_slot_is_run_once_or_counted_as_missed_over_random_moves_and_crashes(
        hash: u64,
        start in 1_000_000_u64..2_000_000,
        events in prop::collection::vec(event(), 1..200),
    ) {
        let timing = Timing::new(SECOND, hash);
        let (mut now, mut skew) = (start, 0_i64);
        let (mut known, mut dies_in_run) = (Known::Nothing, None);
        let (mut told, mut missed, mut claims) = (None, 0, Vec::new());
        let mut ran = BTreeSet::new();
        for event in events {
            match event {
                Event::Pass { ms } => now += ms,
                Event::Move { skew_ms } => skew = skew_ms,
                Event::Crash { after_ms } => now += after_ms,
                Event::CrashInRun { after_ms } => dies_in_run = Some(after_ms),
            }
            let local = now.checked_add_signed(skew).unwrap();
            let slot = timing.next(known, local);
            if slot.0 > local {
                continue;
            }
            known = Known::Claimed(slot);
            claims.push(slot);
            if let Some(after_ms) = dies_in_run.take() {
                now += after_ms;
                continue;
            }
            prop_assert!(ran.insert(slot), "slot {:?} was run twice", slot);
            missed += told.map_or(0, |told| timing.between(told, slot));
            told = Some(slot);
        }
        prop_assert!(claims.is_sorted_by(|earlier, later| earlier < later), "{claims:?}");
        if let (Some(first), Some(last)) = (ran.first(), ran.last()) {
            let slots = (last.0 - first.0) / 1000 + 1;
            prop_assert_eq!(ran.len() as u64 + missed, slots, "of {:?}", claims);
        }
    }
}
