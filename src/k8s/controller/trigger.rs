//! A handle with which other parts of a program request a run for an object.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use crate::k8s::key::ObjectKey;

type Tell = Box<dyn Fn(ObjectKey) + Send + Sync>;

/// Makes a controller reconcile an object, as a change of it would. Cheap to clone.
#[derive(Clone, Default)]
pub struct Trigger(Arc<OnceLock<Tell>>);

impl fmt::Debug for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trigger").field("connected", &self.0.get().is_some()).finish()
    }
}

impl Trigger {
    /// Queues the object if this node may work on it. Otherwise this has no effect, because every object is
    /// queued when the node gets an assignment.
    pub fn look_at(&self, key: ObjectKey) {
        if let Some(tell) = self.0.get() {
            tell(key);
        }
    }

    pub(super) fn connect(&self, tell: impl Fn(ObjectKey) + Send + Sync + 'static) {
        // Connected once: a controller is set up once.
        let _ = self.0.set(Box::new(tell));
    }
}
