//! A [`Snapshot`] that follows the store: a list, then a watch from the next revision, and a new list
//! whenever that breaks.

use std::{sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::{BootTime, Change, Revision, timing},
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

/// Beyond the time after which a silent leader cannot act any more: a beat may be on its way here.
const GRACE: Duration = Duration::from_millis(300);

/// How long a leader of that D is listened for before it counts as silent.
pub(crate) fn patience(d: Duration) -> Duration {
    timing::wait(d) + GRACE
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
        let mut live = Self {
            store,
            keys,
            timeout,
            watch: None,
            snapshot: Snapshot::default(),
            last_beat_unix_ms: None,
            heard_at: clock::boot_now(),
            problem: None,
        };
        live.relist().await?;
        Ok(live)
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
        let written = |live: &Self| live.snapshot.record.as_ref().map(|it| it.modified);
        let first = written(self);
        loop {
            let Some(d) = self.snapshot.leader().and_then(|it| it.d) else { return Ok(None) };
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
        self.relist().await?;
        let silent = written(self) == first && self.snapshot.leader().is_some();
        Ok(silent.then_some(listened))
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
                Change::Record(_) => {
                    self.last_beat_unix_ms = Some(clock::unix_ms());
                    self.heard_at = clock::boot_now();
                }
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
