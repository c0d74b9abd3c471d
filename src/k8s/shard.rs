//! Mapping of objects to shards.
//!
//! A shard is a contiguous range of the 64-bit FNV-1a hashes of UIDs, so that it is one `shardRange` in the
//! API server's selectors (KEP-5866). UIDs are random, so their hashes are evenly distributed. Texts that
//! differ only at their end, as names do, have hashes that hardly differ in the leading bits, which select
//! the range: [`hash_of_name`] mixes them first.

use std::{collections::BTreeSet, fmt::Write as _, ops::Range};

use crate::engine::ShardId;

pub use crate::hash::fnv1a;

#[cfg(test)]
mod tests;

/// The shard of a hash: all hashes are divided into `shards` ranges of equal size.
///
/// # Panics
///
/// If there are no shards.
pub const fn shard_of_hash(hash: u64, shards: u32) -> ShardId {
    assert!(shards > 0, "a work type has at least one shard");
    ShardId(((hash as u128 * shards as u128) >> 64) as u32)
}

/// The hash of a name that is not a UID, for [`shard_of_hash`]: evenly distributed also for `web-1` and
/// `web-2`.
pub const fn hash_of_name(name: &[u8]) -> u64 {
    // The finaliser of MurmurHash3: each bit of the input changes each bit of the result in half of the cases.
    let mut hash = fnv1a(name);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The hashes of a shard: the first one, and the first one after the shard (`None` after the last shard).
///
/// # Panics
///
/// If `shard` is not below `shards`.
pub const fn hashes_of_shard(shard: ShardId, shards: u32) -> (u64, Option<u64>) {
    assert!(shard.0 < shards, "a shard is counted from zero");
    let first = first_hash(shard.0, shards) as u64;
    let end = first_hash(shard.0 + 1, shards);
    (first, if end > u64::MAX as u128 { None } else { Some(end as u64) })
}

/// Most ranges of a selector: with them the URL stays below 8 KiB, which every proxy accepts.
const MOST_RANGES: usize = 64;

/// The `shardSelector` that selects the objects of these shards, and as few others as [`MOST_RANGES`] ranges
/// allow. A client that sends the selector must also filter the objects that it receives.
///
/// # Panics
///
/// If `held` is empty, which no selector can express, or if it contains a shard that does not exist.
pub fn shard_selector(held: &BTreeSet<ShardId>, shards: u32) -> String {
    assert!(!held.is_empty(), "a selector picks at least one shard");
    let mut selector = String::new();
    for range in few_ranges(held) {
        let (start, _) = hashes_of_shard(ShardId(range.start), shards);
        let (_, end) = hashes_of_shard(ShardId(range.end - 1), shards);
        let end = end.map_or(1 << 64, u128::from);
        let or = if selector.is_empty() { "" } else { " || " };
        let _ = write!(
            selector,
            "{or}shardRange(object.metadata.uid, '0x{start:016x}', '0x{end:016x}')"
        );
    }
    selector
}

/// Ranges that cover these shards: adjacent shards share a range, and the narrowest gaps are closed if there
/// are too many ranges.
fn few_ranges(held: &BTreeSet<ShardId>) -> Vec<Range<u32>> {
    let mut gaps: Vec<u32> =
        held.iter().zip(held.iter().skip(1)).map(|(one, next)| next.0 - one.0 - 1).collect();
    gaps.retain(|&gap| gap > 0);
    gaps.sort_unstable();
    // Keeps at most `MOST_RANGES - 1` gaps; gaps of equal width are closed together.
    let closed = gaps.len().checked_sub(MOST_RANGES).map_or(0, |last| gaps[last]);
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for shard in held {
        match ranges.last_mut() {
            Some(last) if shard.0 - last.end <= closed => last.end = shard.0 + 1,
            _ => ranges.push(shard.0..shard.0 + 1),
        }
    }
    ranges
}

/// The least hash whose shard is not below `shard`.
const fn first_hash(shard: u32, shards: u32) -> u128 {
    ((shard as u128) << 64).div_ceil(shards as u128)
}
