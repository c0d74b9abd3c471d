//! Faults between a caller and its store, for tests.

use std::{
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::LeaseId,
    store::{Get, StoreError, Txn, WatchRequest},
    tasks::Tasks,
};

/// Fault of a single call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call takes effect only after this delay, even if its caller has given up.
    SlowRequest(Duration),
    /// The call takes effect at once, and its answer comes only after this delay.
    SlowAnswer(Duration),
    /// The call takes no effect and gets no answer.
    LostRequest,
    /// The call takes effect and gets no answer.
    LostAnswer,
    /// The call takes effect, and returns the error that it may or may not have taken effect.
    Interrupted,
    /// The call takes no effect, and returns the error that no member is reachable.
    Unreachable,
    /// The call takes no effect, and returns the error that it is not allowed.
    Denied,
    /// The call takes no effect, and returns the error that the store is overloaded.
    Overloaded,
}

/// A call that a fault may apply to.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// Call of a transaction.
    Txn(&'a Txn),
    /// Call of a read.
    Get(&'a Get),
    /// Call of a grant.
    Grant(LeaseId),
    /// Call of a revoke.
    Revoke(LeaseId),
    /// Call of a renewal.
    KeepAlive(LeaseId),
    /// Opening of a watch.
    Watch(&'a WatchRequest),
    /// Reading of the store's health, which only [`Faults::break_on`] and [`Fault::Denied`] apply to.
    Health,
}

type Rule = dyn Fn(&Seen<'_>) -> Option<Fault> + Send + Sync;

/// Faults of one memory store. Without a rule from a test, there are none.
#[derive(Default)]
pub struct Faults {
    rule: Mutex<Option<Arc<Rule>>>,
    late: Mutex<Tasks>,
    watches: watch::Sender<Watches>,
    failed: CancellationToken,
}

/// Faults of the watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Watches {
    /// Number of cuts: watches that were opened before the last cut are over.
    pub(super) cuts: u64,
    /// Watches on members up to this number are silent.
    pub(super) stalled_members: u64,
    /// Number of the current member: one more each time the caller avoids a member.
    pub(super) member: u64,
}

impl Faults {
    /// From now on each call gets the fault that `rule` returns for it.
    pub fn set(&self, rule: impl Fn(&Seen<'_>) -> Option<Fault> + Send + Sync + 'static) {
        *lock(&self.rule) = Some(Arc::new(rule));
    }

    /// From now on each call that `hit` selects panics, as with a bug of the store.
    pub fn break_on(&self, hit: impl Fn(&Seen<'_>) -> bool + Send + Sync + 'static) {
        self.set(move |seen| {
            assert!(!hit(seen), "broken on purpose");
            None
        });
    }

    /// The store reports that one of its own tasks has failed.
    pub fn fail(&self) {
        self.failed.cancel();
    }

    /// From now on no call gets a fault.
    pub fn clear(&self) {
        *lock(&self.rule) = None;
    }

    /// Breaks all watches that are open.
    pub fn cut_watches(&self) {
        self.watches.send_modify(|watches| watches.cuts += 1);
    }

    /// The member that serves watches now falls silent: no events, no progress, no error. Watches that are
    /// opened after [`avoid_current`](crate::store::Store::avoid_current) are served by another member.
    pub fn stall_watches(&self) {
        self.watches.send_modify(|watches| watches.stalled_members = watches.member + 1);
    }

    /// The silent members send events and progress again.
    pub fn resume_watches(&self) {
        self.watches.send_modify(|watches| watches.stalled_members = 0);
    }

    /// Number of times that the caller has avoided its current member.
    pub fn members_avoided(&self) -> u64 {
        self.watches.borrow().member
    }

    pub(super) async fn failed(&self) -> String {
        self.failed.cancelled().await;
        "broken on purpose".into()
    }

    pub(super) fn member_avoided(&self) {
        self.watches.send_modify(|watches| watches.member += 1);
    }

    pub(super) fn watches(&self) -> watch::Receiver<Watches> {
        self.watches.subscribe()
    }

    pub(super) fn on(&self, seen: &Seen<'_>) -> Option<Fault> {
        let rule = lock(&self.rule).clone()?;
        rule(seen)
    }

    /// Carries out a call with its fault.
    pub(super) async fn around<T: Send + 'static>(
        &self,
        call: &'static str,
        fault: Option<Fault>,
        timeout: Duration,
        act: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let endpoint = || "memory".to_owned();
        let message = || "fault injection".to_owned();
        match fault {
            None => act(),
            Some(Fault::SlowRequest(delay)) if delay < timeout => {
                time::sleep(delay).await;
                act()
            }
            Some(Fault::SlowRequest(delay)) => {
                lock(&self.late).spawn("late request", async move {
                    time::sleep(delay).await;
                    let _ = act();
                });
                unanswered(call, timeout).await
            }
            Some(Fault::SlowAnswer(delay)) => {
                let result = act();
                if delay >= timeout {
                    return unanswered(call, timeout).await;
                }
                time::sleep(delay).await;
                result
            }
            Some(Fault::LostRequest) => unanswered(call, timeout).await,
            Some(Fault::LostAnswer) => {
                let _ = act();
                unanswered(call, timeout).await
            }
            Some(Fault::Interrupted) => {
                let _ = act();
                Err(StoreError::Interrupted { call, endpoint: endpoint(), message: message() })
            }
            Some(Fault::Unreachable) => {
                Err(StoreError::Unreachable { call, endpoint: endpoint(), message: message() })
            }
            Some(Fault::Denied) => {
                Err(StoreError::Denied { call, endpoint: endpoint(), message: message() })
            }
            Some(Fault::Overloaded) => {
                Err(StoreError::Overloaded { call, endpoint: endpoint(), message: message() })
            }
        }
    }
}

impl Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("rule", &lock(&self.rule).is_some())
            .field("watches", &*self.watches.borrow())
            .finish_non_exhaustive()
    }
}

async fn unanswered<T>(call: &'static str, timeout: Duration) -> Result<T, StoreError> {
    time::sleep(timeout).await;
    Err(StoreError::Unanswered { call, endpoint: "memory".to_owned(), timeout })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
