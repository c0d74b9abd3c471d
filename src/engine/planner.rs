//! Which node works on which shard.
//!
//! Pure: takes the live members and who owns what now, returns who should own what. Who *may* (drain,
//! claim, proof) is decided in `engine::machine`. Sticky, even, weighted, with capacities, with the
//! least possible movement; two planners with the same members always agree.
//!
//! It works in two steps. First the quotas: each worker's exact share is its weight's part of the
//! shards, cut off at its capacity, and what a full worker leaves goes to the others by weight (water
//! filling, in whole numbers). A quota is that share rounded down or up, and it is rounded up first
//! where that leaves a shard in its place. Then the shards: each owner keeps its lowest ones up to its
//! quota; what is left over fills up the others in order, so that neighbours stay together.

use super::types::LeaseId;

/// A live member that can take shards of the work type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its incarnation.
    pub lease: LeaseId,
    /// Its share relative to the others; at least 1.
    pub weight: u32,
    /// At most this many, if there is a limit.
    pub capacity: Option<u32>,
}

/// The wanted owner of each shard: from the present owners (`None` = nobody, or one who is not among
/// `workers`), with the least movement. A shard stays unowned only if all capacities are used up or
/// there is no worker.
///
/// # Invariants
///
/// - Each worker gets its exact weighted share rounded down or up.
/// - No assignment with such shares takes fewer shards from a living owner.
/// - What it returns depends on who the workers are, not on their order, and is returned again if it
///   is given back as `current`.
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

/// By lease, each once.
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

/// A worker's exact share: `whole + part / of`, with `part < of`.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    whole: u64,
    part: u128,
}

/// How many shards each worker gets: its share rounded down, plus one each for as many as are left,
/// first to those who own more than that already, then by the size of what was rounded off.
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

/// The exact shares: those whose capacity is below their part by weight get their capacity, the rest
/// is shared by weight among the others. All `part`s are of one common denominator.
fn shares(shards: u64, workers: &[Worker]) -> Vec<Share> {
    let mut by_fullness: Vec<usize> = (0..workers.len()).collect();
    by_fullness.sort_by(|&a, &b| {
        // capacity / weight, compared crosswise: who is full first.
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
