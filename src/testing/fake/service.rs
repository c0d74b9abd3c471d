//! The fake as a service for HTTP requests, which `kube`'s client sends them to.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream};
use http::{Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::BoxError;

use super::{
    call::{Asked, Call, Verb, Watch},
    failure::Failure,
    kinds::Target,
    model::{Change, Event, Model},
    selector::Selector,
};
use crate::clock;

/// Body of an answer to a request.
type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Decides which requests fail.
type Rule = Arc<dyn Fn(&Call) -> Option<Failure> + Send + Sync>;

/// Follows the changes of the objects, in their order.
pub(super) type Follower = Box<dyn Fn(&Change) + Send + Sync>;

/// State of a fake that its handles and clients share.
#[derive(Default)]
pub(super) struct Server {
    inner: Mutex<Inner>,
    /// Version of the newest change, for the watches.
    changed: watch::Sender<u64>,
    calls: Mutex<Vec<(Call, u16)>>,
    rule: Mutex<Option<Rule>>,
}

#[derive(Default)]
struct Inner {
    model: Model,
    followers: Vec<Follower>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time of a write, in the form and precision that objects have.
pub(super) fn now() -> String {
    let seconds = i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

impl Server {
    /// Acts on the objects. Followers and watches see the changes before this returns.
    pub(super) fn act<T>(&self, act: impl FnOnce(&mut Model) -> T) -> T {
        let mut inner = lock(&self.inner);
        let before = inner.model.version();
        let result = act(&mut inner.model);
        let Inner { model, followers } = &*inner;
        for change in model.changes_after(before) {
            for follow in followers {
                follow(change);
            }
        }
        let version = inner.model.version();
        self.changed.send_if_modified(|newest| std::mem::replace(newest, version) != version);
        result
    }

    pub(super) fn follow(&self, follower: Follower) {
        lock(&self.inner).followers.push(follower);
    }

    pub(super) fn calls(&self) -> Vec<(Call, u16)> {
        lock(&self.calls).clone()
    }

    pub(super) fn set_rule(&self, rule: Option<Rule>) {
        *lock(&self.rule) = rule;
    }

    /// Answers a request of a client.
    pub(super) fn serve(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<AnswerBody>, BoxError>> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let call = Call {
                method: parts.method.clone(),
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
            };
            let rule = lock(&self.rule).clone();
            let answer = match rule.and_then(|rule| rule(&call)) {
                Some(failure) => Err(failure),
                None => self
                    .act(|model| Asked::read(&model.kinds, &parts, &body, now()))
                    .and_then(|asked| self.answer(asked)),
            };
            let (code, body) = match answer {
                Ok(Answer::Object(code, object)) => (code, whole(&object)),
                Ok(Answer::Watch(target, selector, watch)) => {
                    (200, Arc::clone(&self).events(target, selector, &watch))
                }
                Err(failure) => (failure.code(), whole(&failure.status())),
            };
            lock(&self.calls).push((call, code));
            let answer = Response::builder().status(code).header(CONTENT_TYPE, "application/json");
            Ok(answer.body(body)?)
        })
    }

    fn answer(&self, asked: Asked) -> Result<Answer, Failure> {
        let Asked { target, verb, write } = asked;
        self.act(|model| {
            let (code, object) = match verb {
                Verb::Watch(selector, watch) => {
                    return Ok(Answer::Watch(target, selector, watch));
                }
                Verb::List(selector) => (200, Arc::new(model.list(&target, &selector))),
                Verb::Get => {
                    let name = target.name.clone().unwrap_or_default();
                    let found = model.listed(&target, &Selector::default());
                    let object = found.into_iter().find(|it| it["metadata"]["name"] == name);
                    let object = object.ok_or_else(|| target.kind.about(&name).not_found())?;
                    (200, Arc::clone(object))
                }
                Verb::Create(object) => model.create(&target, object, &write)?,
                Verb::Update(object) => model.update(&target, object, &write)?,
                Verb::Patch(patch) => model.patch(&target, patch, &write)?,
                Verb::Delete(options) => model.delete(&target, &options, &write)?,
                Verb::DeleteAll(options, selector) => {
                    let list = model.list(&target, &selector);
                    for object in list["items"].as_array().into_iter().flatten() {
                        let text = |field: &str| super::form::text(object, field).to_owned();
                        let (name, namespace) = (Some(text("name")), text("namespace"));
                        let one = Target { namespace, name, ..target.clone() };
                        model.delete(&one, &options, &write)?;
                    }
                    (200, Arc::new(list))
                }
            };
            Ok(Answer::Object(code, object))
        })
    }

    /// Body with the events of a watch, which ends with its timeout.
    fn events(self: Arc<Self>, target: Target, selector: Selector, watch: &Watch) -> AnswerBody {
        let (first, after) = self.act(|model| {
            if let Some(after) = watch.after {
                (Vec::new(), after)
            } else {
                let objects = model.listed(&target, &selector).into_iter();
                let mut first: Vec<_> =
                    objects.map(|it| Event { kind: "ADDED", object: Value::clone(it) }).collect();
                if watch.is_list {
                    first.push(end_of_list(&target, model.version()));
                }
                (first, model.version())
            }
        });
        let changed = self.changed.subscribe();
        let state = Some((self, target, selector, changed, after));
        let later = stream::unfold(state, |state| async move {
            let (server, target, selector, mut changed, after) = state?;
            let newest = changed.wait_for(|newest| after < *newest).await.map(|it| *it);
            newest.ok()?;
            match server.act(|model| model.events(&target, &selector, after)) {
                Ok((events, after)) => {
                    Some((events, Some((server, target, selector, changed, after))))
                }
                // The watch ends with its error.
                Err(failure) => {
                    Some((vec![Event { kind: "ERROR", object: failure.status() }], None))
                }
            }
        });
        let events = stream::iter([first]).chain(later).flat_map(stream::iter);
        let frames = events.map(|event| Ok::<_, Infallible>(Frame::data(line(&event))));
        match watch.timeout_seconds {
            Some(seconds) => {
                let end = tokio::time::sleep(Duration::from_secs(seconds));
                StreamBody::new(frames.take_until(end)).boxed_unsync()
            }
            None => StreamBody::new(frames).boxed_unsync(),
        }
    }
}

/// Answer to a request that succeeds.
enum Answer {
    Object(u16, Arc<Value>),
    Watch(Target, Selector, Watch),
}

/// The event that ends the present objects of a watch that lists them first.
fn end_of_list(target: &Target, version: u64) -> Event {
    let object = json!({
        "kind": target.kind.kind,
        "apiVersion": target.kind.api_version(),
        "metadata": {
            "resourceVersion": version.to_string(),
            "annotations": { "k8s.io/initial-events-end": "true" },
        },
    });
    Event { kind: "BOOKMARK", object }
}

fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("the keys of all objects are text");
    line.push(b'\n');
    line.into()
}

fn whole(value: &Value) -> AnswerBody {
    Full::new(line(value)).boxed_unsync()
}
