//! Types of the conditions in the status of the resources.
//!
//! Each condition is `True` in the good state, so that `kubectl wait --for=condition=Ready` works.

/// `Election`: a node leads, and its work continues.
pub const READY: &str = "Ready";
/// `Election`: the leader has not changed recently.
pub const STABLE: &str = "Stable";
/// `Election`: every shard has an owner.
pub const SHARDS_OWNED: &str = "ShardsOwned";
/// `UptimeCheck`: the spec can be run. The schema cannot check all of it, for example whether a regular
/// expression or a certificate is valid.
pub const ACCEPTED: &str = "Accepted";
/// `UptimeCheck`: the target is up. `Unknown` without a recent result.
pub const UP: &str = "Up";
