//! Compares the core with a simple model: a list of wishes that is searched from end to end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::k8s::queue::{Backoff, Bucket};

const KEYS: u8 = 6;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn limits() -> Limits {
    Limits {
        backoff: Backoff { first: ms(5), most: ms(300), jitter: 0.5 },
        bucket: Some(Bucket { every: ms(100), burst: 3 }),
    }
}

/// All keys but the first have the same hash, so that only a comparison distinguishes them.
fn hash(key: u8) -> u32 {
    u32::from(key.min(1))
}

#[derive(Clone, Debug)]
enum Op {
    Add(u8, i8),
    AddAfter(u8, i8, u64),
    AddRateLimited(u8, i8, f64),
    Forget(u8),
    Take,
    Done(usize),
    Failed(usize, f64),
    Open,
    Close,
    /// Marks the keys to keep.
    Retain([bool; KEYS as usize], u32),
    Advance(u64),
    ShutDown(ShutDown),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS;
    let priority = || prop::sample::select(vec![-128, -100, 0, 7, 127]);
    let draw = || prop::sample::select(vec![0.0, 0.5, 1.0]);
    let delay = prop::sample::select(vec![0, 1, 10, 10, 50, 200]);
    prop_oneof![
        8 => (key(), priority()).prop_map(|(key, priority)| Op::Add(key, priority)),
        6 => (key(), priority(), delay).prop_map(|(key, priority, delay)| {
            Op::AddAfter(key, priority, delay)
        }),
        4 => (key(), priority(), draw()).prop_map(|(key, priority, draw)| {
            Op::AddRateLimited(key, priority, draw)
        }),
        1 => key().prop_map(Op::Forget),
        10 => Just(Op::Take),
        7 => any::<usize>().prop_map(Op::Done),
        1 => (any::<usize>(), draw()).prop_map(|(which, draw)| Op::Failed(which, draw)),
        2 => Just(Op::Open),
        1 => Just(Op::Close),
        1 => (any::<[bool; KEYS as usize]>(), 1..5_u32).prop_map(|(keep, step)| {
            Op::Retain(keep, step)
        }),
        6 => prop::sample::select(vec![1, 10, 50, 1000]).prop_map(Op::Advance),
    ]
}

fn program() -> impl Strategy<Value = Vec<Op>> {
    let end =
        prop::option::weighted(0.3, prop::sample::select(vec![ShutDown::Drain, ShutDown::Drop]));
    (prop::collection::vec(op(), 1..120), end, prop::collection::vec(op(), 0..30)).prop_map(
        |(mut ops, end, more)| {
            ops.extend(end.map(Op::ShutDown));
            ops.extend(more);
            ops
        },
    )
}

/// A key that is added, once per key. Times are milliseconds.
#[derive(Clone, Copy, Debug)]
struct Wish {
    priority: i8,
    due: Duration,
    /// Order among wishes with the same `due`: the lower came first.
    asked: u64,
    /// Time since which the key counts as waiting.
    since: Option<Duration>,
    /// Position among the keys that can be handed out.
    place: Option<u64>,
}

/// Depths by priority with their ages, delayed, working, unfinished, longest, adds.
type Shown = (Vec<(i8, usize, Duration)>, usize, usize, Duration, Duration, u64);

struct Model {
    now: Duration,
    is_open: bool,
    end: Option<ShutDown>,
    wishes: BTreeMap<u8, Wish>,
    working: BTreeMap<u8, Duration>,
    failures: BTreeMap<u8, u32>,
    /// Level of the bucket: its tokens as a time, and when that was computed.
    level: (i128, Duration),
    counter: u64,
    adds: u64,
}

impl Model {
    fn new(now: Duration) -> Self {
        Self {
            now,
            is_open: true,
            end: None,
            wishes: BTreeMap::new(),
            working: BTreeMap::new(),
            failures: BTreeMap::new(),
            level: (300_000_000, now),
            counter: 0,
            adds: 0,
        }
    }

    const fn since(&self, earlier: Duration) -> Duration {
        self.now.saturating_sub(earlier)
    }

    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Makes keys ready whose time has come, in the order of their times.
    fn settle(&mut self) {
        let mut come: Vec<_> = self
            .wishes
            .iter()
            .filter(|(key, wish)| {
                wish.since.is_none() && wish.due <= self.now && !self.working.contains_key(key)
            })
            .map(|(key, wish)| (wish.due, wish.asked, *key))
            .collect();
        come.sort_unstable();
        for (due, _, key) in come {
            let place = self.count();
            self.adds += 1;
            let wish = self.wishes.get_mut(&key).unwrap();
            (wish.since, wish.place) = (Some(due), Some(place));
        }
    }

    fn ask(&mut self, key: u8, priority: i8, delay: Duration) {
        if self.end.is_some() {
            return;
        }
        let (due, works) = (self.now + delay, self.working.contains_key(&key));
        let (asked, place) = (self.count(), self.count());
        let wish = self.wishes.entry(key).or_insert(Wish {
            priority,
            due,
            asked,
            since: None,
            place: None,
        });
        if due < wish.due {
            (wish.due, wish.asked) = (due, asked);
        }
        let raised = wish.priority < priority;
        wish.priority = wish.priority.max(priority);
        let now_due = wish.since.is_none() && wish.due <= self.now;
        if now_due || wish.since.is_some() && raised {
            wish.since = Some(self.now);
            wish.place = Some(place).filter(|_| !works);
        }
        self.adds += u64::from(now_due);
    }

    fn back_off(&mut self, key: u8, draw: f64) -> Duration {
        let failures = self.failures.entry(key).or_default();
        *failures += 1;
        limits().backoff.wait(*failures - 1, draw)
    }

    fn token(&mut self) -> Duration {
        let (level, at) = self.level;
        let level = (level + self.since(at).as_nanos() as i128).min(300_000_000) - 100_000_000;
        self.level = (level, self.now);
        Duration::from_nanos(u64::try_from(-level).unwrap_or(0))
    }

    fn is_over(&self) -> bool {
        let waits = self.wishes.values().any(|wish| wish.since.is_some());
        match self.end {
            None => false,
            Some(ShutDown::Drop) => true,
            Some(ShutDown::Drain) => !self.is_open || !waits,
        }
    }

    fn take(&mut self) -> Take<u8> {
        if self.is_over() {
            return Take::Over;
        }
        if !self.is_open {
            return Take::Wait(None);
        }
        let ready = self.wishes.iter().filter_map(|(key, wish)| Some((key, wish, wish.place?)));
        let next = ready.max_by_key(|(_, wish, place)| (wish.priority, std::cmp::Reverse(*place)));
        let Some((&key, &Wish { priority, since, .. }, _)) = next else {
            let delayed = self.wishes.iter().filter(|(key, _)| !self.working.contains_key(key));
            return Take::Wait(delayed.map(|(_, wish)| BootTime(wish.due)).min());
        };
        self.wishes.remove(&key);
        self.working.insert(key, self.now);
        let waited = self.since(since.unwrap());
        Take::Key(Handed { id: 0, key, priority: priority.into(), waited })
    }

    fn done(&mut self, key: u8) {
        self.working.remove(&key).unwrap();
        let place = self.count();
        if self.end.is_some() && !self.wishes.contains_key(&key) {
            self.failures.remove(&key);
        }
        let Some(wish) = self.wishes.get_mut(&key) else { return };
        if wish.due <= self.now {
            self.adds += u64::from(wish.since.is_none());
            wish.since = wish.since.or(Some(self.now));
            wish.place = Some(place);
        } else {
            // The key is queued with the delayed keys at this moment.
            wish.asked = place;
        }
    }

    fn drop_if(&mut self, is_dropped: impl Fn(u8, &Wish) -> bool) {
        let gone: BTreeSet<u8> = self
            .wishes
            .iter()
            .filter(|(key, wish)| is_dropped(**key, wish))
            .map(|(key, _)| *key)
            .collect();
        self.wishes.retain(|key, _| !gone.contains(key));
    }

    fn shut_down(&mut self, how: ShutDown) {
        if self.end != Some(ShutDown::Drop) {
            self.end = Some(how);
        }
        let drops_all = self.end == Some(ShutDown::Drop);
        self.drop_if(|_, wish| drops_all || wish.since.is_none());
        let wishes = &self.wishes;
        self.failures.retain(|key, _| wishes.contains_key(key));
    }

    fn snapshot(&self) -> Shown {
        let mut depths = BTreeMap::<i8, Vec<Duration>>::new();
        for wish in self.wishes.values() {
            depths.entry(wish.priority).or_default().extend(wish.since);
        }
        let depth = |(priority, since): (i8, Vec<Duration>)| {
            let oldest = since.iter().min().map_or(Duration::ZERO, |oldest| self.since(*oldest));
            (priority, since.len(), oldest)
        };
        let depths = depths.into_iter().rev().map(depth).filter(|(_, waiting, _)| *waiting != 0);
        let delayed = self
            .wishes
            .iter()
            .filter(|(key, wish)| wish.since.is_none() && !self.working.contains_key(key));
        let running = self.working.values().map(|started| self.since(*started));
        (
            depths.collect(),
            delayed.count(),
            self.working.len(),
            running.clone().sum(),
            running.max().unwrap_or_default(),
            self.adds,
        )
    }

    /// The keys that need an entry.
    fn entries(&self) -> usize {
        let failed = self.failures.iter().filter(|(_, count)| **count != 0).map(|(key, _)| key);
        self.wishes.keys().chain(self.working.keys()).chain(failed).collect::<BTreeSet<_>>().len()
    }
}

/// The core and its model, kept in step.
struct Pair {
    core: Core<u8>,
    model: Model,
    handed: Vec<Handed<u8>>,
}

impl Pair {
    fn new() -> Self {
        let model = Model::new(ms(1_000));
        Self { core: Core::new(limits(), true), model, handed: Vec::new() }
    }

    fn now(&self) -> BootTime {
        BootTime(self.model.now)
    }

    /// Applies an operation to both, and compares the whole visible state.
    fn step(&mut self, op: &Op) {
        let now = self.now();
        // Both get the time before the operation, so that the operation alone causes the wake-up.
        self.core.snapshot(now);
        self.model.settle();
        let before = self.wakes();
        let wake = self.apply(op);
        self.owed(before, wake, op);
        self.compare(op);
    }

    fn apply(&mut self, op: &Op) -> Option<Wake> {
        let now = self.now();
        let (core, model) = (&mut self.core, &mut self.model);
        Some(match *op {
            Op::Add(key, priority) => {
                model.ask(key, priority, Duration::ZERO);
                core.add(now, key, hash(key), priority.into(), Duration::ZERO)
            }
            Op::AddAfter(key, priority, delay) => {
                model.ask(key, priority, ms(delay));
                core.add(now, key, hash(key), priority.into(), ms(delay))
            }
            Op::AddRateLimited(key, priority, draw) => {
                if model.end.is_none() {
                    let delay = model.back_off(key, draw).max(model.token());
                    model.ask(key, priority, delay);
                }
                core.add_rate_limited(now, key, hash(key), priority.into(), draw)
            }
            Op::Forget(key) => {
                model.failures.remove(&key);
                core.forget(&key, hash(key));
                return None;
            }
            Op::Take => {
                self.take();
                return None;
            }
            Op::Done(which) => {
                let handed = self.pick(which)?;
                self.model.done(handed.key);
                self.core.done(now, handed.id)
            }
            Op::Failed(which, draw) => {
                let handed = self.pick(which)?;
                if self.model.end.is_none() {
                    let delay = self.model.back_off(handed.key, draw);
                    self.model.ask(handed.key, handed.priority.number(), delay);
                }
                self.model.done(handed.key);
                self.core.failed(now, handed.id, handed.priority, draw)
            }
            Op::Open | Op::Close => {
                model.is_open = matches!(op, Op::Open);
                core.set_open(model.is_open)
            }
            Op::Retain(keep, step) => {
                let keeps = |key: u8| keep[usize::from(key)];
                model.drop_if(|key, _| !keeps(key));
                model.failures.retain(|key, _| keeps(*key));
                let mut from = Some(0);
                while let Some(at) = from {
                    from = core.retain(at, step, &mut |key| keeps(*key));
                }
                return None;
            }
            Op::Advance(by) => {
                model.now += ms(by);
                model.settle();
                return None;
            }
            Op::ShutDown(how) => {
                model.shut_down(how);
                core.shut_down(how)
            }
        })
    }

    fn take(&mut self) -> bool {
        match (self.core.take(self.now()), self.model.take()) {
            (Take::Key(handed), Take::Key(wanted)) => {
                assert_eq!(Handed { id: 0, ..handed.clone() }, wanted);
                let twice = self.handed.iter().any(|other| other.key == handed.key);
                assert!(!twice, "{} is worked on already", handed.key);
                self.handed.push(handed);
                true
            }
            (is, wanted) => {
                assert_eq!(is, wanted);
                false
            }
        }
    }

    fn pick(&mut self, which: usize) -> Option<Handed<u8>> {
        let count = self.handed.len();
        (count != 0).then(|| self.handed.remove(which % count))
    }

    /// Whether a key is ready, when one will be, and whether the queue is over.
    fn wakes(&self) -> (bool, Option<At>, bool) {
        let core = &self.core;
        let due = core.first_due.filter(|_| core.has_timers());
        (core.has_ready(), due, core.is_over())
    }

    /// Checks that an operation returns the wake-up that its effect requires.
    fn owed(&self, before: (bool, Option<At>, bool), wake: Option<Wake>, op: &Op) {
        let Some(wake) = wake else { return };
        let after = self.wakes();
        let is_sooner = after.1.is_some_and(|due| before.1.is_none_or(|before| due < before));
        if after.2 {
            assert!(before.2 || wake == Wake::All, "{op:?} ends it, and wakes {wake:?}");
        } else if after.0 && !before.0 {
            assert_eq!(wake, Wake::Worker, "{op:?} makes a key ready");
        } else if is_sooner {
            let told = matches!(wake, Wake::Timer | Wake::Worker);
            assert!(told, "{op:?} brings the first time forward, and wakes {wake:?}");
        }
    }

    fn compare(&mut self, op: &Op) {
        let now = self.now();
        let shown = self.core.snapshot(now);
        let depth = |it: &Depth| (it.priority.number(), it.waiting, it.oldest);
        let depths: Vec<_> =
            shown.depths.iter().map(depth).filter(|(_, waiting, _)| *waiting != 0).collect();
        let waiting: usize = depths.iter().map(|(_, waiting, _)| waiting).sum();
        assert_eq!(
            (depths, shown.delayed, shown.working, shown.unfinished, shown.longest, shown.adds),
            self.model.snapshot(),
            "after {op:?}"
        );
        assert_eq!(self.core.waiting() as usize, waiting, "after {op:?}");
        assert_eq!(self.core.table.len(), self.model.entries(), "after {op:?}");
        for key in 0..KEYS {
            let wanted = self.model.failures.get(&key).copied().unwrap_or(0);
            assert_eq!(self.core.failures(&key, hash(key)), wanted, "of {key} after {op:?}");
        }
    }

    /// Takes all keys: every added key must come out in the end.
    fn empty(&mut self) {
        self.step(&Op::Open);
        loop {
            self.step(&Op::Advance(3_600_000));
            while self.take() {}
            if self.handed.is_empty() {
                break;
            }
            while !self.handed.is_empty() {
                self.step(&Op::Done(0));
            }
        }
        for key in 0..KEYS {
            self.step(&Op::Forget(key));
        }
        assert!(self.model.wishes.is_empty(), "the model has nothing left");
        assert_eq!((self.core.table.len(), self.core.waiting(), self.core.working()), (0, 0, 0));
        assert!(self.core.timers.is_empty() && self.core.first_due.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_program_does_what_a_list_of_wishes_would_do(program in program()) {
        let mut pair = Pair::new();
        for op in &program {
            pair.step(op);
        }
        pair.empty();
    }
}

fn add(core: &mut Core<u32>, at: u64, key: u32, priority: Priority) {
    core.add(BootTime(ms(at)), key, key, priority, Duration::ZERO);
}

fn take(core: &mut Core<u32>, at: u64) -> Option<u32> {
    match core.take(BootTime(ms(at))) {
        Take::Key(handed) => Some(handed.key),
        Take::Wait(_) | Take::Over => None,
    }
}

#[test]
fn changes_go_before_what_a_resync_brings_up_and_each_in_its_order() {
    let mut core = Core::new(Limits::default(), true);
    for key in 1..=3 {
        add(&mut core, 1, key, Priority::Resync);
    }
    for key in [10, 11, 2] {
        add(&mut core, 2, key, Priority::Change);
    }
    add(&mut core, 3, 99, Priority::Set(1));
    let order: Vec<u32> = std::iter::from_fn(|| take(&mut core, 4)).collect();
    assert_eq!(order, [99, 10, 11, 2, 1, 3]);
}

#[test]
fn readers_with_clocks_a_little_apart_do_not_turn_time_back() {
    let mut core = Core::new(Limits::default(), true);
    add(&mut core, 10, 1, Priority::Change);
    add(&mut core, 9, 2, Priority::Change);
    assert_eq!(take(&mut core, 8), Some(1));
    let shown = core.snapshot(BootTime(ms(5)));
    assert_eq!((shown.longest, shown.depths[0].oldest), (Duration::ZERO, Duration::ZERO));
}

#[test]
fn a_delay_without_end_is_no_error() {
    let mut core = Core::new(Limits::default(), true);
    core.add(BootTime(ms(1)), 1_u32, 1, Priority::Change, Duration::MAX);
    assert_eq!(take(&mut core, 1_000_000), None);
    add(&mut core, 1_000_001, 1, Priority::Change);
    assert_eq!(take(&mut core, 1_000_001), Some(1));
}

#[test]
fn a_queue_that_has_run_empty_gives_its_memory_back() {
    let mut core = Core::new(Limits::default(), true);
    for round in 0..3 {
        for key in 0..20_000 {
            add(&mut core, round, key, Priority::Change);
        }
        assert!(core.slots.places() >= 20_000);
        for _ in 0..20_000 {
            let Take::Key(handed) = core.take(BootTime(ms(round))) else { panic!("one is left") };
            core.done(BootTime(ms(round)), handed.id);
        }
        assert_eq!((core.slots.places(), core.table.capacity()), (0, 0));
    }
}

#[test]
fn failures_of_a_key_that_is_not_queued_are_remembered_until_it_is_forgotten() {
    let mut core = Core::new(Limits::default(), true);
    let now = BootTime(ms(1));
    for failed in 1..=3 {
        core.add_rate_limited(now, 1_u32, 1, Priority::Change, 0.0);
        let Take::Key(handed) = core.take(now + Duration::from_secs(failed)) else {
            panic!("its wait is over")
        };
        core.done(now + Duration::from_secs(failed), handed.id);
        assert_eq!(u64::from(core.failures(&1, 1)), failed);
    }
    core.forget(&1, 1);
    assert_eq!((core.failures(&1, 1), core.table.len()), (0, 0));
}
