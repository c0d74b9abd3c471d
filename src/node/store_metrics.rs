//! Metrics of a node's etcd client: the members that it uses, and how often connections, logins and
//! certificates were renewed. [`NodeMetrics`](super::NodeMetrics) counts the calls themselves, by the
//! protocol's kinds.

use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::metrics::Build;
use crate::store::etcd::{CallMetrics, Outcome, Switch};

/// Metrics of the store; see the module's docs.
#[derive(Clone, Debug)]
pub(crate) struct StoreMetrics {
    switches: IntCounterVec,
    reconnects: IntCounter,
    logins: IntCounterVec,
    certificates: IntCounterVec,
    pub(crate) uncompacted: IntGauge,
}

impl StoreMetrics {
    pub(super) fn build(b: &Build<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            switches: b.counters(
                "bellwether_store_switches_total",
                "How often another member of etcd was asked from then on, by reason.",
                &["reason"],
            )?,
            reconnects: b.counter(
                "bellwether_store_reconnects_total",
                "Connections to members of etcd that were set up in place of another.",
            )?,
            logins: b.counters(
                "bellwether_store_logins_total",
                "Logins at etcd, the renewals of tokens among them, by result.",
                &["result"],
            )?,
            certificates: b.counters(
                "bellwether_store_certificate_reloads_total",
                "Changes of the TLS files for etcd, by whether they can be used.",
                &["result"],
            )?,
            uncompacted: b.gauge(
                "bellwether_store_uncompacted",
                "1 if the store still has revisions so old that nobody can be compacting it; told by the leader.",
            )?,
        })
    }
}

impl CallMetrics for StoreMetrics {
    fn called(&self, _: &'static str, _: Outcome, _: Duration) {}

    fn switched(&self, why: Switch) {
        self.switches.with_label_values(&[why.label()]).inc();
    }

    fn reconnected(&self) {
        self.reconnects.inc();
    }

    fn logged_in(&self, accepted: bool) {
        self.logins.with_label_values(&[if accepted { "accepted" } else { "refused" }]).inc();
    }

    fn certificates_changed(&self, usable: bool) {
        self.certificates.with_label_values(&[if usable { "used" } else { "unusable" }]).inc();
    }
}
