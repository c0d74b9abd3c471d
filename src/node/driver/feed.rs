//! The engine's view of the store: one list, and one watch from the next revision (R2).
//!
//! A task on the driver's thread follows the store and stamps what it receives (R1). A watch that
//! breaks is opened again from the revision after the last one delivered; if that is compacted, the
//! range is listed anew. A watch that is silent is asked for progress, and left for another member if it
//! does not answer: a member that is cut off from its quorum delivers nothing and says nothing.

use std::time::Duration;

use tokio::{
    select,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    clock,
    engine::{Input, Revision},
    node::env::Env,
    store::{Get, Store, StoreError, Watch, WatchItem, WatchRequest, protocol::Decoded},
    tasks,
};

/// The driver reads at once; more than this means that it is stuck, and the watch can wait.
const ITEMS: usize = 256;
/// A watch that delivers nothing for so long is asked for progress.
const ASK_AFTER: Duration = Duration::from_millis(400);
/// One that does not answer within this is left.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Of each list and each opening of a watch.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_millis(20);
const RETRY_AFTER_MOST: Duration = Duration::from_secs(1);

/// Follows the watched range. Ends when dropped.
#[derive(Debug)]
pub(super) struct Feed {
    items: mpsc::Receiver<Input>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Lists, then watches.
    pub(super) fn new(env: &Env) -> Self {
        let (sender, items) = mpsc::channel(ITEMS);
        let task = tasks::spawn("feed", follow(env.clone(), sender));
        Self { items, task }
    }

    /// What happened next.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not returned is returned next time.
    pub(super) async fn next(&mut self) -> Input {
        match self.items.recv().await {
            Some(input) => input,
            // The task ends only with this.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The driver is gone.
struct Gone;

/// Why a list or a watch is over.
enum Over {
    Gone,
    /// Go on from the last revision delivered.
    Broken,
    /// List anew.
    Compacted,
}

impl From<Gone> for Over {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

async fn follow(env: Env, items: mpsc::Sender<Input>) {
    let mut at: Option<Revision> = None;
    let mut again_after = RETRY_AFTER;
    loop {
        match one_watch(&env, &items, &mut at, &mut again_after).await {
            Over::Gone => return,
            Over::Broken => (),
            Over::Compacted => at = None,
        }
        if items.send(Input::WatchLost).await.is_err() {
            return;
        }
        sleep(again_after).await;
        again_after = (again_after * 2).min(RETRY_AFTER_MOST);
    }
}

/// Lists if there is nothing to go on from, opens a watch and delivers until it is over.
async fn one_watch(
    env: &Env,
    items: &mpsc::Sender<Input>,
    at: &mut Option<Revision>,
    again_after: &mut Duration,
) -> Over {
    let store = env.store.as_ref();
    let from = match *at {
        Some(at) => at,
        None => match list(env, items).await {
            Ok(Ok(listed)) => *at.insert(listed),
            Ok(Err(Gone)) => return Over::Gone,
            Err(error) => return failed("list", &error),
        },
    };
    let range = env.keys.watched();
    let request = WatchRequest { range, from: Revision(from.0 + 1), previous: false };
    let watch = match store.watch(request, OPEN_WITHIN).await {
        Ok(watch) => watch,
        Err(error) => return failed("watch", &error),
    };
    *again_after = RETRY_AFTER;
    deliver(env, items, at, watch).await
}

fn failed(what: &'static str, error: &StoreError) -> Over {
    tracing::debug!(what, error = %error, "the watch broke");
    match error {
        StoreError::Compacted { .. } => Over::Compacted,
        _ => Over::Broken,
    }
}

async fn list(
    env: &Env,
    items: &mpsc::Sender<Input>,
) -> Result<Result<Revision, Gone>, StoreError> {
    let sent_at = clock::boot_now();
    let answer = env.store.get(Get::range(env.keys.watched()), OPEN_WITHIN).await?;
    let received_at = clock::boot_now();
    let decoded = Decoded::of_list(&env.keys, &answer.kvs);
    env.metrics.foreign_keys.inc_by(decoded.foreign);
    let (revision, cluster) = (answer.revision, answer.cluster);
    let changes = decoded.changes;
    let input = Input::Listed { sent_at, received_at, revision, cluster, changes };
    Ok(items.send(input).await.map(|()| revision).map_err(|_| Gone))
}

async fn deliver(
    env: &Env,
    items: &mpsc::Sender<Input>,
    at: &mut Option<Revision>,
    mut watch: Box<dyn Watch>,
) -> Over {
    loop {
        let item = select! {
            biased;
            // Cancel safe: nothing is lost if it is dropped.
            item = watch.next() => item,
            () = sleep(ASK_AFTER) => match ask(env.store.as_ref(), watch.as_mut()).await {
                Some(item) => item,
                None => return Over::Broken,
            },
        };
        let received_at = clock::boot_now();
        let input = match item {
            Ok(WatchItem::Events { revision, events }) => {
                // What was delivered already is not believed twice.
                if at.is_some_and(|at| revision <= at) {
                    continue;
                }
                *at = Some(revision);
                let decoded = Decoded::of_events(&env.keys, &events);
                env.metrics.foreign_keys.inc_by(decoded.foreign);
                Input::Changed { received_at, revision, changes: decoded.changes }
            }
            Ok(WatchItem::Progress { revision }) => {
                *at = (*at).max(Some(revision));
                Input::Progress { revision }
            }
            Err(error) => return failed("watch", &error),
        };
        if items.send(input).await.is_err() {
            return Over::Gone;
        }
    }
}

/// Asks a silent watch for progress; `None` if it does not answer.
async fn ask(store: &dyn Store, watch: &mut dyn Watch) -> Option<Result<WatchItem, StoreError>> {
    let answered = async {
        watch.request_progress().await?;
        watch.next().await
    };
    let item = timeout(ANSWER_WITHIN, answered).await.ok();
    if item.is_none() {
        tracing::warn!("the watch is silent: it is opened at another member");
        store.avoid_current();
    }
    item
}
