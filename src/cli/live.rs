//! A [`Snapshot`] that follows the store, by the same [`Feed`] as a node's view: a list, then a watch from
//! the next revision, and a new list whenever the watch breaks or does not prove itself fresh.

use std::{sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::{Change, Revision},
    store::{
        Store, StoreError,
        keys::Keys,
        list_watch::{Feed, Options, Update},
    },
};
use tokio::sync::watch;

use super::snapshot::Snapshot;

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

/// See the module's docs.
pub(crate) struct Live {
    feed: Feed,
    /// Why the feed failed last, as it happens.
    failure: watch::Receiver<Option<StoreError>>,
    pub(crate) snapshot: Snapshot,
    /// When a write of the record was last received, in Unix time.
    pub(crate) last_beat_unix_ms: Option<u64>,
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
        let snapshot = Snapshot::read(&*store, &keys, timeout).await?;
        let options = Options { timeout, ..Options::view(BEATS_EVERY) };
        let feed = Feed::start(store, keys, options);
        let failure = feed.failure();
        Ok(Self { feed, failure, snapshot, last_beat_unix_ms: None, problem: None })
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
            Some(Update::Listed { revision, changes, .. }) => {
                self.snapshot = Snapshot::of(revision, changes);
                self.problem = None;
                Moved::More
            }
            Some(Update::Changed { revision, changes, .. }) => self.take_in(revision, changes),
            Some(Update::Progress { revision }) => {
                self.snapshot.revision = revision;
                self.problem = None;
                Moved::Beat
            }
            Some(Update::Lost) => self.cut(),
            // The feed ends with its runtime only.
            None => std::future::pending().await,
        }
    }

    fn take_in(&mut self, revision: Revision, changes: Vec<Change>) -> Moved {
        let before = self.snapshot.leader();
        self.snapshot.revision = revision;
        self.problem = None;
        let mut moved = Moved::Beat;
        for change in changes {
            match &change {
                Change::Record(_) => self.last_beat_unix_ms = Some(clock::unix_ms()),
                _ => moved = Moved::More,
            }
            self.snapshot.apply(change);
        }
        if self.snapshot.leader() == before { moved } else { Moved::More }
    }

    fn cut(&mut self) -> Moved {
        let failure = self.failure.borrow_and_update();
        let failure = failure.as_ref().map(ToString::to_string);
        self.problem = Some(failure.unwrap_or_else(|| "the watch was lost".to_owned()));
        Moved::Cut
    }
}
