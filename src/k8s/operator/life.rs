//! Caches of an operator, which its node waits for, and the pod of the node.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    host::Host,
    k8s::{
        cache::{Running, Synced},
        election::tell_pod,
        identity::PodIdentity,
    },
    node::Node,
};

/// Delay before another attempt to publish the pod.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// When the process ends, the end of its term is reported within this time; half of it is spent waiting for a
/// successor.
pub(super) const REPORTED_WITHIN: Duration = Duration::from_secs(3);
/// Interval between logs of the caches that are not synced yet.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// Handle for readiness probes: the caches that are not synced yet.
#[doc(hidden)]
#[derive(Clone)]
pub struct CachesSynced(Arc<Vec<(String, Synced)>>);

impl fmt::Debug for CachesSynced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachesSynced").field(&self.missing()).finish()
    }
}

impl CachesSynced {
    /// Kinds of the caches that are not synced yet; ready when empty.
    pub fn missing(&self) -> Vec<&str> {
        let missing = self.0.iter().filter(|(_, synced)| !synced.is_synced());
        missing.map(|(kind, _)| kind.as_str()).collect()
    }

    async fn all(&self) {
        for (_, synced) in &*self.0 {
            synced.wait().await;
        }
    }
}

/// Adds caches to a host: it runs them, and its node is not ready and does not join before they are synced.
pub(super) fn with_caches(mut host: Host, caches: Vec<Running>) -> (Host, CachesSynced) {
    let mut all = Vec::new();
    for Running { kind, run, synced } in caches {
        all.push((kind, synced));
        host = host.task("cache", |_| run);
    }
    let synced = CachesSynced(Arc::new(all));
    let (shown, logged) = (synced.clone(), synced.clone());
    let host = host
        .status(|source| {
            source.unless(move || {
                let missing = shown.missing();
                (!missing.is_empty())
                    .then(|| format!("caches are not synced: {}", missing.join(", ")))
            })
        })
        .before_joining(|_| async move {
            say_until(&logged).await;
            Ok(())
        });
    (host, synced)
}

/// Waits for the caches, and logs at intervals which caches are not synced yet.
async fn say_until(synced: &CachesSynced) {
    let mut all = std::pin::pin!(synced.all());
    loop {
        match tokio::time::timeout(SAID_EVERY, &mut all).await {
            Ok(()) => return,
            Err(_) => {
                tracing::info!(missing = ?synced.missing(), "waiting for caches before joining");
            }
        }
    }
}

/// Publishes this node's pod to the cluster, each time the node has joined.
pub(super) async fn keep_told(node: Arc<dyn Node>, pod: PodIdentity) {
    let mut membership = node.membership();
    while membership.wait_for(|it| it.joined).await.is_ok() {
        match tell_pod(&*node, pod.name(), pod.uid()).await {
            Ok(()) => {
                let _ = membership.wait_for(|it| !it.joined).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the others are not told which pod this node runs in");
                tokio::time::sleep(TOLD_AGAIN_AFTER).await;
            }
        }
    }
    // The node was closed: no further attempt is needed.
    std::future::pending::<()>().await;
}
