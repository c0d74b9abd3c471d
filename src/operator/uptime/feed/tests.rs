use super::*;
use crate::operator::uptime::resource::State;

const NOW: u64 = 1_700_000_000_000;

fn told(at_unix_ms: u64) -> Vec<Change> {
    vec![Change {
        at_unix_ms,
        namespace: "default".into(),
        name: "a".into(),
        from: State::Up,
        to: State::Down,
        message: String::new(),
    }]
}

#[test]
fn what_a_leader_with_a_clock_that_is_ahead_has_told_gives_way_to_what_the_next_one_tells() {
    assert!(is_newer(&told(NOW), &told(NOW + 3_600_000), NOW));
    assert!(is_newer(&told(NOW), &told(NOW - 1), NOW));
    assert!(!is_newer(&told(NOW - 1), &told(NOW), NOW));
    assert!(is_newer(&told(NOW), &[], NOW));
}
