//! One list and one watch over a range, for as long as it is wanted.
//!
//! [`ListWatch`] is the core: list at R, watch from R + 1, and whatever goes wrong, go on: where it left
//! off, or with a list, as [`AfterBreak`] says. Two consumers stand on it: [`Feed`], a node's view of
//! its cluster, and [`StateWatch`], what users watch.
//!
//! # Guarantees
//!
//! Between two lists every revision that touches the range is delivered once, whole and in order. A
//! watch that is not proven fresh is left for another member: after `probe_after` of silence a
//! linearizable read tells how far the store is, and the watch must be that far within `stale_after`. It
//! is asked for progress meanwhile; but only if it is behind, since etcd says nothing about progress
//! before the first revision that a watch was asked for exists.
//!
//! A watch goes on where it left off only if the store still has the history that was delivered. The
//! range is read as of the last revision that was delivered, after the new watch was opened, and the
//! consumer compares it with what it holds ([`Item::Resumed`]). A store that was restored from a backup
//! fails the comparison, even if its revisions have overtaken what was delivered (R8).
//!
//! # Caveats
//!
//! A list carries the reason why it was read ([`Relist`]): after the first list, changes between what was
//! delivered before and the list may be missing, and the consumer has to say so to its reader.

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

/// How many keys are read at once; the pages of a list are of one revision. A thousand nodes have four
/// thousand keys, and what is listed must be followed before [`SAME_STORE_FOR`] is over.
const PAGE: i64 = 2000;
/// How long to wait before the second attempt; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest wait between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A store that was restored from a backup is not served before this is over, counted from the old one's
/// last answer (protocol, A3: 3.3 s by true time): a watch that was opened within it belongs to its list.
const SAME_STORE_FOR: Duration = Duration::from_millis(2900);

/// What follows when a watch breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterBreak {
    /// The watch goes on after the last revision that was delivered, so that no change is left out. The
    /// range is read as of that revision first: a list follows if the store has compacted the revision,
    /// or holds something else there because it was replaced.
    Resume,
    /// The range is listed again (R2).
    List,
}

/// Why a range is listed again. The later variant counts where both hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relist {
    /// The watch broke and is not resumed, or what it wants is compacted: the list is of the same
    /// history, at the revision that was delivered last or a greater one.
    CutOff,
    /// The store was wiped, restored from a backup or exchanged for another: the list begins another
    /// history, whose revisions may be smaller.
    Replaced,
}

/// How a range is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Deadline of a list's page and of opening a watch; doubled by each failure in a row, up to eight
    /// times this, since a store that is too busy for it is not helped by being asked again.
    pub timeout: Duration,
    /// A watch that was silent for so long must prove itself.
    pub probe_after: Duration,
    /// How long it may take for that.
    pub stale_after: Duration,
    /// What follows when the watch breaks.
    pub after_break: AfterBreak,
}

impl Options {
    /// For the view of a cluster whose leader beats every `h`: while it beats, hardly anything is asked.
    pub fn view(h: Duration) -> Self {
        Self { probe_after: Self::VIEW.probe_after.max(h * 3 / 2), ..Self::VIEW }
    }

    /// For the view of the cluster: a stale one is noticed within half a second of silence.
    pub const VIEW: Self = Self {
        timeout: Duration::from_secs(1),
        probe_after: Duration::from_millis(250),
        stale_after: Duration::from_millis(500),
        after_break: AfterBreak::List,
    };

    /// For users' state, which is silent as a rule: half a read per second and watch.
    pub const STATE: Self = Self {
        timeout: Duration::from_secs(2),
        probe_after: Duration::from_secs(2),
        stale_after: Duration::from_millis(500),
        after_break: AfterBreak::Resume,
    };
}

/// What a [`ListWatch`] delivers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// All keys of the range, as of one revision.
    Listed {
        /// Before the list was sent.
        sent_at: BootTime,
        /// After the last of it was received.
        received_at: BootTime,
        /// R of the list.
        revision: Revision,
        /// Id of the store's cluster.
        cluster: u64,
        /// In the order of the keys.
        kvs: Vec<KeyValue>,
        /// Why it follows earlier items; `None` for the first list.
        because: Option<Relist>,
    },
    /// A watch that goes on where it left off was opened, and this is the range as of the last revision
    /// that was delivered. If the consumer holds something else, the store was replaced: it calls
    /// [`relist`](ListWatch::relist). Comes with [`AfterBreak::Resume`] only.
    Resumed {
        /// In the order of the keys.
        kvs: Vec<KeyValue>,
    },
    /// All events of one revision.
    Changed {
        /// After they were received.
        received_at: BootTime,
        /// Theirs.
        revision: Revision,
        /// In the order of the store.
        events: Vec<Event>,
    },
    /// Everything up to here was delivered. Also said of a resumed watch as soon as it answers.
    Progress {
        /// Up to where.
        revision: Revision,
    },
    /// The watch is gone; the resumed one or a list follows. Said once.
    Lost,
}

/// What happened to a watch so far, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lists that were read to their end.
    pub lists: u64,
    /// Watches that broke or were left.
    pub losses: u64,
    /// Of those: watches that did not prove themselves fresh.
    pub stale: u64,
    /// Keys that were skipped because they are not in the catalogue.
    pub foreign: u64,
    /// Everything up to here was delivered.
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

/// See the module's docs.
pub(crate) struct ListWatch {
    store: Arc<dyn Store>,
    range: KeyRange,
    options: Options,
    /// The store is known to be at least here: a watch has to get there.
    expected: Arc<AtomicI64>,
    counters: Arc<Counters>,
    /// Why a list or a watch failed last.
    failure: watch::Sender<Option<StoreError>>,
    /// Where the range is followed from, once it was listed.
    place: Option<Place>,
    /// Where it was followed from when that was given up.
    left: Option<Place>,
    /// Why it was given up, until a list says it.
    because: Option<Relist>,
    /// Before the last list was sent.
    listed_at: BootTime,
    /// Nothing has failed since the last list.
    just_listed: bool,
    watch: Option<Following>,
    /// Attempts since something was last delivered.
    failures: u32,
    lost_told: bool,
}

/// Everything up to `delivered` was delivered.
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

    /// Raise it to where the store is known to be, by a linearizable answer.
    pub(crate) fn expected(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.expected)
    }

    pub(crate) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Why a list or a watch failed last, as it happens: both are tried again, whatever the reason.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.subscribe()
    }

    /// Drops the watch, since the store was replaced or may have been; a list comes next.
    pub(crate) fn relist(&mut self) {
        self.watch = None;
        self.leave(Relist::Replaced);
    }

    /// Gives up what was delivered as the place to go on from.
    fn leave(&mut self, because: Relist) {
        if let Some(place) = self.place.take() {
            self.left = Some(place);
        }
        self.because = self.because.max(Some(because));
        self.expected.store(0, Ordering::Relaxed);
    }

    /// What comes next; it always comes, if the store ever answers.
    ///
    /// # Cancel safety
    ///
    /// Nothing that was received is lost, but a list or a watch that is being opened begins again: a
    /// caller who drops this in a loop may never see the end of a list.
    pub(crate) async fn next(&mut self) -> Item {
        loop {
            match (self.place, &mut self.watch) {
                (None, _) => match self.list().await {
                    Ok(item) => return item,
                    Err(error) => {
                        self.failures = self.failures.saturating_add(1);
                        // Once: what goes on failing is told by the metrics.
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
        // Not yet a success: if the watch cannot be opened in time, the next list is not to come at once.
        let failures = self.failures;
        self.delivered(revision);
        self.failures = failures;
        self.counters.lists.fetch_add(1, Ordering::Relaxed);
        let because = self.because.take();
        Ok(Item::Listed { sent_at, received_at, revision, cluster, kvs, because })
    }

    /// Reads the whole range, as of `at` or else of now, and says of which revision the store was at the
    /// first page and what its cluster's id is. All pages are of one revision.
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

    /// Opens a watch after what was delivered. Of one that has to prove whose history it goes on with,
    /// what the consumer is to compare.
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
                // With the watch open: what replaces the store from now on breaks it.
                let kvs = self.read_again(place).await?;
                resumed = Some(Item::Resumed { kvs });
            } else if self.is_list_too_old() {
                self.failures = self.failures.saturating_add(1);
                self.leave(Relist::CutOff);
                return Ok(None);
            }
        }
        let now = clock::boot_now();
        // Of a resumed one it is to be known at once whether there is anything it has to make up for.
        let since = if self.lost_told { BootTime::default() } else { now };
        let endpoint = self.store.health().endpoint;
        self.watch = Some(Following::new(watch, endpoint, since, place.delivered));
        Ok(resumed)
    }

    /// Reads what the range was when it was last delivered, of the same store as far as that can be told
    /// by its revision and its cluster's id.
    async fn read_again(&mut self, place: Place) -> Result<Vec<KeyValue>, Break> {
        // etcd refuses to read a revision that is yet to come; where it is, an answer says.
        let get = Get { keys_only: true, ..Get::key(self.range.from.clone()) };
        let newest = self.store.get(get, self.timeout()).await.map_err(Break::Failed)?;
        if newest.revision < place.delivered || newest.cluster != place.cluster {
            return Err(Break::Replaced);
        }
        let (_, cluster, kvs) = self.read(Some(place.delivered)).await.map_err(Break::Failed)?;
        if cluster == place.cluster { Ok(kvs) } else { Err(Break::Replaced) }
    }

    /// The next thing the watch delivers that is new.
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
            // A watch loses nothing when dropped; a probe is kept; a sleep has taken nothing.
            tokio::select! {
                biased;
                item = watch.next() => {
                    let item = item.map_err(Break::Failed)?;
                    let received_at = clock::boot_now();
                    following.heard_at = received_at;
                    // It works; if it breaks again, that has nothing to do with what was before.
                    self.failures = 0;
                    if let Some(item) = self.take(place, item, received_at) {
                        return Ok(item);
                    }
                }
                answer = answer_of(probe) => {
                    following.probe = None;
                    let answer = match answer {
                        Ok(answer) => answer,
                        // It has got further since: it is not the watch that lacks a quorum, but the store
                        // or this process that is busy. If that was a backlog, the next probe tells.
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
                // Only when it had nothing to say: after a pause of this process its answers may be
                // waiting.
                () = time::sleep(wait) => following.judge(clock::boot_now(), self.options)?,
            }
        }
    }

    /// What of an item is new. Members have been seen to send events from before what was asked for
    /// (etcd 15271, 20221).
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

    /// Gives the watch up, and says so if it has not been said since something was delivered.
    fn lost(&mut self, why: &Break) -> Option<Item> {
        let following = self.watch.take();
        self.failures = self.failures.saturating_add(1);
        self.just_listed = false;
        // One that could not be opened may be tried again for as long as the list serves.
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
                // If calls have moved on already, the next watch goes with them.
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

    /// Waits before another attempt: not before the first after something was delivered, then longer
    /// each time, so that nothing spins.
    async fn pause(&mut self) {
        let Some(doublings) = self.failures.checked_sub(2) else { return };
        let pause = (FIRST_PAUSE * 2_u32.pow(doublings.min(10))).min(LONGEST_PAUSE);
        // Half to all of it, so that a fleet does not return as one.
        time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

#[cfg(test)]
mod tests;
