use proptest::prelude::*;

use super::*;

#[test]
fn a_uid_is_in_the_shard_it_was_always_in() {
    let shard = |key: &str, shards| shard_of_hash(fnv1a(key.as_bytes()), shards).0;
    assert_eq!(shard("", 256), 0xcb);
    assert_eq!(shard("a", 256), 0xaf);
    assert_eq!(shard("foobar", 256), 0x85);
    assert_eq!(shard("foobar", 1), 0);
    assert_eq!(shard("foobar", 3), 1);
}

/// Keys as people and programs choose them: they start alike and differ in few places.
#[test]
fn names_that_differ_in_little_are_spread_evenly() {
    let kinds: [fn(u32) -> String; 7] = [
        |n| format!("default/web-{n}"),
        |n| format!("default/shop-{n:03}"),
        |n| format!("default/{n}"),
        |n| format!("default/partner-{n}-api"),
        |n| format!("team-{n}/health"),
        |n| format!("default/host-10-0-{}-{}", n / 256, n % 256),
        |n| format!("default/web-{}", "a".repeat(n as usize % 200) + &n.to_string()),
    ];
    for (kind, name) in kinds.iter().enumerate() {
        for (many, shards) in [(99, 256), (1000, 256), (1000, 16), (10_000, 257)] {
            let mut by_shard = vec![0_u32; shards as usize];
            for n in 0..many {
                by_shard[shard_of_hash(hash_of_name(name(n).as_bytes()), shards).0 as usize] += 1;
            }
            let (mean, most) =
                (f64::from(many) / f64::from(shards), by_shard.iter().max().unwrap());
            // Seven standard deviations of a random distribution, plus two for what cannot be divided evenly.
            let fair = mean + 7.0 * mean.sqrt() + 2.0;
            assert!(
                f64::from(*most) <= fair,
                "{many} keys of kind {kind}: {most} in one of {shards}"
            );
        }
    }
}

#[test]
fn the_first_and_the_last_hash_are_in_the_first_and_the_last_shard() {
    for shards in [1, 2, 3, 7, 256, 1024, u32::MAX] {
        assert_eq!(shard_of_hash(0, shards), ShardId(0));
        assert_eq!(shard_of_hash(u64::MAX, shards), ShardId(shards - 1));
        assert_eq!(hashes_of_shard(ShardId(0), shards).0, 0);
        assert_eq!(hashes_of_shard(ShardId(shards - 1), shards).1, None);
    }
}

proptest! {
    #[test]
    fn a_hash_is_in_the_range_of_its_shard_and_of_no_other(hash: u64, shards in 1_u32..2000) {
        let shard = shard_of_hash(hash, shards);
        let (first, end) = hashes_of_shard(shard, shards);
        prop_assert!(first <= hash && end.is_none_or(|end| hash < end));
        if let Some(end) = end {
            prop_assert_eq!(shard_of_hash(end, shards), ShardId(shard.0 + 1));
        }
        if first > 0 {
            prop_assert_eq!(shard_of_hash(first - 1, shards), ShardId(shard.0 - 1));
        }
    }
}

fn set(shards: impl IntoIterator<Item = u32>) -> BTreeSet<ShardId> {
    shards.into_iter().map(ShardId).collect()
}

#[test]
fn a_selector_names_each_run_of_shards_once() {
    assert_eq!(
        shard_selector(&set([0, 1, 3]), 4),
        "shardRange(object.metadata.uid, '0x0000000000000000', '0x8000000000000000') || \
         shardRange(object.metadata.uid, '0xc000000000000000', '0x10000000000000000')"
    );
    assert_eq!(
        shard_selector(&set(0..256), 256),
        "shardRange(object.metadata.uid, '0x0000000000000000', '0x10000000000000000')"
    );
}

proptest! {
    #[test]
    fn ranges_cover_what_is_held_and_are_few(
        held in proptest::collection::btree_set(0..4096_u32, 1..2000)
    ) {
        let held = set(held);
        let ranges = few_ranges(&held);
        prop_assert!(ranges.len() <= MOST_RANGES);
        prop_assert!(held.iter().all(|shard| ranges.iter().any(|range| range.contains(&shard.0))));
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
}
