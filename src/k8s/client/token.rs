//! A token that is kept in a file, which somebody else replaces now and then.

use std::{
    fmt, fs, io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use kube::client::Body;
use tower::Service;

use super::calls::copy;
use crate::{clock, engine::BootTime, k8s::authority::Permit};

/// The file is read again after this long. The kubelet replaces a token when a fifth of its life is left:
/// minutes at least.
const READ_EVERY: Duration = Duration::from_secs(10);

/// A token file and what it last held.
pub(super) struct TokenFile {
    path: PathBuf,
    last: Mutex<Read>,
}

struct Read {
    header: HeaderValue,
    at: BootTime,
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TokenFile {
    /// # Errors
    ///
    /// If it cannot be read, or holds no token.
    pub(super) fn read(path: PathBuf) -> io::Result<Self> {
        let last = Mutex::new(Read { header: header_of(&path)?, at: clock::boot_now() });
        Ok(Self { path, last })
    }

    /// The token; read again if what is known is old. Where that fails the last one stays: some setups
    /// take the file away after the start (kubernetes/kubernetes#68164).
    fn current(&self) -> HeaderValue {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::boot_now();
        if now.0.saturating_sub(last.at.0) >= READ_EVERY {
            self.read_into(&mut last);
        }
        last.header.clone()
    }

    /// The token that came after `refused`, if another one did.
    fn after(&self, refused: &HeaderValue) -> Option<HeaderValue> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.header == *refused {
            self.read_into(&mut last);
        }
        Some(last.header.clone()).filter(|header| header != refused)
    }

    fn read_into(&self, last: &mut Read) {
        last.at = clock::boot_now();
        match header_of(&self.path) {
            Ok(header) => last.header = header,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), error = %error, "token file cannot be read, keeping its last token");
            }
        }
    }
}

fn header_of(path: &PathBuf) -> io::Result<HeaderValue> {
    let token = fs::read_to_string(path)?;
    let token = token.trim();
    if token.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it holds no token"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Requests that carry the token. One that is refused for it (401: nothing was done) is sent again if the
/// file has another one by then.
#[derive(Clone, Debug)]
pub(super) struct WithToken<S> {
    inner: S,
    token: Arc<TokenFile>,
}

impl<S> WithToken<S> {
    pub(super) fn new(inner: S, token: Arc<TokenFile>) -> Self {
        Self { inner, token }
    }
}

impl<S, B> Service<Request<Body>> for WithToken<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let again = copy(&request);
        let header = self.token.current();
        request.headers_mut().insert(AUTHORIZATION, header.clone());
        let token = Arc::clone(&self.token);
        let mut inner = self.inner.clone();
        let first = self.inner.call(request);
        Box::pin(async move {
            let answer = first.await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            let (Some(mut request), Some(header)) = (again, token.after(&header)) else {
                return Ok(answer);
            };
            drop(answer);
            if let Some(permit) = Permit::of(request.extensions()) {
                permit.did_nothing();
            }
            request.headers_mut().insert(AUTHORIZATION, header);
            std::future::poll_fn(|context| inner.poll_ready(context)).await?;
            inner.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(token: &str) -> HeaderValue {
        HeaderValue::try_from(format!("Bearer {token}")).unwrap()
    }

    #[test]
    fn a_refused_token_is_replaced_by_the_files_next_one_and_only_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "one\n").unwrap();
        let file = TokenFile::read(path.clone()).unwrap();
        assert_eq!(file.current(), bearer("one"));
        assert_eq!(file.after(&bearer("one")), None, "the file has no other");
        fs::write(&path, "two").unwrap();
        assert_eq!(file.current(), bearer("one"), "not old yet, and nobody has refused it");
        assert_eq!(file.after(&bearer("one")), Some(bearer("two")));
        assert_eq!(file.current(), bearer("two"));
        fs::remove_file(&path).unwrap();
        assert_eq!(file.after(&bearer("two")), None);
        assert_eq!(file.current(), bearer("two"), "the last one stays");
    }

    #[test]
    fn a_file_without_a_token_is_refused_and_a_token_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, wanted) in [(" \n", "it is empty"), ("a\u{7f}b", "it holds no token")] {
            fs::write(&path, text).unwrap();
            assert_eq!(TokenFile::read(path.clone()).unwrap_err().to_string(), wanted);
        }
        fs::write(&path, "hush").unwrap();
        let file = TokenFile::read(path).unwrap();
        let shown = format!("{file:?} {:?}", file.current());
        assert!(!shown.contains("hush"), "{shown}");
    }
}
