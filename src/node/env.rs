//! What all parts of one node share, and never changes.

use std::{sync::Arc, time::Duration};

use super::metrics::NodeMetrics;
use crate::store::{Store, keys::Keys};

/// Where and how a node's parts reach the store.
#[derive(Clone, Debug)]
pub(crate) struct Env {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) metrics: NodeMetrics,
    /// Of each call of the trait and of each fenced write.
    pub(crate) call_timeout: Duration,
}
