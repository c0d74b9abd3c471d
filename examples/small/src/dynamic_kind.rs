//! A kind that is known only at run time, for example from a setting: each of its objects gets the annotation
//! `example.com/seen`.

use std::sync::Arc;

use bellwether::k8s::{
    kube::{api::DynamicObject, core::ApiResource},
    prelude::*,
};
use serde_json::{from_value, json};

/// Annotates one object of the kind.
pub async fn reconcile(
    kind: ApiResource,
    object: Arc<DynamicObject>,
    ctx: Context,
) -> Result<Action, ReconcileError> {
    if object.annotations().contains_key("example.com/seen") {
        return Ok(Action::done());
    }
    let desired: DynamicObject = from_value(json!({
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {
            "name": object.name_any(),
            "namespace": object.namespace(),
            "annotations": { "example.com/seen": "yes" },
        },
    }))?;
    let namespace = object.namespace();
    let writer = ctx.writer_of::<DynamicObject>(kind, namespace.as_deref());
    writer.apply(&desired, Some(&object)).await?;
    Ok(Action::done())
}

/// Adds a controller of the kind to an operator.
pub fn operator(operator: Operator, kind: &ApiResource) -> Operator {
    let of = kind.clone();
    let work = move |object, ctx| reconcile(of.clone(), object, ctx);
    let controller = Controller::<DynamicObject>::dynamic(kind.clone(), work)
        .needs_kind::<DynamicObject>(kind, &["patch"]);
    operator.controller(controller)
}
