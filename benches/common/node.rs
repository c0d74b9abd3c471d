//! A node in a process of its own, which a bench ends or kills. The process reports its state on standard
//! output.
//!
//! SIGTERM stops the node. The process ends when its standard input closes, so that no node outlives the bench.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::{
    io::Read as _,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bellwether::{
    clock::boot_now,
    engine::{BootTime, Failover, Role, StoreTiming, Term},
    k8s::{client::ClientOptions, store::KubernetesConfig},
    node::{ClusterNode, ClusterNodeBuilder, LeaderContext, Node, Stopped},
    store::etcd::EtcdConfig,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::common::{CLUSTER, LONG};

/// First argument of a process that runs a node.
pub(crate) const COMMAND: &str = "node";

/// Store of the cluster, and the failover profile.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Etcd { endpoint: String, failover: Failover },
    Kubernetes { kubeconfig: PathBuf, profile: Profile },
}

/// Failover profile on the Kubernetes API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Default,
    Fast,
    Calm,
}

impl Profile {
    const ALL: [Self; 3] = [Self::Default, Self::Fast, Self::Calm];

    /// Name of the profile, as the command line has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Fast => "fast",
            Self::Calm => "calm",
        }
    }

    /// D of the profile.
    pub(crate) const fn d(self) -> Duration {
        self.timing().failover.d()
    }

    /// H of the profile.
    pub(crate) const fn h(self) -> Duration {
        self.timing().failover.h()
    }

    const fn timing(self) -> StoreTiming {
        match self {
            Self::Default => StoreTiming::KUBERNETES,
            Self::Fast => StoreTiming::KUBERNETES_FAST,
            Self::Calm => StoreTiming::KUBERNETES_CALM,
        }
    }
}

impl Place {
    /// Flags of `bellwether supervise` for this store.
    pub(crate) fn flags(&self) -> Vec<String> {
        match self {
            Self::Etcd { endpoint, .. } => vec!["--etcd".into(), endpoint.clone()],
            Self::Kubernetes { kubeconfig, .. } => {
                let kubeconfig = kubeconfig.display().to_string();
                ["--store", "kubernetes", "--kubeconfig", &kubeconfig].map(str::to_owned).into()
            }
        }
    }

    /// Arguments of the process that runs a node with this id.
    pub(crate) fn args(&self, id: usize) -> Vec<String> {
        let rest: Vec<String> = match self {
            Self::Etcd { endpoint, failover } => {
                let millis = |span: Duration| span.as_millis().to_string();
                ["etcd".into(), endpoint.clone(), millis(failover.d()), millis(failover.h())].into()
            }
            Self::Kubernetes { kubeconfig, profile } => {
                let kubeconfig = kubeconfig.display().to_string();
                vec!["kubernetes".to_owned(), kubeconfig, profile.name().to_owned()]
            }
        };
        [COMMAND.to_owned(), id.to_string()].into_iter().chain(rest).collect()
    }

    /// Reads what [`args`](Self::args) has written behind the id.
    fn of(args: &[String]) -> Self {
        let millis = |text: &String| Duration::from_millis(text.parse().unwrap());
        match args {
            [kind, endpoint, d, h] if kind == "etcd" => {
                let failover = Failover::new(millis(d), millis(h)).unwrap();
                Self::Etcd { endpoint: endpoint.clone(), failover }
            }
            [kind, file, name] if kind == "kubernetes" => {
                let profile = Profile::ALL.into_iter().find(|it| it.name() == name).unwrap();
                Self::Kubernetes { kubeconfig: PathBuf::from(file), profile }
            }
            _ => panic!("not the arguments of a node: {args:?}"),
        }
    }

    fn keep(self, node: ClusterNodeBuilder) -> ClusterNodeBuilder {
        match self {
            Self::Etcd { endpoint, failover } => {
                node.etcd(EtcdConfig::new([endpoint])).failover(failover)
            }
            Self::Kubernetes { kubeconfig, profile } => {
                let client = ClientOptions::default().kubeconfig(kubeconfig);
                let config = KubernetesConfig::new().client(client);
                node.kubernetes(match profile {
                    Profile::Default => config,
                    Profile::Fast => config.fast(),
                    Profile::Calm => config.calm(),
                })
            }
        }
    }
}

/// A line that the process writes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Process id of the node.
    Pid(i32),
    /// The node is a follower.
    Follows,
    /// The first tick of a term.
    FirstTick(Term, BootTime),
    /// The node leads no more; the time of its last tick.
    Stopped(BootTime),
}

impl FromStr for Line {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse().map_err(|_| line.to_owned());
        let time = |word: &str| {
            number(word).map(|nanos: i64| BootTime(Duration::from_nanos(nanos as u64)))
        };
        Ok(match words[..] {
            ["pid", pid] => Self::Pid(number(pid)? as i32),
            ["follows"] => Self::Follows,
            ["tick", term, at] => Self::FirstTick(Term(number(term)?), time(at)?),
            ["stopped", at] => Self::Stopped(time(at)?),
            _ => return Err(line.to_owned()),
        })
    }
}

/// Runs a node with the arguments `node ID STORE…`, see [`Place::args`].
pub(crate) async fn run() {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let last_tick = Arc::new(AtomicU64::new(0));
    let node = ClusterNode::builder()
        .cluster(CLUSTER)
        .id(args[0].parse().unwrap())
        .on_leader_tick(say_first_tick(Arc::clone(&last_tick)));
    let node = Place::of(&args[1..]).keep(node).build().unwrap();
    println!("pid {}", std::process::id());
    let mut membership = node.membership();
    node.start().await.unwrap();
    let (mut ended, mut told) = (end_of_input(), signal(SignalKind::terminate()).unwrap());
    let mut role = Role::Unknown;
    loop {
        let now = membership.borrow_and_update().role;
        if role == Role::Leader && role != now {
            println!("stopped {}", last_tick.load(Ordering::SeqCst));
        }
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

fn say_first_tick(last_tick: Arc<AtomicU64>) -> impl bellwether::node::work::LeaderRoutine {
    let last_term = AtomicI64::new(-1);
    move |ctx: LeaderContext| {
        let (at, term) = (boot_now(), ctx.term().0);
        last_tick.store(at.0.as_nanos() as u64, Ordering::SeqCst);
        if last_term.swap(term, Ordering::Relaxed) != term {
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
