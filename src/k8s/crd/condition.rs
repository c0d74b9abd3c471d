//! The types of conditions that the resources carry in their status.
//!
//! Each is `True` when all is well, so that `kubectl wait --for=condition=Ready` waits for good news.

/// `Election`: somebody leads and its work goes on.
pub const READY: &str = "Ready";
/// `Election`: the leader has not changed lately.
pub const STABLE: &str = "Stable";
/// `Election`: every shard has an owner.
pub const SHARDS_OWNED: &str = "ShardsOwned";
/// `UptimeCheck`: the spec can be run. The schema cannot check all of it: not whether a regular
/// expression or a certificate can be read.
pub const ACCEPTED: &str = "Accepted";
/// `UptimeCheck`: the target is up. `Unknown` if no recent result says.
pub const UP: &str = "Up";
