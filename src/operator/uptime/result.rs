//! Data of a run: the claim before it, the result after it, and where these are stored.
//!
//! | what | where | written by | lives |
//! | --- | --- | --- | --- |
//! | claims of a shard | `claims`, of the shard's fenced data | the shard's owner, before each run | until changed |
//! | result of a check | `uptime/{shard}/{namespace}/{name}`, node state | the node that ran it | with that node |
//! | statuses of a shard's checks | see [`super::leader`], of the leader's fenced data | the leader | until the check is gone |
//!
//! All are JSON. Malformed data is treated as absent, and a metric counts it: any client may write to a store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    WORK,
    check::{CheckKey, SpecHash},
    probe::Verdict,
    schedule::{Known, Slot},
    value::UnixMs,
};
use crate::engine::{ShardEpoch, ShardId};

#[cfg(test)]
mod tests;

/// Claim of the last run of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Hash of the check's spec.
    pub spec: SpecHash,
    /// Start of the slot, in milliseconds of Unix time.
    pub due_unix_ms: u64,
    /// Last slot of this spec whose result was published, as far as known when the claim was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_unix_ms: Option<u64>,
    /// Number of runs that had failed in a row up to that slot.
    pub failures: u32,
    /// Whether that run was answered in good time: the next owner need not find this out then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
}

/// Claims of a shard's checks.
pub type Claims = BTreeMap<CheckKey, Claim>;

impl Claim {
    /// Returns what this claim shows about the slots of a check with this spec.
    pub fn known(claim: Option<&Self>, spec: SpecHash) -> Known {
        match claim {
            Some(claim) if claim.spec == spec => Known::Claimed(Slot(claim.due_unix_ms)),
            // Slots of another spec do not count for this one.
            Some(_) | None => Known::Nothing,
        }
    }
}

/// Result of the last run of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// Hash of the check's spec.
    pub spec: SpecHash,
    /// `metadata.generation` of the check that was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Start of the slot, in milliseconds of Unix time.
    pub due_unix_ms: u64,
    /// Start of the run, in milliseconds of Unix time of the node that ran it.
    pub ran_unix_ms: u64,
    /// Epoch of the shard's owner that ran it: newer owners of a shard have higher epochs.
    pub epoch: ShardEpoch,
    /// Whether the target did what is expected.
    pub verdict: Verdict,
    /// Time until the answer came, in microseconds. `None` if there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// Expiry of the server's certificate, if the run saw one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<UnixMs>,
    /// Answer of the target, or the error.
    pub message: String,
    /// Number of runs that have failed in a row, this one included.
    pub failures: u32,
    /// Last earlier slot of this spec that is known to have a result. Slots in between were missed, unless a
    /// result of theirs was seen: a node may have died before it could store that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_unix_ms: Option<u64>,
}

/// Returns the key of a result in the state of the node that ran the check.
pub fn result_key(shard: ShardId, check: &CheckKey) -> String {
    format!("{WORK}/{shard}/{check}")
}

/// Parses the shard and the check from a result's key; `None` for any other key.
pub fn parse_result_key(key: &str) -> Option<(ShardId, CheckKey)> {
    let (shard, check) = key.strip_prefix(WORK)?.strip_prefix('/')?.split_once('/')?;
    Some((ShardId(shard.parse().ok()?), check.parse().ok()?))
}
