//! Counts of the events in a run: a simulation in which nothing happens proves nothing.

use std::collections::BTreeMap;

use crate::scenario::Fault;

/// Counts by name of the event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    pub fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }
}

macro_rules! stats {
    ($($field:ident),* $(,)?) => {
        /// All counts of a run.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $(pub $field: u64,)*
            pub committed: Counts,
            pub refused: Counts,
            pub lost_answers: Counts,
            pub late_commits: Counts,
            pub faults: Vec<u64>,
            /// Sum of the hashes of the traces: equal before and after a change that changes no behaviour.
            pub traces: u64,
        }

        impl Stats {
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
                self.committed.add(&other.committed);
                self.refused.add(&other.refused);
                self.lost_answers.add(&other.lost_answers);
                self.late_commits.add(&other.late_commits);
                self.traces = self.traces.wrapping_add(other.traces);
                self.faults.resize(Fault::ALL.len(), 0);
                for (sum, count) in self.faults.iter_mut().zip(&other.faults) {
                    *sum += count;
                }
            }

            pub fn print(&self) {
                $(println!("  {:<20} {}", stringify!($field), self.$field);)*
                println!("  committed            {:?}", self.committed.0);
                println!("  refused              {:?}", self.refused.0);
                println!("  answers lost         {:?}", self.lost_answers.0);
                println!("  committed too late   {:?}", self.late_commits.0);
                println!("  sum of the traces    {:016x}", self.traces);
                for (fault, count) in Fault::ALL.iter().zip(&self.faults) {
                    println!("  fault {:<14} {count}", format!("{fault:?}"));
                }
            }
        }
    };
}

stats! {
    runs, true_seconds, events, steps, settled_ms,
    lives, joins, sessions_lost, refusals, left, left_clean,
    terms, ended, works, acts, fenced, refused_raw, puts, deletes,
    own_calls, own_put_back, own_checked,
    shard_starts, shard_acts, shard_writes, claims, releases, moves,
    pauses, slow_joins, slow_messages, lost_requests, late_requests, cut_requests,
    kube_writes, kube_conflicts, kube_gaps, kube_expired, kube_neighbours, throttled,
    stale_renewals, duplicates, big_runs, views_compared, lists, compacted_watches, late_watches, ends_by_parents,
}

impl Stats {
    pub fn fault(&mut self, fault: Fault) {
        self.faults.resize(Fault::ALL.len(), 0);
        self.faults[fault.index()] += 1;
    }
}
