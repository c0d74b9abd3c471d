//! The binary as it runs in pods: three processes, each under its pod's identity, on a real etcd and a real
//! API server, with the rights that the chart gives them.

use std::{process::Command, time::Duration};

use bellwether::k8s::{
    crd::Election,
    election::ROLE_LABEL,
    k8s_openapi::api::core::v1::Pod,
    kube::{
        Api, ResourceExt,
        api::{ListParams, PostParams},
    },
};
use bellwether::operator::uptime::crd::{State, UptimeCheck};
use rustix::process::Signal;
use serde_json::{from_value, json};

use crate::{
    binary::{Process, bellwether},
    controllers::server,
    kube::{Space, User},
    rbac::documented_rules,
    support::{
        etcd::{Etcd, reserved_port},
        eventually,
    },
};

const LONG: Duration = Duration::from_secs(120);

/// Pods of a cluster, without a kubelet that would run them.
pub(crate) struct Pods {
    pub(crate) space: Space<'static>,
    pub(crate) user: User,
    pub(crate) etcd: Etcd,
}

impl Pods {
    pub(crate) async fn new(what: &str) -> Self {
        let space = server().await.namespace(what).await;
        let user = space.user("bellwether", documented_rules()).await;
        Self { space, user, etcd: Etcd::start().await }
    }

    /// Creates a pod, and runs the command of its container.
    pub(crate) async fn start(&self, ordinal: u32) -> Process {
        let name = format!("bellwether-{ordinal}");
        let pods = Api::<Pod>::default_namespaced(self.space.client());
        let pod: Pod = from_value(json!({
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "bellwether", "image": "bellwether" }] },
        }))
        .unwrap();
        let uid = match pods.get_opt(&name).await.unwrap() {
            Some(pod) => pod.uid(),
            None => pods.create(&PostParams::default(), &pod).await.unwrap().uid(),
        };
        Process::of(self.command(ordinal, &uid.unwrap()))
    }

    fn command(&self, ordinal: u32, uid: &str) -> Command {
        let mut command = bellwether(["supervise", "--", env!("CARGO_BIN_EXE_bellwether"), "run"]);
        command
            .env("BELLWETHER_CLUSTER", "shop")
            .env("BELLWETHER_ETCD", self.etcd.endpoint(0))
            .env("BELLWETHER_LISTEN", "127.0.0.1:0")
            .env("BELLWETHER_KUBERNETES", "on")
            .env(
                "BELLWETHER_KUBECONFIG",
                self.space.api.kubeconfig(&self.space.name, Some(&self.user.name)),
            )
            .env("POD_NAME", format!("bellwether-{ordinal}"))
            .env("POD_NAMESPACE", &self.space.name)
            .env("POD_UID", uid)
            .env("POD_IP", "127.0.0.1")
            .env("NODE_NAME", "machine")
            .env("POD_INDEX", ordinal.to_string());
        command
    }

    pub(crate) async fn leader(&self, not: Option<&str>) -> Election {
        let elections = Api::<Election>::default_namespaced(self.space.client());
        eventually(&format!("a leader other than {not:?}"), LONG, async || {
            let election = elections.get_opt("shop").await.unwrap()?;
            let pod = election.status.as_ref()?.leader.as_ref()?.pod.clone()?;
            (Some(pod.as_str()) != not).then_some(election)
        })
        .await
    }

    /// Names of the pods that a Service for the leader selects.
    async fn labelled(&self) -> Vec<String> {
        let pods = Api::<Pod>::default_namespaced(self.space.client());
        let leaders = ListParams::default().labels(&format!("{ROLE_LABEL}=leader"));
        pods.list(&leaders).await.unwrap().iter().map(ResourceExt::name_any).collect()
    }

    pub(crate) async fn is_labelled(&self, pod: &str) {
        eventually(&format!("{pod} alone is labelled"), LONG, async || {
            (self.labelled().await == [pod]).then_some(())
        })
        .await;
    }

    pub(crate) async fn check(&self, name: &str, port: u16) {
        let check: UptimeCheck = from_value(json!({
            "apiVersion": "bellwether.dev/v1alpha1",
            "kind": "UptimeCheck",
            "metadata": { "name": name },
            "spec": { "interval": "1s", "target": { "tcp": { "host": "127.0.0.1", "port": port } } },
        }))
        .unwrap();
        let checks = Api::<UptimeCheck>::default_namespaced(self.space.client());
        checks.create(&PostParams::default(), &check).await.unwrap();
    }

    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        is: impl Fn(&UptimeCheck) -> bool,
    ) -> UptimeCheck {
        let checks = Api::<UptimeCheck>::default_namespaced(self.space.client());
        eventually(&format!("{name} {what}"), LONG, async || {
            checks.get_opt(name).await.unwrap().filter(&is)
        })
        .await
    }
}

pub(crate) fn state(check: &UptimeCheck) -> State {
    check.status.as_ref().map(|it| it.state).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_pods_run_the_checks_of_the_api_and_kubectl_shows_all_of_it() {
    let pods = Pods::new("three").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open = listener.local_addr().unwrap().port();
    let nobody = reserved_port();
    let closed = nobody.address().port();
    let mut processes = Vec::new();
    for ordinal in 0..3 {
        processes.push(Some(pods.start(ordinal).await));
    }
    let election = pods.leader(None).await;
    let leader = election.status.unwrap().leader.unwrap();
    let (first, node) = (leader.pod.unwrap(), leader.node);
    pods.is_labelled(&first).await;

    for number in 0..4 {
        pods.check(&format!("up-{number}"), open).await;
    }
    pods.check("down", closed).await;
    for number in 0..4 {
        let name = format!("up-{number}");
        let check = pods.until(&name, "is up", |it| state(it) == State::Up).await;
        let by = check.status.unwrap().checked_by.unwrap();
        assert_ne!(by, node.to_string(), "the leader runs checks");
    }
    pods.until("down", "is down", |it| state(it) == State::Down).await;
    let table = pods.space.kubectl(&["get", "uptimechecks"]);
    assert!(table.contains("down") && table.contains("up-3"), "{table}");
    let told = eventually("the summary is told", LONG, async || {
        let wide = pods.space.kubectl(&["get", "elections", "-o", "wide"]);
        wide.contains("5 checks: 4 up, 1 down").then_some(wide)
    })
    .await;
    assert!(told.contains(&first), "{told}");
    let described = pods.space.kubectl(&["describe", "uptimecheck", "down"]);
    assert!(described.contains("Warning") && described.contains("Down"), "{described}");

    // After SIGTERM a successor takes over the office, the label and the fence.
    let at = usize::try_from(node).unwrap();
    let mut ended = processes[at].take().unwrap();
    ended.signal(Signal::TERM);
    assert!(ended.status().await.success(), "{}", ended.err());
    let election = pods.leader(Some(&first)).await;
    let leader = election.status.unwrap().leader.unwrap();
    let (second, node) = (leader.pod.unwrap(), leader.node);
    pods.is_labelled(&second).await;
    // The successor writes the results of the checks.
    drop(listener);
    for number in 0..4 {
        pods.until(&format!("up-{number}"), "is down now", |it| state(it) == State::Down).await;
    }

    // After `kill -9` of the pod's processes, the successor removes the label that the pod still carries.
    processes[at] = Some(pods.start(u32::try_from(at).unwrap()).await);
    let mut killed = processes[usize::try_from(node).unwrap()].take().unwrap();
    killed.signal(Signal::KILL);
    killed.status().await;
    let election = pods.leader(Some(&second)).await;
    let third = election.status.unwrap().leader.unwrap().pod.unwrap();
    pods.is_labelled(&third).await;
}
