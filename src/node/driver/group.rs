//! Tasks that end together: cancelled, then cut, then found to be wedged.

use std::time::Duration;

use tokio::task::AbortHandle;

use super::ticks::Ending;
use crate::engine::BootTime;

/// Work that was cut and is not joined by then blocks its thread: it is aborted, and said so.
pub(super) const WEDGED_AFTER: Duration = Duration::from_secs(1);
/// Tasks that end together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) ending: Ending,
    /// Not joined yet.
    pub(super) tasks: usize,
    pub(super) aborts: Vec<AbortHandle>,
    /// When it was cancelled, and why it is measured from then.
    pub(super) cancelled_at: Option<BootTime>,
    pub(super) cut_at: Option<BootTime>,
    pub(super) wedged_at: Option<BootTime>,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            ending: Ending::default(),
            tasks: 0,
            aborts: Vec::new(),
            cancelled_at: None,
            cut_at: None,
            wedged_at: None,
        }
    }

    pub(super) fn cancel(&mut self, now: BootTime, grace: Duration) {
        self.ending.cancel.cancel();
        self.cancelled_at.get_or_insert(now);
        let cut_at = now + grace;
        self.cut_at = Some(self.cut_at.map_or(cut_at, |at| at.min(cut_at)));
    }

    /// Cuts and aborts what is due. Whether it was found to be wedged just now.
    pub(super) fn on_time(&mut self, now: BootTime) -> bool {
        if self.cut_at.is_some_and(|at| at <= now) && !self.ending.cut.is_cancelled() {
            self.ending.cut.cancel();
            self.wedged_at = Some(now + WEDGED_AFTER);
        }
        if self.wedged_at.is_some_and(|at| at <= now) {
            self.wedged_at = None;
            self.aborts.iter().for_each(AbortHandle::abort);
            return true;
        }
        false
    }

    pub(super) fn deadline(&self) -> Option<BootTime> {
        let cut = self.cut_at.filter(|_| !self.ending.cut.is_cancelled());
        [cut, self.wedged_at].into_iter().flatten().min()
    }
}
