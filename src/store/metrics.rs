//! Metrics of a store whose whole state is one value, as on Kubernetes.

use prometheus::{IntCounter, IntGaugeVec};

use crate::metrics::metrics;

metrics! { b =>
    /// Metrics of a store whose whole state is one value.
    pub struct StateMetrics {
        /// Bytes of the state; no series before the state is known.
        pub(crate) bytes: IntGaugeVec = b.gauges("bellwether_store_state_bytes", &["kind"],
            "Bytes of all keys of the cluster together, where the store keeps them as one value.");
        /// Largest number of bytes.
        pub(crate) bound: IntGaugeVec = b.gauges("bellwether_store_state_bound_bytes", &["kind"],
            "The most bytes that the state may have.");
        /// Writes that were refused because another process had written meanwhile.
        pub(crate) conflicts: IntCounter = b.counter("bellwether_store_conflicts_total",
            "Writes of the state that were made again because another process had written meanwhile.");
    }
}
