use super::*;
use crate::engine::{NodeId, Term};

/// At second 100 the record of node 2 was received, which leads in term 7 by lease 2.
fn led() -> Shown {
    let (id, lease) = (NodeId::new(2).unwrap(), LeaseId(2));
    let d = Some(Duration::from_secs(1));
    Shown {
        fresh_at: at(100),
        record_at: at(100),
        leader: Some(Leader { id, lease, term: Term(7), d, suspended: false }),
        ..Shown::default()
    }
}

fn at(second: u64) -> BootTime {
    BootTime(Duration::from_secs(second))
}

fn is_suspended(shown: &Shown) -> bool {
    let suspended = shown.leader(at(200)).unwrap().0.suspended;
    assert_eq!(suspended, shown.is_leader_suspended(), "the metric says the same");
    suspended
}

#[test]
fn a_leader_whose_record_says_so_is_suspended() {
    let mut shown = led();
    for suspended in [false, true, false] {
        shown.leader.as_mut().unwrap().suspended = suspended;
        assert_eq!(is_suspended(&shown), suspended);
    }
}

#[test]
fn a_leader_that_is_silent_while_the_watch_goes_on_is_suspended_and_one_that_no_watch_shows_is_not()
{
    let silence = timing::wait(Duration::from_secs(1));
    for (delivered, suspended) in [(silence, false), (silence + Duration::from_millis(1), true)] {
        // Nothing but the last delivery counts: a node that is cut off hears nothing of anybody.
        let shown = Shown { fresh_at: at(100) + delivered, ..led() };
        assert_eq!(is_suspended(&shown), suspended);
    }
}

#[test]
fn a_leader_learns_from_its_own_clock_that_it_is_suspended_and_of_another_leader_nothing() {
    let own = |lease, until| Shown { authority: Some((LeaseId(lease), at(until))), ..led() };
    let suspended = |shown: &Shown| shown.leader(at(150)).unwrap().0.suspended;
    assert!(suspended(&own(2, 150)) && !suspended(&own(2, 151)) && !suspended(&own(3, 150)));
    assert_eq!(own(2, 152).authority_left(at(150)), Some(Duration::from_secs(2)));
}

#[test]
fn a_view_that_nothing_was_delivered_to_has_no_age() {
    assert_eq!(Shown::default().view_age(at(100)), Duration::ZERO);
    assert_eq!(led().view_age(at(103)), Duration::from_secs(3));
}
