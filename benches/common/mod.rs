//! Code that the benches share: arguments, output, and the raw client for comparison.
//!
//! ```text
//! cargo bench                                  # all, in full
//! cargo bench --bench handoff -- --quick       # fewer rounds
//! cargo bench --bench handoff -- crash         # only sections whose name has "crash" in it
//! ```
//!
//! `RUST_LOG=bellwether=debug` shows the log. The benches print Markdown. Each figure stands beside its aim and
//! beside the figure of the plain etcd client, measured in turn in the same run on the same etcd: other load on
//! the machine affects both alike. Ratios count, not milliseconds. After a missed aim the exit code is 1.

#![allow(dead_code, unreachable_pub, reason = "each bench uses a part of it")]

pub mod plain;

use std::{fmt::Write as _, fs, process::ExitCode, thread, time::Duration};

use bellwether::{
    engine::{Record, Term},
    store::{keys::Keys, values},
};

use prometheus::Registry;

use crate::support::{
    self,
    etcd::{Etcd, Medium},
};

/// A limit against hanging, far above the time of any step here.
pub const LONG: Duration = Duration::from_secs(60);

/// The cluster's name in all benches.
pub const CLUSTER: &str = "shop";

/// Measured times of one operation.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that `p` percent do not exceed, in milliseconds; the maximum for 100.
    fn at(&mut self, p: usize) -> f64 {
        self.0.sort_unstable();
        assert!(!self.0.is_empty(), "nothing was measured");
        let at = (self.0.len() * p).div_ceil(100).clamp(1, self.0.len()) - 1;
        self.0[at].as_secs_f64() * 1e3
    }
}

/// Aim for a row of times.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// Upper bound of the median, in milliseconds.
    P50(f64),
    /// Upper bound of the 99th percentile, in milliseconds.
    P99(f64),
    /// Upper bound of the median, as a multiple of the plain client's median.
    Ratio(f64),
}

/// Arguments of the bench, and the aims that were missed.
pub struct Bench {
    quick: bool,
    only: Vec<String>,
    missed: Vec<String>,
}

impl Bench {
    /// Reads the arguments and prints the conditions that the figures depend on.
    pub fn start(what: &str) -> Self {
        support::logs();
        let (flags, only): (Vec<_>, Vec<_>) =
            std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
        let quick = flags.iter().any(|flag| flag == "--quick");
        println!("\n## {what}\n\n{}", machine(quick));
        Self { quick, only, missed: Vec::new() }
    }

    /// Whether the section is selected; prints its heading if so.
    pub fn section(&self, name: &str) -> bool {
        let wanted = self.only.is_empty() || self.only.iter().any(|part| name.contains(part));
        if wanted {
            println!("\n### {name}\n");
        }
        wanted
    }

    /// Number of rounds: `full`, or `quick` with `--quick`.
    pub const fn rounds(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Prints the heading of a table of times, beside those of the plain client.
    pub fn times() {
        Self::times_beside("plain");
    }

    /// Prints the heading of a table of times, beside those of `other`.
    pub fn times_beside(other: &str) {
        println!(
            "| ms | n | p50 | p99 | max | {other} p50 | {other} p99 | ratio of p50 | aim | met |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |");
    }

    /// Prints a row of a table of times.
    pub fn row(&mut self, what: &str, mut ours: Samples, plain: Option<Samples>, aims: &[Aim]) {
        let [p50, p99, max] = [50, 99, 100].map(|p| ours.at(p));
        let mut plain = plain.map(|mut plain| [50, 99].map(|p| plain.at(p)));
        let ratio = plain.map(|[plain, _]| p50 / plain);
        let mut met = true;
        let mut said = String::new();
        for aim in aims {
            let (name, most, is) = match *aim {
                Aim::P50(most) => ("p50", most, p50),
                Aim::P99(most) => ("p99", most, p99),
                Aim::Ratio(most) => ("ratio", most, ratio.expect("something to compare with")),
            };
            met &= is <= most;
            let comma = if said.is_empty() { "" } else { ", " };
            let _ = write!(said, "{comma}{name} ≤ {most}");
        }
        let plain = plain
            .take()
            .map_or("– | –".to_owned(), |[p50, p99]| format!("{p50:.3} | {p99:.3}"));
        let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.3}"));
        let n = ours.len();
        let verdict = self.verdict(what, met, aims.is_empty());
        println!(
            "| {what} | {n} | {p50:.3} | {p99:.3} | {max:.3} | {plain} | {ratio} | {said} | {verdict} |"
        );
    }

    /// Prints the heading of a table of single values.
    pub fn values() {
        println!("| what | value | aim | met |");
        println!("| --- | ---: | --- | --- |");
    }

    /// Prints a row of a table of single values, with the aim of at most `most`.
    pub fn value(&mut self, what: &str, is: f64, unit: &str, most: Option<f64>) {
        let verdict = self.verdict(what, most.is_none_or(|most| is <= most), most.is_none());
        let aim = most.map_or(String::new(), |most| format!("≤ {most} {unit}"));
        println!("| {what} | {is:.3} {unit} | {aim} | {verdict} |");
    }

    /// Prints a row of a table of single values, with the aim of at least `least`.
    pub fn at_least(&mut self, what: &str, is: f64, unit: &str, least: f64) {
        let verdict = self.verdict(what, least <= is, false);
        println!("| {what} | {is:.3} {unit} | ≥ {least} {unit} | {verdict} |");
    }

    fn verdict(&mut self, what: &str, met: bool, nothing_asked: bool) -> &'static str {
        match (nothing_asked, met) {
            (true, _) => "",
            (false, true) => "yes",
            (false, false) => {
                self.missed.push(what.to_owned());
                "**no**"
            }
        }
    }

    /// Prints the missed aims; returns the exit code.
    pub fn end(self) -> ExitCode {
        if self.missed.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("\nMissed: {}.", self.missed.join("; "));
        ExitCode::FAILURE
    }
}

/// A sentence with the conditions that the figures depend on.
fn machine(quick: bool) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("a CPU");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let kernel = read("/proc/sys/kernel/osrelease");
    let rounds = if quick { "few rounds (--quick)" } else { "in full" };
    format!("{cores} × {model}, Linux {}, load {load} at the start, {rounds}.", kernel.trim())
}

/// Name of an etcd by its medium, since only a disk costs an fsync per commit.
pub fn named(medium: Medium) -> &'static str {
    match medium {
        Medium::Memory => "etcd on tmpfs",
        Medium::Disk => "etcd on disk",
    }
}

/// Starts an etcd with a cluster whose first leader need not wait for an unknown earlier leader, as if a leader
/// had ended cleanly before.
pub async fn etcd_with_cluster(medium: Medium) -> Etcd {
    let etcd = Etcd::options().medium(medium).start().await;
    let d = Duration::from_secs(1);
    let record =
        Record { term: Term(0), lease: None, node: None, n: 0, d, ended: true, suspended: false };
    let key = Keys::new(CLUSTER).unwrap().record();
    etcd.client().await.put(key, values::encode_record(&record), None).await.unwrap();
    etcd
}

/// CPU time that a process has used.
pub fn cpu_time_of(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The fields follow the name, which may contain any character.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks = rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    // Linux counts CPU time in hundredths of a second, independent of its timer frequency.
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// Sum of the counters of this name.
pub fn counted(registry: &Registry, name: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|it| it.name() == name);
    family
        .map_or(0, |it| it.get_metric().iter().map(|it| it.get_counter().get_value() as u64).sum())
}

/// Waits a random time up to `most`, so that rounds are not in step with other timers.
pub async fn pause_up_to(most: Duration) {
    tokio::time::sleep(most.mul_f64(rand::random::<f64>())).await;
}
