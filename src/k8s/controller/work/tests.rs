use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{api::ObjectMeta, client::Body};
use tokio::sync::mpsc;
use tower::{BoxError, service_fn};

use super::*;
use crate::{
    k8s::authority::{self, tests::alive_tasks},
    node::{Node as _, StandaloneNode},
    tasks,
};

fn limits() -> Limits {
    Limits {
        at_once: std::num::NonZeroUsize::MIN,
        timeout: Duration::from_secs(1),
        resync_every: None,
    }
}

/// A controller whose cache has `objects` objects.
fn desk(objects: usize) -> Desk<ConfigMap> {
    desk_of(objects, |_: Arc<ConfigMap>, _: Context| async { Ok(Action::done()) }, limits())
}

fn desk_of(
    objects: usize,
    reconciler: impl Reconciler<ConfigMap>,
    limits: Limits,
) -> Desk<ConfigMap> {
    let cache = Cache::holding((0..objects).map(|number| ConfigMap {
        metadata: ObjectMeta { name: Some(format!("map-{number}")), ..ObjectMeta::default() },
        ..ConfigMap::default()
    }));
    let setup = Setup {
        caches: &mut CacheSet::new(),
        readable: &mut Readable::default(),
        metrics: &ControllerMetrics::unregistered(),
        queues: &QueueMetrics::unregistered(),
    };
    Desk::new("test".into(), Arc::new(reconciler), cache, limits, None, &setup)
}

#[tokio::test]
async fn a_right_that_ends_while_its_objects_are_queued_ends_the_queueing() {
    let desk = desk(10 * ADDED_AT_ONCE);
    let token = CancellationToken::new();
    tokio::join!(biased; desk.add_all(Lane::All, &token), async { token.cancel() });
    assert_eq!(desk.queue.len(), ADDED_AT_ONCE);
    desk.add_all(Lane::All, &CancellationToken::new()).await;
    assert_eq!(desk.queue.len(), 10 * ADDED_AT_ONCE);
}

/// A node that leads, and its authority.
async fn leading() -> (StandaloneNode, Authority) {
    let (node, ctx) = authority::tests::leading().await;
    (node, Authority::Leader(ctx))
}

fn client() -> Client {
    let nobody =
        service_fn(|_: Request<Body>| async { Err::<Response<Body>, BoxError>("is asked".into()) });
    Client::new(nobody, "n")
}

#[tokio::test]
async fn what_a_run_has_spawned_is_told_that_the_run_is_over_also_if_it_took_too_long() {
    let (node, authority) = leading().await;
    let (spawned, mut ended) = mpsc::channel(1);
    let hangs = move |_: Arc<ConfigMap>, ctx: Context| {
        let spawned = spawned.clone();
        async move {
            drop(tasks::spawn("of the run", async move {
                ctx.cancelled().await;
                spawned.send(()).await.unwrap();
            }));
            std::future::pending().await
        }
    };
    let limits = Limits { timeout: Duration::from_millis(10), ..limits() };
    let desk = desk_of(1, hangs, limits);
    let (name, metrics) = (Arc::clone(&desk.name), desk.metrics.clone());
    let ctx = Context::new(&name, authority, None, &client(), Readable::default(), metrics);
    let object = desk.cache.list().pop().unwrap();
    desk.guarded(object, ctx.child()).await.unwrap_err();
    let told = tokio::time::timeout(Duration::from_secs(60), ended.recv()).await;
    told.expect("it is told").unwrap();
    assert!(!ctx.is_cancelled(), "the right goes on");
    node.stop(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_grant_leaves_no_task_behind_and_what_is_kept_of_its_client_is_refused() {
    let (node, ctx) = authority::tests::leading().await;
    let client = client();
    let token = CancellationToken::new();
    let authority = Authority::Leader(ctx.with_token(token.clone()));
    let (lends, mut lent) = mpsc::channel(1);
    let keeps = move |_: Arc<ConfigMap>, ctx: Context| {
        let lends = lends.clone();
        async move {
            let _ = ctx.events();
            lends.send(ctx.client().clone()).await.unwrap();
            Ok(Action::done())
        }
    };
    let desk = Arc::new(desk_of(1, keeps, limits()));
    let readable = Readable::default();
    let right = Right { lane: Lane::All, authority, fence: None, client, readable };
    let before = alive_tasks();
    let (work, dispatch) = (Arc::clone(&desk).work(right), Arc::clone(&desk).dispatch());
    let keeping = async {
        let kept = lent.recv().await.unwrap();
        token.cancel();
        kept
    };
    let kept = tokio::select! {
        biased;
        () = dispatch => unreachable!("it goes on for as long as it is polled"),
        (kept, ()) = async { tokio::join!(keeping, work) } => kept,
    };
    assert_eq!(alive_tasks(), before);
    let request = Request::post("/write").body(Body::from(b"{}".to_vec())).unwrap();
    let error = kept.send(request).await.unwrap_err();
    assert!(is_refused(&error), "{error:?}");
    node.stop(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn work_that_asks_the_api_server_nothing_has_no_task_of_its_own() {
    let (node, authority) = leading().await;
    let desk = desk(0);
    let client = client();
    let before = alive_tasks();
    let (name, metrics) = (Arc::clone(&desk.name), desk.metrics.clone());
    let ctx = Context::new(&name, authority, None, &client, Readable::default(), metrics);
    assert_eq!(alive_tasks(), before);
    let elsewhere = ctx.child();
    std::thread::spawn(move || drop(elsewhere.client().clone())).join().unwrap();
    let _ = (ctx.events(), ctx.child().client(), ctx.client());
    assert_eq!(alive_tasks(), before + 1, "one for all that it asks");
    ctx.end().await;
    assert_eq!(alive_tasks(), before);
    node.stop(Duration::from_secs(60)).await.unwrap();
}
