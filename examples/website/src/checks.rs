//! The work on shards: a follower checks whether the sites of its shards answer.

use std::{sync::Arc, time::Duration};

use bellwether::k8s::prelude::*;
use tokio::{net::TcpStream, time::timeout};

use super::website::{Website, address};

/// Time limit of a connection to a site.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Time between two checks of a site.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// Checks one site that should answer. Runs on the node that holds the site's shard.
pub async fn check(site: Arc<Website>, ctx: Context) -> Result<Action, ReconcileError> {
    let status = site.status.clone().unwrap_or_default();
    if site.metadata.deletion_timestamp.is_some() || !conditions::holds(&status.conditions, "Ready")
    {
        return Ok(Action::done());
    }
    let address = address(&site);
    if !matches!(timeout(CONNECT_WITHIN, TcpStream::connect(&address)).await, Ok(Ok(_))) {
        let note = format!("{address} does not accept connections");
        ctx.events().warning(&*site, "Unreachable", "Check", note).await;
    }
    Ok(Action::requeue_after(CHECK_EVERY))
}
