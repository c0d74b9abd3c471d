//! One attempt of a request, from credentials to the socket.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Uri, header::USER_AGENT};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::{Config, client::ConfigExt as _};
use tokio::net::TcpStream;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};

use super::{
    AnswerBody, Attempt, ClientOptions, ConnectError,
    gate::{Gated, HeldBody},
    inlet::Socket,
    metrics::{HostMetrics, Measured},
    token::{TokenFile, WithToken},
    trust,
};

/// A silent connection is asked whether it lives after this long, so that a watch whose server is gone
/// ends within half a minute, however quiet it is.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// What was sent and not acknowledged for this long is lost, and its connection with it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(90);

/// The API server was not reached, or the connection broke before it answered. A write may have been
/// carried out or not.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the API server at {endpoint}")]
pub struct TransportError {
    /// The API server.
    pub endpoint: String,
    /// What happened to the connection.
    pub source: legacy::Error,
}

impl TransportError {
    /// Whether no connection could be made: nothing was sent.
    pub fn is_connect(&self) -> bool {
        self.source.is_connect()
    }
}

/// The service that carries out one attempt.
pub(super) fn attempts(
    mut config: Config,
    options: &ClientOptions,
    metrics: Arc<HostMetrics>,
) -> Result<Attempt, ConnectError> {
    let endpoint = config.cluster_url.to_string();
    let agent = HeaderValue::from_str(&options.agent).expect("visible ASCII, as the option checks");
    config.headers.push((USER_AGENT, agent));
    let token = token_of(&mut config, &endpoint)?;

    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let tcp =
        tcp.map_response(|tcp: TokioIo<TcpStream>| TokioIo::new(Socket::new(tcp.into_inner())));
    let tls = trust::connector(&config, tcp)
        .map_err(|source| ConnectError::Certificates { endpoint: endpoint.clone(), source })?;
    let http = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build::<_, HeldBody>(Within { inner: tls, timeout: options.connect_timeout });

    let credentials = |error: kube::Error| ConnectError::Credentials {
        endpoint: endpoint.clone(),
        problem: without_output(&error),
    };
    let of = endpoint.clone();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer().map_err(credentials)?)
        .option_layer(config.auth_layer().map_err(credentials)?)
        .option_layer(token.map(|token| {
            tower::layer::layer_fn(move |inner| WithToken::new(inner, Arc::clone(&token)))
        }))
        .layer_fn(Gated::new)
        .layer_fn(move |inner| Measured::new(inner, Arc::clone(&metrics)))
        .map_err(move |source| -> BoxError {
            Box::new(TransportError { endpoint: of.clone(), source })
        })
        .map_response(|answer: http::Response<hyper::body::Incoming>| {
            answer.map(|body| -> AnswerBody { body.map_err(BoxError::from).boxed_unsync() })
        })
        .service(http);
    Ok(BoxCloneSyncService::new(service))
}

/// The token file, where that is the credential. Taken out of the configuration: ours is read again
/// when its token is refused.
fn token_of(config: &mut Config, endpoint: &str) -> Result<Option<Arc<TokenFile>>, ConnectError> {
    let auth = &mut config.auth_info;
    let other = auth.token.is_some() || auth.auth_provider.is_some() || auth.username.is_some();
    let Some(path) = auth.token_file.take_if(|_| !other) else { return Ok(None) };
    let file = TokenFile::read(path.clone().into()).map_err(|error| ConnectError::Credentials {
        endpoint: endpoint.to_owned(),
        problem: format!("cannot use token file {path}: {error}"),
    })?;
    Ok(Some(Arc::new(file)))
}

/// An error of the credentials in words, without what a plug-in printed to standard output: that may be
/// a token.
fn without_output(error: &kube::Error) -> String {
    use kube::client::AuthError;
    match error {
        kube::Error::Auth(AuthError::AuthExecRun { cmd, out }) => {
            let said = String::from_utf8_lossy(&out.stderr);
            format!("the plug-in {cmd:?} failed ({}): {}", out.status, said.trim())
        }
        kube::Error::Auth(AuthError::AuthExecParse(_)) => {
            "the plug-in's output is no ExecCredential".to_owned()
        }
        other => other.to_string(),
    }
}

/// Connections that must be there within a time.
#[derive(Clone)]
struct Within<C> {
    inner: C,
    timeout: Duration,
}

impl<C> Service<Uri> for Within<C>
where
    C: Service<Uri>,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let timeout = self.timeout;
        let connecting = self.inner.call(uri);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("not connected within {timeout:?}"),
                )
                .into()),
            }
        })
    }
}
