//! Three nodes as processes, each under `bellwether supervise`; the leader is terminated, killed, or frozen.

use std::time::Duration;

use bellwether::engine::Failover;

use crate::{
    common::{self, Samples, plain::Handover},
    node::Place,
    processes::{Candidate, Cluster, Process},
    support::etcd::{Etcd, Medium},
};

async fn cluster(etcd: &Etcd, failover: Failover) -> Cluster {
    let place = Place::Etcd { endpoint: etcd.endpoint(0), failover };
    Cluster::start(Candidate::Supervised(place)).await
}

/// Time from SIGTERM to the leader's supervisor to its successor's first tick, and the plain client's handover.
pub(crate) async fn ends(medium: Medium, rounds: usize) -> (Samples, Samples) {
    ended_by(Process::terminate, medium, Failover::DEFAULT, rounds).await
}

/// Time from `kill -9` of the leader's process to its successor's first tick, and the plain client's handover.
pub(crate) async fn crashes(rounds: usize) -> (Samples, Samples) {
    ended_by(Process::kill, Medium::Memory, Failover::STABLE, rounds).await
}

async fn ended_by(
    end: impl Fn(&Process),
    medium: Medium,
    failover: Failover,
    rounds: usize,
) -> (Samples, Samples) {
    let etcd = common::etcd_with_cluster(medium).await;
    let mut cluster = cluster(&etcd, failover).await;
    let mut plain = Handover::new(&etcd).await;
    let mut samples = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        common::pause_up_to(Duration::from_millis(200)).await;
        samples.0.push(cluster.ended_by(&end).await);
        samples.1.push(plain.once().await);
    }
    samples
}

/// Time from SIGSTOP of the leader and its supervisor to its successor's first tick.
pub(crate) async fn silences(failover: Failover, rounds: usize) -> Samples {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let mut cluster = cluster(&etcd, failover).await;
    let mut samples = Samples::default();
    for _ in 0..rounds {
        common::pause_up_to(failover.h() * 2).await;
        let frozen = cluster.freeze(Duration::ZERO).await;
        assert!(frozen.both.is_zero(), "two led for {:?}", frozen.both);
        samples.push(frozen.silent);
    }
    samples
}
