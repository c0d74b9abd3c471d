use super::*;

#[test]
fn the_last_tick_is_the_one_that_ended_last_also_by_a_clock_that_was_set_back() {
    let last = LastTick::default();
    assert_eq!(last.get(), None);
    for (ended, shown) in [(5, 5), (4, 4), (6, 6)] {
        last.clone().set(ended);
        assert_eq!(last.get(), Some(shown));
    }
}
