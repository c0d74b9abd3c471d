use super::*;
use crate::telemetry::metrics::registry;

#[test]
fn two_servers_on_one_registry_are_an_error_and_not_a_panic() {
    let registry = registry().unwrap();
    ServerMetrics::register(&registry).unwrap();
    assert!(ServerMetrics::register(&registry).is_err());
}
