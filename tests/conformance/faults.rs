//! Cases with faults around the nodes.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bellwether::{
    clock,
    engine::{BootTime, NodeId, Role},
    node::{
        LeaderContext, Node, StartError, StateError, StateItem, Stopped, WatchFrom, supervision,
    },
};

use crate::{
    rig::{Link, Rig, SOON, Spec, leader_of},
    support::eventually,
};

/// Time by which a `stop` may exceed its deadline: its own 0.1 s, and as much again.
const A_MOMENT: Duration = Duration::from_millis(200);

/// Times at which a leader's routine last acted and at which its context was cancelled.
#[derive(Default)]
struct Acts {
    first: Mutex<Option<BootTime>>,
    last: Mutex<Option<BootTime>>,
    cancelled: AtomicU64,
}

fn acting(id: i64, acts: &Arc<Acts>) -> Spec {
    let acts = Arc::clone(acts);
    Spec::new(id).routine(move |ctx: LeaderContext| {
        let acts = Arc::clone(&acts);
        async move {
            let now = clock::boot_now();
            if ctx.check().is_ok() {
                acts.first.lock().unwrap().get_or_insert(now);
                *acts.last.lock().unwrap() = Some(now);
            }
            Ok(())
        }
    })
}

pub async fn a_cut_off_leader_stops_before_another_leads(rig: Rig) {
    let link = Arc::new(Link::default());
    let (old, new) = (Arc::new(Acts::default()), Arc::new(Acts::default()));
    let first = rig.start_with(acting(1, &old).link(&link)).await;
    first.until_led().await;
    let second = rig.start_with(acting(2, &new)).await;
    link.cut();
    second.until_leader().await;
    second.until_led().await;
    let last = old.last.lock().unwrap().unwrap();
    let next = new.first.lock().unwrap().unwrap();
    assert!(last < next, "the old leader acted {:?} after the new one", last.since(next));
    let led = first.led();
    second.until_led().await;
    assert_eq!(first.led(), led, "no tick of the old term");
    // With the link restored, the node is a follower, and no tick of the old term runs again.
    link.mend();
    first.until("it follows", |now| now.role == Role::Follower).await;
    assert_eq!(second.role(), Role::Leader);
    first.close().await.unwrap();
    second.close().await.unwrap();
}

pub async fn losing_the_candidate_key_cancels_a_running_routine(rig: Rig) {
    let acts = Arc::new(Acts::default());
    let runs = Arc::clone(&acts);
    let spec = Spec::new(1).routine(move |ctx: LeaderContext| {
        let runs = Arc::clone(&runs);
        async move {
            runs.first.lock().unwrap().get_or_insert(clock::boot_now());
            ctx.cancelled().await;
            assert!(ctx.check().is_err(), "authority is dropped before the work is cancelled");
            runs.cancelled.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    let first = rig.start_with(spec).await;
    eventually("it runs", SOON, async || acts.first.lock().unwrap().map(drop)).await;
    let second = rig.start(2).await;
    let term = first.membership().borrow().term;
    rig.delete(rig.keys().candidate(rig.lease_of(1).await)).await;
    eventually("it is cancelled", SOON, async || {
        (acts.cancelled.load(Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    // The next leader first waits the record out; the term is a new one in any case.
    eventually("a new term", SOON, async || {
        let terms = [&first, &second].map(|node| node.membership().borrow().term);
        terms.into_iter().flatten().find(|now| term < Some(*now))
    })
    .await;
    first.close().await.unwrap();
    second.close().await.unwrap();
}

pub async fn lost_state_is_put_back_after_a_revoked_lease(rig: Rig) {
    let node = rig.start(1).await;
    for n in 0..40 {
        node.put(&format!("k/{n}"), n.to_string().as_bytes()).await.unwrap();
    }
    node.delete("k/7").await.unwrap();
    node.put("k/8", b"newest").await.unwrap();
    let lease = rig.lease_of(1).await;
    rig.raw().revoke(lease, SOON).await.unwrap();
    let now = node.until("joined again", |now| now.joined && now.sessions_lost == 1).await;
    assert_eq!(now.sessions_lost, 1);
    assert_ne!(rig.lease_of(1).await, lease);
    let back = eventually("all is back", SOON, async || {
        let mut all = node.get_cluster("k").await.unwrap();
        let kvs = all.remove(&node.id())?;
        (kvs.len() == 39).then_some(kvs)
    })
    .await;
    assert!(back.iter().all(|kv| kv.key != "k/7"));
    let eighth = back.iter().find(|kv| kv.key == "k/8").unwrap();
    assert_eq!(eighth.value, b"newest");
    node.put("k/8", b"and on").await.unwrap();
    assert_eq!(node.get("k/8").await.unwrap(), Some(b"and on".to_vec()));
    node.close().await.unwrap();
}

pub async fn a_put_that_is_answered_late_is_kept_over_a_lost_session(rig: Rig) {
    let link = Arc::new(Link::default());
    let node = rig.start_with(Spec::new(1).link(&link)).await;
    node.put("k", b"old").await.unwrap();
    let key = rig.keys().state("k", node.id()).unwrap();
    let lease = rig.lease_of(1).await;
    link.delay(Duration::from_millis(1200));
    let lost = async {
        eventually("it has taken effect", SOON, async || {
            rig.at(key.clone()).await.filter(|kv| kv.value == b"new")
        })
        .await;
        // The answer to the put is on its way, and all later messages are fast again.
        link.delay(Duration::ZERO);
        rig.raw().revoke(lease, SOON).await.unwrap();
        node.until("joined again", |now| now.joined && now.sessions_lost == 1).await;
    };
    let (put, ()) = tokio::join!(node.put("k", b"new"), lost);
    // On a machine too slow for the answer, the outcome is unknown although the put has taken effect.
    assert!(matches!(put, Ok(_) | Err(StateError::Unknown { .. })), "{put:?}");
    let back = eventually("it is back", SOON, async || node.get("k").await.unwrap()).await;
    assert_eq!(back, b"new");
    node.close().await.unwrap();
}

pub async fn sessions_lost_again_and_again_are_regained(rig: Rig) {
    let node = rig.start(1).await;
    node.put("k", b"v").await.unwrap();
    for lost in 1..=12 {
        let lease = rig.lease_of(1).await;
        rig.raw().revoke(lease, SOON).await.unwrap();
        node.until("joined again", |now| now.joined && now.sessions_lost == lost).await;
    }
    eventually("its state is back", SOON, async || node.get("k").await.unwrap()).await;
    node.until_led().await;
    let (_, kvs) = rig.all().await;
    let leases: std::collections::BTreeSet<_> = kvs.iter().filter_map(|kv| kv.lease).collect();
    assert_eq!(leases.len(), 1, "one incarnation: {leases:?}");
    node.close().await.unwrap();
}

pub async fn a_slow_store_costs_nobody_the_leadership(rig: Rig) {
    let link = Arc::new(Link::default());
    let first = rig.start_with(Spec::new(1).link(&link)).await;
    first.until_led().await;
    let second = rig.start_with(Spec::new(2).link(&link)).await;
    link.delay(Duration::from_millis(300));
    let term = first.membership().borrow().term;
    for _ in 0..20 {
        first.until_led().await;
    }
    assert_eq!(first.membership().borrow().term, term);
    assert_eq!(second.role(), Role::Follower);
    assert_eq!(second.led(), 0);
    link.delay(Duration::ZERO);
    first.close().await.unwrap();
    second.close().await.unwrap();
}

pub async fn stop_returns_while_the_store_is_unreachable(rig: Rig) {
    let link = Arc::new(Link::default());
    let node = rig.start_with(Spec::new(1).link(&link)).await;
    node.until_led().await;
    let mut watch = node.watch_key_cluster("k", WatchFrom::Now).await.unwrap();
    link.cut();
    let deadline = Duration::from_millis(800);
    let mut stop = pin!(node.stop(deadline));
    // The alarm is set after the call to the node, and uses the same clock as the wait for the answer. So an
    // answer that was due before the alarm arrives before the alarm, however late this machine wakes the test.
    assert!(futures::poll!(&mut stop).is_pending(), "it has work to end, and no store");
    let stopped = tokio::time::timeout(deadline + A_MOMENT, stop).await;
    assert_eq!(stopped.expect("by its deadline").unwrap(), Stopped::Unclean);
    let led = node.led();
    link.mend();
    node.start().await.unwrap();
    node.put("k", b"back").await.unwrap();
    assert!(
        matches!(watch.recv().await, Some(StateItem::Change(change)) if change.value == b"back")
    );
    node.until_led().await;
    assert!(led < node.led());
    node.close().await.unwrap();
}

pub async fn a_stop_that_failed_leaves_no_ghost_once_the_node_is_back(rig: Rig) {
    let link = Arc::new(Link::default());
    let node = rig.start_with(Spec::new(1).link(&link)).await;
    node.until_led().await;
    let old = rig.lease_of(1).await;
    link.cut();
    assert_eq!(node.stop(Duration::from_millis(300)).await.unwrap(), Stopped::Unclean);
    assert_eq!(
        node.role(),
        Role::Unknown,
        "nothing is left of the office, whatever the store says"
    );
    link.mend();
    node.start().await.unwrap();
    node.until_led().await;
    let keys = rig.keys();
    eventually("one candidate, one node key, one lease, and the role in it", SOON, async || {
        let (_, kvs) = rig.all().await;
        let mut candidates = kvs.iter().filter(|kv| keys.candidates().contains(&kv.key));
        let (candidate, more) = (candidates.next()?, candidates.next());
        let lease = rig.lease_of(1).await;
        let role = node.get_node_metadata(node.id()).await.unwrap()?.role;
        let whole = more.is_none() && candidate.lease == Some(lease) && lease != old;
        (whole && role == Role::Leader).then_some(())
    })
    .await;
    node.close().await.unwrap();
}

pub async fn calls_return_while_the_store_is_unreachable(rig: Rig) {
    let link = Arc::new(Link::default());
    let builder = rig.linked(1, &link).call_timeout(Duration::from_millis(700));
    let node = builder.build().unwrap();
    node.start().await.unwrap();
    node.put("k", b"before").await.unwrap();
    link.cut();
    let put = node.put("k", b"maybe").await;
    assert!(matches!(put, Err(StateError::Unknown { .. } | StateError::NoLease)), "{put:?}");
    let stopping = node.stop(Duration::from_secs(2));
    let calls = async {
        assert!(matches!(node.get("k").await, Err(StateError::Store { .. })));
        assert!(matches!(node.get_leader().await, Err(StateError::Store { .. })));
        assert!(matches!(node.get_cluster("k").await, Err(StateError::Store { .. })));
        let put = node.put("k", b"maybe").await;
        assert!(matches!(put, Err(StateError::Unknown { .. } | StateError::NoLease)), "{put:?}");
    };
    let (stopped, ()) = tokio::join!(stopping, calls);
    assert_eq!(stopped.unwrap(), Stopped::Unclean);
    link.mend();
    node.close().await.unwrap();
}

pub async fn a_restarted_id_does_not_lead_on_its_old_key(rig: Rig) {
    let link = Arc::new(Link::default());
    let first = rig.start_with(Spec::new(7).link(&link)).await;
    first.until_led().await;
    // The cut node counts as killed: its requests no longer reach the store.
    link.cut();
    let again = rig.build(Spec::new(7));
    match again.start().await {
        Err(StartError::DuplicateId { address, .. }) => assert_eq!(address, "address-of-7"),
        other => panic!("expected a refusal, got {other:?}"),
    }
    assert_eq!(again.role(), Role::Unknown);
    assert_eq!(again.led(), 0);
    // The lease of the first node expires, then the new node joins and leads by a key of its own.
    eventually("the old lease runs out", SOON, async || again.start().await.ok()).await;
    again.until_led().await;
    let _ = first.stop(Duration::from_millis(100)).await;
    again.close().await.unwrap();
}

pub async fn a_watch_survives_a_cut_with_nothing_lost_or_repeated(rig: Rig) {
    let link = Arc::new(Link::default());
    let node = rig.start(1).await;
    let watcher = rig.start_with(Spec::new(2).link(&link)).await;
    let mut watch = watcher.watch_key_cluster("k", WatchFrom::Now).await.unwrap();
    for n in 0..300 {
        if n % 50 == 10 {
            link.break_watches();
        }
        node.put("k", n.to_string().as_bytes()).await.unwrap();
    }
    for n in 0..300 {
        match watch.recv().await {
            Some(StateItem::Change(change)) => {
                assert_eq!(change.value, n.to_string().into_bytes());
            }
            other => panic!("expected change {n}, got {other:?}"),
        }
    }
    node.close().await.unwrap();
    watcher.close().await.unwrap();
}

pub async fn junk_under_every_key_stops_nobody(rig: Rig) {
    let nodes = vec![rig.start(1).await, rig.start(2).await];
    let leader = leader_of(&nodes).await;
    nodes[leader].until_led().await;
    let keys = rig.keys();
    let (_, kvs) = rig.all().await;
    for kv in kvs.iter().filter(|kv| keys.watched().contains(&kv.key)) {
        rig.put(kv.key.clone(), b"\xff junk").await;
    }
    for id in [1, 2] {
        let id = NodeId::new(id).unwrap();
        rig.put(keys.drain_request(NodeId::new(9).unwrap()), b"\xff").await;
        rig.put(keys.tick_key(id), b"\xff").await;
    }
    rig.put(format!("/{}/bellwether/what/is/this", rig.cluster).into_bytes(), b"?").await;
    rig.put(format!("/{}/election/zz", rig.cluster).into_bytes(), b"?").await;
    // No two nodes tick at once meanwhile, which the simulation checks. All nodes come back.
    for node in &nodes {
        node.until("it is a member again", |now| {
            now.joined && now.role != Role::Unknown && 0 < now.sessions_lost
        })
        .await;
    }
    let leader = leader_of(&nodes).await;
    nodes[leader].until_led().await;
    let term = nodes[leader].membership().borrow().term;
    nodes[leader].until_led().await;
    assert!(term.is_some());
    eventually("both are listed again", SOON, async || {
        (nodes[0].get_nodes().await.unwrap().len() == 2).then_some(())
    })
    .await;
    for node in nodes {
        node.close().await.unwrap();
    }
}

pub async fn an_incarnation_that_is_proven_dead_is_ended_at_once(rig: Rig) {
    let link = Arc::new(Link::default());
    let dead = Arc::new(AtomicBool::new(false));
    let first = rig.start_with(Spec::new(1).link(&link)).await;
    first.until_led().await;
    let second = rig.start(2).await;
    let lease = rig.lease_of(1).await;
    // The node is stopped before its incarnation is ended: the proof of death.
    link.cut();
    dead.store(true, Ordering::Relaxed);
    let _ = first.stop(Duration::from_millis(200)).await;
    let ended = supervision::end_incarnation(rig.raw(), &rig.keys(), lease, SOON).await.unwrap();
    // On a slow machine, the successor may already have waited the record out.
    let taken = second.role() == Role::Leader;
    assert!(ended.was_in_office || taken);
    second.until_led().await;
    let (_, kvs) = rig.all().await;
    assert!(kvs.iter().all(|kv| kv.lease != Some(lease)));
    // A second END is harmless.
    let again = supervision::end_incarnation(rig.raw(), &rig.keys(), lease, SOON).await.unwrap();
    assert!(!again.was_in_office);
    second.until_led().await;
    second.close().await.unwrap();
}

pub async fn a_leader_between_two_ticks_leaves_cleanly_while_its_runtime_stands_still(rig: Rig) {
    let node = rig.build(Spec::new(1)).node;
    let started = Arc::clone(&node);
    let standing_still = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            started.start().await.unwrap();
            let mut membership = started.membership();
            membership.wait_for(|now| now.role == Role::Leader).await.unwrap();
        });
        runtime
    });
    let runtime = standing_still.await.unwrap();
    assert_eq!(node.stop(SOON).await.unwrap(), Stopped::Clean);
    runtime.shutdown_background();
}
