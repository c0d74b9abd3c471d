//! The least work that etcd's plain client needs for the measured operation.

use std::time::Duration;

use bellwether::{clock::boot_now, tasks::Tasks};
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, WatchOptions, WatchStream};

use crate::support::etcd::Etcd;

/// A handover between two clients over etcd only: one client commits, and the other sees the commit in its
/// watch and commits in turn. No implementation that needs both commits in the store can be faster.
pub struct Handover {
    giver: Client,
    taker: Client,
    heard: WatchStream,
    given: Txn,
    taken: Txn,
    /// Whether the watch also shows the second commit.
    echoes: bool,
    others: Tasks,
}

const GIVEN: &str = "plain/given";
const TAKEN: &str = "plain/taken";

impl Handover {
    /// A handover with one key per client and no other watchers.
    pub async fn new(etcd: &Etcd) -> Self {
        Self::of(etcd, GIVEN, guarded_put(GIVEN), guarded_put(TAKEN)).await
    }

    /// A handover with the load of a cluster of `nodes` nodes: each node watches, and the transactions are as
    /// large as STOP and TAKE.
    pub async fn of_a_cluster(etcd: &Etcd, nodes: usize) -> Self {
        let lease = etcd.client().await.lease_grant(3600, None).await.unwrap().id();
        let on_lease = Some(PutOptions::new().with_lease(lease));
        let put = |key, options| TxnOp::put(key, vec![b'x'; 120], options);
        let (held, record, cand) = ("cluster/held", "cluster/record", "cluster/cand");
        let stop = guarded().and_then([
            put(held, on_lease.clone()),
            put(record, None),
            TxnOp::delete(cand, None),
        ]);
        let take = guarded().and_then([put(cand, on_lease), put(record, None)]);
        let mut handover = Self::of(etcd, "cluster/", stop, take).await;
        handover.echoes = true;
        for _ in 1..nodes {
            let mut client = etcd.client().await;
            let prefix = WatchOptions::new().with_prefix();
            let mut watch = client.watch("cluster/", Some(prefix)).await.unwrap();
            watch.message().await.unwrap();
            handover.others.spawn("plain watcher", async move {
                while let Ok(Some(_)) = watch.message().await {}
            });
        }
        handover
    }

    async fn of(etcd: &Etcd, watched: &str, given: Txn, taken: Txn) -> Self {
        let (giver, mut taker) = (etcd.client().await, etcd.client().await);
        let prefix = WatchOptions::new().with_prefix();
        let mut heard = taker.watch(watched, Some(prefix)).await.unwrap();
        heard.message().await.unwrap();
        Self { giver, taker, heard, given, taken, echoes: false, others: Tasks::new() }
    }

    /// Time from sending the first commit to the answer of the second.
    pub async fn once(&mut self) -> Duration {
        let (heard, taken) = self.stages().await;
        heard + taken
    }

    /// Time from sending the first commit to the event, and from the event to the answer of the second commit.
    pub async fn stages(&mut self) -> (Duration, Duration) {
        let began = boot_now();
        let (given, (heard, taken)) = tokio::join!(self.giver.txn(self.given.clone()), async {
            self.heard.message().await.unwrap();
            let heard = boot_now();
            self.taker.txn(self.taken.clone()).await.unwrap();
            (heard, boot_now())
        });
        given.unwrap();
        if self.echoes {
            self.heard.message().await.unwrap();
        }
        (heard.since(began), taken.since(heard))
    }
}

/// A conditional put, as every write of an election must be.
pub fn guarded_put(key: &str) -> Txn {
    guarded().and_then([TxnOp::put(key, vec![b'x'; 100], None)])
}

fn guarded() -> Txn {
    Txn::new().when([Compare::mod_revision("plain/fence", CompareOp::Equal, 0)])
}
