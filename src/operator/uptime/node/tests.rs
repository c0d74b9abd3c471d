//! Whole nodes on one memory store, in real time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;

use super::*;
use crate::{
    engine::Holder,
    eventually::eventually,
    node::{ClusterNode, WorkerOptions},
    operator::uptime::{
        Check, CheckKey, WORK,
        probe::{Probed, Verdict},
        resource::State,
        testing, worker_options,
    },
    store::memory::MemoryStore,
    tasks::Tasks,
};

const SHARDS: u32 = 8;
const DEADLINE: Duration = Duration::from_secs(30);

/// Records the slot of every run. The check `down` is down, all others are up.
#[derive(Debug, Default)]
struct Target {
    runs: Mutex<Vec<(CheckKey, u64)>>,
    /// Whether runs hang instead of ending.
    hangs: AtomicBool,
}

#[async_trait]
impl Probe for Target {
    async fn run(&self, check: &Check) -> Probed {
        let slot = check.timing().slot_at(clock::unix_ms());
        self.runs.lock().unwrap().push((check.key().clone(), slot.0));
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let is_down = &*check.key().name == "down";
        Probed {
            verdict: if is_down { Verdict::Down } else { Verdict::Up },
            latency: Some(Duration::from_millis(20)),
            certificate_expires: None,
            message: if is_down { "refused" } else { "well" }.to_owned(),
        }
    }
}

impl Target {
    /// Slots that were run, by check. Panics if a slot was run twice.
    fn slots(&self) -> BTreeMap<CheckKey, BTreeSet<u64>> {
        let mut slots: BTreeMap<CheckKey, BTreeSet<u64>> = BTreeMap::new();
        for (check, slot) in self.runs.lock().unwrap().iter() {
            let is_new = slots.entry(check.clone()).or_default().insert(*slot);
            assert!(is_new, "slot {slot} of {check} was run twice");
        }
        slots
    }
}

struct Member {
    node: Arc<dyn Node>,
    uptime: Uptime,
    cancel: CancellationToken,
    tasks: Tasks,
}

impl Member {
    async fn start(node: Arc<dyn Node>, uptime: Uptime) -> Self {
        node.start().await.unwrap();
        let mut tasks = Tasks::new();
        let cancel = CancellationToken::new();
        let (follows, of, token) = (uptime.clone(), Arc::clone(&node), cancel.clone());
        tasks.spawn("follow", async move { follows.follow(of, token).await });
        Self { node, uptime, cancel, tasks }
    }

    fn report(&self) -> Arc<ChecksReport> {
        Arc::clone(&self.uptime.report().borrow())
    }

    fn leads(&self) -> bool {
        *self.uptime.leader.leading.borrow()
    }

    fn missed(&self) -> u64 {
        self.uptime.leader.metrics.missed.get()
    }

    async fn stop(mut self) {
        self.node.stop(Duration::from_secs(10)).await.unwrap();
        self.cancel.cancel();
        self.tasks.join_all().await;
        self.node.close().await.unwrap();
    }
}

/// Nodes of one cluster, with their store and target.
struct Cluster {
    store: Arc<MemoryStore>,
    target: Arc<Target>,
    checks: watch::Sender<Arc<Checks>>,
    members: Vec<Member>,
}

impl Cluster {
    async fn of(members: i64) -> Self {
        let names = ["down", "a", "b", "c", "d", "e"];
        Self::with(members, Checks::of(names.map(|name| testing::check(name, 1)))).await
    }

    async fn with(members: i64, checks: Checks) -> Self {
        let mut cluster = Self {
            store: Arc::default(),
            target: Arc::default(),
            checks: watch::Sender::new(Arc::new(checks)),
            members: Vec::new(),
        };
        for id in 0..members {
            cluster.join(id).await;
        }
        cluster
    }

    fn uptime(&self, cut_by: CutBy) -> Uptime {
        let probe: Arc<Target> = Arc::clone(&self.target);
        let options = UptimeOptions { shards: SHARDS, cut_by, probe, ..UptimeOptions::default() };
        Uptime::new(self.checks.subscribe(), options)
    }

    async fn join(&mut self, id: i64) {
        self.join_with(id, CutBy::Names).await;
    }

    async fn join_with(&mut self, id: i64, cut_by: CutBy) {
        let uptime = self.uptime(cut_by);
        let store: Arc<MemoryStore> = Arc::clone(&self.store);
        let node = ClusterNode::builder()
            .id(id)
            .address(format!("node-{id}"))
            .cluster("test")
            .store(store)
            .worker(worker_options(&uptime))
            .leader_task(uptime.leader_task())
            .build()
            .unwrap();
        self.members.push(Member::start(Arc::new(node), uptime).await);
    }

    /// Waits until `holds` is true for the members.
    async fn eventually(&self, what: &str, holds: impl Fn(&[Member]) -> bool) {
        let waited = tokio::time::timeout(DEADLINE, async {
            while !holds(&self.members) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if waited.await.is_err() {
            let reports: Vec<_> = self.members.iter().map(Member::report).collect();
            panic!("never: {what}; {reports:#?}");
        }
    }

    fn leader(&self) -> usize {
        self.members.iter().position(Member::leads).expect("somebody leads")
    }

    async fn stop(self) {
        for member in self.members {
            member.stop().await;
        }
    }
}

/// Version 0.1 used another hash of names, with exactly the configured number of shards. See [`CutBy`].
#[test]
fn checks_that_are_cut_by_names_have_another_number_of_shards_than_version_0_1_had() {
    let (_, checks) = watch::channel(Arc::default());
    let cut = |cut_by| {
        let options = UptimeOptions { shards: SHARDS, cut_by, ..UptimeOptions::default() };
        Uptime::new(checks.clone(), options).shards()
    };
    assert_eq!((cut(CutBy::Names), cut(CutBy::Uids)), (SHARDS + 1, SHARDS));
}

#[test]
fn the_node_is_told_whether_it_runs_checks_while_it_leads_others() {
    let (_, checks) = watch::channel(Arc::default());
    for as_leader in [false, true] {
        let options = UptimeOptions { shards: SHARDS, as_leader, ..UptimeOptions::default() };
        let WorkerOptions { offer, .. } = worker_options(&Uptime::new(checks.clone(), options));
        assert_eq!((offer.work.as_str(), offer.shards), (WORK, SHARDS + 1));
        assert_eq!(offer.as_leader, as_leader);
    }
}

#[test]
fn no_more_checks_run_at_once_than_the_process_may_have_files_for() {
    let many = [Some(8), Some(60), Some(1024), Some(1 << 20), None].map(affordable);
    assert_eq!(many, [2, 15, 480, 524_256, (usize::MAX - 64) / 2]);
}

fn is_complete(report: &ChecksReport) -> bool {
    (report.summary.up, report.summary.down, report.summary.unknown) == (5, 1, 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_run_the_checks_and_every_node_shows_what_they_found() {
    let cluster = Cluster::of(3).await;
    cluster
        .eventually("all see all", |members| {
            members.iter().all(|member| is_complete(&member.report()))
        })
        .await;
    cluster.eventually("somebody leads", |members| members.iter().any(Member::leads)).await;
    let leader = &cluster.members[cluster.leader()];
    let report = leader.report();
    let id = leader.node.id().to_string();
    assert!(
        report.checks.iter().all(|check| check.checked_by.as_ref().is_some_and(|by| *by != id)),
        "{report:#?}"
    );
    let down = report.checks.iter().find(|check| check.name == "down").unwrap();
    assert_eq!((down.state, down.message.as_str()), (State::Down, "refused"));
    assert_eq!(report.changes.len(), 6);
    let changes = |member: &Member| member.report().changes.clone();
    cluster
        .eventually("followers are told the changes", |members| {
            members.iter().all(|member| changes(member).len() == 6)
        })
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_move_with_leaving_and_joining_nodes_without_a_slot_missed_or_run_twice() {
    let mut cluster = Cluster::of(3).await;
    cluster
        .eventually("all see all", |members| {
            members.iter().all(|member| is_complete(&member.report()))
        })
        .await;
    for id in 3..6 {
        // The oldest node, which leads, leaves and a new one joins: every shard is planned again.
        let leaver = cluster.members.remove(0);
        assert_eq!(leaver.missed(), 0);
        leaver.stop().await;
        cluster.join(id).await;
        cluster
            .eventually("all see all", |members| {
                members.iter().all(|member| is_complete(&member.report()))
                    && members.iter().any(Member::leads)
            })
            .await;
    }
    let missed: u64 = cluster.members.iter().map(Member::missed).sum();
    let ran: usize = cluster.target.slots().values().map(BTreeSet::len).sum();
    assert_eq!(missed, 0, "of {ran} slots");
    for (check, slots) in cluster.target.slots() {
        let (first, last) = (slots.first().unwrap(), slots.last().unwrap());
        assert_eq!((last - first) / 1000 + 1, slots.len() as u64, "{check} left a slot out");
    }
    cluster.stop().await;
}

/// Nodes that ran a check last, as the first member sees them.
fn checked_by(members: &[Member]) -> BTreeSet<String> {
    let report = members[0].report();
    report.checks.iter().filter_map(|check| check.checked_by.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_cut_checks_differently_never_run_them_side_by_side() {
    let mut cluster = Cluster::with(0, Checks::default()).await;
    // Only the number of shards of version 0.1 matters here, and `CutBy::Uids` has the same.
    for id in 0..2 {
        cluster.join_with(id, CutBy::Uids).await;
    }
    let names = ["down", "a", "b", "c", "d", "e"];
    let checks = Checks::of(names.map(|name| testing::check(name, 1)));
    cluster.checks.send_replace(Arc::new(checks));
    cluster.eventually("all is run", |members| is_complete(&members[0].report())).await;
    for id in [2, 3] {
        cluster.join(id).await;
        cluster
            .eventually("the new one sees all", |members| {
                members.iter().all(|member| is_complete(&member.report()))
            })
            .await;
        assert!(checked_by(&cluster.members).is_subset(&["0", "1"].map(String::from).into()));
        cluster.members.remove(0).stop().await;
    }
    // Either of the two leads, and the other one runs all checks.
    cluster
        .eventually("the new ones go on", |members| {
            let by = checked_by(members);
            is_complete(&members[0].report()) && by.is_subset(&["2", "3"].map(String::from).into())
        })
        .await;
    cluster.target.slots();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_hangs_when_its_node_is_stopped_has_a_result_of_the_next_owner_in_its_interval()
{
    let mut cluster = Cluster::with(2, Checks::default()).await;
    cluster.eventually("somebody leads", |members| members.iter().any(Member::leads)).await;
    let owner = 1 - cluster.leader();
    let id = Some(Holder::Node(cluster.members[owner].node.id()));
    eventually("the follower owns all shards", DEADLINE, async || {
        let work = cluster.members[owner].node.status().await.unwrap().work;
        let owns_all = work.iter().any(|work| work.held_by.iter().all(|held| *held == id));
        owns_all.then_some(())
    })
    .await;
    // A check whose interval has just begun, and lasts longer than everything that happens here.
    let has_begun = |check: &Check| {
        let now = clock::unix_ms();
        now - check.timing().slot_at(now).0 < 2000
    };
    let mut checks = (0..).map(|n| testing::check(&format!("check-{n}"), 120));
    let check = checks.find(has_begun).unwrap();
    cluster.target.hangs.store(true, Ordering::Relaxed);
    cluster.checks.send_replace(Arc::new(Checks::of([check.clone()])));
    let target = Arc::clone(&cluster.target);
    let runs = || target.runs.lock().unwrap().clone();
    cluster.eventually("it hangs", |_| runs().len() == 1).await;
    target.hangs.store(false, Ordering::Relaxed);
    let slot = runs()[0].1;
    let leaver = cluster.members.remove(owner);
    leaver.stop().await;
    cluster.eventually("it is up", |members| members[0].report().summary.up == 1).await;
    let key = check.key();
    assert_eq!(runs(), [(key.clone(), slot), (key.clone(), slot)]);
    assert_eq!(cluster.members[0].missed(), 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_goes_on_from_the_statuses_of_the_former_one() {
    let mut cluster = Cluster::of(3).await;
    cluster
        .eventually("the leader has seen all", |members| {
            members.iter().any(|member| member.leads() && is_complete(&member.report()))
        })
        .await;
    let at = cluster.leader();
    let before = cluster.members[at].report();
    let leaver = cluster.members.remove(at);
    leaver.stop().await;
    cluster
        .eventually("a new leader has seen all", |members| {
            members.iter().any(|member| member.leads() && is_complete(&member.report()))
        })
        .await;
    let after = cluster.members[cluster.leader()].report();
    let changes = |report: &ChecksReport| -> Vec<_> {
        report
            .checks
            .iter()
            .map(|check| (check.name.clone(), check.state, check.last_change_unix_ms))
            .collect()
    };
    assert_eq!(changes(&after), changes(&before));
    assert_eq!(after.changes, before.changes);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_knew_as_the_leader_is_not_there_to_be_written_in_its_next_term() {
    let cluster = Cluster::of(2).await;
    let known = |member: &Member| member.uptime.statuses().borrow().len();
    cluster
        .eventually("the leader knows all", |members| {
            members.iter().any(|member| member.leads() && known(member) == 6)
        })
        .await;
    let former = cluster.leader();
    cluster.members[former].node.resign().await.unwrap();
    cluster.eventually("the other one leads", |members| members[1 - former].leads()).await;
    assert_eq!(known(&cluster.members[former]), 0);
    assert_eq!(*cluster.members[former].uptime.summary().borrow(), None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_removed_leaves_nothing_behind() {
    let cluster = Cluster::of(2).await;
    cluster
        .eventually("all see all", |members| {
            members.iter().all(|member| is_complete(&member.report()))
        })
        .await;
    cluster.checks.send_replace(Arc::default());
    let node = &cluster.members[0].node;
    eventually("no result is left", DEADLINE, async || {
        let state = node.get_cluster(WORK).await.unwrap();
        state.values().flatten().all(|kv| kv.key == CHANGES).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_node_does_it_all_and_writes_the_status_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.yaml");
    let checks = watch::Sender::new(Arc::new(Checks::of([testing::check("down", 1)])));
    let options = UptimeOptions {
        shards: SHARDS,
        probe: Arc::new(Target::default()),
        status_file: Some(path.clone()),
        ..UptimeOptions::default()
    };
    let uptime = Uptime::new(checks.subscribe(), options);
    let node = ClusterNode::standalone()
        .id(1)
        .worker(worker_options(&uptime))
        .leader_task(uptime.leader_task())
        .build()
        .unwrap();
    let member = Member::start(Arc::new(node), uptime).await;
    eventually("the status file is written", DEADLINE, async || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.contains("state: down").then_some(())
    })
    .await;
    member.stop().await;
}
