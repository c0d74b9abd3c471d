//! A [`Snapshot`] that follows the store: a list, then a watch from the next revision, and a new list
//! whenever that breaks.

use std::{sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::{Change, Revision},
    store::{Store, StoreError, Watch, WatchItem, WatchRequest, keys::Keys, protocol::Decoded},
};

use super::snapshot::Snapshot;

/// Before a broken watch is opened anew.
const PAUSE: Duration = Duration::from_millis(500);

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
    store: Arc<dyn Store>,
    keys: Keys,
    timeout: Duration,
    watch: Option<Box<dyn Watch>>,
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
        let mut live = Self {
            store,
            keys,
            timeout,
            watch: None,
            snapshot: Snapshot::default(),
            last_beat_unix_ms: None,
            problem: None,
        };
        live.relist().await?;
        Ok(live)
    }

    async fn relist(&mut self) -> Result<(), StoreError> {
        let snapshot = Snapshot::read(&*self.store, &self.keys, self.timeout).await?;
        let request = WatchRequest {
            range: self.keys.watched(),
            from: Revision(snapshot.revision.0 + 1),
            previous: false,
        };
        self.watch = Some(self.store.watch(request, self.timeout).await?);
        self.snapshot = snapshot;
        self.problem = None;
        Ok(())
    }

    /// Waits until something moved.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost, but while the store is cut off, who cancels it more often than it pauses never
    /// lists again.
    pub(crate) async fn moved(&mut self) -> Moved {
        let Some(watch) = &mut self.watch else {
            tokio::time::sleep(PAUSE).await;
            return match self.relist().await {
                Ok(()) => Moved::More,
                Err(error) => self.cut(&error),
            };
        };
        match watch.next().await {
            Ok(WatchItem::Events { revision, events }) => {
                let decoded = Decoded::of_events(&self.keys, &events);
                self.take_in(revision, decoded.changes)
            }
            Ok(WatchItem::Progress { revision }) => {
                self.snapshot.revision = revision;
                Moved::Beat
            }
            Err(error) => self.cut(&error),
        }
    }

    fn take_in(&mut self, revision: Revision, changes: Vec<Change>) -> Moved {
        let before = self.snapshot.leader();
        self.snapshot.revision = revision;
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

    fn cut(&mut self, error: &StoreError) -> Moved {
        self.watch = None;
        self.problem = Some(error.to_string());
        Moved::Cut
    }
}
