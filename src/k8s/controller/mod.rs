//! Controllers: caches that are warm on every node, a queue, and reconcilers that run only where they may.
//!
//! ```text
//! API server ──▶ caches (every node) ──▶ handlers: whose object is it, is it assigned here? ──▶ queue ──▶ runs
//!                                                                                                 │
//! node ──▶ assignment (the leader's, or a shard's) ──▶ its objects, at the priority of a resync ──┘
//! ```
//!
//! # Guarantees
//!
//! * A reconciler runs under an assignment: the leader's, or that of the object's shard. By the time the
//!   assignment has ended, its runs have been joined, or aborted if authority was lost.
//! * Under a new assignment every object that it covers is reconciled once, so that unfinished work of a former
//!   leader is found.
//! * Two reconciles of one object never run at the same time.

mod assignments;
mod builder;
mod context;
mod enqueue;
mod metrics;
mod pool;
mod reconcile;
mod trigger;

pub(crate) use self::{
    assignments::Selection, builder::Share, metrics::ControllerMetrics, pool::Runnable,
};
pub use self::{
    builder::{Controller, Predicate, Sharded, annotations, generation, labels},
    context::Context,
    reconcile::{Action, ReconcileError, Reconciler},
    trigger::Trigger,
};
