//! Assignment of shards to nodes.
//!
//! Pure: [`assign`] takes the live members and the present owners, and returns the wanted owners.
//! `engine::machine` decides which moves are allowed (drain, claim, proof). The assignment is sticky, even,
//! weighted and within capacities, with the least possible movement; two planners with the same members
//! return the same result.
//!
//! The planner works in two steps. The first step computes quotas: the exact share of a worker is its
//! weight's part of the shards, limited by its capacity; the others share the rest of a full worker's part by
//! weight (water filling, in whole numbers). A quota is that share rounded down or up, and shares are rounded
//! up first where that leaves a shard in its place. The second step assigns shards: each owner keeps its
//! lowest shards up to its quota; the shards that are left fill up the other workers in order, so that
//! neighbours stay together.

use super::types::LeaseId;

/// Live member that can take shards of the work type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Lease of the worker's incarnation.
    pub lease: LeaseId,
    /// Weight of the worker relative to the others; at least 1.
    pub weight: u32,
    /// Most shards that the worker takes; `None` = no limit.
    pub capacity: Option<u32>,
}

/// Wanted owner of each shard, with the least movement from the present owners in `current` (`None`, or a
/// lease that is not among `workers` = unowned). A shard stays unowned only if all capacities are used up or
/// there is no worker.
///
/// # Invariants
///
/// - Each worker gets its exact weighted share rounded down or up.
/// - No assignment with such shares takes fewer shards from a living owner.
/// - The result depends on the set of workers, not on their order. Given back as `current`, it is returned
///   unchanged.
pub fn assign(current: &[Option<LeaseId>], workers: &[Worker]) -> Vec<Option<LeaseId>> {
    let workers = sorted(workers);
    let index = |lease: LeaseId| workers.binary_search_by_key(&lease, |worker| worker.lease).ok();
    let owners: Vec<Option<usize>> = current.iter().map(|owner| owner.and_then(index)).collect();

    let mut owned = vec![0; workers.len()];
    for owner in owners.iter().flatten() {
        owned[*owner] += 1;
    }
    let quotas = quotas(current.len() as u64, &owned, &workers);

    let mut room = quotas;
    let mut wanted: Vec<Option<usize>> = Vec::with_capacity(owners.len());
    for owner in owners {
        wanted.push(owner.filter(|owner| take_one(&mut room[*owner])));
    }
    let mut next = 0;
    for place in wanted.iter_mut().filter(|place| place.is_none()) {
        while next < room.len() && room[next] == 0 {
            next += 1;
        }
        if next < room.len() {
            room[next] -= 1;
            *place = Some(next);
        }
    }
    wanted.into_iter().map(|place| place.map(|place| workers[place].lease)).collect()
}

/// Workers in the order of their leases, each lease once.
fn sorted(workers: &[Worker]) -> Vec<Worker> {
    let mut workers = workers.to_vec();
    workers.sort_by_key(|worker| (worker.lease, worker.weight, worker.capacity));
    workers.dedup_by_key(|worker| worker.lease);
    workers
}

fn take_one(room: &mut u64) -> bool {
    let any = 0 < *room;
    *room = room.saturating_sub(1);
    any
}

/// Exact share of a worker: `whole + part / of`, with `part < of`.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    whole: u64,
    part: u128,
}

/// Number of shards for each worker: its share rounded down, plus one more for as many workers as shards are
/// left. First come workers that own more than that already, then those with the largest rounded-off part.
fn quotas(shards: u64, owned: &[u64], workers: &[Worker]) -> Vec<u64> {
    let shares = shares(shards, workers);
    let placed: u64 = shares.iter().map(|share| share.whole).sum();
    let capacity = workers.iter().fold(0, |sum: u64, worker| sum.saturating_add(limit(worker)));
    let left = shards.min(capacity) - placed;

    let mut rounded_up: Vec<usize> = (0..workers.len()).filter(|i| 0 < shares[*i].part).collect();
    rounded_up.sort_by_key(|&i| {
        let keeps = shares[i].whole < owned[i];
        (std::cmp::Reverse((keeps, shares[i].part)), workers[i].lease)
    });
    let mut quotas: Vec<u64> = shares.iter().map(|share| share.whole).collect();
    for &i in rounded_up.iter().take(left as usize) {
        quotas[i] += 1;
    }
    quotas
}

/// Exact shares: workers whose capacity is below their part by weight get their capacity, the others share
/// the rest by weight. All `part`s have one common denominator.
fn shares(shards: u64, workers: &[Worker]) -> Vec<Share> {
    let mut by_fullness: Vec<usize> = (0..workers.len()).collect();
    by_fullness.sort_by(|&a, &b| {
        // Order by capacity / weight, compared crosswise: the first worker is full first.
        let (a, b) = (&workers[a], &workers[b]);
        let left = u128::from(limit(a)) * u128::from(weight(b));
        left.cmp(&(u128::from(limit(b)) * u128::from(weight(a))))
    });
    let mut rest = u128::from(shards);
    let mut weights: u128 = workers.iter().map(|worker| u128::from(weight(worker))).sum();
    let mut shares = vec![Share::default(); workers.len()];
    let mut full = 0;
    for &i in &by_fullness {
        let limit = u128::from(limit(&workers[i]));
        let weight = u128::from(weight(&workers[i]));
        if rest * weight < limit * weights {
            break;
        }
        shares[i].whole = limit as u64;
        rest -= limit;
        weights -= weight;
        full += 1;
    }
    for &i in &by_fullness[full..] {
        let part = rest * u128::from(weight(&workers[i]));
        shares[i] = Share { whole: (part / weights) as u64, part: part % weights };
    }
    shares
}

fn limit(worker: &Worker) -> u64 {
    worker.capacity.map_or(u64::from(u32::MAX), u64::from)
}

fn weight(worker: &Worker) -> u64 {
    u64::from(worker.weight.max(1))
}

#[cfg(test)]
mod tests;
