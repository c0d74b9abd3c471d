//! Two controllers in one process: the leader copies maps, and the node that holds the shard of a map measures it.

use std::sync::Arc;

use bellwether::k8s::{k8s_openapi::api::core::v1::ConfigMap, prelude::*};
use tokio::sync::mpsc;

use super::minimal;

/// Name and size in bytes of a map.
pub type Measured = (String, usize);

/// Measures one map, and sends the result. Nothing is written: many nodes do this at the same time, for other maps.
pub async fn measure(
    results: mpsc::Sender<Measured>,
    map: Arc<ConfigMap>,
    ctx: Context,
) -> Result<Action, ReconcileError> {
    let bytes = map.data.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
    ctx.check()?;
    results.send((map.name_any(), bytes)).await.map_err(ReconcileError::terminal)?;
    Ok(Action::done())
}

/// Adds both controllers to an operator. They share one cache of the maps.
pub fn operator(operator: Operator, results: mpsc::Sender<Measured>) -> Operator {
    let work = move |map, ctx| measure(results.clone(), map, ctx);
    let measuring = Controller::<ConfigMap>::new(work).named("measuring").at_once(4);
    operator.with(minimal::operator).shards(Sharded::new(measuring).as_leader())
}
