//! Three candidates for one office, each in a process of its own; a bench ends, kills or freezes the one that
//! leads.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Term},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    common::{CLUSTER, LONG},
    node::{Line, Place},
    support::tools,
};

/// Number of candidates of an office.
pub(crate) const NODES: usize = 3;

/// Kind of process that is a candidate.
#[derive(Clone, Debug)]
pub(crate) enum Candidate {
    /// A node below `bellwether supervise`.
    Supervised(Place),
    /// A node without a parent that proves its death.
    Alone(Place),
    /// A candidate of client-go or controller-runtime, with the durations that these have by default.
    Neighbour { kind: &'static str, kubeconfig: PathBuf, namespace: String },
}

impl Candidate {
    fn command(&self, id: usize) -> Command {
        let this = std::env::current_exe().unwrap();
        match self {
            Self::Supervised(place) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bellwether"));
                command.args(["supervise", "--log", "error", "--cluster", CLUSTER]);
                command.args(place.flags()).arg("--").arg(this).args(place.args(id));
                command
            }
            Self::Alone(place) => {
                let mut command = Command::new(this);
                command.args(place.args(id));
                command
            }
            Self::Neighbour { kind, kubeconfig, namespace } => {
                let mut command = Command::new(tools::program("neighbour", "neighbour"));
                command.args(["--kind", kind, "--lease", CLUSTER, "--namespace", namespace]);
                command.args(["--identity", &format!("neighbour-{id}"), "--kubeconfig"]);
                command.arg(kubeconfig).stderr(Stdio::null());
                command
            }
        }
    }

    const fn is_ours(&self) -> bool {
        !matches!(self, Self::Neighbour { .. })
    }
}

/// A line from a process, with the number of the process.
type Said = (usize, Line);

/// A candidate. Below a supervisor the node is another process than the child.
pub(crate) struct Process {
    child: Child,
    node: Option<Pid>,
}

impl Process {
    fn child(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Asks the candidate to leave (SIGTERM).
    pub(crate) fn terminate(&self) {
        kill_process(self.child(), Signal::TERM).unwrap();
    }

    /// Kills the node without warning; its supervisor lives on, if it has one.
    pub(crate) fn kill(&self) {
        kill_process(self.node.unwrap_or(self.child()), Signal::KILL).unwrap();
    }

    fn signal(&self, signal: Signal) {
        for pid in self.node.into_iter().chain([self.child()]) {
            kill_process(pid, signal).unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A node ends when the standard input closes that it shares with its supervisor; a neighbour does not.
        drop(self.child.stdin.take());
        for pid in self.node.into_iter().chain([self.child()]) {
            let _ = kill_process(pid, Signal::CONT);
        }
        if self.node.is_none() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Result of freezing a leader and continuing it later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frozen {
    /// From SIGSTOP to the first tick of the next leader.
    pub(crate) silent: Duration,
    /// From SIGCONT to the last moment at which the former leader still led.
    pub(crate) both: Duration,
}

/// Three processes and the channel of their lines.
pub(crate) struct Cluster {
    candidate: Candidate,
    processes: BTreeMap<usize, Process>,
    /// Number of processes so far: each has an id that no other had.
    started: usize,
    leader: usize,
    sender: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
}

impl Cluster {
    /// Starts the processes; returns when one leads and the others follow.
    pub(crate) async fn start(candidate: Candidate) -> Self {
        // The nodes write a few lines per handoff, and the reader is never far behind.
        let (sender, said) = mpsc::channel(64);
        let (processes, started, leader) = Default::default();
        let mut cluster = Self { candidate, processes, started, leader, sender, said };
        for _ in 0..NODES {
            cluster.spawn();
        }
        let (mut leader, mut others) = (None, BTreeSet::new());
        // A neighbour does not report that it follows.
        while leader.is_none() || (cluster.candidate.is_ours() && others.len() < NODES - 1) {
            match cluster.next().await {
                (id, Line::FirstTick(..)) => leader = Some(id),
                (id, Line::Follows) => drop(others.insert(id)),
                (_, Line::Pid(_) | Line::Stopped(_)) => (),
            }
            others.retain(|id| Some(*id) != leader);
        }
        cluster.leader = leader.unwrap();
        cluster
    }

    /// Calls `end` on the leader and starts another process in its place. Returns the time from the call to
    /// the first tick of the next leader.
    pub(crate) async fn ended_by(&mut self, end: impl FnOnce(&Process)) -> Duration {
        let ended_at = boot_now();
        end(&self.processes[&self.leader]);
        let (next, at) = self.first_tick().await;
        self.replace(self.leader).await;
        self.leader = next;
        at.since(ended_at)
    }

    /// Freezes the leader (SIGSTOP) until another one leads, and for `at_least` that long. Returns when the former leader
    /// has noticed that it leads no more.
    pub(crate) async fn freeze(&mut self, at_least: Duration) -> Frozen {
        let (frozen, stopped_at) = (self.leader, boot_now());
        self.processes[&frozen].signal(Signal::STOP);
        let (next, at) = self.first_tick().await;
        tokio::time::sleep((stopped_at + at_least).since(boot_now())).await;
        let thawed_at = boot_now();
        self.processes[&frozen].signal(Signal::CONT);
        let last = loop {
            match self.next().await {
                (id, Line::Stopped(last)) if id == frozen => break last,
                (id, Line::FirstTick(term, _)) => panic!("{id} leads in {term:?}, unexpectedly"),
                _ => (),
            }
        };
        if self.candidate.is_ours() {
            self.follows(frozen).await;
        } else {
            // Both kinds of neighbours end when they have lost the Lease.
            self.replace(frozen).await;
        }
        self.leader = next;
        Frozen { silent: at.since(stopped_at), both: last.since(thawed_at) }
    }

    /// Starts another process in the place of one that has ended, or is about to end.
    async fn replace(&mut self, id: usize) {
        self.processes.remove(&id);
        let id = self.spawn();
        if self.candidate.is_ours() {
            self.follows(id).await;
        }
    }

    fn spawn(&mut self) -> usize {
        let id = self.started;
        self.started += 1;
        let mut command = self.candidate.command(id);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let sender = self.sender.clone();
        if self.candidate.is_ours() {
            thread::spawn(move || read(id, output, &sender));
        } else {
            thread::spawn(move || read_neighbour(id, output, &sender));
        }
        self.processes.insert(id, Process { child, node: None });
        id
    }

    async fn next(&mut self) -> Said {
        let said = timeout(LONG, self.said.recv()).await.expect("a line in time").unwrap();
        if let (id, Line::Pid(pid)) = said {
            self.processes.get_mut(&id).unwrap().node = Pid::from_raw(pid);
        }
        said
    }

    /// Waits for the first tick of a leader other than the present one.
    async fn first_tick(&mut self) -> (usize, BootTime) {
        loop {
            if let (id, Line::FirstTick(_, at)) = self.next().await {
                assert_ne!(id, self.leader, "it leads again");
                return (id, at);
            }
        }
    }

    /// Waits until a node is a follower.
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

fn read(id: usize, output: ChildStdout, sender: &mpsc::Sender<Said>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let line = line.parse().expect("a line of a node");
        if sender.blocking_send((id, line)).is_err() {
            return;
        }
    }
}

/// Reads the lines of a neighbour, which names no times: those of the reader count.
fn read_neighbour(id: usize, output: ChildStdout, sender: &mpsc::Sender<Said>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let line = match &*line {
            "leading" => Line::FirstTick(Term(0), boot_now()),
            "stopped" => Line::Stopped(boot_now()),
            other => panic!("not a line of a neighbour: {other}"),
        };
        if sender.blocking_send((id, line)).is_err() {
            return;
        }
    }
    // A manager of controller-runtime that has lost the Lease ends without a word.
    let _ = sender.blocking_send((id, Line::Stopped(boot_now())));
}
