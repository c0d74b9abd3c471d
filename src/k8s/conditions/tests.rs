use k8s_openapi::jiff::Timestamp;

use super::*;

fn long_ago() -> Time {
    Time(Timestamp::from_second(1_000).unwrap())
}

fn ready_long_ago() -> Vec<Condition> {
    let mut conditions = Vec::new();
    assert!(set(&mut conditions, "Ready", Holds::True, ("AllWell", "it works"), Some(1)));
    conditions[0].last_transition_time = long_ago();
    conditions
}

#[test]
fn a_time_changes_only_when_what_is_said_changes() {
    let mut conditions = ready_long_ago();
    assert!(set(&mut conditions, "Ready", Holds::True, ("StillWell", "it works"), Some(2)));
    assert_eq!(conditions[0].last_transition_time, long_ago());
    assert_eq!(conditions[0].observed_generation, Some(2));

    assert!(set(&mut conditions, "Ready", Holds::False, ("Broken", "it does not"), Some(2)));
    assert_ne!(conditions[0].last_transition_time, long_ago());
}

#[test]
fn what_says_the_same_changes_nothing() {
    let mut conditions = ready_long_ago();
    let before = conditions.clone();
    assert!(!set(&mut conditions, "Ready", Holds::True, ("AllWell", "it works"), Some(1)));
    assert_eq!(conditions, before);
}

#[test]
fn others_are_left_alone() {
    let mut conditions = ready_long_ago();
    assert!(set(&mut conditions, "Stable", Holds::Unknown, ("JustBegun", ""), None));
    assert_eq!(conditions.len(), 2);
    assert_eq!(find(&conditions, "Ready").unwrap().last_transition_time, long_ago());
    assert_eq!(find(&conditions, "Stable").unwrap().status, "Unknown");
}

#[test]
fn a_message_is_cut_to_what_the_api_takes() {
    let mut conditions = Vec::new();
    let long = "ä".repeat(MOST_MESSAGE_CHARS + 1);
    set(&mut conditions, "Ready", Holds::False, ("Broken", &long), None);
    assert_eq!(conditions[0].message.chars().count(), MOST_MESSAGE_CHARS);
    assert!(
        !set(&mut conditions, "Ready", Holds::False, ("Broken", &long), None),
        "it is the same"
    );
}
