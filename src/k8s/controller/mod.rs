//! Controllers: caches that are warm on every node, a queue, and reconcilers that run only where they may.
//!
//! ```text
//! API server ──▶ caches (every node) ──▶ handlers: whose object is it, is it granted here? ──▶ queue
//!                                                                                               │
//! node ──▶ grant (the leader's, or a shard's) ──▶ all its objects, at the priority of a resync ─┘──▶ runs
//! ```
//!
//! # Guarantees
//!
//! * A reconciler runs under a grant: the leader's, or that of the object's shard. By the time the grant has
//!   ended, its runs have been joined, or aborted if authority was lost.
//! * Under a new grant every object that it covers is reconciled once, so that unfinished work of a former
//!   leader is found.
//! * Two reconciles of one object never run at the same time.

mod builder;
mod context;
mod grants;
mod metrics;
mod reconcile;
mod trigger;
mod work;

pub use self::{
    builder::{Controller, Predicate, Sharded, annotations, generation, labels},
    context::Context,
    reconcile::{Action, ReconcileError, Reconciler},
    trigger::Trigger,
};
pub(crate) use self::{
    builder::{Prepare, Share},
    context::Readable,
    grants::Lane,
    metrics::ControllerMetrics,
    work::{Loop, Right, Setup},
};
