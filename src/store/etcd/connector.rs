//! The setup of a connection, and the TLS error that ended the last one.
//!
//! With TLS 1.3 a server refuses a client certificate after the handshake, in an alert. HTTP/2 then reports
//! only "connection closed"; so the connection records the TLS error.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service};

use super::tls::Material;
use crate::causes::find;

/// Time limit for name lookup, connecting and the TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The last TLS error of a link's connections.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<rustls::Error>>>);

impl Trouble {
    pub(super) fn last(&self) -> Option<rustls::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, error: Option<rustls::Error>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// Connects to a single endpoint.
#[derive(Clone)]
pub(super) struct Connector {
    address: Arc<str>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    trouble: Trouble,
}

impl Connector {
    /// Creates a connector to a URL with host and port; uses TLS if `tls` is given.
    pub(super) fn new(endpoint: &str, tls: Option<&Material>) -> Result<Self, BoxError> {
        let uri: Uri = endpoint.parse()?;
        let authority = uri.authority().ok_or("no host")?;
        let tls = match tls {
            None => None,
            Some(material) => {
                let config = Arc::new(material.client_config()?);
                Some((TlsConnector::from(config), material.server_name(authority.host())?))
            }
        };
        Ok(Self { address: authority.as_str().into(), tls, trouble: Trouble::default() })
    }

    pub(super) fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    async fn connect(self) -> io::Result<Connection> {
        let tcp = self.tcp().await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), tcp).await?),
        };
        self.trouble.note(None);
        Ok(Connection { stream, trouble: self.trouble })
    }

    /// Connects to the first address of the name that accepts.
    async fn tcp(&self) -> io::Result<TcpStream> {
        let addresses: Vec<_> = lookup_host(&*self.address).await?.collect();
        // The addresses share the time limit, so that a dead address does not use up all of it.
        let share = CONNECT_TIMEOUT / u32::try_from(addresses.len().clamp(1, 4)).unwrap_or(1);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in addresses {
            match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = too_late(),
            }
        }
        Err(last)
    }
}

fn too_late() -> io::Error {
    let text = format!("no connection within {CONNECT_TIMEOUT:?}");
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = self.clone().connect();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => Ok(TokioIo::new(connected?)),
                Err(_) => Err(too_late().into()),
            }
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection that records the TLS error that it ended with.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    trouble: Trouble,
}

impl Connection {
    fn noted<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result
            && let Some(tls) = find::<rustls::Error>(error)
        {
            self.trouble.note(Some(tls.clone()));
        }
        result
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.noted(result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noted(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.noted(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.noted(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
