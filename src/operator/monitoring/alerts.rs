//! Alert rules. Each alert concerns one cluster or one node, also if the same Prometheus scrapes other
//! clusters and other controllers.
//!
//! Many controllers export `leader_election_master_status`, so the rules count that metric only at targets
//! that also export our build info metric.

use std::time::Duration;

use crate::{
    node::metrics::names::{
        DRIVER_STEPS, LAST_TICK, LEADER_SUSPENDED, MASTER, ROLE, SHARDS_UNOWNED, TERM, TICK_PERIOD,
        TICKS, TRANSITIONS,
    },
    telemetry::{
        metrics::BUILD_INFO,
        rules::{Alert, RuleGroup, Severity},
    },
};

/// Labels by which releases of the chart differ. Series without these labels match as empty ones.
const RELEASE: &str = "cluster, namespace, job";
/// Labels by which nodes differ.
const TARGET: &str = "cluster, namespace, job, instance";

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn group() -> RuleGroup {
    RuleGroup {
        name: "bellwether",
        alerts: vec![
            no_leader(),
            two_leaders(),
            leader_suspended(),
            flapping(),
            tick_stuck(),
            driver_stuck(),
            shards_unowned(),
        ],
    }
}

/// Fires also if all nodes are gone: a cluster that had a leader within the last ten minutes and is not
/// scraped any more has no leader.
fn no_leader() -> Alert {
    Alert {
        name: "BellwetherNoLeader",
        query: format!(
            "count by ({RELEASE}, name) (last_over_time({MASTER}[10m]) and on ({TARGET}) \
             last_over_time({BUILD_INFO}[10m])) unless sum by ({RELEASE}, name) ({MASTER}) > 0"
        ),
        lasting: MINUTE,
        severity: Severity::Critical,
        summary: "Nobody leads the cluster {{ $labels.name }} (job {{ $labels.job }}).",
        description: "No node of the cluster has been its leader for a minute: nothing is reconciled. \
                      A leader that ends is followed within milliseconds, one that is lost within \
                      seconds.",
        runbook: "no-leader",
    }
}

/// The alert waits longer than two usual scrapes: after a hand-over the old leader's last sample still exists
/// beside the new leader's first one.
fn two_leaders() -> Alert {
    Alert {
        name: "BellwetherTwoLeaders",
        query: format!("sum by ({RELEASE}, name) ({MASTER} and on ({TARGET}) {BUILD_INFO}) > 1"),
        lasting: 2 * MINUTE,
        severity: Severity::Critical,
        summary: "{{ $value }} nodes say that they lead the cluster {{ $labels.name }} \
                  (job {{ $labels.job }}).",
        description: "More than one node has shown itself as leader for two minutes. Within one etcd \
                      that cannot be: most likely the nodes are on two etcds, or two releases have \
                      the same job and cluster name.",
        runbook: "two-leaders",
    }
}

/// Fires for a suspension that lasts or that returns. A single suspension ends within seconds (R13, a leader
/// gives up an office that it cannot use) and is shorter than a scrape interval.
fn leader_suspended() -> Alert {
    Alert {
        name: "BellwetherLeaderSuspended",
        query: format!(
            "(max by ({RELEASE}) ({LEADER_SUSPENDED}) > 0) or (sum by ({RELEASE}) \
             (increase({TRANSITIONS}{{reason=~\"suspended|useless\"}}[10m])) > 3)"
        ),
        lasting: MINUTE,
        severity: Severity::Warning,
        summary: "The leader of job {{ $labels.job }} is in office and does not act.",
        description: "The leader's beats reach etcd too late, or not at all, for the leader to act by \
                      them: no reconcile loop runs. Another node takes over within seconds; if the alert \
                      lasts, etcd is slow or refuses writes for all nodes.",
        runbook: "leader-suspended",
    }
}

/// Counts by the highest term that any node has seen: counters of crashed nodes restart at zero, the term
/// does not. The threshold is above what two rolling updates of three pods cause.
fn flapping() -> Alert {
    Alert {
        name: "BellwetherFlapping",
        query: format!("max by ({RELEASE}) (changes(({TERM} > 0)[15m:30s])) > 8"),
        lasting: Duration::ZERO,
        severity: Severity::Warning,
        summary: "The leader of job {{ $labels.job }} changed {{ $value }} times in 15 minutes.",
        description: "Each change ends the leader's work and begins it elsewhere. A rolling update \
                      changes leaders a few times; more means that leaders crash, are suspended \
                      because the store answers late, or are given up because their work fails.",
        runbook: "flapping",
    }
}

/// Fires when a routine makes no progress in the role it belongs to: its last success is too long ago, or
/// there was none.
fn tick_stuck() -> Alert {
    let stuck = |routine: &str, role: u8| {
        format!(
            "((time() - ({LAST_TICK}{{routine=\"{routine}\"}} > 0) > on ({TARGET}) group_left () \
             (60 + 3 * {TICK_PERIOD})) or (sum by ({TARGET}, routine) \
             (increase({TICKS}{{routine=\"{routine}\", result=~\"error|panic|overrun\"}}[5m])) > 0 \
             and on ({TARGET}, routine) {LAST_TICK} == 0)) and on ({TARGET}) {ROLE} == {role}"
        )
    };
    Alert {
        name: "BellwetherTickStuck",
        query: format!("({}) or ({})", stuck("leader", 1), stuck("follower", 2)),
        lasting: MINUTE,
        severity: Severity::Warning,
        summary: "The {{ $labels.routine }} routine of {{ $labels.instance }} makes no headway.",
        description: "No run of the routine has ended well for a minute and three ticks. It fails \
                      each time, or hangs and is cut off each time.",
        runbook: "tick-stuck",
    }
}

/// Even an idle node renews its lease several times in two minutes.
fn driver_stuck() -> Alert {
    Alert {
        name: "BellwetherDriverStuck",
        query: format!("rate({DRIVER_STEPS}[2m]) == 0"),
        lasting: MINUTE,
        severity: Severity::Warning,
        summary: "The node {{ $labels.instance }} answers, but its election stands still.",
        description: "The driver that renews the lease and moves the election has not stepped for \
                      two minutes: its thread is stuck, or it has panicked. The node has no \
                      authority any more, and its liveness probe fails: it should have been \
                      restarted.",
        runbook: "driver-stuck",
    }
}

/// All nodes must agree, because a node that is cut off reports an old view.
fn shards_unowned() -> Alert {
    Alert {
        name: "BellwetherShardsUnowned",
        query: format!("min by ({RELEASE}, work) ({SHARDS_UNOWNED}) > 0"),
        lasting: 2 * MINUTE,
        severity: Severity::Warning,
        summary: "{{ $value }} shards of {{ $labels.work }} (job {{ $labels.job }}) are nobody's.",
        description: "Their objects are not worked on. After a node is lost its shards are free \
                      within seconds; more means that no node can take them, that one does not let \
                      go of them, or that there is no leader to assign them.",
        runbook: "shards-unowned",
    }
}
