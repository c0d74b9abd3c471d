//! Leases: when they end, and the effect of a change of etcd's leader.
//!
//! As in etcd: whole seconds with a floor, ends found by a loop, and after a change of leader every lease
//! gets its whole time to live again. A lease lives at least its time to live after its grant or renewal,
//! and often longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Model, denied};
use crate::{
    engine::{BootTime, LeaseId, Revision},
    store::{LeaseAnswer, StoreError},
};

/// Longest time to live that etcd grants.
const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) ttl: Duration,
    pub(super) expires: BootTime,
    pub(super) keys: BTreeSet<Vec<u8>>,
}

impl Model {
    /// Grants a lease: whole seconds, rounded up, and never less than the floor.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseExists`], or [`StoreError::Denied`] if the id or the time to live is out of
    /// bounds.
    pub fn grant(
        &mut self,
        now: BootTime,
        lease: LeaseId,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.advance(now);
        if lease.0 <= 0 {
            return Err(denied("grant", "a lease id is above zero"));
        }
        if ttl > MAX_TTL {
            return Err(denied("grant", "too large lease TTL"));
        }
        if self.leases.contains_key(&lease) {
            return Err(StoreError::LeaseExists);
        }
        let ttl = whole_seconds(ttl).max(whole_seconds(self.config.election_timeout * 3 / 2));
        let expires = self.now + ttl;
        self.quiet_until = self.quiet_until.min(expires);
        self.leases.insert(lease, Lease { ttl, expires, keys: BTreeSet::new() });
        Ok(self.lease_answer(ttl))
    }

    /// Revokes a lease and deletes its keys, in one revision and in their order.
    ///
    /// # Errors
    ///
    /// [`StoreError::LeaseNotFound`] if the lease does not exist.
    pub fn revoke(&mut self, now: BootTime, lease: LeaseId) -> Result<LeaseAnswer, StoreError> {
        self.advance(now);
        if !self.leases.contains_key(&lease) {
            return Err(StoreError::LeaseNotFound);
        }
        self.end_lease(lease);
        Ok(self.lease_answer(Duration::ZERO))
    }

    /// Renews a lease; a time to live of zero in the answer means that the lease is gone.
    pub fn keep_alive(&mut self, now: BootTime, lease: LeaseId) -> LeaseAnswer {
        self.advance(now);
        match self.leases.get_mut(&lease) {
            Some(found) if self.now < found.expires => {
                let ttl = found.ttl;
                found.expires = self.now + ttl;
                self.lease_answer(ttl)
            }
            // etcd holds the answer back until the lease is revoked: a caller that receives a time to live
            // of zero can rely on the lease's keys being gone.
            Some(_) => {
                self.end_lease(lease);
                self.lease_answer(Duration::ZERO)
            }
            None => self.lease_answer(Duration::ZERO),
        }
    }

    /// Lets time pass: ends the leases that are found expired by `now`. Time does not go back.
    pub fn advance(&mut self, now: BootTime) {
        self.now = self.now.max(now);
        if self.now < self.quiet_until {
            return;
        }
        let mut due: Vec<_> = self
            .leases
            .iter()
            .map(|(id, lease)| (self.found_at(lease.expires), lease.expires, *id))
            .filter(|(found, _, _)| *found <= self.now)
            .collect();
        due.sort_unstable();
        for (_, _, lease) in due {
            self.end_lease(lease);
        }
        self.quiet_until = self.next_expiry().unwrap_or(BootTime(Duration::MAX));
    }

    /// No lease ends before this time; `None` = no lease ever ends. Cheap, and often too early.
    pub(in super::super) fn quiet_until(&self) -> Option<BootTime> {
        Some(self.quiet_until).filter(|until| until.0 != Duration::MAX)
    }

    /// Time at which [`advance`](Self::advance) ends the next lease, if no lease is renewed before.
    pub fn next_expiry(&self) -> Option<BootTime> {
        self.leases.values().map(|lease| self.found_at(lease.expires)).min()
    }

    /// Changes etcd's leader: every lease gets its whole time to live again, plus an election timeout. The
    /// returned value gives the answers that the old leader continues to send about leases.
    pub fn failover(&mut self, now: BootTime) -> Deposed {
        self.advance(now);
        let deposed = Deposed {
            leases: self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect(),
            revision: self.revision,
            cluster: self.config.cluster,
        };
        self.restart_leases();
        deposed
    }

    pub(super) fn restart_leases(&mut self) {
        for lease in self.leases.values_mut() {
            lease.expires = self.now + lease.ttl + self.config.election_timeout;
        }
        self.quiet_until = self.now;
    }

    /// Time at which the loop that searches for expired leases finds one that expires at `expires`.
    fn found_at(&self, expires: BootTime) -> BootTime {
        let every = self.config.expiry_every.as_nanos();
        let found = expires.0.as_nanos().div_ceil(every) * every;
        BootTime(u64::try_from(found).map_or(Duration::MAX, Duration::from_nanos))
    }

    fn end_lease(&mut self, lease: LeaseId) {
        let Some(ended) = self.leases.remove(&lease) else { return };
        let changes: Vec<_> = ended.keys.iter().filter_map(|key| self.delete_key(key)).collect();
        self.commit(changes);
    }

    fn lease_answer(&self, ttl: Duration) -> LeaseAnswer {
        LeaseAnswer { ttl, revision: self.revision, cluster: self.config.cluster }
    }
}

/// An etcd leader that was deposed and does not know it yet: keepalives do not pass through raft, so it
/// continues to answer them for a while, even for leases that have ended (so nodes rely on T14, CHECK).
#[derive(Clone, Debug)]
pub struct Deposed {
    leases: BTreeMap<LeaseId, Duration>,
    revision: Revision,
    cluster: u64,
}

impl Deposed {
    /// Answer of the deposed leader. No lease is renewed.
    pub fn keep_alive(&self, lease: LeaseId) -> LeaseAnswer {
        let ttl = self.leases.get(&lease).copied().unwrap_or_default();
        LeaseAnswer { ttl, revision: self.revision, cluster: self.cluster }
    }
}

fn whole_seconds(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0))
        .max(Duration::from_secs(1))
}
