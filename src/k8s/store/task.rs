//! The task that owns the replica: it takes calls in, sends one request at a time, and watches the object.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _, future::BoxFuture};
use jiff::Timestamp;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    api::Api,
    object::{Object, Unreadable},
    replica::{Io, Replica, Reply, Ticket},
    state::MAX_BYTES,
};
use crate::store::{
    Health, StateMetrics, StoreError,
    memory::{Contents, Model},
    protocol::{Request, Response},
};
use crate::{clock, engine::BootTime};

/// Pause before a watch that ended is opened again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Events that wait for the replica: each is a whole state, and the task takes them at once.
const EVENTS: usize = 16;

/// For this long after a write was denied, a read that is answered does not show that writes are allowed.
const DENIAL_LASTS: Duration = Duration::from_secs(10);

/// Kind of the store, in metrics.
pub(super) const KIND: &str = "kubernetes";

/// Call of a store's handle, for the task to carry out.
pub(super) struct Ask {
    pub(super) ticket: Ticket,
    pub(super) request: Request,
    /// A call whose answer is no longer waited for is not sent any more.
    pub(super) reply: oneshot::Sender<Result<Response, StoreError>>,
}

/// The replica as the rest of the store sees it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) model: Arc<Model>,
    /// UID of the object, if it exists.
    pub(super) uid: Option<String>,
    /// Candidate of client-go that holds the Lease, by its own name.
    pub(super) neighbour: Option<String>,
}

impl Default for Seen {
    fn default() -> Self {
        let model = Arc::new(Model::from_contents(0, Contents::default()));
        Self { model, uid: None, neighbour: None }
    }
}

/// An event of the object's watch.
enum Event {
    Object(Box<Result<Object, Unreadable>>),
    /// The object is gone, or events may have been missed.
    Look,
}

pub(super) async fn run(
    api: Arc<Api>,
    mut replica: Replica,
    mut asked: mpsc::Receiver<Ask>,
    shown: watch::Sender<Seen>,
    health: Arc<Mutex<Health>>,
    metrics: StateMetrics,
) {
    let mut callers = HashMap::<Ticket, oneshot::Sender<_>>::new();
    let mut flight: Option<BoxFuture<'_, Reply>> = None;
    let mut is_write = false;
    let mut denied_at = None;
    let mut learned = None;
    let (sender, mut events) = mpsc::channel(EVENTS);
    let mut following = std::pin::pin!(follow(&api, sender));
    loop {
        let wake_at = replica.advance(clock::boot_now());
        callers.retain(|ticket, reply: &mut oneshot::Sender<_>| {
            if reply.is_closed() {
                replica.forget(*ticket);
            }
            !reply.is_closed()
        });
        if flight.is_none()
            && let Some(io) = replica.next_io(Timestamp::now())
        {
            let api = &api;
            is_write = io != Io::Read;
            flight = Some(Box::pin(async move { api.send(io).await }));
        }
        // The replica is shown before its answers: who has an answer finds it there.
        if learned != Some(replica.learned()) {
            learned = Some(replica.learned());
            let uid = replica.uid().map(str::to_owned);
            if let Some(bytes) = replica.bytes() {
                metrics.bytes.with_label_values(&[KIND]).set(bytes as i64);
                metrics.bound.with_label_values(&[KIND]).set(MAX_BYTES as i64);
            }
            let neighbour = replica.foreign_holder().map(str::to_owned);
            shown.send_replace(Seen { model: Arc::new(replica.model().clone()), uid, neighbour });
        }
        for (ticket, result) in replica.take_answers() {
            if let Some(reply) = callers.remove(&ticket) {
                let _ = reply.send(result);
            }
        }
        tokio::select! {
            ask = asked.recv() => match ask {
                Some(Ask { ticket, request, reply }) => {
                    callers.insert(ticket, reply);
                    replica.ask(ticket, request);
                }
                // All handles are gone.
                None => std::future::pending().await,
            },
            reply = async {
                match flight.as_mut() {
                    Some(flight) => flight.await,
                    None => std::future::pending().await,
                }
            } => {
                flight = None;
                if matches!(reply, Reply::Conflict) {
                    metrics.conflicts.inc();
                }
                let now = clock::boot_now();
                if is_write {
                    denied_at = is_denial(&reply).then_some(now);
                }
                if is_write || denied_at.is_none_or(|at| DENIAL_LASTS <= now.since(at)) {
                    note(&health, &api, &reply);
                }
                replica.replied(reply);
            }
            Some(event) = events.recv() => match event {
                Event::Object(seen) => replica.observe(*seen),
                Event::Look => replica.look_again(),
            },
            () = &mut following => {}
            () = until(wake_at) => {}
        }
    }
}

async fn until(at: Option<BootTime>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(clock::boot_now())).await,
        None => std::future::pending().await,
    }
}

fn is_denial(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(StoreError::Denied { .. }))
}

fn note(health: &Mutex<Health>, api: &Api, reply: &Reply) {
    let problem = match reply {
        Reply::Object(_) | Reply::Missing | Reply::Conflict => None,
        Reply::Refused(error) | Reply::Lost(error) => Some(error.to_string()),
    };
    let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(problem) = &problem
        && health.problem.as_ref() != Some(problem)
    {
        tracing::warn!(problem, "the API server does not serve the store");
    }
    if problem.is_none() && !health.healthy {
        tracing::info!("the API server serves the store again");
    }
    let denied = is_denial(reply);
    *health = Health { endpoint: api.endpoint(), healthy: problem.is_none(), problem, denied };
}

/// Follows the object: a watch that ends is opened again, from where it ended if the API server still has that.
async fn follow(api: &Api, events: mpsc::Sender<Event>) {
    let mut version = None;
    let mut pause = Duration::ZERO;
    loop {
        let began = version.clone();
        match api.watch_cluster(began.as_deref()).await {
            Ok(stream) => deliver(stream, &mut version, &events).await,
            Err(failure) => {
                tracing::debug!(?failure, "the Lease of the cluster cannot be watched");
                version = None;
            }
        }
        // Without a place to continue from, something may have been missed.
        if version.is_none() {
            let _ = events.send(Event::Look).await;
        }
        pause = if version == began {
            (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE)
        } else {
            FIRST_PAUSE
        };
        tokio::time::sleep(pause).await;
    }
}

/// Passes the events of one watch on; `version` is where the next watch continues.
async fn deliver(
    stream: impl Stream<Item = Result<WatchEvent<Value>, kube::Error>>,
    version: &mut Option<String>,
    events: &mpsc::Sender<Event>,
) {
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                let read = Object::read(object);
                if let Ok(object) = &read {
                    *version = Some(object.version.clone());
                }
                Event::Object(Box::new(read))
            }
            Ok(WatchEvent::Deleted(_)) => Event::Look,
            Ok(WatchEvent::Bookmark(bookmark)) => {
                *version = Some(bookmark.metadata.resource_version);
                continue;
            }
            Ok(WatchEvent::Error(status)) => {
                tracing::debug!(%status, "the watch of the cluster's Lease ended");
                *version = None;
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "the watch of the cluster's Lease broke");
                return;
            }
        };
        let _ = events.send(event).await;
    }
}
