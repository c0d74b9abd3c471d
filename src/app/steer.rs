//! The commands that write requests to a cluster: `resign`, `drain`, `undrain`. The nodes decide how to act on the
//! requests.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{
    args::{self, ClusterArgs, node_id},
    connect::{self, NodeClient},
    exit::{Exit, Failure},
    inspect::{Origin, ReadArgs},
    live::Live,
    output::{self, Format, Layout, span},
    report::ms,
};
use crate::{
    clock,
    engine::{DrainRequest, Leader, LeaseId, NodeId, Revision},
    store::{Compare, CompareOp, KeyRange, Op, Store, Target, Txn, TxnAnswer, values},
};

/// TTL of the lease that a request to resign is attached to: the request expires even if it is not withdrawn.
const REQUEST_TTL: Duration = Duration::from_secs(10);

/// Asks the leader to end its term; another node takes office
#[derive(Args, Debug)]
#[command(after_long_help = "\
The leader ends its work, then hands over; nobody is without a leader for longer than two writes. A \
cluster of one node gets the same leader again. With --url the node is asked through its status server, \
which works for `bellwether demo` too: bellwether resign --url http://127.0.0.1:8080")]
pub(crate) struct ResignArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// How long to wait for the successor
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_WAIT",
        default_value = "10s",
        value_parser = args::duration
    )]
    wait: Duration,
}

/// Asks that a node get no shards and no office, and waits until it has none
#[derive(Args, Debug)]
#[command(after_long_help = "\
The request stays until `bellwether undrain ID`, also for later lives of that id.")]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// How long to wait until it holds nothing
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_WAIT",
        default_value = "1m",
        value_parser = args::duration
    )]
    wait: Duration,

    /// Reason, which the status shows
    #[arg(long, value_name = "TEXT", env = "BELLWETHER_WHY", default_value = "")]
    why: String,

    /// Also if no such node is live
    #[arg(long, env = "BELLWETHER_ABSENT")]
    absent: bool,

    /// Id of the node
    #[arg(value_name = "ID", value_parser = node_id, allow_negative_numbers = true)]
    id: NodeId,
}

/// Takes a drain request back
#[derive(Args, Debug)]
pub(crate) struct UndrainArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// Id of the node
    #[arg(value_name = "ID", value_parser = node_id, allow_negative_numbers = true)]
    id: NodeId,
}

/// `resign`
///
/// # Errors
///
/// A [`Failure`] if there is no leader, the leader cannot be asked, or no node succeeds it in time.
pub(crate) async fn resign(args: ResignArgs) -> Result<(), Failure> {
    let cluster = &args.read.cluster;
    if args.read.from == Origin::Election {
        return Err(Failure::new(
            Exit::Usage,
            "--from election: an Election can only be looked at",
        )
        .try_this("ask the store, or the leader's status server with --url"));
    }
    if let Some(url) = &args.read.url {
        let done = NodeClient::new(url, cluster.timeout.max(args.wait))?.act("resign").await?;
        return told(args.read.output, &done, &serde_json::json!({ "done": done }));
    }
    let store = connect::store(cluster)?;
    let mut live = open(&store, cluster).await?;
    let leader = live
        .view
        .leader()
        .ok_or_else(|| Failure::new(Exit::NotThere, "no node leads now: there is nobody to ask"))?;
    if leader.d.is_none() {
        let what = format!(
            "the leader, node {}, is of the Go package: it knows no request to resign",
            leader.id
        );
        return Err(Failure::new(Exit::Refused, what)
            .try_this("stop its process; the next in the queue then takes office"));
    }
    let request = Request::write(&*store, cluster, leader).await?;
    let since = clock::boot_now();
    let successor = tokio::time::timeout(args.wait, succeeds(&mut live, leader)).await;
    request.withdraw(&*store, cluster.timeout).await;
    let Ok(successor) = successor else {
        let what = format!(
            "node {} did not hand over within {}: it is still term {}, or nobody took office",
            leader.id,
            span(ms(args.wait)),
            leader.term
        );
        return Err(Failure::new(Exit::Refused, what).try_this(
            "look at `bellwether status --watch`; a leader whose work does not end keeps office \
             until it does",
        ));
    };
    let took = ms(clock::boot_now().since(since));
    told(
        args.read.output,
        &format!(
            "node {} resigned term {}; node {} leads in term {} after {}",
            leader.id,
            leader.term,
            successor.id,
            successor.term,
            span(took)
        ),
        &serde_json::json!({
            "resigned": { "id": leader.id.to_string(), "term": leader.term.to_string() },
            "leader": { "id": successor.id.to_string(), "term": successor.term.to_string() },
            "took_ms": took,
        }),
    )
}

/// Waits for a leader of a later term.
async fn succeeds(live: &mut Live, leader: Leader) -> Leader {
    loop {
        if let Some(next) = live.view.leader().filter(|it| leader.term < it.term) {
            return next;
        }
        live.moved().await;
    }
}

/// A request to resign, on a lease of its own.
struct Request {
    lease: LeaseId,
}

impl Request {
    async fn write(
        store: &dyn Store,
        cluster: &ClusterArgs,
        leader: Leader,
    ) -> Result<Self, Failure> {
        let keys = &cluster.cluster;
        let lease = LeaseId(rand::random_range(1..=i64::MAX));
        store.grant(lease, REQUEST_TTL, cluster.timeout).await.map_err(|error| {
            Failure::of_store(cluster.kind(), "granting a lease for the request", &error)
        })?;
        let request = Self { lease };
        let txn = Txn {
            // Writes the request only while this term lasts.
            compares: vec![compare(keys.candidate(leader.lease), Revision(leader.term.0))],
            then: vec![Op::Put {
                key: keys.resign_request(),
                value: values::encode_term(leader.term),
                lease: Some(lease),
            }],
            otherwise: Vec::new(),
        };
        match send(store, cluster, txn, "asking the leader to resign").await {
            Ok(_) => Ok(request),
            Err(failure) => {
                request.withdraw(store, cluster.timeout).await;
                Err(failure)
            }
        }
    }

    /// Revokes the lease, best effort: the request expires in any case.
    async fn withdraw(self, store: &dyn Store, timeout: Duration) {
        if let Err(error) = store.revoke(self.lease, timeout).await {
            tracing::debug!(%error, "the request is left to run out");
        }
    }
}

/// `drain`
///
/// # Errors
///
/// A [`Failure`] if the node is not live, the store does not answer, or the node does not release its shards
/// and office in time.
pub(crate) async fn drain(args: DrainArgs) -> Result<(), Failure> {
    let store = connect::store(&args.cluster)?;
    let mut live = open(&store, &args.cluster).await?;
    let present = live.view.nodes().contains_key(&args.id);
    if !present && !args.absent {
        return Err(Failure::new(Exit::NotThere, format!("node {} is not live", args.id))
            .try_this(
                "`bellwether nodes` lists those that are; --absent drains an id before it comes",
            ));
    }
    if present && !live.view.members().contains_key(&args.id) {
        let what = format!("node {} is of the Go package: it cannot be drained", args.id);
        return Err(Failure::new(Exit::Refused, what).try_this("stop its process instead"));
    }
    let request = DrainRequest { since_unix_ms: clock::unix_ms(), why: args.why.clone() };
    let put = Op::Put {
        key: args.cluster.cluster.drain_request(args.id),
        value: values::encode_drain_request(&request),
        lease: None,
    };
    let txn = Txn { then: vec![put], ..Txn::default() };
    send(&*store, &args.cluster, txn, "asking the node to drain").await?;
    if !present {
        return output::print(&format!("node {} will get no shards and no office\n", args.id));
    }
    let empty = tokio::time::timeout(args.wait, holds_nothing(&mut live, args.id)).await;
    if empty.is_err() {
        let lease = live.view.nodes().get(&args.id).and_then(|it| it.lease);
        let held = lease.map_or(0, |it| live.view.shards_held(it));
        let leads = live.view.leader().is_some_and(|it| it.id == args.id);
        let what = format!(
            "node {} still holds {held} shards{} after {}; the request stays",
            args.id,
            if leads { " and leads" } else { "" },
            span(ms(args.wait))
        );
        return Err(Failure::new(Exit::Refused, what).try_this(
            "`bellwether shards` shows them; a node that is alone has nobody to give them to",
        ));
    }
    output::print(&format!("node {} holds no shards and no office\n", args.id))
}

async fn holds_nothing(live: &mut Live, id: NodeId) {
    loop {
        let lease = live.view.nodes().get(&id).and_then(|it| it.lease);
        let leads = live.view.leader().is_some_and(|it| it.id == id);
        if !leads && lease.is_none_or(|it| live.view.shards_held(it) == 0) {
            return;
        }
        live.moved().await;
    }
}

/// `undrain`
///
/// # Errors
///
/// A [`Failure`] if the node has no drain request, or the store does not answer.
pub(crate) async fn undrain(args: UndrainArgs) -> Result<(), Failure> {
    let store = connect::store(&args.cluster)?;
    let key = args.cluster.cluster.drain_request(args.id);
    let txn = Txn { then: vec![Op::Delete(KeyRange::key(key))], ..Txn::default() };
    let answer = send(&*store, &args.cluster, txn, "taking the request back").await?;
    if answer.deleted.first() == Some(&0) {
        return Err(Failure::new(Exit::NotThere, format!("node {} was not drained", args.id)));
    }
    output::print(&format!("node {} may get shards and office again\n", args.id))
}

async fn open(store: &Arc<dyn Store>, cluster: &ClusterArgs) -> Result<Live, Failure> {
    Live::open(Arc::clone(store), cluster.cluster.clone(), cluster.timeout)
        .await
        .map_err(|error| Failure::of_store(cluster.kind(), "reading the cluster", &error))
}

async fn send(
    store: &dyn Store,
    cluster: &ClusterArgs,
    txn: Txn,
    doing: &str,
) -> Result<TxnAnswer, Failure> {
    let answer = store
        .txn(txn, cluster.timeout)
        .await
        .map_err(|error| Failure::of_write(cluster.kind(), doing, &error))?;
    if answer.succeeded {
        return Ok(answer);
    }
    Err(Failure::new(Exit::Refused, format!("{doing}: its term ended at the same moment")))
}

fn compare(key: Vec<u8>, created: Revision) -> Compare {
    Compare { range: KeyRange::key(key), target: Target::Created(created), op: CompareOp::Equal }
}

fn told(format: Format, words: &str, json: &serde_json::Value) -> Result<(), Failure> {
    match format {
        Format::Table => output::print(&format!("{words}\n")),
        Format::Json => output::print_json(json, Layout::Pretty),
    }
}
