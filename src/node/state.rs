//! Reads of the cluster's state: one request each, linearizable.

use std::collections::BTreeMap;

use super::{KV, env::Env, error::StateError, guarded, own_state::state_key};
use crate::{
    engine::{ClusterView, NodeId, NodeMetadata},
    store::{
        Get, GetAnswer, KeyRange, KeyValue, Op, StoreError, Txn, TxnAnswer, keys::Key,
        protocol::Decoded, values,
    },
};

async fn read(env: &Env, doing: impl Fn() -> String, get: Get) -> Result<GetAnswer, StateError> {
    let store = &env.store;
    let answer = guarded::read(env.call_timeout, |wait| store.get(get.clone(), wait)).await;
    answer.map_err(|source| StateError::Store { doing: doing(), source })
}

/// Reads several ranges at one revision.
async fn read_together(
    env: &Env,
    doing: impl Fn() -> String,
    ranges: Vec<KeyRange>,
) -> Result<TxnAnswer, StateError> {
    let then = ranges.into_iter().map(|range| Op::Get(Get::range(range))).collect();
    let txn = Txn { compares: Vec::new(), then, otherwise: Vec::new() };
    let store = &env.store;
    let answer = guarded::read(env.call_timeout, |wait| store.txn(txn.clone(), wait)).await;
    answer.map_err(|source: StoreError| StateError::Store { doing: doing(), source })
}

pub(crate) async fn get(env: &Env, node: NodeId, key: &str) -> Result<Option<Vec<u8>>, StateError> {
    let full = state_key(&env.keys, key, node)?;
    let answer = read(env, || format!("get {key:?} of node {node}"), Get::key(full)).await?;
    Ok(answer.kvs.into_iter().next().map(|kv| kv.value))
}

pub(crate) async fn get_cluster(
    env: &Env,
    prefix: &str,
) -> Result<BTreeMap<NodeId, Vec<KV>>, StateError> {
    let range =
        env.keys.state_of_all(prefix).map_err(|source| StateError::of_key(prefix, source))?;
    let doing = || format!("get {prefix:?} of all nodes");
    let answer = read_together(env, doing, vec![env.keys.nodes(), range]).await?;
    let mut reads = answer.reads.into_iter();
    let mut found: BTreeMap<NodeId, Vec<KV>> = BTreeMap::new();
    for kv in reads.next().unwrap_or_default() {
        match env.keys.parse(&kv.key) {
            Some(Key::Node(id)) => drop(found.entry(id).or_default()),
            _ => env.metrics.foreign_keys.inc(),
        }
    }
    for kv in reads.next().unwrap_or_default() {
        match env.keys.parse(&kv.key) {
            Some(Key::State { key, node }) => {
                found.entry(node).or_default().push(KV { key, value: kv.value });
            }
            _ => env.metrics.foreign_keys.inc(),
        }
    }
    for kvs in found.values_mut() {
        kvs.sort_by(|a, b| a.key.cmp(&b.key));
    }
    Ok(found)
}

pub(crate) async fn get_nodes(env: &Env) -> Result<Vec<NodeMetadata>, StateError> {
    let get = Get::range(env.keys.nodes());
    let answer = read(env, || "list the nodes".to_owned(), get).await?;
    let mut nodes = Vec::with_capacity(answer.kvs.len());
    for kv in &answer.kvs {
        match (env.keys.parse(&kv.key), values::decode_metadata(&kv.value)) {
            (Some(Key::Node(id)), Some(metadata)) if metadata.id == id => nodes.push(metadata),
            _ => env.metrics.foreign_keys.inc(),
        }
    }
    nodes.sort_by_key(|metadata| metadata.id);
    Ok(nodes)
}

pub(crate) async fn get_node_metadata(
    env: &Env,
    node: NodeId,
) -> Result<Option<NodeMetadata>, StateError> {
    let get = Get::key(env.keys.node(node));
    let answer = read(env, || format!("get the metadata of node {node}"), get).await?;
    Ok(answer.kvs.first().and_then(|kv| values::decode_metadata(&kv.value)))
}

/// Reads which node is in office, by the rule of [`ClusterView::leader`].
pub(crate) async fn get_leader(env: &Env) -> Result<Option<NodeId>, StateError> {
    let doing = || "find the leader".to_owned();
    let ranges = vec![KeyRange::key(env.keys.record()), env.keys.candidates()];
    let answer = read_together(env, doing, ranges).await?;
    let shown = |kvs: &[KeyValue]| Decoded::of_list(&env.keys, kvs).changes;
    let changes = answer.reads.iter().flat_map(|kvs| shown(kvs));
    let mut view = ClusterView::of(answer.revision, changes);
    // This view has no member records, so that a candidate of this library that is not in office looks like a
    // leader of the Go package until its member record is read.
    if let Some(leader) = view.leader().filter(|leader| leader.d.is_none()) {
        let member = read(env, doing, Get::key(env.keys.member(leader.id))).await?;
        for change in shown(&member.kvs) {
            view.apply(change);
        }
    }
    Ok(view.leader().map(|leader| leader.id))
}
