//! What the leader tells Kubernetes of its cluster: the status of the `Election` object, an event at each
//! take-over and at each loss, and the label by which a Service selects the leader's pod.
//!
//! It informs. Nobody's authority comes from it, and that it cannot be written stops no work. A status says when it
//! was last reported, and readers judge by that: nothing else is written when the last node was killed.

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
    crd::election::{Election, ElectionChecks, ElectionStatus},
    events::{EventType, Events},
    explain::explain,
    fence::{Awaited, ElectionRef, Fence},
    identity::name_of_this_pod,
    metrics::K8sMetrics,
};
use crate::{
    clock,
    node::{
        LeaderContext, Node, StateError,
        status::{NodeStatus, Reign, Status},
        work::{LeaderTask, WorkError},
    },
};

#[cfg(test)]
mod tests;

/// How often the leader looks at its cluster for this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When nodes were last seen is written this often if nothing else has changed.
const SEEN_EVERY: Duration = Duration::from_secs(30);
/// A status that was not reported for so long is not kept by any leader: three reports are missing.
pub const CURRENT_FOR: Duration = Duration::from_secs(90);
/// What cannot be written is said this often.
const SAID_EVERY: Duration = Duration::from_secs(60);
/// The owner of the status' fields.
const MANAGER: &str = "bellwether-election";
/// The key of a node's state that says which pod it runs in.
const POD_KEY: &str = "bellwether-pod";

/// Tells the cluster which pod this node runs in. It is kept over lost sessions, and gone when the node is.
///
/// # Errors
///
/// [`StateError`]: while it is not known, the node is listed without its pod.
pub async fn tell_pod(node: &dyn Node, pod: &str, uid: &str) -> Result<(), StateError> {
    let told = json!({ "name": pod, "uid": uid }).to_string();
    node.put(POD_KEY, told.as_bytes()).await.map(|_| ())
}

/// Tells Kubernetes of the cluster while its node leads.
#[derive(Clone, Debug)]
pub struct ElectionTask {
    client: DebugClient,
    election: ElectionRef,
    metrics: K8sMetrics,
    drawn: Awaited,
    ends: Ends,
    checks: Option<watch::Receiver<Option<ElectionChecks>>>,
}

impl ElectionTask {
    pub(crate) fn new(
        client: Client,
        election: ElectionRef,
        metrics: K8sMetrics,
        drawn: Awaited,
        ends: Ends,
    ) -> Self {
        Self { client: DebugClient(client), election, metrics, drawn, ends, checks: None }
    }

    pub(crate) fn checks(mut self, checks: watch::Receiver<Option<ElectionChecks>>) -> Self {
        self.checks = Some(checks);
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
        let gated = GatedClient::new(&self.client.0, &authority, &self.metrics.draws());
        let client = gated.client().clone();
        let mut drawn = self.drawn.clone();
        self.ends.forget();
        let mut herald = Herald {
            api: self.election.api(client.clone()),
            labels: Labels::new(client.clone(), &self.election, ctx.term()),
            events: Events::new(client, "election", name_of_this_pod()),
            task: self,
            ctx: &ctx,
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
                // All are cancel safe: they only wait.
                () = token.cancelled() => break,
                fence = drawn.of(ctx.term()), if herald.fence.is_none() => herald.fence = Some(fence),
                () = tokio::time::sleep(LOOK_EVERY) => (),
            }
        }
        // While authority goes on, as it does at a planned end, the label is taken back.
        if ctx.check().is_ok() {
            herald.labels.step_down().await;
        }
        drop(herald);
        gated.end().await;
        Ok(())
    }
}

/// One term's telling.
struct Herald<'a> {
    task: &'a ElectionTask,
    ctx: &'a LeaderContext,
    api: Api<Election>,
    labels: Labels,
    events: Events,
    /// Nothing is told before it is drawn: a term and its fence appear together.
    fence: Option<Fence>,
    /// What was last written, and when.
    written: Option<(ElectionStatus, crate::engine::BootTime)>,
    /// What was last seen: for the report of the end.
    seen: Option<Seen>,
    said: Option<crate::engine::BootTime>,
    announced: bool,
}

/// What a leader last saw of its cluster.
struct Seen {
    picture: ElectionStatus,
    pod: Option<(String, String)>,
    may_be_succeeded: bool,
}

/// Run to its end or aborted: the end of the term is reported.
impl Drop for Herald<'_> {
    fn drop(&mut self) {
        let (own, term) = (self.ctx.node().id(), self.ctx.term());
        let Some(fence) = self.fence.or_else(|| self.task.drawn.now(term)) else { return };
        let seen = self.seen.take();
        let picture = seen.as_ref().map(|it| it.picture.clone()).unwrap_or_default();
        let others = picture.nodes.into_iter().filter(|it| it.id != own.get());
        self.task.ends.tell(Ended {
            term,
            fence,
            manner: if self.ctx.check().is_ok() { Manner::Clean } else { Manner::Lost },
            name: picture.leader.map_or_else(|| format!("node {own}"), |leader| leader.name),
            others: others.collect(),
            may_be_succeeded: seen.as_ref().is_none_or(|it| it.may_be_succeeded),
            pod: seen.and_then(|it| it.pod),
        });
    }
}

impl Herald<'_> {
    async fn look(&mut self) {
        let node = Arc::clone(self.ctx.node());
        let Ok(status) = node.status().await else { return };
        let pods = match node.get_cluster(POD_KEY).await {
            Ok(told) => Pods::read(&told),
            Err(error) => {
                tracing::debug!(%error, "which pods the nodes run in is not known");
                Pods::default()
            }
        };
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
        let is_rival = |it: &NodeStatus| it.queue.is_some() && it.id != own.to_string();
        self.seen = Some(Seen {
            picture: new.clone(),
            pod: pods.of(own).map(|(name, uid)| (name.to_owned(), uid.to_owned())),
            may_be_succeeded: status.nodes.iter().any(is_rival),
        });
        let counts = self.task.checks.as_ref().map(|checks| checks.borrow().clone());
        if let Some(counts) = &counts {
            picture::count(&mut new, counts.clone(), before);
        }
        if let Some((written, at)) = &self.written
            && now.since(*at) < SEEN_EVERY
            && picture::is_same_but_seen(written, &new)
        {
            return Ok(());
        }
        let name = self.task.election.name();
        // The fence's draw has made it; who deletes it waits for the next draw.
        let Some(found) = self.api.get_opt(&name).await? else { return Ok(()) };
        let last = found.status.as_ref().and_then(|it| it.fence);
        if last > Some(fence.number()) {
            tracing::debug!(ours = %fence, last, "a later leader has drawn: it tells of the cluster now");
            return Ok(());
        }
        new.observed_generation = found.metadata.generation;
        picture::carry_times(&mut new, found.status.as_ref());
        if let Some(None) = counts {
            picture::count(&mut new, None, found.status.as_ref());
        }
        let (params, body) = (PatchParams::apply(MANAGER).force(), ended::body(&found, &new));
        match self.api.patch_status(&name, &params, &body).await {
            Ok(_) => {}
            // Somebody wrote in between: next time.
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

    /// The event of a take-over.
    async fn announce(&self, election: &Election, status: &Status, new: &ElectionStatus) {
        let who = new.leader.as_ref().map_or("nobody", |leader| leader.name.as_str());
        let why = former_end(&status.timeline, &self.ctx.term().to_string());
        let note = format!("{who} took office for term {}: {why}", self.ctx.term());
        let said = ("LeaderElected", "TakeOffice");
        self.events.say(election, &(), EventType::Normal, said, note).await;
        if let Some(lost) = former(&status.timeline, &self.ctx.term().to_string())
            .filter(|reign| ["silent", "replaced"].contains(&reign.end.as_str()))
        {
            let note =
                format!("node {} of term {} was lost: it was {}", lost.id, lost.term, lost.end);
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

fn former<'a>(timeline: &'a [Reign], term: &str) -> Option<&'a Reign> {
    timeline.iter().rev().find(|reign| reign.term != term)
}

/// How the term before this one ended, in words.
fn former_end(timeline: &[Reign], term: &str) -> String {
    match former(timeline, term) {
        None => "no earlier term is known".to_owned(),
        Some(Reign { term, id, end, .. }) => match end.as_str() {
            "ended" => format!("node {id} had ended term {term} cleanly"),
            "silent" => format!("node {id} of term {term} was silent for too long"),
            "replaced" => format!("node {id} of term {term} was replaced"),
            _ => format!("node {id} had led in term {term}"),
        },
    }
}
