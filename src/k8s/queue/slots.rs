//! Storage of a queue's entries, and the linked lists (chains) that run through them.
//!
//! Entries never move, so an id names one entry for as long as that entry lives. Entries are allocated in
//! chunks: a queue that grows copies nothing, and an empty queue returns the memory of its peak.

use std::{
    ops::{Index, IndexMut},
    time::Duration,
};

/// Id of an entry: its place.
pub(super) type Id = u32;

/// Id that names no entry.
const NONE: Id = Id::MAX;

/// Number of entries in one allocation.
pub(super) const CHUNK: u32 = 4096;

/// Chunks that an empty queue keeps.
const KEPT_CHUNKS: usize = 2;

/// Boot time in nanoseconds: half the size of a `BootTime`, because every entry contains one.
pub(super) type At = u64;

pub(super) fn nanos(time: Duration) -> At {
    u64::try_from(time.as_nanos()).unwrap_or(At::MAX)
}

/// State of a key, by what the key waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The key waits for nothing: only its failures are remembered.
    Idle,
    /// The key waits for its due time; `order` distinguishes keys with the same time.
    Delayed { due: At, order: u64 },
    /// The key waits for a worker.
    Ready { since: At },
    /// A worker holds the key.
    Working { started: At, again: Again },
}

/// Whether a key was added again while a worker holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    Ready { since: At },
    Delayed { due: At },
}

/// Entry of one key.
#[derive(Debug)]
pub(super) struct Entry<K> {
    /// `None` if the place is free.
    key: Option<K>,
    pub(super) state: State,
    /// Links of the chains that the entry is part of, by [`Chain`].
    links: [Link; 2],
    pub(super) hash: u32,
    /// Failures since the key was last forgotten.
    pub(super) failures: u16,
    /// Priority of the waiting key. While a worker holds the key: priority with which it was added again.
    pub(super) priority: i8,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    before: Id,
    after: Id,
}

const UNLINKED: Link = Link { before: NONE, after: NONE };

impl<K> Entry<K> {
    /// The key of a live entry.
    pub(super) fn key(&self) -> &K {
        self.key.as_ref().expect("a number names an entry only while it lives")
    }
}

/// Selects one of an entry's two links.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chain {
    /// Ready keys in the order in which they are handed out; held keys in the order in which work began.
    Order = 0,
    /// Waiting keys in the order in which they began to wait.
    Age = 1,
}

/// The ends of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: Id,
    last: Id,
}

impl List {
    pub(super) const EMPTY: Self = Self { first: NONE, last: NONE };

    pub(super) const fn first(self) -> Option<Id> {
        if self.first == NONE { None } else { Some(self.first) }
    }
}

/// All entries of a queue.
#[derive(Debug)]
pub(super) struct Slots<K> {
    chunks: Vec<Vec<Entry<K>>>,
    /// The first free place; `after` of the `Order` link leads to the next one.
    free: Id,
    used: u32,
}

impl<K> Slots<K> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, used: 0 }
    }

    /// Number of places, free or not: all ids are below.
    pub(super) fn places(&self) -> u32 {
        self.chunks
            .last()
            .map_or(0, |last| (self.chunks.len() as u32 - 1) * CHUNK + last.len() as u32)
    }

    /// The entry of a place, if that place is not free.
    pub(super) fn get(&self, id: Id) -> Option<&Entry<K>> {
        Some(&self[id]).filter(|entry| entry.key.is_some())
    }

    /// Creates an idle entry.
    ///
    /// # Panics
    ///
    /// With more than four billion keys, which do not fit into any machine's memory.
    pub(super) fn insert(&mut self, key: K, hash: u32) -> Id {
        self.used += 1;
        let entry = Entry {
            key: Some(key),
            state: State::Idle,
            links: [UNLINKED; 2],
            hash,
            failures: 0,
            priority: 0,
        };
        if self.free != NONE {
            let id = self.free;
            self.free = self[id].links[Chain::Order as usize].after;
            self[id] = entry;
            return id;
        }
        let id = self.places();
        assert!(id < NONE, "a queue has fewer than {NONE} keys");
        if id.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK as usize));
        }
        self.chunks[(id / CHUNK) as usize].push(entry);
        id
    }

    /// Frees the place of an entry that is in no chain.
    pub(super) fn remove(&mut self, id: Id) {
        let free = self.free;
        let entry = &mut self[id];
        entry.key = None;
        entry.links[Chain::Order as usize].after = free;
        self.free = id;
        self.used -= 1;
    }

    /// Returns memory if no entry is left. Returns whether it did.
    pub(super) fn shrink_if_empty(&mut self) -> bool {
        let shrinks = self.used == 0 && self.chunks.len() > KEPT_CHUNKS;
        if shrinks {
            self.chunks.clear();
            self.free = NONE;
        }
        shrinks
    }

    /// Puts an entry at the end of a chain.
    pub(super) fn append(&mut self, list: &mut List, chain: Chain, id: Id) {
        let before = list.last;
        self[id].links[chain as usize] = Link { before, after: NONE };
        list.last = id;
        if before == NONE {
            list.first = id;
        } else {
            self[before].links[chain as usize].after = id;
        }
    }

    /// Takes an entry out of the chain that it is part of.
    pub(super) fn detach(&mut self, list: &mut List, chain: Chain, id: Id) {
        let Link { before, after } = self[id].links[chain as usize];
        match before {
            NONE => list.first = after,
            before => self[before].links[chain as usize].after = after,
        }
        match after {
            NONE => list.last = before,
            after => self[after].links[chain as usize].before = before,
        }
    }
}

impl<K> Index<Id> for Slots<K> {
    type Output = Entry<K>;

    fn index(&self, id: Id) -> &Entry<K> {
        &self.chunks[(id / CHUNK) as usize][(id % CHUNK) as usize]
    }
}

impl<K> IndexMut<Id> for Slots<K> {
    fn index_mut(&mut self, id: Id) -> &mut Entry<K> {
        &mut self.chunks[(id / CHUNK) as usize][(id % CHUNK) as usize]
    }
}
