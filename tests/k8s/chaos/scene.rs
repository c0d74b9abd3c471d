//! The disturbed cluster: three pods' processes, each behind proxies of its own.

use std::{fs, process::Command, time::Duration};

use bellwether::{
    clock,
    engine::BootTime,
    k8s::{
        crd::Election,
        election::ROLE_LABEL,
        k8s_openapi::api::core::v1::Pod,
        kube::{
            Api, Client, ResourceExt,
            api::{ListParams, PostParams},
        },
    },
    operator::uptime::crd::UptimeCheck,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{from_value, json};

use super::{
    DEPOSED_AFTER, FAILOVER_MOST, LONG, LOOK_EVERY, NODES, TTL,
    blow::Blow,
    office::{Blown, Office, Sight},
};
use crate::{
    binary::{Process, bellwether},
    controllers::server,
    kube::{Space, User},
    rbac::documented_rules,
    support::{
        etcd::Etcd,
        proxy::{Fault, Proxy},
    },
};

/// Replica, its user, and its proxies in front of the servers.
struct Replica {
    ordinal: u32,
    uid: String,
    user: User,
    etcd: Proxy,
    api: Proxy,
    process: Option<Process>,
}

impl Replica {
    fn parent(&self) -> Pid {
        self.process.as_ref().unwrap().pid()
    }

    /// The node itself: the only child of `supervise`.
    fn node(&self) -> Option<Pid> {
        let parent = self.parent().as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    fn both(&self, signal: Signal) {
        // The parent gets the signal first, so that it cannot react to the child's death.
        let node = self.node();
        let _ = kill_process(self.parent(), signal);
        if let Some(node) = node {
            let _ = kill_process(node, signal);
        }
    }
}

/// The cluster that the test disturbs.
pub(super) struct Scene {
    pub(super) space: Space<'static>,
    client: Client,
    etcd: Etcd,
    pub(super) office: Office,
    replicas: Vec<Replica>,
}

impl Scene {
    pub(super) async fn new() -> Self {
        let api = server().await;
        let space = api.namespace("chaos").await;
        let client = space.bulk_client();
        let etcd = Etcd::start().await;
        let office = Office::of(&etcd, "shop", NODES).await;
        let mut scene = Self { space, client, etcd, office, replicas: Vec::new() };
        for ordinal in 0..u32::try_from(NODES).unwrap() {
            let name = format!("bellwether-{ordinal}");
            let pod: Pod = from_value(json!({
                "metadata": { "name": name },
                "spec": { "containers": [{ "name": "bellwether", "image": "bellwether" }] },
            }))
            .unwrap();
            let pods = Api::<Pod>::default_namespaced(scene.client.clone());
            let made = pods.create(&PostParams::default(), &pod).await.unwrap();
            let user = scene.space.user(&name, documented_rules()).await;
            let replica = Replica {
                ordinal,
                uid: made.uid().unwrap(),
                user,
                etcd: Proxy::to(scene.etcd.address(0)).await,
                api: Proxy::to(api.address()).await,
                process: None,
            };
            scene.replicas.push(replica);
            scene.start(usize::try_from(ordinal).unwrap());
        }
        scene
    }

    /// Runs the command of the pod's container.
    fn start(&mut self, at: usize) {
        let command = self.command(&self.replicas[at]);
        self.replicas[at].process = Some(Process::of(command));
    }

    fn command(&self, replica: &Replica) -> Command {
        let api = self.space.api;
        let file = api.kubeconfig(&self.space.name, Some(&replica.user.name));
        let proxied = fs::read_to_string(&file)
            .unwrap()
            .replace(&api.url(), &format!("https://{}", replica.api.address()));
        fs::write(&file, proxied).unwrap();
        let mut command = bellwether(["supervise", "--", env!("CARGO_BIN_EXE_bellwether"), "run"]);
        command
            .env("BELLWETHER_CLUSTER", "shop")
            .env("BELLWETHER_ETCD", format!("http://{}", replica.etcd.address()))
            .env("BELLWETHER_TTL", format!("{}s", TTL.as_secs()))
            .env("BELLWETHER_LISTEN", "127.0.0.1:0")
            .env("BELLWETHER_KUBERNETES", "on")
            .env("BELLWETHER_KUBECONFIG", file)
            .env("POD_NAME", format!("bellwether-{}", replica.ordinal))
            .env("POD_NAMESPACE", &self.space.name)
            .env("POD_UID", &replica.uid)
            .env("POD_IP", "127.0.0.1")
            .env("NODE_NAME", "machine")
            .env("POD_INDEX", replica.ordinal.to_string());
        command
    }

    /// Waits until all nodes have joined, one leads, and each shard is held by its planned owner. Restarts a
    /// process that has ended by itself (because, say, its id was still taken by its earlier incarnation), as
    /// kubelet does.
    pub(super) async fn whole(&mut self) -> Sight {
        let begun = clock::boot_now();
        loop {
            for at in 0..self.replicas.len() {
                let process = self.replicas[at].process.as_mut().unwrap();
                if tokio::time::timeout(Duration::from_millis(1), process.status()).await.is_ok() {
                    self.ended(at).await;
                    self.start(at);
                }
            }
            if let Some(sight) = self.office.until(LOOK_EVERY, |now| now.is_whole).await {
                return sight;
            }
            let waited = clock::boot_now().since(begun);
            let now = self.office.now();
            assert!(waited < FAILOVER_MOST, "not whole within {FAILOVER_MOST:?}: {now:?}");
        }
    }

    /// Disturbs the leader, and returns when the cluster is whole again.
    pub(super) async fn disturb(&mut self, blow: Blow) -> Blown {
        let before = self.whole().await;
        let leader = before.leader.expect("a whole cluster has one");
        let struck = self.strike(blow, usize::try_from(leader).unwrap(), before.term).await;
        let healed = clock::boot_now();
        let is_deposed = |now: &Sight| before.term < now.term;
        if blow.deposes() {
            let successor = self.office.until(FAILOVER_MOST, is_deposed).await;
            // A follower that was struck by mistake has no successor.
            let missed = self.office.holder_at(struck) != Some((leader, before.term));
            assert!(missed || successor.is_some(), "{blow:?} of {leader}: nobody follows");
        }
        let mut whole = self.whole().await;
        if matches!(blow, Blow::Freeze(_) | Blow::CutEtcd(_)) && !is_deposed(&whole) {
            // The leader is deposed within this time, or not at all.
            let deposed = self.office.until(DEPOSED_AFTER, is_deposed).await;
            if deposed.is_some() {
                whole = self.whole().await;
            }
        }
        let whole_again = match blow {
            _ if is_deposed(&whole) => whole.at,
            Blow::CutApi(_) => struck,
            _ => healed,
        };
        Blown { meant: (leader, before.term), at: struck, whole_again, term: whole.term }
    }

    /// Strikes the node in office and heals all that can be healed; returns when the blow was struck.
    async fn strike(&mut self, blow: Blow, at: usize, term: i64) -> BootTime {
        let struck = clock::boot_now();
        match blow {
            Blow::Kill => {
                if let Some(node) = self.replicas[at].node() {
                    let _ = kill_process(node, Signal::KILL);
                }
                self.ended(at).await;
                self.start(at);
            }
            Blow::KillBoth => {
                self.replicas[at].both(Signal::KILL);
                self.ended(at).await;
                self.start(at);
            }
            Blow::End => {
                self.replicas[at].process.as_ref().unwrap().signal(Signal::TERM);
                self.ended(at).await;
                self.start(at);
            }
            Blow::Freeze(span) => {
                self.replicas[at].both(Signal::STOP);
                tokio::time::sleep(span).await;
                self.replicas[at].both(Signal::CONT);
            }
            Blow::CutEtcd(span) => {
                self.replicas[at].etcd.set(Fault::Blackhole);
                tokio::time::sleep(span).await;
                self.replicas[at].etcd.set(Fault::None);
            }
            Blow::CutApi(span) => {
                self.replicas[at].api.set(Fault::Blackhole);
                tokio::time::sleep(span).await;
                self.replicas[at].api.set(Fault::None);
            }
            Blow::Late => return self.hold_its_writes(at, term).await,
            Blow::CutBoth(span) => {
                self.replicas[at].api.set(Fault::Blackhole);
                // From now on the proxy holds all writes of this node until it is deposed.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let struck = clock::boot_now();
                self.replicas[at].etcd.set(Fault::Blackhole);
                self.successor(term).await;
                self.replicas[at].api.set(Fault::None);
                tokio::time::sleep(span / 2).await;
                self.replicas[at].etcd.set(Fault::None);
                return struck;
            }
        }
        struck
    }

    async fn hold_its_writes(&self, at: usize, term: i64) -> BootTime {
        self.replicas[at].api.set(Fault::CutToServer);
        tokio::time::sleep(Duration::from_millis(800)).await;
        let struck = clock::boot_now();
        self.replicas[at].both(Signal::STOP);
        self.successor(term).await;
        // The successor writes all that is not up to date, including the objects of the held writes.
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.replicas[at].api.set(Fault::None);
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.replicas[at].both(Signal::CONT);
        struck
    }

    async fn successor(&self, term: i64) {
        let _ = self.office.until(FAILOVER_MOST, |now| term < now.term).await;
    }

    /// In the end the `Election` names the leader, and a Service for the leader selects its pod and no other.
    pub(super) async fn the_leader_is_told(&self) {
        let elections = Api::<Election>::default_namespaced(self.client.clone());
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        let selector = ListParams::default().labels(&format!("{ROLE_LABEL}=leader"));
        let begun = clock::boot_now();
        loop {
            let leader = self.office.now().leader;
            let told = elections.get("shop").await.unwrap().status.and_then(|it| it.leader);
            let found = pods.list(&selector).await.unwrap();
            let found: Vec<_> = found.iter().map(ResourceExt::name_any).collect();
            let told = told.map(|it| it.node);
            if told == leader
                && leader.is_some_and(|leader| found == [format!("bellwether-{leader}")])
            {
                return;
            }
            let waited = clock::boot_now().since(begun);
            assert!(waited < LONG, "{leader:?} leads, {told:?} is told, labelled are {found:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for the process to end, with any exit code: an earlier blow may have ended it already.
    async fn ended(&mut self, at: usize) {
        let mut process = self.replicas[at].process.take().unwrap();
        process.status().await;
        let said = process.err();
        assert!(!said.contains("panicked"), "{said}");
    }

    /// The users that the replicas write as.
    pub(super) fn users(&self) -> Vec<String> {
        self.replicas.iter().map(|it| it.user.name.clone()).collect()
    }

    pub(super) fn checks(&self) -> Api<UptimeCheck> {
        Api::default_namespaced(self.client.clone())
    }
}
