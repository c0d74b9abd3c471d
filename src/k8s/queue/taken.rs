//! A key that somebody works on.

use std::{fmt, hash::Hash, sync::Arc, thread, time::Duration};

use super::{Priority, Shared, core::Handed};

/// A key that has been handed out. Nobody else gets it before this is done or dropped.
///
/// Dropped is done. Only when a panic drops it the key is queued again, after its back-off.
#[must_use = "dropped, its work is taken for done"]
pub struct Taken<K: Hash + Eq + Clone> {
    /// None once it is done.
    handed: Option<Handed<K>>,
    shared: Arc<Shared<K>>,
}

impl<K: Hash + Eq + Clone> Taken<K> {
    pub(super) const fn new(handed: Handed<K>, shared: Arc<Shared<K>>) -> Self {
        Self { handed: Some(handed), shared }
    }

    fn handed(&self) -> &Handed<K> {
        self.handed.as_ref().expect("what ends it consumes it")
    }

    /// The key.
    pub fn key(&self) -> &K {
        &self.handed().key
    }

    /// How urgent it was.
    pub fn priority(&self) -> Priority {
        self.handed().priority
    }

    /// How long it was ready before it was taken.
    pub fn waited(&self) -> Duration {
        self.handed().waited
    }

    /// The work has ended: the key may be handed out again. If it was added meanwhile it is queued.
    pub fn done(self) {
        drop(self);
    }

    /// The work has failed, or never ran: done, and the key is queued again at its priority after its
    /// back-off. Unlike [`super::Queue::add_rate_limited`] it draws no token.
    pub fn put_back(mut self) {
        self.end(Ending::Failed);
    }

    fn end(&mut self, ending: Ending) {
        let Some(Handed { id, priority, .. }) = self.handed.take() else { return };
        let now = self.shared.now();
        match ending {
            Ending::Done => self.shared.finish(|core| core.done(now, id)),
            Ending::Failed => {
                let draw = self.shared.draw();
                self.shared.finish(|core| core.failed(now, id, priority, draw));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Ending {
    Done,
    Failed,
}

impl<K: Hash + Eq + Clone> Drop for Taken<K> {
    fn drop(&mut self) {
        self.end(if thread::panicking() { Ending::Failed } else { Ending::Done });
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug> fmt::Debug for Taken<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("handed", &self.handed).finish_non_exhaustive()
    }
}
