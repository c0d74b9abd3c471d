//! A [`ClusterView`] that follows the store, by the same [`Feed`] as a node's view: a list, then a watch from
//! the next revision, and a new list whenever the watch breaks or does not prove itself fresh.

use std::{sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::{BootTime, Change, ClusterView, Input, Revision, timing},
    store::{
        Get, Store, StoreError,
        keys::Keys,
        list_watch::{Feed, Options},
        protocol::Decoded,
    },
};
use tokio::sync::watch;

/// A leader that acts beats at least this often. Only a longer silence makes the watch prove itself.
const BEATS_EVERY: Duration = Duration::from_secs(1);

/// What moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Only beats.
    Beat,
    /// More than that, or everything may have.
    More,
    /// The store does not answer; see [`Live::problem`].
    Cut,
}

/// Beyond the time after which a silent leader cannot act any more: a beat may be on its way here.
const GRACE: Duration = Duration::from_millis(300);

/// How long a leader of that D is listened for before it counts as silent.
pub(crate) fn patience(d: Duration) -> Duration {
    timing::wait(d) + GRACE
}

/// Reads a cluster with one linearizable read.
///
/// # Errors
///
/// What the store says.
pub(crate) async fn read(
    store: &dyn Store,
    keys: &Keys,
    timeout: Duration,
) -> Result<ClusterView, StoreError> {
    let answer = store.get(Get::range(keys.watched()), timeout).await?;
    Ok(ClusterView::of(answer.revision, Decoded::of_list(keys, &answer.kvs).changes))
}

/// See the module's docs.
pub(crate) struct Live {
    store: Arc<dyn Store>,
    keys: Keys,
    timeout: Duration,
    feed: Feed,
    /// Why the feed failed last, as it happens.
    failure: watch::Receiver<Option<StoreError>>,
    pub(crate) view: ClusterView,
    /// When a write of the record was last received, in Unix time.
    pub(crate) last_beat_unix_ms: Option<u64>,
    /// When that was, or else since when it is listened for.
    pub(crate) heard_at: BootTime,
    /// Why it does not follow, while it does not.
    pub(crate) problem: Option<String>,
}

impl Live {
    /// Lists and watches.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        keys: Keys,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        // By itself: the feed would try again, whatever the reason.
        let view = read(&*store, &keys, timeout).await?;
        let options = Options { timeout, ..Options::view(BEATS_EVERY) };
        let feed = Feed::start(Arc::clone(&store), keys.clone(), options);
        let failure = feed.failure();
        let heard_at = clock::boot_now();
        let (last_beat_unix_ms, problem) = (None, None);
        Ok(Self { store, keys, timeout, feed, failure, view, last_beat_unix_ms, heard_at, problem })
    }

    /// Listens until the leader beats, or for as long as its silence may last: `None` if it acts, as far
    /// as the store can say, or nobody is in office; else how long it was listened for in vain.
    ///
    /// Ends at the next beat of a leader that acts. A leader of the Go package has none.
    ///
    /// # Errors
    ///
    /// What the store says.
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
            // Cancel safe; the loop ends then.
            let _ = tokio::time::timeout(left, self.moved()).await;
        }
        // A watch may lag; the record itself has the last word.
        let listened = clock::boot_now().since(began);
        self.view = read(&*self.store, &self.keys, self.timeout).await?;
        let silent = self.written() == first && self.view.leader().is_some();
        Ok(silent.then_some(listened))
    }

    /// Which write of the record is seen.
    fn written(&self) -> Option<Revision> {
        self.view.record_revision()
    }

    fn heard(&mut self) {
        self.last_beat_unix_ms = Some(clock::unix_ms());
        self.heard_at = clock::boot_now();
    }

    /// Waits until something moved.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not returned is returned next time.
    pub(crate) async fn moved(&mut self) -> Moved {
        let update = tokio::select! {
            biased;
            // Cancel safe, both.
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
            // A feed delivers nothing else, and ends with its runtime only.
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
