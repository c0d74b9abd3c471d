//! Metrics of this process, under the names that every Prometheus client library uses.

use std::fs;

use prometheus::{Counter, Gauge};

use crate::metrics::Build;

/// Makes metrics that are read from `/proc/self` at each scrape. A value that cannot be read keeps its last
/// value.
pub(super) fn process(b: &Build) {
    b.computed(|b| {
        let gauge = |name, help| b.add(Gauge::new(name, help));
        let cpu = b.add(Counter::new(
            "process_cpu_seconds_total",
            "Processor time this process has used, in user and system mode, in seconds.",
        ));
        let open_fds = gauge("process_open_fds", "File descriptors that are open.");
        let max_fds = gauge("process_max_fds", "File descriptors that may be open.");
        let virtual_memory = gauge("process_virtual_memory_bytes", "Virtual memory, in bytes.");
        let resident_memory = gauge("process_resident_memory_bytes", "Resident memory, in bytes.");
        let start_time = gauge(
            "process_start_time_seconds",
            "When this process started, in seconds of Unix time.",
        );
        let threads = gauge("process_threads", "Threads of this process.");
        move || {
            let stat = fs::read_to_string("/proc/self/stat").ok();
            if let Some(usage) = stat.and_then(|stat| parse_stat(&stat)) {
                cpu.reset();
                cpu.inc_by(usage.cpu_seconds);
                threads.set(usage.threads);
                virtual_memory.set(usage.virtual_bytes);
                resident_memory.set(usage.resident_pages * rustix::param::page_size() as f64);
                let boot = fs::read_to_string("/proc/stat").ok().and_then(|stat| parse_boot(&stat));
                if let Some(boot) = boot {
                    start_time.set(boot + usage.start_ticks / ticks_per_second());
                }
            }
            if let Ok(open) = fs::read_dir("/proc/self/fd") {
                // Subtract the descriptor of the directory that is being read.
                open_fds.set(open.count().saturating_sub(1) as f64);
            }
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            max_fds.set(limit.map_or(f64::INFINITY, |limit| limit as f64));
        }
    });
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
