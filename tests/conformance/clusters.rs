//! Cases that need several nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bellwether::{
    clock,
    engine::{Failover, NodeId, Role, ShardId, TickPolicy},
    node::{
        ChangeKind, Node, ShardContext, StartError, StateItem, Stopped, WatchFrom, WorkerOptions,
        status::ReignEnd,
    },
    store::{KeyRange, Op, values},
};
use prometheus::Registry;

use crate::{
    rig::{Link, Rig, Running, SOON, Spec, leader_of},
    support::eventually,
};

/// Rounds in which the test looks for calls that cost more than one request.
const ROUNDS: usize = 20;

async fn three(rig: &Rig) -> Vec<Running> {
    vec![rig.start(1).await, rig.start(2).await, rig.start(3).await]
}

/// Waits until the stored roles match: a node writes its role after it has taken the role.
async fn roles_are_written(nodes: &[Running]) {
    eventually("all roles are written", SOON, async || {
        let known = nodes[0].get_nodes().await.unwrap();
        let has =
            |node: &Running| known.iter().any(|it| it.id == node.id() && it.role == node.role());
        nodes.iter().all(|node| node.role() != Role::Unknown && has(node)).then_some(())
    })
    .await;
}

fn ids(ids: &[i64]) -> Vec<NodeId> {
    ids.iter().map(|id| NodeId::new(*id).unwrap()).collect()
}

async fn close(nodes: Vec<Running>) {
    for node in nodes {
        node.close().await.unwrap();
    }
}

pub async fn case_2a_three_nodes_take_roles_and_one_leads(rig: Rig) {
    let nodes = three(&rig).await;
    for node in &nodes {
        node.until("a role", |now| now.role != Role::Unknown).await;
    }
    let leader = leader_of(&nodes).await;
    for (index, node) in nodes.iter().enumerate() {
        let wanted = if index == leader { Role::Leader } else { Role::Follower };
        assert_eq!(node.role(), wanted);
    }
    close(nodes).await;
}

pub async fn case_2b_both_routines_run(rig: Rig) {
    let nodes = three(&rig).await;
    let leader = leader_of(&nodes).await;
    eventually("both routines run", SOON, async || {
        let followed: u64 = nodes.iter().map(Running::followed).sum();
        (6 <= followed && 3 <= nodes[leader].led()).then_some(())
    })
    .await;
    let others = nodes.iter().enumerate().filter(|(index, _)| *index != leader);
    assert_eq!(others.map(|(_, node)| node.led()).sum::<u64>(), 0);
    // The leader has stopped running the follower's routine since its election.
    let before = nodes[leader].followed();
    nodes[leader].until_led().await;
    nodes[leader].until_led().await;
    assert_eq!(nodes[leader].followed(), before);
    close(nodes).await;
}

pub async fn case_2c_get_nodes_is_the_same_from_each(rig: Rig) {
    let nodes = three(&rig).await;
    for node in &nodes {
        let found = node.get_nodes().await.unwrap();
        assert_eq!(found.iter().map(|node| node.id).collect::<Vec<_>>(), ids(&[1, 2, 3]));
    }
    close(nodes).await;
}

pub async fn case_2d_get_leader_from_a_follower(rig: Rig) {
    let nodes = three(&rig).await;
    let leader = leader_of(&nodes).await;
    let follower = &nodes[(leader + 1) % 3];
    assert_eq!(follower.get_leader().await.unwrap(), Some(nodes[leader].id()));
    close(nodes).await;
}

pub async fn case_2e_each_node_has_its_own_state_and_get_cluster_has_all(rig: Rig) {
    let nodes = three(&rig).await;
    for node in &nodes {
        node.put("test", node.id().to_string().as_bytes()).await.unwrap();
    }
    for node in &nodes {
        let own = node.id().to_string().into_bytes();
        assert_eq!(node.get("test").await.unwrap(), Some(own));
    }
    let all = nodes[2].get_cluster("test").await.unwrap();
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), ids(&[1, 2, 3]));
    for (id, kvs) in &all {
        assert_eq!(kvs.len(), 1);
        assert_eq!((kvs[0].key.as_str(), kvs[0].value.clone()), ("test", id.to_string().into()));
    }
    let first = nodes[2].get_as_node(nodes[0].id(), "test").await.unwrap();
    assert_eq!(first, Some(b"1".to_vec()));
    close(nodes).await;
}

pub async fn case_2f_deleted_state_is_gone(rig: Rig) {
    let nodes = three(&rig).await;
    for node in &nodes {
        node.put("test", b"x").await.unwrap();
        assert!(node.delete("test").await.unwrap());
        assert_eq!(node.get("test").await.unwrap(), None);
    }
    assert!(nodes[0].get_cluster("test").await.unwrap().values().all(Vec::is_empty));
    close(nodes).await;
}

pub async fn case_2g_another_node_leads_after_the_leader_left(rig: Rig) {
    let mut nodes = three(&rig).await;
    let leader = nodes.remove(leader_of(&nodes).await);
    leader.until_led().await;
    assert_eq!(leader.stop(SOON).await.unwrap(), Stopped::Clean);
    leader.close().await.unwrap();
    let next = leader_of(&nodes).await;
    nodes[next].until_led().await;
    assert_ne!(nodes[next].id(), leader.id());
    // The other nodes kept their sessions.
    assert!(nodes.iter().all(|node| node.membership().borrow().sessions_lost == 0));
    close(nodes).await;
}

pub async fn case_2h_a_joiner_follows_and_the_one_that_left_is_gone(rig: Rig) {
    let mut nodes = three(&rig).await;
    let leader = nodes.remove(leader_of(&nodes).await);
    leader.close().await.unwrap();
    leader_of(&nodes).await;
    let fourth = rig.start(4).await;
    fourth.until("it follows", |now| now.role == Role::Follower).await;
    let found: BTreeSet<NodeId> =
        fourth.get_nodes().await.unwrap().into_iter().map(|node| node.id).collect();
    let wanted = nodes.iter().map(|node| node.id()).chain(ids(&[4])).collect();
    assert_eq!(found, wanted);
    nodes.push(fourth);
    close(nodes).await;
}

pub async fn case_2i_a_watch_shows_another_nodes_changes(rig: Rig) {
    let nodes = [rig.start(1).await, rig.start(4).await];
    let mut watch = nodes[1].watch_key_cluster("test-watch", WatchFrom::Now).await.unwrap();
    nodes[0].put("test-watch", b"a").await.unwrap();
    nodes[0].put("test-watch", b"b").await.unwrap();
    nodes[0].delete("test-watch").await.unwrap();
    nodes[0].put("test-watch", b"c").await.unwrap();
    nodes[0].close().await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        match watch.recv().await {
            Some(StateItem::Change(change)) => {
                assert_eq!(change.node, nodes[0].id());
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let (value, old) = (text(&change.value), text(&change.old_value));
                seen.push((change.kind, change.key, value, change.old_key, old));
            }
            other => panic!("expected a change, got {other:?}"),
        }
    }
    let row = |kind, key: &str, value: &str, old_key: &str, old: &str| {
        (kind, key.to_owned(), value.to_owned(), old_key.to_owned(), old.to_owned())
    };
    let wanted = vec![
        row(ChangeKind::Added, "test-watch", "a", "", ""),
        row(ChangeKind::Modified, "test-watch", "b", "test-watch", "a"),
        row(ChangeKind::Deleted, "", "", "test-watch", "b"),
        row(ChangeKind::Added, "test-watch", "c", "", ""),
        row(ChangeKind::Deleted, "", "", "test-watch", "c"),
    ];
    assert_eq!(seen, wanted);
    nodes[1].close().await.unwrap();
}

pub async fn the_keys_are_laid_out_as_the_go_package_has_them(rig: Rig) {
    let node = rig.start_with(Spec::new(5).tick(Duration::from_millis(100))).await;
    node.until_leader().await;
    node.put("user/key", b"raw \x00 bytes").await.unwrap();
    let lease = rig.lease_of(5).await;
    let at = async |key: String| rig.at(format!("/{}/{key}", rig.cluster)).await.unwrap();
    let candidate = at(format!("election/{:x}", lease.0)).await;
    assert_eq!((candidate.value.as_slice(), candidate.lease), (b"5".as_slice(), Some(lease)));
    let tick = at("state-data/tick/5".to_owned()).await;
    assert_eq!((tick.value.as_slice(), tick.lease), (b"100000000".as_slice(), Some(lease)));
    let state = at("state-data/user/key/5".to_owned()).await;
    assert_eq!((state.value.as_slice(), state.lease), (b"raw \x00 bytes".as_slice(), Some(lease)));
    let metadata = eventually("the role is written", SOON, async || {
        let metadata = at("nodes/5".to_owned()).await;
        let json: serde_json::Value = serde_json::from_slice(&metadata.value).unwrap();
        (json["Role"] == 1).then_some((metadata, json))
    })
    .await;
    assert_eq!(metadata.0.lease, Some(lease));
    let object = metadata.1.as_object().unwrap();
    assert_eq!(object["ID"], 5);
    assert_eq!(object["Address"], "address-of-5");
    assert!(object["Start"].as_str().unwrap().contains('T'));
    assert_eq!(object.len(), 4);
    node.close().await.unwrap();
    // No key is ever written outside the cluster's prefix, and no key with a lease stays behind.
    let (_, left) = rig.all().await;
    assert!(left.iter().all(|kv| kv.lease.is_none()), "{left:?}");
}

pub async fn a_second_node_with_a_live_id_is_refused_and_disturbs_nobody(rig: Rig) {
    let first = rig.start(7).await;
    first.until_leader().await;
    first.put("k", b"mine").await.unwrap();
    let second = rig.build(Spec::new(7));
    match second.start().await {
        Err(StartError::DuplicateId { id, address, holder, waited }) => {
            assert_eq!(waited, Duration::ZERO, "nobody asked it to wait");
            assert_eq!((id, address.as_str()), (first.id(), "address-of-7"));
            assert_eq!(holder, Some(rig.lease_of(7).await));
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    second.close().await.unwrap();
    assert_eq!(first.get_nodes().await.unwrap().len(), 1);
    assert_eq!(first.get("k").await.unwrap(), Some(b"mine".to_vec()));
    first.until_led().await;
    assert_eq!(first.membership().borrow().sessions_lost, 0);
    assert_eq!(second.led() + second.followed(), 0);
    first.close().await.unwrap();
}

pub async fn a_joiner_with_another_tick_is_refused_and_was_never_a_candidate(rig: Rig) {
    let nodes = vec![rig.start(1).await, rig.start(2).await];
    let leader = leader_of(&nodes).await;
    let joiner = rig.build(Spec::new(3).tick(Duration::from_secs(9)));
    for _ in 0..3 {
        match joiner.start().await {
            Err(StartError::TickDisagreement { cluster, own }) => {
                assert_eq!((cluster, own), (Duration::from_millis(20), Duration::from_secs(9)));
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
        let (_, kvs) = rig.all().await;
        let keys = rig.keys();
        let candidates: Vec<_> =
            kvs.iter().filter(|kv| keys.candidates().contains(&kv.key)).collect();
        assert_eq!(candidates.len(), 2, "{candidates:?}");
    }
    nodes[leader].until_led().await;
    assert!(nodes.iter().all(|node| node.membership().borrow().sessions_lost == 0));
    assert_eq!(leader_of(&nodes).await, leader);
    joiner.close().await.unwrap();
    close(nodes).await;
}

pub async fn an_adopting_joiner_runs_at_the_clusters_tick(rig: Rig) {
    let first = rig.start(1).await;
    let builder = rig.builder(2).tick(Duration::from_secs(9)).tick_policy(TickPolicy::Adopt);
    let joiner = builder.build().unwrap();
    joiner.start().await.unwrap();
    let status = joiner.status().await.unwrap();
    assert!((status.node.tick_ms - 20.0).abs() < f64::EPSILON, "{status:?}");
    let key = rig.keys().tick_key(joiner.id());
    let written = rig.at(key).await.unwrap().value;
    assert_eq!(written, values::encode_tick(Duration::from_millis(20)));
    joiner.close().await.unwrap();
    first.close().await.unwrap();
}

pub async fn the_tick_is_switched_when_all_nodes_offer_the_new_one(rig: Rig) {
    let new = Duration::from_millis(30);
    let first = rig.start(1).await;
    first.until_leader().await;
    let upgraded = |id| {
        let builder = rig.builder(id).tick(new).tick_policy(TickPolicy::Adopt);
        builder.build().unwrap()
    };
    let (second, third) = (upgraded(2), upgraded(3));
    second.start().await.unwrap();
    third.start().await.unwrap();
    let tick = async || rig.at(rig.keys().tick()).await.unwrap().value;
    assert_eq!(tick().await, values::encode_tick(Duration::from_millis(20)));
    // The last node with the old tick leaves: all remaining nodes offer the new tick.
    first.close().await.unwrap();
    eventually("the switch", SOON, async || {
        (tick().await == values::encode_tick(new)).then_some(())
    })
    .await;
    for node in [&second, &third] {
        eventually("it runs at the new tick", SOON, async || {
            let key = rig.keys().tick_key(node.id());
            let written = rig.at(key).await.unwrap().value == values::encode_tick(new);
            let status = node.status().await.unwrap();
            let runs = (status.node.tick_ms - 30.0).abs() < f64::EPSILON;
            (written && runs).then_some(())
        })
        .await;
        assert_eq!(node.membership().borrow().sessions_lost, 0);
    }
    second.close().await.unwrap();
    third.close().await.unwrap();
}

pub async fn succession_is_first_come_first_served(rig: Rig) {
    // The very first leader is the node that has waited the seeded record out (T3, SEED): the order counts from
    // then on.
    let mut nodes = vec![rig.start(1).await];
    nodes[0].until_leader().await;
    for id in 2..=4 {
        nodes.push(rig.start(id).await);
    }
    for _ in 0..3 {
        let leader = leader_of(&nodes).await;
        assert_eq!(leader, 0, "the oldest of those that are left leads");
        let first = nodes.remove(0);
        first.close().await.unwrap();
    }
    close(nodes).await;
}

pub async fn an_idle_cluster_writes_only_beats(rig: Rig) {
    let nodes = three(&rig).await;
    let leader = leader_of(&nodes).await;
    nodes[leader].until_led().await;
    roles_are_written(&nodes).await;
    let beats = |kvs: &[bellwether::store::KeyValue]| {
        let record = kvs.iter().find(|kv| kv.key == rig.keys().record()).unwrap();
        record.version
    };
    let all_but_beats = |kvs: Vec<bellwether::store::KeyValue>| -> BTreeMap<Vec<u8>, i64> {
        let others = kvs.into_iter().filter(|kv| kv.key != rig.keys().record());
        others.map(|kv| (kv.key, kv.modified.0)).collect()
    };
    let ten_beats = async || {
        let (_, before) = rig.all().await;
        let first = beats(&before);
        let after = eventually("ten beats", SOON, async || {
            let (_, after) = rig.all().await;
            (first + 10 <= beats(&after)).then_some(after)
        })
        .await;
        (all_but_beats(before), all_but_beats(after))
    };
    // The election has written everything once no write has come for a while.
    eventually("the cluster is idle", SOON, async || {
        let (before, after) = ten_beats().await;
        (before == after).then_some(())
    })
    .await;
    let (before, after) = ten_beats().await;
    assert_eq!(before, after);
    close(nodes).await;
}

pub async fn a_hundred_handovers_are_a_hundred_terms(rig: Rig) {
    let nodes = three(&rig).await;
    leader_of(&nodes).await;
    let begun = nodes[0].status().await.unwrap().timeline.len();
    for _ in 0..100 {
        let leader = leader_of(&nodes).await;
        nodes[leader].resign().await.unwrap();
        eventually("another leads", SOON, async || {
            let leads = |index: usize| nodes[index].role() == Role::Leader;
            (0..3).find(|index| *index != leader && leads(*index))
        })
        .await;
    }
    let timeline = eventually("the last term is seen", SOON, async || {
        let timeline = nodes[0].status().await.unwrap().timeline;
        (begun + 100 <= timeline.len()).then_some(timeline)
    })
    .await;
    assert_eq!(timeline.len(), begun + 100, "{timeline:?}");
    let ended = timeline.iter().filter(|reign| reign.end == ReignEnd::Ended).count();
    assert_eq!(ended, timeline.len() - 1, "all but the last ended cleanly: {timeline:?}");
    close(nodes).await;
}

pub async fn a_leader_also_follows_if_it_was_built_so(rig: Rig) {
    let followed = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counts = Arc::clone(&followed);
    let builder = rig.builder(1).tick(Duration::from_millis(20)).also_follow();
    let node = builder
        .on_follower_tick(move |_: bellwether::node::FollowerContext| {
            let counts = Arc::clone(&counts);
            async move {
                counts.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        })
        .build()
        .unwrap();
    node.start().await.unwrap();
    let mut membership = node.membership();
    membership.wait_for(|now| now.role == Role::Leader).await.unwrap();
    let before = followed.load(Ordering::Relaxed);
    eventually("it follows while it leads", SOON, async || {
        (before + 5 < followed.load(Ordering::Relaxed)).then_some(())
    })
    .await;
    assert_eq!(node.membership().borrow().role, Role::Leader);
    node.close().await.unwrap();
}

/// Nodes that work on each shard, and whether two ever worked on one shard at once.
#[derive(Default)]
struct Desk {
    working: BTreeMap<ShardId, i64>,
    clashes: Vec<(ShardId, i64, i64)>,
}

fn desk_worker(desk: &Arc<Mutex<Desk>>, id: i64) -> WorkerOptions {
    let desk = Arc::clone(desk);
    let worker = move |shard: ShardId, ctx: ShardContext| {
        let desk = Arc::clone(&desk);
        async move {
            {
                let mut desk = desk.lock().unwrap();
                if let Some(other) = desk.working.insert(shard, id) {
                    desk.clashes.push((shard, other, id));
                }
            }
            ctx.cancelled().await;
            desk.lock().unwrap().working.remove(&shard);
            Ok(())
        }
    };
    WorkerOptions::new("w", worker).shards(32)
}

pub async fn shards_are_shared_and_move_without_two_owners(rig: Rig) {
    let desk: Arc<Mutex<Desk>> = Arc::default();
    let start = async |id| rig.start_with(Spec::new(id).worker(desk_worker(&desk, id))).await;
    let shares = |desk: &Desk| {
        let mut shares: BTreeMap<i64, usize> = BTreeMap::new();
        for id in desk.working.values() {
            *shares.entry(*id).or_default() += 1;
        }
        shares.into_values().collect::<Vec<_>>()
    };
    let until = async |what: &str, wanted: Vec<usize>| {
        eventually(what, SOON, async || (shares(&desk.lock().unwrap()) == wanted).then_some(()))
            .await;
    };
    let mut nodes = vec![start(1).await];
    until("a lone node has all", vec![32]).await;
    nodes.push(start(2).await);
    until("the only follower has all", vec![32]).await;
    nodes.push(start(3).await);
    until("two followers share", vec![16, 16]).await;
    // The leader leaves: a follower takes office and gives the shards of the old leader to the other nodes.
    let leader = nodes.remove(leader_of(&nodes).await);
    leader.close().await.unwrap();
    until("the only follower has all again", vec![32]).await;
    assert_eq!(desk.lock().unwrap().clashes, []);
    close(nodes).await;
    assert!(desk.lock().unwrap().working.is_empty());
}

pub async fn a_drained_node_has_no_shards_and_no_office(rig: Rig) {
    let desk: Arc<Mutex<Desk>> = Arc::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(rig.start_with(Spec::new(id).worker(desk_worker(&desk, id))).await);
    }
    let leader = leader_of(&nodes).await;
    let id = nodes[leader].id().get();
    nodes[leader].drain().await.unwrap();
    eventually("another leads", SOON, async || {
        let leads = |index: usize| nodes[index].role() == Role::Leader;
        (0..3).find(|index| *index != leader && leads(*index))
    })
    .await;
    eventually("all shards are with the others", SOON, async || {
        let desk = desk.lock().unwrap();
        (desk.working.len() == 32 && desk.working.values().all(|of| *of != id)).then_some(())
    })
    .await;
    nodes[leader].undrain().await.unwrap();
    eventually("it has shards again", SOON, async || {
        desk.lock().unwrap().working.values().any(|of| *of == id).then_some(())
    })
    .await;
    assert_eq!(desk.lock().unwrap().clashes, []);
    close(nodes).await;
}

pub async fn a_read_of_the_cluster_is_of_one_revision(rig: Rig) {
    let node = rig.start(1).await;
    let (keys, guest) = (rig.keys(), NodeId::new(9).unwrap());
    let metadata = br#"{"ID":9,"Address":"a","Start":"2026-01-01T00:00:00Z","Role":2}"#;
    let guests =
        [(keys.node(guest), metadata.to_vec()), (keys.state("k", guest).unwrap(), b"v".to_vec())];
    // A guest whose metadata and state appear and disappear together, as with a single lease.
    let coming = || {
        let puts = guests.iter().cloned();
        puts.map(|(key, value)| Op::Put { key, value, lease: None }).collect()
    };
    let going = || {
        let keys = guests.iter().map(|(key, _)| key.clone());
        keys.map(|key| Op::Delete(KeyRange::key(key))).collect()
    };
    let done = AtomicBool::new(false);
    let churning = async {
        while !done.load(Ordering::Relaxed) {
            rig.write(coming()).await;
            rig.write(going()).await;
        }
    };
    let reading = async {
        let (mut with, mut without) = (0, 0);
        eventually("reads with and without the guest", SOON, async || {
            let all = node.get_cluster("k").await.unwrap();
            match all.get(&guest) {
                Some(kvs) => {
                    assert_eq!(kvs.len(), 1, "a node without its state: {all:?}");
                    with += 1;
                }
                None => without += 1,
            }
            (20 <= with && 20 <= without).then_some(())
        })
        .await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(churning, reading);
    node.close().await.unwrap();
}

pub async fn each_call_is_one_request(rig: Rig) {
    // A follower sends only lease renewals by itself, unless the leader is silent. The longest span keeps the
    // leader from seeming silent.
    let (link, leaders) = (Arc::new(Link::default()), Arc::default());
    let mut nodes = Vec::new();
    for id in [1, 2] {
        let builder =
            rig.linked(id, if id == 2 { &link } else { &leaders }).failover(Failover::STABLE);
        let node: Arc<dyn Node> = Arc::new(builder.build().unwrap());
        let running = Running { node, probe: Arc::default(), registry: Registry::new() };
        running.start().await.unwrap();
        let wanted = if id == 1 { Role::Leader } else { Role::Follower };
        running.until("its role", |now| now.role == wanted).await;
        nodes.push(running);
    }
    roles_are_written(&nodes).await;
    let node = &nodes[1];
    // On a busy machine the leader may seem silent for a moment, and the follower then reads from the store.
    // Such reads only add to the cost of a call, so a single round without them is enough.
    let mut costly = BTreeSet::new();
    for round in 0..ROUNDS {
        costly = costs_of_calls(node, nodes[0].id(), &link, &format!("k{round}")).await;
        if costly.is_empty() {
            break;
        }
    }
    assert!(costly.is_empty(), "not one request in any round, in the last: {costly:?}");
    close(nodes).await;
}

/// Makes each call once; returns the calls that did not cost exactly one request, with their cost.
async fn costs_of_calls(
    node: &Running,
    other: NodeId,
    link: &Link,
    key: &str,
) -> BTreeSet<(&'static str, u64)> {
    let mut costly = BTreeSet::new();
    let requests = || link.calls(&["txn", "get"]);
    let mut before = requests();
    let mut was = |call| {
        let now = requests();
        let cost = now - std::mem::replace(&mut before, now);
        if cost != 1 {
            costly.insert((call, cost));
        }
    };
    node.put(key, b"1").await.unwrap();
    was("the first put of a key");
    node.put(key, b"2").await.unwrap();
    was("a put over an own value");
    assert_eq!(node.get(key).await.unwrap().as_deref(), Some(b"2".as_slice()));
    was("get");
    assert_eq!(node.get_as_node(other, key).await.unwrap(), None);
    was("get_as_node");
    assert_eq!(node.get_cluster(key).await.unwrap().len(), 2);
    was("get_cluster");
    assert_eq!(node.get_nodes().await.unwrap().len(), 2);
    was("get_nodes");
    assert!(node.get_node_metadata(other).await.unwrap().is_some());
    was("get_node_metadata");
    assert_eq!(node.get_leader().await.unwrap(), Some(other));
    was("get_leader");
    assert!(node.delete(key).await.unwrap());
    was("delete");
    costly
}

pub async fn a_lease_is_renewed_by_one_alone_and_not_too_often(rig: Rig) {
    const TTL: Duration = Duration::from_secs(3);
    let link = Arc::new(Link::default());
    let node = rig.linked(1, &link).ttl(TTL).build().unwrap();
    node.start().await.unwrap();
    let renewals = || link.calls(&["keep_alive"]);
    let renewed = async |times: u64| {
        let before = renewals();
        eventually("renewals", SOON, async || (before + times <= renewals()).then_some(())).await;
    };
    renewed(1).await;
    let since = clock::boot_now();
    renewed(4).await;
    // A renewal is due each third of the TTL: even if each was late, four renewals cannot fit into two thirds
    // of the TTL.
    let took = clock::boot_now().since(since);
    assert!(TTL * 2 / 3 < took, "four renewals within {took:?}");
    assert_eq!(node.membership().borrow().sessions_lost, 0);
    node.close().await.unwrap();
}

pub async fn start_is_kept_over_sessions_and_roles_are_rewritten_at_each_change(rig: Rig) {
    let nodes = vec![rig.start(1).await, rig.start(2).await];
    leader_of(&nodes).await;
    let stored = async || {
        roles_are_written(&nodes).await;
        let nodes = nodes[0].get_nodes().await.unwrap();
        nodes.into_iter().map(|node| (node.start, node.role)).unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (starts, before) = stored().await;
    let leader = leader_of(&nodes).await;
    nodes[leader].resign().await.unwrap();
    nodes[1 - leader].until_leader().await;
    let (same, after) = stored().await;
    assert_eq!(same, starts, "another role is no other life");
    assert_eq!(after, before.into_iter().rev().collect::<Vec<_>>());
    // A lost and regained session does not change the start either: the node has run all the while.
    rig.raw().revoke(rig.lease_of(1).await, SOON).await.unwrap();
    nodes[0].until("joined again", |now| now.joined && now.sessions_lost == 1).await;
    assert_eq!(stored().await.0, starts);
    // A node that was stopped and started again has a new start.
    nodes[0].stop(SOON).await.unwrap();
    nodes[0].start().await.unwrap();
    nodes[0].until("a role", |now| now.role != Role::Unknown).await;
    let (next, _) = stored().await;
    assert!(starts[0] < next[0], "{next:?}");
    assert_eq!(starts[1], next[1]);
    close(nodes).await;
}

pub async fn clusters_in_one_store_are_strangers(rig: Rig) {
    // A name with the first name as its prefix, and a name below the first one.
    let others = ["b", "/b"].map(|more| rig.neighbour(more));
    let rigs: Vec<&Rig> = std::iter::once(&rig).chain(&others).collect();
    let mut nodes = Vec::new();
    for rig in &rigs {
        nodes.push(rig.start(1).await);
    }
    for (node, rig) in nodes.iter().zip(&rigs) {
        // Each node leads its own cluster, under the same id.
        node.until_leader().await;
        node.put("k", rig.cluster.as_bytes()).await.unwrap();
    }
    for (node, rig) in nodes.iter().zip(&rigs) {
        let all = node.get_cluster("k").await.unwrap();
        let values: Vec<_> = all.into_values().flatten().map(|kv| kv.value).collect();
        assert_eq!(values, [rig.cluster.as_bytes()]);
        assert_eq!(node.get_nodes().await.unwrap().len(), 1);
        assert!(node.metric("bellwether_foreign_keys_total") < 1.0);
    }
    nodes.remove(0).close().await.unwrap();
    for (node, rig) in nodes.iter().zip(&others) {
        node.until_led().await;
        assert_eq!(node.get("k").await.unwrap().as_deref(), Some(rig.cluster.as_bytes()));
        assert_eq!(node.membership().borrow().sessions_lost, 0);
    }
    close(nodes).await;
}
