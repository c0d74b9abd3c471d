//! How soon what the API server sends is read.
//!
//! A process that works on a cache's objects, or whose user reads it, reads each event as it comes. One that
//! only keeps the cache warm for the day it leads reads in gulps: waking for each event costs as much as
//! taking it in. Meanwhile events wait in the connection, which is read at once when work begins.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

/// Whoever only keeps a cache warm rests this long between two gulps: it is so much older at the most.
const REST: Duration = Duration::from_millis(50);
/// After a gulp of more than this there is no rest: so much fits into the connection, and a server whose
/// watchers do not keep up ends their watches.
const GULP: usize = 64;

/// How many there are who need each change of a cache at once.
#[derive(Debug, Default)]
pub(super) struct Attentive(watch::Sender<usize>);

impl Attentive {
    /// One more, as long as what is returned lives.
    pub(super) fn one(&self) -> Attention {
        self.0.send_modify(|count| *count += 1);
        Attention(self.0.clone())
    }

    /// One more for good.
    pub(super) fn for_good(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Whether there is anybody.
    #[cfg(test)]
    pub(super) fn is_anybody(&self) -> bool {
        0 < *self.0.borrow()
    }

    /// The pace that is kept for them.
    pub(super) fn pace(&self) -> Pace {
        Pace { attentive: self.0.subscribe(), read: 0 }
    }
}

/// As long as it lives a cache is read at once.
#[derive(Debug)]
pub(crate) struct Attention(watch::Sender<usize>);

impl Drop for Attention {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// When to read on.
#[derive(Debug)]
pub(super) struct Pace {
    attentive: watch::Receiver<usize>,
    /// Events since the last rest.
    read: usize,
}

impl Pace {
    /// An event was read.
    pub(super) fn on_event(&mut self) {
        self.read += 1;
    }

    /// Nothing is left to read: rests, unless somebody needs what comes next at once, or much comes.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only waits.
    pub(super) async fn rest(&mut self) {
        if (1..=GULP).contains(&std::mem::take(&mut self.read)) {
            // Whether it was cut short, or nobody is left to ask: it is read on.
            let _ = timeout(REST, self.attentive.wait_for(|count| 0 < *count)).await;
        }
    }
}

#[cfg(test)]
mod tests;
