//! Values that a scrape shows while they are known, and afterwards.

use prometheus::{Registry, proto::MetricFamily};

use super::*;

/// Values of a scrape, by name.
fn shown(registry: &Registry) -> Vec<(String, f64)> {
    let wanted = [names::MEMBERS, names::SHARDS_UNOWNED, names::TERM, names::ROLE, names::MASTER];
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

    let unknown = [(names::ROLE.to_owned(), 0.0), (names::MASTER.to_owned(), 0.0)];
    assert_eq!(shown(&registry), unknown, "nothing was seen yet");

    let now = clock::boot_now();
    metrics.view_age.set(now);
    metrics.authority_remaining.set(Some(now + Duration::from_secs(3600)));
    let all = [
        (names::MEMBERS, 3.0),
        (names::ROLE, 1.0),
        (names::SHARDS_UNOWNED, 0.0),
        (names::TERM, 7.0),
        (names::MASTER, 1.0),
    ];
    assert_eq!(shown(&registry), all.map(|(name, value)| (name.to_owned(), value)));

    // The watch has been silent for longer than `KNOWN_FOR`, and the authority is over.
    metrics.view_age.set(BootTime(now.0.saturating_sub(2 * KNOWN_FOR)));
    metrics.authority_remaining.set(None);
    assert_eq!(shown(&registry), unknown);
    assert_eq!(metrics.members.get(), 3, "the metric itself is as it was");
}
