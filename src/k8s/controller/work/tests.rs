use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;

use super::*;

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
