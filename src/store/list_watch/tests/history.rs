//! A user's watch against the store's own history: which items its reader gets over compactions, cuts,
//! restores and slowness, and whether they are consistent with that history.

use std::rc::Rc;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::sync::watch::channel;
use tokio_util::sync::CancellationToken;

use super::*;

type Contents = BTreeMap<Vec<u8>, KeyValue>;

/// Contents of the range at each revision. Revisions that a restore skipped are not included.
type History = BTreeMap<Revision, Rc<Contents>>;

/// More changes than can wait for a reader.
const MANY: usize = 1100;
/// Longer than the delay of a slow answer.
const A_WHILE: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
enum Step {
    /// Writes few keys and values, so that two histories often agree by chance.
    Put(u8, u8),
    Delete(u8),
    /// Puts the first and deletes the second key in one revision.
    PutAndDelete(u8, u8),
    PutOutsideOfTheRange,
    PutMany,
    CutWatches,
    /// No call reaches the store.
    Away,
    /// Answers are delayed, so that steps happen between two calls.
    Slow,
    Back,
    /// Compacts this many revisions below the newest.
    Compact(u8),
    Backup,
    /// Restores the backup, with this many revisions skipped and marked as compacted.
    Restore(Option<u8>),
    Wipe,
    OtherCluster,
    /// Reads at most this many items.
    Read(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..4_u8, 0..2_u8).prop_map(|(key, value)| Step::Put(key, value)),
        6 => (0..4_u8).prop_map(Step::Delete),
        3 => (0..4_u8, 0..4_u8).prop_map(|(put, delete)| Step::PutAndDelete(put, delete)),
        2 => Just(Step::PutOutsideOfTheRange),
        2 => Just(Step::PutMany),
        4 => Just(Step::CutWatches),
        4 => Just(Step::Away),
        2 => Just(Step::Slow),
        5 => Just(Step::Back),
        4 => (0..4_u8).prop_map(Step::Compact),
        2 => Just(Step::Backup),
        3 => proptest::option::weighted(0.2, 0..20_u8).prop_map(Step::Restore),
        1 => Just(Step::Wipe),
        1 => Just(Step::OtherCluster),
        12 => (1..9_u8).prop_map(Step::Read),
    ]
}

/// Condition of the connection to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    Slow,
    Shut,
}

/// A store whose complete past is known.
struct World {
    store: MemoryStore,
    way: Way,
    histories: Vec<History>,
    backup: Option<(Model, History)>,
    compacted: bool,
}

impl World {
    fn new() -> Self {
        let store = MemoryStore::new();
        let histories = vec![History::new()];
        let mut world = Self { store, way: Way::Open, histories, backup: None, compacted: false };
        world.note();
        world
    }

    fn now(&self) -> (Revision, Contents) {
        self.store.with_model(|model| {
            let kvs = model.peek(&Get::range(range()));
            (model.revision(), kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect())
        })
    }

    fn note(&mut self) {
        let (revision, contents) = self.now();
        let history = self.histories.last_mut().expect("there is always one");
        history.entry(revision).or_insert_with(|| Rc::new(contents));
    }

    fn set_way(&mut self, way: Way) {
        self.way = way;
        self.store.faults().set(move |_| match way {
            Way::Open => None,
            Way::Slow => Some(Fault::SlowAnswer(Duration::from_millis(3))),
            Way::Shut => Some(Fault::Unreachable),
        });
    }

    fn put(&mut self, key: u8, value: &str) {
        put(&self.store, &format!("k{key}"), value);
        self.note();
    }

    /// Begins another history. No call is in flight meanwhile: a restored store is not served at once (A3,
    /// restored stores), so that a list and the watch that follows it are of one store.
    async fn replace(&mut self, history: History, act: impl FnOnce(&mut Model)) {
        let way = self.way;
        self.set_way(Way::Shut);
        time::sleep(A_WHILE).await;
        self.store.with_model(act);
        self.histories.push(history);
        self.note();
        self.set_way(way);
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Put(key, value) => self.put(key, &value.to_string()),
            Step::Delete(key) => {
                delete(&self.store, &format!("k{key}"));
                self.note();
            }
            Step::PutAndDelete(key, other) => {
                let put =
                    Op::Put { key: format!("k{key}").into(), value: b"2".to_vec(), lease: None };
                let mut then = vec![put];
                if key != other {
                    then.push(Op::Delete(KeyRange::key(format!("k{other}"))));
                }
                let txn = Txn { then, ..Txn::default() };
                self.store.with_model(|model| model.txn(BootTime::default(), &txn).unwrap());
                self.note();
            }
            Step::PutOutsideOfTheRange => {
                put(&self.store, "other", "");
                self.note();
            }
            Step::PutMany => {
                for n in 0..MANY {
                    self.put(0, &n.to_string());
                }
            }
            Step::CutWatches => self.store.faults().cut_watches(),
            Step::Away => {
                self.set_way(Way::Shut);
                self.store.faults().cut_watches();
            }
            Step::Slow => self.set_way(Way::Slow),
            Step::Back => self.set_way(Way::Open),
            Step::Compact(below) => {
                let newest = self.store.with_model(|model| model.revision());
                let at = Revision(newest.0 - i64::from(below));
                self.compacted |= self.store.compact(at).is_ok();
            }
            Step::Backup => {
                let history = self.histories.last().expect("there is always one").clone();
                self.backup = Some((self.store.with_model(|model| model.clone()), history));
            }
            Step::Restore(skipped) => {
                let Some((backup, history)) = self.backup.clone() else { return };
                self.compacted |= skipped.is_some();
                let act = |model: &mut Model| model.restore(&backup, skipped.map(u64::from));
                self.replace(history, act).await;
            }
            Step::Wipe => self.replace(History::new(), Model::wipe).await,
            Step::OtherCluster => {
                let history = self.histories.last().expect("there is always one").clone();
                let act = |model: &mut Model| model.set_cluster(model.cluster() + 1);
                self.replace(history, act).await;
            }
            Step::Read(_) => {}
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    snapshots: u64,
    changes: u64,
    slow: u64,
    cut_off: u64,
    replaced: u64,
}

/// Items that the reader has got so far.
struct Reader {
    /// Contents that the reader has folded.
    fold: Contents,
    revision: Revision,
    /// The fold before the changes of `revision`, and its revision: some of these changes may still be
    /// missing.
    before: Option<(Contents, Revision)>,
    /// The histories that are consistent with all items so far.
    of: Vec<usize>,
    counts: Counts,
}

impl Reader {
    /// Reads at most `most` items, if they come in time.
    async fn read(&mut self, watch: &mut StateWatch, world: &World, most: usize) {
        for _ in 0..most {
            match time::timeout(A_WHILE, watch.next()).await {
                Ok(Some(item)) => self.take(world, item),
                Ok(None) => panic!("the watch has ended"),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, world: &World, item: StateItem) {
        match item {
            StateItem::Snapshot { revision, kvs } => {
                assert!(self.of.is_empty(), "a second snapshot");
                self.counts.snapshots += 1;
                self.jump(world, revision, &kvs, 0);
            }
            StateItem::Lagged { cause, revision, kvs } => {
                let first = *self.of.first().expect("nothing can lag before it has begun");
                match cause {
                    LagCause::SlowReader { missed } => {
                        assert!(missed > 0);
                        self.counts.slow += 1;
                    }
                    LagCause::CutOff => {
                        assert!(world.compacted, "nothing was compacted");
                        self.counts.cut_off += 1;
                    }
                    LagCause::StoreReplaced => self.counts.replaced += 1,
                }
                if cause == LagCause::StoreReplaced {
                    self.jump(world, revision, &kvs, first + 1);
                } else {
                    assert!(self.revision <= revision, "{cause:?} goes back to {revision}");
                    self.jump(world, revision, &kvs, first);
                }
            }
            StateItem::Changed(delta) => {
                self.counts.changes += 1;
                self.change(world, delta);
            }
        }
    }

    /// Jumps to the contents at a revision of a history with index `first` or later.
    fn jump(&mut self, world: &World, revision: Revision, kvs: &[Arc<KeyValue>], first: usize) {
        self.before = None;
        self.revision = revision;
        self.fold = kvs.iter().map(|kv| (kv.key.clone(), KeyValue::clone(kv))).collect();
        let there = |history: &History| history.get(&revision).is_some_and(|it| **it == self.fold);
        let later = world.histories.iter().enumerate().skip(first);
        self.of = later.filter(|(_, history)| there(history)).map(|(at, _)| at).collect();
        assert!(!self.of.is_empty(), "{:?} was never there at {revision}", self.fold);
    }

    fn change(&mut self, world: &World, Delta { revision, now, before }: Delta) {
        if self.before.is_none() || self.revision != revision {
            self.check_complete(world);
            assert!(self.revision < revision, "{revision} after {}", self.revision);
            self.before = Some((self.fold.clone(), self.revision));
            self.revision = revision;
            // The watch may have moved to a later history that agrees with all delivered items.
            let (fold, since) = self.before.as_ref().expect("just set");
            let first = *self.of.first().expect("it has begun");
            let agrees = |history: &History| {
                (since.0..revision.0)
                    .all(|at| history.get(&Revision(at)).is_some_and(|it| **it == *fold))
            };
            let later = world.histories.iter().enumerate().skip(first);
            self.of = later.filter(|(_, history)| agrees(history)).map(|(at, _)| at).collect();
            assert!(!self.of.is_empty(), "changes between {since} and {revision} are left out");
        }
        let key = now.as_ref().or(before.as_ref()).expect("a change of something").key.clone();
        let (now, before) = (now.map(Arc::unwrap_or_clone), before.map(Arc::unwrap_or_clone));
        assert_ne!(now, before, "a repetition");
        assert_eq!(self.fold.remove(&key), before, "a gap");
        self.of.retain(|at| {
            let there = world.histories[*at].get(&revision);
            there.is_some_and(|contents| contents.get(&key) == now.as_ref())
        });
        assert!(!self.of.is_empty(), "{now:?} was never there at {revision}");
        self.fold.extend(now.map(|now| (key, now)));
    }

    /// All changes of a revision have come, since the next item is of another revision.
    fn check_complete(&mut self, world: &World) {
        let (fold, revision) = (&self.fold, self.revision);
        self.of.retain(|at| world.histories[*at].get(&revision).is_some_and(|it| **it == *fold));
        assert!(!self.of.is_empty(), "{fold:?} was never there at {revision}");
    }
}

async fn run(start: StateStart, steps: &[Step]) -> Counts {
    let mut world = World::new();
    world.put(0, "first");
    let (_, replacements) = channel(0);
    let store = Arc::new(world.store.clone());
    let end = CancellationToken::new();
    let mut watch = StateWatch::start(store, range(), start, PATIENT, replacements, end);
    let began = watch.started().await.unwrap().expect("it has not ended");
    let (revision, fold) = world.now();
    assert_eq!(began, revision);
    let of = if start == StateStart::Now { vec![0] } else { Vec::new() };
    let counts = Counts::default();
    let mut reader = Reader { fold, revision, before: None, of, counts };
    for step in steps {
        world.take(step).await;
        if let Step::Read(most) = step {
            reader.read(&mut watch, &world, usize::from(*most)).await;
        }
    }
    // Once the store is reachable, the reader arrives at the store's contents.
    world.set_way(Way::Open);
    world.put(9, "last");
    let (_, last) = world.now();
    for _ in 0..1000 {
        reader.read(&mut watch, &world, 2 * MANY).await;
        if reader.fold == last {
            break;
        }
    }
    assert_eq!(reader.fold, last, "it stays wrong");
    reader.check_complete(&world);
    reader.counts
}

#[test]
fn a_reader_is_given_what_the_store_held_at_each_revision_or_is_told_what_is_left_out() {
    let counts = std::cell::Cell::new(Counts::default());
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let start = prop_oneof![Just(StateStart::Snapshot), Just(StateStart::Now)];
    let case = (start, vec(step(), 1..60));
    let ran = TestRunner::new(config).run(&case, |(start, steps)| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        let one = runtime.block_on(run(start, &steps));
        let sum = counts.get();
        counts.set(Counts {
            snapshots: sum.snapshots + one.snapshots,
            changes: sum.changes + one.changes,
            slow: sum.slow + one.slow,
            cut_off: sum.cut_off + one.cut_off,
            replaced: sum.replaced + one.replaced,
        });
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
    let Counts { snapshots, changes, slow, cut_off, replaced } = counts.get();
    assert!(
        [snapshots, slow, cut_off, replaced].iter().all(|count| *count > 5) && changes > 1000,
        "too little happened: {:?}",
        counts.get()
    );
}
