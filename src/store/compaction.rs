//! Detection of a store that is never compacted.

use std::time::Duration;

use super::{Get, Store, StoreError};
use crate::engine::Revision;

/// Age, in revisions, of history that shows that the store is never compacted (protocol, A1: etcd has to be
/// compacted): two and a half days of beats in the default profile.
pub const OLD_REVISIONS: u32 = 1_000_000;

/// Whether the store still has a revision that is `revisions` old, which shows that it is not compacted: a
/// leader adds a few revisions every second, and etcd's `--auto-compaction-retention` is off by
/// default. `key` is any key that the user may read.
///
/// # Errors
///
/// The errors of [`Store::get`].
pub async fn holds_revisions_back(
    store: &dyn Store,
    key: &[u8],
    revisions: u32,
    timeout: Duration,
) -> Result<bool, StoreError> {
    let newest = store.get(Get::key(key), timeout).await?.revision;
    let old = Revision(newest.0 - i64::from(revisions));
    if old.0 < 1 {
        return Ok(false);
    }
    let get = Get { keys_only: true, limit: 1, at: Some(old), ..Get::key(key) };
    match store.get(get, timeout).await {
        Ok(_) => Ok(true),
        Err(StoreError::Compacted { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
