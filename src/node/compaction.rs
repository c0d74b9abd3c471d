//! Warns if no client compacts the store (protocol, A1: etcd is linearizable and is compacted). Until etcd
//! reaches its quota, nothing else shows that it will reject writes one day. The leader checks now and
//! then.

use std::{convert::Infallible, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{Membership, env::Env};
use crate::{engine::Role, store};

/// Delay before a leader's first check, so that the work after a change of leader is over.
const FIRST_AFTER: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1800);

/// Checks for as long as the node leads, and again whenever it leads again.
///
/// # Cancel safety
///
/// Cancel safe: the function only reads.
pub(super) async fn watch_over(
    env: Env,
    mut membership: watch::Receiver<Membership>,
) -> Infallible {
    let mut said = false;
    loop {
        let mut wait = FIRST_AFTER;
        if membership.wait_for(|now| now.role == Role::Leader).await.is_err() {
            // The node was dropped; the driver aborts this task.
            std::future::pending::<()>().await;
        }
        while is_leader_for(&mut membership, wait).await {
            wait = LOOK_EVERY;
            look(&env, store::OLD_REVISIONS, &mut said).await;
        }
        // The next leader reports this state from now on.
        env.metrics.uncompacted.set(0);
    }
}

/// Waits for `span`; returns whether the node led all the time.
async fn is_leader_for(membership: &mut watch::Receiver<Membership>, span: Duration) -> bool {
    tokio::select! {
        biased;
        // Both are cancel safe: the futures only wait.
        _ = membership.wait_for(|now| now.role != Role::Leader) => false,
        () = sleep(span) => true,
    }
}

async fn look(env: &Env, revisions: u32, said: &mut bool) {
    let key = env.keys.record();
    let held = store::holds_revisions_back(env.store.as_ref(), &key, revisions, env.call_timeout);
    match held.await {
        Ok(held) => {
            env.metrics.uncompacted.set(i64::from(held));
            if held && !*said {
                tracing::warn!(
                    revisions,
                    "nobody compacts the store: start etcd with --auto-compaction-mode=periodic \
                     --auto-compaction-retention=1h and defragment it once, else it fills and stops to \
                     take writes"
                );
            }
            *said = held;
        }
        // The protocol's own calls report that the store is unreachable.
        Err(error) => tracing::debug!(%error, "no look at the compaction of the store"),
    }
}

#[cfg(test)]
mod tests;
