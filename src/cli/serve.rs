//! What `run` and `demo` share: the status server on a thread of its own, signals, flags of the node.

pub(crate) mod cut;
pub(crate) mod page;
pub(crate) mod signals;
pub(crate) mod source;
pub(crate) mod work;
