//! Uptime checks from the Kubernetes API: followers run the checks of their shards, the leader writes the
//! result of each check into its status.
//!
//! ```text
//! API ──▶ cache ──▶ Checks (a snapshot) ──▶ the same work as with a folder ──▶ statuses, on the leader
//!  ▲                                                                              │
//!  └────────────── status writer (a controller, triggered by changes) ◀───────────┘
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use super::{
    aggregate::Stored,
    check::{Check, CheckKey, Checks, FieldError},
    crd::{UptimeCheck, UptimeCheckStatus, cut},
    leader::Statuses,
    manifests::Problem,
    node::Uptime,
    resource::{self, DEFAULT_NAMESPACE, State},
};
use crate::{
    k8s::{
        ObjectKey,
        cache::Delta,
        conditions::{self, Holds},
        controller::{
            Action, Context, Controller, ReconcileError, Reconciler, Trigger, generation,
        },
        crd::condition,
        events::EventType,
        operator::Operator,
        writes::Written,
    },
    node::{
        LeaderContext,
        work::{LeaderTask, WorkError},
    },
};

#[cfg(test)]
mod tests;

/// Changes within this time are published as one snapshot.
const SETTLES_WITHIN: Duration = Duration::from_millis(50);
/// How often times and latencies alone are written; a change of state is written at once.
const WRITTEN_EVERY: Duration = Duration::from_secs(60);
/// Number of statuses that are written concurrently.
const AT_ONCE: usize = 8;
/// Maximum number of UIDs remembered of objects whose status was written here.
const MOST_WRITTEN: usize = 100_000;

/// Checks of the Kubernetes API, as they change.
#[derive(Debug)]
pub struct ApiChecks {
    book: Arc<Book>,
    checks: watch::Sender<Arc<Checks>>,
}

/// A check that can be run, or what is wrong with its object.
type Verdict = Result<Arc<Check>, Vec<FieldError>>;

/// All objects seen, each with the verdict on it.
#[derive(Debug, Default)]
struct Book {
    objects: Mutex<BTreeMap<CheckKey, Entry>>,
    changed: Notify,
}

/// Verdict on an object, and a newer version that is not judged yet. Judging may take long, because regular
/// expressions are compiled.
#[derive(Debug, Default)]
struct Entry {
    verdict: Option<Verdict>,
    came: Option<Arc<UptimeCheck>>,
}

impl Book {
    fn on(&self, delta: &Delta<UptimeCheck>) {
        if let Delta::Changed { old, new } = delta
            && !generation(&**old, &**new)
        {
            return;
        }
        let object = delta.object();
        let key = key_of(object);
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        match delta {
            Delta::Deleted { .. } => {
                objects.remove(&key);
            }
            Delta::Added { .. } | Delta::Changed { .. } => {
                objects.entry(key).or_default().came = Some(Arc::clone(object));
            }
        }
        drop(objects);
        self.changed.notify_one();
    }

    /// Judges the new objects. Blocks for as long as that takes, without holding the lock.
    fn judge(&self) {
        let lock = || self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let came: Vec<_> = {
            let objects = lock();
            let came = |(key, entry): (&CheckKey, &Entry)| Some((key.clone(), entry.came.clone()?));
            objects.iter().filter_map(came).collect()
        };
        for (key, object) in came {
            let check = Check::new(resource::UptimeCheck::from((*object).clone()));
            let mut objects = lock();
            let Some(entry) = objects.get_mut(&key) else { continue };
            // The object may have changed again during the judging.
            if entry.came.as_ref().is_some_and(|came| Arc::ptr_eq(came, &object)) {
                *entry = Entry { verdict: Some(check.map(Arc::new)), came: None };
            }
        }
    }

    /// Returns the checks and problems of all judged objects.
    fn snapshot(&self) -> Checks {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut checks = Checks::default();
        for (key, entry) in &*objects {
            match &entry.verdict {
                None => {}
                Some(Ok(check)) => {
                    checks.checks.insert(key.clone(), Arc::clone(check));
                }
                Some(Err(errors)) => checks.problems.extend(errors.iter().map(|error| Problem {
                    file: key.to_string(),
                    line: None,
                    field: Some(error.path.clone()),
                    message: error.message.clone(),
                })),
            }
        }
        checks
    }
}

fn key_of(object: &UptimeCheck) -> CheckKey {
    let meta = &object.metadata;
    CheckKey::new(
        meta.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE),
        meta.name.as_deref().unwrap_or_default(),
    )
}

impl ApiChecks {
    /// The checks in the scope of this operator, cached by it. [`add`] runs them.
    pub fn of(operator: &mut Operator) -> Self {
        let book: Arc<Book> = Arc::default();
        let told = Arc::clone(&book);
        let scope = operator.watched().clone();
        operator.on_change::<UptimeCheck>(&(), &scope, move |delta| told.on(delta));
        Self { book, checks: watch::Sender::default() }
    }

    /// Receiver of the snapshots of all checks.
    pub fn checks(&self) -> watch::Receiver<Arc<Checks>> {
        self.checks.subscribe()
    }

    /// Publishes changes until it is dropped.
    async fn run(self) -> Infallible {
        loop {
            self.book.changed.notified().await;
            tokio::time::sleep(SETTLES_WITHIN).await;
            let book = Arc::clone(&self.book);
            if let Err(error) = tokio::task::spawn_blocking(move || book.judge()).await {
                tracing::error!(%error, "uptime checks could not be judged");
            }
            self.checks.send_replace(Arc::new(self.book.snapshot()));
        }
    }
}

/// Adds to an operator what these checks need: the reading of the objects, the work of [`super::add`], and the
/// controller that writes the statuses.
#[must_use]
pub fn add(operator: Operator, checks: ApiChecks, uptime: &Uptime) -> Operator {
    let writer = StatusWriter {
        statuses: uptime.statuses(),
        cluster: operator.election().to_string(),
        written: Mutex::default(),
    };
    let controller = Controller::<UptimeCheck>::new(writer)
        .named("uptimecheck")
        .writes_status()
        .publishes_events()
        .predicate(generation)
        .at_once(AT_ONCE);
    let teller = Teller { statuses: uptime.statuses(), trigger: controller.trigger() };
    operator
        .with_host(|host| super::add(host, uptime).task("checks", |_| checks.run()))
        .leader_task(teller)
        .summary(uptime.summary())
        .controller(controller)
}

/// Writes the aggregated status of a check into its object.
#[derive(Debug)]
struct StatusWriter {
    statuses: watch::Receiver<Arc<Statuses>>,
    /// Name of the own cluster in statuses.
    cluster: String,
    /// UIDs of objects whose status was written here. A status of another cluster found later is a rival's.
    written: Mutex<HashSet<String>>,
}

impl StatusWriter {
    /// Returns the other cluster that runs this check too, if its leader has overwritten the status written
    /// here.
    fn rival<'a>(&self, object: &UptimeCheck, before: &'a UptimeCheckStatus) -> Option<&'a str> {
        let writer = before.cluster.as_deref().filter(|it| *it != self.cluster)?;
        let uid = object.metadata.uid.as_deref()?;
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.contains(uid).then_some(writer)
    }

    fn note_written(&self, object: &UptimeCheck) {
        if let Some(uid) = &object.metadata.uid {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if MOST_WRITTEN <= written.len() {
                // Most of these objects were probably deleted long ago; the others are added again at their
                // next write.
                written.clear();
            }
            written.insert(uid.clone());
        }
    }
}

#[async_trait]
impl Reconciler<UptimeCheck> for StatusWriter {
    async fn reconcile(
        &self,
        object: Arc<UptimeCheck>,
        ctx: Context,
    ) -> Result<Action, ReconcileError> {
        let key = key_of(&object);
        let stored = self.statuses.borrow().get(&key).cloned();
        let judged = resource::UptimeCheck::from((*object).clone());
        let verdict = tokio::task::spawn_blocking(move || Check::new(judged)).await?;
        let accepted = verdict.as_ref().map(|_| ()).map_err(Vec::as_slice);
        let before = object.status.clone().unwrap_or_default();
        let mut status = status_of(&object, accepted, stored.map(|stored| stored.status));
        status.cluster = Some(self.cluster.clone());
        if let Some(rival) = self.rival(&object, &before) {
            let note = format!(
                "the clusters {} and {rival} both run this check and write its status: give each a label selector of \
                 its own (--selector, watch.selector of the chart)",
                self.cluster
            );
            ctx.events()
                .say(&*object, &(), EventType::Warning, ("TwoClusters", "Check"), note)
                .await;
        }
        let writer = ctx.writer::<UptimeCheck>(object.metadata.namespace.as_deref());
        if writer.status(&*object, &status).await? == Written::Changed {
            self.note_written(&object);
            tell(&object, &before, &status, &ctx).await;
        }
        Ok(Action::requeue_after(WRITTEN_EVERY))
    }
}

/// Returns the status to write. Pure except for the time of new conditions.
fn status_of(
    object: &UptimeCheck,
    accepted: Result<(), &[FieldError]>,
    known: Option<UptimeCheckStatus>,
) -> UptimeCheckStatus {
    let before = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let mut status = match (accepted, known) {
        (Ok(()), Some(known)) => known,
        // This leader has no result of the check yet, so the written status stays.
        (Ok(()), None) => before.clone(),
        (Err(_), _) => UptimeCheckStatus {
            observed_generation: generation,
            last_change: before.last_change,
            ..UptimeCheckStatus::default()
        },
    };
    status.conditions = before.conditions;
    status.up = match status.state {
        State::Up => Some(true),
        State::Down => Some(false),
        State::Unknown => None,
    };
    let conditions = &mut status.conditions;
    match accepted {
        Ok(()) => {
            let said = ("Valid", "the check can be run");
            conditions::set(conditions, condition::ACCEPTED, Holds::True, said, generation);
        }
        Err(errors) => {
            let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let said = ("Invalid", message.as_str());
            conditions::set(conditions, condition::ACCEPTED, Holds::False, said, generation);
            status.message = cut(format!("not accepted: {message}"));
        }
    }
    let (holds, reason) = match status.state {
        State::Up => (Holds::True, "Answered"),
        State::Down => (Holds::False, "Failed"),
        State::Unknown => (Holds::Unknown, "NoResult"),
    };
    let message = status.message.clone();
    conditions::set(conditions, condition::UP, holds, (reason, &message), generation);
    status
}

/// Publishes an event about what has changed.
async fn tell(
    object: &UptimeCheck,
    before: &UptimeCheckStatus,
    after: &UptimeCheckStatus,
    ctx: &Context,
) {
    if before.state != after.state {
        let (type_, reason) = match after.state {
            State::Up => (EventType::Normal, "Up"),
            State::Down => (EventType::Warning, "Down"),
            State::Unknown => (EventType::Normal, "Unknown"),
        };
        let note = format!("{} → {}: {}", before.state, after.state, after.message);
        ctx.events().say(object, &(), type_, (reason, "Check"), note).await;
    }
    let refused = |status: &UptimeCheckStatus| {
        let accepted = conditions::find(&status.conditions, condition::ACCEPTED)?;
        (accepted.status == "False").then(|| accepted.message.clone())
    };
    if let Some(why) = refused(after).filter(|why| refused(before).as_ref() != Some(why)) {
        ctx.events().say(object, &(), EventType::Warning, ("NotAccepted", "Validate"), why).await;
    }
}

/// Triggers the writing of statuses whose state has changed.
#[derive(Debug)]
struct Teller {
    statuses: watch::Receiver<Arc<Statuses>>,
    trigger: Trigger,
}

#[async_trait]
impl LeaderTask for Teller {
    fn name(&self) -> &'static str {
        "uptime statuses"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let mut statuses = self.statuses.clone();
        let mut told: Arc<Statuses> = Arc::default();
        let token = ctx.token();
        while let Some(Ok(())) = token.run_until_cancelled(statuses.changed()).await {
            let now = Arc::clone(&statuses.borrow_and_update());
            for (key, stored) in &*now {
                let is_news = told.get(key).is_none_or(|before| essence(before) != essence(stored));
                if is_news {
                    self.trigger.look_at(ObjectKey::namespaced(
                        Arc::clone(&key.namespace),
                        Arc::clone(&key.name),
                    ));
                }
            }
            told = now;
        }
        Ok(())
    }
}

/// Part of a status that is written as soon as it differs.
fn essence(stored: &Stored) -> impl PartialEq {
    let status = &stored.status;
    (status.state, status.last_change, status.observed_generation, status.message.clone())
}
