//! A watch that is open, and what proves that it is fresh.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::Options;
use crate::{
    engine::{BootTime, Revision},
    store::{Get, GetAnswer, KeyRange, Store, StoreError, Watch},
};

/// How often a watch that is behind is asked where it is.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A watch that is never silent is proven fresh after so many times `probe_after`.
const BUSY_FACTOR: u32 = 10;

/// Watch that is open, and how fresh it has proven to be.
pub(super) struct Following {
    pub(super) watch: Box<dyn Watch>,
    /// Endpoint that was asked when the watch was opened.
    pub(super) endpoint: String,
    pub(super) heard_at: BootTime,
    pub(super) probed_at: BootTime,
    pub(super) probe: Option<BoxFuture<'static, Result<GetAnswer, StoreError>>>,
    /// Where the watch was when the probe was sent: no linearizable answer may show less.
    pub(super) probed_from: Revision,
    pub(super) asked_at: BootTime,
    /// Since when the watch has not been where the store was known to be then, and where that is. Not
    /// where the store has got to since: one that is written to all the time is never caught up with.
    pub(super) behind: Option<(BootTime, Revision)>,
}

/// Why a watch was given up.
pub(super) enum Break {
    /// The watch or the store returned an error.
    Failed(StoreError),
    /// The watch did not prove itself fresh.
    Stale(&'static str),
    /// What was delivered is not the past of what is there now.
    Replaced,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Stale(how) => write!(f, "the watch is stale: {how}"),
            Self::Replaced => f.write_str("the store was wiped, restored or exchanged"),
        }
    }
}

impl Following {
    /// A watch that goes on after `delivered`, and counts as heard of `since` then.
    pub(super) fn new(
        watch: Box<dyn Watch>,
        endpoint: String,
        since: BootTime,
        delivered: Revision,
    ) -> Self {
        Self {
            watch,
            endpoint,
            heard_at: since,
            probed_at: since,
            probe: None,
            probed_from: delivered,
            asked_at: BootTime::default(),
            behind: None,
        }
    }

    pub(super) fn note(&mut self, now: BootTime, delivered: Revision, expected: Revision) {
        if self.behind.is_none_or(|(_, goal)| goal <= delivered) {
            self.behind = (delivered < expected).then_some((now, expected));
        }
    }

    /// Whether it has proven itself in time.
    pub(super) fn judge(&self, now: BootTime, options: Options) -> Result<(), Break> {
        match self.behind {
            Some((since, _)) if since + options.stale_after <= now => {
                Err(Break::Stale("it is behind"))
            }
            _ => Ok(()),
        }
    }

    /// When something is to be done or judged next.
    pub(super) fn next_due(&self, options: Options) -> BootTime {
        let stale = self.behind.map(|(since, _)| since + options.stale_after);
        let ask = self.behind.map(|_| self.asked_at + ASK_AGAIN);
        let probe = self.probe.is_none().then(|| self.probe_due(options));
        let due = [stale, ask, probe].into_iter().flatten().min();
        due.unwrap_or(self.probed_at + options.probe_after * BUSY_FACTOR)
    }

    pub(super) fn probe_due(&self, options: Options) -> BootTime {
        let silent = self.heard_at.max(self.probed_at) + options.probe_after;
        silent.min(self.probed_at + options.probe_after * BUSY_FACTOR)
    }

    pub(super) fn is_probe_due(&self, now: BootTime, options: Options) -> bool {
        self.probe.is_none() && self.probe_due(options) <= now
    }

    /// Asks the store, by whichever member it is reached, how far it is. By one key: etcd counts a range to
    /// its end whatever the limit, and a thousand nodes ask at once when their leader falls silent.
    pub(super) fn probe(
        &mut self,
        now: BootTime,
        delivered: Revision,
        store: &Arc<dyn Store>,
        range: &KeyRange,
        options: Options,
    ) {
        let get = Get { keys_only: true, ..Get::key(range.from.clone()) };
        let store = Arc::clone(store);
        self.probe = Some(Box::pin(async move { store.get(get, options.stale_after).await }));
        self.probed_from = delivered;
        self.probed_at = now;
    }

    pub(super) fn is_to_be_asked(&self, now: BootTime) -> bool {
        self.behind.is_some() && self.asked_at + ASK_AGAIN <= now
    }
}

/// The probe's answer; never, if there is no probe.
pub(super) async fn answer_of(
    probe: &mut Option<BoxFuture<'static, Result<GetAnswer, StoreError>>>,
) -> Result<GetAnswer, StoreError> {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}
