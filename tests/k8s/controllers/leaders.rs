//! Reconcilers run only on the leader, and end when it leaves office.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bellwether::{
    clock,
    engine::{LeaseId, Role, Term},
    k8s::{
        cache::Scope,
        controller::{Action, Context, Controller},
        crd::{Election, election::ElectionStatus, value::UnixMs},
        k8s_openapi::api::core::v1::ConfigMap,
        kube::Api,
        operator::Operator,
    },
    node::{
        ClusterNode, LeaderContext, Stopped,
        work::{LeaderTask, WorkError},
    },
    store::{Store as _, memory::Fault},
    tasks,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::replicas::{Cluster, Ledger, SOON};
use crate::support::eventually;

/// Controller whose runs take a while, and end when they are cancelled.
fn slow(
    cluster: &Cluster<'_>,
    ledger: &Ledger,
    node: i64,
    at_once: usize,
) -> Controller<ConfigMap> {
    let ledger = ledger.clone();
    Controller::new(move |map: Arc<ConfigMap>, ctx: Context| {
        let open = ledger.begin(node, &map);
        async move {
            let _ = ctx
                .token()
                .run_until_cancelled(tokio::time::sleep(Duration::from_millis(20)))
                .await;
            drop(open);
            Ok(Action::requeue_after(Duration::from_millis(1)))
        }
    })
    .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"))
    .at_once(at_once)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_looks_at_every_object_and_the_former_leader_at_none() {
    let cluster = Cluster::new("successor").await;
    let ledger = Ledger::default();
    for name in ["a", "b", "c"] {
        cluster.make(name).await;
    }
    let first = cluster.replica(0, |it| it.controller(slow(&cluster, &ledger, 0, 2))).await;
    first.is(Role::Leader).await;
    let second = cluster.replica(1, |it| it.controller(slow(&cluster, &ledger, 1, 2))).await;
    ledger.until("c", 2).await;
    assert!(ledger.runs().iter().all(|run| run.node == 0), "the follower works");

    assert_eq!(first.stop().await, Stopped::Clean);
    second.is(Role::Leader).await;
    let before = ledger.count();
    eventually("all are looked at by the second", SOON, async || {
        let runs = ledger.runs().split_off(before);
        ["a", "b", "c"].iter().all(|name| runs.iter().any(|run| run.object == *name)).then_some(())
    })
    .await;
    let runs = ledger.runs();
    let handed_over = runs.iter().position(|run| run.node == 1).unwrap();
    assert!(runs[handed_over..].iter().all(|run| run.node == 1), "the former leader still works");
    ledger.assert_no_overlap();
    second.stop().await;
}

/// The test plan of KEP-5366, and more: 500 terms in one process, with runs in flight at the end of each.
#[tokio::test(flavor = "multi_thread")]
async fn office_lost_and_regained_500_times_leaves_one_loop_and_no_tasks() {
    const TERMS: usize = 500;
    let cluster = Cluster::new("again").await;
    let ledger = Ledger::default();
    for name in ["a", "b", "c", "d"] {
        cluster.make(name).await;
    }
    let replicas = [
        cluster.replica(0, |it| it.controller(slow(&cluster, &ledger, 0, 3))).await,
        cluster.replica(1, |it| it.controller(slow(&cluster, &ledger, 1, 3))).await,
    ];
    let metrics = tokio::runtime::Handle::current().metrics();
    let mut tasks_after_warming_up = 0;
    for term in 0..TERMS {
        let leader = eventually("somebody leads and works", SOON, async || {
            (ledger.open() > 0).then_some(())?;
            replicas.iter().find(|it| it.node.membership().borrow().role == Role::Leader)
        })
        .await;
        let before = ledger.count();
        leader.node.resign().await.unwrap();
        let id = leader.node.id().get();
        eventually("the other one works", SOON, async || {
            ledger.runs()[before..].iter().find(|run| run.node != id).map(|_| ())
        })
        .await;
        if term == TERMS / 10 {
            tasks_after_warming_up = metrics.num_alive_tasks();
        }
    }
    ledger.assert_no_overlap();
    eventually("no task is left of former terms", SOON, async || {
        (metrics.num_alive_tasks() <= tasks_after_warming_up + 8).then_some(())
    })
    .await;
    for replica in replicas {
        assert_eq!(replica.stop().await, Stopped::Clean);
    }
    assert_eq!(ledger.open(), 0, "runs go on after the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_run_of_a_lost_term_is_waited_for_before_the_next_begins() {
    let cluster = Cluster::new("blocking").await;
    cluster.make("a").await;
    let (blocked, running) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (block, now) = (Arc::clone(&blocked), Arc::clone(&running));
    let most = Arc::new(AtomicUsize::new(0));
    let at_most = Arc::clone(&most);
    let controller = Controller::<ConfigMap>::new(move |_: Arc<ConfigMap>, _: Context| {
        let (block, now, most) = (Arc::clone(&block), Arc::clone(&now), Arc::clone(&at_most));
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            if block.fetch_add(1, SeqCst) == 0 {
                // Code that does not await cannot be aborted.
                std::thread::sleep(Duration::from_millis(1500));
            }
            now.fetch_sub(1, SeqCst);
            Ok(Action::requeue_after(Duration::from_millis(1)))
        }
    })
    .scope(Scope::namespace(cluster.space.name.clone()).labels("reconciled=yes"));
    let replica = cluster.replica(0, |it| it.controller(controller)).await;
    eventually("it blocks", SOON, async || (blocked.load(SeqCst) == 1).then_some(())).await;
    replica.node.resign().await.unwrap();
    eventually("the next term works", SOON, async || (blocked.load(SeqCst) > 2).then_some(()))
        .await;
    assert_eq!(most.load(SeqCst), 1);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_election_object_names_leader_nodes_and_the_reason_of_the_take_over() {
    let cluster = Cluster::new("election").await;
    let ledger = Ledger::default();
    let first = cluster.replica(0, |it| it.controller(slow(&cluster, &ledger, 0, 1))).await;
    first.is(Role::Leader).await;
    let second = cluster.replica(1, |it| it.controller(slow(&cluster, &ledger, 1, 1))).await;
    let elections = Api::<Election>::default_namespaced(cluster.space.client());
    let led_by = async |node: i64, nodes: i32| {
        eventually("the status is written", SOON, async || {
            let status = elections.get_opt("test").await.unwrap()?.status?;
            let leader = status.leader.as_ref()?.node;
            (leader == node && status.node_count == Some(nodes)).then_some(status)
        })
        .await
    };
    let before = led_by(0, 2).await;
    // Times of conditions are whole seconds.
    let seconds = || clock::unix_ms() / 1000;
    let now = seconds();
    eventually("the next second", SOON, async || (now < seconds()).then_some(())).await;
    first.stop().await;
    let after = led_by(1, 1).await;
    assert!(before.fence < after.fence, "{:?} {:?}", before.fence, after.fence);
    assert!(before.term < after.term);
    let ready_since = |status: &ElectionStatus| {
        let ready = status.conditions.iter().find(|it| it.type_ == "Ready").unwrap().clone();
        (ready.status, ready.last_transition_time)
    };
    assert_eq!(ready_since(&before), ready_since(&after), "a leader that hands over");
    let events = eventually("the event is written", SOON, async || {
        let events = cluster.space.kubectl(&[
            "get",
            "events",
            "--output=custom-columns=R:.reason,N:.note,M:.message",
        ]);
        events.contains("node 1 took office").then_some(events)
    })
    .await;
    assert!(events.contains("LeaderElected"), "{events}");
    assert!(events.contains("had ended term"), "{events}");
    let table = cluster.space.kubectl(&["get", "elections"]);
    assert!(
        table.starts_with("NAME") && table.contains("LEADER") && table.contains("node 1"),
        "{table}"
    );
    second.stop().await;
}

/// The `Election` of the tests, and the status of its condition `Ready`.
async fn election_of(cluster: &Cluster<'_>) -> Option<(Election, String)> {
    let elections = Api::<Election>::default_namespaced(cluster.space.client());
    let election = elections.get_opt("test").await.unwrap()?;
    let conditions = election.status.as_ref()?.conditions.clone();
    let ready = conditions.iter().find(|it| it.type_ == "Ready")?.status.clone();
    Some((election, ready))
}

async fn events_say(cluster: &Cluster<'_>, words: &str) {
    eventually(&format!("an event says {words}"), SOON, async || {
        let columns = "--output=custom-columns=R:.reason,T:.type,M:.message";
        let events = cluster.space.kubectl(&["get", "events", columns]);
        events.contains(words).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_without_a_successor_says_that_no_node_leads() {
    let cluster = Cluster::new("nobody-left").await;
    let ledger = Ledger::default();
    let only = cluster.replica(0, |it| it.controller(slow(&cluster, &ledger, 0, 1))).await;
    only.is(Role::Leader).await;
    let before = eventually("the leader is named", SOON, async || {
        let (election, ready) = election_of(&cluster).await?;
        let status = election.status?;
        (status.leader.is_some() && ready == "True").then_some(status)
    })
    .await;
    assert_eq!(only.stop().await, Stopped::Clean);
    // The report is written before the process ends.
    let (election, ready) = election_of(&cluster).await.unwrap();
    let status = election.status.unwrap();
    assert_eq!((&status.leader, ready.as_str()), (&None, "False"));
    assert_eq!((status.term, status.fence), (before.term, before.fence));
    assert_eq!((status.node_count, &status.shards), (Some(0), &None));
    assert!(before.reported_at <= status.reported_at && status.reported_at.is_some());
    events_say(&cluster, "NoLeader").await;

    let next = cluster.replica(1, |it| it.controller(slow(&cluster, &ledger, 1, 1))).await;
    eventually("the next leader is named", SOON, async || {
        let (election, ready) = election_of(&cluster).await?;
        let leader = election.status?.leader?;
        (leader.node == 1 && ready == "True").then_some(())
    })
    .await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_loses_its_store_says_that_it_is_not_known_who_leads() {
    let cluster = Cluster::new("not-known").await;
    let ledger = Ledger::default();
    let replica = cluster.replica(0, |it| it.controller(slow(&cluster, &ledger, 0, 1))).await;
    replica.is(Role::Leader).await;
    let is_named = async || {
        let (election, ready) = election_of(&cluster).await?;
        (election.status?.leader.is_some() && ready == "True").then_some(())
    };
    eventually("the leader is named", SOON, is_named).await;

    cluster.store.faults().set(|_| Some(Fault::Unreachable));
    cluster.store.faults().stall_watches();
    let status = eventually("it is not known who leads", SOON, async || {
        let (election, ready) = election_of(&cluster).await?;
        (ready == "Unknown").then_some(election.status?)
    })
    .await;
    assert_eq!((&status.leader, status.node_count), (&None, None));
    assert!(status.nodes.is_empty() && status.shards.is_none() && status.term.is_some());
    events_say(&cluster, "LeaderLost").await;

    cluster.store.faults().clear();
    cluster.store.faults().resume_watches();
    eventually("the leader is named again", SOON, is_named).await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_lease_is_gone_does_not_write_over_its_successor() {
    let cluster = Cluster::new("lease-gone").await;
    let ledger = Ledger::default();
    let first = cluster.replica(0, |it| it.controller(slow(&cluster, &ledger, 0, 1))).await;
    first.is(Role::Leader).await;
    let second = cluster.replica(1, |it| it.controller(slow(&cluster, &ledger, 1, 1))).await;
    let led_by = async |node: i64| {
        eventually("the leader is named", SOON, async || {
            let status = election_of(&cluster).await?.0.status?;
            (status.leader.as_ref()?.node == node).then_some(status)
        })
        .await
    };
    let before = led_by(0).await;
    // The lease of the leader is gone, and with it the leader's place in the queue.
    let lease = &before.nodes.iter().find(|node| node.id == 0).unwrap().incarnation;
    let lease = LeaseId(i64::from_str_radix(lease, 16).unwrap());
    cluster.store.revoke(lease, SOON).await.unwrap();
    second.is(Role::Leader).await;
    let after = led_by(1).await;
    assert!(before.fence < after.fence, "{:?} {:?}", before.fence, after.fence);
    first.stop().await;
    let (election, ready) = election_of(&cluster).await.unwrap();
    assert_eq!((election.status.unwrap().leader.unwrap().node, &*ready), (1, "True"));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_in_which_nothing_changes_is_reported_again() {
    let cluster = Cluster::new("again-reported").await;
    let ledger = Ledger::default();
    let replica = cluster.replica(0, |it| it.controller(slow(&cluster, &ledger, 0, 1))).await;
    let reported_after = async |former: Option<UnixMs>| {
        eventually(&format!("it is reported after {former:?}"), SOON, async || {
            let status = election_of(&cluster).await?.0.status?;
            (former < status.reported_at && status.leader.is_some()).then_some(status)
        })
        .await
    };
    let first = reported_after(None).await;
    let again = reported_after(first.reported_at).await;
    assert_eq!((again.leader, again.term, again.fence), (first.leader, first.term, first.fence));
    replica.stop().await;
}

/// Leader task that sends the term in which it starts.
struct Says(mpsc::Sender<Term>);

#[async_trait]
impl LeaderTask for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        self.0.send(ctx.term()).await?;
        ctx.token().cancelled().await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_controllers_runs_its_leaders_task() {
    let cluster = Cluster::new("tasks-only").await;
    let (says, mut said) = mpsc::channel(1);
    let node = ClusterNode::builder().cluster("test").id(0).memory(&cluster.store);
    let operator = Operator::new(node, cluster.space.client(), cluster.election());
    let stop = CancellationToken::new();
    let running = operator.leader_task(Says(says)).run(stop.clone().cancelled_owned());
    let running = tasks::spawn("operator", running);
    let term = tokio::time::timeout(SOON, said.recv()).await.unwrap();
    assert!(term.is_some());
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap(), Stopped::Clean);
}
