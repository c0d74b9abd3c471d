use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::{
    engine::{Config, Failover, NodeId, StoreTiming, TickPolicy},
    node::{
        ClusterNode, FencedError, FollowerContext, LeaderContext, NodeMetrics, RoutineLimits,
        env::Env, host::DriverHost, options::Work,
    },
    store::{
        Get, Op, Store, Txn,
        keys::Keys,
        memory::{Fault, MemoryStore},
    },
};

/// Time limit, so that no test hangs.
const LONG: Duration = Duration::from_secs(60);

/// Driver whose turns the test starts.
struct Rig {
    driver: Driver,
    commands: mpsc::Sender<Command>,
    received: mpsc::Receiver<Command>,
}

impl Rig {
    fn new(campaigns: bool, work: Work) -> Self {
        Self::over(&Arc::new(MemoryStore::new()), campaigns, work)
    }

    fn over(store: &Arc<MemoryStore>, campaigns: bool, work: Work) -> Self {
        Self::waiting(store, campaigns, work, Duration::ZERO)
    }

    /// Driver whose `start` waits up to `id_wait` for its id.
    fn waiting(store: &Arc<MemoryStore>, campaigns: bool, work: Work, id_wait: Duration) -> Self {
        let options = NodeOptions {
            engine: Config {
                id: NodeId::new(1).unwrap(),
                address: "me:1".into(),
                ttl: Duration::from_secs(5),
                timing: StoreTiming::ETCD,
                failover: Failover::DEFAULT,
                tick: Duration::from_millis(50),
                tick_policy: TickPolicy::Strict,
                pod_uid: None,
                work: Vec::new(),
                campaigns,
                own_store: true,
                mutant: None,
            },
            env: Env {
                store: Arc::clone(store) as Arc<dyn Store>,
                keys: Keys::new("C").unwrap(),
                metrics: NodeMetrics::unregistered(),
                call_timeout: LONG,
            },
            work,
            limits: RoutineLimits { cancel_grace: LONG, ..RoutineLimits::default() },
            id_wait,
            host: DriverHost::new("at rest").unwrap(),
        };
        // The node has a driver of its own, which gets no commands.
        let node = ClusterNode::from_options(options.clone());
        let (commands, received) = mpsc::channel(8);
        let driver = Driver::new(Arc::clone(&node.shared), Arc::new(node), options);
        Self { driver, commands, received }
    }

    /// Runs one turn. The driver has carried out all that was due: the next turn may end only at the next
    /// deadline.
    async fn turn(&mut self) {
        let turn = self.driver.turn(&mut self.received);
        tokio::time::timeout(LONG, turn).await.expect("the driver looks up now and then");
        assert!(self.driver.inputs.is_empty(), "the engine waits for {:?}", self.driver.inputs);
        let left = self.driver.left.filter(|_| self.driver.work.is_idle());
        assert_eq!(left, None, "nothing is left to wait for");
    }

    async fn turns_until<T>(&mut self, answer: &mut oneshot::Receiver<T>) -> T {
        self.turns_until_some(|_| answer.try_recv().ok()).await
    }

    /// Runs turns until `look` returns a value.
    async fn turns_until_some<T>(&mut self, mut look: impl FnMut(&Driver) -> Option<T>) -> T {
        let until = clock::boot_now() + LONG;
        while clock::boot_now() < until {
            if let Some(found) = look(&self.driver) {
                return found;
            }
            self.turn().await;
        }
        panic!("it does not come");
    }

    fn start(&self) -> oneshot::Receiver<Result<(), StartError>> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(Command::Start { runtime: Handle::current(), reply }).unwrap();
        answer
    }

    fn stop(&self) -> oneshot::Receiver<Stopped> {
        let (reply, answer) = oneshot::channel();
        let deadline = clock::boot_now() + LONG * 10;
        self.commands.try_send(Command::Stop { deadline, reply }).unwrap();
        answer
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.driver.shared.abandoned.cancel();
    }
}

#[tokio::test]
async fn a_stop_is_answered_in_the_turn_in_which_the_engine_leaves() {
    let mut rig = Rig::new(true, Work::default());
    let mut started = rig.start();
    rig.turns_until(&mut started).await.unwrap();
    let mut stopped = rig.stop();
    assert_eq!(rig.turns_until(&mut stopped).await, Stopped::Clean);
    assert_eq!(rig.driver.phase, Phase::Rest);
}

#[tokio::test]
async fn a_stop_is_answered_in_the_turn_that_joins_the_last_work_and_not_before() {
    let (running, release) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (runs, may_end) = (Arc::clone(&running), Arc::clone(&release));
    let stubborn = move |_: FollowerContext| {
        let (runs, may_end) = (Arc::clone(&runs), Arc::clone(&may_end));
        async move {
            runs.store(true, Ordering::Relaxed);
            may_end.notified().await;
            Ok(())
        }
    };
    let work = Work { follower: Some(Arc::new(stubborn)), ..Work::default() };
    let mut rig = Rig::new(false, work);
    let mut started = rig.start();
    rig.turns_until(&mut started).await.unwrap();
    while !running.load(Ordering::Relaxed) {
        rig.turn().await;
    }
    let mut stopped = rig.stop();
    while rig.driver.left.is_none() {
        rig.turn().await;
        assert!(stopped.try_recv().is_err(), "its work still runs");
    }
    release.notify_one();
    assert_eq!(rig.turns_until(&mut stopped).await, Stopped::Clean);
}

/// A node that has joined and is asked to stop while the store denies everything.
async fn denied_stop(store: &Arc<MemoryStore>) -> (Rig, oneshot::Receiver<Stopped>) {
    let mut rig = Rig::over(store, true, Work::default());
    let mut started = rig.start();
    rig.turns_until(&mut started).await.unwrap();
    store.faults().set(|_| Some(Fault::Denied));
    let stopped = rig.stop();
    (rig, stopped)
}

#[tokio::test]
async fn a_stop_that_the_store_denies_is_answered_long_before_its_deadline() {
    let store = Arc::new(MemoryStore::new());
    // The deadline of the stop is ten times the time limit of this test.
    let (mut rig, mut stopped) = denied_stop(&store).await;
    assert_eq!(rig.turns_until(&mut stopped).await, Stopped::Unclean);
    assert_eq!(rig.driver.phase, Phase::Rest);
}

#[tokio::test]
async fn a_stop_that_the_store_denies_for_a_moment_is_clean() {
    let store = Arc::new(MemoryStore::new());
    let (mut rig, mut stopped) = denied_stop(&store).await;
    let is_denied = |driver: &Driver| {
        matches!(driver.phase, Phase::Leaving { denied_since: Some(_), .. }).then_some(())
    };
    rig.turns_until_some(is_denied).await;
    store.faults().clear();
    assert_eq!(rig.turns_until(&mut stopped).await, Stopped::Clean);
}

#[tokio::test]
async fn a_start_that_waits_for_a_leaving_begins_in_the_turn_in_which_it_ends() {
    let mut rig = Rig::new(true, Work::default());
    let mut started = rig.start();
    rig.turns_until(&mut started).await.unwrap();
    let (mut stopped, mut again) = (rig.stop(), rig.start());
    assert_eq!(rig.turns_until(&mut stopped).await, Stopped::Clean);
    assert_eq!(rig.driver.phase, Phase::Active);
    rig.turns_until(&mut again).await.unwrap();
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_is_tried_again_after_a_refusal() {
    let store = Arc::new(MemoryStore::new());
    let mut holder = Rig::over(&store, false, Work::default());
    let mut started = holder.start();
    holder.turns_until(&mut started).await.unwrap();
    let mut second = Rig::over(&store, false, Work::default());
    for _ in 0..3 {
        drop(second.start());
        second.turn().await;
    }
    assert_eq!(second.driver.starts.len(), 1, "only the last one may still be waited for");
    second.turns_until_some(|driver| driver.problem.as_ref().map(|_| ())).await;
    assert_eq!(second.driver.phase, Phase::Active);
    let mut stopped = holder.stop();
    assert_eq!(holder.turns_until(&mut stopped).await, Stopped::Clean);
    second.turns_until_some(|driver| driver.lease).await;
}

#[tokio::test]
async fn a_start_waits_for_the_holder_of_its_id_and_joins_once_that_has_left() {
    let store = Arc::new(MemoryStore::new());
    let mut holder = Rig::over(&store, false, Work::default());
    let mut started = holder.start();
    holder.turns_until(&mut started).await.unwrap();
    let mut second = Rig::waiting(&store, false, Work::default(), LONG);
    let mut joined = second.start();
    let said = second.turns_until_some(|driver| driver.problem.clone()).await;
    assert!(said.contains("waiting up to 60s for the id"), "{said}");
    assert!(said.contains("node id 1 is taken by a live node at \"me:1\""), "{said}");
    assert!(joined.try_recv().is_err(), "it waits");
    let mut stopped = holder.stop();
    assert_eq!(holder.turns_until(&mut stopped).await, Stopped::Clean);
    second.turns_until(&mut joined).await.unwrap();
    assert_eq!(second.driver.problem, None);
}

#[tokio::test]
async fn a_start_does_not_wait_longer_for_its_id_than_it_may_and_says_how_long_it_did() {
    let store = Arc::new(MemoryStore::new());
    let mut holder = Rig::over(&store, false, Work::default());
    let mut started = holder.start();
    holder.turns_until(&mut started).await.unwrap();
    let bound = Duration::from_millis(300);
    let mut second = Rig::waiting(&store, false, Work::default(), bound);
    // Each start waits for the full bound.
    for _ in 0..2 {
        let mut joined = second.start();
        let refused = second.turns_until(&mut joined).await.unwrap_err();
        let said = refused.to_string();
        let StartError::DuplicateId { id, address, holder, waited } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((id.get(), address.as_str(), holder.is_some()), (1, "me:1", true));
        assert!(bound <= waited, "{waited:?}");
        assert!(said.contains("has not ended within"), "{said}");
        assert_eq!(second.driver.phase, Phase::Rest);
    }
}

/// Panics when it is dropped, as a guard in user code may.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped on purpose");
    }
}

#[tokio::test]
async fn a_leader_whose_ticks_were_ended_by_a_panic_between_two_runs_is_unfit() {
    // The run overruns, is dropped, and its drop ends the runner by a panic.
    let tick = |_: LeaderContext| async {
        let _guard = PanicsOnDrop;
        std::future::pending().await
    };
    let work = Work { leader: Some(Arc::new(tick)), ..Work::default() };
    let mut rig = Rig::new(true, work);
    rig.driver.work.shorten_runs(Duration::from_millis(10));
    let mut started = rig.start();
    rig.turns_until(&mut started).await.unwrap();
    let because = rig.turns_until_some(|driver| driver.unfit.map(|unfit| unfit.because)).await;
    assert_eq!(because, UnfitBecause::Panics);
}

/// Leader, and the context of one of its ticks.
async fn leader() -> (Rig, LeaderContext) {
    let (contexts, mut told) = mpsc::channel(1);
    let tick = move |ctx: LeaderContext| {
        let _ = contexts.try_send(ctx);
        async { Ok(()) }
    };
    let work = Work { leader: Some(Arc::new(tick)), ..Work::default() };
    let mut rig = Rig::new(true, work);
    let mut started = rig.start();
    rig.turns_until(&mut started).await.unwrap();
    let ctx = rig.turns_until_some(|_| told.try_recv().ok()).await;
    (rig, ctx)
}

#[tokio::test]
async fn a_refused_write_of_the_leader_ends_its_term_without_waiting_for_a_beat() {
    let (mut rig, ctx) = leader().await;
    let env = &rig.driver.shared.env;
    let candidate = env.keys.candidate(rig.driver.lease.unwrap());
    let read = env.store.get(Get::key(candidate.as_slice()), LONG).await.unwrap();
    let lease = read.kvs[0].lease;
    let rewrite = Op::Put { key: candidate, value: read.kvs[0].value.clone(), lease };
    env.store.txn(Txn { then: vec![rewrite], ..Txn::default() }, LONG).await.unwrap();
    let refused = ctx.fenced().put("k", "v").await;
    assert!(matches!(refused, Err(FencedError::StaleTerm)), "{refused:?}");
    // The driver has had no turn since then: no beat was sent, and no change came.
    let item = tokio::time::timeout(LONG, rig.driver.work.next()).await.expect("it is told");
    rig.driver.on_work(item);
    rig.driver.settle();
    assert!(ctx.is_cancelled());
    assert_eq!(rig.driver.engine.authority(), None);
}

#[tokio::test]
async fn a_process_that_stood_still_is_not_taken_for_a_routine_that_hangs() {
    // The routine runs on this runtime, which gets no time from here on.
    let (mut rig, _ctx) = leader().await;
    let patience = rig.driver.work.pulse_due().unwrap().since(clock::boot_now());
    let second = Duration::from_secs(1);
    let mut now = clock::boot_now() + Duration::from_secs(3600);
    let woke = now;
    while rig.driver.work.on_time(now).is_none() {
        now = now + second;
        assert!(now.since(woke) < patience * 2, "it is silent, and the process runs");
    }
    assert!(patience < now.since(woke), "{:?} after it woke, for {patience:?}", now.since(woke));
}

#[tokio::test]
async fn a_node_that_is_fit_again_still_says_what_else_is_wrong() {
    let (mut rig, _ctx) = leader().await;
    rig.driver.on_unfit(UnfitBecause::Panics, clock::boot_now());
    let problem = |driver: &Driver| {
        driver.show();
        driver.shared.published.shown.borrow().problem.clone()
    };
    assert!(problem(&rig.driver).is_some_and(|it| it.contains("Panics")));
    rig.driver.problem = Some("the session was lost".into());
    rig.driver.unfit.as_mut().unwrap().until = BootTime::default();
    rig.driver.on_time();
    assert_eq!(problem(&rig.driver).as_deref(), Some("the session was lost"));
    rig.driver.problem = None;
    assert_eq!(problem(&rig.driver), None);
}
