//! Requests of three idle replicas of each kind, counted in the API server's audit log.

use std::{collections::BTreeMap, time::Duration};

use bellwether::clock::boot_now;

use crate::{
    common::Bench,
    failover::NEIGHBOURS,
    kube::{ApiServer, Space, rule},
    node::{Place, Profile},
    processes::{Candidate, Cluster},
};

/// Time after which joins and the first looks are over.
const SETTLED_AFTER: Duration = Duration::from_secs(15);

/// Requests for Leases in one namespace, by verb.
struct Requests {
    space: Space<'static>,
    before: usize,
    _cluster: Cluster,
}

impl Requests {
    /// Starts three replicas, whose access the audit log records.
    async fn of(what: &str, candidate: impl FnOnce(&Space<'_>, String) -> Candidate) -> Self {
        let space = ApiServer::shared().await.namespace(what).await;
        let verbs = ["get", "list", "watch", "create", "update", "patch", "delete"];
        let rules = [
            rule("coordination.k8s.io", "leases", &verbs),
            rule("", "events", &["create", "patch"]),
        ];
        let user = space.user("replica", rules).await;
        let cluster = Cluster::start(candidate(&space, user.name)).await;
        Self { space, before: 0, _cluster: cluster }
    }

    fn begin(&mut self) {
        self.before = self.space.requests().len();
    }

    /// Requests since the beginning: writes by verb, and GETs.
    fn counts(&self) -> (BTreeMap<String, u32>, u32) {
        let mut counts = BTreeMap::new();
        for request in self.space.requests().split_off(self.before) {
            if request.resource == "leases" {
                *counts.entry(request.verb).or_default() += 1;
            }
        }
        let gets = counts.remove("get").unwrap_or_default();
        counts.retain(|verb, _| !matches!(verb.as_str(), "list" | "watch"));
        (counts, gets)
    }
}

pub(crate) async fn measure(bench: &mut Bench, span: Duration) {
    let ours = |profile| {
        Requests::of("ours", move |space, user| {
            let kubeconfig = space.api.kubeconfig(&space.name, Some(&user));
            Candidate::Alone(Place::Kubernetes { kubeconfig, profile })
        })
    };
    let neighbours = |kind: &'static str| {
        Requests::of(kind, move |space, user| Candidate::Neighbour {
            kind,
            kubeconfig: space.api.kubeconfig(&space.name, Some(&user)),
            namespace: space.name.clone(),
        })
    };
    let [client_go, runtime] = NEIGHBOURS;
    let mut kinds = [
        ("ours", ours(Profile::Default).await, Some(2.0)),
        ("ours, `fast`", ours(Profile::Fast).await, None),
        ("ours, `calm`", ours(Profile::Calm).await, Some(0.7)),
        (client_go, neighbours(client_go).await, None),
        (runtime, neighbours(runtime).await, None),
    ];
    tokio::time::sleep(SETTLED_AFTER).await;
    let began = boot_now();
    for (_, requests, _) in &mut kinds {
        requests.begin();
    }
    tokio::time::sleep(span).await;
    let counts: Vec<_> = kinds.iter().map(|(_, requests, _)| requests.counts()).collect();
    let seconds = boot_now().since(began).as_secs_f64();
    Bench::values();
    for ((name, _, most), (writes, gets)) in kinds.iter().zip(&counts) {
        let written = f64::from(writes.values().sum::<u32>()) / seconds;
        bench.value(&format!("{name}: writes"), written, "per second", *most);
        for (verb, count) in writes {
            let rate = f64::from(*count) / seconds;
            bench.value(&format!("{name}: of these {verb}"), rate, "per second", None);
        }
        bench.value(&format!("{name}: GETs"), f64::from(*gets) / seconds, "per second", None);
    }
}
