//! A change of a referenced Secret is a change of the object that names it: a `Deployment` carries the version of the
//! Secret that its annotation `example.com/secret` names, so that its pods are replaced when the Secret changes.

use std::sync::Arc;

use bellwether::k8s::{
    k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret},
    prelude::*,
};
use serde_json::{from_value, json};

/// Annotation of a `Deployment` with the name of a Secret in its namespace.
const SECRET: &str = "example.com/secret";

/// Writes the version of the Secret into the template of the pods.
pub async fn reconcile(app: Arc<Deployment>, ctx: Context) -> Result<Action, ReconcileError> {
    let Some(name) = app.annotations().get(SECRET) else { return Ok(Action::done()) };
    let wanted: Secret = from_value(json!({
        "metadata": { "name": name, "namespace": app.namespace() },
    }))?;
    // From the cache: no request is sent. A Secret that does not exist yet causes a run when it is created.
    let Some(secret) = ctx.seen(&wanted) else { return Ok(Action::done()) };
    let version = secret.resource_version().unwrap_or_default();
    let desired: Deployment = from_value(json!({
        "metadata": { "name": app.name_any(), "namespace": app.namespace() },
        "spec": {
            "selector": app.spec.selector,
            "template": { "metadata": { "annotations": { "example.com/secret-version": version } } },
        },
    }))?;
    let namespace = app.namespace();
    let writer = ctx.writer::<Deployment>(namespace.as_deref());
    writer.apply(&desired, Some(&app)).await?;
    Ok(Action::done())
}

/// Adds the controller to an operator. The cache of the deployments shows which ones name a Secret.
pub fn operator(mut operator: Operator) -> Operator {
    let scope = operator.watched().clone();
    let apps = operator.cache::<Deployment>(&(), &scope);
    let named_by = move |secret: &Secret| {
        let (namespace, name) = (secret.namespace(), secret.name_any());
        let is_named = |app: &Deployment| {
            app.namespace() == namespace && app.annotations().get(SECRET) == Some(&name)
        };
        apps.filter(is_named).iter().map(|app| ObjectKey::of(&**app)).collect()
    };
    let controller = Controller::<Deployment>::new(reconcile)
        .watches::<Secret>(named_by)
        .needs::<Deployment>(&["patch"]);
    operator.controller(controller)
}
