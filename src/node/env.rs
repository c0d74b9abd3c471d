//! Values that all parts of one node share and that never change.

use std::{sync::Arc, time::Duration};

use super::metrics::NodeMetrics;
use crate::store::{Store, keys::Keys};

/// Access of a node's parts to the store.
#[derive(Clone, Debug)]
pub(crate) struct Env {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) metrics: NodeMetrics,
    /// Timeout of each call of the trait and of each fenced write.
    pub(crate) call_timeout: Duration,
}
