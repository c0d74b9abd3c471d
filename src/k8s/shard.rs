//! Which shard an object belongs to.
//!
//! The 64-bit FNV-1a hash of its UID, in contiguous ranges, so that one shard is one `shardRange` of the
//! API server's selectors (KEP-5866).

use crate::engine::ShardId;

#[cfg(test)]
mod tests;

/// The 64-bit FNV-1a hash (RFC 9923).
pub const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash ^= bytes[at] as u64;
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// The shard of that hash, out of `shards`: the hashes are cut into `shards` ranges of equal size.
///
/// # Panics
///
/// If there are no shards.
pub const fn shard_of_hash(hash: u64, shards: u32) -> ShardId {
    assert!(shards > 0, "a work type has at least one shard");
    ShardId(((hash as u128 * shards as u128) >> 64) as u32)
}

/// The hashes of a shard: the first in it, and the first after it (`None` after the last shard).
///
/// # Panics
///
/// If there is no such shard.
pub const fn hashes_of_shard(shard: ShardId, shards: u32) -> (u64, Option<u64>) {
    assert!(shard.0 < shards, "a shard is counted from zero");
    let first = first_hash(shard.0, shards) as u64;
    let end = first_hash(shard.0 + 1, shards);
    (first, if end > u64::MAX as u128 { None } else { Some(end as u64) })
}

/// The least hash whose shard is not below `shard`.
const fn first_hash(shard: u32, shards: u32) -> u128 {
    ((shard as u128) << 64).div_ceil(shards as u128)
}
