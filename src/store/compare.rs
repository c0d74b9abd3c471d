//! The conditions of a transaction.

use std::fmt::{self, Debug};

use super::{KeyRange, KeyValue};
use crate::engine::Revision;

/// One condition of a transaction. On a range it must hold for every key that exists in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// What is looked at. A key that does not exist compares as revision zero, and so does a range with
    /// no key in it.
    pub range: KeyRange,
    /// Which part of it, and with what.
    pub target: Target,
    /// How.
    pub op: CompareOp,
}

/// What a [`Compare`] looks at.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// c(k)
    Created(Revision),
    /// m(k)
    Modified(Revision),
    /// The value, in the order of its bytes. Of a key that does not exist it never holds, whatever the op.
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

/// How a [`Compare`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// =
    Equal,
    /// ≠
    NotEqual,
    /// <
    Less,
    /// >
    Greater,
}

impl Compare {
    /// Whether it holds for a key: as it is, or `None` if it does not exist.
    pub(crate) fn holds(&self, kv: Option<&KeyValue>) -> bool {
        let is = match &self.target {
            Target::Created(with) => kv.map_or(Revision(0), |kv| kv.created).cmp(with),
            Target::Modified(with) => kv.map_or(Revision(0), |kv| kv.modified).cmp(with),
            // etcd: there is no value that a missing one could be equal or unequal to.
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
