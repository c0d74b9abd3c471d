//! Command `watch`: shows nodes' state as it changes.

use clap::Args;
use serde::Serialize;

use super::{
    args::node_id,
    connect,
    exit::{Exit, Failure},
    output::{self, Format, Layout, shown_value},
    state::{StateArgs, wrong_key},
};
use crate::{
    engine::{NodeId, Revision},
    node::{ChangeKind, ClusterNode, KV, Node as _, StateChange, StateError, StateItem, WatchFrom},
};

/// Shows changes of nodes' state, until Ctrl-C
#[derive(Args, Debug)]
#[command(after_long_help = "\
First what is there, then each change: one line (with -o json: one document a line) each. Survives \
reconnects, with nothing lost or repeated. Where changes had to be left out, a line `lagged` says why \
(slow-reader, cut-off: the store has forgotten them, store-replaced: the store was restored or wiped), and what is \
there follows as `present`: it replaces all lines before.")]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    state: StateArgs,

    /// Only the state of this node
    #[arg(long, short = 'n', value_name = "ID", env = "BELLWETHER_NODE", value_parser = node_id, allow_negative_numbers = true)]
    node: Option<NodeId>,

    /// Not what is there, only what changes
    #[arg(long, env = "BELLWETHER_CHANGES_ONLY")]
    changes_only: bool,

    /// The key, with the keys below it
    key: String,
}

/// Line of the output, as a table row or a JSON document.
#[derive(Debug, Serialize)]
struct Line {
    /// Kind of the line: `present`, `added`, `modified`, `deleted` or `lagged`.
    what: &'static str,
    /// Id of the node; empty if the line is about no node.
    node: String,
    /// Key of the change; for `lagged` the key that is watched.
    key: String,
    /// Value as text; invalid UTF-8 is replaced.
    value: Option<String>,
    revision: String,
    /// Reason why changes were left out, for `lagged`.
    cause: Option<&'static str>,
}

/// Runs the command `watch`.
///
/// # Errors
///
/// A [`Failure`] if the key is invalid, or the store refuses the watch or does not answer.
pub(crate) async fn watch(args: WatchArgs) -> Result<(), Failure> {
    let StateArgs { cluster, output } = &args.state;
    // A node that is never started can still read.
    let reader = ClusterNode::builder()
        .id(0)
        .cluster(cluster.cluster.cluster())
        .store(connect::store(cluster)?)
        .call_timeout(cluster.timeout)
        .build()
        .map_err(|error| Failure::caused(Exit::Usage, "setting up the watch", &error))?;
    let from = if args.changes_only { WatchFrom::Now } else { WatchFrom::Snapshot };
    let mut changes =
        reader.watch_key_cluster(&args.key, from).await.map_err(|error| match error {
            StateError::Key { source, .. } => wrong_key(&source),
            StateError::Store { source, .. } => {
                Failure::of_store(cluster.kind(), "watching", &source)
            }
            other => Failure::caused(Exit::Failed, "watching", &other),
        })?;
    while let Some(item) = changes.recv().await {
        for line in lines(&args.key, item) {
            let is_wanted = |id: NodeId| line.cause.is_some() || id.to_string() == line.node;
            if args.node.is_none_or(is_wanted) {
                show(&line, *output)?;
            }
        }
    }
    // The reader is never closed, and outlives the loop.
    Err(Failure::new(Exit::Failed, "the watch ended unasked"))
}

fn lines(watched: &str, item: StateItem) -> Vec<Line> {
    match item {
        StateItem::Change(change) => vec![of_change(change)],
        StateItem::Snapshot { revision, state } => {
            state.into_iter().map(|it| present(revision, it)).collect()
        }
        StateItem::Lagged { cause, revision, state } => {
            let lagged = Line {
                what: "lagged",
                node: String::new(),
                key: watched.to_owned(),
                value: None,
                revision: revision.to_string(),
                cause: Some(cause.as_str()),
            };
            let present = state.into_iter().map(|it| present(revision, it));
            std::iter::once(lagged).chain(present).collect()
        }
    }
}

fn present(revision: Revision, (node, kv): (NodeId, KV)) -> Line {
    Line {
        what: "present",
        node: node.to_string(),
        key: kv.key,
        value: Some(String::from_utf8_lossy(&kv.value).into_owned()),
        revision: revision.to_string(),
        cause: None,
    }
}

fn of_change(change: StateChange) -> Line {
    let (what, key, value) = match change.kind {
        ChangeKind::Added => ("added", change.key, Some(change.value)),
        ChangeKind::Modified => ("modified", change.key, Some(change.value)),
        ChangeKind::Deleted => ("deleted", change.old_key, None),
    };
    Line {
        what,
        node: change.node.to_string(),
        key,
        value: value.map(|it| String::from_utf8_lossy(&it).into_owned()),
        revision: change.revision.to_string(),
        cause: None,
    }
}

fn show(line: &Line, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print_json(line, Layout::Line),
        Format::Table => output::print(&row(line)),
    }
}

fn row(line: &Line) -> String {
    let key = output::printable(&line.key);
    if let Some(cause) = line.cause {
        return format!("{:<8}  {key}  {cause}, at revision {}\n", line.what, line.revision);
    }
    let value = shown_value(line.value.as_deref().unwrap_or_default().as_bytes());
    format!("{:<8}  node {}  {key}  {value}\n", line.what, line.node)
}

#[cfg(test)]
mod tests {
    use crate::node::LagCause;

    use super::*;

    #[test]
    fn changes_that_are_left_out_are_shown_with_the_cause_before_what_is_there() {
        let state =
            vec![(NodeId::new(3).unwrap(), KV { key: "jobs/a".into(), value: b"1".into() })];
        let item =
            StateItem::Lagged { cause: LagCause::StoreReplaced, revision: Revision(7), state };
        let lines = lines("jobs", item);
        let rows: Vec<_> = lines.iter().map(row).collect();
        assert_eq!(
            rows,
            ["lagged    jobs  store-replaced, at revision 7\n", "present   node 3  jobs/a  1\n"]
        );
        assert_eq!(
            serde_json::to_value(&lines[0]).unwrap(),
            serde_json::json!({
                "what": "lagged", "node": "", "key": "jobs", "value": null, "revision": "7",
                "cause": "store-replaced",
            })
        );
    }
}
