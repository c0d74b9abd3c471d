//! What can go wrong between a caller and its store, for tests.

use std::{
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time};

use crate::{
    engine::LeaseId,
    store::{Get, StoreError, Txn, WatchRequest},
    tasks::Tasks,
};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It takes effect only after this long, even if nobody waits for it any more.
    SlowRequest(Duration),
    /// It takes effect at once, and is answered only after this long.
    SlowAnswer(Duration),
    /// It takes no effect and is not answered.
    LostRequest,
    /// It takes effect and is not answered.
    LostAnswer,
    /// It takes effect, and an error says that it may or may not have.
    Interrupted,
    /// It takes no effect, and an error says so: nobody could be reached.
    Unreachable,
    /// It takes no effect, and an error says so: it is not allowed.
    Denied,
    /// It takes no effect, and an error says so: not now.
    Overloaded,
}

/// A call that a fault may befall.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// A transaction.
    Txn(&'a Txn),
    /// A read.
    Get(&'a Get),
    /// A grant.
    Grant(LeaseId),
    /// A revoke.
    Revoke(LeaseId),
    /// A renewal.
    KeepAlive(LeaseId),
    /// The opening of a watch.
    Watch(&'a WatchRequest),
}

type Rule = dyn Fn(&Seen<'_>) -> Option<Fault> + Send + Sync;

/// What goes wrong with one memory store. Nothing, unless a test says so.
#[derive(Default)]
pub struct Faults {
    rule: Mutex<Option<Arc<Rule>>>,
    late: Mutex<Tasks>,
    watches: watch::Sender<Watches>,
}

/// What befalls the watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Watches {
    /// Watches that were opened before the last cut are over.
    pub(super) cuts: u64,
    /// Watches on members up to this one say nothing any more.
    pub(super) stalled_members: u64,
    /// Which member is asked now: one more each time the caller avoids one.
    pub(super) member: u64,
}

impl Faults {
    /// From now on each call meets what `rule` says of it.
    pub fn set(&self, rule: impl Fn(&Seen<'_>) -> Option<Fault> + Send + Sync + 'static) {
        *lock(&self.rule) = Some(Arc::new(rule));
    }

    /// From now on nothing happens to calls.
    pub fn clear(&self) {
        *lock(&self.rule) = None;
    }

    /// Breaks all watches that are open.
    pub fn cut_watches(&self) {
        self.watches.send_modify(|watches| watches.cuts += 1);
    }

    /// The member that serves watches now falls silent: no events, no progress, no error. Watches that
    /// are opened after [`avoid_current`](crate::store::Store::avoid_current) are served by another.
    pub fn stall_watches(&self) {
        self.watches.send_modify(|watches| watches.stalled_members = watches.member + 1);
    }

    /// The silent members speak again.
    pub fn resume_watches(&self) {
        self.watches.send_modify(|watches| watches.stalled_members = 0);
    }

    /// How often the caller has turned away from the member it was served by.
    pub fn members_avoided(&self) -> u64 {
        self.watches.borrow().member
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

    /// Carries out a call as the fault has it.
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
