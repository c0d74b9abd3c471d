//! Waiting keys by priority: one lane for each, and one bit for each that shows whether a key is ready.

use super::slots::{Again, At, Chain, Id, List, Slots, State};

const LANES: usize = 256;

/// Waiting keys of one priority.
#[derive(Clone, Copy, Debug)]
struct Lane {
    /// Keys that may be handed out, in the order in which they came.
    order: List,
    /// All waiting keys of the lane, including those whose work must end first; the oldest first.
    age: List,
    /// Number of keys in `age`.
    waiting: u32,
}

const EMPTY: Lane = Lane { order: List::EMPTY, age: List::EMPTY, waiting: 0 };

/// All lanes of a queue.
#[derive(Debug)]
pub(super) struct Lanes {
    all: Box<[Lane; LANES]>,
    ready: Bits,
    seen: Bits,
    waiting: u32,
}

impl Lanes {
    pub(super) fn new() -> Self {
        let mut seen = Bits::default();
        for priority in [-100, 0] {
            seen.set(lane_of(priority));
        }
        Self { all: Box::new([EMPTY; LANES]), ready: Bits::default(), seen, waiting: 0 }
    }

    /// Adds a key to the waiting keys. The state of its entry contains the time since which it waits.
    pub(super) fn enter<K>(&mut self, slots: &mut Slots<K>, id: Id) {
        let at = lane_of(slots[id].priority);
        let lane = &mut self.all[at];
        slots.append(&mut lane.age, Chain::Age, id);
        lane.waiting += 1;
        self.waiting += 1;
        self.seen.set(at);
    }

    /// Allows a waiting key to be handed out.
    pub(super) fn offer<K>(&mut self, slots: &mut Slots<K>, id: Id) {
        let at = lane_of(slots[id].priority);
        slots.append(&mut self.all[at].order, Chain::Order, id);
        self.ready.set(at);
    }

    /// Stops a waiting key from being handed out.
    pub(super) fn withdraw<K>(&mut self, slots: &mut Slots<K>, id: Id) {
        let at = lane_of(slots[id].priority);
        let order = &mut self.all[at].order;
        slots.detach(order, Chain::Order, id);
        if order.first().is_none() {
            self.ready.clear(at);
        }
    }

    /// Removes a key from the waiting keys. An offered key must be withdrawn first.
    pub(super) fn leave<K>(&mut self, slots: &mut Slots<K>, id: Id) {
        let lane = &mut self.all[lane_of(slots[id].priority)];
        slots.detach(&mut lane.age, Chain::Age, id);
        lane.waiting -= 1;
        self.waiting -= 1;
    }

    /// The key to hand out next.
    pub(super) fn next(&self) -> Option<Id> {
        self.all[self.ready.highest()?].order.first()
    }

    /// Whether any key is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.highest().is_some()
    }

    /// Number of waiting keys.
    pub(super) const fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Priority, number of waiting keys, and the time since which the oldest waits: for each priority ever used.
    pub(super) fn depths<'a, K>(
        &'a self,
        slots: &'a Slots<K>,
    ) -> impl Iterator<Item = (i8, u32, Option<At>)> {
        let seen = (0..LANES).rev().filter(|at| self.seen.has(*at));
        seen.map(|at| {
            let lane = &self.all[at];
            let since = lane.age.first().map(|id| match slots[id].state {
                State::Ready { since } | State::Working { again: Again::Ready { since }, .. } => {
                    since
                }
                state => unreachable!("a key that waits is in the state {state:?}"),
            });
            ((at as i16 - 128) as i8, lane.waiting, since)
        })
    }
}

/// Index of a priority's lane, in the order of the numbers.
const fn lane_of(priority: i8) -> usize {
    (priority as i16 + 128) as usize
}

/// A set of lanes, one bit for each.
#[derive(Clone, Copy, Debug, Default)]
struct Bits([u64; LANES / 64]);

impl Bits {
    const fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    const fn clear(&mut self, at: usize) {
        self.0[at / 64] &= !(1 << (at % 64));
    }

    const fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn highest(&self) -> Option<usize> {
        let word = (0..self.0.len()).rev().find(|word| self.0[*word] != 0)?;
        Some(word * 64 + 63 - self.0[word].leading_zeros() as usize)
    }
}
