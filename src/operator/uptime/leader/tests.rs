use super::*;
use crate::{
    engine::{ShardEpoch, ShardId},
    k8s::authority::tests::leading,
    node::{ClusterNode, Node as _},
    operator::uptime::{
        Check, Uptime, UptimeOptions,
        probe::Verdict,
        resource::State,
        result::{CheckResult, result_key},
        testing,
    },
};

const SHARDS: u32 = 4;
const HOUR: Duration = Duration::from_secs(3600);

/// A node that leads, with the dependencies of its leader task, and checks that can be changed.
struct Fixture {
    node: ClusterNode,
    ctx: LeaderContext,
    checks: watch::Sender<Arc<Checks>>,
    uptime: Uptime,
    feed: Feed,
}

impl Fixture {
    async fn of(checks: &[&str]) -> Self {
        let (node, ctx) = leading().await;
        let checks = watch::Sender::new(Arc::new(all(checks)));
        let options = UptimeOptions { shards: SHARDS, ..UptimeOptions::default() };
        let uptime = Uptime::new(checks.subscribe(), options);
        let feed = Feed::new(Arc::clone(ctx.node()), uptime.leader_task().metrics);
        Self { node, ctx, checks, uptime, feed }
    }

    /// Publishes a result, as if a node had run the check.
    async fn ran(&mut self, name: &str, verdict: Verdict) {
        let (check, now) = (testing::check(name, 3600), clock::unix_ms());
        let result = CheckResult {
            spec: check.spec_hash(),
            generation: None,
            due_unix_ms: check.timing().slot_at(now).0,
            ran_unix_ms: now,
            epoch: ShardEpoch(1),
            verdict,
            latency_us: None,
            certificate_expires: None,
            message: String::new(),
            failures: u32::from(verdict == Verdict::Down),
            after_unix_ms: None,
        };
        let json = serde_json::to_vec(&result).unwrap();
        self.node.put(&result_key(ShardId(0), check.key()), &json).await.unwrap();
        let found = |feed: &Feed| feed.results().newest(&check, now).map(|found| found.result);
        while found(&self.feed).as_ref() != Some(&result) {
            self.feed.wait().await.unwrap();
        }
    }

    /// Deletes the results of these checks, as if the nodes that ran them had left.
    async fn nodes_leave(&mut self, names: &[&str]) {
        for name in names {
            let check = testing::check(name, 3600);
            self.node.delete(&result_key(ShardId(0), check.key())).await.unwrap();
            while self.feed.results().newest(&check, 0).is_some() {
                self.feed.wait().await.unwrap();
            }
        }
    }

    fn changes(&self) -> u64 {
        let changes = &self.uptime.leader_task().metrics.changes;
        ["up", "down", "unknown"]
            .map(|state| changes.with_label_values(&[state]).get())
            .iter()
            .sum()
    }
}

fn all(names: &[&str]) -> Checks {
    Checks::of(names.iter().map(|name| testing::check(name, 3600)))
}

fn states(state: &LeaderState<'_>) -> Vec<(String, State, Option<u64>)> {
    let of = |(key, stored): (&CheckKey, &Stored)| {
        let status = &stored.status;
        (key.name.to_string(), status.state, status.last_change.map(|at| at.0))
    };
    state.statuses.iter().map(of).collect()
}

#[tokio::test]
async fn a_leader_whose_authority_is_over_tells_of_no_change() {
    let mut fixture = Fixture::of(&["a"]).await;
    let (ctx, gate) = fixture.ctx.apart();
    gate.extend(BootTime(clock::boot_now().0 + HOUR));
    fixture.ran("a", Verdict::Up).await;
    let leader = fixture.uptime.leader_task();
    let checks = Arc::clone(&leader.checks.borrow());
    let mut state = LeaderState::open(&leader, &ctx).await.unwrap();
    state.look(&checks, &fixture.feed).await.unwrap();
    assert_eq!(fixture.changes(), 1);
    let (report, before) = (leader.report.subscribe(), states(&state));
    let shown = Arc::clone(&report.borrow());
    fixture.ran("a", Verdict::Down).await;
    // The process was suspended, and does not know yet that another node leads.
    gate.extend(BootTime(Duration::ZERO));
    let error = state.look(&checks, &fixture.feed).await.unwrap_err();
    assert!(error.is_stale(), "{error}");
    assert_eq!((fixture.changes(), states(&state)), (1, before));
    assert_eq!(*report.borrow(), shown);
    fixture.node.close().await.unwrap();
}

#[tokio::test]
async fn a_leader_that_leaves_hands_on_what_it_knew_though_nothing_changed() {
    let mut fixture = Fixture::of(&["a"]).await;
    let (leader, ctx) = (fixture.uptime.leader_task(), fixture.ctx.clone());
    let checks = Arc::clone(&leader.checks.borrow());
    fixture.ran("a", Verdict::Up).await;
    let last_run =
        |state: &LeaderState<'_>| state.statuses.values().next().unwrap().status.last_run;
    let mut first = LeaderState::open(&leader, &ctx).await.unwrap();
    first.look(&checks, &fixture.feed).await.unwrap();
    fixture.ran("a", Verdict::Up).await;
    first.look(&checks, &fixture.feed).await.unwrap();
    first.leave().await.unwrap();
    fixture.nodes_leave(&["a"]).await;
    let mut next = LeaderState::open(&leader, &ctx).await.unwrap();
    next.look(&checks, &fixture.feed).await.unwrap();
    assert_eq!(last_run(&next), last_run(&first));
    assert_eq!((states(&next), fixture.changes()), (states(&first), 1));
    fixture.node.close().await.unwrap();
}

#[tokio::test]
async fn the_status_of_a_check_that_a_leader_does_not_see_yet_is_there_when_it_does() {
    let mut fixture = Fixture::of(&["a", "b", "c", "d", "e"]).await;
    let leader = fixture.uptime.leader_task();
    let every = Arc::clone(&leader.checks.borrow());
    for check in every.checks.keys() {
        fixture.ran(&check.name, Verdict::Up).await;
    }
    let mut first = LeaderState::open(&leader, &fixture.ctx).await.unwrap();
    first.look(&every, &fixture.feed).await.unwrap();
    let before = states(&first);
    fixture.nodes_leave(&["a", "b", "c", "d", "e"]).await;
    // The second leader sees only one check at first; the third begins from what the second stored.
    let few = Arc::new(all(&["a"]));
    fixture.checks.send_replace(Arc::clone(&few));
    let mut second = LeaderState::open(&leader, &fixture.ctx).await.unwrap();
    second.look(&few, &fixture.feed).await.unwrap();
    assert_eq!(states(&second).len(), 1);
    second.look(&every, &fixture.feed).await.unwrap();
    assert_eq!(states(&second), before);
    second.look(&few, &fixture.feed).await.unwrap();
    second.leave().await.unwrap();
    let mut third = LeaderState::open(&leader, &fixture.ctx).await.unwrap();
    third.look(&every, &fixture.feed).await.unwrap();
    assert_eq!((states(&third), fixture.changes()), (before, 5));
    fixture.node.close().await.unwrap();
}

#[tokio::test]
async fn a_check_that_was_made_again_with_another_spec_begins_anew() {
    let mut fixture = Fixture::of(&["a"]).await;
    let leader = fixture.uptime.leader_task();
    let checks = Arc::clone(&leader.checks.borrow());
    fixture.ran("a", Verdict::Up).await;
    let mut state = LeaderState::open(&leader, &fixture.ctx).await.unwrap();
    state.look(&checks, &fixture.feed).await.unwrap();
    state.look(&Checks::default(), &fixture.feed).await.unwrap();
    let other = Checks::of([testing::check("a", 1800)]);
    state.look(&other, &fixture.feed).await.unwrap();
    assert_eq!(states(&state), [("a".to_owned(), State::Unknown, None)]);
    fixture.node.close().await.unwrap();
}

/// Version 0.1 used another hash of names and one shard less, and stored statuses under other keys.
#[tokio::test]
async fn the_statuses_that_version_0_1_stored_are_gone_on_from() {
    let fixture = Fixture::of(&["a", "b"]).await;
    let leader = fixture.uptime.leader_task();
    let checks = Arc::clone(&leader.checks.borrow());
    let stored = |check: &Arc<Check>| {
        let mut stored = Stored { spec: check.spec_hash(), ..Stored::default() };
        stored.status.state = State::Up;
        stored.status.last_run = Some(crate::operator::uptime::value::UnixMs(clock::unix_ms()));
        stored.status.last_change = Some(crate::operator::uptime::value::UnixMs(7));
        stored
    };
    let mut by_shard: BTreeMap<ShardId, Statuses> = BTreeMap::new();
    for (key, check) in &checks.checks {
        let shard = by_shard.entry(check.former_shard(SHARDS)).or_default();
        shard.insert(key.clone(), stored(check));
    }
    for (shard, statuses) in by_shard {
        let json = serde_json::to_vec(&statuses).unwrap();
        fixture.ctx.fenced().put(&format!("uptime/status/{shard}"), json).await.unwrap();
    }
    let mut state = LeaderState::open(&leader, &fixture.ctx).await.unwrap();
    state.look(&checks, &fixture.feed).await.unwrap();
    let as_before = |name: &str| (name.to_owned(), State::Up, Some(7));
    assert_eq!(states(&state), [as_before("a"), as_before("b")]);
    assert_eq!(fixture.changes(), 0);
    fixture.node.close().await.unwrap();
}
