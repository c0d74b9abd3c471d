//! A node in a process of its own, which the bench ends or kills. The process reports its state on standard
//! output.
//!
//! SIGTERM stops the node. The process ends when its standard input closes, so that no node outlives the bench.

use std::{
    io::Read as _,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Failover, Role, Term},
    node::{ClusterNode, LeaderContext, Node, Stopped},
    store::etcd::EtcdConfig,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::common::{CLUSTER, LONG};

/// First argument of a process that runs a node.
pub(crate) const COMMAND: &str = "node";

/// A line that the process writes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Process id of the node.
    Pid(i32),
    /// The node is a follower.
    Follows,
    /// The first tick of a term.
    FirstTick(Term, BootTime),
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse().map_err(|_| line.to_owned());
        Ok(match words[..] {
            ["pid", pid] => Self::Pid(number(pid)? as i32),
            ["follows"] => Self::Follows,
            ["tick", term, at] => {
                let at = BootTime(Duration::from_nanos(number(at)? as u64));
                Self::FirstTick(Term(number(term)?), at)
            }
            _ => return Err(line.to_owned()),
        })
    }
}

/// Runs a node with the arguments `node ID ENDPOINT D-MS H-MS`.
pub(crate) async fn run() {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let millis = |at: usize| Duration::from_millis(args[at].parse().unwrap());
    let node = ClusterNode::builder()
        .cluster(CLUSTER)
        .id(args[0].parse().unwrap())
        .etcd(EtcdConfig::new([args[1].as_str()]))
        .failover(Failover::new(millis(2), millis(3)).unwrap())
        .on_leader_tick(say_first_tick())
        .build()
        .unwrap();
    println!("pid {}", std::process::id());
    let mut membership = node.membership();
    node.start().await.unwrap();
    let (mut ended, mut told) = (end_of_input(), signal(SignalKind::terminate()).unwrap());
    let mut role = Role::Unknown;
    loop {
        let now = membership.borrow_and_update().role;
        if now == Role::Follower && role != now {
            println!("follows");
        }
        role = now;
        tokio::select! {
            biased;
            // All branches are cancel safe, since they only wait.
            _ = &mut ended => return,
            _ = told.recv() => {
                assert_eq!(node.stop(LONG).await.unwrap(), Stopped::Clean);
                return;
            }
            changed = membership.changed() => changed.unwrap(),
        }
    }
}

fn say_first_tick() -> impl bellwether::node::work::LeaderRoutine {
    let last = Arc::new(AtomicI64::new(-1));
    move |ctx: LeaderContext| {
        let (at, term) = (boot_now(), ctx.term().0);
        if last.swap(term, Ordering::Relaxed) != term {
            println!("tick {term} {}", at.0.as_nanos());
        }
        async { Ok(()) }
    }
}

fn end_of_input() -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    ended
}
