//! Plans and held keys in a short form: each run of shards with the same owner and epoch is one word.
//!
//! A plan is `{"v":1,"owners":["7c3f…","a1…"],"runs":"0-84=0@123 85-170=1@123 171=-@0 172=1@99!"}`: shard
//! numbers, index of the owner (`-` = no owner), epoch, `!` if the shard is draining. A held key has, by
//! work type, `"0-84@123 90@125"`.
//!
//! Shards that all have different epochs cost below 30 bytes each: 1,024 of them below 32 kB, the largest
//! allowed number below half a megabyte.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    iter::Peekable,
};

use serde::{Deserialize, Serialize};

use super::{Hex, MAX_HELD, MAX_SHARDS, VERSION};
use crate::{
    engine::{Assignment, Held, LeaseId, PlanTable, ShardEpoch, ShardId, WorkType},
    store::keys::validate_work_type,
};

#[derive(Serialize, Deserialize)]
pub(super) struct PlanWire {
    v: u32,
    owners: Vec<Hex>,
    runs: String,
}

impl From<&PlanTable> for PlanWire {
    fn from(plan: &PlanTable) -> Self {
        let mut owners = Vec::new();
        let mut index = HashMap::new();
        let mut runs = String::new();
        let mut numbered = plan.shards.iter().zip(0_u32..).peekable();
        while let Some((assignment, first)) = numbered.next() {
            let last = last_of_run(&mut numbered, first, |next| *next == assignment);
            write_shards(&mut runs, first, last);
            match assignment.owner {
                None => runs.push_str("=-"),
                Some(owner) => {
                    let at = *index.entry(owner).or_insert_with(|| {
                        owners.push(Hex::from(owner));
                        owners.len() - 1
                    });
                    let _ = write!(runs, "={at}");
                }
            }
            let _ = write!(runs, "@{}", assignment.epoch);
            if assignment.draining {
                runs.push('!');
            }
        }
        Self { v: VERSION, owners, runs }
    }
}

impl PlanWire {
    /// Decodes the plan. The runs must be in order and leave no shard out.
    pub(super) fn decode(self) -> Option<PlanTable> {
        if self.v > VERSION {
            return None;
        }
        let owners: Vec<LeaseId> =
            self.owners.into_iter().map(Hex::lease).collect::<Option<_>>()?;
        let mut shards = Vec::new();
        for word in self.runs.split_ascii_whitespace() {
            let (range, rest) = word.split_once('=')?;
            let (owner, epoch) = rest.split_once('@')?;
            let owner = match owner {
                "-" => None,
                at => Some(*owners.get(at.parse::<usize>().ok()?)?),
            };
            let (epoch, draining) = match epoch.strip_suffix('!') {
                Some(epoch) => (epoch, true),
                None => (epoch, false),
            };
            let (first, last) = read_shards(range)?;
            if first as usize != shards.len() {
                return None;
            }
            let assignment = Assignment { owner, epoch: read_epoch(epoch)?, draining };
            shards.resize(last as usize + 1, assignment);
        }
        Some(PlanTable { shards })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct HeldWire {
    v: u32,
    nonce: Hex,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    shards: BTreeMap<String, String>,
}

impl From<&Held> for HeldWire {
    fn from(held: &Held) -> Self {
        let mut shards = BTreeMap::<String, String>::new();
        let mut numbered =
            held.shards.iter().map(|((work, shard), epoch)| ((work, *epoch), shard.0)).peekable();
        while let Some(((work, epoch), first)) = numbered.next() {
            let last = last_of_run(&mut numbered, first, |next| *next == (work, epoch));
            let runs = shards.entry(work.as_str().to_owned()).or_default();
            write_shards(runs, first, last);
            let _ = write!(runs, "@{epoch}");
        }
        Self { v: VERSION, nonce: Hex::nonce(held.nonce), shards }
    }
}

impl HeldWire {
    pub(super) fn decode(self) -> Option<Held> {
        if self.v > VERSION {
            return None;
        }
        let mut shards = BTreeMap::new();
        for (work, runs) in &self.shards {
            read_held(&validate_work_type(work).ok()?, runs, &mut shards)?;
        }
        Some(Held { nonce: self.nonce.number()?, shards })
    }
}

fn read_held(
    work: &WorkType,
    runs: &str,
    shards: &mut BTreeMap<(WorkType, ShardId), ShardEpoch>,
) -> Option<()> {
    for word in runs.split_ascii_whitespace() {
        let (range, epoch) = word.split_once('@')?;
        let epoch = read_epoch(epoch)?;
        let (first, last) = read_shards(range)?;
        for shard in first..=last {
            // A shard that appears twice, perhaps with two epochs, makes the value malformed.
            if shards.insert((work.clone(), ShardId(shard)), epoch).is_some() {
                return None;
            }
            // Short runs of many work types could unfold into gigabytes.
            if shards.len() > MAX_HELD {
                return None;
            }
        }
    }
    Some(())
}

/// Returns the last number of the run that begins with `first`, and takes the items of the run: as many as
/// have consecutive numbers and are alike.
fn last_of_run<T>(
    numbered: &mut Peekable<impl Iterator<Item = (T, u32)>>,
    first: u32,
    alike: impl Fn(&T) -> bool,
) -> u32 {
    let mut last = first;
    while numbered.next_if(|(next, at)| Some(*at) == last.checked_add(1) && alike(next)).is_some() {
        last += 1;
    }
    last
}

fn write_shards(runs: &mut String, first: u32, last: u32) {
    if !runs.is_empty() {
        runs.push(' ');
    }
    let _ = if first == last { write!(runs, "{first}") } else { write!(runs, "{first}-{last}") };
}

fn read_shards(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
    // The bound is checked before anything is allocated.
    (first <= last && last < MAX_SHARDS).then_some((first, last))
}

fn read_epoch(text: &str) -> Option<ShardEpoch> {
    text.parse().ok().filter(|epoch| *epoch >= 0).map(ShardEpoch)
}
