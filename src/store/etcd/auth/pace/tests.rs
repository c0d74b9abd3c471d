use super::*;

fn ms(times: u64) -> Duration {
    Duration::from_millis(times)
}

#[test]
fn refused_and_unanswered_logins_wait_longer_each_time_up_to_a_bound() {
    let mut pace = Pace::default();
    let refused: Vec<_> = (0..7).map(|_| pace.refused().as_secs()).collect();
    assert_eq!(refused, [1, 2, 4, 8, 16, 30, 30]);
    let rounds: Vec<_> = (0..8).map(|_| pace.unanswered()).collect();
    assert_eq!(rounds[..3], [ms(50), ms(100), ms(200)]);
    assert_eq!(rounds[6..], [ms(2000), ms(2000)]);
    pace.answered();
    assert_eq!(pace.unanswered(), ms(50));
    // Near the largest count the doubling does not overflow.
    pace.refused = u32::MAX - 1;
    assert_eq!(pace.refused(), REFUSED.1);
}

#[test]
fn tokens_that_are_taken_back_at_once_slow_logins_down_and_those_that_served_do_not() {
    let mut pace = Pace::default();
    let pauses: Vec<_> = (0..6).map(|_| pace.taken_back(ms(5))).collect();
    assert_eq!(pauses, [ms(0), ms(0), ms(0), ms(100), ms(200), ms(400)]);
    assert_eq!(pace.taken_back(SERVED), ms(0));
    assert_eq!(pace.taken_back(ms(5)), ms(0));
}
