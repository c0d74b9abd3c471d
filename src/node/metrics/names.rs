//! Names of the node's metrics, each in one place: registration, dashboards and alerts use the same
//! constant, so that a rename that misses one of them does not compile.

pub(crate) const LEASE_REMAINING: &str = "bellwether_lease_remaining_seconds";
pub(crate) const AUTHORITY_REMAINING: &str = "bellwether_authority_remaining_seconds";
pub(crate) const SHARD_AUTHORITY_REMAINING: &str = "bellwether_shard_authority_remaining_seconds";
pub(crate) const VIEW_AGE: &str = "bellwether_view_age_seconds";
pub(crate) const KEEPALIVE_SECONDS: &str = "bellwether_keepalive_seconds";
pub(crate) const BEAT_SECONDS: &str = "bellwether_beat_seconds";
pub(crate) const AUTHORITY_MARGIN: &str = "bellwether_authority_margin_seconds";
pub(crate) const TERM: &str = "bellwether_term";
pub(crate) const ROLE: &str = "bellwether_role";
pub(crate) const MASTER: &str = "leader_election_master_status";
pub(crate) const LEADER_SUSPENDED: &str = "bellwether_leader_suspended";
pub(crate) const TRANSITIONS: &str = "bellwether_transitions_total";
pub(crate) const SESSIONS_LOST: &str = "bellwether_sessions_lost_total";
pub(crate) const TICKS: &str = "bellwether_ticks_total";
pub(crate) const TICK_SECONDS: &str = "bellwether_tick_duration_seconds";
pub(crate) const TICK_LATENESS: &str = "bellwether_tick_lateness_seconds";
pub(crate) const TICK_OVERRUNS: &str = "bellwether_tick_overruns_total";
pub(crate) const TICKS_SKIPPED: &str = "bellwether_ticks_skipped_total";
pub(crate) const TICK_PERIOD: &str = "bellwether_tick_period_seconds";
pub(crate) const LAST_TICK: &str = "bellwether_last_tick_timestamp_seconds";
pub(crate) const PANICS: &str = "bellwether_panics_total";
pub(crate) const MEMBERS: &str = "bellwether_members";
pub(crate) const WATCH_LAG: &str = "bellwether_watch_lag_seconds";
pub(crate) const WATCH_RESYNCS: &str = "bellwether_watch_resyncs_total";
pub(crate) const STORE_CALLS: &str = "bellwether_store_calls_total";
pub(crate) const STORE_CALL_SECONDS: &str = "bellwether_store_call_seconds";
pub(crate) const SHARDS_OWNED: &str = "bellwether_shards_owned";
pub(crate) const SHARDS_DRAINING: &str = "bellwether_shards_draining";
pub(crate) const SHARDS_UNOWNED: &str = "bellwether_shards_unowned";
pub(crate) const SHARD_MOVES: &str = "bellwether_shard_moves_total";
pub(crate) const DRAIN_SECONDS: &str = "bellwether_shard_drain_seconds";
pub(crate) const DRAINS_OVERDUE: &str = "bellwether_shard_drains_overdue";
pub(crate) const STALE_REJECTIONS: &str = "bellwether_stale_term_rejections_total";
pub(crate) const FOREIGN_KEYS: &str = "bellwether_foreign_keys_total";
pub(crate) const DRIVER_STEPS: &str = "bellwether_driver_steps_total";
