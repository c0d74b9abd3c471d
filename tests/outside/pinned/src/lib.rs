//! An operator that is built for an older version of Kubernetes.

use std::sync::Arc;

use bellwether::k8s::{k8s_openapi::api::core::v1::ConfigMap, prelude::*};

/// Keeps a copy of each config map.
///
/// # Errors
///
/// If the API server refuses the copy.
pub async fn reconcile(map: Arc<ConfigMap>, ctx: Context) -> Result<Action, ReconcileError> {
    let mut copy = ConfigMap { data: map.data.clone(), ..ConfigMap::default() };
    copy.metadata.name = Some(format!("{}-copy", map.name_any()));
    ctx.apply_owned(&*map, copy).await?;
    Ok(Action::done())
}

#[cfg(test)]
mod tests {
    use bellwether::testing::Fake;
    use serde_json::{from_value, json};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_makes_a_copy() {
        let map = json!({"metadata": {"name": "a", "namespace": "shop"}, "data": {"key": "value"}});
        let map: ConfigMap = from_value(map).unwrap();
        let fake = Fake::new().with([map.clone()]);
        let ctx = fake.context().await;
        let stored = fake.get::<ConfigMap>("shop", "a").unwrap();
        reconcile(Arc::new(stored), ctx).await.unwrap();
        let copy = fake.get::<ConfigMap>("shop", "a-copy").unwrap();
        assert_eq!(copy.data, map.data);
    }
}
