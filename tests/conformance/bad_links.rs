//! Nodes whose link to a real etcd is slow or deaf in one direction, while all other nodes have a good link
//! (I8).
//!
//! A proxy is the bad link: requests of the node reach etcd and take effect, and the answers come too late for
//! the node to act, or never. Such a node would keep its place for ever without R13 (useless office is given
//! up), R14 (useless ownership of shards is given up) and R16 (an incarnation with unanswered renewals is given
//! up).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::{
    engine::{Failover, Role, ShardId},
    node::{ShardContext, WorkerOptions},
};

use crate::{
    rig::{Rig, Running, SOON, Spec},
    support::{eventually, proxy::Fault},
};

/// Number of runs of the new leader's routine during which the old leader must not take the office back.
const RUNS: u64 = 150;

/// A delay in each direction that is too long for a leader of that profile.
fn slow(failover: Failover) -> Fault {
    Fault::Delay(failover.d().mul_f64(0.6))
}

async fn useless_leader_makes_room(rig: Rig, failover: Failover, fault: Fault) {
    let proxy = rig.proxy().await;
    let first = rig.start_with(Spec::new(1).failover(failover).through(&proxy)).await;
    first.until_led().await;
    let second = rig.start_with(Spec::new(2).failover(failover)).await;
    proxy.set(fault);
    // Only a deaf link shows this for certain. With a slow link the suspension may be visible for a moment
    // only: a late beat may arrive just when the leader is deposed.
    if fault == Fault::CutToClient {
        eventually("the second sees that the leader is suspended", SOON, async || {
            let leader = second.status().await.unwrap().leader?;
            (leader.suspended && leader.id.get() == 1).then_some(())
        })
        .await;
    }
    second.until_leader().await;
    second.until_led().await;
    let suspended = first.metric_of("bellwether_transitions_total", "suspended");
    assert!(1.0 <= suspended, "the first knew that it could not act: {suspended}");
    let leader = second.status().await.unwrap().leader.unwrap();
    assert_eq!((leader.id.get(), leader.suspended), (2, false));
    stays_so(&second).await;
    assert_ne!(first.role(), Role::Leader);
    proxy.set(Fault::None);
    proxy.reset();
    first.until("it follows again", |now| now.joined && now.role == Role::Follower).await;
    first.close().await.unwrap();
    second.close().await.unwrap();
}

/// Checks that the leader keeps its term for many runs of its routine.
async fn stays_so(leader: &Running) {
    let (term, runs) = (leader.membership().borrow().term, leader.led());
    eventually("many runs", SOON, async || (runs + RUNS < leader.led()).then_some(())).await;
    assert_eq!(leader.membership().borrow().term, term, "the same term goes on");
}

type Desk = Arc<Mutex<BTreeMap<ShardId, Vec<i64>>>>;

fn worker(desk: &Desk, id: i64) -> WorkerOptions {
    let desk = Arc::clone(desk);
    let work = move |shard: ShardId, ctx: ShardContext| {
        let desk = Arc::clone(&desk);
        async move {
            desk.lock().unwrap().entry(shard).or_default().push(id);
            ctx.cancelled().await;
            desk.lock().unwrap().entry(shard).or_default().retain(|at| *at != id);
            Ok(())
        }
    };
    WorkerOptions::new("w", work).shards(8)
}

async fn useless_owner_makes_room(rig: Rig, failover: Failover, fault: Fault) {
    let desk = Desk::default();
    let proxy = rig.proxy().await;
    let spec = |id| Spec::new(id).failover(failover).worker(worker(&desk, id));
    let count = |id: i64| desk.lock().unwrap().values().filter(|at| **at == [id]).count();
    let leader = rig.start_with(spec(1)).await;
    leader.until_led().await;
    let bad = rig.start_with(spec(2).through(&proxy)).await;
    eventually("the only follower has all", SOON, async || (count(2) == 8).then_some(())).await;
    let well = rig.start_with(spec(3)).await;
    eventually("two share", SOON, async || (count(2) == 4 && count(3) == 4).then_some(())).await;
    proxy.set(fault);
    eventually("the other one has all", SOON, async || (count(3) == 8).then_some(())).await;
    stays_so(&leader).await;
    assert_eq!(count(3), 8, "nothing went back to the node with the bad link");
    proxy.set(Fault::None);
    proxy.reset();
    eventually("two share again", SOON, async || (count(2) == 4 && count(3) == 4).then_some(()))
        .await;
    for node in [bad, well, leader] {
        node.close().await.unwrap();
    }
}

pub async fn a_leader_with_a_slow_link_makes_room(rig: Rig) {
    useless_leader_makes_room(rig, Failover::DEFAULT, slow(Failover::DEFAULT)).await;
}

pub async fn a_fast_leader_with_a_slow_link_makes_room(rig: Rig) {
    useless_leader_makes_room(rig, Failover::FAST, slow(Failover::FAST)).await;
}

pub async fn a_leader_that_hears_no_answers_makes_room(rig: Rig) {
    useless_leader_makes_room(rig, Failover::DEFAULT, Fault::CutToClient).await;
}

pub async fn a_fast_leader_that_hears_no_answers_makes_room(rig: Rig) {
    useless_leader_makes_room(rig, Failover::FAST, Fault::CutToClient).await;
}

pub async fn an_owner_with_a_slow_link_makes_room(rig: Rig) {
    // Longer than the node's shard authority, which is derived from the time to live.
    let fault = Fault::Delay(Duration::from_millis(2_600));
    useless_owner_makes_room(rig, Failover::DEFAULT, fault).await;
}

pub async fn an_owner_that_hears_no_answers_makes_room(rig: Rig) {
    useless_owner_makes_room(rig, Failover::DEFAULT, Fault::CutToClient).await;
}

pub async fn a_fast_owner_that_hears_no_answers_makes_room(rig: Rig) {
    useless_owner_makes_room(rig, Failover::FAST, Fault::CutToClient).await;
}
