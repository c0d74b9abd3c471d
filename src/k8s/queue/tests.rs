//! The queue with its surroundings: tasks that wait, and time that passes.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use prometheus::{Registry, TextEncoder};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::tasks;

/// Clock of the paused test runtime, which does not advance while a task runs.
#[expect(clippy::disallowed_methods, reason = "it is tokio's clock that is paused")]
fn paused() -> BootTime {
    thread_local!(static ZERO: Cell<Option<Instant>> = const { Cell::new(None) });
    let now = Instant::now();
    let zero = ZERO.get().unwrap_or(now);
    ZERO.set(Some(zero));
    BootTime(Duration::from_secs(1) + now.duration_since(zero))
}

fn queue() -> Queue<u32> {
    Queue::new(QueueOptions::default().clock(paused))
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Takes a key and ends its work at once; returns the key and the time.
fn taker(queue: &Queue<u32>) -> JoinHandle<(Option<u32>, BootTime)> {
    let queue = queue.clone();
    tasks::spawn("taker", async move { (queue.take().await.map(|it| *it.key()), paused()) })
}

/// Lets all other tasks run until they wait.
async fn rest() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Tokio's timers have a resolution of a millisecond, and do not fire early.
fn assert_about(at: BootTime, wanted: BootTime) {
    assert!(wanted <= at && at.since(wanted) <= ms(2), "{at:?} is not {wanted:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_gets_what_is_added() {
    let queue = queue();
    let taker = taker(&queue);
    rest().await;
    assert!(!taker.is_finished());
    queue.add(7, Priority::Change);
    assert_eq!(taker.await.unwrap().0, Some(7));
}

#[tokio::test(start_paused = true)]
async fn as_many_as_wait_get_what_is_added_at_once() {
    let queue = queue();
    let takers: Vec<_> = (0..50).map(|_| taker(&queue)).collect();
    rest().await;
    for key in 0..50 {
        queue.add(key, Priority::Change);
    }
    for taker in takers {
        assert!(taker.await.unwrap().0.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_key_comes_at_its_time_however_many_wait() {
    let queue = queue();
    let takers: Vec<_> = (0..20).map(|_| taker(&queue)).collect();
    rest().await;
    let began = paused();
    for key in 0..20 {
        queue.add_after(key, ms(100 * (20 - u64::from(key))), Priority::Change);
    }
    for taker in takers {
        let (key, at) = taker.await.unwrap();
        assert_about(at, began + ms(100 * (20 - u64::from(key.unwrap()))));
    }
}

#[tokio::test(start_paused = true)]
async fn an_earlier_time_is_not_slept_through() {
    let queue = queue();
    let began = paused();
    queue.add_after(1, ms(60_000), Priority::Change);
    let takers = [taker(&queue), taker(&queue)];
    rest().await;
    queue.add_after(2, ms(50), Priority::Change);
    rest().await;
    queue.add_after(1, ms(80), Priority::Change);
    let mut came = Vec::new();
    for taker in takers {
        came.push(taker.await.unwrap());
    }
    came.sort_unstable();
    assert_eq!(came.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert_about(came[0].1, began + ms(80));
    assert_about(came[1].1, began + ms(50));
}

#[tokio::test(start_paused = true)]
async fn only_one_of_those_that_wait_keeps_the_time_and_hands_that_over_when_it_is_dropped() {
    let queue = queue();
    let began = paused();
    queue.add_after(1, ms(500), Priority::Change);
    let mut takers: Vec<_> = (0..4).map(|_| taker(&queue)).collect();
    for _ in 0..3 {
        rest().await;
        assert!(queue.shared.lock().has_keeper);
        // The first taker is the keeper, because it waited first.
        let keeper = takers.remove(0);
        keeper.abort();
        assert!(keeper.await.unwrap_err().is_cancelled());
    }
    let (key, at) = takers.remove(0).await.unwrap();
    assert_eq!(key, Some(1));
    assert_about(at, began + ms(500));
    assert!(!queue.shared.lock().has_keeper);
}

#[tokio::test(start_paused = true)]
async fn a_take_that_is_given_up_takes_nothing() {
    let queue = queue();
    for round in 0..200_u64 {
        // The take is dropped before, exactly when, and after the key becomes ready.
        queue.add_after(1, ms(10), Priority::Change);
        let Ok(taken) = timeout(ms(round % 21), queue.take()).await else {
            let taken = timeout(ms(60_000), queue.take()).await.expect("it is still there");
            assert_eq!(*taken.unwrap().key(), 1);
            continue;
        };
        assert_eq!(*taken.unwrap().key(), 1);
    }
    assert_eq!(queue.snapshot().working, 0);
}

#[tokio::test(start_paused = true)]
async fn the_gate_lets_the_queue_fill_and_nothing_out() {
    let queue = Queue::new(QueueOptions::default().clock(paused).gate(Gate::Closed));
    let takers = [taker(&queue), taker(&queue), taker(&queue)];
    queue.add(1, Priority::Change);
    queue.add_after(2, ms(100), Priority::Change);
    queue.add_after(3, ms(200), Priority::Change);
    tokio::time::sleep(ms(150)).await;
    assert!(takers.iter().all(|taker| !taker.is_finished()));
    assert_eq!(queue.try_take().map(|it| *it.key()), None);
    let opened = paused();
    queue.open();
    let mut came = Vec::new();
    for taker in takers {
        let (key, at) = taker.await.unwrap();
        came.push((key.unwrap(), at.since(opened) < ms(2)));
    }
    came.sort_unstable();
    assert_eq!(came, [(1, true), (2, true), (3, false)]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_puts_its_key_back_and_a_plain_drop_does_not() {
    let queue = queue();
    queue.add(1, Priority::Set(3));
    let working = queue.clone();
    let panicked = tasks::spawn("panics", async move {
        let _taken = working.take().await;
        panic!("on purpose");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(queue.snapshot().delayed, 1);
    let began = paused();
    let taken = queue.take().await.unwrap();
    assert_about(paused(), began + ms(5));
    assert_eq!((*taken.key(), taken.priority(), queue.requeues(&1)), (1, Priority::Set(3), 1));
    drop(taken);
    assert_eq!((queue.len(), queue.snapshot().delayed), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_put_back_comes_again_without_a_token() {
    let bucket = Some(Bucket { every: Duration::from_secs(3600), burst: 1 });
    let limits = Limits { bucket, ..Limits::default() };
    let queue = Queue::new(QueueOptions::default().clock(paused).limits(limits));
    queue.add_rate_limited(1, Priority::Resync);
    for round in 1..5 {
        let taken = timeout(ms(1000), queue.take()).await.expect("it needs no token").unwrap();
        assert_eq!((*taken.key(), queue.requeues(&1)), (1, round));
        taken.put_back();
    }
    queue.forget(&1);
    let taken = queue.take().await.unwrap();
    queue.add_rate_limited(1, taken.priority());
    taken.done();
    assert!(timeout(ms(3_000_000), queue.take()).await.is_err(), "the bucket is empty");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_added_while_it_is_worked_on_comes_again_when_that_is_done() {
    let queue = queue();
    queue.add(1, Priority::Resync);
    let taken = queue.take().await.unwrap();
    let other = taker(&queue);
    queue.add(1, Priority::Resync);
    queue.add(1, Priority::Change);
    rest().await;
    assert!(!other.is_finished(), "nobody else gets it meanwhile");
    assert_eq!(queue.len(), 1);
    taken.done();
    assert_eq!(other.await.unwrap().0, Some(1));
    assert_eq!(queue.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn draining_hands_out_what_waits_and_ends_all_takes_after_the_last() {
    let queue = queue();
    for key in 1..=2 {
        queue.add(key, Priority::Change);
    }
    queue.add_after(3, ms(10), Priority::Change);
    let taken = queue.take().await.unwrap();
    queue.add(1, Priority::Change);
    queue.shut_down(ShutDown::Drain);
    queue.add(4, Priority::Change);
    let takers = [taker(&queue), taker(&queue), taker(&queue)];
    rest().await;
    assert_eq!(takers.iter().filter(|taker| taker.is_finished()).count(), 1, "the one with 2");
    taken.done();
    let mut came = Vec::new();
    for taker in takers {
        came.push(taker.await.unwrap().0);
    }
    came.sort_unstable();
    assert_eq!(came, [None, Some(1), Some(2)]);
    queue.settled().await;
}

#[tokio::test(start_paused = true)]
async fn shutting_down_or_closing_a_gate_after_that_ends_all_takes_at_once() {
    let (dropped, closed) = (queue(), queue());
    let takers = [taker(&dropped), taker(&dropped), taker(&closed)];
    rest().await;
    dropped.shut_down(ShutDown::Drop);
    closed.close();
    closed.add(1, Priority::Change);
    closed.shut_down(ShutDown::Drain);
    for taker in takers {
        assert_eq!(taker.await.unwrap().0, None);
    }
    assert!(closed.take().await.is_none() && dropped.try_take().is_none());
}

#[tokio::test(start_paused = true)]
async fn settled_waits_for_all_work_and_for_no_other() {
    let queue = queue();
    queue.settled().await;
    for key in 0..3 {
        queue.add(key, Priority::Change);
    }
    let first = queue.take().await.unwrap();
    let second = queue.take().await.unwrap();
    queue.close();
    let waits = queue.clone();
    let settled = tasks::spawn("settled", async move { waits.settled().await });
    rest().await;
    first.done();
    rest().await;
    assert!(!settled.is_finished());
    second.put_back();
    settled.await.unwrap();
    assert_eq!((queue.len(), queue.snapshot().delayed), (1, 1));
}

#[tokio::test]
async fn keys_of_lost_shards_are_dropped_wherever_they_are() {
    let queue = Queue::new(QueueOptions::default());
    for key in 0..5000 {
        queue.add(key, Priority::Change);
        queue.add_after(10_000 + key, Duration::from_secs(3600), Priority::Change);
    }
    let taken = queue.take().await.unwrap();
    queue.add(*taken.key(), Priority::Change);
    queue.retain(|key| key % 2 == 1);
    taken.done();
    let shown = queue.snapshot();
    assert_eq!((queue.len(), shown.delayed, shown.working), (2500, 2500, 0));
    while let Some(taken) = queue.try_take() {
        assert_eq!(taken.key() % 2, 1);
    }
}

/// State that a stress test of a queue checks.
struct Watched {
    /// For each key: how often it was added, how many of these additions a worker has seen, and whether a
    /// worker holds the key.
    added: Vec<AtomicU64>,
    seen: Vec<AtomicU64>,
    busy: Vec<AtomicBool>,
    worked: AtomicUsize,
    /// Whether the gate has been closed and all work has ended.
    is_shut: AtomicBool,
}

impl Watched {
    fn new(keys: usize) -> Arc<Self> {
        let numbers = || (0..keys).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            added: numbers(),
            seen: numbers(),
            busy: (0..keys).map(|_| AtomicBool::new(false)).collect(),
            worked: AtomicUsize::new(0),
            is_shut: AtomicBool::new(false),
        })
    }

    async fn work(&self, taken: Taken<u32>) {
        let key = *taken.key() as usize;
        assert!(!self.busy[key].swap(true, Ordering::SeqCst), "{key} is worked on already");
        assert!(!self.is_shut.load(Ordering::SeqCst), "{key} came through a closed gate");
        let added = self.added[key].load(Ordering::SeqCst);
        if key.is_multiple_of(3) {
            tokio::task::yield_now().await;
        }
        self.seen[key].fetch_max(added, Ordering::SeqCst);
        self.worked.fetch_add(1, Ordering::SeqCst);
        self.busy[key].store(false, Ordering::SeqCst);
        taken.done();
    }
}

const KEYS: u32 = 97;

async fn adds(queue: Queue<u32>, watched: Arc<Watched>, seed: u32) {
    for step in 0..4000_u32 {
        let number = step.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503));
        let key = (number >> 8) % KEYS;
        watched.added[key as usize].fetch_add(1, Ordering::SeqCst);
        let priority = if number & 1 == 0 { Priority::Change } else { Priority::Resync };
        match number % 5 {
            0 => queue.add_after(key, Duration::from_micros(u64::from(number % 3000)), priority),
            _ => queue.add(key, priority),
        }
        if step % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn works(queue: Queue<u32>, watched: Arc<Watched>, patience: Option<Duration>) {
    loop {
        let taken = match patience {
            None => queue.take().await,
            Some(patience) => match timeout(patience, queue.take()).await {
                Ok(taken) => taken,
                Err(_) => continue,
            },
        };
        let Some(taken) = taken else { return };
        watched.work(taken).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_stress_no_key_is_lost_nor_worked_on_twice_at_once_nor_let_through_a_closed_gate() {
    let queue = Queue::new(QueueOptions::default());
    let watched = Watched::new(KEYS as usize);
    let works = (0..24_u64).map(|number| {
        // A third of the workers has a short timeout.
        let patience = (number % 3 == 0).then(|| Duration::from_micros(50 * number));
        tasks::spawn("works", works(queue.clone(), Arc::clone(&watched), patience))
    });
    let works: Vec<_> = works.collect();
    let adds: Vec<_> = (0..6)
        .map(|seed| tasks::spawn("adds", adds(queue.clone(), Arc::clone(&watched), seed)))
        .collect();
    for _ in 0..200 {
        queue.close();
        queue.settled().await;
        watched.is_shut.store(true, Ordering::SeqCst);
        tokio::task::yield_now().await;
        watched.is_shut.store(false, Ordering::SeqCst);
        queue.open();
        tokio::task::yield_now().await;
    }
    for adder in adds {
        adder.await.unwrap();
    }
    let all_seen = async {
        while (0..KEYS as usize).any(|key| {
            watched.seen[key].load(Ordering::SeqCst) != watched.added[key].load(Ordering::SeqCst)
        }) {
            sleep(ms(1)).await;
        }
    };
    timeout(Duration::from_secs(60), all_seen).await.expect("what was added last is worked on");
    queue.shut_down(ShutDown::Drain);
    for worker in works {
        timeout(Duration::from_secs(60), worker).await.expect("it ends").unwrap();
    }
    let shown = queue.snapshot();
    assert_eq!((queue.len(), shown.delayed, shown.working), (0, 0, 0));
    assert_eq!(shown.worked.count(), watched.worked.load(Ordering::SeqCst) as u64);
    assert!(1000 < shown.worked.count(), "something happened");
}

#[tokio::test(start_paused = true)]
async fn metrics_show_each_queue_by_its_name_for_as_long_as_it_lives() {
    let registry = Registry::new();
    let metrics = QueueMetrics::register(&registry).unwrap();
    assert!(QueueMetrics::register(&registry).is_err(), "once");
    let named = |name| metrics.queue(name).clock(paused);
    let (sites, other) = (Queue::new(named("website")), Queue::<u64>::new(named("other")));
    for key in 0..3 {
        sites.add(key, Priority::Resync);
    }
    sites.add_after(9, ms(10_000), Priority::Set(5));
    sites.add_rate_limited(8, Priority::Change);
    tokio::time::sleep(ms(2000)).await;
    let taken = [sites.take().await.unwrap(), sites.take().await.unwrap()];
    tokio::time::sleep(ms(500)).await;
    let [first, _second] = taken;
    first.done();
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let labels = r#"controller="website",name="website""#;
    for line in [
        &format!(r#"workqueue_depth{{{labels},priority="0"}} 0"#),
        &format!(r#"workqueue_depth{{{labels},priority="-100"}} 2"#),
        &format!("workqueue_adds_total{{{labels}}} 4"),
        &format!("workqueue_retries_total{{{labels}}} 1"),
        &format!("workqueue_unfinished_work_seconds{{{labels}}} 0.5"),
        &format!("workqueue_longest_running_processor_seconds{{{labels}}} 0.5"),
        &format!(r#"workqueue_queue_duration_seconds_bucket{{{labels},le="1"}} 0"#),
        &format!(r#"workqueue_queue_duration_seconds_bucket{{{labels},le="10"}} 2"#),
        &format!(r#"workqueue_work_duration_seconds_bucket{{{labels},le="0.00000001"}} 0"#),
        &format!("workqueue_work_duration_seconds_sum{{{labels}}} 0.5"),
        &format!("workqueue_work_duration_seconds_count{{{labels}}} 1"),
        &format!("bellwether_workqueue_delayed{{{labels}}} 1"),
        &format!(r#"bellwether_workqueue_oldest_age_seconds{{{labels},priority="-100"}} 2.5"#),
        r#"workqueue_depth{controller="other",name="other",priority="0"} 0"#,
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    drop(other);
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(!text.contains("other") && text.contains("website"), "{text}");
}
