use std::sync::atomic::AtomicBool;

use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Time limit, so that no test hangs.
const LONG: Duration = Duration::from_secs(60);

/// Routine that sends a message in each run, and the receiver.
fn telling(turn: &Arc<Turn>) -> (Ticker, mpsc::Receiver<()>) {
    let (runs, told) = mpsc::channel(16);
    let job: Job = Box::new(move |_| {
        let runs = runs.clone();
        async move { Ok(runs.send(()).await?) }.boxed()
    });
    let ticker = Ticker {
        job,
        gate: None,
        tick: watch::Sender::new(Duration::from_millis(1)).subscribe(),
        ending: Ending::default(),
        limits: RoutineLimits::default(),
        pulse: Arc::default(),
        turn: Arc::clone(turn),
        metrics: TickMetrics::new(&NodeMetrics::unregistered(), "leader", &LastTick::default()),
        unfit: None,
    };
    (ticker, told)
}

#[tokio::test]
async fn a_routine_whose_turn_was_closed_never_runs_even_if_its_task_has_not_heard_of_it() {
    let turn = Arc::new(Turn::default());
    let (ticker, mut told) = telling(&turn);
    // The routine's task was spawned, and its runtime has not polled it yet.
    assert!(turn.close());
    tokio::time::timeout(LONG, ticker.run()).await.expect("it ends");
    assert_eq!(told.recv().await, None, "it has run");
}

#[tokio::test]
async fn a_routine_runs_tick_after_tick_and_can_be_closed_between_two_runs() {
    let turn = Arc::new(Turn::default());
    let (ticker, mut told) = telling(&turn);
    let running = ticker.run();
    tokio::pin!(running);
    let three_runs = async {
        for _ in 0..3 {
            told.recv().await.expect("it runs on");
        }
    };
    tokio::select! {
        biased;
        () = &mut running => panic!("nobody has ended it"),
        done = tokio::time::timeout(LONG, three_runs) => done.expect("three runs"),
    }
    // The ticker was polled until it waits for its next tick, or has just ended a run.
    assert!(turn.close());
}

/// Gate that the test opens and closes.
#[derive(Debug, Default)]
struct Switch(AtomicBool);

impl Gate for Switch {
    fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn without_authority_no_tick_runs_though_nobody_has_cancelled_it() {
    let (mut ticker, mut told) = telling(&Arc::default());
    let gate = Arc::new(Switch::default());
    ticker.gate = Some(Arc::clone(&gate) as Arc<dyn Gate>);
    let skipped = ticker.metrics.skipped.clone();
    let _running = AbortOnDropHandle::new(crate::tasks::spawn("ticker", ticker.run()));
    let three_skipped = async {
        while skipped.get() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, three_skipped).await.expect("ticks are due");
    assert_eq!(told.try_recv(), Err(mpsc::error::TryRecvError::Empty), "it has run");
    gate.0.store(true, Ordering::SeqCst);
    tokio::time::timeout(LONG, told.recv()).await.expect("it runs again").unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_authority_no_task_and_no_worker_begins() {
    let (runs, mut told) = mpsc::channel(16);
    let gate = Arc::new(Switch::default());
    let keeper = Keeper {
        name: "shard",
        job: Box::new(move |_| {
            let runs = runs.clone();
            async move { Ok(runs.send(()).await?) }.boxed()
        }),
        gate: Arc::clone(&gate) as Arc<dyn Gate>,
        ending: Ending::default(),
        early: Early::Again,
        metrics: NodeMetrics::unregistered(),
        unfit: None,
    };
    let _running = AbortOnDropHandle::new(crate::tasks::spawn("keeper", keeper.run()));
    sleep(AGAIN_AFTER * 10).await;
    assert_eq!(told.try_recv(), Err(mpsc::error::TryRecvError::Empty), "it has run");
    gate.0.store(true, Ordering::SeqCst);
    tokio::time::timeout(LONG, told.recv()).await.expect("it begins").unwrap();
}

#[test]
fn a_run_that_is_under_way_is_not_taken_for_ended() {
    let turn = Turn::default();
    assert!(turn.begin());
    assert!(!turn.close(), "it must be joined");
    turn.end();
    assert!(turn.close());
}

#[test]
fn after_the_end_no_run_begins() {
    let turn = Turn::default();
    assert!(turn.close());
    assert!(!turn.begin());
    assert!(turn.close(), "closing again changes nothing");
}
