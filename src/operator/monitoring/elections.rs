//! Dashboard *Elections*: the leader, how long it has led, how safe its authority is, and the cost of its
//! work.

use crate::{
    node::metrics::names::{
        AUTHORITY_MARGIN, AUTHORITY_REMAINING, BEAT_SECONDS, DRAIN_SECONDS, DRAINS_OVERDUE,
        DRIVER_STEPS, KEEPALIVE_SECONDS, LAST_TICK, LEADER_SUSPENDED, LEASE_REMAINING, MASTER,
        MEMBERS, PANICS, ROLE, SESSIONS_LOST, SHARD_AUTHORITY_REMAINING, SHARD_MOVES,
        SHARDS_DRAINING, SHARDS_OWNED, SHARDS_UNOWNED, STALE_REJECTIONS, STORE_CALL_SECONDS,
        STORE_CALLS, TERM, TICK_LATENESS, TICK_OVERRUNS, TICK_SECONDS, TICKS, TICKS_SKIPPED,
        TRANSITIONS, VIEW_AGE, WATCH_LAG, WATCH_RESYNCS,
    },
    telemetry::{
        grafana::{Dashboard, Kind, Panel, Query, Row, Series, Unit},
        metrics::BUILD_INFO,
        process::{CPU_SECONDS, OPEN_FDS, RESIDENT_MEMORY, THREADS},
    },
};

/// Thresholds of a panel that is green at zero and red above.
const NONE_IS_WELL: &[(Option<f64>, &str)] = &[(None, "green"), (Some(1.0), "red")];

pub(super) fn dashboard() -> Dashboard {
    Dashboard::new(
        "bellwether-elections",
        "bellwether / Elections",
        "Who leads, since when, how safely, and how the nodes, their shards and their store are.",
        BUILD_INFO,
    )
    .tag("bellwether")
    .tag("leader-election")
    .annotation("New leader", taken_over(), "{{instance}} leads")
    .row(Row::open("At a glance", at_a_glance()))
    .row(Row::open("Who leads", who_leads()))
    .row(Row::open("How safely", how_safely()))
    .row(Row::collapsed("Ticks", ticks()))
    .row(Row::collapsed("Shards", shards()))
    .row(Row::collapsed("Store", store()))
    .row(Row::collapsed("Process", process()))
}

/// Leader metric that many controllers export, restricted to our nodes.
fn masters() -> Query {
    let (master, ours) = (Series::of(MASTER), Series::of(BUILD_INFO));
    Query::raw(format!("({master} and on (cluster, namespace, job, instance) {ours})"))
}

fn taken_over() -> Query {
    let master = Series::of(MASTER);
    Query::raw(format!("{} == 1 and changes({master}[1m]) > 0", masters()))
}

fn at_a_glance() -> Vec<Panel> {
    let role = Series::of(ROLE);
    vec![
        Panel::new(
            Kind::NameStat,
            "Leader",
            Unit::State,
            "The node that says it leads. Two names for longer than a scrape: see the runbook of the \
             alert BellwetherTwoLeaders.",
        )
        .query("{{instance}}", Query::raw(format!("{} == 1", masters().max_by(&["instance", "name"]))))
        .or_say("nobody"),
        Panel::new(
            Kind::Stat,
            "Leaders",
            Unit::Count,
            "How many nodes say that they lead. One is right; none and two are told by alerts.",
        )
        .query("leaders", masters().sum())
        .steps(&[(None, "red"), (Some(1.0), "green"), (Some(2.0), "red")]),
        Panel::new(
            Kind::Stat,
            "Nodes",
            Unit::Count,
            "Live nodes of the cluster, as the node sees it that sees most.",
        )
        .query("nodes", Series::of(MEMBERS).now().max())
        .steps(&[(None, "red"), (Some(1.0), "orange"), (Some(2.0), "green")]),
        Panel::new(
            Kind::Stat,
            "Take-overs in 1 h",
            Unit::Count,
            "How often the term has changed in the last hour, as any node has seen it.",
        )
        .query("take-overs", Series::of(TERM).changes("1h").max())
        .steps(&[(None, "green"), (Some(5.0), "orange"), (Some(20.0), "red")]),
        Panel::new(
            Kind::Stat,
            "Shortest lease",
            Unit::Seconds,
            "What is left of the lease that ends first. Leases are renewed at a third of their length: \
             far below two thirds of it the store is slow or cannot be reached.",
        )
        .query("lease", Series::of(LEASE_REMAINING).now().min())
        .steps(&[(None, "red"), (Some(1.0), "orange"), (Some(2.0), "green")]),
        Panel::new(
            Kind::Stat,
            "Shards that are nobody's",
            Unit::Count,
            "Their objects are not worked on. All nodes must agree, since one that is cut off has an old \
             picture.",
        )
        .query("unowned", Series::of(SHARDS_UNOWNED).now().min_by(&["work"]).sum())
        .steps(NONE_IS_WELL)
        .or_say("no shards"),
        Panel::new(
            Kind::States,
            "Roles",
            Unit::State,
            "The role of each node over time. The new leader's lane begins where the old one's ends; a \
             gap is time without a leader, or without a scrape.",
        )
        .query("{{instance}}", role.now().max_by(&["instance"]))
        .state(0, "none", "semi-dark-red")
        .state(1, "leader", "green")
        .state(2, "follower", "blue"),
    ]
}

fn who_leads() -> Vec<Panel> {
    vec![
        Panel::new(
            Kind::Lines,
            "Without a leader",
            Unit::Ratio,
            "1 while no node says that it leads. Hand-overs are shorter than a scrape and do not show.",
        )
        .query("leaderless", Query::raw(format!("1 - clamp_max({}, 1)", masters().sum()))),
        Panel::new(
            Kind::Lines,
            "Leader suspended",
            Unit::Count,
            "1 while the node sees a leader in office that does not act, since its beats come too late or not at all. See the \
             runbook of the alert BellwetherLeaderSuspended.",
        )
        .query("{{instance}}", Series::of(LEADER_SUSPENDED).now().max_by(&["instance"])),
        Panel::new(
            Kind::Lines,
            "Term",
            Unit::Number,
            "The term of each node's picture of the cluster. It only grows; a lane below the others is a \
             node that is behind.",
        )
        .query("{{instance}}", Series::of(TERM).now().max_by(&["instance"])),
        Panel::new(
            Kind::Stacked,
            "Changes of role, by reason",
            Unit::PerSecond,
            "Changes of role, and stops of the leader's work by what stopped it.",
        )
        .query("{{to}}: {{reason}}", Series::of(TRANSITIONS).rate().sum_by(&["to", "reason"])),
        Panel::new(
            Kind::Stacked,
            "Sessions lost, by reason",
            Unit::PerSecond,
            "Incarnations that ended unasked: the node had to join again.",
        )
        .query("{{reason}}", Series::of(SESSIONS_LOST).rate().sum_by(&["reason"]))
        .or_say("none was lost"),
    ]
}

fn how_safely() -> Vec<Panel> {
    let lease = Series::of(LEASE_REMAINING).now().min_by(&["instance"]);
    let authority = Series::of(AUTHORITY_REMAINING).now().max_by(&["instance"]);
    let margin = Series::of(AUTHORITY_MARGIN);
    vec![
        Panel::new(
            Kind::Lines,
            "Lease remaining",
            Unit::Seconds,
            "What is left of each node's lease, counted from when the last renewal was sent.",
        )
        .query("{{instance}}", lease),
        Panel::new(
            Kind::Lines,
            "Authority remaining",
            Unit::Seconds,
            "What is left of the leader's authority, by its own clock; zero on nodes that do not lead. At \
             zero the leader's work is stopped.",
        )
        .query("{{instance}}", authority)
        .query(
            "{{instance}}, shards",
            Series::of(SHARD_AUTHORITY_REMAINING).now().max_by(&["instance"]),
        ),
        Panel::new(
            Kind::Heatmap,
            "Authority left when a beat arrives",
            Unit::Seconds,
            "How close the leader came to losing its authority. Near zero: the store answers so late that \
             the leader will be suspended; a slower failover profile helps, a faster disk more.",
        )
        .query("{{le}}", margin.buckets()),
        Panel::new(
            Kind::Lines,
            "Round trips: beats and renewals",
            Unit::Seconds,
            "How long the leader's beats and the renewals of leases take, median and 99th of a hundred.",
        )
        .query("beat p50", Series::of(BEAT_SECONDS).quantile(0.5, &[]))
        .query("beat p99", Series::of(BEAT_SECONDS).quantile(0.99, &[]))
        .query("renewal p50", Series::of(KEEPALIVE_SECONDS).quantile(0.5, &[]))
        .query("renewal p99", Series::of(KEEPALIVE_SECONDS).quantile(0.99, &[])),
        Panel::new(
            Kind::Lines,
            "Refused by the fence",
            Unit::PerSecond,
            "Writes that were refused because the term or the shard was somebody else's by then. Each one \
             would have been a write by an old leader.",
        )
        .query("{{instance}}", Series::of(STALE_REJECTIONS).rate().sum_by(&["instance"])),
        Panel::new(
            Kind::Lines,
            "Steps of the election",
            Unit::PerSecond,
            "How often each node's driver steps. Zero: it stands still, and its liveness probe fails.",
        )
        .query("{{instance}}", Series::of(DRIVER_STEPS).rate().sum_by(&["instance"])),
    ]
}

fn ticks() -> Vec<Panel> {
    let last = Series::of(LAST_TICK);
    vec![
        Panel::new(
            Kind::Lines,
            "Runs, by result",
            Unit::PerSecond,
            "Runs of the leader's and the followers' routine, by how they ended.",
        )
        .query("{{routine}}: {{result}}", Series::of(TICKS).rate().sum_by(&["routine", "result"]))
        .or_say("no routines"),
        Panel::new(
            Kind::Lines,
            "Since the last good run",
            Unit::Seconds,
            "How long ago a run of each routine last ended well. Grows on nodes whose role the routine is \
             not.",
        )
        .query(
            "{{instance}}: {{routine}}",
            Query::raw(format!("time() - ({last} > 0)")).min_by(&["instance", "routine"]),
        )
        .or_say("no routines"),
        Panel::new(
            Kind::Lines,
            "How long runs take",
            Unit::Seconds,
            "The 99th of a hundred runs of each routine.",
        )
        .query("{{routine}} p99", Series::of(TICK_SECONDS).quantile(0.99, &["routine"]))
        .or_say("no routines"),
        Panel::new(
            Kind::Heatmap,
            "How late runs begin",
            Unit::Seconds,
            "From when a run was due to when it began.",
        )
        .query("{{le}}", Series::of(TICK_LATENESS).buckets())
        .or_say("no routines"),
        Panel::new(
            Kind::Lines,
            "Overruns and skipped ticks",
            Unit::PerSecond,
            "Runs that passed their limit and were cancelled, and ticks that were left out because the \
             run before had not ended, or authority was over.",
        )
        .query("{{routine}}: overrun", Series::of(TICK_OVERRUNS).rate().sum_by(&["routine"]))
        .query("{{routine}}: skipped", Series::of(TICKS_SKIPPED).rate().sum_by(&["routine"]))
        .or_say("no routines"),
        Panel::new(
            Kind::Lines,
            "Panics",
            Unit::PerSecond,
            "Panics of user work, by kind of work. Several in a row cost the leadership.",
        )
        .query("{{work}}", Series::of(PANICS).rate().sum_by(&["work"]))
        .or_say("none"),
    ]
}

fn shards() -> Vec<Panel> {
    let owned = Series::of(SHARDS_OWNED);
    let per_node = owned.now().sum_by(&["instance", "work"]);
    vec![
        Panel::new(
            Kind::Stacked,
            "Shards by owner",
            Unit::Count,
            "Shards that each node works on. The height is constant: a dent is work that is not done.",
        )
        .query("{{instance}}: {{work}}", per_node.clone())
        .or_say("no shards"),
        Panel::new(
            Kind::Lines,
            "How even",
            Unit::Ratio,
            "The fullest node's share of the mean of the nodes that have shards. 1 is even; the plan keeps \
             it below 1.05 where the number of shards allows it.",
        )
        .query(
            "{{work}}",
            Query::raw(format!(
                "max by (work) ({per_node} > 0) / avg by (work) ({per_node} > 0)"
            )),
        )
        .or_say("no shards"),
        Panel::new(
            Kind::Stacked,
            "Moves",
            Unit::PerSecond,
            "Shards that nodes have gained and lost.",
        )
        .query("{{work}}: {{direction}}", Series::of(SHARD_MOVES).rate().sum_by(&["work", "direction"]))
        .or_say("no shards"),
        Panel::new(
            Kind::Lines,
            "Between owners",
            Unit::Count,
            "Shards that are being let go of, that are overdue in it, and that are nobody's.",
        )
        .query("{{work}}: draining", Series::of(SHARDS_DRAINING).now().sum_by(&["work"]))
        .query("{{work}}: overdue", Series::of(DRAINS_OVERDUE).now().sum_by(&["work"]))
        .query("{{work}}: nobody's", Series::of(SHARDS_UNOWNED).now().min_by(&["work"]))
        .or_say("no shards"),
        Panel::new(
            Kind::Lines,
            "How long letting go takes",
            Unit::Seconds,
            "From asking the work of a shard to end to its end, the 99th of a hundred.",
        )
        .query("{{work}} p99", Series::of(DRAIN_SECONDS).quantile(0.99, &["work"]))
        .or_say("none was let go of"),
    ]
}

fn store() -> Vec<Panel> {
    vec![
        Panel::new(
            Kind::Stacked,
            "Calls, by kind",
            Unit::PerSecond,
            "Calls of the protocol to the store. An idle cluster has beats and renewals only.",
        )
        .query("{{kind}}", Series::of(STORE_CALLS).rate().sum_by(&["kind"])),
        Panel::new(
            Kind::Lines,
            "Calls that were not answered well",
            Unit::PerSecond,
            "By result. Refused: somebody else's write came first, which is normal in a contest. Unknown: \
             nobody knows whether it took effect, and it is found out by reading.",
        )
        .query(
            "{{kind}}: {{result}}",
            Series::of(STORE_CALLS).without("result", "done").rate().sum_by(&["kind", "result"]),
        )
        .or_say("none"),
        Panel::new(
            Kind::Lines,
            "How long calls take",
            Unit::Seconds,
            "The 99th of a hundred calls of each kind.",
        )
        .query("{{kind}} p99", Series::of(STORE_CALL_SECONDS).quantile(0.99, &["kind"])),
        Panel::new(
            Kind::Lines,
            "How old the picture is",
            Unit::Seconds,
            "How long ago each node's watch last delivered anything, and how long a beat takes to come \
             back by it.",
        )
        .query("{{instance}}", Series::of(VIEW_AGE).now().max_by(&["instance"]))
        .query("own beat p99", Series::of(WATCH_LAG).quantile(0.99, &[])),
        Panel::new(
            Kind::Lines,
            "Lists again",
            Unit::PerSecond,
            "How often a node's picture had to be listed again: after a compaction, or for another member \
             of etcd.",
        )
        .query("{{instance}}", Series::of(WATCH_RESYNCS).rate().sum_by(&["instance"])),
    ]
}

fn process() -> Vec<Panel> {
    vec![
        Panel::new(Kind::Lines, "CPU", Unit::Ratio, "Cores that each process uses.")
            .query("{{instance}}", Series::of(CPU_SECONDS).rate().sum_by(&["instance"])),
        Panel::new(Kind::Lines, "Memory", Unit::Bytes, "Resident memory of each process.")
            .query("{{instance}}", Series::of(RESIDENT_MEMORY).now().sum_by(&["instance"])),
        Panel::new(
            Kind::Lines,
            "Descriptors and threads",
            Unit::Count,
            "Open file descriptors and threads of each process. Neither grows with time.",
        )
        .query("{{instance}}: descriptors", Series::of(OPEN_FDS).now().sum_by(&["instance"]))
        .query("{{instance}}: threads", Series::of(THREADS).now().sum_by(&["instance"])),
        Panel::new(
            Kind::Table,
            "What runs",
            Unit::Number,
            "Version and commit of each node. More than one version: an update is under way.",
        )
        .query("", Series::of(BUILD_INFO).now().max_by(&["instance", "version", "commit"]))
        .sized(12, 8),
    ]
}
