//! Metrics of the etcd store: the members that it uses, and how often connections, logins and certificates
//! were renewed. The node counts the calls themselves, by the protocol's kinds.

use prometheus::{IntCounter, IntCounterVec};

use crate::metrics::metrics;

/// Reason for the switch to another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// The old member did not answer while another did.
    Silent,
    /// The old member could not be reached, or cannot serve.
    Failed,
    /// Another member answers much faster.
    Slow,
    /// The user of the store asked for the switch.
    Asked,
}

impl Switch {
    /// Value of the metric label for this reason.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Failed => "failed",
            Self::Slow => "slow",
            Self::Asked => "asked",
        }
    }
}

metrics! { b =>
    /// Metrics of an etcd store.
    pub struct EtcdMetrics {
        /// Number of switches to another member, by reason.
        pub switches: IntCounterVec = b.counters("bellwether_store_switches_total", &["reason"],
            "How often another member of etcd was asked from then on, by reason.");
        /// Number of new connections that replaced old ones.
        pub reconnects: IntCounter = b.counter("bellwether_store_reconnects_total",
            "Connections to members of etcd that were set up in place of another.");
        /// Number of logins, by result: `accepted` or `refused`.
        pub logins: IntCounterVec = b.counters("bellwether_store_logins_total", &["result"],
            "Logins at etcd, the renewals of tokens among them, by result.");
        pub(super) certificates: IntCounterVec =
            b.counters("bellwether_store_certificate_reloads_total", &["result"],
                "Changes of the TLS files for etcd, by whether they can be used.");
    }
}
