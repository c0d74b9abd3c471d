use std::sync::Mutex;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Client, client::Body};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tower::{BoxError, service_fn};

use super::*;
use crate::{
    k8s::{
        cache::{CacheSet, Running, Scope},
        key::ObjectKey,
        metrics::K8sMetrics,
    },
    tasks,
};

const BETWEEN: Duration = Duration::from_millis(5);

/// One line of a watch.
fn line(type_: &str, version: u32) -> Bytes {
    let end = match type_ {
        "BOOKMARK" => r#","annotations":{"k8s.io/initial-events-end":"true"}"#,
        _ => "",
    };
    let text = format!(
        r#"{{"type":"{type_}","object":{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"namespace":"n","name":"a","uid":"u","resourceVersion":"{version}"{end}}}}}}}"#
    );
    Bytes::from(text + "\n")
}

/// A cache that is kept from an API which sends what it is given, as it is given.
fn kept() -> (Cache<ConfigMap>, mpsc::Sender<Bytes>, Running) {
    let (sender, lines) = mpsc::channel(1024);
    let lines = Arc::new(Mutex::new(Some(lines)));
    let service = service_fn(move |_: Request<Body>| {
        let lines = lines.lock().unwrap().take().expect("one watch");
        let lines = stream::unfold(lines, |mut lines| async move {
            // As of a connection, whose task hands on the next piece when it runs again.
            tokio::task::yield_now().await;
            Some((lines.recv().await?, lines))
        });
        let frames = lines.map(|line| Ok::<_, BoxError>(Frame::data(line)));
        async { Ok::<_, BoxError>(Response::new(StreamBody::new(frames.boxed()))) }
    });
    let mut set = CacheSet::new();
    let cache = set.of::<ConfigMap>(&(), &Scope::all());
    let metrics = K8sMetrics::register(&prometheus::Registry::new()).unwrap();
    let running = set.begin(&Client::new(service, "n"), &metrics).pop().unwrap();
    (cache, sender, running)
}

/// How old each of ten changes was, sent [`BETWEEN`] each other, when it stood in the cache.
#[expect(clippy::disallowed_methods, reason = "it is tokio's clock that is paused")]
async fn ages(cache: &Cache<ConfigMap>, sender: &mpsc::Sender<Bytes>, first: u32) -> Vec<Duration> {
    let key = ObjectKey { namespace: Some("n".into()), name: "a".into() };
    let version =
        || -> Option<u32> { cache.get(&key)?.metadata.resource_version.as_ref()?.parse().ok() };
    let (mut sent, mut ages) = (Vec::new(), Vec::new());
    while ages.len() < 10 {
        if sent.len() < 10 {
            sender.send(line("MODIFIED", first + sent.len() as u32)).await.unwrap();
            sent.push(Instant::now());
        }
        sleep(BETWEEN).await;
        let seen = (version().unwrap() + 1).saturating_sub(first) as usize;
        while ages.len() < seen {
            ages.push(sent[ages.len()].elapsed());
        }
    }
    ages
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_only_kept_warm_is_read_in_gulps_and_at_once_when_work_begins() {
    let (cache, sender, running) = kept();
    let _task = AbortOnDropHandle::new(tasks::spawn("cache", async { match running.run.await {} }));
    sender.send(line("ADDED", 1)).await.unwrap();
    sender.send(line("BOOKMARK", 1)).await.unwrap();
    cache.synced().await;
    let warm = ages(&cache, &sender, 100).await;
    assert!(warm.iter().any(|age| BETWEEN * 4 < *age), "{warm:?}");
    assert!(warm.iter().all(|age| *age <= BETWEEN * 12), "a gulp takes all there is: {warm:?}");
    let attention = cache.attend();
    let worked_by = ages(&cache, &sender, 200).await;
    assert!(worked_by.iter().all(|age| *age <= BETWEEN), "{worked_by:?}");
    drop(attention);
}
