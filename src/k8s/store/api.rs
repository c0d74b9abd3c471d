//! Requests about the Leases of one namespace, and what their answers mean.

use std::{
    collections::BTreeMap,
    error::Error,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::Stream;
use hyper_util::client::legacy::Error as Legacy;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Client,
    core::{
        Request as Requests, WatchEvent,
        params::{
            DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchParams,
        },
    },
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    ENDPOINT,
    object::{Object, micro_time},
    replica::{Io, Reply},
};
use crate::{
    causes::{chain, find},
    engine::LeaseId,
    k8s::{
        client::{CallOptions, ClientOptions, connect_to},
        explain::explain,
    },
    store::StoreError,
};

/// Label of an incarnation's Lease: the name of its cluster.
pub(super) const LABEL: &str = "bellwether.dev/cluster";

/// Writes are made under this name.
const MANAGER: &str = "bellwether";

/// Reason that a request did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such object, or no such namespace.
    Missing(StoreError),
    /// The object exists, or was written since.
    Conflict,
    /// The request did not take effect, and will not.
    Refused(StoreError),
    /// The request may have taken effect, or may still.
    Lost(StoreError),
}

impl Failure {
    /// The failure as the store's error. `Missing` and `Conflict` are errors where a caller expects neither.
    pub(super) fn into_error(self, call: &'static str) -> StoreError {
        match self {
            Self::Missing(error) | Self::Refused(error) | Self::Lost(error) => error,
            Self::Conflict => StoreError::Interrupted {
                call,
                endpoint: ENDPOINT.to_owned(),
                message: "somebody else wrote the Lease meanwhile".to_owned(),
            },
        }
    }
}

/// Client for reads, which are repeated, and for writes, which are not.
struct Clients {
    endpoint: String,
    reads: Client,
    writes: Client,
}

/// Refusals of requests that no answer of the replica shows, by call: those about the Leases of incarnations, and the
/// watches.
#[derive(Default)]
struct Refusals(Mutex<BTreeMap<&'static str, String>>);

impl Refusals {
    /// Notes the result of a request. A refusal is logged once, until the request succeeds or is refused in other words.
    fn note<T>(&self, call: &'static str, result: &kube::Result<T>) {
        // The task of the store reports these two.
        if matches!(call, "get" | "txn") {
            return;
        }
        let mut refusals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Err(error @ kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                let problem = explain(error).to_string();
                if refusals.get(call) != Some(&problem) {
                    tracing::warn!(call, problem, "the API server refuses a request of the store");
                    refusals.insert(call, problem);
                }
            }
            Ok(_) | Err(kube::Error::Api(_)) => {
                refusals.remove(call);
            }
            // Not answered.
            Err(_) => {}
        }
    }
}

/// The Leases of one cluster.
pub(super) struct Api {
    cluster: String,
    /// Namespace, if the configuration names one.
    given: Option<String>,
    options: ClientOptions,
    /// Time limit of each request.
    limit: Duration,
    clients: OnceCell<Clients>,
    refusals: Refusals,
}

impl Api {
    pub(super) fn new(
        cluster: String,
        given: Option<String>,
        options: ClientOptions,
        limit: Duration,
    ) -> Self {
        let (clients, refusals) = (OnceCell::new(), Refusals::default());
        Self { cluster, given, options, limit, clients, refusals }
    }

    /// A request that is refused although the state can be read and written.
    pub(super) fn refusal(&self) -> Option<String> {
        let refusals = self.refusals.0.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.values().next().cloned()
    }

    /// Address of the API server, for messages.
    pub(super) fn endpoint(&self) -> String {
        self.clients.get().map_or_else(|| ENDPOINT.to_owned(), |it| it.endpoint.clone())
    }

    /// Namespace of the Leases: the configured one, else that of the credentials.
    pub(super) async fn namespace(&self) -> Result<String, Failure> {
        let clients = self.clients().await?;
        Ok(self.given.clone().unwrap_or_else(|| clients.reads.default_namespace().to_owned()))
    }

    async fn clients(&self) -> Result<&Clients, Failure> {
        let connecting = self.clients.get_or_try_init(|| async {
            let calls =
                |attempts| CallOptions { timeout: self.limit, attempts, ..CallOptions::default() };
            let options = self.options.clone().connect_timeout(self.limit);
            let (uri, reads) = connect_to(options.clone().calls(calls(6))).await?;
            let (_, writes) = connect_to(options.calls(calls(1))).await?;
            let endpoint = format!("{ENDPOINT} at {}", uri.to_string().trim_end_matches('/'));
            Ok(Clients { endpoint, reads, writes })
        });
        connecting.await.map_err(|error: crate::k8s::client::ConnectError| {
            Failure::Refused(StoreError::Denied {
                call: "connect",
                endpoint: ENDPOINT.to_owned(),
                message: chain(&error),
            })
        })
    }

    async fn requests(&self) -> Result<Requests, Failure> {
        let namespace = self.namespace().await?;
        Ok(Requests::new(format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")))
    }

    /// Name of an incarnation's Lease.
    pub(super) fn name_of(&self, lease: LeaseId) -> String {
        format!("{}-{lease}", self.cluster)
    }

    /// Incarnation that a Lease stands for.
    pub(super) fn lease_of(&self, name: &str) -> Option<LeaseId> {
        let hex = name.strip_prefix(&self.cluster)?.strip_prefix('-')?;
        crate::store::keys::parse_lease(hex)
    }

    /// Carries out a request of the replica.
    pub(super) async fn send(&self, io: Io) -> Reply {
        let name = self.cluster.as_str();
        let result = match io {
            Io::Read => {
                self.read("get", |it| it.get(name, &kube::core::params::GetParams::default())).await
            }
            Io::Create(body) => {
                let result = self
                    .write("txn", |it| it.create(&params(), body.to_string().into_bytes()))
                    .await;
                // 404 to a POST: the namespace does not exist.
                result.map_err(|failure| match failure {
                    Failure::Missing(error) => Failure::Refused(error),
                    other => other,
                })
            }
            Io::Replace(body) => {
                self.write("txn", |it| it.replace(name, &params(), body.to_string().into_bytes()))
                    .await
            }
        };
        match result {
            Ok(object) => Reply::Object(Box::new(Object::read(object))),
            Err(Failure::Missing(_)) => Reply::Missing,
            Err(Failure::Conflict) => Reply::Conflict,
            Err(Failure::Refused(error)) => Reply::Refused(error),
            Err(Failure::Lost(error)) => Reply::Lost(error),
        }
    }

    /// Creates the Lease of an incarnation.
    pub(super) async fn create(
        &self,
        lease: LeaseId,
        ttl: Duration,
        holder: &str,
        owner: &str,
    ) -> Result<(), Failure> {
        let now = micro_time(Timestamp::now());
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name_of(lease),
                "labels": { LABEL: self.cluster, "app.kubernetes.io/managed-by": "bellwether" },
                "ownerReferences": [{
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "name": self.cluster,
                    "uid": owner,
                }],
            },
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": ttl.as_secs().clamp(1, 1 << 30),
                "acquireTime": now,
                "renewTime": now,
            },
        });
        self.write("grant", |it| it.create(&params(), body.to_string().into_bytes())).await?;
        Ok(())
    }

    /// Renews the Lease of an incarnation.
    pub(super) async fn renew(&self, lease: LeaseId) -> Result<(), Failure> {
        let patch = Patch::Merge(json!({ "spec": { "renewTime": micro_time(Timestamp::now()) } }));
        let params =
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.write("keep_alive", |it| it.patch(&self.name_of(lease), &params, &patch)).await?;
        Ok(())
    }

    /// Deletes the Lease of an incarnation, if it still has this version.
    pub(super) async fn delete(
        &self,
        lease: LeaseId,
        version: Option<String>,
    ) -> Result<(), Failure> {
        let preconditions = version
            .map(|it| Preconditions { resource_version: Some(it), ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        self.write("revoke", |it| it.delete(&self.name_of(lease), &params)).await?;
        Ok(())
    }

    /// Whether the Lease of an incarnation exists.
    pub(super) async fn exists(&self, lease: LeaseId) -> Result<bool, Failure> {
        let name = self.name_of(lease);
        match self.read("get", |it| it.get(&name, &kube::core::params::GetParams::default())).await
        {
            Ok(_) => Ok(true),
            Err(Failure::Missing(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Leases of all incarnations, and the version of the list.
    pub(super) async fn list(&self) -> Result<(Vec<Lease>, String), Failure> {
        let params = ListParams::default().labels(&format!("{LABEL}={}", self.cluster));
        let list = self.read("list", |it| it.list(&params)).await?;
        let list: kube::core::ObjectList<Lease> = serde_json::from_value(list)
            .map_err(|error| Failure::Refused(self.bad_answer("list", &error)))?;
        let version = list.metadata.resource_version.unwrap_or_default();
        Ok((list.items, version))
    }

    /// Watches the object of the cluster; without a version from the object as it is.
    pub(super) async fn watch_cluster(
        &self,
        version: Option<&str>,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, kube::Error>> + Send + use<>, Failure>
    {
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.cluster));
        self.watch(&params, version.unwrap_or("")).await
    }

    /// Watches the Leases of the incarnations.
    pub(super) async fn watch_incarnations(
        &self,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Lease>, kube::Error>> + Send + use<>, Failure>
    {
        let params = WatchParams::default().labels(&format!("{LABEL}={}", self.cluster));
        self.watch(&params, version).await
    }

    async fn watch<T>(
        &self,
        params: &WatchParams,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<T>, kube::Error>> + Send + use<T>, Failure>
    where
        T: Clone + serde::de::DeserializeOwned + Send + 'static,
    {
        let request = self.requests().await?.watch(params, version);
        let request =
            request.map_err(|error| Failure::Refused(self.bad_answer("watch", &error)))?;
        let reads = &self.clients().await?.reads;
        self.within("watch", reads.request_events::<T>(request)).await
    }

    async fn read<F>(&self, call: &'static str, request: F) -> Result<Value, Failure>
    where
        F: FnOnce(&Requests) -> Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    {
        let request = request(&self.requests().await?)
            .map_err(|error| Failure::Refused(self.bad_answer(call, &error)))?;
        let reads = &self.clients().await?.reads;
        match self.within(call, reads.request_text(request)).await {
            // A read changes nothing, also if its answer is lost.
            Err(Failure::Lost(error)) => Err(Failure::Refused(error)),
            Err(other) => Err(other),
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| Failure::Refused(self.bad_answer(call, &error))),
        }
    }

    async fn write<F>(&self, call: &'static str, request: F) -> Result<Value, Failure>
    where
        F: FnOnce(&Requests) -> Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    {
        let request = request(&self.requests().await?)
            .map_err(|error| Failure::Refused(self.bad_answer(call, &error)))?;
        let writes = &self.clients().await?.writes;
        let text = self.within(call, writes.request_text(request)).await?;
        serde_json::from_str(&text).map_err(|error| Failure::Lost(self.bad_answer(call, &error)))
    }

    async fn within<T>(
        &self,
        call: &'static str,
        sending: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        let endpoint = self.endpoint();
        let Ok(answered) = tokio::time::timeout(self.limit, sending).await else {
            let timeout = self.limit;
            return Err(Failure::Lost(StoreError::Unanswered { call, endpoint, timeout }));
        };
        self.refusals.note(call, &answered);
        answered.map_err(|error| classify(call, endpoint, &error))
    }

    fn bad_answer(&self, call: &'static str, error: &dyn Error) -> StoreError {
        let message = format!("the answer cannot be used: {error}");
        StoreError::Interrupted { call, endpoint: self.endpoint(), message }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

/// Meaning of an error. A write that was answered with 429 or 5xx may all the same have taken effect: the
/// answer may be to a second copy, which a proxy has sent.
fn classify(call: &'static str, endpoint: String, error: &kube::Error) -> Failure {
    let explained = explain(error);
    let message = explained.to_string();
    if let kube::Error::Api(status) = error {
        let refused =
            StoreError::Denied { call, endpoint: endpoint.clone(), message: message.clone() };
        return match status.code {
            404 => Failure::Missing(refused),
            409 => Failure::Conflict,
            429 | 503 if call == "get" || call == "list" => {
                Failure::Refused(StoreError::Overloaded { call, endpoint, message })
            }
            400..=428 | 430..=499 => Failure::Refused(refused),
            _ => Failure::Lost(StoreError::Interrupted { call, endpoint, message }),
        };
    }
    if never_sent(error) {
        return Failure::Refused(StoreError::Unreachable { call, endpoint, message });
    }
    Failure::Lost(StoreError::Interrupted { call, endpoint, message })
}

/// Whether the connection was never made, so that nothing was sent.
fn never_sent(error: &kube::Error) -> bool {
    find::<Legacy>(error).is_some_and(Legacy::is_connect)
}
