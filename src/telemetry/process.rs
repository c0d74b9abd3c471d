//! Metrics of this process, under the names that every Prometheus client library uses.

use std::{fs, sync::Mutex};

use prometheus::{
    Counter, Gauge, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

pub(crate) const CPU_SECONDS: &str = "process_cpu_seconds_total";
pub(crate) const OPEN_FDS: &str = "process_open_fds";
pub(crate) const MAX_FDS: &str = "process_max_fds";
pub(crate) const VIRTUAL_MEMORY: &str = "process_virtual_memory_bytes";
pub(crate) const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
pub(crate) const START_TIME: &str = "process_start_time_seconds";
pub(crate) const THREADS: &str = "process_threads";

/// Collector that reads `/proc/self` at each scrape. A value that cannot be read keeps its last value.
pub(super) struct ProcessCollector {
    cpu: Counter,
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory: Gauge,
    resident_memory: Gauge,
    start_time: Gauge,
    threads: Gauge,
    /// Allows one scrape at a time: the counter is set by a reset and an addition.
    scrape: Mutex<()>,
}

/// Values that a scrape reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) threads: f64,
    pub(super) start_ticks: f64,
    pub(super) virtual_bytes: f64,
    pub(super) resident_pages: f64,
}

impl ProcessCollector {
    /// # Errors
    ///
    /// Never with these names; the error type is the registry's.
    pub(super) fn new() -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        let collector = Self {
            cpu: Counter::with_opts(Opts::new(
                CPU_SECONDS,
                "Processor time this process has used, in user and system mode, in seconds.",
            ))?,
            open_fds: gauge(OPEN_FDS, "File descriptors that are open.")?,
            max_fds: gauge(MAX_FDS, "File descriptors that may be open.")?,
            virtual_memory: gauge(VIRTUAL_MEMORY, "Virtual memory, in bytes.")?,
            resident_memory: gauge(RESIDENT_MEMORY, "Resident memory, in bytes.")?,
            start_time: gauge(START_TIME, "When this process started, in seconds of Unix time.")?,
            threads: gauge(THREADS, "Threads of this process.")?,
            scrape: Mutex::new(()),
        };
        Ok(collector)
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.open_fds,
            &self.max_fds,
            &self.virtual_memory,
            &self.resident_memory,
            &self.start_time,
            &self.threads,
        ]
    }

    fn scrape(&self) {
        let usage = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| parse_stat(&stat));
        if let Some(usage) = usage {
            self.cpu.reset();
            self.cpu.inc_by(usage.cpu_seconds);
            self.threads.set(usage.threads);
            self.virtual_memory.set(usage.virtual_bytes);
            self.resident_memory.set(usage.resident_pages * rustix::param::page_size() as f64);
            let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| parse_boot(&stat));
            if let Some(boot) = boot {
                self.start_time.set(boot + usage.start_ticks / ticks_per_second());
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Subtract the descriptor of the directory that is being read.
            self.open_fds.set(open.count().saturating_sub(1) as f64);
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.max_fds.set(limit.map_or(f64::INFINITY, |limit| limit as f64));
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one = self.scrape.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.scrape();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Parses `/proc/[pid]/stat`, see `proc_pid_stat(5)`. The command's name may contain blanks and brackets,
/// so the fields are counted from its last closing bracket.
pub(super) fn parse_stat(stat: &str) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the manual is the first one after the name.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Usage {
        cpu_seconds: (field(14)? + field(15)?) / ticks_per_second(),
        threads: field(20)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

/// Time at which the machine booted, in seconds of Unix time.
pub(super) fn parse_boot(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
