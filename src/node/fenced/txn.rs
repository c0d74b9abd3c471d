//! Several fenced writes in one transaction, with the compares of a single one: see `guarded`.

use std::time::Duration;

use super::{Fenced, FencedError, StateError};
use crate::{
    clock,
    engine::Revision,
    node::guarded::{self, FirstPut, Guard, Late, Place, Write},
    store::{Effected, Get, Op, StoreError, Txn},
};

/// Shortest timeout of a request.
const LEAST: Duration = Duration::from_millis(1);

/// Fenced writes that take effect together. At most 120 keys, including the keys that are only expected; no
/// key may be written twice.
#[derive(Clone, Debug, Default)]
pub struct FencedTxn {
    expected: Vec<(String, Revision)>,
    writes: Vec<(String, Option<Vec<u8>>)>,
}

impl FencedTxn {
    /// Empty transaction. Without writes it only checks that the right to write still exists.
    pub fn new() -> Self {
        Self::default()
    }

    /// Expects that the last write of `key` has this revision, or, with `None`, that the key does not
    /// exist. Otherwise nothing is written.
    #[must_use]
    pub fn expect(mut self, key: impl Into<String>, revision: Option<Revision>) -> Self {
        self.expected.push((key.into(), revision.unwrap_or_default()));
        self
    }

    /// Adds a put of a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push((key.into(), Some(value.into())));
        self
    }

    /// Adds a delete of a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push((key.into(), None));
        self
    }
}

/// Key whose revision is compared.
struct Compared {
    key: String,
    full: Vec<u8>,
    modified: Revision,
    /// Whether the caller expects this revision. Otherwise it is the last known one, and may be wrong.
    is_expected: bool,
}

/// Key that is written.
struct Written {
    full: Vec<u8>,
    write: Write,
    /// Index of the key in the list of compared keys.
    compared: usize,
}

impl Fenced {
    /// Carries out all writes, or none. The request is sent again only if nothing was written: because a
    /// key without an expected revision had another revision than this node knew, or, for a shard that is
    /// still held, because this node has claimed or released another shard meanwhile.
    ///
    /// # Errors
    ///
    /// As for [`compare_and_set`](Self::compare_and_set). To find out the outcome after
    /// [`StateError::Unknown`], let the transaction put a unique value. However late the transaction takes
    /// effect, it undoes no later write of its keys.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the outcome is unknown.
    pub async fn txn(&self, txn: FencedTxn) -> Result<Revision, FencedError> {
        let (mut compared, written) = self.parts(&txn)?;
        let deadline = clock::boot_now() + self.env.call_timeout;
        loop {
            let Some(guard) = self.owner.guard(&self.env) else {
                return Err(self.owner.stale(&self.env));
            };
            let late: Vec<Late<'_>> = written
                .iter()
                .map(|one| {
                    let place = Place { key: &one.full, marker: Some(&self.known.marker) };
                    place.late(compared[one.compared].modified, &one.write)
                })
                .collect();
            let request = request(&guard, &compared, &written, &late);
            let left = deadline.since(clock::boot_now());
            let answer = match self.env.store.txn(request, left.max(LEAST)).await {
                Ok(answer) => answer,
                Err(source) => return Err(failed(&written, &late, source)),
            };
            if answer.succeeded {
                self.note(&written, &late, answer.revision);
                return Ok(answer.revision);
            }
            let found = |index: usize| {
                let read = answer.reads.get(index).and_then(|kvs| kvs.first());
                read.map_or(Revision(0), |kv| kv.modified)
            };
            for first in late.iter().filter_map(Late::first) {
                first.refused(found(1 + compared.len()));
            }
            drop(late);
            if found(0) != guard.modified {
                guard.note_refused();
                self.after_guard_lost(guard.modified, left).await?;
                continue;
            }
            for (index, one) in compared.iter_mut().enumerate() {
                let found = found(1 + index);
                if one.is_expected && found != one.modified {
                    return Err(FencedError::Conflict { key: one.key.clone(), found });
                }
                one.modified = found;
            }
        }
    }

    /// Compares and writes of the transaction, by the full keys.
    fn parts(&self, txn: &FencedTxn) -> Result<(Vec<Compared>, Vec<Written>), FencedError> {
        let mut compared = Vec::with_capacity(txn.expected.len() + txn.writes.len());
        for (key, expected) in &txn.expected {
            let (key, full) = (key.clone(), self.key(key)?);
            compared.push(Compared { key, full, modified: *expected, is_expected: true });
        }
        let mut written = Vec::with_capacity(txn.writes.len());
        for (key, value) in &txn.writes {
            let full = self.key(key)?;
            let place = compared.iter().position(|one| one.full == full).unwrap_or_else(|| {
                let (key, full, modified) = (key.clone(), full.clone(), self.known.of(&full));
                compared.push(Compared { key, full, modified, is_expected: false });
                compared.len() - 1
            });
            let write = value
                .as_ref()
                .map_or(Write::Delete, |value| Write::Put { value: value.clone(), lease: None });
            written.push(Written { full, write, compared: place });
        }
        Ok((compared, written))
    }

    /// Notes that the transaction took effect.
    fn note(&self, written: &[Written], late: &[Late<'_>], revision: Revision) {
        late.iter().filter_map(Late::first).for_each(FirstPut::settled);
        if let Some(marker) = late.iter().find_map(Late::settles) {
            marker.moved(revision);
        }
        for Written { full, write, .. } in written {
            match write {
                Write::Put { .. } => self.known.learn(full, revision),
                Write::Delete => self.known.forget(full),
            }
        }
    }
}

fn request(guard: &Guard, compared: &[Compared], written: &[Written], late: &[Late<'_>]) -> Txn {
    let mut compares = vec![guarded::modified_is(&guard.key, guard.modified)];
    let mut otherwise = vec![Op::Get(Get::key(guard.key.as_slice()))];
    for one in compared {
        compares.push(guarded::modified_is(&one.full, one.modified));
        otherwise.push(Op::Get(Get::key(one.full.as_slice())));
    }
    let mut then: Vec<Op> = written.iter().map(|one| one.write.op(&one.full)).collect();
    // The request contains the marker once, for any number of keys.
    if let Some(first) = late.iter().find_map(Late::first) {
        compares.push(first.compare());
        otherwise.push(first.get());
    }
    if let Some(marker) = late.iter().find_map(Late::settles) {
        then.push(marker.put());
    }
    if then.is_empty() {
        // R11 (no empty transactions): etcd answers a transaction without operations without a quorum.
        then.push(Op::Get(Get::key(guard.key.as_slice())));
    }
    Txn { compares, then, otherwise }
}

fn failed(written: &[Written], late: &[Late<'_>], source: StoreError) -> FencedError {
    if source.effected() == Effected::No {
        late.iter().filter_map(Late::first).for_each(FirstPut::settled);
    }
    StateError::of_write(format!("write {} keys at once", written.len()), source).into()
}
