//! Changes of the nodes' state, for users: what `store::list_watch` delivers, in the words of the
//! cluster.

use futures::{Stream, stream};
use prometheus::IntCounter;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{EventType, KV, StateChange, env::Env, error::StateError, host::DriverHost};
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

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchFrom {
    /// With what changes from now on.
    #[default]
    Now,
    /// With a [`StateItem::Snapshot`] of what is there, and then all that changes after it.
    Snapshot,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateItem {
    /// All that was there at one revision. Only as the first item, if it was asked for.
    Snapshot {
        /// The revision.
        revision: Revision,
        /// By key.
        state: Vec<(NodeId, KV)>,
    },
    /// A change.
    Change(StateChange),
    /// Some changes are left out, and this is all that is there after them: drop what was delivered
    /// before, and go on with `state`.
    Lagged {
        /// Why changes are left out. After a [`LagCause::StoreReplaced`] revisions count from the
        /// beginning of another history, and may be smaller than before.
        cause: LagCause,
        /// Everything up to here is in `state`.
        revision: Revision,
        /// All that is there at that revision, by key.
        state: Vec<(NodeId, KV)>,
    },
}

/// A watch on state. Ends when dropped, and with its node: when that was closed, or has left after its
/// last handle was dropped.
///
/// # Guarantees
///
/// Every change is delivered once and in order, through reconnects too. Where that is not possible, the
/// reader gets a [`StateItem::Lagged`] with a snapshot: if the reader is too slow, if the store has
/// compacted the changes while the watch was cut off, and if the store was wiped, restored or exchanged.
/// Revisions only decrease with a [`LagCause::StoreReplaced`].
///
/// A restored store is recognised by its revision, by the id of its cluster, by what it holds at the last
/// revision that the watch has delivered, and by the node (R8), if that has joined.
#[derive(Debug)]
pub struct StateWatch {
    inner: list_watch::StateWatch,
    keys: Keys,
    foreign_keys: IntCounter,
}

impl StateWatch {
    /// The next item; waits as long as nothing happens. `None` once the node is closed or gone, whatever
    /// is going on in the cluster: a node that is only stopped still watches.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not returned is returned next time.
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

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = StateItem> + Send {
        stream::unfold(self, |mut watch| async move { Some((watch.recv().await?, watch)) })
    }

    /// Whose key it is and what it is called; counts those that no node wrote.
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
            (Some(_), None) => EventType::Added,
            (Some(_), Some(_)) => EventType::Modified,
            (None, Some(_)) => EventType::Deleted,
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

/// Begins to follow a key and those below it, on the driver's thread. What is written after this has
/// returned is delivered.
pub(crate) async fn open(
    env: &Env,
    host: &DriverHost,
    replacements: watch::Receiver<u64>,
    end: &CancellationToken,
    key: &str,
    from: WatchFrom,
) -> Result<StateWatch, StateError> {
    let range = env
        .keys
        .state_of_all(key)
        .map_err(|source| StateError::Key { key: key.to_owned(), source })?;
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
