//! The conditions of a transaction.

use std::fmt::{self, Debug};

use super::{KeyRange, KeyValue};
use crate::engine::Revision;

/// A condition of a transaction. On a range, the condition must hold for every key that exists in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Keys to compare. A key that does not exist compares as revision zero, and so does a range without
    /// any key.
    pub range: KeyRange,
    /// Attribute of the key to compare, and the operand.
    pub target: Target,
    /// Operator of the comparison.
    pub op: CompareOp,
}

/// Attribute that a [`Compare`] compares, with the operand.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// Create revision of the key, c(k).
    Created(Revision),
    /// Modification revision of the key, m(k).
    Modified(Revision),
    /// Value of the key, in the order of its bytes. For a key that does not exist the condition never
    /// holds, with any operator.
    Value(Vec<u8>),
}

impl Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(revision) => f.debug_tuple("Created").field(revision).finish(),
            Self::Modified(revision) => f.debug_tuple("Modified").field(revision).finish(),
            Self::Value(value) => f.debug_struct("Value").field("bytes", &value.len()).finish(),
        }
    }
}

/// Operator of a [`Compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// The attribute equals the operand (=).
    Equal,
    /// The attribute differs from the operand (≠).
    NotEqual,
    /// The attribute is below the operand (<).
    Less,
    /// The attribute is above the operand (>).
    Greater,
}

impl Compare {
    /// Whether the condition holds for a key: its entry, or `None` if the key does not exist.
    pub(crate) fn holds(&self, kv: Option<&KeyValue>) -> bool {
        let is = match &self.target {
            Target::Created(with) => kv.map_or(Revision(0), |kv| kv.created).cmp(with),
            Target::Modified(with) => kv.map_or(Revision(0), |kv| kv.modified).cmp(with),
            // As in etcd: a missing key has no value that could be equal or unequal.
            Target::Value(with) => match kv {
                Some(kv) => kv.value.cmp(with),
                None => return false,
            },
        };
        match self.op {
            CompareOp::Equal => is.is_eq(),
            CompareOp::NotEqual => is.is_ne(),
            CompareOp::Less => is.is_lt(),
            CompareOp::Greater => is.is_gt(),
        }
    }
}
