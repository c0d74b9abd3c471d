//! How urgent a key is.

use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
};

/// How urgent a key is. Of the ready keys, the most urgent is handed out first.
///
/// The numbers are controller-runtime's: 0 for a change, -100 for an object that a restart or a resync lists.
/// Two values with the same number are the same priority. There are 256 numbers, so that the queue finds the
/// most urgent key without a search, and its metrics have a bounded number of series.
#[derive(Clone, Copy, Debug, Default)]
pub enum Priority {
    /// Priority -100, of the initial list and of a resync: no change is known.
    Resync,
    /// Priority 0, of an object that has changed.
    #[default]
    Change,
    /// A priority that the user has chosen.
    Set(i8),
}

impl Priority {
    /// The number of this priority; a greater number is more urgent.
    pub const fn number(self) -> i8 {
        match self {
            Self::Resync => -100,
            Self::Change => 0,
            Self::Set(number) => number,
        }
    }
}

impl From<i8> for Priority {
    fn from(number: i8) -> Self {
        match number {
            -100 => Self::Resync,
            0 => Self::Change,
            _ => Self::Set(number),
        }
    }
}

impl PartialEq for Priority {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}

impl Eq for Priority {}

impl PartialOrd for Priority {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Priority {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number().cmp(&other.number())
    }
}

impl Hash for Priority {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}
