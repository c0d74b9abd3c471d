use super::*;
use crate::operator::uptime::testing;

#[test]
fn every_check_is_in_the_report_also_without_a_status() {
    let checks = Checks::of([testing::check("b", 10), testing::check("a", 20)]);
    let report = report(&checks, &BTreeMap::new(), &VecDeque::new(), 4);
    assert_eq!(report.summary, Summary { total: 2, unknown: 2, ..Summary::default() });
    let [a, b] = report.checks.as_slice() else { panic!("{report:?}") };
    assert_eq!(
        (a.name.as_str(), a.interval_ms, b.name.as_str(), b.interval_ms),
        ("a", 20_000, "b", 10_000)
    );
    assert_eq!((a.kind.as_str(), a.target.as_str()), ("tcp", "tcp localhost:1"));
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<ChecksReport>(&json).unwrap(), report);
}

#[test]
fn the_latency_keeps_its_microseconds() {
    let checks = Checks::of([testing::check("a", 10)]);
    let key = CheckKey::new("default", "a");
    let stored = Stored { latency_us: Some(1_234), ..Stored::default() };
    let report = report(&checks, &[(key, stored)].into(), &VecDeque::new(), 1);
    assert_eq!(report.checks[0].latency_ms, Some(1.234));
}

#[test]
fn only_the_last_changes_are_remembered() {
    let change = |at_unix_ms| Change {
        at_unix_ms,
        namespace: "default".into(),
        name: "a".into(),
        from: State::Up,
        to: State::Down,
        message: String::new(),
    };
    let mut changes = VecDeque::new();
    remember(&mut changes, (0..250).map(change));
    assert_eq!(changes.len(), MOST_CHANGES);
    assert_eq!(changes.back().map(|change| change.at_unix_ms), Some(249));
}
