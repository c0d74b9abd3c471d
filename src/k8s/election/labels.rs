//! The label of the leader's pod.
//!
//! # Guarantees
//!
//! * The leader labels its own pod only after it has found no other pod of the cluster with the leader's
//!   label, or has removed the label from them. Between the two writes no pod has the label for a moment.
//! * Every write contains the resource version that was read in this term, and every pod that the cluster
//!   knows is written once a term ([`TERM_ANNOTATION`] makes each write a change). So a write of a former
//!   leader that arrives late fails.
//! * If another client labels pods wrongly, then within [`SWEEP_EVERY`] the leader's pod, and no other, has
//!   the label again.

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

/// Label of a pod's role: `leader` or `follower`.
pub const ROLE_LABEL: &str = "bellwether.dev/role";
/// Label of a pod's cluster.
pub const CLUSTER_LABEL: &str = "bellwether.dev/cluster";
/// Annotation with the term in which a pod's role was written.
pub const TERM_ANNOTATION: &str = "bellwether.dev/role-term";

/// Average interval between the leader's searches for wrong labels.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// The office is handed over after this time at the latest, even if the label could not be removed.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(1);
/// Number of pods that are labelled at the same time.
const AT_ONCE: usize = 8;

const LEADER: &str = "leader";
const FOLLOWER: &str = "follower";

type PodMeta = PartialObjectMeta<Pod>;

/// Removes the leader's label from a pod whose node has lost its authority. Returns `false` if another client
/// has changed the pod in between. The node does this itself and
/// without authority: the write contains the resource version that was read, and a pod that leads again gets
/// the label again within [`SWEEP_EVERY`].
///
/// # Errors
///
/// Error that the API server returns; the pod has not changed then.
pub(super) async fn take_label_back(
    client: Client,
    election: &ElectionRef,
    term: Term,
    (name, uid): (&str, &str),
) -> Result<bool, kube::Error> {
    let labels = Labels::new(client, election, term);
    labels.read_and_write(name, uid, FOLLOWER).await
}

/// Labels that one leader has written in its term.
pub(super) struct Labels {
    pods: Api<Pod>,
    cluster: String,
    term: Term,
    /// Role that each pod was labelled with in this term, by the pod's UID.
    known: HashMap<String, &'static str>,
    own: Option<(String, String)>,
    /// Time of the next sweep; `None` means at once.
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
            // The leader runs in no pod, or has not published its pod yet.
            return Ok(());
        };
        let own = (name.to_owned(), uid.to_owned());
        if self.sweep_at.is_none_or(|at| at <= now) {
            if !self.sweep(&own.1).await? {
                // Another client wrote the pod in between: the next call tries again.
                return Ok(());
            }
            // Jitter keeps the leaders of many clusters from sending requests at the same time.
            self.sweep_at = Some(now + SWEEP_EVERY.mul_f64(rand::random_range(0.8..=1.2)));
        }
        // Labels the other pods first, so that writes that a former leader still sends to them fail. A
        // failure there does not stop the leader's pod from getting its label.
        let others = self.label_others(leader, pods).await;
        self.label(&own.0, &own.1, LEADER).await?;
        self.own = Some(own);
        let live: HashSet<&str> = pods.all().map(|(_, _, uid)| uid).collect();
        self.known.retain(|uid, _| live.contains(uid.as_str()));
        others
    }

    /// Removes the leader's label from the own pod. If the write fails or takes too long, the successor,
    /// which waits for this, corrects the label.
    pub(super) async fn step_down(&mut self) {
        if let Some((name, uid)) = self.own.take() {
            let _ = tokio::time::timeout(STEP_DOWN_WITHIN, self.label(&name, &uid, FOLLOWER)).await;
        }
    }

    /// Removes the leader's label from every pod except the own one, regardless of `known`. Returns whether
    /// no other pod has the label any more.
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
            // Another client removed the label: it is written again.
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

    /// Reads a pod and labels it. Returns `true` if the pod needs no further write.
    async fn read_and_write(
        &self,
        name: &str,
        uid: &str,
        role: &'static str,
    ) -> Result<bool, kube::Error> {
        // Reads the pod by a list: the sweep needs the right to list pods, and this way no other right is needed.
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.pods.list_metadata(&by_name).await?;
        match found.items.into_iter().find(|pod| pod.uid().as_deref() == Some(uid)) {
            Some(pod) => self.write(&pod, role).await,
            // The pod is gone, or another pod has its name. A UID never returns, so nothing is left to do.
            None => Ok(true),
        }
    }

    /// Labels a pod as it was read. Returns `false` if another client has changed the pod since.
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
