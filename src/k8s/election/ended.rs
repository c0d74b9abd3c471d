//! Reports the end of a term: that no node leads, or that the leader is not known.
//!
//! A leader's own writes end with its authority, and without a successor its last status would look current.
//! So the node that led reports the end, outside of the leader's work and without the leader's authority.
//!
//! # Late reports are harmless
//!
//! A report replaces only the status of its own fence, by a write that compares the resource version it has
//! read. A later leader first draws a higher fence from the same object, so that an earlier report fails.

use std::time::Duration;

use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    MANAGER,
    labels::take_label_back,
    picture::{self, is_same_but_seen},
};
use crate::{
    clock,
    engine::Term,
    k8s::{
        authority::DebugClient,
        crd::election::{Election, ElectionNode, ElectionStatus},
        events::{EventType, Events},
        explain::explain,
        fence::{ElectionRef, Fence},
        identity::name_of_this_pod,
    },
};

/// After a clean end, a successor is expected to have drawn its fence within this time.
const SUCCESSOR_WITHIN: Duration = Duration::from_millis(1500);
/// Interval between checks for the successor's fence.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Delay between attempts to write a report.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How a term ended, as the node that led knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// The node gave up or handed over the office while it had authority.
    Clean,
    /// The authority ended first: the node is suspended, was deposed, or lost its session.
    Lost,
}

/// A term that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) term: Term,
    /// Fence of the term. `None` if the term ended before its leader had drawn one.
    pub(super) fence: Option<Fence>,
    pub(super) manner: Manner,
    /// Name of the node that led, for people.
    pub(super) name: String,
    /// Name and UID of the node's pod, if it runs in a pod.
    pub(super) pod: Option<(String, String)>,
    /// The other live nodes, as the leader last saw them.
    pub(super) others: Vec<ElectionNode>,
    /// Whether one of these nodes may take office.
    pub(super) may_be_succeeded: bool,
}

/// The end of this process's last term, shared between the leader's task and the reporter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends(watch::Sender<Option<Ended>>);

impl Ends {
    /// Drops an unreported end, because this node leads again and writes its own status.
    pub(super) fn forget(&self) {
        self.0.send_replace(None);
    }

    /// Queues the end of a term for the reporter.
    pub(super) fn tell(&self, ended: Ended) {
        self.0.send_replace(Some(ended));
    }

    /// Waits until no report is pending, or for `limit`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: only waits.
    pub(crate) async fn settled(&self, limit: Duration) {
        let mut ends = self.0.subscribe();
        let settled = ends.wait_for(Option::is_none);
        let _ = tokio::time::timeout(limit, settled).await;
    }

    /// Reports each end, until the future is dropped.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a report may or may not have been written.
    pub(crate) async fn report(self, client: DebugClient, election: ElectionRef) {
        let mut ends = self.0.subscribe();
        loop {
            // The sender lives as long as `self`.
            let Ok(Some(ended)) = ends.wait_for(Option::is_some).await.map(|it| it.clone()) else {
                return;
            };
            let reporter = Reporter { client: &client, election: &election, ended: &ended };
            tokio::select! {
                biased;
                // Cancel safe: only waits.
                _ = ends.wait_for(|now| now.as_ref() != Some(&ended)) => {}
                // If this arm is dropped, a write may or may not have taken effect: its preconditions decide.
                () = reporter.run() => {
                    self.0.send_if_modified(|now| now.take_if(|it| *it == ended).is_some());
                }
            }
        }
    }
}

/// Result of an attempt to write a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// The report is written, or not needed.
    Done,
    /// Another client wrote first: the object must be read again.
    Again,
}

struct Reporter<'a> {
    client: &'a DebugClient,
    election: &'a ElectionRef,
    ended: &'a Ended,
}

impl Reporter<'_> {
    async fn run(&self) {
        let Ended { fence, manner, may_be_succeeded, .. } = self.ended;
        if *manner == Manner::Clean && *may_be_succeeded && fence.is_some() {
            let looked = tokio::time::timeout(SUCCESSOR_WITHIN, self.until_succeeded()).await;
            if looked.is_ok() {
                return;
            }
        }
        let mut said = false;
        loop {
            match self.report().await {
                Ok(Came::Done) => return,
                Ok(Came::Again) => {}
                Err(error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(
                            election = %self.election, term = self.ended.term.0, error = %explain(&error),
                            "the end of this node's term cannot be written to the Election, retrying"
                        );
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Whether the status was written under the fence of the ended term.
    fn is_of_this_term(&self, found: &Election) -> bool {
        found.status.as_ref().and_then(|it| it.fence) == self.ended.fence.map(Fence::number)
    }

    /// Removes the leader's label from the pod. A leader that ended cleanly removed it before it handed over.
    async fn take_label_back(&self) -> Result<Came, kube::Error> {
        let (Manner::Lost, Some((pod, uid))) = (self.ended.manner, &self.ended.pod) else {
            return Ok(Came::Done);
        };
        let client = self.client.0.clone();
        let is_done = take_label_back(client, self.election, self.ended.term, (pod, uid)).await?;
        Ok(if is_done { Came::Done } else { Came::Again })
    }

    fn api(&self) -> Api<Election> {
        self.election.api(self.client.0.clone())
    }

    /// Returns when a later leader has drawn its fence, or the object is gone.
    async fn until_succeeded(&self) {
        let (api, name) = (self.api(), self.election.name());
        loop {
            if let Ok(found) = api.get_opt(&name).await
                && found.is_none_or(|it| !self.is_of_this_term(&it))
            {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn report(&self) -> Result<Came, kube::Error> {
        if self.ended.fence.is_none() {
            // The pod got its label before the fence was drawn, but the status is an earlier term's.
            return self.take_label_back().await;
        }
        let (api, name) = (self.api(), self.election.name());
        let Some(found) = api.get_opt(&name).await? else { return Ok(Came::Done) };
        if !self.is_of_this_term(&found) {
            // A later leader writes its own status, or the object is another one.
            return Ok(Came::Done);
        }
        if self.take_label_back().await? == Came::Again {
            return Ok(Came::Again);
        }
        let mut new = status_of(self.ended, clock::unix_ms());
        new.observed_generation = found.metadata.generation;
        picture::carry_times(&mut new, found.status.as_ref());
        if found.status.as_ref().is_some_and(|old| is_same_but_seen(&unfenced(old), &new)) {
            return Ok(Came::Done);
        }
        match api
            .patch_status(&name, &PatchParams::apply(MANAGER).force(), &body(&found, &new))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(Came::Again),
            Err(error) => return Err(error),
        }
        let events = Events::new(self.client.0.clone(), "election", name_of_this_pod());
        let (said, note) = event_of(self.ended);
        events.say(&found, &(), EventType::Warning, said, note).await;
        Ok(Came::Done)
    }
}

/// Body of the apply request, without the fence: the fence is drawn by compare-and-swap, never applied.
pub(super) fn body(found: &Election, status: &ElectionStatus) -> Patch<serde_json::Value> {
    let mut body = json!({
        "apiVersion": Election::api_version(&()),
        "kind": Election::kind(&()),
        "metadata": {
            "resourceVersion": found.metadata.resource_version,
            "uid": found.metadata.uid,
        },
        "status": status,
    });
    if let Some(status) = body["status"].as_object_mut() {
        status.remove("fence");
    }
    Patch::Apply(body)
}

fn unfenced(status: &ElectionStatus) -> ElectionStatus {
    ElectionStatus { fence: None, ..status.clone() }
}

/// The status of a cluster whose term has ended. Unknown fields are left out.
pub(super) fn status_of(ended: &Ended, now_ms: u64) -> ElectionStatus {
    let Ended { term, name, manner, others, may_be_succeeded, .. } = ended;
    let judged = match manner {
        Manner::Clean => {
            let message =
                format!("{name} left office of term {term}, and no node has taken it since");
            (picture::Known::NoLeader, message)
        }
        Manner::Lost => {
            let message = format!(
                "{name} lost its authority in term {term}, and no successor has reported since"
            );
            (picture::Known::No, message)
        }
    };
    // A successor that was expected and has not come may have left too, as when all nodes are stopped at once.
    let nodes = (*manner == Manner::Clean && !may_be_succeeded).then(|| others.clone());
    let mut status = ElectionStatus {
        term: Some(term.0),
        node_count: nodes.as_ref().map(|nodes| picture::count_of(nodes.len())),
        nodes: nodes.unwrap_or_default(),
        reported_at: Some(picture::second(now_ms)),
        ..ElectionStatus::default()
    };
    picture::judge_without_leader(&mut status, judged.0, &judged.1);
    status
}

/// Reason and action of the event, and its note.
fn event_of(ended: &Ended) -> ((&'static str, &'static str), String) {
    let Ended { term, name, .. } = ended;
    match ended.manner {
        Manner::Clean => (
            ("NoLeader", "LeaveOffice"),
            format!("{name} left office of term {term}, and no node has taken it"),
        ),
        Manner::Lost => (
            ("LeaderLost", "LoseAuthority"),
            format!(
                "{name} lost its authority in term {term}: its beats reached the store too late, or not"
            ),
        ),
    }
}
