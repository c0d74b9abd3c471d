use super::Turn;

#[test]
fn a_run_that_is_under_way_is_not_taken_for_ended() {
    let turn = Turn::default();
    assert!(turn.begin());
    assert!(!turn.close(), "it must be joined");
    turn.end();
    assert!(turn.close());
}

#[test]
fn after_the_end_no_run_begins() {
    let turn = Turn::default();
    assert!(turn.close());
    assert!(!turn.begin());
    assert!(turn.close(), "closing again changes nothing");
}
