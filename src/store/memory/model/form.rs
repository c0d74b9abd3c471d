//! Checks of a transaction that etcd makes before it evaluates any compare.

use super::denied;
use crate::store::{Get, Op, StoreError, Txn};

/// Largest number of compares, and of operations in each list: etcd's `--max-txn-ops`.
const MAX_TXN_OPS: usize = 128;
/// Largest number of bytes in one request: etcd's `--max-request-bytes`.
const MAX_REQUEST_BYTES: usize = 1_572_864;
/// Refuses a transaction that etcd refuses before it evaluates any compare.
pub(super) fn check_form(txn: &Txn) -> Result<(), StoreError> {
    if txn.compares.len().max(txn.then.len()).max(txn.otherwise.len()) > MAX_TXN_OPS {
        return Err(denied("txn", "too many operations in txn request"));
    }
    if txn.compares.iter().any(|compare| compare.range.from.is_empty()) {
        return Err(denied("txn", "key is not provided"));
    }
    let mut bytes = 0;
    for ops in [&txn.then, &txn.otherwise] {
        bytes += check_ops(ops)?;
    }
    if bytes > MAX_REQUEST_BYTES {
        return Err(denied("txn", "request is too large"));
    }
    Ok(())
}

/// Checks a list of operations and returns its approximate size in bytes.
fn check_ops(ops: &[Op]) -> Result<usize, StoreError> {
    let mut bytes = 0;
    for (at, op) in ops.iter().enumerate() {
        let key = match op {
            Op::Put { key, value, .. } => {
                bytes += key.len() + value.len();
                let deleted = ops.iter().any(|op| matches!(op, Op::Delete(r) if r.contains(key)));
                let put = |op: &Op| matches!(op, Op::Put { key: other, .. } if other == key);
                if deleted || ops[..at].iter().any(put) {
                    return Err(denied("txn", "duplicate key given in txn request"));
                }
                key
            }
            Op::Delete(range) | Op::Get(Get { range, .. }) => &range.from,
        };
        if key.is_empty() {
            return Err(denied("txn", "key is not provided"));
        }
    }
    Ok(bytes)
}
