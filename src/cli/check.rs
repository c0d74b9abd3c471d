//! `check`: is this cluster, or this node, well? For probes, for `helm test`, and for people.

use std::{sync::Arc, time::Duration};

use bellwether::{
    engine::{Revision, timing},
    store::{Get, Store, StoreError, keys::Keys},
};
use clap::Args;
use serde::Serialize;

use super::{
    connect::{self, NodeClient},
    exit::{Exit, Failure},
    inspect::ReadArgs,
    live::Live,
    output::{self, Format, Layout, Table, span},
    report::ms,
};

/// A store in which a revision that old can still be read is compacted by nobody.
const OLD_REVISIONS: i64 = 1_000_000;

/// Says whether a cluster and its etcd are well
#[derive(Args, Debug)]
#[command(after_long_help = "\
Reaches etcd, looks whether somebody compacts it, whether one node leads and its beats arrive, and \
whether every shard is held. Exit code 8 if something is wrong, 4 or 5 if etcd cannot be asked; what is \
only a warning does not fail. With --url: whether that node's /livez and /readyz pass, for a container's \
probe without curl.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// Only etcd itself: for before the first node runs
    #[arg(long, env = "BELLWETHER_ETCD_ONLY")]
    etcd_only: bool,
}

/// How one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn new(what: &'static str, verdict: Verdict, says: impl Into<String>) -> Self {
        Self { what, verdict, says: says.into(), remedy: None }
    }

    fn try_this(mut self, remedy: &str) -> Self {
        self.remedy = Some(remedy.to_owned());
        self
    }
}

/// `check`
///
/// # Errors
///
/// A [`Failure`] if somebody cannot be asked or something is wrong.
pub(crate) async fn check(args: CheckArgs) -> Result<(), Failure> {
    let findings = match &args.read.url {
        Some(url) => of_node(&NodeClient::new(url, args.read.cluster.timeout)?).await?,
        None => of_cluster(&args).await?,
    };
    match args.read.output {
        Format::Json => output::print_json(&findings, Layout::Pretty)?,
        Format::Table => output::print(&render(&findings))?,
    }
    let failed: Vec<&str> =
        findings.iter().filter(|it| it.verdict == Verdict::Failed).map(|it| it.what).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Unhealthy, format!("not healthy: {}", failed.join(", "))))
}

fn render(findings: &[Finding]) -> String {
    let mut table = Table::new(&["CHECK", "RESULT", "SAYS"]);
    let mut remedies = Vec::new();
    for it in findings {
        let verdict = match it.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED",
        };
        table.row([it.what.into(), verdict.into(), it.says.clone()]);
        if let Some(remedy) = &it.remedy {
            remedies.push(format!("\n{}: {remedy}\n", it.what));
        }
    }
    table.render() + &remedies.concat()
}

async fn of_node(node: &NodeClient) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for (what, path) in [("live", "/livez"), ("ready", "/readyz")] {
        let (passes, said) = node.probe(path).await?;
        let verdict = if passes { Verdict::Ok } else { Verdict::Failed };
        findings.push(Finding::new(what, verdict, said));
    }
    Ok(findings)
}

async fn of_cluster(args: &CheckArgs) -> Result<Vec<Finding>, Failure> {
    let cluster = &args.read.cluster;
    let store = connect::store(cluster)?;
    let keys = &cluster.cluster;
    let answer = store
        .get(Get { keys_only: true, ..Get::key(keys.record()) }, cluster.timeout)
        .await
        .map_err(|error| Failure::of_store("reading from etcd", &error))?;
    let mut findings = vec![Finding::new(
        "etcd",
        Verdict::Ok,
        format!("{} answers, revision {}", store.health().endpoint, answer.revision),
    )];
    findings.push(compaction(&*store, keys, answer.revision, cluster.timeout).await);
    if !args.etcd_only {
        let live = Live::open(Arc::clone(&store), keys.clone(), cluster.timeout)
            .await
            .map_err(|error| Failure::of_store("reading the cluster", &error))?;
        findings.extend(members(live).await);
    }
    Ok(findings)
}

/// A1: a leader adds 1/H revisions a second for ever, and etcd's compaction is off by default.
async fn compaction(store: &dyn Store, keys: &Keys, now: Revision, timeout: Duration) -> Finding {
    const WHAT: &str = "compaction";
    let old = Revision(now.0 - OLD_REVISIONS);
    if old.0 < 1 {
        return Finding::new(WHAT, Verdict::Ok, "too few revisions yet to tell");
    }
    let get = Get { keys_only: true, at: Some(old), ..Get::key(keys.record()) };
    match store.get(get, timeout).await {
        Err(StoreError::Compacted { .. }) => {
            Finding::new(WHAT, Verdict::Ok, format!("nothing is left of revision {old}"))
        }
        Ok(_) => Finding::new(
            WHAT,
            Verdict::Warning,
            format!(
                "revision {old} can still be read: nobody compacts this etcd, and it will fill"
            ),
        )
        .try_this(
            "start etcd with --auto-compaction-mode=periodic --auto-compaction-retention=1h, and \
             defragment it once",
        ),
        Err(error) => Finding::new(WHAT, Verdict::Warning, error.to_string()),
    }
}

/// Watches until the leader's next beat, or for as long as silence may last.
async fn members(mut live: Live) -> Vec<Finding> {
    const LEADER: &str = "leader";
    let patience = timing::wait(timing::SPAN_MAX);
    let first = live.snapshot.leader();
    let beat = tokio::time::timeout(patience, async {
        while live.last_beat_unix_ms.is_none() || live.snapshot.leader().is_none() {
            if live.snapshot.leader().is_some_and(|it| it.d.is_none()) {
                return;
            }
            live.moved().await;
        }
    })
    .await;
    let leader = match (live.snapshot.leader(), beat) {
        (Some(it), Ok(())) if it.d.is_none() => Finding::new(
            LEADER,
            Verdict::Warning,
            format!("node {} of the Go package leads: it has no beat to look for", it.id),
        ),
        (Some(it), Ok(())) => {
            Finding::new(LEADER, Verdict::Ok, format!("node {} leads, term {}", it.id, it.term))
        }
        (_, _) => {
            let says = match (first, &live.problem) {
                (_, Some(problem)) => problem.clone(),
                (Some(it), None) => {
                    format!("node {} is in office and silent for {}", it.id, span(ms(patience)))
                }
                (None, None) => format!("nobody took office within {}", span(ms(patience))),
            };
            Finding::new(LEADER, Verdict::Failed, says)
                .try_this("`bellwether status` shows who is there; look at the logs of those nodes")
        }
    };
    let snapshot = &live.snapshot;
    let nodes = match snapshot.nodes.len() {
        0 => Finding::new("nodes", Verdict::Failed, "none").try_this(
            "start one, and see that it has the same --cluster and --etcd as this command",
        ),
        count => {
            let go = count - snapshot.members.len().min(count);
            let says = if go == 0 {
                format!("{count} live")
            } else {
                format!("{count} live, {go} of the Go package")
            };
            Finding::new("nodes", Verdict::Ok, says)
        }
    };
    let unowned: usize = snapshot
        .plans
        .keys()
        .map(|work| snapshot.shards(work).iter().filter(|it| it.held.is_none()).count())
        .sum();
    let shards = if unowned == 0 {
        Finding::new("shards", Verdict::Ok, "every shard is held")
    } else {
        Finding::new("shards", Verdict::Warning, format!("{unowned} are held by nobody just now"))
            .try_this("normal for some seconds after a node came or went; else `bellwether shards`")
    };
    vec![nodes, leader, shards]
}
