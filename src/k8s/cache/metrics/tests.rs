use super::*;

#[test]
fn caches_of_one_kind_add_up() {
    let metrics = CacheMetrics::unregistered();
    let shown = || {
        let value = |gauge: &IntGaugeVec| gauge.with_label_values(&["Pod"]).get();
        (value(&metrics.objects), value(&metrics.unreadable))
    };
    let (one, other) = (metrics.of("Pod", || None), metrics.of("Pod", || None));
    one.show(3, 1);
    other.show(40, 0);
    assert_eq!(shown(), (43, 1));
    one.show(2, 0);
    assert_eq!(shown(), (42, 0));
    drop(other);
    assert_eq!(shown(), (2, 0));
}
