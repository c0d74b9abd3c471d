use super::*;

/// A limit against hanging.
const LONG: Duration = Duration::from_secs(60);

/// A routine that tells of each of its runs, and whom it tells.
fn telling(turn: &Arc<Turn>) -> (Ticker, mpsc::Receiver<()>) {
    let (runs, told) = mpsc::channel(16);
    let job: Job = Box::new(move |_| {
        let runs = runs.clone();
        async move { Ok(runs.send(()).await?) }.boxed()
    });
    let ticker = Ticker {
        job,
        tick: watch::Sender::new(Duration::from_millis(1)).subscribe(),
        ending: Ending::default(),
        limits: RoutineLimits::default(),
        pulse: Arc::default(),
        turn: Arc::clone(turn),
        metrics: TickMetrics::new(&NodeMetrics::unregistered(), "leader"),
        unfit: None,
    };
    (ticker, told)
}

#[tokio::test]
async fn a_routine_whose_turn_was_closed_never_runs_even_if_its_task_has_not_heard_of_it() {
    let turn = Arc::new(Turn::default());
    let (ticker, mut told) = telling(&turn);
    // Its task was spawned, and its runtime has not come to it yet.
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
    // Polled to where it waits for its next tick, or has just ended a run.
    assert!(turn.close());
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
