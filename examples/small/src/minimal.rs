//! The smallest reconciler: each `ConfigMap` with the label `copy=yes` gets a copy, which it owns.

use std::sync::Arc;

use bellwether::k8s::{k8s_openapi::api::core::v1::ConfigMap, prelude::*};
use serde_json::{from_value, json};

/// Brings the copy of one map to the data of the map.
pub async fn reconcile(map: Arc<ConfigMap>, ctx: Context) -> Result<Action, ReconcileError> {
    if map.labels().get("copy").is_none_or(|value| value != "yes") {
        return Ok(Action::done());
    }
    let copy: ConfigMap = from_value(json!({
        "metadata": { "name": format!("{}-copy", map.name_any()) },
        "data": map.data,
    }))?;
    ctx.apply_owned(&*map, copy).await?;
    Ok(Action::done())
}

/// Adds the controller to an operator.
pub fn operator(operator: Operator) -> Operator {
    operator.controller(Controller::<ConfigMap>::new(reconcile).owns::<ConfigMap>())
}
