//! Three nodes as processes, each under `bellwether supervise`; the leader is terminated, killed, or frozen.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Failover, Term},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    common::{self, CLUSTER, LONG, Samples, plain::Handover},
    node::{COMMAND, Line},
    support::etcd::{Etcd, Medium},
};

const NODES: usize = 3;

/// A line from a node, with the index of the node.
type Said = (usize, Line);

/// A supervisor and the node below it.
struct Process {
    supervisor: Child,
    node: Option<Pid>,
}

impl Process {
    fn supervisor(&self) -> Pid {
        Pid::from_child(&self.supervisor)
    }

    fn signal(&self, signal: Signal) {
        for pid in [self.node.unwrap(), self.supervisor()] {
            kill_process(pid, signal).unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The node ends when the standard input closes that it shares with its supervisor.
        drop(self.supervisor.stdin.take());
        for pid in self.node.into_iter().chain([self.supervisor()]) {
            let _ = kill_process(pid, Signal::CONT);
        }
        let _ = self.supervisor.wait();
    }
}

/// Three processes and the channel of their lines.
struct Cluster<'a> {
    etcd: &'a Etcd,
    failover: Failover,
    processes: Vec<Process>,
    sender: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
}

impl<'a> Cluster<'a> {
    async fn start(etcd: &'a Etcd, failover: Failover) -> (Self, usize) {
        // The nodes write a few lines per handoff, and the reader is never far behind.
        let (sender, said) = mpsc::channel(64);
        let mut cluster = Self { etcd, failover, processes: Vec::new(), sender, said };
        for id in 0..NODES {
            let process = cluster.spawn(id);
            cluster.processes.push(process);
        }
        let (mut leader, mut others) = (None, BTreeSet::new());
        while leader.is_none() || others.len() < NODES - 1 {
            match cluster.next().await {
                (id, Line::FirstTick(..)) => leader = Some(id),
                (id, Line::Follows) => drop(others.insert(id)),
                (_, Line::Pid(_)) => (),
            }
            others.retain(|id| Some(*id) != leader);
        }
        (cluster, leader.unwrap())
    }

    fn spawn(&self, id: usize) -> Process {
        let millis = |span: Duration| span.as_millis().to_string();
        let mut supervisor = Command::new(env!("CARGO_BIN_EXE_bellwether"))
            .args(["supervise", "--log", "error", "--cluster", CLUSTER])
            .args(["--etcd", &self.etcd.endpoint(0), "--"])
            .arg(std::env::current_exe().unwrap())
            .args([COMMAND, &id.to_string(), &self.etcd.endpoint(0)])
            .args([millis(self.failover.d()), millis(self.failover.h())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        read(id, supervisor.stdout.take().unwrap(), self.sender.clone());
        Process { supervisor, node: None }
    }

    async fn next(&mut self) -> Said {
        let said = timeout(LONG, self.said.recv()).await.expect("a line in time").unwrap();
        if let (id, Line::Pid(pid)) = said {
            self.processes[id].node = Pid::from_raw(pid);
        }
        said
    }

    /// Waits for the first tick of the next term.
    async fn first_tick(&mut self) -> (usize, Term, BootTime) {
        loop {
            if let (id, Line::FirstTick(term, at)) = self.next().await {
                return (id, term, at);
            }
        }
    }

    /// Waits until `node` is a follower.
    async fn follows(&mut self, node: usize) {
        loop {
            match self.next().await {
                (id, Line::Follows) if id == node => return,
                (_, Line::FirstTick(term, _)) => {
                    panic!("nobody has ended the leader before {term:?}")
                }
                _ => (),
            }
        }
    }
}

fn read(id: usize, output: ChildStdout, sender: mpsc::Sender<Said>) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let line = line.parse().expect("a line of a node");
            if sender.blocking_send((id, line)).is_err() {
                return;
            }
        }
    });
}

/// Time from SIGTERM to the leader's supervisor to its successor's first tick, and the plain client's handover.
pub(crate) async fn ends(medium: Medium, rounds: usize) -> (Samples, Samples) {
    let end = |leader: &Process| kill_process(leader.supervisor(), Signal::TERM).unwrap();
    ended_by(end, medium, Failover::DEFAULT, rounds).await
}

/// Time from `kill -9` of the leader's process to its successor's first tick, and the plain client's handover.
pub(crate) async fn crashes(rounds: usize) -> (Samples, Samples) {
    let kill = |leader: &Process| kill_process(leader.node.unwrap(), Signal::KILL).unwrap();
    ended_by(kill, Medium::Memory, Failover::STABLE, rounds).await
}

async fn ended_by(
    end: impl Fn(&Process),
    medium: Medium,
    failover: Failover,
    rounds: usize,
) -> (Samples, Samples) {
    let etcd = common::etcd_with_cluster(medium).await;
    let (mut cluster, mut leader) = Cluster::start(&etcd, failover).await;
    let mut plain = Handover::new(&etcd).await;
    let mut samples = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        common::pause_up_to(Duration::from_millis(200)).await;
        let ended_at = boot_now();
        end(&cluster.processes[leader]);
        let (next, _, at) = cluster.first_tick().await;
        samples.0.push(at.since(ended_at));
        assert_ne!(next, leader);
        cluster.processes[leader] = cluster.spawn(leader);
        cluster.follows(leader).await;
        leader = next;
        samples.1.push(plain.once().await);
    }
    samples
}

/// Time from SIGSTOP of the leader and its supervisor to its successor's first tick.
pub(crate) async fn silences(profile: &str, failover: Failover, rounds: usize) -> Samples {
    let etcd = common::etcd_with_cluster(Medium::Memory).await;
    let (mut cluster, mut leader) = Cluster::start(&etcd, failover).await;
    let mut samples = Samples::default();
    for _ in 0..rounds {
        common::pause_up_to(failover.h() * 2).await;
        let stopped_at = boot_now();
        cluster.processes[leader].signal(Signal::STOP);
        let (next, _, at) = cluster.first_tick().await;
        samples.push(at.since(stopped_at));
        assert_ne!(next, leader, "{profile}");
        cluster.processes[leader].signal(Signal::CONT);
        cluster.follows(leader).await;
        leader = next;
    }
    samples
}
