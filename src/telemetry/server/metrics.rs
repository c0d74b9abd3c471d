//! Metrics of the status server itself.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::metrics::metrics;

metrics! { b =>
    /// Metrics of the status server.
    pub struct ServerMetrics {
        pub(super) requests: IntCounterVec = b.counters("bellwether_http_requests_total", &["path", "code"],
            "Requests to the status server, by path and status code.");
        /// Time from the request's head to the answer's head, by path.
        pub(super) duration: HistogramVec = b.histograms("bellwether_http_request_duration_seconds", &["path"],
            &[0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0],
            "From a request to the status server to its answer, by path, in seconds.");
        pub(super) connections: IntGauge = b.gauge("bellwether_http_connections",
            "Open connections to the status server.");
        pub(super) evicted: IntCounter = b.counter("bellwether_http_connections_evicted_total",
            "Connections to the status server that were closed to make room for newer ones.");
        pub(super) streams: IntGauge = b.gauge("bellwether_http_event_streams",
            "Open event streams: status pages that are looked at.");
    }
}

#[cfg(test)]
mod tests;
