//! The Leases of incarnations, and the end of those that are not renewed.
//!
//! Every node watches these Leases and notes by its own boot clock when each last changed. A Lease that has not
//! changed for `wait(TTL)` and a random time is deleted **on the condition that it is still the version that was
//! seen**, and then the lease is revoked in the state. So one compare by the API server decides an expiry: it may
//! come late, but it never hits a lease that was renewed. Neither the API server's time nor the time in a Lease
//! matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::WatchEvent;
use tokio::sync::{mpsc, watch};

use super::{
    Caller,
    api::{Api, Failure},
    task::Seen,
};
use crate::{
    clock,
    engine::{BootTime, LeaseId, timing},
    store::{StoreError, protocol::Request},
};

/// Interval of the search for leases that were not renewed.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Time that a lease may stand in the state before its Lease is seen: the two are watched apart.
const UNSEEN_FOR: Duration = Duration::from_secs(2);

/// Deadline of the write that takes an expired lease out of the state.
const REVOKE_WITHIN: Duration = Duration::from_secs(5);

/// Changes that wait to be noted; they are noted at once.
const CHANGES: usize = 64;

/// TTL of a Lease that names none.
const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// Pause before the Leases are listed again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A Lease, and when this process saw its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Noted {
    version: String,
    expires: BootTime,
}

/// Something to do about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Delete the Lease of that version, then revoke the lease.
    Expire {
        /// Lease that was not renewed.
        lease: LeaseId,
        /// Version that the Lease must still have.
        version: String,
    },
    /// Revoke the lease if it has no Lease.
    Unseen {
        /// Lease of the state whose Lease was not seen.
        lease: LeaseId,
    },
}

impl Due {
    /// The lease that there is something to do about.
    pub fn lease(&self) -> LeaseId {
        match self {
            Self::Expire { lease, .. } | Self::Unseen { lease } => *lease,
        }
    }
}

/// Notes about all Leases of a cluster. Pure.
#[derive(Debug, Default)]
pub struct Notes {
    /// Whether the Leases have been listed.
    listed: bool,
    leases: BTreeMap<LeaseId, Noted>,
    /// Leases of the state that were not seen, with the time since when.
    unseen: BTreeMap<LeaseId, BootTime>,
}

impl Notes {
    /// A Lease as it was seen now. `draw` is random, in 0..1: not all nodes come at once.
    pub fn saw(
        &mut self,
        lease: LeaseId,
        version: String,
        ttl: Duration,
        now: BootTime,
        draw: f64,
    ) {
        self.unseen.remove(&lease);
        if self.leases.get(&lease).is_some_and(|noted| noted.version == version) {
            return;
        }
        let expires = now + timing::wait(ttl) + ttl.mul_f64(draw / 10.0);
        self.leases.insert(lease, Noted { version, expires });
    }

    /// A Lease was deleted.
    pub fn is_gone(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }

    /// All Leases were listed, and these are all that exist.
    pub fn listed(&mut self, all: &BTreeSet<LeaseId>) {
        self.leases.retain(|lease, _| all.contains(lease));
        self.listed = true;
    }

    /// Actions that are due now, for the leases that are in the state.
    pub fn due(&mut self, in_state: &BTreeSet<LeaseId>, now: BootTime) -> Vec<Due> {
        if !self.listed {
            return Vec::new();
        }
        let expired = self.leases.iter().filter(|(_, noted)| noted.expires <= now);
        let mut due: Vec<_> = expired
            .map(|(lease, noted)| Due::Expire { lease: *lease, version: noted.version.clone() })
            .collect();
        self.unseen.retain(|lease, _| in_state.contains(lease));
        for lease in in_state.iter().filter(|lease| !self.leases.contains_key(lease)) {
            let since = *self.unseen.entry(*lease).or_insert(now);
            if now.since(since) >= UNSEEN_FOR {
                due.push(Due::Unseen { lease: *lease });
            }
        }
        due
    }

    /// Another attempt at this lease comes later.
    pub fn postpone(&mut self, lease: LeaseId, now: BootTime) {
        if let Some(noted) = self.leases.get_mut(&lease) {
            noted.expires = now + UNSEEN_FOR;
        }
        if let Some(since) = self.unseen.get_mut(&lease) {
            *since = now;
        }
    }
}

/// Change of a Lease.
enum Change {
    Saw(Box<Lease>),
    Gone(Box<Lease>),
    Listed(BTreeSet<LeaseId>),
}

/// Ends the leases of the cluster that are not renewed, for ever.
pub(super) async fn expire(api: Arc<Api>, caller: Caller, seen: watch::Receiver<Seen>) {
    let (sender, mut changes) = mpsc::channel(CHANGES);
    let mut following = std::pin::pin!(follow(&api, sender));
    let mut notes = Notes::default();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Changes are read before any conclusion is drawn from silence.
            biased;
            () = &mut following => {}
            Some(change) = changes.recv() => note(&api, &mut notes, change),
            _ = ticks.tick() => {
                let model = Arc::clone(&seen.borrow().model);
                let in_state = model.leases().collect();
                for due in notes.due(&in_state, clock::boot_now()) {
                    let lease = due.lease();
                    notes.postpone(lease, clock::boot_now());
                    if let Err(failure) = end(&api, &caller, due).await {
                        tracing::debug!(%lease, ?failure, "an expired lease is not ended yet");
                    }
                }
            }
        }
    }
}

fn note(api: &Api, notes: &mut Notes, change: Change) {
    let name = |lease: &Lease| lease.metadata.name.as_deref().and_then(|name| api.lease_of(name));
    match change {
        Change::Saw(lease) => {
            let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
            let ttl = seconds.and_then(|it| u64::try_from(it).ok()).map(Duration::from_secs);
            let version = lease.metadata.resource_version.clone().unwrap_or_default();
            if let Some(id) = name(&lease) {
                let (ttl, now) = (ttl.unwrap_or(DEFAULT_TTL), clock::boot_now());
                notes.saw(id, version, ttl, now, rand::random());
            }
        }
        Change::Gone(lease) => {
            if let Some(id) = name(&lease) {
                notes.is_gone(id);
            }
        }
        Change::Listed(all) => notes.listed(&all),
    }
}

/// Ends a lease: first its Lease, then its entry in the state.
async fn end(api: &Api, caller: &Caller, due: Due) -> Result<(), Failure> {
    let lease = match due {
        Due::Expire { lease, version } => match api.delete(lease, Some(version)).await {
            Ok(()) | Err(Failure::Missing(_)) => lease,
            // The Lease was renewed meanwhile: the watch will report it.
            Err(Failure::Conflict) => return Ok(()),
            Err(other) => return Err(other),
        },
        Due::Unseen { lease } => {
            if api.exists(lease).await? {
                return Ok(());
            }
            lease
        }
    };
    match caller.call("revoke", Request::Revoke(lease), REVOKE_WITHIN).await {
        Ok(_) => {
            tracing::info!(%lease, "a lease that was not renewed was ended");
            Ok(())
        }
        Err(StoreError::LeaseNotFound) => Ok(()),
        Err(error) => Err(Failure::Lost(error)),
    }
}

/// Lists and watches the Leases, for ever.
async fn follow(api: &Api, changes: mpsc::Sender<Change>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let is_watched = match api.list().await {
            Ok((leases, version)) => {
                let names = leases.iter().filter_map(|it| it.metadata.name.as_deref());
                let all = names.filter_map(|name| api.lease_of(name)).collect();
                for lease in leases {
                    let _ = changes.send(Change::Saw(Box::new(lease))).await;
                }
                let _ = changes.send(Change::Listed(all)).await;
                deliver(api, version, &changes).await
            }
            Err(failure) => {
                tracing::debug!(?failure, "the Leases of the nodes cannot be listed");
                false
            }
        };
        // A watch that is refused must not turn the lists into a busy loop.
        pause = if is_watched { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

/// Passes the events of watches on, until a list is needed. Returns whether there were any.
async fn deliver(api: &Api, mut version: String, changes: &mpsc::Sender<Change>) -> bool {
    let mut is_watched = false;
    loop {
        let Ok(stream) = api.watch_incarnations(&version).await else { return is_watched };
        let mut stream = std::pin::pin!(stream);
        let began = version.clone();
        while let Some(event) = stream.next().await {
            let change = match event {
                Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease)) => {
                    version = lease.metadata.resource_version.clone().unwrap_or_default();
                    Change::Saw(Box::new(lease))
                }
                Ok(WatchEvent::Deleted(lease)) => {
                    version = lease.metadata.resource_version.clone().unwrap_or_default();
                    Change::Gone(Box::new(lease))
                }
                Ok(WatchEvent::Bookmark(bookmark)) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                Ok(WatchEvent::Error(_)) | Err(_) => return is_watched,
            };
            is_watched = true;
            let _ = changes.send(change).await;
        }
        // A watch that delivers nothing and ends at once must not turn into a busy loop.
        if version == began {
            return is_watched;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: BootTime = BootTime(Duration::from_secs(1000));
    const TTL: Duration = Duration::from_secs(10);
    const LEASE: LeaseId = LeaseId(7);

    fn later(seconds: f64) -> BootTime {
        NOW + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_lease_expires_by_the_version_that_was_not_renewed() {
        let mut notes = Notes::default();
        let in_state = BTreeSet::from([LEASE]);
        notes.saw(LEASE, "1".to_owned(), TTL, NOW, 0.0);
        notes.listed(&in_state);
        assert_eq!(notes.due(&in_state, later(10.9)), []);
        // Seen again unchanged, as by a list: that is no renewal.
        notes.saw(LEASE, "1".to_owned(), TTL, later(10.9), 0.0);
        let due = [Due::Expire { lease: LEASE, version: "1".to_owned() }];
        assert_eq!(notes.due(&in_state, later(11.0)), due);
        notes.saw(LEASE, "2".to_owned(), TTL, later(10.9), 0.0);
        assert_eq!(notes.due(&in_state, later(21.8)), []);
        // A Lease that never got into the state is deleted as well.
        let due = [Due::Expire { lease: LEASE, version: "2".to_owned() }];
        assert_eq!(notes.due(&BTreeSet::new(), later(21.9)), due);
    }

    #[test]
    fn a_lease_of_the_state_that_is_not_seen_is_looked_at_after_a_while() {
        let mut notes = Notes::default();
        let in_state = BTreeSet::from([LEASE]);
        assert_eq!(notes.due(&in_state, NOW), [], "nothing is known before a list");
        notes.listed(&BTreeSet::new());
        assert_eq!(notes.due(&in_state, NOW), []);
        assert_eq!(notes.due(&in_state, later(1.9)), []);
        assert_eq!(notes.due(&in_state, later(2.0)), [Due::Unseen { lease: LEASE }]);
        notes.postpone(LEASE, later(2.0));
        assert_eq!(notes.due(&in_state, later(3.9)), []);
    }
}
