//! `Election`: the leader of a cluster, its other nodes and the distribution of its work, for `kubectl get`.
//!
//! The status informs people and other programs. No authority depends on it: authority comes from the record
//! in the store. Only the fence number is drawn from this object, by compare-and-swap on its resourceVersion.

#![allow(clippy::duplicated_attributes, reason = "columns share their types and priorities")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{schema, value::UnixMs};
use crate::store::keys::MAX_CLUSTER_BYTES;

/// Kind of the resource.
#[doc(hidden)]
pub const KIND: &str = "Election";
/// Maximum number of nodes in a status: the first by id. `nodeCount` counts all nodes.
#[doc(hidden)]
pub const MOST_NODES: usize = 1000;
/// Maximum number of kinds of work in a status.
#[doc(hidden)]
pub const MOST_WORKS: usize = 64;
/// Longest summary of the operator's work, in characters.
#[doc(hidden)]
pub const MOST_SUMMARY_CHARS: usize = 256;
/// Longest name and address of a node, in characters.
pub(crate) const MOST_NAME: usize = 253;

/// Name of the cluster that the election belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, CustomResource, JsonSchema)]
#[kube(
    group = "bellwether.dev",
    version = "v1alpha1",
    kind = "Election",
    namespaced,
    status = "ElectionStatus",
    derive = "PartialEq",
    shortname = "el",
    category = "bellwether",
    doc = "Who leads a bellwether cluster, which nodes it has and how its work is shared. One per cluster, in the \
           namespace of its pods, written by the leader. It informs; the election itself is held in the store.",
    printcolumn(
        name = "Leader",
        type_ = "string",
        json_path = ".status.leader.name",
        description = "The pod that leads, or its node where it is no pod"
    ),
    printcolumn(
        name = "Term",
        type_ = "integer",
        json_path = ".status.term",
        description = "The term, which only grows"
    ),
    printcolumn(
        name = "Nodes",
        type_ = "integer",
        json_path = ".status.nodeCount",
        description = "How many nodes are live"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether somebody leads and the work goes on"
    ),
    printcolumn(
        name = "Since",
        type_ = "date",
        json_path = ".status.since",
        description = "How long the leader has been in office"
    ),
    printcolumn(
        name = "Reported",
        type_ = "date",
        json_path = ".status.reportedAt",
        description = "How long ago a leader last reported; more than 90 s: not current"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "How long ago it was created"
    ),
    printcolumn(
        name = "Node",
        type_ = "integer",
        json_path = ".status.leader.node",
        description = "The leader's node id",
        priority = 1
    ),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.leader.address",
        description = "The leader's address",
        priority = 1
    ),
    printcolumn(
        name = "Fence",
        type_ = "integer",
        json_path = ".status.fence",
        description = "The number that fences Kubernetes writes of this term",
        priority = 1
    ),
    printcolumn(
        name = "Shards",
        type_ = "integer",
        json_path = ".status.shards.total",
        description = "How many shards all work has",
        priority = 1
    ),
    printcolumn(
        name = "Unowned",
        type_ = "integer",
        json_path = ".status.shards.unowned",
        description = "How many shards nobody works on",
        priority = 1
    ),
    printcolumn(
        name = "Summary",
        type_ = "string",
        json_path = ".status.summary",
        description = "The state of the operator's own work",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ElectionSpec {
    /// The cluster's name, as its nodes are started with. Cannot be changed.
    #[schemars(
        length(min = 1, max = MAX_CLUSTER_BYTES),
        extend("x-kubernetes-validations" = [schema::rule(
            "self == oldSelf",
            "cannot be changed: an Election belongs to one cluster, create another one"
        )])
    )]
    pub cluster: String,
}

/// State of the cluster, as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ElectionStatus {
    /// The node that leads. Missing while none does, and while it is not known whether one does: `Ready` is then
    /// `False` or `Unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<ElectionLeader>,
    /// The term: the fencing token of everything that is written to the store. The term only grows, unless the
    /// store was wiped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub term: Option<i64>,
    /// The number that this term's writes to Kubernetes carry in the annotation `bellwether.dev/fence`. The
    /// number only grows, even if the store was wiped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub fence: Option<i64>,
    /// When the leader took office.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// When this was last reported. A leader reports at least every 30 s: what is older than 90 s is not current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_at: Option<UnixMs>,
    /// How many nodes are live. Missing where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub node_count: Option<i32>,
    /// The live nodes, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MOST_NODES),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"])
    )]
    pub nodes: Vec<ElectionNode>,
    /// How the shards of all work are shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<ElectionShards>,
    /// The state of the operator's own work in one line, for example `13 checks: 12 up, 1 down`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MOST_SUMMARY_CHARS))]
    pub summary: Option<String>,
    /// `metadata.generation` of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: a node leads and the work goes on; `Unknown` when the leader lost its authority and no successor has
    /// reported. `Stable`: the leader has not changed lately.
    /// `ShardsOwned`: every shard has an owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// The node that leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ElectionLeader {
    /// Node id of the leader.
    #[schemars(range(min = 0))]
    pub node: i64,
    /// Name for people: the leader's pod, or `node 3` for a leader outside of a pod.
    #[schemars(length(max = MOST_NAME))]
    pub name: String,
    /// Pod of the node. Missing for a node outside of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MOST_NAME))]
    pub pod: Option<String>,
    /// Where it is reached, with its port.
    #[schemars(length(max = MOST_NAME))]
    pub address: String,
}

/// State of a live node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ElectionNode {
    /// Node id: the ordinal of a `StatefulSet`'s pod, else a number of up to 63 bits.
    #[schemars(range(min = 0))]
    pub id: i64,
    /// Pod of the node. Missing for a node outside of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MOST_NAME))]
    pub pod: Option<String>,
    /// Where it is reached, with its port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = MOST_NAME))]
    pub address: String,
    /// `leader`, `follower`, or `unknown` while it joins.
    #[serde(default)]
    pub role: ElectionRole,
    /// Lease of this incarnation of the node, in hexadecimal. Each restart makes a new one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 32))]
    pub incarnation: String,
    /// How many shards it works on.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub shards_owned: i32,
    /// When the leader last saw it alive; written coarsely, as each change is a write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<UnixMs>,
}

/// The role of a node, in the API's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ElectionRole {
    /// The node is joining, or has lost its session.
    #[default]
    Unknown,
    /// The node leads the cluster.
    Leader,
    /// The node works on its shards.
    Follower,
}

/// The shards of all work, and of each kind of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ElectionShards {
    /// How many there are.
    #[schemars(range(min = 0))]
    pub total: i32,
    /// How many have an owner that works on them.
    #[schemars(range(min = 0))]
    pub owned: i32,
    /// How many are being given up by their owner, to be another's.
    #[schemars(range(min = 0))]
    pub draining: i32,
    /// Number of shards that no node works on.
    #[schemars(range(min = 0))]
    pub unowned: i32,
    /// The same for each kind of work, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MOST_WORKS),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["work"])
    )]
    pub works: Vec<WorkShards>,
}

/// The shards of one kind of work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkShards {
    /// The kind of work.
    #[schemars(length(min = 1, max = MOST_NAME))]
    pub work: String,
    /// How many there are.
    #[schemars(range(min = 0))]
    pub total: i32,
    /// How many have an owner that works on them.
    #[schemars(range(min = 0))]
    pub owned: i32,
    /// How many are being given up by their owner, to be another's.
    #[schemars(range(min = 0))]
    pub draining: i32,
    /// Number of shards that no node works on.
    #[schemars(range(min = 0))]
    pub unowned: i32,
}
