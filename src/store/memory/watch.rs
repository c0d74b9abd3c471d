//! A watch of the memory store: a position in its history.

use std::{future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::watch::Receiver, time};

use super::{Shared, WithPrevious, faults::Watches};
use crate::{
    engine::Revision,
    store::{KeyRange, StoreError, Watch, WatchItem, WatchRequest},
};

pub(super) struct MemoryWatch {
    shared: Arc<Shared>,
    range: KeyRange,
    previous: WithPrevious,
    /// First revision that the caller asked for.
    began: Revision,
    /// Everything before this revision was delivered.
    from: Revision,
    progress_wanted: bool,
    changed: Receiver<u64>,
    faults: Receiver<Watches>,
    /// State of the faults when the watch was opened.
    opened: Watches,
    /// State of the store's `replacements` when the watch was opened.
    replacements: u64,
    over: bool,
}

impl MemoryWatch {
    pub(super) fn open(shared: Arc<Shared>, request: WatchRequest) -> Self {
        let faults = shared.faults.watches();
        let opened = *faults.borrow();
        Self {
            replacements: shared.at_now(|model, _| model.replacements()),
            range: request.range,
            previous: if request.previous { WithPrevious::Yes } else { WithPrevious::No },
            began: request.from,
            from: request.from,
            progress_wanted: false,
            changed: shared.changed.subscribe(),
            opened,
            faults,
            over: false,
            shared,
        }
    }

    /// Returns the next item if there is one, else the time until the model may change by itself.
    fn poll(&mut self) -> Result<Result<WatchItem, Option<Duration>>, StoreError> {
        let (range, from, previous) = (&self.range, self.from, self.previous);
        let (found, revision, replacements, quiet) = self.shared.at_now(|model, now| {
            let quiet = model.quiet_until().map(|until| until.since(now));
            let found = model.next_events(range, from, previous);
            (found, model.revision(), model.replacements(), quiet)
        });
        if replacements != self.replacements {
            return Err(over("the store was restarted with other data"));
        }
        if let Some((revision, events)) = found? {
            self.from = Revision(revision.0 + 1);
            return Ok(Ok(WatchItem::Events { revision, events }));
        }
        let wanted = std::mem::take(&mut self.progress_wanted);
        // As in etcd: a watch from a future revision does not move and sends no progress.
        if revision < self.began {
            return Ok(Err(quiet));
        }
        self.from = self.from.max(Revision(revision.0 + 1));
        if wanted {
            return Ok(Ok(WatchItem::Progress { revision }));
        }
        Ok(Err(quiet))
    }

    fn check_cut(&mut self, now: Watches) -> Result<(), StoreError> {
        if self.over || now.cuts != self.opened.cuts {
            self.over = true;
            return Err(over("the watch is over"));
        }
        Ok(())
    }
}

fn over(message: &str) -> StoreError {
    StoreError::Broken { endpoint: "memory".to_owned(), message: message.to_owned() }
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            let faults = *self.faults.borrow_and_update();
            self.check_cut(faults)?;
            // Marked before the model is read: a later change wakes the wait below.
            self.changed.mark_unchanged();
            let quiet = if self.opened.member < faults.stalled_members {
                None
            } else {
                match self.poll() {
                    Ok(Ok(item)) => return Ok(item),
                    Ok(Err(quiet)) => quiet,
                    Err(error) => {
                        self.over = true;
                        return Err(error);
                    }
                }
            };
            let expiry = async {
                match quiet {
                    Some(quiet) => time::sleep(quiet).await,
                    None => future::pending().await,
                }
            };
            // All branches only wait: a branch that is dropped has lost nothing.
            tokio::select! {
                biased;
                _ = self.faults.changed() => {}
                _ = self.changed.changed() => {}
                () = expiry => {}
            }
        }
    }

    async fn request_progress(&mut self) -> Result<(), StoreError> {
        let faults = *self.faults.borrow();
        self.check_cut(faults)?;
        self.progress_wanted = true;
        Ok(())
    }
}
