use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{api::ObjectMeta, client::Body};
use tokio::sync::mpsc;
use tower::{BoxError, service_fn};

use super::*;
use crate::node::{
    LeaderContext, Node as _, StandaloneNode,
    work::{LeaderTask, WorkError},
};

/// A controller whose cache has that many objects.
fn desk(objects: usize) -> Desk<ConfigMap> {
    let cache = Cache::holding((0..objects).map(|number| ConfigMap {
        metadata: ObjectMeta { name: Some(format!("map-{number}")), ..ObjectMeta::default() },
        ..ConfigMap::default()
    }));
    let reconciler = |_: Arc<ConfigMap>, _: Context| async { Ok(Action::done()) };
    let limits = Limits {
        at_once: std::num::NonZeroUsize::MIN,
        timeout: Duration::from_secs(1),
        resync_every: None,
    };
    let setup = Setup {
        caches: &mut CacheSet::new(),
        readable: &mut Readable::default(),
        metrics: &K8sMetrics::new().unwrap(),
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

/// Hands out by what right its node leads.
struct Lends(mpsc::Sender<LeaderContext>);

#[async_trait]
impl LeaderTask for Lends {
    fn name(&self) -> &'static str {
        "lends"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let token = ctx.token();
        self.0.send(ctx).await?;
        token.cancelled().await;
        Ok(())
    }
}

#[tokio::test]
async fn while_a_controller_works_all_caches_that_it_needs_are_read_at_once() {
    let (lends, mut lent) = mpsc::channel(1);
    let node = StandaloneNode::builder().cluster("attends").id(1).leader_task(Lends(lends));
    let node = node.build().unwrap();
    node.start().await.unwrap();
    let authority = Authority::Leader(lent.recv().await.unwrap());
    let desk = Arc::new(desk(1));
    let (own, other) = (desk.cache.clone(), Cache::<ConfigMap>::holding([]));
    desk.needs(&own);
    desk.needs(&other);
    let nobody =
        service_fn(|_: Request<Body>| async { Err::<Response<Body>, BoxError>("is asked".into()) });
    let right = Right {
        lane: Lane::All,
        authority,
        fence: None,
        client: Client::new(nobody, "n"),
        readable: Readable::default(),
    };
    assert!(!own.is_attended() && !other.is_attended());
    let mut work = desk.work(right);
    assert!(futures::poll!(&mut work).is_pending());
    assert!(own.is_attended() && other.is_attended());
    node.stop(Duration::from_secs(60)).await.unwrap();
    work.await;
    assert!(!own.is_attended() && !other.is_attended());
}
