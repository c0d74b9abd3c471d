//! Groups of tasks that end together: cancelled first, then cut (their futures dropped), then reported as
//! wedged.

use std::time::Duration;

use tokio::task::AbortHandle;

use super::ticks::Ending;
use crate::engine::BootTime;

/// Work that is not joined this long after the cut blocks its thread: it is aborted and reported.
pub(super) const WEDGED_AFTER: Duration = Duration::from_secs(1);

/// Group of tasks that end together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) ending: Ending,
    /// Number of tasks that are not joined yet.
    pub(super) tasks: usize,
    pub(super) aborts: Vec<AbortHandle>,
    /// Time at which the group was cancelled.
    pub(super) cancelled_at: Option<BootTime>,
    pub(super) cut_at: Option<BootTime>,
    pub(super) wedged_at: Option<BootTime>,
}

impl Group {
    pub(super) fn cancel(&mut self, now: BootTime, grace: Duration) {
        self.ending.cancel.cancel();
        self.cancelled_at.get_or_insert(now);
        let cut_at = now + grace;
        self.cut_at = Some(self.cut_at.map_or(cut_at, |at| at.min(cut_at)));
    }

    /// Cuts or aborts the tasks if that is due. Returns whether the group was found wedged just now.
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
