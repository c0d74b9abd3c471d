//! Changes of the nodes' state, for users: translates the items of `store::list_watch` into nodes and keys.

use futures::{Stream, stream};
use prometheus::IntCounter;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{ChangeKind, KV, StateChange, env::Env, error::StateError, host::DriverHost};
use crate::{
    engine::{NodeId, Revision},
    store::{
        KeyValue, StoreError,
        keys::{Key, Keys},
        list_watch::{self, Delta, Options, StateStart},
    },
};

#[doc(no_inline)]
pub use crate::store::list_watch::LagCause;

/// Point at which a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchFrom {
    /// The watch delivers changes from now on.
    #[default]
    Now,
    /// The watch delivers a [`StateItem::Snapshot`] of the present state, and then all changes after it.
    Snapshot,
}

/// Item that a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateItem {
    /// State at one revision. Delivered only as the first item, if it was requested.
    Snapshot {
        /// Revision of the snapshot.
        revision: Revision,
        /// State at that revision, by key.
        state: Vec<(NodeId, KV)>,
    },
    /// Change of one key.
    Change(StateChange),
    /// Some changes are left out, and this is the state after them: drop the state that was delivered
    /// before, and continue with `state`.
    Lagged {
        /// Reason why changes are left out. After a [`LagCause::StoreReplaced`] revisions count from the
        /// beginning of another history, and may be smaller than before.
        cause: LagCause,
        /// Revision of `state`, which contains every change up to it.
        revision: Revision,
        /// State at that revision, by key.
        state: Vec<(NodeId, KV)>,
    },
}

/// Watch on the nodes' state. The watch ends when it is dropped, when its node is closed, and when its node
/// has left after its last handle was dropped.
///
/// # Guarantees
///
/// Every change is delivered once and in order, also across reconnects. Where that is not possible, the
/// reader gets a [`StateItem::Lagged`] with a snapshot: if the reader is too slow, if the store has
/// compacted the changes while the watch was disconnected, and if the store was wiped, restored or
/// replaced. Revisions only decrease with a [`LagCause::StoreReplaced`].
///
/// The watch recognises a restored store by its revision, by its cluster id, and by its content at the last
/// revision that the watch has delivered. The node recognises it too (R8: replaced store), if the node has
/// joined.
#[derive(Debug)]
pub struct StateWatch {
    inner: list_watch::StateWatch,
    keys: Keys,
    foreign_keys: IntCounter,
}

impl StateWatch {
    /// Waits for the next item. `None` once the node is closed or gone, also if the cluster still changes;
    /// a node that is only stopped still watches.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an item that was not returned is returned next time.
    pub async fn recv(&mut self) -> Option<StateItem> {
        loop {
            let item = match self.inner.next().await? {
                list_watch::StateItem::Snapshot { revision, kvs } => {
                    let state = self.state(&kvs);
                    Some(StateItem::Snapshot { revision, state })
                }
                list_watch::StateItem::Lagged { cause, revision, kvs } => {
                    let state = self.state(&kvs);
                    Some(StateItem::Lagged { cause, revision, state })
                }
                list_watch::StateItem::Changed(delta) => self.change(&delta).map(StateItem::Change),
            };
            if item.is_some() {
                return item;
            }
        }
    }

    /// Converts the watch into a stream.
    pub fn into_stream(self) -> impl Stream<Item = StateItem> + Send {
        stream::unfold(self, |mut watch| async move { Some((watch.recv().await?, watch)) })
    }

    /// Node and user key of a stored key; counts keys that no node wrote.
    fn parse(&self, kv: &KeyValue) -> Option<(NodeId, String)> {
        if let Some(Key::State { key, node }) = self.keys.parse(&kv.key) {
            return Some((node, key));
        }
        self.foreign_keys.inc();
        None
    }

    fn state(&self, kvs: &[std::sync::Arc<KeyValue>]) -> Vec<(NodeId, KV)> {
        let state = kvs.iter().filter_map(|kv| {
            let (node, key) = self.parse(kv)?;
            Some((node, KV { key, value: kv.value.clone() }))
        });
        state.collect()
    }

    fn change(&self, delta: &Delta) -> Option<StateChange> {
        let (now, before) = (delta.now.as_deref(), delta.before.as_deref());
        let kind = match (now, before) {
            (Some(_), None) => ChangeKind::Added,
            (Some(_), Some(_)) => ChangeKind::Modified,
            (None, Some(_)) => ChangeKind::Deleted,
            (None, None) => return None,
        };
        let (node, key) = self.parse(now.or(before)?)?;
        let name = |kv: Option<&KeyValue>| kv.map_or(String::new(), |_| key.clone());
        let value = |kv: Option<&KeyValue>| kv.map_or(Vec::new(), |kv| kv.value.clone());
        Some(StateChange {
            kind,
            node,
            key: name(now),
            value: value(now),
            old_key: name(before),
            old_value: value(before),
            revision: delta.revision,
        })
    }
}

/// Starts a watch on a key and the keys below it, on the driver's thread. Writes that start after this has
/// returned are delivered.
pub(crate) async fn open(
    env: &Env,
    host: &DriverHost,
    replacements: watch::Receiver<u64>,
    end: &CancellationToken,
    key: &str,
    from: WatchFrom,
) -> Result<StateWatch, StateError> {
    let range = env.keys.state_of_all(key).map_err(|source| StateError::of_key(key, source))?;
    let start = match from {
        WatchFrom::Now => StateStart::Now,
        WatchFrom::Snapshot => StateStart::Snapshot,
    };
    let inner = {
        let _inside = host.handle().enter();
        let (store, end) = (env.store.clone(), end.clone());
        list_watch::StateWatch::start(store, range, start, Options::STATE, replacements, end)
    };
    let refused = |source| StateError::Store { doing: format!("watch {key:?}"), source };
    match timeout(env.call_timeout, inner.started()).await {
        Ok(Ok(Some(_))) => {
            let foreign_keys = env.metrics.foreign_keys.clone();
            Ok(StateWatch { inner, keys: env.keys.clone(), foreign_keys })
        }
        Ok(Ok(None)) => Err(StateError::Closed),
        Ok(Err(error)) => Err(refused(error)),
        Err(_) => Err(refused(inner.failure().unwrap_or_else(|| StoreError::Unanswered {
            call: "watch",
            endpoint: env.store.health().endpoint,
            timeout: env.call_timeout,
        }))),
    }
}
