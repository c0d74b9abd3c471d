//! The least that etcd's plain client needs for what is measured.

use std::time::Duration;

use bellwether::clock::boot_now;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, WatchStream};

use crate::support::etcd::Etcd;

/// Two clients that hand something over with nothing between them but etcd: one commits, the other
/// hears of it by its watch and commits in turn. Nobody can be faster who needs both in the store.
pub struct Handover {
    giver: Client,
    taker: Client,
    heard: WatchStream,
}

const GIVEN: &str = "plain/given";
const TAKEN: &str = "plain/taken";

impl Handover {
    pub async fn new(etcd: &Etcd) -> Self {
        let (giver, mut taker) = (etcd.client().await, etcd.client().await);
        let mut heard = taker.watch(GIVEN, None).await.unwrap();
        heard.message().await.unwrap();
        Self { giver, taker, heard }
    }

    /// From sending the first commit to the answer of the second.
    pub async fn once(&mut self) -> Duration {
        let began = boot_now();
        let (given, taken) = tokio::join!(self.giver.txn(guarded_put(GIVEN)), async {
            self.heard.message().await.unwrap();
            self.taker.txn(guarded_put(TAKEN)).await.unwrap();
            boot_now()
        });
        given.unwrap();
        taken.since(began)
    }
}

/// A put that is made conditional, as every write of an election must be.
pub fn guarded_put(key: &str) -> Txn {
    Txn::new()
        .when([Compare::mod_revision("plain/fence", CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key, vec![b'x'; 100], None)])
}
