//! A watch of the memory store: a place in its history.

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
    /// The first revision that was asked for.
    began: Revision,
    /// Everything before this was delivered.
    from: Revision,
    progress_wanted: bool,
    changed: Receiver<u64>,
    faults: Receiver<Watches>,
    /// As the faults stood when it was opened.
    opened: Watches,
    /// As the data stood when it was opened.
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

    /// The next item, if there is one, else until when none comes by itself.
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
        // As etcd: a watch from a revision that is yet to come stays where it is and says nothing.
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
            // Seen before the model is looked at: what changes after that wakes the wait below.
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
            // All arms only wait: whichever is dropped has taken nothing.
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
