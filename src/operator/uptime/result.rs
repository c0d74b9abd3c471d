//! What a run leaves behind: the claim before it, the result after it, and where these are kept.
//!
//! | what | where | written by | lives |
//! | --- | --- | --- | --- |
//! | claims of a shard | `claims`, of the shard's fenced data | the shard's owner, before each run | until changed |
//! | result of a check | `uptime/{shard}/{namespace}/{name}`, node state | the node that ran it | with that node |
//! | statuses of a shard's checks | see [`super::leader`], of the leader's fenced data | the leader | until the check is gone |
//!
//! All are JSON. What cannot be read is treated as absent and counted: anybody can write to a store.

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

/// The last run of a check that was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Of which spec.
    pub spec: SpecHash,
    /// The slot, by its beginning in milliseconds of Unix time.
    pub due_unix_ms: u64,
    /// The last slot of this spec whose result was published, as far as was known when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_unix_ms: Option<u64>,
    /// How many runs had failed in a row up to that one.
    pub failures: u32,
    /// Whether that one was answered in good time: then the next owner need not find that out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
}

/// The claims of a shard's checks.
pub type Claims = BTreeMap<CheckKey, Claim>;

impl Claim {
    /// What it says about the slots of a check with this spec.
    pub fn known(claim: Option<&Self>, spec: SpecHash) -> Known {
        match claim {
            Some(claim) if claim.spec == spec => Known::Claimed(Slot(claim.due_unix_ms)),
            // The slots of another spec are none of this one's.
            Some(_) | None => Known::Nothing,
        }
    }
}

/// What came of the last run of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// Of which spec.
    pub spec: SpecHash,
    /// `metadata.generation` of the check that was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The slot, by its beginning in milliseconds of Unix time.
    pub due_unix_ms: u64,
    /// When it began, in milliseconds of Unix time of the node that ran it.
    pub ran_unix_ms: u64,
    /// As whose work it was run: newer owners of a shard have higher ones.
    #[serde(with = "as_text")]
    pub epoch: ShardEpoch,
    /// Whether the target did what is expected.
    pub verdict: Verdict,
    /// How long the answer took, in microseconds. None if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<u64>,
    /// When the server's certificate ends, where one was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<UnixMs>,
    /// What was answered or what went wrong.
    pub message: String,
    /// How many runs have failed in a row, this one included.
    pub failures: u32,
    /// The last slot of this spec before this one that is known to have a result. What lies between was
    /// missed, unless a result of it was seen: its node may have died before it could note that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_unix_ms: Option<u64>,
}

/// Epochs can exceed 2^53: they are text in JSON.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::engine::ShardEpoch;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub(super) fn serialize<S: Serializer>(
        epoch: &ShardEpoch,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(epoch)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ShardEpoch, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(ShardEpoch).map_err(de::Error::custom)
    }
}

/// The key of a result in the state of the node that ran the check.
pub fn result_key(shard: ShardId, check: &CheckKey) -> String {
    format!("{WORK}/{shard}/{check}")
}

/// The shard and the check of a result's key; `None` if it is no such key.
pub fn parse_result_key(key: &str) -> Option<(ShardId, CheckKey)> {
    let (shard, check) = key.strip_prefix(WORK)?.strip_prefix('/')?.split_once('/')?;
    Some((ShardId(shard.parse().ok()?), check.parse().ok()?))
}
