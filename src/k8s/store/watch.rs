//! A watch: a position in the history of the replica.

use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use super::{ENDPOINT, task::Seen};
use crate::{
    engine::Revision,
    store::{
        KeyRange, StoreError, Watch, WatchItem, WatchRequest,
        memory::{Model, WithPrevious},
    },
};

pub(super) struct ModelWatch {
    seen: Receiver<Seen>,
    range: KeyRange,
    previous: WithPrevious,
    /// First revision that the caller asked for.
    began: Revision,
    /// Everything before this revision was delivered.
    from: Revision,
    progress_wanted: bool,
    /// State of the model's `replacements` when the watch was opened.
    replacements: u64,
    over: bool,
}

impl ModelWatch {
    pub(super) fn open(seen: Receiver<Seen>, request: WatchRequest) -> Self {
        let replacements = seen.borrow().model.replacements();
        Self {
            replacements,
            range: request.range,
            previous: if request.previous { WithPrevious::Yes } else { WithPrevious::No },
            began: request.from,
            from: request.from,
            progress_wanted: false,
            seen,
            over: false,
        }
    }

    /// The next item, if there is one.
    fn poll(&mut self, model: &Model) -> Result<Option<WatchItem>, StoreError> {
        if model.replacements() != self.replacements {
            return Err(broken("the Lease of the cluster was deleted, restored or created again"));
        }
        let found = model.next_events(&self.range, self.from, self.previous)?;
        if let Some((revision, events)) = found {
            self.from = Revision(revision.0 + 1);
            return Ok(Some(WatchItem::Events { revision, events }));
        }
        let revision = model.revision();
        // As in etcd: a watch from a future revision does not move and sends no progress.
        if revision < self.began {
            return Ok(None);
        }
        self.from = self.from.max(Revision(revision.0 + 1));
        let wanted = std::mem::take(&mut self.progress_wanted);
        Ok(wanted.then_some(WatchItem::Progress { revision }))
    }
}

fn broken(message: &str) -> StoreError {
    StoreError::Broken { endpoint: ENDPOINT.to_owned(), message: message.to_owned() }
}

#[async_trait]
impl Watch for ModelWatch {
    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if self.over {
                return Err(broken("the watch is over"));
            }
            let model = self.seen.borrow_and_update().model.clone();
            match self.poll(&model) {
                Ok(Some(item)) => return Ok(item),
                Ok(None) => {}
                Err(error) => {
                    self.over = true;
                    return Err(error);
                }
            }
            if self.seen.changed().await.is_err() {
                self.over = true;
            }
        }
    }

    async fn request_progress(&mut self) -> Result<(), StoreError> {
        self.progress_wanted = true;
        Ok(())
    }
}
