use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::{
    engine::{Config, Failover, NodeId, TickPolicy},
    node::{
        FollowerContext, NodeMetrics, RoutineLimits, builder::Work, env::Env, host::DriverHost,
    },
    store::{keys::Keys, memory::MemoryStore},
};

/// A limit against hanging.
const LONG: Duration = Duration::from_secs(60);

/// A driver that takes a turn when it is told to.
struct Rig {
    driver: Driver,
    commands: mpsc::Sender<Command>,
    received: mpsc::Receiver<Command>,
}

impl Rig {
    fn new(campaigns: bool, work: Work) -> Self {
        let options = NodeOptions {
            engine: Config {
                id: NodeId::new(1).unwrap(),
                address: "me:1".into(),
                ttl: Duration::from_secs(5),
                failover: Failover::DEFAULT,
                tick: Duration::from_millis(50),
                tick_policy: TickPolicy::Strict,
                pod_uid: None,
                work: Vec::new(),
                campaigns,
                own_store: true,
                #[cfg(feature = "mutants")]
                mutant: None,
            },
            env: Env {
                store: Arc::new(MemoryStore::new()),
                keys: Keys::new("C").unwrap(),
                metrics: NodeMetrics::default(),
                call_timeout: LONG,
            },
            work,
            limits: RoutineLimits { cancel_grace: LONG, ..RoutineLimits::default() },
            host: DriverHost::new("at rest").unwrap(),
        };
        // It has a driver of its own, which nobody asks for anything.
        let core = Core::new(options.clone());
        let (commands, received) = mpsc::channel(8);
        Self { driver: Driver::new(core, options), commands, received }
    }

    /// One turn. What it could do it has done: the next one may be as far away as the next deadline.
    async fn turn(&mut self) {
        let turn = self.driver.turn(&mut self.received);
        tokio::time::timeout(LONG, turn).await.expect("the driver looks up now and then");
        assert!(self.driver.inputs.is_empty(), "the engine waits for {:?}", self.driver.inputs);
        let left = self.driver.left.filter(|_| self.driver.work.is_idle());
        assert_eq!(left, None, "nothing is left to wait for");
    }

    async fn turns_until<T>(&mut self, answer: &mut oneshot::Receiver<T>) -> T {
        let until = clock::boot_now() + LONG;
        while clock::boot_now() < until {
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            self.turn().await;
        }
        panic!("no answer");
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
        self.driver.core.abandoned.cancel();
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
