//! Values that a scrape shows while they are known, and afterwards.

use prometheus::{Registry, proto::MetricFamily};

use super::*;

/// Values of a scrape, by name.
fn shown(registry: &Registry) -> Vec<(String, f64)> {
    let wanted = [
        "bellwether_members",
        "bellwether_shards_unowned",
        "bellwether_term",
        "bellwether_role",
        "leader_election_master_status",
    ];
    let families = registry.gather();
    let of = |family: &MetricFamily| {
        let values = family.get_metric().iter().map(|it| it.get_gauge().get_value());
        let name = family.name().to_owned();
        values.map(|value| (name.clone(), value)).collect::<Vec<_>>()
    };
    families.iter().filter(|it| wanted.contains(&it.name())).flat_map(of).collect()
}

#[test]
fn what_is_not_known_is_not_shown_as_well() {
    let registry = Registry::new();
    let metrics = NodeMetrics::register(&registry).unwrap();
    metrics.members.set(3);
    metrics.term.set(7);
    metrics.role.set(1);
    metrics.shards_unowned.with_label_values(&["uptime"]).set(0);
    metrics.master.with_label_values(&["shop"]).set(1);

    let unknown =
        [("bellwether_role".to_owned(), 0.0), ("leader_election_master_status".to_owned(), 0.0)];
    assert_eq!(shown(&registry), unknown, "nothing was seen yet");

    let now = clock::boot_now();
    metrics.view_age.set(now);
    metrics.authority_remaining.set(Some(now + Duration::from_secs(3600)));
    let all = [
        ("bellwether_members", 3.0),
        ("bellwether_role", 1.0),
        ("bellwether_shards_unowned", 0.0),
        ("bellwether_term", 7.0),
        ("leader_election_master_status", 1.0),
    ];
    assert_eq!(shown(&registry), all.map(|(name, value)| (name.to_owned(), value)));

    // The watch has been silent for longer than `KNOWN_FOR`, and the authority is over.
    metrics.view_age.set(BootTime(now.0.saturating_sub(2 * KNOWN_FOR)));
    metrics.authority_remaining.set(None);
    assert_eq!(shown(&registry), unknown);
    assert_eq!(metrics.members.get(), 3, "the metric itself is as it was");
}
