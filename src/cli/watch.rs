//! `watch`: nodes' state as it changes.

use bellwether::{
    engine::NodeId,
    node::{ClusterNode, EventType, KV, Node as _, StateChange, StateError, StateItem, WatchFrom},
};
use clap::Args;
use serde::Serialize;

use super::{
    args::{ClusterArgs, node_id},
    connect,
    exit::{Exit, Failure},
    output::{self, Format, Layout, shown_value},
    state::wrong_key,
};

/// Shows changes of nodes' state, until Ctrl-C
#[derive(Args, Debug)]
#[command(after_long_help = "\
First what is there, then each change: one line (with -o json: one document a line) each. Survives \
reconnects and compaction, with nothing lost or repeated.")]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// How to print
    #[arg(
        long,
        short = 'o',
        value_name = "FORMAT",
        env = "BELLWETHER_OUTPUT",
        value_enum,
        default_value_t
    )]
    output: Format,

    /// Only this node's
    #[arg(long, short = 'n', value_name = "ID", env = "BELLWETHER_NODE", value_parser = node_id, allow_negative_numbers = true)]
    node: Option<NodeId>,

    /// Not what is there, only what changes
    #[arg(long, env = "BELLWETHER_CHANGES_ONLY")]
    changes_only: bool,

    /// The key, with the keys below it
    key: String,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    /// `present`, `added`, `modified` or `deleted`.
    what: &'static str,
    node: String,
    key: String,
    /// As text; what is not UTF-8 is replaced.
    value: Option<String>,
    revision: String,
}

/// `watch`
///
/// # Errors
///
/// A [`Failure`] if the key is none, or etcd refuses the watch or does not answer.
pub(crate) async fn watch(args: WatchArgs) -> Result<(), Failure> {
    // A node that is never started reads as any other does.
    let reader = ClusterNode::builder()
        .id(0)
        .cluster(args.cluster.cluster.cluster())
        .store(connect::store(&args.cluster)?)
        .call_timeout(args.cluster.timeout)
        .build()
        .map_err(|error| Failure::caused(Exit::Usage, "setting up the watch", &error))?;
    let from = if args.changes_only { WatchFrom::Now } else { WatchFrom::Snapshot };
    let mut changes =
        reader.watch_key_cluster(&args.key, from).await.map_err(|error| match error {
            StateError::Key { source, .. } => wrong_key(&source),
            StateError::Store { source, .. } => Failure::of_store("watching", &source),
            other => Failure::caused(Exit::Failed, "watching", &other),
        })?;
    while let Some(item) = changes.recv().await {
        for line in lines(item) {
            if args.node.is_none_or(|it| it.to_string() == line.node) {
                show(&line, args.output)?;
            }
        }
    }
    // The reader is never closed, and outlives the loop.
    Err(Failure::new(Exit::Failed, "the watch ended unasked"))
}

fn lines(item: StateItem) -> Vec<Line> {
    match item {
        StateItem::Change(change) => vec![of_change(change)],
        StateItem::Snapshot { revision, state } | StateItem::Lagged { revision, state, .. } => {
            let present = |(node, kv): (NodeId, KV)| Line {
                what: "present",
                node: node.to_string(),
                key: kv.key,
                value: Some(String::from_utf8_lossy(&kv.value).into_owned()),
                revision: revision.to_string(),
            };
            state.into_iter().map(present).collect()
        }
    }
}

fn of_change(change: StateChange) -> Line {
    let (what, key, value) = match change.kind {
        EventType::Added => ("added", change.key, Some(change.value)),
        EventType::Modified => ("modified", change.key, Some(change.value)),
        EventType::Deleted => ("deleted", change.old_key, None),
    };
    Line {
        what,
        node: change.node.to_string(),
        key,
        value: value.map(|it| String::from_utf8_lossy(&it).into_owned()),
        revision: change.revision.to_string(),
    }
}

fn show(line: &Line, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(line, Layout::Line),
        Format::Table => {
            let value = line.value.as_deref().unwrap_or_default();
            output::print(&format!(
                "{:<8}  node {}  {}  {}\n",
                line.what,
                line.node,
                output::printable(&line.key),
                shown_value(value.as_bytes())
            ))
        }
    }
}
