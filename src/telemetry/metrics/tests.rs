use super::*;

#[test]
fn metrics_without_a_series_are_described_too() {
    let metrics = ServerMetrics::new().unwrap();
    let rows = describe(&metrics.collectors());
    assert_eq!(rows.len(), 5);
    let requests = rows.iter().find(|row| row.name == "bellwether_http_requests_total").unwrap();
    assert_eq!(requests.kind, "counter");
    assert_eq!(requests.labels, ["path", "code"]);
}

#[test]
fn names_follow_the_rules_of_the_house() {
    let mut collectors = base_collectors().unwrap();
    collectors.extend(ServerMetrics::new().unwrap().collectors());
    assert_eq!(broken_rules(&describe(&collectors)), Vec::<String>::new());
}

#[test]
fn two_servers_on_one_registry_are_an_error_and_not_a_panic() {
    let registry = registry().unwrap();
    ServerMetrics::register(&registry).unwrap();
    assert!(ServerMetrics::register(&registry).is_err());
}
