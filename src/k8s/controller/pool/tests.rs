use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{api::ObjectMeta, client::Body};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, service_fn};

use super::{
    super::{ControllerMetrics, assignments::Assignments, enqueue::ADDED_AT_ONCE},
    *,
};
use crate::{
    k8s::{
        authority::{self, tests::alive_tasks},
        cache::Cache,
        queue::{Queue, QueueMetrics},
    },
    node::{ClusterNode, Node as _},
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
fn pool(objects: usize) -> WorkerPool<ConfigMap> {
    pool_of(objects, |_: Arc<ConfigMap>, _: Context| async { Ok(Action::done()) }, limits())
}

fn pool_of(
    objects: usize,
    reconciler: impl Reconciler<ConfigMap>,
    limits: Limits,
) -> WorkerPool<ConfigMap> {
    let cache = Cache::holding((0..objects).map(|number| ConfigMap {
        metadata: ObjectMeta { name: Some(format!("map-{number}")), ..ObjectMeta::default() },
        ..ConfigMap::default()
    }));
    let queue = Queue::new(QueueMetrics::unregistered().queue("test"));
    let assignments = Assignments::default();
    let objects = Arc::new(Enqueuer { cache, held: None, queue, assignments });
    let metrics = ControllerMetrics::unregistered().of("test");
    WorkerPool::new("test".into(), Arc::new(reconciler), objects, Vec::new(), limits, metrics)
}

#[tokio::test]
async fn a_right_that_ends_while_its_objects_are_queued_ends_the_queueing() {
    let objects = pool(10 * ADDED_AT_ONCE).objects;
    let token = CancellationToken::new();
    tokio::join!(biased; objects.add_all(Selection::All, &token), async { token.cancel() });
    assert_eq!(objects.queue.len(), ADDED_AT_ONCE);
    objects.add_all(Selection::All, &CancellationToken::new()).await;
    assert_eq!(objects.queue.len(), 10 * ADDED_AT_ONCE);
}

/// A node that leads, and its authority.
async fn leading() -> (ClusterNode, Authority) {
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
    let pool = pool_of(1, hangs, limits);
    let ctx = pool.context(authority, None, &client(), &Readable::default());
    let object = pool.objects.cache.list().pop().unwrap();
    pool.guarded(object, ctx.child()).await.unwrap_err();
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
            lends.send(ctx.unfenced_client().clone()).await.unwrap();
            Ok(Action::done())
        }
    };
    let pool = Arc::new(pool_of(1, keeps, limits()));
    let context = pool.context(authority, None, &client, &Readable::default());
    let before = alive_tasks();
    let (work, dispatch) =
        (Arc::clone(&pool).work(Selection::All, context), Arc::clone(&pool).dispatch());
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
    let pool = self::pool(0);
    let client = client();
    let before = alive_tasks();
    let ctx = pool.context(authority, None, &client, &Readable::default());
    assert_eq!(alive_tasks(), before);
    let elsewhere = ctx.child();
    std::thread::spawn(move || drop(elsewhere.unfenced_client().clone())).join().unwrap();
    let _ = (ctx.events(), ctx.child().unfenced_client(), ctx.unfenced_client());
    assert_eq!(alive_tasks(), before + 1, "one for all that it asks");
    ctx.end().await;
    assert_eq!(alive_tasks(), before);
    node.stop(Duration::from_secs(60)).await.unwrap();
}
