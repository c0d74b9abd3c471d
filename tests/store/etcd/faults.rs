//! Members that die, freeze, lag or are cut off, and connections that break in every way.

use std::time::Duration;

use bellwether::{
    clock::boot_now,
    engine::Revision,
    store::{
        Effected, Get, Store, StoreError,
        etcd::{EtcdConfig, EtcdMetrics, EtcdStore},
    },
    testing::ReservedPort,
};
use prometheus::core::Collector;

use super::{LONG, events, get, lease, put, put_within, store_on, value, watch};
use crate::support::{
    etcd::{Etcd, reserved_port},
    eventually,
    proxy::{Fault, Proxy},
};

/// Half a second is promised; the rest is margin for a busy machine. Without the mechanism, the store takes
/// seconds (etcd's own timeout is 7 s) or waits for ever.
const NOTICED: Duration = Duration::from_secs(2);

/// Index of the member that the store uses now.
fn current(etcd: &Etcd, store: &EtcdStore) -> usize {
    etcd.endpoints().iter().position(|url| *url == store.health().endpoint).unwrap()
}

/// A store that uses a member which is not the raft leader, so that the loss of that member costs no election.
async fn store_on_a_follower(etcd: &Etcd) -> (EtcdStore, usize) {
    let store = store_on(etcd).await;
    let leader = etcd.leader().await;
    if current(etcd, &store) == leader {
        store.avoid_current();
    }
    let member = current(etcd, &store);
    assert_ne!(member, leader);
    get(&store, "k").await.unwrap();
    (store, member)
}

/// Three members, each behind a proxy.
async fn behind_proxies(etcd: &Etcd) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for member in 0..etcd.endpoints().len() {
        proxies.push(Proxy::to(etcd.address(member)).await);
    }
    proxies
}

fn through(proxies: &[Proxy]) -> EtcdConfig {
    EtcdConfig::new(proxies.iter().map(|proxy| format!("http://{}", proxy.address())))
}

fn current_proxy(proxies: &[Proxy], store: &EtcdStore) -> usize {
    let url = store.health().endpoint;
    proxies.iter().position(|proxy| url.ends_with(&proxy.address().to_string())).unwrap()
}

#[tokio::test]
async fn one_dead_member_of_three_causes_no_error() {
    let etcd = Etcd::options().members(3).start().await;
    let (store, member) = store_on_a_follower(&etcd).await;
    etcd.kill(member);
    // The first call notices the loss; no call may fail. The first call is a read, since a write that is on its
    // way while the connection breaks would be ambiguous.
    for i in 0..300 {
        value(&store, "k").await;
        put(&store, "k", &i.to_string()).await.unwrap();
    }
    assert_ne!(current(&etcd, &store), member);
    assert!(store.health().healthy);
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_not_noticed() {
    let etcd = Etcd::start().await;
    let (nobody, nobody_else) = (reserved_port(), reserved_port());
    let endpoints =
        [nobody.address().to_string(), etcd.endpoint(0), nobody_else.address().to_string()];
    // `new` instead of `connect`: the first call has to find a working member, even for a write.
    let store = EtcdStore::new(&EtcdConfig::new(endpoints)).unwrap();
    for i in 0..300 {
        put(&store, "k", &i.to_string()).await.unwrap();
    }
    let version = get(&store, "k").await.unwrap().kvs[0].version;
    assert_eq!(version, 300, "nothing was sent twice");
}

#[tokio::test]
async fn reads_survive_the_death_of_etcds_leader() {
    let etcd = Etcd::options().members(3).start().await;
    let store = store_on(&etcd).await;
    put(&store, "k", "v").await.unwrap();
    etcd.kill(etcd.leader().await);
    for _ in 0..20 {
        assert_eq!(value(&store, "k").await.as_deref(), Some("v"));
    }
    put(&store, "k", "w").await.unwrap();
}

#[tokio::test]
async fn a_frozen_member_is_left_and_its_watch_ends() {
    let etcd = Etcd::options().members(3).start().await;
    let (store, member) = store_on_a_follower(&etcd).await;
    let start = put(&store, "p/1", "a").await.unwrap().revision;
    let mut on_frozen = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    etcd.freeze(member);
    let frozen_at = boot_now();
    // No call is made: the guard of the watch has to notice the frozen member.
    let ended = tokio::time::timeout(LONG, on_frozen.next()).await.unwrap().unwrap_err();
    let took = boot_now().since(frozen_at);
    assert!(matches!(ended, StoreError::Broken { .. }), "{ended}");
    assert!(took < NOTICED, "noticed after {took:?}");
    assert_ne!(current(&etcd, &store), member);
    put(&store, "p/1", "b").await.unwrap();
    let mut next = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    assert_eq!(events(next.as_mut()).await.1, ["p/1=b"]);
    etcd.thaw(member);
    // With another member frozen, the quorum needs the thawed member, and the store cannot use a faster member
    // in its place.
    let other = (0..3).find(|it| *it != member).unwrap();
    etcd.freeze(other);
    eventually("the thawed member serves again", LONG, async || {
        store.avoid_current();
        let answered = get(&store, "k").await.is_ok();
        (answered && current(&etcd, &store) == member).then_some(())
    })
    .await;
    etcd.thaw(other);
}

#[tokio::test]
async fn a_read_on_a_frozen_member_is_answered_by_another() {
    let etcd = Etcd::options().members(3).start().await;
    let (store, member) = store_on_a_follower(&etcd).await;
    put(&store, "k", "v").await.unwrap();
    etcd.freeze(member);
    let began = boot_now();
    assert_eq!(value(&store, "k").await.as_deref(), Some("v"));
    let took = boot_now().since(began);
    assert!(took < NOTICED, "answered after {took:?}");
    etcd.thaw(member);
}

#[tokio::test]
async fn a_write_on_a_frozen_member_is_ambiguous_and_the_next_one_is_not() {
    let etcd = Etcd::options().members(3).start().await;
    let (store, member) = store_on_a_follower(&etcd).await;
    put(&store, "k", "v").await.unwrap();
    etcd.freeze(member);
    let first = put(&store, "k", "lost?").await.unwrap_err();
    assert_eq!(first.effected(), Effected::Unknown, "{first}");
    put(&store, "k", "w").await.unwrap();
    assert_ne!(current(&etcd, &store), member);
    etcd.thaw(member);
}

/// A cluster with one living member and no quorum, plus another etcd: for a client, the lone member looks like
/// a member that is cut off from its peers.
#[tokio::test]
async fn a_member_without_quorum_is_left_though_it_accepts_calls() {
    let cut_off = Etcd::options().members(3).start().await;
    let healthy = Etcd::start().await;
    let way = Proxy::to(healthy.address(0)).await;
    way.set(Fault::Refuse);
    let endpoints = [cut_off.endpoint(0), format!("http://{}", way.address())];
    let store = EtcdStore::connect(&EtcdConfig::new(endpoints)).await.unwrap();
    assert_eq!(store.health().endpoint, cut_off.endpoint(0));
    let start = get(&store, "p/").await.unwrap().revision;
    let mut idle = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    way.set(Fault::None);
    cut_off.kill(1);
    cut_off.kill(2);
    let cut_at = boot_now();
    // The lone member still accepts connections and answers requests that need no quorum.
    let ended = tokio::time::timeout(LONG, idle.next()).await.unwrap();
    let took = boot_now().since(cut_at);
    assert!(matches!(ended, Err(StoreError::Broken { .. })), "{ended:?}");
    assert_ne!(store.health().endpoint, cut_off.endpoint(0));
    // The store tries the other member again after a pause that grew while that member refused.
    assert!(took < NOTICED + Duration::from_secs(2), "noticed after {took:?}");
    put(&store, "p/1", "x").await.unwrap();
}

#[tokio::test]
async fn every_cut_between_client_and_member_is_gone_around() {
    let etcd = Etcd::options().members(3).start().await;
    let proxies = behind_proxies(&etcd).await;
    let store = EtcdStore::connect(&through(&proxies)).await.unwrap();
    put(&store, "k", "v").await.unwrap();
    for fault in [Fault::Blackhole, Fault::CutToServer, Fault::CutToClient, Fault::Refuse] {
        let cut = current_proxy(&proxies, &store);
        proxies[cut].set(fault);
        let began = boot_now();
        assert_eq!(value(&store, "k").await.as_deref(), Some("v"), "{fault:?}");
        let took = boot_now().since(began);
        assert!(took < NOTICED, "{fault:?}: answered after {took:?}");
        eventually("another member is asked", LONG, async || {
            get(&store, "k").await.unwrap();
            (current_proxy(&proxies, &store) != cut).then_some(())
        })
        .await;
        put(&store, "k", "v").await.unwrap();
        proxies[cut].set(Fault::None);
    }
}

#[tokio::test]
async fn a_lost_answer_is_ambiguous_and_never_sent_twice() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.address(0)).await;
    let store = EtcdStore::connect(&EtcdConfig::new([proxy.address().to_string()])).await.unwrap();
    let mut raw = etcd.client().await;
    proxy.set(Fault::CutToClient);
    let lost = put_within(&store, "k", "v", Duration::from_millis(400)).await.unwrap_err();
    assert!(matches!(lost, StoreError::Unanswered { .. }), "{lost}");
    assert!(lost.to_string().contains(&proxy.address().to_string()), "{lost}");
    eventually("the write took effect", LONG, async || {
        (raw.get("k", None).await.unwrap().count() == 1).then_some(())
    })
    .await;
    // A connection that breaks has the same result as a silent one.
    let (broken, ()) = tokio::join!(put(&store, "k2", "v"), async {
        eventually("the write took effect", LONG, async || {
            (raw.clone().get("k2", None).await.unwrap().count() == 1).then_some(())
        })
        .await;
        proxy.reset();
    });
    let broken = broken.unwrap_err();
    assert!(matches!(broken, StoreError::Interrupted { .. }), "{broken}");
    proxy.set(Fault::None);
    for key in ["k", "k2"] {
        let found = get(&store, key).await.unwrap();
        assert_eq!(found.kvs[0].version, 1, "{key} was written once");
    }
    assert_eq!(raw.get("k", None).await.unwrap().kvs()[0].version(), 1);
}

#[tokio::test]
async fn a_half_open_connection_is_replaced() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.address(0)).await;
    let store = EtcdStore::connect(&EtcdConfig::new([proxy.address().to_string()])).await.unwrap();
    put(&store, "k", "v").await.unwrap();
    let mut idle = watch(&store, "k", Revision(1)).await.unwrap();
    events(idle.as_mut()).await;
    proxy.half_open();
    let began = boot_now();
    assert_eq!(value(&store, "k").await.as_deref(), Some("v"));
    let took = boot_now().since(began);
    assert!(took < NOTICED, "answered after {took:?}");
    // The watch on the dead connection returns an error.
    let ended = tokio::time::timeout(LONG, idle.next()).await.unwrap();
    assert!(matches!(ended, Err(StoreError::Broken { .. })), "{ended:?}");
}

#[tokio::test]
async fn reads_survive_resets() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to(etcd.address(0)).await;
    let store = EtcdStore::connect(&EtcdConfig::new([proxy.address().to_string()])).await.unwrap();
    put(&store, "k", "v").await.unwrap();
    for _ in 0..50 {
        proxy.reset();
        assert_eq!(value(&store, "k").await.as_deref(), Some("v"));
    }
    assert!(proxy.accepted() >= 50);
}

#[tokio::test]
async fn a_stall_of_the_whole_store_breaks_nothing() {
    let etcd = Etcd::start().await;
    let metrics = EtcdMetrics::unregistered();
    let config = EtcdConfig::new(etcd.endpoints()).metrics(metrics.clone());
    let store = EtcdStore::connect(&config).await.unwrap();
    let start = put(&store, "p/1", "a").await.unwrap().revision;
    let mut watching = watch(&store, "p/", Revision(start.0 + 1)).await.unwrap();
    for i in 0..3 {
        etcd.freeze(0);
        // Long enough for several suspicions.
        let stalled = put_within(&store, "p/1", "b", Duration::from_millis(600)).await;
        assert!(matches!(stalled, Err(StoreError::Unanswered { .. })), "{stalled:?}");
        etcd.thaw(0);
        let value = format!("after {i}");
        let revision = put(&store, "p/1", &value).await.unwrap().revision;
        while events(watching.as_mut()).await.0 < revision {}
    }
    assert!(Collector::collect(&metrics.switches)[0].get_metric().is_empty());
    assert_eq!(metrics.reconnects.get(), 0, "the connection was good");
}

#[tokio::test]
async fn a_slow_member_is_left_for_a_fast_one() {
    let etcd = Etcd::options().members(3).start().await;
    let proxies = behind_proxies(&etcd).await;
    let config = through(&proxies).survey_every(Duration::from_millis(100));
    let store = EtcdStore::connect(&config).await.unwrap();
    let slow = current_proxy(&proxies, &store);
    // Well below the delay that makes a member suspect.
    proxies[slow].set(Fault::Delay(Duration::from_millis(30)));
    eventually("a fast member is asked", LONG, async || {
        get(&store, "k").await.unwrap();
        (current_proxy(&proxies, &store) != slow).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_renewal_hops_to_another_member_within_one_call() {
    let etcd = Etcd::options().members(3).start().await;
    let proxies = behind_proxies(&etcd).await;
    let store = EtcdStore::connect(&through(&proxies)).await.unwrap();
    store.grant(lease(5), Duration::from_secs(60), LONG).await.unwrap();
    let within = Duration::from_secs(4);
    assert_eq!(store.keep_alive(lease(5), within).await.unwrap().ttl, Duration::from_secs(60));
    proxies[current_proxy(&proxies, &store)].set(Fault::Blackhole);
    assert_eq!(store.keep_alive(lease(5), within).await.unwrap().ttl, Duration::from_secs(60));
}

#[tokio::test]
async fn a_store_that_is_away_is_named_and_comes_back_by_itself() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    store.grant(lease(6), Duration::from_secs(600), LONG).await.unwrap();
    store.keep_alive(lease(6), LONG).await.unwrap();
    etcd.kill(0);
    // A read of an unreachable store retries until its deadline.
    let short = store.get(Get::key("k"), Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(short, StoreError::Unreachable { .. }), "{short}");
    let refused = put_within(&store, "k", "v", Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unreachable { .. }), "{refused}");
    assert_eq!(refused.effected(), Effected::No);
    assert!(refused.to_string().contains(&etcd.endpoint(0)), "{refused}");
    etcd.start_again(0).await;
    put(&store, "k", "v").await.unwrap();
    assert_eq!(store.keep_alive(lease(6), LONG).await.unwrap().ttl, Duration::from_secs(600));
    assert_eq!(get(&store, "k").await.unwrap().kvs[0].version, 1);
    assert!(store.health().healthy);
}

#[tokio::test]
async fn nothing_listens_at_all() {
    let held = [reserved_port(), reserved_port()];
    let nobody = held.each_ref().map(ReservedPort::address);
    let config = EtcdConfig::new(nobody.iter().map(ToString::to_string))
        .connect_within(Duration::from_millis(500));
    let error = EtcdStore::connect(&config).await.unwrap_err();
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("cannot be reached") && said.contains("refused"), "{said}");
    assert!(nobody.iter().any(|address| said.contains(&address.to_string())), "{said}");
}

#[tokio::test]
async fn calls_are_cancelled_without_harm() {
    let etcd = Etcd::start().await;
    let store = store_on(&etcd).await;
    store.grant(lease(8), Duration::from_secs(60), LONG).await.unwrap();
    for i in 0..200_u64 {
        let at = Duration::from_micros(i * 5);
        let read = store.get(Get::key("k"), LONG);
        let _ = tokio::time::timeout(at, read).await;
        let _ = tokio::time::timeout(at, store.keep_alive(lease(8), LONG)).await;
    }
    assert_eq!(store.keep_alive(lease(8), LONG).await.unwrap().ttl, Duration::from_secs(60));
    put(&store, "k", "v").await.unwrap();
}
