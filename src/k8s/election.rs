//! Reports of the leader to Kubernetes: the status of the `Election` object, an event at each take-over and
//! at each loss, and the label by which a Service selects the leader's pod.
//!
//! These reports only inform. No authority depends on them, and a failed report stops no work. A status
//! contains the time of its last report, and readers must check that time: the status does not change when
//! the last node is killed.

mod ended;
mod labels;
mod picture;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kube::{Api, Client, api::PatchParams};
use serde_json::json;
use tokio::sync::watch;

pub(crate) use self::ended::Ends;
pub use self::labels::{CLUSTER_LABEL, ROLE_LABEL, TERM_ANNOTATION};
use self::{
    ended::{Ended, Manner},
    labels::Labels,
    picture::{Pods, picture},
};
use super::{
    authority::{Authority, DebugClient, GatedClient},
    controller::ControllerMetrics,
    crd::election::{Election, ElectionStatus},
    events::{EventType, Events},
    explain::explain,
    fence::{Awaited, ElectionRef, Fence},
    identity::name_of_this_pod,
};
use crate::{
    clock,
    engine::Term,
    node::{
        LeaderContext, Node, StateError,
        status::{NodeStatus, Reign, ReignEnd, Status},
        work::{LeaderTask, WorkError},
    },
};

#[cfg(test)]
mod tests;

/// How often the leader reads the cluster's status for its report.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// If only the times at which nodes were last seen have changed, the status is written this often.
const SEEN_EVERY: Duration = Duration::from_secs(30);
/// A status that was not reported for this long has no leader that updates it: three reports are missing.
#[doc(hidden)]
pub const CURRENT_FOR: Duration = Duration::from_secs(90);
/// A failed report is logged this often.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// Field manager of the status.
const MANAGER: &str = "bellwether-election";
/// Key of the node state that contains the node's pod.
const POD_KEY: &str = "bellwether-pod";

/// Publishes the pod of this node in the node's state, which survives lost sessions and is removed with the node.
///
/// # Errors
///
/// [`StateError`]: until the state is written, the node is listed without its pod.
#[doc(hidden)]
pub async fn tell_pod(node: &dyn Node, pod: &str, uid: &str) -> Result<(), StateError> {
    let told = json!({ "name": pod, "uid": uid }).to_string();
    node.put(POD_KEY, told.as_bytes()).await.map(|_| ())
}

/// Reports the cluster to Kubernetes while this node leads.
#[derive(Clone, Debug)]
#[doc(hidden)]
pub struct ElectionTask {
    client: DebugClient,
    election: ElectionRef,
    metrics: ControllerMetrics,
    drawn: Awaited,
    ends: Ends,
    summary: Option<watch::Receiver<Option<String>>>,
}

impl ElectionTask {
    pub(crate) fn new(
        client: Client,
        election: ElectionRef,
        metrics: ControllerMetrics,
        drawn: Awaited,
        ends: Ends,
    ) -> Self {
        Self { client: DebugClient(client), election, metrics, drawn, ends, summary: None }
    }

    pub(crate) fn summary(mut self, summary: watch::Receiver<Option<String>>) -> Self {
        self.summary = Some(summary);
        self
    }
}

#[async_trait]
impl LeaderTask for ElectionTask {
    fn name(&self) -> &'static str {
        "election"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let authority = Authority::Leader(ctx.clone());
        let gated = GatedClient::new(&self.client.0, &authority, &self.metrics.refused("election"));
        let client = gated.client().clone();
        let mut drawn = self.drawn.clone();
        self.ends.forget();
        let mut herald = Herald {
            api: self.election.api(client.clone()),
            labels: Labels::new(client.clone(), &self.election, ctx.term()),
            events: Events::new(client, "election", name_of_this_pod()),
            task: self,
            ctx: &ctx,
            pods: Arc::default(),
            fence: None,
            written: None,
            seen: None,
            said: None,
            announced: false,
        };
        let token = ctx.token();
        while token.run_until_cancelled(herald.look()).await.is_some() {
            tokio::select! {
                biased;
                // All arms are cancel safe: they only wait.
                () = token.cancelled() => break,
                fence = drawn.of(ctx.term()), if herald.fence.is_none() => herald.fence = Some(fence),
                () = tokio::time::sleep(LOOK_EVERY) => (),
            }
        }
        // At a planned end the authority still holds, and the leader removes the label from its pod.
        if ctx.check().is_ok() {
            herald.labels.step_down().await;
        }
        drop(herald);
        gated.end().await;
        Ok(())
    }
}

/// The reports of one term.
struct Herald<'a> {
    task: &'a ElectionTask,
    ctx: &'a LeaderContext,
    api: Api<Election>,
    labels: Labels,
    events: Events,
    /// Pods as they were last read. They stay known while the store does not answer.
    pods: Arc<Pods>,
    /// The status is not written before the fence is drawn: a term and its fence appear together.
    fence: Option<Fence>,
    /// Status that was last written, and when.
    written: Option<(ElectionStatus, crate::engine::BootTime)>,
    /// State of the cluster that was last read, for the report of the end.
    seen: Option<Seen>,
    said: Option<crate::engine::BootTime>,
    announced: bool,
}

/// State of the cluster as the leader last read it.
struct Seen {
    picture: ElectionStatus,
    may_be_succeeded: bool,
}

/// Reports the end of the term, whether the task has returned or was aborted.
impl Drop for Herald<'_> {
    fn drop(&mut self) {
        let (own, term) = (self.ctx.node().id(), self.ctx.term());
        let seen = self.seen.take();
        let picture = seen.as_ref().map(|it| it.picture.clone()).unwrap_or_default();
        let others = picture.nodes.into_iter().filter(|it| it.id != own.get());
        self.task.ends.tell(Ended {
            term,
            fence: self.fence.or_else(|| self.task.drawn.now(term)),
            manner: if self.ctx.check().is_ok() { Manner::Clean } else { Manner::Lost },
            name: picture.leader.map_or_else(|| format!("node {own}"), |leader| leader.name),
            others: others.collect(),
            may_be_succeeded: seen.as_ref().is_none_or(|it| it.may_be_succeeded),
            pod: self.pods.of(own).map(|(name, uid)| (name.to_owned(), uid.to_owned())),
        });
    }
}

impl Herald<'_> {
    async fn look(&mut self) {
        let node = Arc::clone(self.ctx.node());
        let Ok(status) = node.status().await else { return };
        match node.get_cluster(POD_KEY).await {
            Ok(published) => self.pods = Arc::new(Pods::read(&published)),
            Err(error) => tracing::debug!(%error, "reading the pods of the nodes failed"),
        }
        let pods = Arc::clone(&self.pods);
        if let Err(error) = self.labels.show(node.id(), &pods, clock::boot_now()).await {
            self.say(&error, "the label of the leader's pod cannot be written");
        }
        if let Err(error) = self.write(&status, &pods).await {
            self.say(&error, "the status of the Election cannot be written");
        }
    }

    async fn write(&mut self, status: &Status, pods: &Pods) -> Result<(), kube::Error> {
        let Some(fence) = self.fence else { return Ok(()) };
        let now = clock::boot_now();
        let before = self.written.as_ref().map(|(status, _)| status);
        let mut new = picture(status, pods, before, clock::unix_ms());
        new.term = Some(self.ctx.term().0);
        let own = self.ctx.node().id();
        let is_rival = |it: &NodeStatus| it.queue.is_some() && it.id != own;
        self.seen = Some(Seen {
            picture: new.clone(),
            may_be_succeeded: status.nodes.iter().any(is_rival),
        });
        let summary = self.task.summary.as_ref().map(|summary| summary.borrow().clone());
        if let Some(summary) = &summary {
            picture::summarise(&mut new, summary.clone(), before);
        }
        if let Some((written, at)) = &self.written
            && now.since(*at) < SEEN_EVERY
            && picture::is_same_but_seen(written, &new)
        {
            return Ok(());
        }
        let name = self.task.election.name();
        // `fence::draw` creates the object. If it was deleted, the next draw recreates it.
        let Some(found) = self.api.get_opt(&name).await? else { return Ok(()) };
        let last = found.status.as_ref().and_then(|it| it.fence);
        if last > Some(fence.number()) {
            tracing::debug!(ours = %fence, last, "a later leader has drawn: it tells of the cluster now");
            return Ok(());
        }
        new.observed_generation = found.metadata.generation;
        picture::carry_times(&mut new, found.status.as_ref());
        if let Some(None) = summary {
            picture::summarise(&mut new, None, found.status.as_ref());
        }
        let (params, body) = (PatchParams::apply(MANAGER).force(), ended::body(&found, &new));
        match self.api.patch_status(&name, &params, &body).await {
            Ok(_) => {}
            // Another client wrote the object in between: the next report tries again.
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            Err(error) => return Err(error),
        }
        if !self.announced {
            self.announced = true;
            self.announce(&found, status, &new).await;
        }
        self.written = Some((new, now));
        Ok(())
    }

    /// Sends the event of a take-over.
    async fn announce(&self, election: &Election, status: &Status, new: &ElectionStatus) {
        let who = new.leader.as_ref().map_or("nobody", |leader| leader.name.as_str());
        let why = former_end(&status.timeline, self.ctx.term());
        let note = format!("{who} took office for term {}: {why}", self.ctx.term());
        let said = ("LeaderElected", "TakeOffice");
        self.events.say(election, &(), EventType::Normal, said, note).await;
        if let Some(note) = loss_of_former(&status.timeline, self.ctx.term()) {
            let said = ("LeaderLost", "TakeOffice");
            self.events.say(election, &(), EventType::Warning, said, note).await;
        }
    }

    fn say(&mut self, error: &kube::Error, what: &'static str) {
        let now = clock::boot_now();
        if self.said.is_some_and(|said| now.since(said) < SAID_EVERY) {
            return;
        }
        self.said = Some(now);
        tracing::warn!(election = %self.task.election, error = %explain(error), "{what}");
    }
}

fn former(timeline: &[Reign], term: Term) -> Option<&Reign> {
    timeline.iter().rev().find(|reign| reign.term != term)
}

/// Note of the event about a previous leader that did not end its term itself; `None` if it did.
fn loss_of_former(timeline: &[Reign], term: Term) -> Option<String> {
    let Reign { term, id, end, .. } = former(timeline, term)?;
    let end = match end {
        ReignEnd::Silent => "silent",
        ReignEnd::Replaced => "replaced",
        ReignEnd::Ended | ReignEnd::Running => return None,
    };
    Some(format!("node {id} of term {term} was lost: it was {end}"))
}

/// How the previous term ended, in words.
fn former_end(timeline: &[Reign], term: Term) -> String {
    match former(timeline, term) {
        None => "no earlier term is known".to_owned(),
        Some(Reign { term, id, end, .. }) => match end {
            ReignEnd::Ended => format!("node {id} had ended term {term} cleanly"),
            ReignEnd::Silent => format!("node {id} of term {term} was silent for too long"),
            ReignEnd::Replaced => format!("node {id} of term {term} was replaced"),
            ReignEnd::Running => format!("node {id} had led in term {term}"),
        },
    }
}
