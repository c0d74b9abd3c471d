use super::*;
use crate::telemetry::metrics::{base_collectors, broken_rules, describe, registry};

#[test]
fn metrics_without_a_series_are_described_too() {
    let rows = describe(&ServerMetrics::collectors());
    assert_eq!(rows.len(), 5);
    let requests = rows.iter().find(|row| row.name == "bellwether_http_requests_total").unwrap();
    assert_eq!(requests.kind, "counter");
    assert_eq!(requests.labels, ["path", "code"]);
}

#[test]
fn names_follow_the_rules_of_the_house() {
    let mut collectors = base_collectors();
    collectors.extend(ServerMetrics::collectors());
    assert_eq!(broken_rules(&describe(&collectors)), Vec::<String>::new());
}

#[test]
fn two_servers_on_one_registry_are_an_error_and_not_a_panic() {
    let registry = registry().unwrap();
    ServerMetrics::register(&registry).unwrap();
    assert!(ServerMetrics::register(&registry).is_err());
}
