//! A key that a worker holds.

use std::{fmt, hash::Hash, sync::Arc, thread, time::Duration};

use super::{Priority, Shared, core::Handed};

/// A key that has been handed out. No other worker gets the key before this is done or dropped.
///
/// Dropping this marks the work as done. Only if a panic drops it, the key is queued again after its back-off.
#[must_use = "dropped, its work is taken for done"]
pub struct Taken<K: Hash + Eq + Clone> {
    /// `None` once the work is done.
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

    /// The key that was handed out.
    pub fn key(&self) -> &K {
        &self.handed().key
    }

    /// Priority that the key was handed out with.
    pub fn priority(&self) -> Priority {
        self.handed().priority
    }

    /// How long the key was ready before it was taken.
    pub fn waited(&self) -> Duration {
        self.handed().waited
    }

    /// Ends the work: the key may be handed out again, and is queued if it was added meanwhile.
    pub fn done(self) {
        drop(self);
    }

    /// Ends work that failed or never ran: the key is queued again at its priority after its back-off. Unlike
    /// [`super::Queue::add_rate_limited`] this draws no token.
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
