//! Session of a node: from its registration until it leaves or its lease is lost.

use std::sync::Arc;

use super::guarded::Marker;
use crate::{engine::LeaseId, store::keys::Keys};

/// Session of a registered incarnation.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) lease: LeaseId,
    /// Marker for state and names on this lease (T17: writes of own keys).
    pub(crate) marker: Arc<Marker>,
}

impl Session {
    pub(crate) fn new(keys: &Keys, lease: LeaseId) -> Self {
        Self { lease, marker: Arc::new(Marker::new(keys, lease)) }
    }
}
