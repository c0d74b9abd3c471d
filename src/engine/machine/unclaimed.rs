//! Nodes that do not claim the shards that the plan gives them, by R15 (unclaimed shards) and T15 (PLAN): a
//! living node that is cut off, or whose link is too slow to claim in time.
//!
//! Such a node gets no new shard for a while, then one on probation, then its full share again. The one rule:
//! this module decides only which nodes get new shards, never when a shard is free.

use std::{collections::BTreeMap, time::Duration};

use crate::engine::types::{BootTime, LeaseId};

/// Time in which a node gets no new shard after its first miss; doubled with each further miss.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// Number of new shards that a node may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// The node gets its full share.
    Full,
    /// The node gets one shard more than it holds; once it has claimed that shard, it gets its full share.
    Probation,
    /// The node keeps its shards and gets no new one.
    Paused,
}

#[derive(Clone, Copy, Debug)]
struct Miss {
    until: BootTime,
    pause: Duration,
}

/// Nodes that missed a claim, by the lease of their incarnation.
#[derive(Debug, Default)]
pub(super) struct Unclaimed(BTreeMap<LeaseId, Miss>);

impl Unclaimed {
    /// Notes that the node did not claim a shard in time.
    pub(super) fn miss(&mut self, lease: LeaseId, now: BootTime) {
        let before = self.0.get(&lease).copied();
        if before.is_some_and(|miss| now < miss.until) {
            return;
        }
        let pause = before.map_or(PAUSE, |miss| (miss.pause * 2).min(PAUSE_MOST));
        self.0.insert(lease, Miss { until: now + pause, pause });
    }

    /// Notes that the node holds a shard that was assigned to it at `since`.
    pub(super) fn claimed(&mut self, lease: LeaseId, since: BootTime) {
        if self.0.get(&lease).is_some_and(|miss| miss.until <= since) {
            self.0.remove(&lease);
        }
    }

    /// Forgets incarnations that are gone; they never come back.
    pub(super) fn retain(&mut self, lives: impl Fn(LeaseId) -> bool) {
        self.0.retain(|lease, _| lives(*lease));
    }

    pub(super) fn trust(&self, lease: LeaseId, now: BootTime) -> Trust {
        match self.0.get(&lease) {
            None => Trust::Full,
            Some(miss) if now < miss.until => Trust::Paused,
            Some(_) => Trust::Probation,
        }
    }

    /// Time when the next pause ends.
    pub(super) fn next_at(&self, now: BootTime) -> Option<BootTime> {
        self.0.values().map(|miss| miss.until).filter(|until| now < *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: LeaseId = LeaseId(7);

    fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }

    #[test]
    fn pauses_double_and_a_claim_after_the_pause_restores_trust() {
        let mut unclaimed = Unclaimed::default();
        assert_eq!(unclaimed.trust(NODE, at(0)), Trust::Full);
        unclaimed.miss(NODE, at(0));
        unclaimed.miss(NODE, at(500));
        assert_eq!(unclaimed.trust(NODE, at(999)), Trust::Paused);
        assert_eq!(unclaimed.next_at(at(999)), Some(at(1000)));
        assert_eq!(unclaimed.trust(NODE, at(1000)), Trust::Probation);
        unclaimed.miss(NODE, at(1500));
        assert_eq!(unclaimed.trust(NODE, at(3499)), Trust::Paused);
        assert_eq!(unclaimed.trust(NODE, at(3500)), Trust::Probation);
        unclaimed.claimed(NODE, at(3400));
        assert_eq!(unclaimed.trust(NODE, at(3600)), Trust::Probation, "assigned before");
        unclaimed.claimed(NODE, at(3600));
        assert_eq!(unclaimed.trust(NODE, at(3600)), Trust::Full);
    }
}
