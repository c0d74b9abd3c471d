//! The label of the leader's pod.
//!
//! # Guarantees
//!
//! * The leader labels its own pod only after it has found no other pod of the cluster with the leader's
//!   label, or has taken it off them. For the moment between the two writes no pod carries it.
//! * Every write names the resource version that was read in this term, and every pod that the cluster knows
//!   is written once a term ([`TERM_ANNOTATION`] makes it a change). So what a former leader had sent, and
//!   arrives late, fails.
//! * Whoever has put a wrong label on a pod, and however: within [`SWEEP_EVERY`] the leader's pod, and no
//!   other, carries it again.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;

use super::picture::Pods;
use crate::{
    engine::{BootTime, NodeId, Term},
    k8s::fence::ElectionRef,
};

/// The label of a pod's role: `leader` or `follower`.
pub const ROLE_LABEL: &str = "bellwether.dev/role";
/// The label of a pod's cluster.
pub const CLUSTER_LABEL: &str = "bellwether.dev/cluster";
/// The annotation that says in which term a pod's role was written.
pub const TERM_ANNOTATION: &str = "bellwether.dev/role-term";

/// About how often the leader looks for labels that are wrong.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// The office is handed over after that at the latest, labelled or not.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(1);
/// So many pods are labelled at the same time.
const AT_ONCE: usize = 8;

const LEADER: &str = "leader";
const FOLLOWER: &str = "follower";

type PodMeta = PartialObjectMeta<Pod>;

/// Takes the leader's label off a pod whose node has lost its authority. By the pod itself and without authority:
/// the write names the resource version that was read, and a pod that leads again is labelled again within
/// [`SWEEP_EVERY`].
///
/// # Errors
///
/// What the API server says; nothing has changed then.
pub(super) async fn take_label_back(
    client: Client,
    election: &ElectionRef,
    term: Term,
    (name, uid): (&str, &str),
) -> Result<(), kube::Error> {
    let labels = Labels::new(client, election, term);
    labels.read_and_write(name, uid, FOLLOWER).await.map(|_| ())
}

/// What one leader has labelled in its term.
pub(super) struct Labels {
    pods: Api<Pod>,
    cluster: String,
    term: Term,
    /// By pod's UID, what it was labelled as in this term.
    known: HashMap<String, &'static str>,
    own: Option<(String, String)>,
    /// When to sweep next; none means at once.
    sweep_at: Option<BootTime>,
}

impl Labels {
    pub(super) fn new(client: Client, election: &ElectionRef, term: Term) -> Self {
        Self {
            pods: Api::namespaced(client, &election.namespace),
            cluster: election.name(),
            term,
            known: HashMap::new(),
            own: None,
            sweep_at: None,
        }
    }

    /// Labels the pods of the cluster.
    pub(super) async fn show(
        &mut self,
        leader: NodeId,
        pods: &Pods,
        now: BootTime,
    ) -> Result<(), kube::Error> {
        let Some((name, uid)) = pods.of(leader) else {
            // Not in a pod, or it has not been told yet.
            return Ok(());
        };
        let own = (name.to_owned(), uid.to_owned());
        if self.sweep_at.is_none_or(|at| at <= now) {
            if !self.sweep(&own.1).await? {
                // Somebody wrote in between: at the next look.
                return Ok(());
            }
            // Spread, so that the leaders of many clusters do not come to ask at the same time.
            self.sweep_at = Some(now + SWEEP_EVERY.mul_f64(rand::random_range(0.8..=1.2)));
        }
        // The others first: what a former leader still sends to them fails from then on. That one of them
        // cannot be written does not keep the label from the leader.
        let others = self.label_others(leader, pods).await;
        self.label(&own.0, &own.1, LEADER).await?;
        self.own = Some(own);
        let live: HashSet<&str> = pods.all().map(|(_, _, uid)| uid).collect();
        self.known.retain(|uid, _| live.contains(uid.as_str()));
        others
    }

    /// Takes the leader's label back. What cannot be written, or not soon, is left to the successor, who waits
    /// for this.
    pub(super) async fn step_down(&mut self) {
        if let Some((name, uid)) = self.own.take() {
            let _ = tokio::time::timeout(STEP_DOWN_WITHIN, self.label(&name, &uid, FOLLOWER)).await;
        }
    }

    /// Takes the leader's label off every pod but the own one, whatever is known of them. Whether there is
    /// none left that carries it.
    async fn sweep(&mut self, own: &str) -> Result<bool, kube::Error> {
        let selector = format!("{CLUSTER_LABEL}={},{ROLE_LABEL}={LEADER}", self.cluster);
        let found = self.pods.list_metadata(&ListParams::default().labels(&selector)).await?;
        let (mut is_clear, mut own_is_found) = (true, false);
        for pod in found {
            if pod.uid().as_deref() == Some(own) {
                own_is_found = true;
                continue;
            }
            tracing::debug!(pod = pod.name_any(), "the leader's label is taken off this pod");
            is_clear &= self.write(&pod, FOLLOWER).await?;
        }
        if !own_is_found {
            // Taken off by somebody: it is put on again.
            self.known.remove(own);
        }
        Ok(is_clear)
    }

    async fn label_others(&mut self, leader: NodeId, pods: &Pods) -> Result<(), kube::Error> {
        let others: Vec<(String, String)> = pods
            .all()
            .filter(|(node, _, uid)| *node != leader && !self.is_known(uid, FOLLOWER))
            .map(|(_, name, uid)| (name.to_owned(), uid.to_owned()))
            .collect();
        let mut failed = Ok(());
        for some in others.chunks(AT_ONCE) {
            let all = some.iter().map(|(name, uid)| self.read_and_write(name, uid, FOLLOWER));
            for ((_, uid), wrote) in some.iter().zip(join_all(all).await) {
                match wrote {
                    Ok(true) => drop(self.known.insert(uid.clone(), FOLLOWER)),
                    Ok(false) => {}
                    Err(error) => failed = Err(error),
                }
            }
        }
        failed
    }

    fn is_known(&self, uid: &str, role: &str) -> bool {
        self.known.get(uid).is_some_and(|known| *known == role)
    }

    async fn label(
        &mut self,
        name: &str,
        uid: &str,
        role: &'static str,
    ) -> Result<(), kube::Error> {
        if !self.is_known(uid, role) && self.read_and_write(name, uid, role).await? {
            self.known.insert(uid.to_owned(), role);
        }
        Ok(())
    }

    /// Whether there is nothing more to do for this pod.
    async fn read_and_write(
        &self,
        name: &str,
        uid: &str,
        role: &'static str,
    ) -> Result<bool, kube::Error> {
        // One object, as a list: the sweep needs the right to list, and this way no other one is needed.
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.pods.list_metadata(&by_name).await?;
        match found.items.into_iter().find(|pod| pod.uid().as_deref() == Some(uid)) {
            Some(pod) => self.write(&pod, role).await,
            // Gone, or replaced by another of its name, which is another's to label. No UID comes back.
            None => Ok(true),
        }
    }

    /// Labels a pod as it was read. Not done if somebody has changed it since.
    async fn write(&self, pod: &PodMeta, role: &'static str) -> Result<bool, kube::Error> {
        let patch = json!({
            "metadata": {
                "uid": pod.uid(),
                "resourceVersion": pod.resource_version(),
                "labels": { ROLE_LABEL: role, CLUSTER_LABEL: self.cluster },
                "annotations": { TERM_ANNOTATION: self.term.to_string() },
            },
        });
        let (name, params) = (pod.name_any(), PatchParams::default());
        match self.pods.patch_metadata(&name, &params, &Patch::Merge(patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}
