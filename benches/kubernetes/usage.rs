//! Work of an API server: requests for Leases by its own metrics, and CPU time.
//!
//! The metrics cover the whole server, which writes a Lease of its own every 10 s.

use std::{collections::BTreeMap, time::Duration};

use bellwether::{
    clock::boot_now,
    engine::BootTime,
    k8s::{k8s_openapi::api::coordination::v1::Lease, kube::Api},
};
use serde_json::Value;

use crate::{
    common::{Bench, CLUSTER, cpu_time_of},
    kube::{ApiServer, Space},
};

/// Counts since the start of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: BootTime,
    cpu: Duration,
    etcd: Duration,
    writes: f64,
    gets: f64,
    conflicts: f64,
}

impl Usage {
    /// Reads the counts of now.
    pub(crate) async fn of(api: &ApiServer) -> Self {
        let text = api.text("/metrics").await.expect("the server has metrics");
        let cpu = cpu_time_of(api.pid());
        let mut usage = Self {
            at: boot_now(),
            cpu,
            etcd: cpu_time_of(api.etcd().pid(0)),
            writes: 0.0,
            gets: 0.0,
            conflicts: 0.0,
        };
        for line in text.lines().filter(|it| it.starts_with("apiserver_request_total{")) {
            let (labels, count) = line.rsplit_once(' ').unwrap();
            if !labels.contains(r#"resource="leases""#) {
                continue;
            }
            let count: f64 = count.parse().unwrap();
            let has_verb = |verb| labels.contains(&format!(r#"verb="{verb}""#));
            if ["PUT", "PATCH", "APPLY", "POST", "DELETE"].into_iter().any(has_verb) {
                usage.writes += count;
            }
            if has_verb("GET") {
                usage.gets += count;
            }
            if labels.contains(r#"code="409""#) {
                usage.conflicts += count;
            }
        }
        usage
    }

    /// Prints what was done since `before`.
    pub(crate) fn show_since(&self, before: &Self, bench: &mut Bench, when: &str) {
        let seconds = self.at.since(before.at).as_secs_f64();
        let mut rate = |what: &str, now: f64, before: f64| {
            let name = format!("{when}: {what}");
            bench.value(&name, (now - before) / seconds, "per second", None);
        };
        rate("writes, refused ones included", self.writes, before.writes);
        rate("GETs", self.gets, before.gets);
        rate("conflicts", self.conflicts, before.conflicts);
        let mut part = |what: &str, now: Duration, before: Duration| {
            let share = now.saturating_sub(before).as_secs_f64() / seconds * 100.0;
            bench.value(&format!("{when}: CPU of {what}, of one core"), share, "%", None);
        };
        part("kube-apiserver", self.cpu, before.cpu);
        part("its etcd", self.etcd, before.etcd);
    }
}

/// The cluster's state, as it stands in the annotation of its Lease.
pub(crate) struct State {
    pub(crate) bytes: f64,
    /// Bytes by kind of key.
    parts: BTreeMap<String, usize>,
}

impl State {
    /// Reads the state of now.
    pub(crate) async fn of(space: &Space<'_>) -> Self {
        let leases = Api::<Lease>::default_namespaced(space.bulk_client());
        let lease = leases.get(CLUSTER).await.unwrap();
        let text = &lease.metadata.annotations.unwrap()["bellwether.dev/state"];
        let state: Value = serde_json::from_str(text).unwrap();
        let mut parts = BTreeMap::new();
        for (key, entry) in state["keys"].as_object().unwrap() {
            let mut segments = key.split('/').skip(2);
            let mut kind = segments.next().unwrap_or_default().to_owned();
            if kind.starts_with("bellwether") {
                kind = format!("{kind}/{}", segments.next().unwrap_or_default());
            }
            *parts.entry(kind).or_default() += key.len() + entry.to_string().len();
        }
        Self { bytes: text.len() as f64, parts }
    }

    /// Prints the size with its aim, and the parts that take more than a hundredth of it.
    pub(crate) fn show(&self, bench: &mut Bench, most: Option<f64>) {
        bench.value("state", self.bytes, "B", most);
        for (kind, bytes) in &self.parts {
            let bytes = *bytes as f64;
            if bytes > self.bytes / 100.0 {
                bench.value(&format!("of it `{kind}`"), bytes, "B", None);
            }
        }
    }
}
