//! The gate before each attempt of a write: no attempt goes out without the authority that its request carries.
//!
//! Authority is checked twice: when the attempt begins, and when the connection takes the request's body. hyper
//! takes the body of a request before it writes any of the request to the socket, so a write that has waited for its
//! connection is stopped there. A write without a body is checked when its attempt begins, not after connecting.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use kube::client::Body;
use tower::{BoxError, Service};

use crate::{k8s::authority::Permit, node::AuthorityLost};

#[cfg(test)]
mod tests;

/// Service that sends an attempt only while the authority of its request holds. Requests without a [`Permit`] pass.
#[derive(Clone, Debug)]
pub(super) struct Gated<S> {
    inner: S,
}

impl<S> Gated<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<HeldBody>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(permit) = Permit::of(request.extensions()).cloned() else {
            return Box::pin(self.inner.call(request.map(|body| HeldBody { body, hold: None })));
        };
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if let Err(source) = permit.check() {
            let refused = permit.refusal(method, path, source);
            return Box::pin(async move { Err(refused.into()) });
        }
        permit.is_sent();
        let withheld = Arc::new(OnceLock::<AuthorityLost>::new());
        let hold = Some(Hold { permit: permit.clone(), withheld: Arc::clone(&withheld) });
        let answer = self.inner.call(request.map(|body| HeldBody { body, hold }));
        Box::pin(async move {
            answer.await.map_err(|error| match withheld.get() {
                Some(lost) => permit.refusal(method, path, lost.clone()).into(),
                None => error,
            })
        })
    }
}

/// The body of a request, withheld from the connection once the authority has ended.
#[derive(Debug)]
pub(super) struct HeldBody {
    body: Body,
    hold: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    permit: Permit,
    /// Set when the body is withheld.
    withheld: Arc<OnceLock<AuthorityLost>>,
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(hold) = &self.hold
            && !self.body.is_end_stream()
            && let Err(lost) = hold.permit.check()
        {
            hold.permit.did_nothing();
            let _ = hold.withheld.set(lost.clone());
            return Poll::Ready(Some(Err(lost.into())));
        }
        Pin::new(&mut self.body).poll_frame(context).map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
