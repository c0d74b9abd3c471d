//! Which node works on which shard.
//!
//! Pure: takes the live members and who owns what now, returns who should own what. Who *may* (drain,
//! claim, proof) is decided in `engine::machine`. Sticky, even, weighted, with capacities, with the
//! least possible movement; two planners with the same members always agree.

use super::types::LeaseId;

/// A live member that can take shards of the work type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its incarnation.
    pub lease: LeaseId,
    /// Its share relative to the others; at least 1.
    pub weight: u32,
    /// At most this many, if there is a limit.
    pub capacity: Option<u32>,
}

/// The wanted owner of each shard: from the present owners (`None` = nobody, or one who is not among
/// `workers`), with the least movement. A shard stays unowned only if all capacities are used up or
/// there is no worker.
pub fn assign(current: &[Option<LeaseId>], workers: &[Worker]) -> Vec<Option<LeaseId>> {
    let _ = (current, workers);
    unimplemented!("written next")
}
