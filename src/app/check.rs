//! Command `check`: reports whether a cluster or a node is healthy. For probes, `helm test` and people.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clap::Args;
use serde::Serialize;

use self::kubernetes::{is_wanted, of_election, of_kubernetes};
use super::{
    apiserver::When,
    args::{ClusterArgs, StoreKind},
    connect::{self, NodeClient},
    exit::{Exit, Failure, in_our_name},
    inspect::ReadArgs,
    live::Live,
    output::{self, Format, Layout, Table, span},
    report::ms,
};
use crate::{
    engine::{ClusterView, timing},
    k8s::crd::CustomResourceDefinition,
    store::{
        Get, OLD_REVISIONS, Store, StoreError,
        etcd::{EtcdStore, MemberStatus},
        holds_revisions_back,
        keys::Keys,
    },
};

mod kubernetes;

/// Says whether a cluster and its store are well
#[derive(Args, Debug)]
#[command(after_long_help = "\
Reaches the store (of an etcd also its members, and whether somebody compacts it), looks whether one node leads and its \
beats arrive, and whether every shard is held; in a pod or with --kubernetes on also whether the API server answers, knows \
our kinds, and whether the Election names the leader that the store does. Exit code 8 if something is wrong, 4 or 5 if the store cannot be asked; what is \
only a warning does not fail. With --url: whether that node's /livez and /readyz pass, for a container's \
probe without curl.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// Whether to look at the Kubernetes API server too: auto means where a service account is at hand
    #[arg(
        long,
        value_name = "WHEN",
        env = "BELLWETHER_KUBERNETES",
        value_enum,
        default_value_t = When::Auto
    )]
    kubernetes: When,

    /// Only the store itself: for before the first node runs
    #[arg(long, alias = "etcd-only", env = "BELLWETHER_STORE_ONLY")]
    store_only: bool,
}

/// Verdict of one finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// Finding about one part of the cluster or node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    says: String,
    /// Remedy for the problem, if there is one.
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

/// Runs the command `check`.
///
/// # Errors
///
/// A [`Failure`] if a server cannot be reached or a finding has failed.
pub(crate) async fn check(
    args: CheckArgs,
    definitions: &[CustomResourceDefinition],
) -> Result<(), Failure> {
    let findings = match &args.read.url {
        Some(url) => of_node(&NodeClient::new(url, args.read.cluster.timeout)?).await?,
        None => of_cluster(&args, definitions).await?,
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
            remedies.push(format!("\n{}: {}\n", it.what, in_our_name(remedy)));
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

async fn of_cluster(
    args: &CheckArgs,
    definitions: &[CustomResourceDefinition],
) -> Result<Vec<Finding>, Failure> {
    let cluster = &args.read.cluster;
    let keys = &cluster.cluster;
    let (store, mut findings) = match cluster.chosen().0 {
        StoreKind::Etcd => {
            let store = connect::etcd(cluster)?;
            let mut findings = vec![answers(&*store, cluster).await?];
            let members = store.members(cluster.timeout).await;
            findings.extend(of_clusters(&members));
            findings.extend(members.into_iter().map(of_member));
            findings.push(compaction(&store, keys, cluster.timeout).await);
            (store as Arc<dyn Store>, findings)
        }
        StoreKind::Kubernetes | StoreKind::Memory => {
            let store = connect::store(cluster)?;
            let findings = vec![answers(&*store, cluster).await?];
            (store, findings)
        }
    };
    if !args.store_only {
        let mut asks_election = is_wanted(args.kubernetes);
        if asks_election {
            let told = of_kubernetes(&args.read, definitions).await?;
            asks_election = told.iter().all(|it| it.verdict == Verdict::Ok);
            findings.extend(told);
        }
        let mut live = Live::open(store, keys.clone(), cluster.timeout)
            .await
            .map_err(|error| Failure::of_store(cluster.kind(), "reading the cluster", &error))?;
        let of_nodes = of_nodes(&mut live).await;
        if asks_election {
            let leads =
                of_nodes.iter().any(|it| it.what == LEADER && it.verdict != Verdict::Failed);
            let leader = live.view.leader().filter(|_| leads);
            findings.push(of_election(&args.read, leader).await?);
        }
        findings.extend(of_nodes);
    }
    Ok(findings)
}

/// Whether the store answers a linearizable read.
async fn answers(store: &dyn Store, cluster: &ClusterArgs) -> Result<Finding, Failure> {
    let answer = store
        .get(Get { keys_only: true, ..Get::key(cluster.cluster.record()) }, cluster.timeout)
        .await
        .map_err(|error| Failure::of_store(cluster.kind(), "reading from the store", &error))?;
    let says = format!("{} answers, revision {}", store.health().endpoint, answer.revision);
    Ok(Finding::new(store.kind(), Verdict::Ok, says))
}

/// First fixed versions: older etcd members can answer stale reads after a pause.
const MENDED: [[u64; 3]; 2] = [[3, 5, 28], [3, 6, 9]];

fn of_member(member: Result<MemberStatus, StoreError>) -> Finding {
    const WHAT: &str = "member";
    let member = match member {
        Ok(member) => member,
        // A single member may be down: the first finding shows whether etcd still works.
        Err(error) => return Finding::new(WHAT, Verdict::Warning, error.to_string()),
    };
    let says = format!(
        "{} is etcd {}{}, {}",
        member.endpoint,
        member.version,
        if member.leads { ", leads" } else { "" },
        space(&member),
    );
    if !member.alarms.is_empty() {
        let says = format!("{}: {}", member.endpoint, member.alarms.join(", "));
        return Finding::new(WHAT, Verdict::Failed, says).try_this(
            "NOSPACE: compact, `etcdctl defrag`, `etcdctl alarm disarm`; CORRUPT: replace the member",
        );
    }
    if member.is_learner {
        return Finding::new(WHAT, Verdict::Warning, format!("{says}, a learner"))
            .try_this("a learner serves nobody: take it out of --etcd until it is promoted");
    }
    if is_stale_reader(&member.version) {
        return Finding::new(WHAT, Verdict::Warning, says).try_this(
            "before 3.5.28 and 3.6.9 a member can answer stale reads after a pause: upgrade etcd",
        );
    }
    if member.db_bytes.saturating_mul(100)
        >= member.db_quota_bytes.saturating_mul(NEARLY_FULL_PERCENT)
        && member.db_quota_bytes > 0
    {
        // Only a defragmentation releases the free pages of the file.
        let wasted = member.db_in_use_bytes.saturating_mul(2) < member.db_bytes;
        return Finding::new(WHAT, Verdict::Warning, says).try_this(if wasted {
            "nearly full, and most of it is free inside the file: `etcdctl defrag`"
        } else {
            "nearly full: compact and `etcdctl defrag`, or raise --quota-backend-bytes"
        });
    }
    Finding::new(WHAT, Verdict::Ok, says)
}

/// Percentage of the quota from which a warning is given. etcd raises NOSPACE when the whole file exceeds the
/// quota, free pages included.
const NEARLY_FULL_PERCENT: u64 = 80;

/// Readable text of how much of the quota a member uses.
fn space(member: &MemberStatus) -> String {
    let (size, used) = (mib(member.db_bytes), mib(member.db_in_use_bytes));
    match member.db_quota_bytes {
        0 => format!("{size} large ({used} in use), its quota is not told before etcd 3.6"),
        quota => format!("{size} of {} quota ({used} in use)", mib(quota)),
    }
}

fn mib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0 => "0 MiB".into(),
        _ if bytes < MIB => "< 1 MiB".into(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ => format!("{} MiB", bytes / MIB),
    }
}

/// Finds endpoints of different etcd clusters: each cluster is healthy, but the nodes would see different
/// states.
fn of_clusters(members: &[Result<MemberStatus, StoreError>]) -> Option<Finding> {
    let mut endpoints: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for member in members.iter().flatten() {
        endpoints.entry(member.cluster).or_default().push(&member.endpoint);
    }
    if endpoints.len() < 2 {
        return None;
    }
    let clusters: Vec<String> = endpoints
        .iter()
        .map(|(cluster, endpoints)| format!("{} of cluster {cluster:x}", endpoints.join(", ")))
        .collect();
    let says = format!("the endpoints belong to different etcd clusters: {}", clusters.join("; "));
    let remedy = "name members of one etcd cluster in --etcd (BELLWETHER_ETCD): `etcdctl member list` \
                  shows them";
    Some(Finding::new("clusters", Verdict::Failed, says).try_this(remedy))
}

fn is_stale_reader(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map_while(|it| it.parse::<u64>().ok());
    let (Some(major), Some(minor), Some(patch)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let version = [major, minor, patch];
    let of_series = MENDED.iter().find(|it| it[..2] == version[..2]);
    version < *of_series.unwrap_or(&MENDED[0])
}

/// Checks A1 (etcd must be compacted): a leader adds 1/H revisions a second without end, and etcd's
/// compaction is off by default.
async fn compaction(store: &EtcdStore, keys: &Keys, timeout: Duration) -> Finding {
    const WHAT: &str = "compaction";
    match holds_revisions_back(store, &keys.record(), OLD_REVISIONS, timeout).await {
        Ok(false) => Finding::new(WHAT, Verdict::Ok, "no sign that it is off"),
        Ok(true) => Finding::new(
            WHAT,
            Verdict::Warning,
            format!("a revision {OLD_REVISIONS} old can still be read: nobody compacts this etcd"),
        )
        .try_this(
            "start etcd with --auto-compaction-mode=periodic --auto-compaction-retention=1h, and \
             defragment it once; else it fills and stops to take writes",
        ),
        Err(error) => Finding::new(WHAT, Verdict::Warning, error.to_string()),
    }
}

const LEADER: &str = "leader";

/// Watches until the leader's next beat, but not longer than a leader may be silent.
async fn of_nodes(live: &mut Live) -> Vec<Finding> {
    let patience = timing::wait(timing::LARGEST_SPAN);
    let first = live.view.leader();
    let beat = tokio::time::timeout(patience, async {
        while live.last_beat_unix_ms.is_none() || live.view.leader().is_none() {
            if live.view.leader().is_some_and(|it| it.d.is_none()) {
                return;
            }
            live.moved().await;
        }
    })
    .await;
    let leader = match (live.view.leader(), beat) {
        (Some(it), Ok(())) if it.d.is_none() => {
            let who = match live.leader_name() {
                Some(name) => format!("{name}, a candidate of client-go, leads"),
                None => format!("node {} of the Go package leads", it.id),
            };
            Finding::new(LEADER, Verdict::Warning, format!("{who}: it has no beat to look for"))
        }
        (Some(it), Ok(())) if it.suspended => Finding::new(
            LEADER,
            Verdict::Failed,
            format!("node {} is in office and suspended: its beats come too late for it to act", it.id),
        )
        .try_this("look at that node's log and at its link to the store; another node takes over within seconds"),
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
    let view = &live.view;
    let nodes = match view.nodes().len() {
        0 => Finding::new("nodes", Verdict::Failed, "none").try_this(
            "start one, and see that it has the same --cluster and the same store as this command",
        ),
        count => {
            let go = count - view.members().len().min(count);
            let says = if go == 0 {
                format!("{count} live")
            } else {
                format!("{count} live, {go} of the Go package")
            };
            Finding::new("nodes", Verdict::Ok, says)
        }
    };
    vec![nodes, leader, of_shards(view)]
}

fn of_shards(view: &ClusterView) -> Finding {
    let unowned: usize = view.plans().map(|(work, _)| view.unowned(work)).sum();
    if unowned > 0 {
        let says = format!("{unowned} are held by nobody just now");
        return Finding::new("shards", Verdict::Warning, says).try_this(
            "normal for some seconds after a node came or went; else `bellwether shards`",
        );
    }
    let retired = view.plans().filter(|(work, _)| !view.is_offered(work));
    let retired: Vec<String> = retired.map(|(work, _)| work.to_string()).collect();
    let says = match retired.as_slice() {
        [] => "every shard is held".to_owned(),
        retired => {
            format!("every shard is held, but for {}: no node offers it", retired.join(", "))
        }
    };
    Finding::new("shards", Verdict::Ok, says)
}

#[cfg(test)]
mod tests;
