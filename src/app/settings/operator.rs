//! The [`Operator`] that the settings describe.

use super::{Api, Prepared, Settings};
use crate::{
    app::exit::Failure,
    k8s::{fence::ElectionRef, operator::Operator},
};

impl Operator {
    /// Creates an operator as the settings describe it: store, node, status server, connection to the API
    /// server, the pod of this process, and the scope of its controllers.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use bellwether::{
    ///     app::Settings,
    ///     k8s::{k8s_openapi::api::apps::v1::Deployment, prelude::*},
    ///     telemetry::program::Program,
    /// };
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// async fn reconcile(object: Arc<Deployment>, ctx: Context) -> Result<Action, ReconcileError> {
    ///     Ok(Action::done())
    /// }
    ///
    /// let program = Program { name: "shop", version: env!("CARGO_PKG_VERSION") };
    /// let (settings, _logs) = Settings::from_env(program)?;
    /// Operator::from_settings(&settings)
    ///     .await?
    ///     .controller(Controller::<Deployment>::new(reconcile))
    ///     .run_until_signalled()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// A [`Failure`] that names the setting, its value and the remedy. A store or an API server that does not
    /// answer is not an error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the status server is closed.
    pub async fn from_settings(settings: &Settings) -> Result<Self, Failure> {
        let Prepared { host, pod, requests, .. } = settings.prepare(Api::Used).await?;
        let (endpoint, client) = settings.cluster.api.connect(requests).await?;
        let namespace = settings.cluster.api.namespace(&client);
        let scope = settings.objects.scope(&namespace);
        let election = ElectionRef { namespace, cluster: settings.cluster().to_owned() };
        tracing::info!(%endpoint, %election, "working on Kubernetes");
        let operator = Self::new(host, client, election).scope(scope);
        Ok(match pod {
            Some(pod) => operator.pod(pod),
            None => operator,
        })
    }
}
