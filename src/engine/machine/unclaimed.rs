//! Nodes that do not claim what the plan gives them (R15, T15): a living node whose link is too slow to
//! claim in time, or that is cut off.
//!
//! Such a node gets no new shard for a while, then one to prove itself by, then its share again. The one
//! rule: this decides only who gets new shards, never when a shard is free.

use std::{collections::BTreeMap, time::Duration};

use crate::engine::types::{BootTime, LeaseId};

/// How long a node gets no new shard after the first miss; doubled with each further one.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// What a node may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Its whole share.
    Full,
    /// One shard more than it holds: the claim of that one restores its share.
    Probation,
    /// Nothing beyond what it holds.
    Paused,
}

#[derive(Clone, Copy, Debug)]
struct Miss {
    until: BootTime,
    pause: Duration,
}

/// The nodes that missed a claim, by incarnation.
#[derive(Debug, Default)]
pub(super) struct Unclaimed(BTreeMap<LeaseId, Miss>);

impl Unclaimed {
    /// A shard was not claimed in time.
    pub(super) fn miss(&mut self, lease: LeaseId, now: BootTime) {
        let before = self.0.get(&lease).copied();
        if before.is_some_and(|miss| now < miss.until) {
            return;
        }
        let pause = before.map_or(PAUSE, |miss| (miss.pause * 2).min(PAUSE_MOST));
        self.0.insert(lease, Miss { until: now + pause, pause });
    }

    /// A shard is held that was assigned at `since`.
    pub(super) fn claimed(&mut self, lease: LeaseId, since: BootTime) {
        if self.0.get(&lease).is_some_and(|miss| miss.until <= since) {
            self.0.remove(&lease);
        }
    }

    /// Incarnations that are gone never come back.
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

    /// When the next pause ends.
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
