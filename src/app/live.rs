//! A [`ClusterView`] that follows the store through the same [`Feed`] as a node's view: a list, then a watch from the
//! next revision, and a new list whenever the watch breaks or does not prove that it is fresh.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    clock,
    engine::{BootTime, Change, ClusterView, Input, Revision, timing},
    store::{
        Get, Store, StoreError,
        keys::Keys,
        list_watch::{Feed, Options},
        protocol::Decoded,
    },
};

/// Longest time between two beats of a leader that acts. Only after a longer silence must the watch prove that it is
/// fresh.
const BEATS_EVERY: Duration = Duration::from_secs(1);

/// Kind of change in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Only beats of the leader or progress of the watch.
    Beat,
    /// More than beats, or a new list, in which everything may have changed.
    More,
    /// The store does not answer; see [`Live::problem`].
    Cut,
}

/// Added to the time after which a silent leader can no longer act, because a beat may still be on its way.
const GRACE: Duration = Duration::from_millis(300);

/// Time without a beat after which a leader with this D (failover time) counts as silent.
pub(crate) fn patience(d: Duration) -> Duration {
    timing::wait(d) + GRACE
}

/// Reads a cluster with one linearizable read.
///
/// # Errors
///
/// The error of the store, if the read fails.
pub(crate) async fn read(
    store: &dyn Store,
    keys: &Keys,
    timeout: Duration,
) -> Result<ClusterView, StoreError> {
    let answer = store.get(Get::range(keys.watched()), timeout).await?;
    Ok(ClusterView::of(answer.revision, Decoded::of_list(keys, &answer.kvs).changes))
}

/// View of a cluster that follows the store; see the module's docs.
pub(crate) struct Live {
    store: Arc<dyn Store>,
    keys: Keys,
    timeout: Duration,
    feed: Feed,
    /// Last failure of the feed, published as it happens.
    failure: watch::Receiver<Option<StoreError>>,
    pub(crate) view: ClusterView,
    /// Time when a write of the record was last received, in Unix time.
    pub(crate) last_beat_unix_ms: Option<u64>,
    /// Time of `last_beat_unix_ms` on the boot clock; before the first beat, the time when `Live` was opened.
    pub(crate) heard_at: BootTime,
    /// Reason that the view does not follow the store; `None` while it does.
    pub(crate) problem: Option<String>,
}

impl Live {
    /// Reads the cluster, then starts to follow the store.
    ///
    /// # Errors
    ///
    /// The error of the store, if the read fails.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        keys: Keys,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        // Read without the feed, which would retry after any error instead of returning it.
        let view = read(&*store, &keys, timeout).await?;
        let options = Options { timeout, ..Options::view(BEATS_EVERY) };
        let feed = Feed::start(Arc::clone(&store), keys.clone(), options);
        let failure = feed.failure();
        let heard_at = clock::boot_now();
        let (last_beat_unix_ms, problem) = (None, None);
        Ok(Self { store, keys, timeout, feed, failure, view, last_beat_unix_ms, heard_at, problem })
    }

    /// Name of the leader if it is no node.
    pub(crate) fn leader_name(&self) -> Option<String> {
        self.store.name_of(self.view.leader()?.lease)
    }

    /// Waits for a beat of the leader, at most for its [`patience`]. Returns `None` if the leader acts, as far as the
    /// store shows, or no node is in office; else the time that passed without a beat.
    ///
    /// Ends at the next beat of a leader that acts. A leader of the Go package sends no beats.
    ///
    /// # Errors
    ///
    /// The error of the store, if the read fails.
    pub(crate) async fn silence_of_the_leader(&mut self) -> Result<Option<Duration>, StoreError> {
        let began = clock::boot_now();
        let first = self.written();
        loop {
            let Some(d) = self.view.leader().and_then(|it| it.d) else { return Ok(None) };
            if self.last_beat_unix_ms.is_some() {
                return Ok(None);
            }
            let left = patience(d).saturating_sub(clock::boot_now().since(began));
            if left.is_zero() {
                break;
            }
            // `moved` is cancel safe; the loop ends after a timeout.
            let _ = tokio::time::timeout(left, self.moved()).await;
        }
        // A watch may lag, so the record itself is read.
        let listened = clock::boot_now().since(began);
        self.view = read(&*self.store, &self.keys, self.timeout).await?;
        let silent = self.written() == first && self.view.leader().is_some();
        Ok(silent.then_some(listened))
    }

    /// Revision of the record's last write in the view.
    fn written(&self) -> Option<Revision> {
        self.view.record_revision()
    }

    fn heard(&mut self) {
        self.last_beat_unix_ms = Some(clock::unix_ms());
        self.heard_at = clock::boot_now();
    }

    /// Waits for the next change of the view.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next call returns a change that this call did not.
    pub(crate) async fn moved(&mut self) -> Moved {
        let update = tokio::select! {
            biased;
            // Both futures are cancel safe.
            update = self.feed.next() => update,
            Ok(()) = self.failure.changed() => return self.cut(),
        };
        match update {
            Some(Input::Listed { revision, changes, .. }) => {
                let before = self.written();
                self.view = ClusterView::of(revision, changes);
                if self.written() != before {
                    self.heard();
                }
                self.problem = None;
                Moved::More
            }
            Some(Input::Changed { revision, changes, .. }) => self.take_in(revision, changes),
            Some(Input::Progress { revision }) => {
                self.view.advance(revision);
                self.problem = None;
                Moved::Beat
            }
            Some(Input::WatchLost) => self.cut(),
            // A feed delivers no other input, and ends only with its runtime.
            Some(_) | None => std::future::pending().await,
        }
    }

    fn take_in(&mut self, revision: Revision, changes: Vec<Change>) -> Moved {
        let before = self.view.leader();
        self.view.advance(revision);
        self.problem = None;
        let mut moved = Moved::Beat;
        for change in changes {
            match &change {
                Change::Record(_) => self.heard(),
                _ => moved = Moved::More,
            }
            self.view.apply(change);
        }
        if self.view.leader() == before { moved } else { Moved::More }
    }

    fn cut(&mut self) -> Moved {
        let failure = self.failure.borrow_and_update();
        let failure = failure.as_ref().map(ToString::to_string);
        self.problem = Some(failure.unwrap_or_else(|| "the watch was lost".to_owned()));
        Moved::Cut
    }
}
