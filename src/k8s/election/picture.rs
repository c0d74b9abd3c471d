//! The status of the `Election` object, computed from the leader's [`Status`]. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde::Deserialize;

use crate::{
    engine::{NodeId, Role},
    k8s::{
        conditions::{self, Holds},
        crd::{
            condition, cut_to,
            election::{
                ElectionLeader, ElectionNode, ElectionRole, ElectionShards, ElectionStatus,
                MOST_NAME, MOST_NODES, MOST_SUMMARY_CHARS, MOST_WORKS, WorkShards,
            },
            value::UnixMs,
        },
    },
    node::{
        KV,
        status::{NodeStatus, Status, WorkStatus},
    },
};

/// Time in office after which a leader counts as stable.
const STABLE_AFTER_MS: u64 = 5 * 60 * 1000;

/// Pods that the nodes run in.
#[derive(Debug, Default)]
pub(super) struct Pods(BTreeMap<NodeId, Told>);

#[derive(Debug, Deserialize)]
struct Told {
    name: String,
    uid: String,
}

impl Pods {
    /// Reads the pods from the values that the nodes published. A malformed value is skipped.
    pub(super) fn read(told: &BTreeMap<NodeId, Vec<KV>>) -> Self {
        let read = |(node, kvs): (&NodeId, &Vec<KV>)| {
            let kv = kvs.iter().find(|kv| kv.key == super::POD_KEY)?;
            Some((*node, serde_json::from_slice(&kv.value).ok()?))
        };
        Self(told.iter().filter_map(read).collect())
    }

    /// Name and UID of a node's pod.
    pub(super) fn of(&self, node: NodeId) -> Option<(&str, &str)> {
        self.0.get(&node).map(|told| (told.name.as_str(), told.uid.as_str()))
    }

    /// Node, name and UID of all pods.
    pub(super) fn all(&self) -> impl Iterator<Item = (NodeId, &str, &str)> {
        self.0.iter().map(|(node, told)| (*node, told.name.as_str(), told.uid.as_str()))
    }

    fn name_of(&self, id: NodeId) -> Option<String> {
        self.of(id).map(|(name, _)| name.to_owned())
    }
}

/// The status of the `Election`. Conditions whose status is as in `before` keep their transition times.
pub(super) fn picture(
    status: &Status,
    pods: &Pods,
    before: Option<&ElectionStatus>,
    now_ms: u64,
) -> ElectionStatus {
    let leader = status.leader.as_ref().map(|leader| {
        let pod = pods.name_of(leader.id);
        ElectionLeader {
            node: leader.id.get(),
            name: pod.clone().unwrap_or_else(|| format!("node {}", leader.id)),
            pod,
            address: cut_to(leader.address.clone().unwrap_or_default(), MOST_NAME),
        }
    });
    let since = status.timeline.last().map(|reign| UnixMs(reign.from_unix_ms));
    let nodes = status.nodes.iter().take(MOST_NODES);
    let mut new = ElectionStatus {
        leader,
        since,
        node_count: Some(count_of(status.nodes.len())),
        nodes: nodes.map(|node| node_of(node, pods, now_ms)).collect(),
        shards: shards_of(&status.work),
        reported_at: Some(second(now_ms)),
        conditions: before.map(|it| it.conditions.clone()).unwrap_or_default(),
        ..ElectionStatus::default()
    };
    judge(&mut new, now_ms);
    new
}

fn node_of(node: &NodeStatus, pods: &Pods, now_ms: u64) -> ElectionNode {
    ElectionNode {
        id: node.id.get(),
        pod: pods.name_of(node.id),
        address: cut_to(node.address.clone(), MOST_NAME),
        role: match node.role {
            Role::Leader => ElectionRole::Leader,
            Role::Follower => ElectionRole::Follower,
            Role::Unknown => ElectionRole::Unknown,
        },
        incarnation: node.incarnation.map(|lease| lease.to_string()).unwrap_or_default(),
        shards_owned: i32::try_from(node.shards).unwrap_or(i32::MAX),
        last_seen: Some(second(now_ms)),
    }
}

fn shards_of(works: &[WorkStatus]) -> Option<ElectionShards> {
    if works.is_empty() {
        return None;
    }
    let mut all = ElectionShards::default();
    for work in works {
        let total = count_of(work.held_by.len());
        let unowned = i32::try_from(work.unowned).unwrap_or(i32::MAX);
        let one = WorkShards {
            work: work.work.clone(),
            total,
            owned: count_of(work.held_by.iter().flatten().count()),
            draining: count_of(work.draining.len()),
            unowned,
        };
        all.total = all.total.saturating_add(one.total);
        all.owned = all.owned.saturating_add(one.owned);
        all.draining = all.draining.saturating_add(one.draining);
        all.unowned = all.unowned.saturating_add(one.unowned);
        if all.works.len() < MOST_WORKS {
            all.works.push(one);
        }
    }
    Some(all)
}

/// Sets the conditions from the other fields of a status that a leader reports.
fn judge(status: &mut ElectionStatus, now_ms: u64) {
    let led = status.leader.is_some();
    let since = status.since.map_or(now_ms, |since| since.0);
    let unowned = status.shards.as_ref().map_or(0, |shards| shards.unowned);
    let (conditions, generation) = (&mut status.conditions, status.observed_generation);
    let ready = if led {
        ("LeaderInOffice", "a leader is in office".to_owned())
    } else {
        ("NoLeader", "nobody is in office".to_owned())
    };
    let stable = STABLE_AFTER_MS <= now_ms.saturating_sub(since);
    let steady = if stable {
        ("NoRecentChange", "the leader has not changed for five minutes".to_owned())
    } else {
        ("RecentlyChanged", "the leader took office less than five minutes ago".to_owned())
    };
    let owned = if unowned == 0 {
        ("AllOwned", "every shard has an owner".to_owned())
    } else {
        ("Unowned", format!("{unowned} shards have no owner"))
    };
    for (type_, holds, (reason, message)) in [
        (condition::READY, led, ready),
        (condition::STABLE, led && stable, steady),
        (condition::SHARDS_OWNED, unowned == 0, owned),
    ] {
        conditions::set(conditions, type_, Holds::from(holds), (reason, &message), generation);
    }
}

/// Knowledge about the leader of a cluster in which no leader reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// No node leads the cluster.
    NoLeader,
    /// Whether a node leads is not known.
    No,
}

/// Sets the conditions while no leader reports.
pub(super) fn judge_without_leader(status: &mut ElectionStatus, known: Known, message: &str) {
    let (conditions, generation) = (&mut status.conditions, status.observed_generation);
    let (holds, reason) = match known {
        Known::NoLeader => (Holds::False, "NoLeader"),
        Known::No => (Holds::Unknown, "LeaderLost"),
    };
    let shards = "no leader reports on the shards";
    for (type_, holds, message) in [
        (condition::READY, holds, message),
        (condition::STABLE, holds, message),
        (condition::SHARDS_OWNED, Holds::Unknown, shards),
    ] {
        conditions::set(conditions, type_, holds, (reason, message), generation);
    }
}

/// Copies the transition times of conditions whose status is unchanged, whichever node wrote them.
pub(super) fn carry_times(new: &mut ElectionStatus, found: Option<&ElectionStatus>) {
    let Some(found) = found else { return };
    for condition in &mut new.conditions {
        condition.observed_generation = new.observed_generation;
        if let Some(old) = conditions::find(&found.conditions, &condition.type_)
            && old.status == condition.status
        {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
}

/// Adds the summary of the operator's work. Until this leader has one, the status keeps the last leader's.
pub(super) fn summarise(
    status: &mut ElectionStatus,
    summary: Option<String>,
    last: Option<&ElectionStatus>,
) {
    status.summary = match summary {
        Some(summary) => Some(cut_to(summary, MOST_SUMMARY_CHARS)),
        None => last.and_then(|last| last.summary.clone()),
    };
}

/// Whether two statuses are equal, apart from the times and `observed_generation`.
pub(super) fn is_same_but_seen(old: &ElectionStatus, new: &ElectionStatus) -> bool {
    let blind = |status: &ElectionStatus| {
        let mut status = status.clone();
        status.nodes.iter_mut().for_each(|node| node.last_seen = None);
        (status.observed_generation, status.reported_at) = (None, None);
        for condition in &mut status.conditions {
            condition.observed_generation = None;
            condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        }
        status
    };
    blind(old) == blind(new)
}

pub(super) fn count_of(many: usize) -> i32 {
    i32::try_from(many).unwrap_or(i32::MAX)
}

/// A time in whole seconds.
pub(super) const fn second(unix_ms: u64) -> UnixMs {
    UnixMs(unix_ms / 1000 * 1000)
}
