//! Renewals: one stream per lease, at one member.
//!
//! At most one renewal is in flight per stream, so an answer always belongs to the last request. A follower
//! of etcd's passes renewals to its leader one after the other, so a stuck renewal blocks all later ones on
//! that stream: a stream without an answer in time is dropped, and the next stream goes to another member.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};

use super::{
    calls::{Call, call},
    convert::header,
    link::Link,
    pool::Pool,
};
use crate::{
    clock,
    engine::types::{BootTime, LeaseId},
    store::{LeaseAnswer, StoreError},
};

/// A stream that was unused for this long is dropped: this process no longer renews its lease.
const UNUSED_FOR: Duration = Duration::from_secs(60);

/// A renewal stream that waits for the next renewal.
struct Session {
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    link: Arc<Link>,
    used: BootTime,
}

/// The streams of all leases that this store renews.
#[derive(Default)]
pub(super) struct Renewals {
    idle: Mutex<HashMap<LeaseId, Session>>,
}

impl Renewals {
    /// Renews a lease once. A stream that fails is dropped.
    ///
    /// # Cancel safety
    ///
    /// The renewal may or may not happen; the next renewal opens a new stream.
    pub(super) async fn renew(
        &self,
        pool: &Pool,
        lease: LeaseId,
        how: Call,
    ) -> Result<LeaseAnswer, StoreError> {
        let began = clock::boot_now();
        // If there are other members to try, the first may take half of the time.
        let first = if pool.len() > 1 { how.timeout / 2 } else { how.timeout };
        let mut avoid = None;
        if let Some(mut session) = self.take(lease) {
            let renewed = tokio::time::timeout(first, once(&mut session, lease)).await;
            match renewed {
                Ok(Ok(answer)) => {
                    self.keep(lease, session, answer);
                    return Ok(answer);
                }
                // The stream broke: renewing twice does no harm, so a new stream is tried at once.
                Ok(Err(_)) => {}
                Err(_) => {
                    let silent = (0..pool.len())
                        .find(|&member| Arc::ptr_eq(&pool.link(member), &session.link));
                    if let Some(member) = silent {
                        pool.suspect(member);
                    }
                    avoid = silent;
                }
            }
        }
        let left = how.timeout.saturating_sub(clock::boot_now().since(began));
        let opened =
            call(pool, Call { timeout: left, avoid, ..how }, |link| open(link, lease)).await;
        match opened {
            Ok((session, answer)) => {
                self.keep(lease, session, answer);
                Ok(answer)
            }
            Err(StoreError::LeaseNotFound) => Ok(gone()),
            Err(StoreError::Unanswered { call, endpoint, .. }) => {
                Err(StoreError::Unanswered { call, endpoint, timeout: how.timeout })
            }
            Err(error) => Err(error),
        }
    }

    /// Drops the stream of a lease that is revoked.
    pub(super) fn forget(&self, lease: LeaseId) {
        self.lock().remove(&lease);
    }

    fn take(&self, lease: LeaseId) -> Option<Session> {
        self.lock().remove(&lease).filter(|session| !session.link.is_retired())
    }

    fn keep(&self, lease: LeaseId, mut session: Session, answer: LeaseAnswer) {
        if answer.ttl.is_zero() {
            return;
        }
        let now = clock::boot_now();
        session.used = now;
        let mut idle = self.lock();
        idle.retain(|_, session| now.since(session.used) < UNUSED_FOR);
        idle.insert(lease, session);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a stream and renews the lease on it.
async fn open(
    link: Arc<Link>,
    lease: LeaseId,
) -> Result<(Session, LeaseAnswer), etcd_client::Error> {
    // etcd-client renews once to open the stream and does not return that answer.
    let (keeper, answers) = link.lease().keep_alive(lease.0).await?;
    let mut session = Session { keeper, answers, link, used: clock::boot_now() };
    let answer = once(&mut session, lease).await?;
    Ok((session, answer))
}

async fn once(session: &mut Session, lease: LeaseId) -> Result<LeaseAnswer, etcd_client::Error> {
    let broken = |text: &str| etcd_client::Error::LeaseKeepAliveError(text.to_owned());
    session.keeper.keep_alive().await?;
    let answer = session.answers.message().await?.ok_or_else(|| broken("the stream ended"))?;
    if answer.id() != lease.0 {
        return Err(broken("an answer for another lease"));
    }
    let (revision, cluster) = header(answer.header());
    let ttl = Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0));
    Ok(LeaseAnswer { ttl, revision, cluster })
}

/// Answer for a lease that is gone: for the first renewal of a stream, etcd-client reports nothing else.
fn gone() -> LeaseAnswer {
    LeaseAnswer { ttl: Duration::ZERO, revision: crate::engine::types::Revision(0), cluster: 0 }
}
