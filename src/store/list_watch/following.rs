//! An open watch, and the proof that it is fresh.

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use super::Options;
use crate::{
    engine::{BootTime, Revision},
    store::{Get, GetAnswer, KeyRange, Store, StoreError, Watch},
};

/// Interval between requests for the progress of a watch that is behind.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A watch that is never silent must be proven fresh after this many times `probe_after`.
const BUSY_FACTOR: u32 = 10;

/// An open watch, with the state of its proof of freshness.
pub(super) struct Following {
    pub(super) watch: Box<dyn Watch>,
    /// Endpoint that served the store when the watch was opened.
    pub(super) endpoint: String,
    pub(super) heard_at: BootTime,
    pub(super) probed_at: BootTime,
    pub(super) probe: Option<BoxFuture<'static, Result<GetAnswer, StoreError>>>,
    /// Revision of the watch when the probe was sent: no linearizable answer may show a smaller one.
    pub(super) probed_from: Revision,
    pub(super) asked_at: BootTime,
    /// Time since when the watch is behind, and the revision that it has to reach: the one that the store
    /// had reached at that time. Later revisions of the store do not count: a watch never catches up with a
    /// store that is written to all the time.
    pub(super) behind: Option<(BootTime, Revision)>,
}

/// Reason why a watch was given up.
pub(super) enum Break {
    /// The watch or the store returned an error.
    Failed(StoreError),
    /// The watch did not prove itself fresh.
    Stale(&'static str),
    /// The store that is there now does not have the delivered revisions in its past.
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
    /// Creates the state of a watch that continues after `delivered`, as if its last message came at
    /// `since`.
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

    /// Fails if the watch has not proven itself fresh in time.
    pub(super) fn judge(&self, now: BootTime, options: Options) -> Result<(), Break> {
        match self.behind {
            Some((since, _)) if since + options.stale_after <= now => {
                Err(Break::Stale("it is behind"))
            }
            _ => Ok(()),
        }
    }

    /// Time at which the next action or judgement is due.
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

    /// Asks the store, through the current member, for its revision. Reads a single key: etcd counts a
    /// range to its end even with a limit, and a thousand nodes ask at once when their leader falls silent.
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

/// Waits for the probe's answer; never returns if there is no probe.
pub(super) async fn answer_of(
    probe: &mut Option<BoxFuture<'static, Result<GetAnswer, StoreError>>>,
) -> Result<GetAnswer, StoreError> {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}
