//! Cases that both kinds of nodes must pass.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bellwether::{
    engine::{NodeId, Role, ShardId},
    node::{
        Claimed, FencedError, KV, LeaderContext, NodeError, RoutineLimits, ShardContext,
        StartError, StateError, Stopped, WatchFrom, WorkerOptions, every,
        status::ReignEnd,
        work::{LeaderTask, WorkError},
    },
};
use tokio::time::sleep;

use crate::{
    rig::{Kind, Rig, Running, SOON, Spec},
    support::eventually,
    watches::change,
};

pub const ID: i64 = 7;

pub fn id() -> NodeId {
    NodeId::new(ID).unwrap()
}

pub fn kv(key: &str, value: &str) -> KV {
    KV { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

pub async fn state_can_be_put_read_and_deleted(rig: Rig) {
    let node = rig.start(ID).await;
    assert_eq!(node.get("greeting").await.unwrap(), None);
    let first = node.put("greeting", b"hello").await.unwrap();
    let second = node.put("greeting", b"good day").await.unwrap();
    assert!(first < second);
    assert_eq!(node.get("greeting").await.unwrap(), Some(b"good day".to_vec()));
    assert_eq!(node.get_as_node(id(), "greeting").await.unwrap(), Some(b"good day".to_vec()));
    let nobody = NodeId::new(999).unwrap();
    assert_eq!(node.get_as_node(nobody, "greeting").await.unwrap(), None);
    assert!(node.delete("greeting").await.unwrap());
    assert!(!node.delete("greeting").await.unwrap());
    assert_eq!(node.get("greeting").await.unwrap(), None);
    node.put("greeting", b"again").await.unwrap();
    assert_eq!(node.get("greeting").await.unwrap(), Some(b"again".to_vec()));
}

pub async fn an_empty_value_is_not_a_missing_one(rig: Rig) {
    let node = rig.start(ID).await;
    node.put("empty", b"").await.unwrap();
    assert_eq!(node.get("empty").await.unwrap(), Some(Vec::new()));
    assert_eq!(node.get("missing").await.unwrap(), None);
}

pub async fn reserved_and_malformed_keys_are_refused(rig: Rig) {
    let node = rig.start(ID).await;
    for key in ["tick", "tick/a", "", "/a", "a//b", "a/"] {
        let put = node.put(key, b"x").await;
        assert!(matches!(put, Err(StateError::Key { .. })), "{key:?}: {put:?}");
        let get = node.get(key).await;
        assert!(matches!(get, Err(StateError::Key { .. })), "{key:?}: {get:?}");
        assert!(matches!(node.get_cluster(key).await, Err(StateError::Key { .. })), "{key:?}");
    }
}

pub async fn state_calls_without_a_session_say_so(rig: Rig) {
    let node = rig.build(Spec::new(ID));
    assert!(matches!(node.put("k", b"v").await, Err(StateError::NoLease)));
    assert!(matches!(node.delete("k").await, Err(StateError::NoLease)));
    assert!(matches!(node.claim("k").await, Err(StateError::NoLease)));
    assert_eq!(node.get("k").await.unwrap(), None);
    assert_eq!(node.get_leader().await.unwrap(), None);
    assert_eq!(node.get_nodes().await.unwrap(), Vec::new());
    node.start().await.unwrap();
    node.put("k", b"v").await.unwrap();
    assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
    assert!(matches!(node.put("k", b"v").await, Err(StateError::NoLease)));
    assert_eq!(node.get("k").await.unwrap(), None);
}

pub async fn get_cluster_takes_the_key_and_those_below_it(rig: Rig) {
    let node = rig.start(ID).await;
    assert_eq!(node.get_cluster("k").await.unwrap(), [(id(), Vec::new())].into());
    for key in ["k", "k/10", "k/10/x", "kk", "other"] {
        node.put(key, key.as_bytes()).await.unwrap();
    }
    let found = node.get_cluster("k").await.unwrap();
    let wanted = vec![kv("k", "k"), kv("k/10", "k/10"), kv("k/10/x", "k/10/x")];
    assert_eq!(found, [(id(), wanted)].into());
    let found = node.get_cluster("k/10").await.unwrap();
    assert_eq!(found, [(id(), vec![kv("k/10", "k/10"), kv("k/10/x", "k/10/x")])].into());
}

pub async fn foreign_keys_are_skipped_and_counted(rig: Rig) {
    let node = rig.start(ID).await;
    node.put("k", b"v").await.unwrap();
    if rig.kind != Kind::Standalone {
        let junk = format!("/{}/state-data/k/no-id", rig.cluster).into_bytes();
        rig.put(junk, b"junk").await;
        let before = node.metric("bellwether_foreign_keys_total");
        let found = node.get_cluster("k").await.unwrap();
        assert_eq!(found, [(id(), vec![kv("k", "v")])].into());
        assert!(before < node.metric("bellwether_foreign_keys_total"));
    }
    assert_eq!(node.get_cluster("k").await.unwrap(), [(id(), vec![kv("k", "v")])].into());
}

pub async fn a_started_node_has_joined_and_leads_alone(rig: Rig) {
    let node = rig.start(ID).await;
    assert!(node.membership().borrow().joined);
    // A second `start` only waits for the first.
    node.start().await.unwrap();
    node.until_leader().await;
    node.until_led().await;
    assert_eq!(node.get_leader().await.unwrap(), Some(id()));
    let own = eventually("the role is written", SOON, async || {
        let metadata = node.get_node_metadata(id()).await.unwrap()?;
        (metadata.role == Role::Leader).then_some(metadata)
    })
    .await;
    assert_eq!(own.address, format!("address-of-{ID}"));
    assert_eq!(node.get_nodes().await.unwrap(), vec![own]);
    assert_eq!(node.get_self_metadata().role, Role::Leader);
    assert_eq!(node.get_node_metadata(NodeId::new(8).unwrap()).await.unwrap(), None);
    if rig.kind == Kind::Standalone {
        eventually("it follows too", SOON, async || (0 < node.followed()).then_some(())).await;
    }
}

pub async fn a_node_can_be_started_again_after_a_stop(rig: Rig) {
    let node = rig.start(ID).await;
    for _ in 0..3 {
        node.until_led().await;
        let mut watch = node.watch_key_cluster("w", WatchFrom::Now).await.unwrap();
        assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
        assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
        let led = node.led();
        assert_eq!(node.role(), Role::Unknown);
        assert_eq!(node.get_nodes().await.unwrap(), Vec::new());
        assert_eq!(node.get_leader().await.unwrap(), None);
        assert_eq!(node.led(), led, "no tick after a stop");
        // A watch outlives the session, and delivers the changes of the next session.
        node.start().await.unwrap();
        node.put("w", b"back").await.unwrap();
        assert_eq!(change(&mut watch).await.value, b"back");
        node.delete("w").await.unwrap();
    }
}

pub async fn a_closed_node_says_so(rig: Rig) {
    let node = rig.start(ID).await;
    node.close().await.unwrap();
    node.close().await.unwrap();
    assert!(matches!(node.start().await, Err(StartError::Closed)));
    assert!(matches!(node.put("k", b"v").await, Err(StateError::Closed)));
    assert!(matches!(node.get("k").await, Err(StateError::Closed)));
    let watch = node.watch_key_cluster("k", WatchFrom::Now).await;
    assert!(matches!(watch, Err(StateError::Closed)));
    assert_eq!(node.stop(SOON).await, Err(NodeError::Closed));
}

pub async fn a_stop_right_after_a_start_leaves_nothing_behind(rig: Rig) {
    let node = rig.build(Spec::new(ID));
    for _ in 0..10 {
        // The test does not wait for the start.
        let _ = tokio::time::timeout(Duration::from_micros(1), node.start()).await;
        // The stop is unclean while a JOIN is under way: keys that the JOIN may leave behind are still being
        // removed.
        node.stop(SOON).await.unwrap();
        if rig.kind != Kind::Standalone {
            eventually("nothing hangs on a lease", SOON, async || {
                let (_, left) = rig.all().await;
                left.iter().all(|kv| kv.lease.is_none()).then_some(())
            })
            .await;
        }
    }
}

pub async fn a_panicking_routine_is_counted_and_loses_office(rig: Rig) {
    let bad = Arc::new(AtomicBool::new(true));
    let panics = Arc::clone(&bad);
    let spec = Spec::new(ID).routine(move |_| {
        let panics = Arc::clone(&panics);
        async move {
            assert!(!panics.load(Ordering::Relaxed), "on purpose");
            Ok(())
        }
    });
    let node = rig.start_with(spec).await;
    node.until_leader().await;
    node.until("it lost office", |now| now.role != Role::Leader).await;
    assert!(3.0 <= node.metric("bellwether_panics_total"));
    bad.store(false, Ordering::Relaxed);
    node.until_led().await;
    node.close().await.unwrap();
}

pub async fn a_routine_that_overruns_is_cancelled_and_loses_office(rig: Rig) {
    let cancelled = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&cancelled);
    let mut spec = Spec::new(ID).routine(move |ctx: LeaderContext| {
        let seen = Arc::clone(&seen);
        async move {
            if seen.load(Ordering::Relaxed) == 0 {
                ctx.cancelled().await;
                seen.fetch_add(1, Ordering::Relaxed);
                // The routine ignores its cancellation.
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    spec.limits = RoutineLimits { run: Duration::from_millis(300), ..spec.limits };
    let node = rig.start_with(spec).await;
    node.until_leader().await;
    node.until("it lost office", |now| now.role != Role::Leader).await;
    assert_eq!(cancelled.load(Ordering::Relaxed), 1);
    assert!(1.0 <= node.metric("bellwether_tick_overruns_total"));
    node.until_led().await;
    node.close().await.unwrap();
}

pub async fn a_routine_that_blocks_its_thread_loses_office(rig: Rig) {
    let blocks = Arc::new(AtomicBool::new(true));
    let blocked = Arc::clone(&blocks);
    let mut spec = Spec::new(ID).routine(move |_| {
        let blocked = Arc::clone(&blocked);
        async move {
            while blocked.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        }
    });
    spec.limits = RoutineLimits { run: Duration::from_millis(300), ..spec.limits };
    let node = rig.start_with(spec).await;
    node.until_leader().await;
    node.until("it lost office", |now| now.role != Role::Leader).await;
    // The node must not lead again while the old work still runs.
    sleep(Duration::from_millis(500)).await;
    assert_ne!(node.role(), Role::Leader);
    blocks.store(false, Ordering::Relaxed);
    node.until_led().await;
    node.close().await.unwrap();
}

pub async fn runs_never_overlap_and_late_ticks_are_skipped(rig: Rig) {
    let running = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let (now, top) = (Arc::clone(&running), Arc::clone(&most));
    let spec = Spec::new(ID).tick(Duration::from_millis(10)).routine(move |_| {
        let (now, top) = (Arc::clone(&now), Arc::clone(&top));
        async move {
            let at_once = now.fetch_add(1, Ordering::Relaxed) + 1;
            top.fetch_max(at_once, Ordering::Relaxed);
            sleep(Duration::from_millis(35)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        }
    });
    let node = rig.start_with(spec).await;
    eventually("ten runs", SOON, async || (10 <= node.led()).then_some(())).await;
    assert_eq!(most.load(Ordering::Relaxed), 1);
    assert!(20.0 <= node.metric("bellwether_ticks_skipped_total"));
    node.close().await.unwrap();
}

/// Task that records when it begins and ends.
struct Diary(Arc<Mutex<Vec<&'static str>>>);

#[async_trait]
impl LeaderTask for Diary {
    fn name(&self) -> &'static str {
        "diary"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        ctx.check()?;
        self.0.lock().unwrap().push("begin");
        ctx.cancelled().await;
        self.0.lock().unwrap().push("end");
        Ok(())
    }
}

pub async fn a_leader_task_begins_and_ends_with_leadership(rig: Rig) {
    let pages: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let node = rig.start_with(Spec::new(ID).task(Diary(Arc::clone(&pages)))).await;
    for lives in 1..=3 {
        eventually("it begins", SOON, async || {
            (pages.lock().unwrap().len() == 2 * lives - 1).then_some(())
        })
        .await;
        node.stop(SOON).await.unwrap();
        assert_eq!(*pages.lock().unwrap(), ["begin", "end"].repeat(lives));
        node.start().await.unwrap();
    }
    node.close().await.unwrap();
}

pub async fn a_periodic_job_is_not_repeated_by_the_next_leader(rig: Rig) {
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let job = every("nightly", Duration::from_secs(3600), move |_: LeaderContext| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    let node = rig.start_with(Spec::new(ID).task(job)).await;
    eventually("it runs", SOON, async || (runs.load(Ordering::Relaxed) == 1).then_some(())).await;
    for _ in 0..2 {
        node.stop(SOON).await.unwrap();
        node.start().await.unwrap();
        node.until_led().await;
        node.until_led().await;
    }
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    node.close().await.unwrap();
}

/// A routine that hands out the context of its last tick.
fn leaking(id: i64) -> (Spec, Arc<Mutex<Option<LeaderContext>>>) {
    let kept: Arc<Mutex<Option<LeaderContext>>> = Arc::default();
    let keeps = Arc::clone(&kept);
    let spec = Spec::new(id).routine(move |ctx| {
        let keeps = Arc::clone(&keeps);
        async move {
            *keeps.lock().unwrap() = Some(ctx);
            Ok(())
        }
    });
    (spec, kept)
}

async fn leaked(node: &Running, kept: &Mutex<Option<LeaderContext>>) -> LeaderContext {
    node.until_led().await;
    kept.lock().unwrap().clone().unwrap()
}

pub async fn fenced_writes_of_a_former_leader_are_refused(rig: Rig) {
    let (spec, kept) = leaking(ID);
    let node = rig.start_with(spec).await;
    let ctx = leaked(&node, &kept).await;
    let fenced = ctx.fenced();
    let first = fenced.put("k", "1").await.unwrap();
    assert!(first < fenced.put("k", "2").await.unwrap());
    assert_eq!(fenced.get("k").await.unwrap().unwrap().value, b"2");
    assert!(fenced.delete("k").await.unwrap());
    assert_eq!(fenced.get("k").await.unwrap(), None);
    let old = ctx.term();

    node.stop(SOON).await.unwrap();
    node.start().await.unwrap();
    let now = leaked(&node, &kept).await;
    eventually("a new term", SOON, async || {
        let term = kept.lock().unwrap().clone().unwrap().term();
        (old < term).then_some(())
    })
    .await;
    assert!(ctx.check().is_err());
    assert_eq!(ctx.authority_left(), Duration::ZERO);
    assert!(matches!(fenced.put("k", "late").await, Err(FencedError::StaleTerm)));
    assert!(matches!(fenced.get("k").await, Err(FencedError::StaleTerm)));
    assert!(1.0 <= node.metric("bellwether_stale_term_rejections_total"));
    drop(now);
    let now = leaked(&node, &kept).await;
    assert_eq!(now.fenced().get("k").await.unwrap(), None);
    node.close().await.unwrap();
}

pub async fn fenced_compare_and_set_finds_conflicts(rig: Rig) {
    use bellwether::node::FencedTxn;
    let (spec, kept) = leaking(ID);
    let node = rig.start_with(spec).await;
    let fenced = leaked(&node, &kept).await.fenced();
    let first = fenced.compare_and_set("k", None, "1").await.unwrap();
    let again = fenced.compare_and_set("k", None, "1").await;
    assert!(matches!(again, Err(FencedError::Conflict { found, .. }) if found == first));
    let second = fenced.compare_and_set("k", Some(first), "2").await.unwrap();
    let txn = FencedTxn::new().expect("k", Some(first)).put("k", "3").put("l", "3");
    assert!(matches!(fenced.txn(txn).await, Err(FencedError::Conflict { .. })));
    assert_eq!(fenced.get("l").await.unwrap(), None);
    let txn = FencedTxn::new().expect("k", Some(second)).put("k", "3").put("l", "3");
    let both = fenced.txn(txn).await.unwrap();
    assert_eq!(fenced.get("l").await.unwrap().unwrap().revision, both);
    fenced.put("k", "4").await.unwrap();
    assert_eq!(fenced.get("k").await.unwrap().unwrap().value, b"4");
    node.close().await.unwrap();
}

pub async fn of_many_claims_one_wins(rig: Rig) {
    let node = rig.start(ID).await;
    let others: Vec<Running> = match rig.kind {
        Kind::Standalone => Vec::new(),
        Kind::Memory | Kind::Etcd | Kind::Kubernetes => {
            vec![rig.start(8).await, rig.start(9).await]
        }
    };
    let all: Vec<&Running> = others.iter().chain([&node]).collect();
    let claims = futures::future::join_all(all.iter().map(|node| node.claim("job/1"))).await;
    let won: Vec<bool> = claims.iter().map(|claim| matches!(claim, Ok(Claimed::Won(_)))).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{claims:?}");
    let winner = won.iter().position(|won| *won).unwrap();
    for (index, claim) in claims.into_iter().enumerate() {
        match claim.unwrap() {
            Claimed::Won(claim) => {
                assert!(claim.is_live());
                // A second claim by the same node finds that the node already holds the name.
                assert!(matches!(all[index].claim("job/1").await, Ok(Claimed::Won(_))));
                claim.release().await.unwrap();
            }
            Claimed::Taken { by } => assert_eq!(by, Some(all[winner].id())),
        }
    }
    let loser = all[(winner + 1) % all.len()];
    assert!(matches!(loser.claim("job/1").await, Ok(Claimed::Won(_))));
}

pub async fn all_shards_are_worked_on_by_a_lone_node(rig: Rig) {
    let seen: Arc<Mutex<Vec<ShardId>>> = Arc::default();
    let sees = Arc::clone(&seen);
    let worker = move |shard: ShardId, ctx: ShardContext| {
        let sees = Arc::clone(&sees);
        async move {
            ctx.check()?;
            ctx.fenced().put("seen", ctx.epoch().to_string()).await?;
            sees.lock().unwrap().push(shard);
            ctx.cancelled().await;
            Ok(())
        }
    };
    let node =
        rig.start_with(Spec::new(ID).worker(WorkerOptions::new("w", worker).shards(16))).await;
    eventually("all shards", SOON, async || (seen.lock().unwrap().len() == 16).then_some(())).await;
    let status = node.status().await.unwrap();
    assert_eq!(status.work[0].unowned, 0, "{status:?}");
    assert_eq!(node.metric("bellwether_shards_owned") as u32, 16);
    node.close().await.unwrap();
    let mut all = seen.lock().unwrap().clone();
    all.sort_unstable();
    assert_eq!(all, (0..16).map(ShardId).collect::<Vec<_>>());
}

pub async fn a_shard_write_of_a_former_owner_is_refused(rig: Rig) {
    let kept: Arc<Mutex<Option<ShardContext>>> = Arc::default();
    let keeps = Arc::clone(&kept);
    let worker = move |_: ShardId, ctx: ShardContext| {
        let keeps = Arc::clone(&keeps);
        async move {
            *keeps.lock().unwrap() = Some(ctx.clone());
            ctx.cancelled().await;
            Ok(())
        }
    };
    let node =
        rig.start_with(Spec::new(ID).worker(WorkerOptions::new("w", worker).shards(1))).await;
    let ctx = eventually("the shard", SOON, async || kept.lock().unwrap().clone()).await;
    ctx.fenced().put("k", "1").await.unwrap();
    node.stop(SOON).await.unwrap();
    assert!(ctx.check().is_err());
    assert!(matches!(ctx.fenced().put("k", "late").await, Err(FencedError::StaleEpoch)));
    node.close().await.unwrap();
}

pub async fn status_shows_the_node_and_its_cluster(rig: Rig) {
    let node = rig.start(ID).await;
    node.until_leader().await;
    let status = eventually("the status", SOON, async || {
        let status = node.status().await.unwrap();
        let whole =
            status.leader.is_some() && status.nodes.iter().any(|node| node.role == Role::Leader);
        whole.then_some(status)
    })
    .await;
    assert_eq!(status.cluster, rig.cluster);
    assert_eq!(status.node.id, id());
    assert_eq!(status.node.role, Role::Leader);
    assert_eq!(status.leader.as_ref().unwrap().id, id());
    assert_eq!(status.nodes.len(), 1);
    assert_eq!(status.timeline.last().unwrap().end, ReignEnd::Running);
    assert!(status.node.authority_left_ms.is_some());
    node.close().await.unwrap();
}

pub async fn start_stop_cycles_leak_nothing(rig: Rig) {
    let node = rig.build(Spec::new(ID));
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    node.start().await.unwrap();
    node.stop(SOON).await.unwrap();
    let before = tasks();
    for _ in 0..50 {
        node.start().await.unwrap();
        node.stop(SOON).await.unwrap();
    }
    eventually("no more tasks", SOON, async || (tasks() <= before).then_some(())).await;
    if rig.kind != Kind::Standalone {
        let (_, left) = rig.all().await;
        assert_eq!(left.into_iter().filter(|kv| kv.lease.is_some()).count(), 0);
    }
}
