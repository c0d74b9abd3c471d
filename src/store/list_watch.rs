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
//! # Caveats
//!
//! After a list it is for the consumer to find out what is gone. A store that was wiped or restored is
//! listed anew; what that means is for the consumer, too (R8).

mod feed;
mod state;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{sync::watch, time};

use crate::{
    clock,
    engine::{BootTime, Revision},
    store::{
        Event, Get, GetAnswer, KeyRange, KeyValue, Store, StoreError, Watch, WatchItem,
        WatchRequest,
    },
};

pub use feed::{Feed, Update};
pub use state::{Delta, StateItem, StateStart, StateWatch};

/// How many keys are read at once; the pages of a list are of one revision. A thousand nodes have four
/// thousand keys, and what is listed must be followed before [`SAME_STORE_FOR`] is over.
const PAGE: i64 = 2000;
/// How long to wait before the second attempt; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest wait between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a watch that is behind is asked where it is.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A watch that is never silent is proven fresh after so many times `probe_after`.
const BUSY_FACTOR: u32 = 10;

/// A store that was restored from a backup is not served before this is over, counted from the old one's
/// last answer (protocol, A3: 3.3 s by true time): a watch that was opened within it belongs to its list.
const SAME_STORE_FOR: Duration = Duration::from_millis(2900);

/// What follows when a watch breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterBreak {
    /// The watch goes on after the last revision that was delivered: every single change is told, but a
    /// store that was restored in between, and has overtaken that revision since, goes unnoticed.
    Resume,
    /// The range is listed anew (R2).
    List,
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
    /// Why a list failed last.
    failure: watch::Sender<Option<StoreError>>,
    /// Where the range is followed from, once it was listed.
    place: Option<Place>,
    /// Before the last list was sent.
    listed_at: BootTime,
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

struct Following {
    watch: Box<dyn Watch>,
    /// Who was asked when it was opened.
    endpoint: String,
    heard_at: BootTime,
    probed_at: BootTime,
    probe: Option<BoxFuture<'static, Result<GetAnswer, StoreError>>>,
    /// Where the watch was when the probe was sent: no linearizable answer may show less.
    probed_from: Revision,
    asked_at: BootTime,
    /// Since when the watch has not been where the store was known to be then, and where that is. Not
    /// where the store has got to since: one that is written to all the time is never caught up with.
    behind: Option<(BootTime, Revision)>,
}

/// Why a watch was given up.
enum Break {
    /// It said so.
    Failed(StoreError),
    /// It did not prove itself fresh.
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
            listed_at: BootTime::default(),
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

    /// Why a list failed last, as it happens: lists are tried again, whatever the reason.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.subscribe()
    }

    /// Drops the watch; a list comes next.
    pub(crate) fn relist(&mut self) {
        self.place = None;
        self.watch = None;
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
                    Ok(()) => {}
                    Err(error) => {
                        if let Some(lost) = self.lost(&Break::Failed(error)) {
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
        let mut get = Get { limit: PAGE, ..Get::range(self.range.clone()) };
        let timeout = self.timeout();
        let mut answer = self.store.get(get.clone(), timeout).await?;
        let (revision, cluster) = (answer.revision, answer.cluster);
        let mut kvs = std::mem::take(&mut answer.kvs);
        get.at = Some(revision);
        while answer.more {
            let Some(last) = kvs.last() else { break };
            get.range.from = KeyRange::key(last.key.clone()).to;
            answer = self.store.get(get.clone(), timeout).await?;
            kvs.append(&mut answer.kvs);
        }
        let received_at = clock::boot_now();
        self.place = Some(Place { delivered: revision, cluster });
        self.listed_at = sent_at;
        // Not yet a success: if the watch cannot be opened in time, the next list is not to come at once.
        let failures = self.failures;
        self.delivered(revision);
        self.failures = failures;
        self.counters.lists.fetch_add(1, Ordering::Relaxed);
        Ok(Item::Listed { sent_at, received_at, revision, cluster, kvs })
    }

    async fn open(&mut self, place: Place) -> Result<(), StoreError> {
        self.pause().await;
        let from = Revision(place.delivered.0 + 1);
        let request = WatchRequest { range: self.range.clone(), from, previous: false };
        if self.is_list_too_old() {
            self.place = None;
            return Ok(());
        }
        let watch = self.store.watch(request, self.timeout()).await?;
        let now = clock::boot_now();
        if self.is_list_too_old() {
            self.failures = self.failures.saturating_add(1);
            self.place = None;
            return Ok(());
        }
        // Of a resumed one it is to be known at once whether there is anything it has to make up for.
        let since = if self.lost_told { BootTime::default() } else { now };
        self.watch = Some(Following {
            watch,
            endpoint: self.store.health().endpoint,
            heard_at: since,
            probed_at: since,
            probe: None,
            probed_from: place.delivered,
            asked_at: BootTime::default(),
            behind: None,
        });
        Ok(())
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
        // One that could not be opened may be tried again for as long as the list serves.
        if self.options.after_break == AfterBreak::List && following.is_some() {
            self.place = None;
            self.expected.store(0, Ordering::Relaxed);
        }
        match why {
            Break::Failed(StoreError::Compacted { .. }) | Break::Replaced => {
                self.place = None;
                self.expected.store(0, Ordering::Relaxed);
            }
            Break::Failed(_) => {}
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
        self.options.after_break == AfterBreak::List
            && SAME_STORE_FOR < clock::boot_now().since(self.listed_at)
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

impl Following {
    fn note(&mut self, now: BootTime, delivered: Revision, expected: Revision) {
        if self.behind.is_none_or(|(_, goal)| goal <= delivered) {
            self.behind = (delivered < expected).then_some((now, expected));
        }
    }

    /// Whether it has proven itself in time.
    fn judge(&self, now: BootTime, options: Options) -> Result<(), Break> {
        match self.behind {
            Some((since, _)) if since + options.stale_after <= now => {
                Err(Break::Stale("it is behind"))
            }
            _ => Ok(()),
        }
    }

    /// When something is to be done or judged next.
    fn next_due(&self, options: Options) -> BootTime {
        let stale = self.behind.map(|(since, _)| since + options.stale_after);
        let ask = self.behind.map(|_| self.asked_at + ASK_AGAIN);
        let probe = self.probe.is_none().then(|| self.probe_due(options));
        let due = [stale, ask, probe].into_iter().flatten().min();
        due.unwrap_or(self.probed_at + options.probe_after * BUSY_FACTOR)
    }

    fn probe_due(&self, options: Options) -> BootTime {
        let silent = self.heard_at.max(self.probed_at) + options.probe_after;
        silent.min(self.probed_at + options.probe_after * BUSY_FACTOR)
    }

    fn is_probe_due(&self, now: BootTime, options: Options) -> bool {
        self.probe.is_none() && self.probe_due(options) <= now
    }

    /// Asks the store, by whichever member it is reached, how far it is. By one key: etcd counts a range to
    /// its end whatever the limit, and a thousand nodes ask at once when their leader falls silent.
    fn probe(
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

    fn is_to_be_asked(&self, now: BootTime) -> bool {
        self.behind.is_some() && self.asked_at + ASK_AGAIN <= now
    }
}

/// The probe's answer; never, if there is no probe.
async fn answer_of(
    probe: &mut Option<BoxFuture<'static, Result<GetAnswer, StoreError>>>,
) -> Result<GetAnswer, StoreError> {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
