use std::sync::Mutex;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Client, client::Body};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tower::{BoxError, service_fn};

use super::*;
use crate::{
    k8s::{
        cache::{CacheSet, Running, Scope},
        client::Inlet,
        key::ObjectKey,
        metrics::K8sMetrics,
    },
    tasks,
};

/// A line of a watch response.
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

/// A cache fed by an API that sends the given lines over a connection with this inlet.
fn kept(inlet: &Inlet) -> (Cache<ConfigMap>, mpsc::Sender<Bytes>, Running) {
    let (sender, lines) = mpsc::channel(16);
    let (lines, inlet) = (Arc::new(Mutex::new(Some(lines))), inlet.clone());
    let service = service_fn(move |_: Request<Body>| {
        let lines = lines.lock().unwrap().take().expect("one watch");
        let lines = ReceiverStream::new(lines);
        let frames = lines.map(|line| Ok::<_, BoxError>(Frame::data(line)));
        let mut answer = Response::new(StreamBody::new(frames));
        answer.extensions_mut().insert(inlet.clone());
        async { Ok::<_, BoxError>(answer) }
    });
    let mut set = CacheSet::new();
    let cache = set.of::<ConfigMap>(&(), &Scope::all());
    let metrics = K8sMetrics::register(&prometheus::Registry::new()).unwrap();
    let running = set.begin(&Client::new(service, "n"), &metrics).pop().unwrap();
    (cache, sender, running)
}

#[tokio::test(start_paused = true)]
async fn the_connection_of_a_cache_that_is_only_kept_warm_rests_and_is_read_when_work_begins() {
    let inlet = Inlet::default();
    let (cache, sender, running) = kept(&inlet);
    let _task = AbortOnDropHandle::new(tasks::spawn("cache", async { match running.run.await {} }));
    let soon = Duration::from_millis(1);
    sender.send(line("ADDED", 1)).await.unwrap();
    sleep(soon).await;
    assert!(!inlet.is_resting(), "it is being listed");
    sender.send(line("BOOKMARK", 1)).await.unwrap();
    cache.synced().await;
    let key = ObjectKey { namespace: Some("n".into()), name: "a".into() };
    let version = || cache.get(&key).unwrap().metadata.resource_version.clone().unwrap();
    for change in [2, 3] {
        sender.send(line("MODIFIED", change)).await.unwrap();
        sleep(soon).await;
        assert_eq!(version(), change.to_string(), "what is handed on is taken in");
        assert!(inlet.is_resting());
    }
    let attention = cache.attend();
    sleep(soon).await;
    assert!(!inlet.is_resting());
    sender.send(line("MODIFIED", 4)).await.unwrap();
    sleep(soon).await;
    assert_eq!(version(), "4");
    assert!(!inlet.is_resting());
    drop(attention);
}
