//! Whether anybody compacts the store.

use std::time::Duration;

use super::{Get, Store, StoreError};
use crate::engine::Revision;

/// So many revisions, and nobody compacts the store (protocol, A1): two and a half days of beats in the
/// default profile.
pub const OLD_REVISIONS: u32 = 1_000_000;

/// Whether a store still has a revision that old, so that nobody compacts it: a leader adds a few
/// revisions a second for ever, and etcd's `--auto-compaction-retention` is off by default. `key` is any
/// that may be read.
///
/// # Errors
///
/// As [`Store::get`].
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
