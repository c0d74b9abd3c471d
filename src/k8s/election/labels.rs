//! The label of the leader's pod.
//!
//! # Guarantees
//!
//! The leader labels its own pod only after it has found no other pod of the cluster with the leader's label,
//! or has taken it off them; a killed leader's label is taken off by its successor so. For the moment between
//! the two writes no pod carries it.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::picture::Pods;
use crate::{engine::NodeId, k8s::fence::ElectionRef};

/// The label of a pod's role: `leader` or `follower`.
pub const ROLE_LABEL: &str = "bellwether.dev/role";
/// The label of a pod's cluster.
pub const CLUSTER_LABEL: &str = "bellwether.dev/cluster";

/// What one leader has labelled.
pub(super) struct Labels {
    pods: Api<Pod>,
    cluster: String,
    /// By pod's UID, what it is known to be labelled as.
    known: HashMap<String, &'static str>,
    own: Option<(String, String)>,
    former_is_cleared: bool,
}

impl Labels {
    pub(super) fn new(client: Client, election: &ElectionRef) -> Self {
        Self {
            pods: Api::namespaced(client, &election.namespace),
            cluster: election.name(),
            known: HashMap::new(),
            own: None,
            former_is_cleared: false,
        }
    }

    /// Labels the pods of the cluster.
    pub(super) async fn show(&mut self, leader: NodeId, pods: &Pods) -> Result<(), kube::Error> {
        let Some((name, uid)) = pods.of(leader) else {
            // Not in a pod, or it has not been told yet.
            return Ok(());
        };
        let own = (name.to_owned(), uid.to_owned());
        if !self.former_is_cleared {
            self.clear_former(&own.1).await?;
            self.former_is_cleared = true;
        }
        self.label(&own.0, &own.1, "leader").await?;
        self.own = Some(own);
        for (node, name, uid) in pods.all() {
            if node != leader {
                self.label(name, uid, "follower").await?;
            }
        }
        let live: Vec<&str> = pods.all().map(|(_, _, uid)| uid).collect();
        self.known.retain(|uid, _| live.contains(&uid.as_str()));
        Ok(())
    }

    /// Takes the leader's label back. What cannot be written is left to the successor.
    pub(super) async fn step_down(&mut self) {
        if let Some((name, uid)) = self.own.take() {
            let _ = self.label(&name, &uid, "follower").await;
        }
    }

    async fn clear_former(&mut self, own: &str) -> Result<(), kube::Error> {
        let selector = format!("{CLUSTER_LABEL}={},{ROLE_LABEL}=leader", self.cluster);
        for pod in self.pods.list(&ListParams::default().labels(&selector)).await? {
            let uid = pod.uid().unwrap_or_default();
            if uid != own {
                self.label(&pod.name_any(), &uid, "follower").await?;
            }
        }
        Ok(())
    }

    async fn label(
        &mut self,
        name: &str,
        uid: &str,
        role: &'static str,
    ) -> Result<(), kube::Error> {
        if self.known.get(uid) == Some(&role) {
            return Ok(());
        }
        // The UID is compared: a pod of the same name that came after is another's to label.
        let labels = json!({ ROLE_LABEL: role, CLUSTER_LABEL: self.cluster });
        let patch = json!({ "metadata": { "uid": uid, "labels": labels } });
        match self.pods.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                self.known.insert(uid.to_owned(), role);
                Ok(())
            }
            // Gone, or replaced by another of its name: there is nothing to label.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}
