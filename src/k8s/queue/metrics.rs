//! Prometheus metrics of the queues. Names, types, labels and buckets are controller-runtime's.
//!
//! A working queue only updates plain numbers under its lock; a scrape converts them to metrics.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use prometheus::{
    Opts,
    core::{Collector, Desc, Describer},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{QueueOptions, Shared, Snapshot, tally::Times};
use crate::metrics::metrics;

/// Labels of every series; the value of both is the controller's name, as in controller-runtime.
const LABELS: &[&str] = &["name", "controller"];
/// Additional label of depth and age.
const PRIORITY: &str = "priority";

/// A metric family: name, type, help text, and how its value is read from a snapshot.
type Family = (&'static str, MetricType, &'static str, Shape);

#[derive(Clone, Copy)]
enum Shape {
    Gauge(fn(&Snapshot) -> f64),
    Counter(fn(&Snapshot) -> u64),
    Times(fn(&Snapshot) -> &Times),
    ByPriority(fn(&super::Depth) -> f64),
}

const FAMILIES: [Family; 9] = [
    (
        "bellwether_workqueue_delayed",
        MetricType::GAUGE,
        "Keys whose time has not come: requeued for later, or held back after a failure.",
        Shape::Gauge(|it| it.delayed as f64),
    ),
    (
        "bellwether_workqueue_oldest_age_seconds",
        MetricType::GAUGE,
        "How long the oldest of the waiting keys has waited, by priority.",
        Shape::ByPriority(|it| it.oldest.as_secs_f64()),
    ),
    (
        "workqueue_adds_total",
        MetricType::COUNTER,
        "How often a key came to wait in the queue.",
        Shape::Counter(|it| it.adds),
    ),
    (
        "workqueue_depth",
        MetricType::GAUGE,
        "Keys that wait in the queue, by priority: 0 is a change, -100 a resync.",
        Shape::ByPriority(|it| it.waiting as f64),
    ),
    (
        "workqueue_longest_running_processor_seconds",
        MetricType::GAUGE,
        "How long the longest of the reconciles that go on has taken so far.",
        Shape::Gauge(|it| it.longest.as_secs_f64()),
    ),
    (
        "workqueue_queue_duration_seconds",
        MetricType::HISTOGRAM,
        "How long a key waited before it was taken.",
        Shape::Times(|it| &it.queued),
    ),
    (
        "workqueue_retries_total",
        MetricType::COUNTER,
        "How often a key was queued again with a back-off.",
        Shape::Counter(|it| it.retries),
    ),
    (
        "workqueue_unfinished_work_seconds",
        MetricType::GAUGE,
        "How long all reconciles that go on have taken so far, together.",
        Shape::Gauge(|it| it.unfinished.as_secs_f64()),
    ),
    (
        "workqueue_work_duration_seconds",
        MetricType::HISTOGRAM,
        "How long a key was worked on.",
        Shape::Times(|it| &it.worked),
    ),
];

metrics! { b =>
    /// The metrics of all queues of a process. Cheap to clone.
    pub struct QueueMetrics {
        queues: Queues = b.add(Queues::new());
    }
}

/// The queues that are shown, and the descriptions of their metrics.
#[derive(Clone)]
struct Queues {
    descs: Arc<[Desc]>,
    shown: Arc<Mutex<Vec<Shown>>>,
}

/// A queue with its name, for as long as the queue lives.
struct Shown {
    name: Box<str>,
    queue: Weak<dyn Source>,
}

/// Access to a queue for its metrics, independent of the type of its keys.
trait Source: Send + Sync {
    fn snapshot(&self) -> Snapshot;
}

impl<K: Hash + Eq + Clone + Send> Source for Shared<K> {
    fn snapshot(&self) -> Snapshot {
        let now = self.now();
        self.lock().core.snapshot(now)
    }
}

impl QueueMetrics {
    /// Options of a queue whose metrics appear under its controller's name for as long as the queue lives. Of
    /// two queues with one name only the newer appears.
    pub fn queue(&self, name: &str) -> QueueOptions {
        QueueOptions { shown: Some((self.clone(), name.into())), ..QueueOptions::default() }
    }

    pub(super) fn show<K>(&self, name: Box<str>, queue: &Arc<Shared<K>>)
    where
        K: Hash + Eq + Clone + Send + 'static,
    {
        let weak = Arc::downgrade(queue);
        let mut shown = self.queues.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|it| it.name != name && it.queue.strong_count() > 0);
        shown.push(Shown { name, queue: weak });
    }
}

impl Queues {
    fn new() -> prometheus::Result<Self> {
        let desc = |(name, _, help, shape): &Family| {
            let labels = LABELS.iter().copied().chain(shape.label());
            let labels = labels.map(str::to_owned).collect();
            Opts::new(*name, *help).variable_labels(labels).describe()
        };
        let descs = FAMILIES.iter().map(desc).collect::<prometheus::Result<Arc<[Desc]>>>()?;
        Ok(Self { descs, shown: Arc::default() })
    }

    /// A snapshot of each live queue, with its name.
    fn snapshots(&self) -> Vec<(Box<str>, Snapshot)> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|it| it.queue.strong_count() > 0);
        let alive = |it: &Shown| Some((it.name.clone(), it.queue.upgrade()?));
        let queues: Vec<_> = shown.iter().filter_map(alive).collect();
        // Releases this lock before waiting for a queue's lock.
        drop(shown);
        queues.into_iter().map(|(name, queue)| (name, queue.snapshot())).collect()
    }
}

impl Collector for Queues {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshots = self.snapshots();
        let family = |(name, kind, help, shape): &Family| {
            let of = |(name, snapshot): &(Box<str>, Snapshot)| shape.metrics(name, snapshot);
            let mut family = MetricFamily::default();
            family.set_name((*name).to_owned());
            family.set_help((*help).to_owned());
            family.set_field_type(*kind);
            family.set_metric(snapshots.iter().flat_map(of).collect());
            family
        };
        FAMILIES.iter().map(family).collect()
    }
}

impl Shape {
    const fn label(self) -> Option<&'static str> {
        match self {
            Self::ByPriority(_) => Some(PRIORITY),
            _ => None,
        }
    }

    fn metrics(self, name: &str, snapshot: &Snapshot) -> Vec<Metric> {
        // Labels sorted by name, as Prometheus' own collectors return them.
        let labels = || vec![label("controller", name), label("name", name)];
        match self {
            Self::Gauge(value) => vec![gauge(labels(), value(snapshot))],
            Self::Counter(value) => {
                let mut counter = Counter::default();
                counter.set_value(value(snapshot) as f64);
                let mut metric = Metric::from_label(labels());
                metric.set_counter(counter);
                vec![metric]
            }
            Self::Times(times) => {
                let mut metric = Metric::from_label(labels());
                metric.set_histogram(histogram(times(snapshot)));
                vec![metric]
            }
            Self::ByPriority(value) => {
                let one = |depth: &super::Depth| {
                    let mut labels = labels();
                    labels.push(label(PRIORITY, &depth.priority.number().to_string()));
                    gauge(labels, value(depth))
                };
                snapshot.depths.iter().map(one).collect()
            }
        }
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn histogram(times: &Times) -> Histogram {
    let bucket = |(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_sample_count(times.count());
    histogram.set_sample_sum(Duration::as_secs_f64(&times.sum()));
    histogram.set_bucket(times.cumulative().map(bucket).collect());
    histogram
}
