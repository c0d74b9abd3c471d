//! An attempt of a request, from credentials to the socket: kube's layers over hyper's client.
//!
//! kube's own `ClientBuilder::try_from(Config)` is not used: its connections have no TCP keepalive, so a watch whose
//! server is gone would end minutes late; and they reject a server's own certificate even if the list of trusted
//! certificates contains it (see [`trust`]).

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Uri, header::USER_AGENT};
use http_body_util::BodyExt as _;
use hyper::rt::{Read, Write};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::{
        legacy::{
            self,
            connect::{
                Connection, HttpConnector,
                proxy::{SocksV5, Tunnel},
            },
        },
        proxy::matcher::Intercept,
    },
    rt::{TokioExecutor, TokioTimer},
};
use kube::{Config, client::ConfigExt as _};
use tower::{BoxError, Service, ServiceBuilder, util::BoxCloneSyncService};

use super::{
    AnswerBody, Attempt, ClientOptions, ConnectError,
    config::Found,
    gate::{Gated, HeldBody},
    metrics::{HostMetrics, Measured},
    trust,
};
use crate::k8s::explain::without_output;

/// TCP probes a silent connection after this time, so that a watch whose server is gone ends within half a minute.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// TCP closes a connection whose data was not acknowledged for this time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// The pool closes a connection that was idle for this time.
const IDLE: Duration = Duration::from_secs(90);

/// The API server was not reached, or the connection broke before the answer. A write may have been carried out or not.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the API server at {}", .to.endpoint)]
pub(crate) struct TransportError {
    pub(crate) to: Arc<Destination>,
    source: legacy::Error,
}

/// Addresses that requests go to, for error messages.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Address of the API server.
    pub(crate) endpoint: String,
    /// Address of the proxy in between, without credentials.
    pub(crate) proxy: Option<String>,
}

/// The service that carries out one attempt.
pub(super) fn attempts(
    found: Found,
    options: &ClientOptions,
    metrics: Arc<HostMetrics>,
) -> Result<Attempt, ConnectError> {
    let Found { config, proxy } = found;
    let stack = Stack { config, proxy: proxy.as_ref().map(|it| it.uri().to_string()), metrics };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let Some(proxy) = proxy else { return stack.over(tcp, options) };
    match proxy.uri().scheme_str() {
        Some("socks5" | "socks5h") => {
            let mut socks = SocksV5::new(proxy.uri().clone(), tcp);
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            stack.over(socks, options)
        }
        Some("https") => {
            // `tls_server_name` is the name of the API server, not of the proxy.
            let mut config = stack.config.clone();
            config.tls_server_name = None;
            let tls = trust::connector(&config, tcp).map_err(|it| stack.certificates(it))?;
            stack.over(tunnel(&proxy, tls), options)
        }
        _ => stack.over(tunnel(&proxy, tcp), options),
    }
}

/// Connects through the proxy with CONNECT.
fn tunnel<C>(proxy: &Intercept, connector: C) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy.uri().clone(), connector);
    match proxy.basic_auth() {
        Some(auth) => tunnel.with_auth(auth.clone()),
        None => tunnel,
    }
}

/// Parts of the layers above the connection.
struct Stack {
    config: Config,
    proxy: Option<String>,
    metrics: Arc<HostMetrics>,
}

impl Stack {
    /// Attempts over connections that `connector` makes.
    fn over<C>(mut self, connector: C, options: &ClientOptions) -> Result<Attempt, ConnectError>
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Connection + Read + Write + Send + Unpin + 'static,
        C::Future: Send + 'static,
        C::Error: Into<BoxError>,
    {
        let tls = trust::connector(&self.config, connector).map_err(|it| self.certificates(it))?;
        let mut connecting = TimeoutConnector::new(tls);
        connecting.set_connect_timeout(Some(options.connect_timeout));
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build::<_, HeldBody>(connecting);

        let agent = HeaderValue::from_str(&options.agent);
        let agent = agent.expect("visible ASCII, as the option checks");
        self.config.headers.push((USER_AGENT, agent));
        let endpoint = self.config.cluster_url.to_string();
        let credentials = |error: kube::Error| ConnectError::Credentials {
            endpoint: endpoint.clone(),
            problem: match &error {
                kube::Error::Auth(error) => without_output(error),
                other => other.to_string(),
            },
        };
        let headers = self.config.extra_headers_layer().map_err(credentials)?;
        let auth = self.config.auth_layer().map_err(credentials)?;
        let metrics = self.metrics;
        let to = Arc::new(Destination { endpoint, proxy: self.proxy });
        let service = ServiceBuilder::new()
            .layer(self.config.base_uri_layer())
            .layer(headers)
            .option_layer(auth)
            .layer_fn(Gated::new)
            .layer_fn(move |inner| Measured::new(inner, Arc::clone(&metrics)))
            .map_err(move |source| -> BoxError {
                Box::new(TransportError { to: Arc::clone(&to), source })
            })
            .map_response(|answer: http::Response<hyper::body::Incoming>| {
                answer.map(|body| -> AnswerBody { body.map_err(BoxError::from).boxed_unsync() })
            })
            .service(http);
        Ok(BoxCloneSyncService::new(service))
    }

    fn certificates(&self, source: kube::Error) -> ConnectError {
        ConnectError::Certificates { endpoint: self.config.cluster_url.to_string(), source }
    }
}

#[cfg(test)]
mod tests;
