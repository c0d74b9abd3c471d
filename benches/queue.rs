//! Cost of a controller's work queue: time per key, time of an add while a thousand workers take keys, memory
//! per queued key, and time to open a gate.
//!
//! ```text
//! cargo bench --bench queue                 # all, in full
//! cargo bench --bench queue -- --quick one  # fewer rounds, one thread only
//! ```
//!
//! The plain implementation for comparison is a minimal queue without duplicates: a set and a deque under a
//! lock, with no priority, no delay, no back-off, no serial order and no metrics.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a measurement, not a library"
)]

mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::{HashSet, VecDeque},
    fs,
    hash::Hash,
    hint::black_box,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    k8s::queue::{Gate, Priority, Queue, QueueMetrics, QueueOptions, ShutDown},
    tasks::Tasks,
};
use common::{Aim, Bench, Samples};

/// Key of the same kind as an object's: a namespace and a name, shared by all holders.
type ObjectKey = (Option<Arc<str>>, Arc<str>);

const BATCH: u64 = 1000;
const WORKERS: usize = 1000;
const MANY: u64 = 1_000_000;
/// Number of keys at which the table of keys has just doubled: the worst case of memory per key.
const WORST: u64 = 920_000;
const GATED: u64 = 100_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let mut bench = Bench::start("Work queue");
    // This section comes first: memory that other sections have allocated and freed would reduce the figure.
    if bench.section("memory: resident, after as many keys were added") {
        Bench::values();
        let objects = memory(WORST, object_key);
        bench.value("object key, 920,000 (the worst), keys included", objects, "B", Some(200.0));
        let objects = memory(MANY, object_key);
        bench.value("object key, 1,000,000, keys included", objects, "B", Some(200.0));
        bench.value("integer key, 1,000,000", memory(MANY, |key| key), "B", Some(200.0));
    }
    if bench.section("one: add + take + done on one thread, 1,000 keys each time") {
        let rounds = bench.rounds(2000, 400);
        Bench::times();
        let [ours, plain] = one(rounds, |key| key).await;
        bench.row("1,000 integer keys", ours, Some(plain), &[Aim::P50(0.3)]);
        let [ours, plain] = one(rounds, object_key).await;
        bench.row("1,000 object keys", ours, Some(plain), &[Aim::P50(0.3)]);
    }
    if bench.section("many: 1,000,000 keys queued, 1,000 workers take, are done, and add again") {
        let adds = bench.rounds(500_000, 100_000);
        let (times, taken) = many(adds).await;
        Bench::times();
        bench.row("add", times, None, &[Aim::P99(0.1)]);
        println!("\nMeanwhile {taken} keys were taken and done.");
    }
    if bench.section("gate: 100,000 keys have gathered, 1,000 workers wait") {
        let rounds = bench.rounds(50, 10);
        let (opened, first) = gate(rounds).await;
        Bench::times();
        bench.row("open", opened, None, &[Aim::P50(1.0)]);
        bench.row("open → the first has a key", first, None, &[Aim::P50(1.0)]);
    }
    bench.end()
}

fn object_key(number: u64) -> ObjectKey {
    (Some("production".into()), format!("website-{number:08}").into())
}

/// A queue as in a controller, its metrics included.
fn queue<K: Hash + Eq + Clone + Send + 'static>() -> Queue<K> {
    Queue::new(QueueMetrics::unregistered().queue("bench"))
}

/// Times of a batch, ours and the plain implementation's, in turn. A batch is shorter than a time slice, so
/// half of the batches are undisturbed on a busy machine too.
async fn one<K: Hash + Eq + Clone + Send + 'static>(
    rounds: usize,
    key: impl Fn(u64) -> K,
) -> [Samples; 2] {
    let keys: Vec<K> = (0..BATCH).map(key).collect();
    let (queue, plain) = (queue(), Plain::new());
    let (mut ours, mut plains) = (Samples::default(), Samples::default());
    for round in 0..=rounds {
        let began = boot_now();
        for key in &keys {
            queue.add(key.clone(), Priority::Change);
        }
        for _ in &keys {
            let taken = queue.take().await.unwrap();
            black_box(taken.key());
            taken.done();
        }
        let between = boot_now();
        for key in &keys {
            plain.add(key.clone());
        }
        for _ in &keys {
            black_box(plain.take());
        }
        let end = boot_now();
        // The first round is the warm-up.
        if round != 0 {
            ours.push(between.since(began));
            plains.push(end.since(between));
        }
    }
    [ours, plains]
}

/// The plain queue: a set and a deque.
struct Plain<K>(Mutex<(HashSet<K>, VecDeque<K>)>);

impl<K: Hash + Eq + Clone> Plain<K> {
    fn new() -> Self {
        Self(Mutex::new((HashSet::new(), VecDeque::new())))
    }

    fn add(&self, key: K) {
        let (set, deque) = &mut *self.0.lock().unwrap();
        if set.insert(key.clone()) {
            deque.push_back(key);
        }
    }

    fn take(&self) -> Option<K> {
        let (set, deque) = &mut *self.0.lock().unwrap();
        let key = deque.pop_front()?;
        set.remove(&key);
        Some(key)
    }
}

/// Times of adds, and the number of keys that workers took meanwhile.
async fn many(adds: usize) -> (Samples, u64) {
    let queue = queue();
    for key in 0..MANY {
        queue.add(key, Priority::Resync);
    }
    let mut workers = Tasks::new();
    for _ in 0..WORKERS {
        let queue = queue.clone();
        workers.spawn("worker", async move {
            while let Some(taken) = queue.take().await {
                tokio::task::yield_now().await;
                let key = *taken.key();
                taken.done();
                queue.add(key, Priority::Resync);
            }
        });
    }
    let adding = queue.clone();
    let adder = tokio::task::spawn_blocking(move || {
        let mut samples = Samples::default();
        for number in 0..adds as u64 {
            // Every second key is queued already.
            let key = if number % 2 == 0 { MANY + number } else { number };
            let began = boot_now();
            adding.add(key, Priority::Change);
            samples.push(boot_now().since(began));
        }
        samples
    });
    let samples = adder.await.unwrap();
    let taken = queue.snapshot().worked.count();
    queue.shut_down(ShutDown::Drop);
    workers.join_all().await;
    (samples, taken)
}

/// Resident bytes per key.
fn memory<K: Hash + Eq + Clone + Send + 'static>(count: u64, key: impl Fn(u64) -> K) -> f64 {
    let queue = queue();
    let before = resident();
    for number in 0..count {
        queue.add(key(number), Priority::Change);
    }
    let each = (resident() - before) / count as f64;
    assert_eq!(queue.len() as u64, count);
    each
}

/// Resident memory of this process in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

/// Times of opening a gate, and times until a worker had a key.
async fn gate(rounds: usize) -> (Samples, Samples) {
    let (mut opened, mut first) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let queue = Queue::new(QueueOptions::default().gate(Gate::Closed));
        for key in 0..GATED {
            queue.add(key, Priority::Resync);
        }
        let (has_key, mut have_keys) = tokio::sync::mpsc::channel(1);
        let mut workers = Tasks::new();
        for _ in 0..WORKERS {
            let (queue, has_key) = (queue.clone(), has_key.clone());
            workers.spawn("worker", async move {
                let taken = queue.take().await;
                // The first key is enough.
                let _ = has_key.try_send(boot_now());
                drop(taken);
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let began = boot_now();
        queue.open();
        opened.push(boot_now().since(began));
        first.push(have_keys.recv().await.unwrap().since(began));
        workers.join_all().await;
    }
    (opened, first)
}
