//! A few nodes in one process, each with its own driver and its own connections.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Role},
    node::{ClusterNode, FollowerContext, LeaderContext, Node, StateItem, StateWatch, WatchFrom},
    store::{etcd::EtcdConfig, keys::Keys},
};
use etcd_client::{Client, KeyValue, WatchOptions};
use futures::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
};

use crate::{
    common::{self, CLUSTER, LONG, Samples},
    support::{
        etcd::{Etcd, Medium},
        eventually,
    },
};

const TICK: Duration = Duration::from_millis(50);
const PEERS: usize = 10;
const WARM_UP: usize = 50;
/// Number of ticks after the first one until all nodes have joined.
const SETTLED: usize = 40;

type Times = Arc<Mutex<Vec<BootTime>>>;

fn node(id: usize, etcd: &Etcd, leads: &Times, follows: &Times) -> ClusterNode {
    let (leads, follows) = (Arc::clone(leads), Arc::clone(follows));
    ClusterNode::builder()
        .cluster(CLUSTER)
        .id(id as i64)
        .etcd(EtcdConfig::new(etcd.endpoints()))
        .tick(TICK)
        .on_leader_tick(move |_: LeaderContext| {
            leads.lock().unwrap().push(boot_now());
            async { Ok(()) }
        })
        .on_follower_tick(move |_: FollowerContext| {
            follows.lock().unwrap().push(boot_now());
            async { Ok(()) }
        })
        .build()
        .unwrap()
}

/// Starts `count` nodes; the first one leads.
async fn cluster(etcd: &Etcd, count: usize) -> (Vec<ClusterNode>, Times, Times) {
    let (leads, follows) = (Times::default(), Times::default());
    let mut nodes = Vec::new();
    for id in 0..count {
        let node = node(id, etcd, &leads, &follows);
        node.start().await.unwrap();
        let role = if id == 0 { Role::Leader } else { Role::Follower };
        let mut membership = node.membership();
        let has_role = membership.wait_for(|now| now.role == role);
        tokio::time::timeout(LONG, has_role).await.expect("its role in time").unwrap();
        nodes.push(node);
    }
    (nodes, leads, follows)
}

/// Times from the call of a put until all peers have its event.
#[derive(Default)]
pub(crate) struct PutToEvent {
    /// A node's put, received by nodes' watches.
    pub(crate) ours: Samples,
    /// A node's put, received by plain watches.
    pub(crate) plain_watch: Samples,
    /// A plain put, received by plain watches.
    pub(crate) all_plain: Samples,
}

/// Each peer, of either kind, has its own thread for its connection, like a peer in a separate process.
pub(crate) async fn put_to_event(rounds: usize) -> PutToEvent {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let (nodes, _, _) = cluster(&etcd, PEERS + 1).await;
    let watches = nodes[1..].iter().map(|node| node.watch_key_cluster("k", WatchFrom::Now));
    let mut watches: Vec<StateWatch> =
        join_all(watches).await.into_iter().map(Result::unwrap).collect();
    let mut client = etcd.client().await;
    let plain = Keys::new(CLUSTER).unwrap().state_of_all("plain").unwrap();
    let key = [plain.from.as_slice(), b"by-hand"].concat();
    let (mut peers, ready): (Vec<_>, Vec<_>) =
        (0..PEERS).map(|_| plain_peer(&etcd, plain.from.clone())).unzip();
    for ready in ready {
        ready.await.unwrap();
    }
    let mut samples = PutToEvent::default();
    let value = [b'x'; 100];
    for round in 0..WARM_UP + rounds {
        for turn in 0..3 {
            let which = (round + turn) % 3;
            let began = boot_now();
            let heard = if which == 0 {
                let all = join_all(watches.iter_mut().map(heard));
                let (put, heard) = tokio::join!(nodes[0].put("k", &value), all);
                put.unwrap();
                heard
            } else {
                let all = join_all(peers.iter_mut().map(mpsc::Receiver::recv));
                let put = async {
                    if which == 1 {
                        nodes[0].put("plain", &value).await.unwrap();
                    } else {
                        client.put(key.clone(), value, None).await.unwrap();
                    }
                };
                tokio::join!(put, all).1.into_iter().map(Option::unwrap).collect()
            };
            if WARM_UP <= round {
                let took = heard.into_iter().max().unwrap().since(began);
                let PutToEvent { ours, plain_watch, all_plain } = &mut samples;
                [ours, plain_watch, all_plain][which].push(took);
            }
        }
    }
    drop(watches);
    close(nodes).await;
    samples
}

async fn heard(watch: &mut StateWatch) -> BootTime {
    let item = watch.recv().await.unwrap();
    assert!(matches!(item, StateItem::Change(_)), "{item:?}");
    boot_now()
}

/// A plain watch of a prefix, on a thread of its own: reports the times of events, and when the watch is
/// established.
fn plain_peer(etcd: &Etcd, prefix: Vec<u8>) -> (mpsc::Receiver<BootTime>, oneshot::Receiver<()>) {
    let endpoints = etcd.endpoints();
    // The bench waits for one event at a time.
    let (sender, receiver) = mpsc::channel(1);
    let (standing, ready) = oneshot::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = Client::connect(endpoints, None).await.unwrap();
            let all = WatchOptions::new().with_prefix();
            let mut watch = client.watch(prefix, Some(all)).await.unwrap();
            watch.message().await.unwrap();
            standing.send(()).unwrap();
            // Runs until etcd is gone, or the receiver is dropped.
            while let Ok(Some(_)) = watch.message().await {
                if sender.send(boot_now()).await.is_err() {
                    return;
                }
            }
        });
    });
    (receiver, ready)
}

/// Closes the nodes before their etcd ends: a node that cannot leave cleanly retries.
async fn close(nodes: Vec<ClusterNode>) {
    for node in nodes {
        node.close().await.unwrap();
    }
}

/// Delay of the starts of ticks: of a leader, of a follower, and of a thread that only sleeps.
pub(crate) async fn ticks(rounds: usize) -> (Samples, Samples, Samples) {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let (nodes, leads, follows) = cluster(&etcd, 2).await;
    let plain = Times::default();
    let sleeper = {
        let plain = Arc::clone(&plain);
        thread::spawn(move || {
            let begun = boot_now();
            for round in 0..=rounds as u32 {
                thread::sleep((begun + TICK * round).since(boot_now()));
                plain.lock().unwrap().push(boot_now());
            }
        })
    };
    tokio::time::sleep(TICK * (rounds as u32 + 4)).await;
    close(nodes).await;
    sleeper.join().unwrap();
    (lateness(&leads, rounds), lateness(&follows, rounds), lateness(&plain, rounds))
}

/// Delays relative to the grid of the most punctual tick, since the first tick may be late. Ticks at the
/// beginning, while all nodes join, do not count.
fn lateness(times: &Times, rounds: usize) -> Samples {
    let times = &times.lock().unwrap()[SETTLED..];
    let rounds = rounds - SETTLED;
    let nanos = |at: BootTime| at.0.as_nanos() as i64;
    let (first, step) = (nanos(times[0]), TICK.as_nanos() as i64);
    let mut due = first;
    let mut late = vec![0];
    for at in times.iter().skip(1).take(rounds).map(|at| nanos(*at)) {
        due += step;
        // A late tick counts with its whole delay, also if ticks were skipped.
        late.push(at - due);
        while due + step <= at {
            due += step;
        }
    }
    assert!(rounds <= late.len() + rounds / 10, "{} of {rounds} ticks", late.len());
    let least = late.iter().copied().min().unwrap_or(0);
    let mut samples = Samples::default();
    for at in late {
        samples.push(Duration::from_nanos((at - least) as u64));
    }
    samples
}

/// Cost of idle nodes.
pub(crate) struct Idle {
    /// CPU of the leader, as a fraction of a core.
    pub(crate) leader: f64,
    /// CPU of each follower, as a fraction of a core.
    pub(crate) follower: f64,
    /// Writes of the leader per second.
    pub(crate) leader_writes: f64,
    /// Writes of all followers per second.
    pub(crate) follower_writes: f64,
}

pub(crate) async fn idle(span: Duration) -> Idle {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let (mut nodes, ..) = cluster(&etcd, 1).await;
    settled(&etcd).await;
    let (leader, _) = cost(&etcd, span).await;
    let (leads, follows) = (Times::default(), Times::default());
    for id in 1..=PEERS {
        let node = node(id, &etcd, &leads, &follows);
        node.start().await.unwrap();
        nodes.push(node);
    }
    settled(&etcd).await;
    let (all, writes) = cost(&etcd, span).await;
    close(nodes).await;
    let per_second = |writes: i64| writes as f64 / span.as_secs_f64();
    Idle {
        leader,
        follower: (all - leader).max(0.0) / PEERS as f64,
        leader_writes: per_second(writes.of_record),
        follower_writes: per_second(writes.all - writes.of_record),
    }
}

#[derive(Clone, Copy, Debug)]
struct Writes {
    all: i64,
    of_record: i64,
}

/// CPU as a fraction of a core, and the number of writes, while nothing happens.
async fn cost(etcd: &Etcd, span: Duration) -> (f64, Writes) {
    let (before, busy) = (writes(etcd).await, cpu_time());
    tokio::time::sleep(span).await;
    let (busy, after) = (cpu_time().saturating_sub(busy), writes(etcd).await);
    let writes =
        Writes { all: after.all - before.all, of_record: after.of_record - before.of_record };
    (busy.as_secs_f64() / span.as_secs_f64(), writes)
}

pub(crate) fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

async fn writes(etcd: &Etcd) -> Writes {
    let key = Keys::new(CLUSTER).unwrap().record();
    let answer = etcd.client().await.get(key, None).await.unwrap();
    let of_record = answer.kvs().first().map_or(0, KeyValue::version);
    Writes { all: answer.header().unwrap().revision(), of_record }
}

/// Waits until only the record has been written for a while: all nodes have joined and written their roles.
async fn settled(etcd: &Etcd) {
    let (mut last, mut since) = (0, boot_now());
    eventually("quiet", LONG, async || {
        let now = writes(etcd).await;
        let rest = now.all - now.of_record;
        if last != rest {
            (last, since) = (rest, boot_now());
        }
        (Duration::from_secs(1) < boot_now().since(since)).then_some(())
    })
    .await;
}
