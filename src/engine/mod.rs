//! All decisions of a node: election, authority, membership, shards, back-off. The engine itself acts on
//! nothing.
//!
//! Pure: no I/O, no clock, no randomness, no async. The caller passes times and draws in and carries effects
//! out, so that a test simulates a minute of a cluster's life in a millisecond. The rules R1 to R16 and the
//! transactions T1 to T19 named in the comments are those of `docs/protocol.md`.

pub mod backoff;
pub mod call;
pub mod cluster_view;
pub mod machine;
pub mod mutant;
pub mod own_calls;
pub mod planner;
pub mod timing;
pub mod types;
pub mod view;

pub use call::{
    Answer, Call, Dead, Effect, HolderClause, Input, Join, JoinTick, Office, Outcome, Refusal,
    SessionEnd, ShardEnd, Standing, Take, WorkEnd,
};
pub use cluster_view::{ClusterView, Holder, Leader, Shard};
pub use machine::{Authority, Config, Engine, ShardAuthority};
pub use own_calls::{Next, OwnCall, OwnCalls, OwnEffect, OwnWrite, Turn};
pub use timing::{Failover, InvalidFailover, StoreTiming};
pub use types::{
    BootTime, CallId, LeaseId, NegativeNodeId, NodeId, NodeMetadata, Revision, Role, ShardEpoch,
    ShardId, Term, WorkType,
};
pub use view::{
    Assignment, Change, DrainRequest, Held, Member, PlanTable, Record, Stored, TickPolicy,
    WorkOffer,
};
