//! A list and a watch over a range, for as long as the caller needs them.
//!
//! [`ListWatch`] is the core: list at R, watch from R + 1, and after any failure continue: from the last
//! delivered revision, or with a list, as [`AfterBreak`] specifies. Two consumers use it: [`Feed`], a
//! node's view of its cluster, and [`StateWatch`], the watch of users.
//!
//! # Guarantees
//!
//! Between two lists every revision that touches the range is delivered once, whole and in order. A watch
//! that is not proven fresh is replaced by one on another member: after `probe_after` of silence a
//! linearizable read shows the revision that the store has reached, and the watch must reach that revision
//! within `stale_after`. Meanwhile `ListWatch` asks the watch for progress; but only if the watch is
//! behind, since etcd sends no progress before the first revision that the watch asked for exists.
//!
//! A watch resumes after the last delivered revision only if the store still has the history that was
//! delivered. The range is read as of the last delivered revision, after the new watch was opened, and the
//! consumer compares the result with the state it holds ([`Item::Resumed`]). A store that was restored from
//! a backup fails the comparison, even if its revisions have overtaken the delivered ones (R8, replaced
//! store).
//!
//! # Caveats
//!
//! A list carries the reason why it was read ([`Relist`]): after the first list, changes between the
//! earlier items and the list may be missing, and the consumer has to report that to its reader.

mod feed;
mod following;
mod state;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time};

use self::following::{Break, Following, answer_of};
use crate::{
    clock,
    engine::{BootTime, Revision},
    store::{Event, Get, KeyRange, KeyValue, Store, StoreError, WatchItem, WatchRequest},
};

pub use feed::Feed;
pub use state::{Delta, LagCause, StateItem, StateStart, StateWatch};

/// Largest number of keys read at once; the pages of a list are of one revision. A thousand nodes have four
/// thousand keys, and the watch after a list must be open before [`SAME_STORE_FOR`] is over.
const PAGE: i64 = 2000;
/// Wait before the second attempt; doubles with each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest wait between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A store that was restored from a backup is not served before this time is over, counted from the last
/// answer of the old store (protocol, A3: 3.3 s by true time): a watch that was opened within this time
/// after a list is of the same store as the list.
const SAME_STORE_FOR: Duration = Duration::from_millis(2900);

/// Action of a `ListWatch` when its watch breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterBreak {
    /// The watch resumes after the last delivered revision, so that no change is left out. The range is
    /// read as of that revision first: a list follows if the store has compacted the revision, or if the
    /// store was replaced and holds other contents there.
    Resume,
    /// The range is listed again (R2, views).
    List,
}

/// Reason why a range is listed again. If both hold, the later variant counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relist {
    /// The watch broke and is not resumed, or the revisions it needs are compacted: the list is of the same
    /// history, at the last delivered revision or a greater one.
    CutOff,
    /// The store was wiped, restored from a backup or exchanged for another: the list begins another
    /// history, whose revisions may be smaller.
    Replaced,
}

/// Options for following a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Deadline for reading a page of a list and for opening a watch; doubled by each failure in a row, up
    /// to eight times this, since faster retries do not help a store that is too busy to answer.
    pub timeout: Duration,
    /// Silence after which a watch must prove that it is fresh.
    pub probe_after: Duration,
    /// Time that the watch has for this proof.
    pub stale_after: Duration,
    /// Action when the watch breaks.
    pub after_break: AfterBreak,
}

impl Options {
    /// Options for the view of a cluster whose leader beats every `h`: during the beats, hardly any probe
    /// is sent.
    pub fn view(h: Duration) -> Self {
        Self { probe_after: Self::VIEW.probe_after.max(h * 3 / 2), ..Self::VIEW }
    }

    /// Options for the view of the cluster: a stale watch is noticed within half a second of silence.
    pub const VIEW: Self = Self {
        timeout: Duration::from_secs(1),
        probe_after: Duration::from_millis(250),
        stale_after: Duration::from_millis(500),
        after_break: AfterBreak::List,
    };

    /// Options for users' state, which is usually silent: half a read per second and watch.
    pub const STATE: Self = Self {
        timeout: Duration::from_secs(2),
        probe_after: Duration::from_secs(2),
        stale_after: Duration::from_millis(500),
        after_break: AfterBreak::Resume,
    };
}

/// Item that a [`ListWatch`] delivers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// All keys of the range, as of one revision.
    Listed {
        /// Time before the list was sent.
        sent_at: BootTime,
        /// Time after the last page was received.
        received_at: BootTime,
        /// Revision of the list, R.
        revision: Revision,
        /// Id of the store's cluster.
        cluster: u64,
        /// Entries in the order of the keys.
        kvs: Vec<KeyValue>,
        /// Reason why the list follows earlier items; `None` for the first list.
        because: Option<Relist>,
    },
    /// A resuming watch was opened, and this is the range as of the last delivered revision. If the
    /// consumer holds other contents, the store was replaced: the consumer calls
    /// [`relist`](ListWatch::relist). Delivered with [`AfterBreak::Resume`] only.
    Resumed {
        /// Entries in the order of the keys.
        kvs: Vec<KeyValue>,
    },
    /// All events of one revision.
    Changed {
        /// Time after the events were received.
        received_at: BootTime,
        /// Revision of these events.
        revision: Revision,
        /// Events in the order of the store.
        events: Vec<Event>,
    },
    /// Everything up to this revision was delivered. A resumed watch sends this item too, as soon as it
    /// answers.
    Progress {
        /// Revision that the watch has reached.
        revision: Revision,
    },
    /// The watch is lost; a resumed watch or a list follows. Delivered once per loss.
    Lost,
}

/// Statistics of a watch so far, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lists that were read completely.
    pub lists: u64,
    /// Watches that broke or were given up.
    pub losses: u64,
    /// Watches among the losses that did not prove themselves fresh.
    pub stale: u64,
    /// Keys that were skipped because they are not in the catalogue.
    pub foreign: u64,
    /// Revision up to which everything was delivered.
    pub delivered: Revision,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    lists: AtomicU64,
    losses: AtomicU64,
    stale: AtomicU64,
    pub(crate) foreign: AtomicU64,
    delivered: AtomicI64,
}

impl Counters {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            lists: self.lists.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            foreign: self.foreign.load(Ordering::Relaxed),
            delivered: Revision(self.delivered.load(Ordering::Relaxed)),
        }
    }
}

/// The list and the watch of a range. See the module's docs.
pub(crate) struct ListWatch {
    store: Arc<dyn Store>,
    range: KeyRange,
    options: Options,
    /// The store has reached at least this revision: the watch has to reach it too.
    expected: Arc<AtomicI64>,
    counters: Arc<Counters>,
    /// Error of the last list or watch that failed.
    failure: watch::Sender<Option<StoreError>>,
    /// Position from which the range is followed, once it was listed.
    place: Option<Place>,
    /// Position at the moment when following was given up.
    left: Option<Place>,
    /// Reason why following was given up, until a list carries the reason.
    because: Option<Relist>,
    /// Time before the last list was sent.
    listed_at: BootTime,
    /// Nothing has failed since the last list.
    just_listed: bool,
    watch: Option<Following>,
    /// Failed attempts since the last delivery.
    failures: u32,
    lost_told: bool,
}

/// Position in a store's history: everything up to `delivered` was delivered.
#[derive(Clone, Copy)]
struct Place {
    delivered: Revision,
    cluster: u64,
}

impl ListWatch {
    pub(crate) fn new(store: Arc<dyn Store>, range: KeyRange, options: Options) -> Self {
        Self {
            store,
            range,
            options,
            expected: Arc::default(),
            counters: Arc::default(),
            failure: watch::Sender::new(None),
            place: None,
            left: None,
            because: None,
            listed_at: BootTime::default(),
            just_listed: false,
            watch: None,
            failures: 0,
            lost_told: false,
        }
    }

    /// Callers raise this value to a revision that the store has reached, known by a linearizable answer.
    pub(crate) fn expected(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.expected)
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Error of the last list or watch that failed, published as it happens: both are retried after any
    /// error.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.subscribe()
    }

    /// Drops the watch, since the store was replaced or may have been; a list comes next.
    pub(crate) fn relist(&mut self) {
        self.watch = None;
        self.leave(Relist::Replaced);
    }

    /// Gives up the position to resume from.
    fn leave(&mut self, because: Relist) {
        if let Some(place) = self.place.take() {
            self.left = Some(place);
        }
        self.because = self.because.max(Some(because));
        self.expected.store(0, Ordering::Relaxed);
    }

    /// Returns the next item; there always is one, provided that the store answers some time.
    ///
    /// # Cancel safety
    ///
    /// No received item is lost, but a list or a watch that is being opened begins again: a caller who
    /// drops this future in a loop may never see the end of a list.
    pub(crate) async fn next(&mut self) -> Item {
        loop {
            match (self.place, &mut self.watch) {
                (None, _) => match self.list().await {
                    Ok(item) => return item,
                    Err(error) => {
                        self.failures = self.failures.saturating_add(1);
                        // Warn only about the first failures: the metrics show a failure that continues.
                        if self.failures <= 2 {
                            tracing::warn!(%error, "list failed");
                        }
                        self.failure.send_replace(Some(error));
                    }
                },
                (Some(place), None) => match self.open(place).await {
                    Ok(Some(resumed)) => return resumed,
                    Ok(None) => {}
                    Err(why) => {
                        if let Some(lost) = self.lost(&why) {
                            return lost;
                        }
                    }
                },
                (Some(place), Some(_)) => match self.follow(place).await {
                    Ok(item) => return item,
                    Err(why) => {
                        if let Some(lost) = self.lost(&why) {
                            return lost;
                        }
                    }
                },
            }
        }
    }

    async fn list(&mut self) -> Result<Item, StoreError> {
        self.pause().await;
        let sent_at = clock::boot_now();
        let (revision, cluster, kvs) = self.read(None).await?;
        let received_at = clock::boot_now();
        let goes_back = |left: Place| revision < left.delivered || cluster != left.cluster;
        if self.left.take().is_some_and(goes_back) {
            self.because = Some(Relist::Replaced);
        }
        self.place = Some(Place { delivered: revision, cluster });
        self.listed_at = sent_at;
        self.just_listed = true;
        // Not yet a success: if the watch cannot be opened in time, the next list must not follow at once.
        let failures = self.failures;
        self.delivered(revision);
        self.failures = failures;
        self.counters.lists.fetch_add(1, Ordering::Relaxed);
        let because = self.because.take();
        Ok(Item::Listed { sent_at, received_at, revision, cluster, kvs, because })
    }

    /// Reads the whole range, as of `at` or else of now. Returns the revision of the store at the first
    /// page, the id of its cluster, and the entries. All pages are of one revision.
    async fn read(
        &mut self,
        at: Option<Revision>,
    ) -> Result<(Revision, u64, Vec<KeyValue>), StoreError> {
        let mut get = Get { limit: PAGE, at, ..Get::range(self.range.clone()) };
        let timeout = self.timeout();
        let mut answer = self.store.get(get.clone(), timeout).await?;
        let (revision, cluster) = (answer.revision, answer.cluster);
        let mut kvs = std::mem::take(&mut answer.kvs);
        get.at = at.or(Some(revision));
        while answer.more {
            let Some(last) = kvs.last() else { break };
            get.range.from = KeyRange::key(last.key.clone()).to;
            answer = self.store.get(get.clone(), timeout).await?;
            kvs.append(&mut answer.kvs);
        }
        Ok((revision, cluster, kvs))
    }

    /// Opens a watch from the revision after the last delivered one. If the watch has to prove that it
    /// continues the same history, returns the entries that the consumer is to compare.
    async fn open(&mut self, place: Place) -> Result<Option<Item>, Break> {
        if !self.just_listed {
            self.pause().await;
        }
        let from = Revision(place.delivered.0 + 1);
        let request = WatchRequest { range: self.range.clone(), from, previous: false };
        let resumes = self.options.after_break == AfterBreak::Resume;
        if !resumes && self.is_list_too_old() {
            self.leave(Relist::CutOff);
            return Ok(None);
        }
        let watch = self.store.watch(request, self.timeout()).await.map_err(Break::Failed)?;
        let mut resumed = None;
        if self.is_list_too_old() || !self.just_listed {
            if resumes {
                // The watch is open by now: a replacement of the store from now on breaks the watch.
                let kvs = self.read_again(place).await?;
                resumed = Some(Item::Resumed { kvs });
            } else if self.is_list_too_old() {
                self.failures = self.failures.saturating_add(1);
                self.leave(Relist::CutOff);
                return Ok(None);
            }
        }
        let now = clock::boot_now();
        // A probe of a resumed watch is due at once, to find out whether there is anything to catch up
        // with.
        let since = if self.lost_told { BootTime::default() } else { now };
        let endpoint = self.store.health().endpoint;
        self.watch = Some(Following::new(watch, endpoint, since, place.delivered));
        Ok(resumed)
    }

    /// Reads the range as of the last delivered revision, and checks by the revision and the cluster's id,
    /// as far as they can show it, that the store is the same.
    async fn read_again(&mut self, place: Place) -> Result<Vec<KeyValue>, Break> {
        // etcd refuses to read a future revision; the header of another answer shows its current revision.
        let get = Get { keys_only: true, ..Get::key(self.range.from.clone()) };
        let newest = self.store.get(get, self.timeout()).await.map_err(Break::Failed)?;
        if newest.revision < place.delivered || newest.cluster != place.cluster {
            return Err(Break::Replaced);
        }
        let (_, cluster, kvs) = self.read(Some(place.delivered)).await.map_err(Break::Failed)?;
        if cluster == place.cluster { Ok(kvs) } else { Err(Break::Replaced) }
    }

    /// Returns the next new item of the watch.
    async fn follow(&mut self, place: Place) -> Result<Item, Break> {
        loop {
            let following = self.watch.as_mut().expect("only called with one");
            let expected = Revision(self.expected.load(Ordering::Relaxed));
            let now = clock::boot_now();
            following.note(now, place.delivered, expected);
            if following.is_probe_due(now, self.options) {
                following.probe(now, place.delivered, &self.store, &self.range, self.options);
            }
            if following.is_to_be_asked(now) {
                following.asked_at = now;
                following.watch.request_progress().await.map_err(Break::Failed)?;
            }
            let wait = following.next_due(self.options).since(now);
            let Following { watch, probe, .. } = following;
            // A watch loses nothing when dropped; the probe stays in `probe`; a dropped sleep has no
            // effect.
            tokio::select! {
                biased;
                item = watch.next() => {
                    let item = item.map_err(Break::Failed)?;
                    let received_at = clock::boot_now();
                    following.heard_at = received_at;
                    // The watch works; a later break is unrelated to the failures before.
                    self.failures = 0;
                    if let Some(item) = self.take(place, item, received_at) {
                        return Ok(item);
                    }
                }
                answer = answer_of(probe) => {
                    following.probe = None;
                    let answer = match answer {
                        Ok(answer) => answer,
                        // The watch has made progress since the probe was sent, so a lost quorum is
                        // unlikely: the store or this process is busy. If the progress came from a backlog,
                        // the next probe shows it.
                        Err(_) if following.probed_from < place.delivered => continue,
                        Err(_) => return Err(Break::Stale("no quorum behind it")),
                    };
                    if answer.revision < following.probed_from || answer.cluster != place.cluster {
                        return Err(Break::Replaced);
                    }
                    self.expected.fetch_max(answer.revision.0, Ordering::Relaxed);
                    if answer.revision == place.delivered {
                        self.failures = 0;
                        if self.lost_told {
                            self.lost_told = false;
                            return Ok(Item::Progress { revision: place.delivered });
                        }
                    }
                }
                // Judge only when the watch has nothing to deliver: after a pause of this process its
                // answers may be waiting.
                () = time::sleep(wait) => following.judge(clock::boot_now(), self.options)?,
            }
        }
    }

    /// Returns the item if it is new. etcd members have sent events from before the requested revision
    /// (etcd issues 15271, 20221).
    fn take(&mut self, place: Place, item: WatchItem, received_at: BootTime) -> Option<Item> {
        let (WatchItem::Events { revision, .. } | WatchItem::Progress { revision }) = item;
        if revision <= place.delivered {
            return None;
        }
        self.place = Some(Place { delivered: revision, ..place });
        self.delivered(revision);
        Some(match item {
            WatchItem::Events { revision, events } => {
                Item::Changed { received_at, revision, events }
            }
            WatchItem::Progress { revision } => Item::Progress { revision },
        })
    }

    fn delivered(&mut self, revision: Revision) {
        self.failures = 0;
        self.lost_told = false;
        self.counters.delivered.store(revision.0, Ordering::Relaxed);
    }

    /// Gives the watch up, and returns `Lost` if that was not yet returned since the last delivery.
    fn lost(&mut self, why: &Break) -> Option<Item> {
        let following = self.watch.take();
        self.failures = self.failures.saturating_add(1);
        self.just_listed = false;
        // A watch that failed to open may be retried for as long as the list is young enough.
        if self.options.after_break == AfterBreak::List && following.is_some() {
            self.leave(Relist::CutOff);
        }
        match why {
            Break::Replaced => self.leave(Relist::Replaced),
            Break::Failed(error) => {
                if matches!(error, StoreError::Compacted { .. }) {
                    self.leave(Relist::CutOff);
                }
                self.failure.send_replace(Some(error.clone()));
            }
            Break::Stale(_) => {
                self.counters.stale.fetch_add(1, Ordering::Relaxed);
                // If calls have moved to another member already, the next watch moves with them.
                let endpoint = following.map(|following| following.endpoint);
                if endpoint == Some(self.store.health().endpoint) {
                    self.store.avoid_current();
                }
            }
        }
        if std::mem::replace(&mut self.lost_told, true) {
            return None;
        }
        tracing::warn!(error = %why, "watch lost");
        self.counters.losses.fetch_add(1, Ordering::Relaxed);
        Some(Item::Lost)
    }

    /// Whether a watch that is opened now may be of another store than the list.
    fn is_list_too_old(&self) -> bool {
        SAME_STORE_FOR < clock::boot_now().since(self.listed_at)
    }

    fn timeout(&self) -> Duration {
        self.options.timeout * 2_u32.pow(self.failures.min(3))
    }

    /// Waits before another attempt, so that nothing spins: no wait before the first attempt after a
    /// delivery, then longer each time.
    async fn pause(&mut self) {
        let Some(doublings) = self.failures.checked_sub(2) else { return };
        let pause = (FIRST_PAUSE * 2_u32.pow(doublings.min(10))).min(LONGEST_PAUSE);
        // Jitter: half to all of the pause, so that a fleet does not retry at the same moment.
        time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

#[cfg(test)]
mod tests;
