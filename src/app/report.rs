//! The report that `status`, `nodes`, `leader` and `shards` print, in one shape for all sources: the store, a node's
//! status server, or an `Election`.

use std::time::Duration;

use serde::Serialize;

use super::{
    live::patience,
    output::{Table, printable, span},
};
pub(crate) use crate::clock::millis as ms;
use crate::{
    engine::{ClusterView, Holder, LeaseId, NodeId, Role, Term},
    k8s::{
        conditions::{self, Holds},
        crd::{
            condition,
            election::{Election, ElectionNode, ElectionRole, ElectionStatus, WorkShards},
        },
        election::CURRENT_FOR,
        fence::ElectionRef,
    },
    node::status::{Kind, LeaderStatus, NodeStatus, Status, WorkStatus},
};

/// A cluster, for printing. Numbers that can exceed 2^53 are strings in JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) cluster: String,
    /// Revision of the store that the report is of.
    pub(crate) revision: String,
    /// The leader, unless it has stopped acting.
    pub(crate) leader: Option<LeaderStatus>,
    /// The node that is in office and has stopped acting, if one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_acting: Option<NotActing>,
    /// Reason that the report may be out of date: the source no longer answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_current: Option<String>,
    /// Reason that the leader is not known: an `Election` does not name it or is not current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_known: Option<String>,
    /// D (failover time) of the leader: silence after which the leader is deposed.
    pub(crate) failover_d_ms: Option<u64>,
    pub(crate) tick_ms: Option<f64>,
    /// Whether the current term was asked to end and has not ended yet.
    pub(crate) resigning: bool,
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) work: Vec<WorkStatus>,
    /// The `Election` in Kubernetes, if the report is from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) election: Option<Picture>,
    /// Numbers of shards of each work type, if the report is from an `Election`, which does not list single shards.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) work_counts: Vec<WorkCounts>,
}

/// A node in office that does not act: no node leads until this node acts again, or another node takes office.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct NotActing {
    #[serde(flatten)]
    pub(crate) node: LeaderStatus,
    /// Time without a beat, as far as is known; `None` if the node's beats arrive and show that it may not act.
    pub(crate) silent_ms: Option<u64>,
}

impl NotActing {
    /// Describes the node and the reason in a clause that begins with the node.
    pub(crate) fn says(&self) -> String {
        let Self { node, silent_ms } = self;
        let at = node.address.as_deref().map(|it| format!(" at {}", printable(it)));
        let why = match silent_ms {
            Some(silent_ms) => format!("silent for {}", span(*silent_ms)),
            None => "its beats reach the store, and their answers come too late".into(),
        };
        format!(
            "node {}{} is in office for term {} and suspended: {why}",
            node.id,
            at.unwrap_or_default(),
            node.term,
        )
    }
}

/// An `Election`, as the leader last wrote it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Picture {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Time of a leader's last report. A leader reports twice a minute if nothing changes.
    pub(crate) told_unix_ms: Option<u64>,
    /// Whether the last report is recent enough to be trusted.
    pub(crate) current: bool,
}

/// Numbers of shards of one work type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct WorkCounts {
    pub(crate) work: String,
    pub(crate) shards: u32,
    pub(crate) held: u32,
    pub(crate) draining: u32,
    pub(crate) unowned: u32,
}

/// Whether a report of that time is trusted now: it is at most [`CURRENT_FOR`] away from now. A time in the future is
/// limited too, so that a clock set far ahead does not make a report current for as long as the clock is ahead.
fn is_current(told_unix_ms: Option<u64>, now_unix_ms: u64) -> bool {
    told_unix_ms.is_some_and(|told| told.abs_diff(now_unix_ms) <= ms(CURRENT_FOR))
}

/// Time of a leader's last report. An `Election` of an earlier version has only the times when nodes were last seen.
pub(crate) fn told_unix_ms(status: &ElectionStatus) -> Option<u64> {
    let seen = status.nodes.iter().filter_map(|it| it.last_seen).max();
    status.reported_at.or(seen).map(|it| it.0)
}

/// Reason that the leader is not known, if it is not: the leader lost its authority, or no leader updates the status.
pub(crate) fn not_known(status: &ElectionStatus, now_unix_ms: u64) -> Option<String> {
    let told = told_unix_ms(status);
    let ago = told.map_or_else(
        || "at an unknown time".to_owned(),
        |told| match now_unix_ms.checked_sub(told) {
            Some(ago) => format!("{} ago", span(ago)),
            None => "by a clock that is ahead".to_owned(),
        },
    );
    if let Some(leader) = &status.leader {
        return (!is_current(told, now_unix_ms)).then(|| {
            let term = status.term.unwrap_or_default();
            format!(
                "{} led in term {term} as reported {ago}, and no leader has reported since",
                leader.name
            )
        });
    }
    let ready = conditions::find(&status.conditions, condition::READY)?;
    (ready.status == Holds::Unknown.as_str())
        .then(|| format!("{}, as reported {ago}", ready.message))
}

impl Report {
    /// Report from the store. `last_beat_unix_ms` is known only after a watch, and `silence` only after a wait without a
    /// beat, see [`Live::silence_of_the_leader`](super::live::Live::silence_of_the_leader).
    pub(crate) fn of_view(
        cluster: &str,
        view: &ClusterView,
        last_beat_unix_ms: Option<u64>,
        silence: Option<Duration>,
    ) -> Self {
        let leader = view.leader();
        let mut nodes = NodeStatus::all(view);
        for node in &mut nodes {
            if view.address_of(node.id).is_none() {
                "(unreadable)".clone_into(&mut node.address);
            }
        }
        Self {
            cluster: cluster.to_owned(),
            revision: view.revision().to_string(),
            leader: leader
                .map(|it| LeaderStatus { last_beat_unix_ms, ..LeaderStatus::of(view, &it) }),
            failover_d_ms: leader.and_then(|it| it.d).map(ms),
            tick_ms: view.tick().map(|it| it.as_secs_f64() * 1_000.0),
            resigning: leader.is_some_and(|it| Some(it.term) == view.resign_request()),
            nodes,
            work: WorkStatus::all(view),
            ..Self::default()
        }
        .judged(silence.map(ms))
    }

    /// The report with the name of a leader that is no node.
    pub(crate) fn naming(mut self, name: Option<String>) -> Self {
        if let (Some(leader), Some(name)) = (&mut self.leader, name) {
            leader.address = Some(name);
        }
        self
    }

    /// The report with its leader moved to `not_acting` if the leader is suspended or has been silent.
    fn judged(mut self, silent_ms: Option<u64>) -> Self {
        let is_suspended = |it: &mut LeaderStatus| it.suspended || silent_ms.is_some();
        let Some(mut node) = self.leader.take_if(is_suspended) else { return self };
        node.suspended = true;
        for it in self.nodes.iter_mut().filter(|it| it.id == node.id) {
            it.role = Role::Unknown;
        }
        self.not_acting = Some(NotActing { node, silent_ms });
        self
    }

    /// Report from a node's `/status`.
    pub(crate) fn of_status(status: Status) -> Self {
        // A node of an earlier version shows the roles that the nodes claim for themselves.
        let leads = |id| status.leader.as_ref().is_some_and(|it| it.id == id);
        let mut nodes = status.nodes;
        for node in nodes.iter_mut().filter(|it| it.role == Role::Leader && !leads(it.id)) {
            node.role = Role::Unknown;
        }
        let heard = status.leader.as_ref().and_then(|it| it.last_beat_unix_ms);
        let silent_ms = heard.map(|at| status.at_unix_ms.saturating_sub(at));
        let patience = patience(Duration::from_millis(status.node.failover_d_ms));
        let silent_ms = silent_ms.filter(|silent| ms(patience) < *silent);
        Self {
            cluster: status.cluster,
            revision: status.store.revision.to_string(),
            leader: status.leader,
            failover_d_ms: Some(status.node.failover_d_ms),
            tick_ms: Some(status.node.tick_ms),
            nodes,
            work: status.work,
            ..Self::default()
        }
        .judged(silent_ms)
    }

    /// Report from an `Election`, which the leader writes and which holds less than the other sources. A leader that
    /// has not reported for too long is not named.
    pub(crate) fn of_election(place: &ElectionRef, election: Election, now_unix_ms: u64) -> Self {
        let status = election.status.unwrap_or_default();
        let (told, not_known) = (told_unix_ms(&status), not_known(&status, now_unix_ms));
        let works = status.shards.map(|it| it.works).unwrap_or_default();
        let mut nodes: Vec<NodeStatus> = status.nodes.into_iter().map(pictured).collect();
        if not_known.is_some() {
            for node in &mut nodes {
                node.role = Role::Unknown;
            }
        }
        Self {
            cluster: place.cluster.clone(),
            // An `Election` does not carry the store's revision.
            revision: "0".into(),
            leader: status.leader.filter(|_| not_known.is_none()).map(|it| LeaderStatus {
                id: node_id(it.node),
                address: Some(it.address).filter(|it| !it.is_empty()),
                term: Term(status.term.unwrap_or_default()),
                last_beat_unix_ms: None,
                suspended: false,
            }),
            not_known,
            nodes,
            election: Some(Picture {
                namespace: place.namespace.clone(),
                name: place.name(),
                told_unix_ms: told,
                current: is_current(told, now_unix_ms),
            }),
            work_counts: works.into_iter().map(counted).collect(),
            ..Self::default()
        }
    }

    /// The whole report, for people.
    pub(crate) fn render(&self, now_unix_ms: u64) -> String {
        let tick = self.tick_ms.map(|it| format!("   tick {it}ms")).unwrap_or_default();
        let mut parts = vec![match &self.election {
            None => format!("cluster {}   revision {}{tick}\n", self.cluster, self.revision),
            Some(it) => format!("cluster {}   {}\n", self.cluster, it.render(now_unix_ms)),
        }];
        parts.push(self.render_leader(now_unix_ms));
        parts.push("\n".into());
        parts.push(match self.nodes.as_slice() {
            [] => "no nodes\n".into(),
            _ => self.render_nodes(now_unix_ms),
        });
        if !self.work.is_empty() || !self.work_counts.is_empty() {
            parts.push("\n".into());
            parts.push(self.render_work());
        }
        if let Some(why) = &self.not_current {
            parts.push(format!("\nNOT CURRENT: {}\n", printable(why)));
        }
        parts.concat()
    }

    /// The line about the leader.
    pub(crate) fn render_leader(&self, now_unix_ms: u64) -> String {
        if let Some(it) = &self.not_acting {
            return format!("leader: nobody acts, {}\n", it.says());
        }
        if let Some(why) = &self.not_known {
            return format!("leader: not known, {}\n", printable(why));
        }
        let Some(leader) = &self.leader else { return "leader: nobody\n".into() };
        let at = leader.address.as_deref().map(|it| format!(" at {}", printable(it)));
        let mut parts = vec![format!("leader {}{}", leader.id, at.unwrap_or_default())];
        parts.push(format!("term {}", leader.term));
        if let Some(d) = self.failover_d_ms {
            parts.push(format!("deposed after {} of silence", span(d + d / 10)));
        }
        if let Some(beat) = leader.last_beat_unix_ms {
            parts.push(format!("last beat {} ago", span(now_unix_ms.saturating_sub(beat))));
        }
        if let Some(told) = self.election.as_ref().and_then(|it| it.told_unix_ms) {
            parts.push(format!("reported {} ago", span(now_unix_ms.saturating_sub(told))));
        }
        if self.resigning {
            parts.push("asked to resign".into());
        }
        parts.join(", ") + "\n"
    }

    /// Table of the nodes, by id.
    pub(crate) fn render_nodes(&self, now_unix_ms: u64) -> String {
        let mut table =
            Table::new(&["NODE", "ADDRESS", "ROLE", "KIND", "AGE", "QUEUE", "SHARDS", "NOTE"]);
        for node in &self.nodes {
            table.row([
                node.id.to_string(),
                node.address.clone(),
                node.role.to_string(),
                node.kind.to_string(),
                match node.start_unix_ms {
                    0 => "-".into(),
                    start => span(now_unix_ms.saturating_sub(start)),
                },
                node.queue.map_or_else(|| "-".into(), |it| it.to_string()),
                node.shards.to_string(),
                if node.draining { "draining".into() } else { String::new() },
            ]);
        }
        table.render()
    }

    /// Table of the work types, with numbers of shards.
    pub(crate) fn render_work(&self) -> String {
        let mut table = Table::new(&["WORK", "SHARDS", "HELD", "DRAINING", "UNOWNED", "PER NODE"]);
        for work in &self.work {
            let held: Vec<&Holder> = work.held_by.iter().flatten().collect();
            let per_node = self.nodes.iter().filter_map(|node| {
                let count = held.iter().filter(|it| ***it == Holder::Node(node.id)).count();
                (count > 0).then(|| format!("{}:{count}", node.id))
            });
            table.row([
                work.work.clone(),
                work.held_by.len().to_string(),
                held.len().to_string(),
                work.draining.len().to_string(),
                work.unowned.to_string(),
                per_node.collect::<Vec<_>>().join(" "),
            ]);
        }
        for it in &self.work_counts {
            let counts = [it.shards, it.held, it.draining, it.unowned].map(|it| it.to_string());
            let [shards, held, draining, unowned] = counts;
            table.row([it.work.clone(), shards, held, draining, unowned, "-".into()]);
        }
        table.render()
    }
}

impl Picture {
    fn render(&self, now_unix_ms: u64) -> String {
        let object = format!("election {}/{}", self.namespace, self.name);
        let Some(told) = self.told_unix_ms else {
            return format!("{object}, nothing reported yet");
        };
        let ago = span(now_unix_ms.saturating_sub(told));
        let doubt = if self.current { "" } else { ": NOT CURRENT, no leader keeps it" };
        format!("{object}, reported {ago} ago{doubt}")
    }
}

fn pictured(node: ElectionNode) -> NodeStatus {
    NodeStatus {
        id: node_id(node.id),
        address: node.address,
        role: match node.role {
            ElectionRole::Leader => Role::Leader,
            ElectionRole::Follower => Role::Follower,
            ElectionRole::Unknown => Role::Unknown,
        },
        start_unix_ms: 0,
        incarnation: i64::from_str_radix(&node.incarnation, 16).ok().map(LeaseId),
        kind: Kind::Unknown,
        shards: count(node.shards_owned),
        draining: false,
        queue: None,
    }
}

/// The schema of an `Election` allows no negative ids.
fn node_id(id: i64) -> NodeId {
    NodeId::new(id).unwrap_or_default()
}

fn counted(work: WorkShards) -> WorkCounts {
    WorkCounts {
        work: work.work,
        shards: count(work.total),
        held: count(work.owned),
        draining: count(work.draining),
        unowned: count(work.unowned),
    }
}

/// The API has no unsigned numbers.
fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests;
