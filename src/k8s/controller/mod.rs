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
//! * A reconciler runs under a grant: that of the leader, or that of the object's shard. When the grant
//!   ends, its runs have been joined, or aborted where authority was lost.
//! * On a new grant every object it covers is reconciled once: what a former leader left undone is found.
//! * One object is not reconciled twice at once.

mod builder;
mod context;
mod grants;
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
    work::{Loop, Right, Setup},
};
