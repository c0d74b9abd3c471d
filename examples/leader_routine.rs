//! A routine that only the leader runs, and a write that only the leader can make.
//!
//! ```sh
//! cargo run --example leader_routine                       # alone, nothing installed
//! cargo run --example leader_routine -- 1 http://127.0.0.1:2379   # node 1 of a cluster in etcd
//! ```
//!
//! Start the example two or three times with other ids, then stop the leader with Ctrl-C: the next leader
//! continues the count from the stored value.

use std::{error::Error, time::Duration};

use bellwether::{
    node::{ClusterNode, LeaderContext, Node, work::WorkError},
    store::etcd::EtcdConfig,
};

/// Tick of the routine: counts the passes of all leaders so far, in the store.
async fn count(ctx: LeaderContext) -> Result<(), WorkError> {
    let fenced = ctx.fenced();
    let before = fenced.get("passes").await?;
    let passes: u64 = match before {
        Some(found) => std::str::from_utf8(&found.value)?.parse()?,
        None => 0,
    };
    // The store rejects the write if this term is over when the write arrives.
    fenced.put("passes", (passes + 1).to_string()).await?;
    println!("term {}: pass {}", ctx.term(), passes + 1);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let id = args.next().map_or(Ok(1), |id| id.parse())?;
    let tick = Duration::from_secs(1);
    // The same program runs on etcd or alone.
    let node = match args.next() {
        Some(endpoint) => {
            let node = ClusterNode::builder().cluster("example").etcd(EtcdConfig::new([endpoint]));
            node.address(format!("node-{id}"))
        }
        None => ClusterNode::standalone(),
    };
    let node = node.id(id).tick(tick).on_leader_tick(count).build()?;
    node.start().await?;
    tokio::signal::ctrl_c().await?;
    // Joins the routine, hands the office over, revokes the lease.
    node.stop(Duration::from_secs(5)).await?;
    node.close().await?;
    Ok(())
}
