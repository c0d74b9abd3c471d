//! Three nodes in one process; the leader stops, and joins again as the last candidate in the queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Failover, Term},
    node::{ClusterNode, LeaderContext, Node, Stopped},
    store::{etcd::EtcdConfig, keys::Keys},
};
use etcd_client::{Client, GetOptions};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    common::{self, Aim, Bench, CLUSTER, LONG, Samples, plain::Handover},
    stages::Stages,
    support::{etcd::Medium, eventually},
};

pub(crate) const NODES: usize = 3;
const WARM_UP: usize = 5;

/// The first tick of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstTick {
    pub(crate) node: usize,
    pub(crate) term: Term,
    pub(crate) at: BootTime,
}

/// Handoffs of our nodes and of the plain client, measured in turn.
#[derive(Default)]
pub(crate) struct Handoffs {
    pub(crate) ours: Samples,
    pub(crate) stages: Stages,
    /// Time until the stopped node had left: work joined, lease revoked.
    pub(crate) left: Samples,
    pub(crate) plain: Plain,
    /// Handovers of the plain client with as many watchers and as large transactions as ours.
    pub(crate) plain_cluster: Plain,
}

/// Handovers of the plain client: the total, the time to the event, and the time from there to the second
/// commit.
#[derive(Default)]
pub(crate) struct Plain {
    pub(crate) all: Samples,
    pub(crate) heard: Samples,
    pub(crate) taken: Samples,
}

impl Plain {
    fn push(&mut self, (heard, taken): (Duration, Duration)) {
        self.all.push(heard + taken);
        self.heard.push(heard);
        self.taken.push(taken);
    }
}

/// Measures `rounds` handoffs of each kind.
pub(crate) async fn measure(medium: Medium, rounds: usize) -> Handoffs {
    let etcd = common::etcd_with_cluster(medium).await;
    let mut client = etcd.client().await;
    let (sender, mut first_ticks) = mpsc::channel(64);
    let config = EtcdConfig::new(etcd.endpoints());
    let node = |id| node(id, config.clone(), Failover::DEFAULT, sender.clone()).0;
    let nodes: Vec<_> = (0..NODES).map(node).collect();
    for node in &nodes {
        node.start().await.unwrap();
    }
    let mut leader = timeout(LONG, first_ticks.recv()).await.unwrap().unwrap();
    let mut plain = Handover::new(&etcd).await;
    let mut plain_cluster = Handover::of_a_cluster(&etcd, NODES).await;
    let mut handoffs = Handoffs::default();
    for round in 0..WARM_UP + rounds {
        all_are_candidates(&mut client).await;
        // A random pause, so that the stop is not in step with beats and ticks.
        common::pause_up_to(Duration::from_millis(60)).await;
        Stages::begin();
        let called_at = boot_now();
        let leaving = async { (nodes[leader.node].stop(LONG).await, boot_now()) };
        let ((stopped, left_at), next) = tokio::join!(leaving, timeout(LONG, first_ticks.recv()));
        let next = next.unwrap().unwrap();
        assert_eq!(stopped.unwrap(), Stopped::Clean);
        assert!(leader.term < next.term && leader.node != next.node, "{leader:?}, {next:?}");
        if WARM_UP <= round {
            handoffs.ours.push(next.at.since(called_at));
            handoffs.stages.add(called_at, next.at).await;
            handoffs.left.push(left_at.since(called_at));
        }
        nodes[leader.node].start().await.unwrap();
        leader = next;
        common::pause_up_to(Duration::from_millis(60)).await;
        let by_plain = plain.stages().await;
        common::pause_up_to(Duration::from_millis(60)).await;
        let by_plain_cluster = plain_cluster.stages().await;
        if WARM_UP <= round {
            handoffs.plain.push(by_plain);
            handoffs.plain_cluster.push(by_plain_cluster);
        }
        // Each handoff has a single change of leader: no other node has taken office.
        assert_eq!(first_ticks.try_recv().ok(), None);
    }
    for node in &nodes {
        node.close().await.unwrap();
    }
    handoffs
}

/// A node that reports the start of each of its terms, and the boot clock of its last tick in nanoseconds.
pub(crate) fn node(
    node: usize,
    etcd: EtcdConfig,
    failover: Failover,
    first_ticks: mpsc::Sender<FirstTick>,
) -> (ClusterNode, Arc<AtomicU64>) {
    let last_term = AtomicI64::new(-1);
    let last_tick = Arc::new(AtomicU64::new(0));
    let ticks = Arc::clone(&last_tick);
    let built = ClusterNode::builder()
        .cluster(CLUSTER)
        .id(node as i64)
        .etcd(etcd)
        .failover(failover)
        .on_leader_tick(move |ctx: LeaderContext| {
            let at = boot_now();
            ticks.store(at.0.as_nanos() as u64, Ordering::SeqCst);
            let term = ctx.term();
            if last_term.swap(term.0, Ordering::Relaxed) != term.0 {
                // The channel has room for many more reports than are ever under way.
                first_ticks.try_send(FirstTick { node, term, at }).unwrap();
            }
            async { Ok(()) }
        })
        .build()
        .unwrap();
    (built, last_tick)
}

/// Waits until all nodes are candidates, since a handoff needs a successor.
pub(crate) async fn all_are_candidates(client: &mut Client) {
    let keys = Keys::new(CLUSTER).unwrap().candidates();
    let count = GetOptions::new().with_range(keys.to).with_count_only();
    eventually("all are candidates", LONG, async || {
        let answer = client.get(keys.from.clone(), Some(count.clone())).await.unwrap();
        (answer.count() == NODES as i64).then_some(())
    })
    .await;
}

/// Prints one table: the totals, then the stages.
pub(crate) fn report(bench: &mut Bench, handoffs: Handoffs, aims: &[Aim]) {
    let Handoffs { ours, stages, left, plain, plain_cluster } = handoffs;
    Bench::times();
    bench.row("stop called → first tick", ours, Some(plain.all), aims);
    bench.row("of this: stop called → STOP sent", stages.leaving, None, &[]);
    bench.row("STOP sent → TAKE sent by the successor", stages.heard, Some(plain.heard), &[]);
    bench.row("TAKE sent → in office", stages.taken, Some(plain.taken), &[]);
    bench.row("in office → first tick", stages.started, None, &[]);
    bench.row("stop called → left, lease revoked", left, None, &[Aim::P50(20.0)]);
    let what = format!("plain client, {NODES} watchers, transactions as large as STOP and TAKE");
    bench.row(&what, plain_cluster.all, None, &[]);
    bench.row("of this: sent → heard", plain_cluster.heard, None, &[]);
    bench.row("heard → taken", plain_cluster.taken, None, &[]);
}
