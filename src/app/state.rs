//! The commands that read and write nodes' state: `get`, `put`, `delete`.
//!
//! State belongs to a node: its keys are attached to the node's lease and are deleted with it. `put` and
//! `delete` write on behalf of a node, so they require its id; `put` writes under the node's lease, and
//! both compare the revision they have read. The node is not informed: its own next write of the key wins,
//! and after a lost session it writes back its own values.

use std::{
    io::{self, Read as _},
    sync::Arc,
};

use clap::Args;
use serde::Serialize;

use super::{
    args::{ClusterArgs, node_id},
    connect,
    exit::{Exit, Failure},
    output::{self, Format, Layout, Table, shown_value},
};
use crate::{
    engine::{NodeId, Revision},
    store::{
        Compare, CompareOp, Get, KeyRange, KeyValue, Store, StoreError, Target,
        keys::{Key, Keys},
        protocol,
    },
};

/// Maximum size of a value: etcd's default limit of a request, minus room for the rest of the request.
const MOST_BYTES: u64 = 1_400_000;

/// Arguments that `get`, `put`, `delete` and `watch` share.
#[derive(Args, Debug)]
pub(crate) struct StateArgs {
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,

    /// Format of the output
    #[arg(
        long,
        short = 'o',
        value_name = "FORMAT",
        env = "BELLWETHER_OUTPUT",
        value_enum,
        default_value_t
    )]
    pub(super) output: Format,
}

/// Reads the state of nodes
#[derive(Args, Debug)]
#[command(after_long_help = "\
Without --node: this key and the keys below it (k, k/10; not kk), of every node that has it. With \
--node: just this key of that node, raw to standard output, exit code 3 if there is none.")]
pub(crate) struct GetArgs {
    #[command(flatten)]
    state: StateArgs,

    /// Only the state of this node
    #[arg(long, short = 'n', value_name = "ID", env = "BELLWETHER_NODE", value_parser = node_id, allow_negative_numbers = true)]
    node: Option<NodeId>,

    /// Key of the value
    key: String,
}

/// Writes a key of a live node's state, in its name
#[derive(Args, Debug)]
#[command(after_long_help = "\
The key hangs on the node's lease and vanishes with it. The node is not asked: its own next write of the \
key wins, and after a lost session it puts back only what it wrote itself. The write compares what was \
there, and is refused (exit code 6) if the node or the key changed meanwhile.")]
pub(crate) struct PutArgs {
    #[command(flatten)]
    state: StateArgs,

    /// Node that the state belongs to
    #[arg(long, short = 'n', value_name = "ID", env = "BELLWETHER_NODE", value_parser = node_id, allow_negative_numbers = true)]
    node: NodeId,

    /// Only if the key was last written at this revision; 0: only if it does not exist
    #[arg(long, value_name = "REVISION", env = "BELLWETHER_IF_REVISION")]
    if_revision: Option<i64>,

    /// Key of the value
    key: String,

    /// The value; without it, or as -, it is read from standard input
    value: Option<String>,
}

/// Deletes a key of a node's state
#[derive(Args, Debug)]
#[command(after_long_help = "\
The node is not asked: after a lost session it puts back what it wrote itself. Refused (exit code 6) if \
the key changes meanwhile; exit code 3 if there is none.")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    state: StateArgs,

    /// Node that the state belongs to
    #[arg(long, short = 'n', value_name = "ID", env = "BELLWETHER_NODE", value_parser = node_id, allow_negative_numbers = true)]
    node: NodeId,

    /// Only if the key was last written at this revision
    #[arg(long, value_name = "REVISION", env = "BELLWETHER_IF_REVISION")]
    if_revision: Option<i64>,

    /// Key of the value
    key: String,
}

/// A key of one node, with its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Entry {
    node: String,
    key: String,
    /// Value as text, if it is UTF-8.
    value: Option<String>,
    /// Value as bytes, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_bytes: Option<Vec<u8>>,
    /// Revision of the last write.
    revision: String,
    lease: Option<String>,
}

impl Entry {
    fn of(keys: &Keys, kv: &KeyValue) -> Option<Self> {
        let Some(Key::State { key, node }) = keys.parse(&kv.key) else { return None };
        let text = std::str::from_utf8(&kv.value).ok();
        Some(Self {
            node: node.to_string(),
            key,
            value: text.map(str::to_owned),
            value_bytes: text.is_none().then(|| kv.value.clone()),
            revision: kv.modified.to_string(),
            lease: kv.lease.map(|it| it.to_string()),
        })
    }

    fn shown(&self) -> String {
        let bytes = self.value_bytes.as_deref();
        let text = self.value.as_deref().unwrap_or_default();
        shown_value(bytes.unwrap_or(text.as_bytes()))
    }
}

/// Runs the command `get`.
///
/// # Errors
///
/// A [`Failure`] if the store does not answer, or the key does not exist.
pub(crate) async fn get(args: GetArgs) -> Result<(), Failure> {
    let store = connect::store(&args.state.cluster)?;
    let at = Place { store, cluster: &args.state.cluster };
    if let Some(node) = args.node {
        let kv = at.key(&args.key, node).await?;
        let kv = kv.ok_or_else(|| no_key(&args.key, Some(node)))?;
        return match (args.state.output, Entry::of(at.keys(), &kv)) {
            (Format::Json, Some(entry)) => output::print_json(&entry, Layout::Pretty),
            _ => output::print_bytes(&kv.value),
        };
    }
    let range = at.keys().state_of_all(&args.key).map_err(|error| wrong_key(&error))?;
    let kvs = at.read(Get::range(range)).await?;
    let entries: Vec<Entry> = kvs.iter().filter_map(|kv| Entry::of(at.keys(), kv)).collect();
    match args.state.output {
        Format::Json => output::print_json(&entries, Layout::Pretty)?,
        Format::Table if entries.is_empty() => {}
        Format::Table => {
            let mut table = Table::new(&["NODE", "KEY", "REVISION", "VALUE"]);
            for it in &entries {
                table.row([it.node.clone(), it.key.clone(), it.revision.clone(), it.shown()]);
            }
            output::print(&table.render())?;
        }
    }
    if entries.is_empty() { Err(no_key(&args.key, None)) } else { Ok(()) }
}

/// Runs the command `put`.
///
/// # Errors
///
/// A [`Failure`] if the node is not live, the comparison fails, or the store does not answer.
pub(crate) async fn put(args: PutArgs) -> Result<(), Failure> {
    let value = value(args.value.as_deref())?;
    let store = connect::store(&args.state.cluster)?;
    let at = Place { store, cluster: &args.state.cluster };
    let key = at.keys().state(&args.key, args.node).map_err(|error| wrong_key(&error))?;
    let node_key = at.keys().node(args.node);
    let node = at.read(Get::key(node_key.clone())).await?.pop().ok_or_else(|| {
        Failure::new(Exit::NotThere, format!("node {} is not live", args.node))
            .try_this("`bellwether nodes` lists those that are")
    })?;
    let lease = node.lease.ok_or_else(|| {
        Failure::new(
            Exit::Refused,
            format!("the key of node {} hangs on no lease: no node wrote it", args.node),
        )
    })?;
    let seen = match args.if_revision {
        Some(revision) => Revision(revision),
        None => at.key(&args.key, args.node).await?.map_or(Revision(0), |kv| kv.modified),
    };
    let mut txn = protocol::own_key(key, seen, value, lease);
    // Compares the incarnation that was read: a change of role rewrites the node key, but never re-creates
    // it.
    txn.compares.push(Compare {
        range: KeyRange::key(node_key),
        target: Target::Created(node.created),
        op: CompareOp::Equal,
    });
    let answer = match at.store.txn(txn, at.cluster.timeout).await {
        Err(StoreError::LeaseNotFound) => {
            return Err(Failure::new(Exit::NotThere, format!("node {} has just ended", args.node)));
        }
        other => other
            .map_err(|error| Failure::of_write(at.cluster.kind(), "writing the key", &error))?,
    };
    if !answer.succeeded {
        return Err(changed(&args.key, args.node, seen));
    }
    written(args.state.output, "put", &args.key, args.node, answer.revision)
}

/// Runs the command `delete`.
///
/// # Errors
///
/// A [`Failure`] if the key does not exist, the comparison fails, or the store does not answer.
pub(crate) async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    let store = connect::store(&args.state.cluster)?;
    let at = Place { store, cluster: &args.state.cluster };
    let key = at.keys().state(&args.key, args.node).map_err(|error| wrong_key(&error))?;
    let found = at.key(&args.key, args.node).await?;
    let found = found.ok_or_else(|| no_key(&args.key, Some(args.node)))?;
    let seen = args.if_revision.map_or(found.modified, Revision);
    let answer = at
        .store
        .txn(protocol::delete_own_key(key, seen), at.cluster.timeout)
        .await
        .map_err(|error| Failure::of_write(at.cluster.kind(), "deleting the key", &error))?;
    if !answer.succeeded {
        return Err(changed(&args.key, args.node, seen));
    }
    written(args.state.output, "deleted", &args.key, args.node, answer.revision)
}

/// Returns the value from the command line, or from standard input.
fn value(given: Option<&str>) -> Result<Vec<u8>, Failure> {
    let value = match given {
        Some(text) if text != "-" => text.as_bytes().to_vec(),
        _ => {
            let mut bytes = Vec::new();
            let mut input = io::stdin().lock().take(MOST_BYTES + 1);
            input.read_to_end(&mut bytes).map_err(|error| {
                Failure::caused(Exit::Local, "reading the value from standard input", &error)
            })?;
            bytes
        }
    };
    if value.len() as u64 > MOST_BYTES {
        let what = format!("the value has more than {MOST_BYTES} bytes");
        return Err(Failure::new(Exit::Usage, what)
            .try_this("keep it elsewhere and put its place here: a store is for small values"));
    }
    Ok(value)
}

fn written(
    format: Format,
    what: &str,
    key: &str,
    node: NodeId,
    revision: Revision,
) -> Result<(), Failure> {
    match format {
        Format::Table => {
            output::print(&format!("{what} {key} of node {node} at revision {revision}\n"))
        }
        Format::Json => output::print_json(
            &serde_json::json!({
                "key": key, "node": node.to_string(), "revision": revision.to_string(),
            }),
            Layout::Pretty,
        ),
    }
}

fn changed(key: &str, node: NodeId, seen: Revision) -> Failure {
    let what = format!("{key} of node {node} is not as it was at revision {seen}: nothing written");
    Failure::new(Exit::Refused, what)
        .try_this("look at it again with `bellwether get`, then repeat")
}

fn no_key(key: &str, node: Option<NodeId>) -> Failure {
    let whose = node.map_or_else(|| "no node has".to_owned(), |it| format!("node {it} has no"));
    Failure::new(Exit::NotThere, format!("{whose} key {key:?}"))
}

pub(super) fn wrong_key(error: &crate::store::keys::InvalidName) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

/// State of a cluster's nodes in its store.
struct Place<'a> {
    store: Arc<dyn Store>,
    cluster: &'a ClusterArgs,
}

impl Place<'_> {
    fn keys(&self) -> &Keys {
        &self.cluster.cluster
    }

    async fn read(&self, get: Get) -> Result<Vec<KeyValue>, Failure> {
        let answer = self.store.get(get, self.cluster.timeout).await;
        let kind = self.cluster.kind();
        answer.map(|it| it.kvs).map_err(|error| Failure::of_store(kind, "reading", &error))
    }

    async fn key(&self, key: &str, node: NodeId) -> Result<Option<KeyValue>, Failure> {
        let key = self.keys().state(key, node).map_err(|error| wrong_key(&error))?;
        Ok(self.read(Get::key(key)).await?.pop())
    }
}
