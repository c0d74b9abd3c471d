//! Admission webhook of the test, which the API server calls over TLS: it denies all requests until the test
//! calls [`Webhook::allow`].

use std::{
    convert::Infallible,
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bellwether::{k8s::k8s_openapi::ByteString, tasks};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::support::pki::{Pki, Validity};

struct Desk {
    code: u16,
    message: &'static str,
    allows: AtomicBool,
    denied: AtomicUsize,
}

/// The running webhook; ends when dropped.
pub(crate) struct Webhook {
    address: SocketAddr,
    authority: Vec<u8>,
    desk: Arc<Desk>,
    accepting: JoinHandle<()>,
}

impl Webhook {
    /// Webhook that denies every request, with that code and message.
    pub(crate) async fn denying(code: u16, message: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(folder.path(), "webhooks of tests");
        let files = pki.server(Validity::Now);
        let certificate = CertificateDer::from_pem_file(&files.cert).unwrap();
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (allows, denied) = (AtomicBool::new(false), AtomicUsize::new(0));
        let desk = Arc::new(Desk { code, message, allows, denied });
        let tls = TlsAcceptor::from(Arc::new(config));
        let accepting = tasks::spawn("webhook", accept(listener, tls, Arc::clone(&desk)));
        Self { address, authority: fs::read(&pki.ca).unwrap(), desk, accepting }
    }

    /// Address and authority of this webhook, as a webhook configuration carries them.
    pub(crate) fn client_config(&self) -> Value {
        let authority = ByteString(self.authority.clone());
        json!({ "url": format!("https://{}/", self.address), "caBundle": authority })
    }

    /// From now on the webhook allows every request.
    pub(crate) fn allow(&self) {
        self.desk.allows.store(true, SeqCst);
    }

    /// How often the webhook has denied a request.
    pub(crate) fn denied(&self) -> usize {
        self.desk.denied.load(SeqCst)
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, desk: Arc<Desk>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, desk) = (tls.clone(), Arc::clone(&desk));
        let service = service_fn(move |request| {
            let desk = Arc::clone(&desk);
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        drop(tasks::spawn("webhook connection", async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let served = hyper::server::conn::http1::Builder::new();
            let _ = served.serve_connection(TokioIo::new(stream), service).await;
        }));
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Ok(asked) = request.into_body().collect().await else { return Response::default() };
        let asked: Value = serde_json::from_slice(&asked.to_bytes()).unwrap();
        let allows = self.allows.load(SeqCst);
        let mut response = json!({ "uid": asked["request"]["uid"], "allowed": allows });
        if !allows {
            self.denied.fetch_add(1, SeqCst);
            response["status"] = json!({ "code": self.code, "message": self.message });
        }
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
        });
        let answer = Response::builder().header("content-type", "application/json");
        answer.body(Full::from(review.to_string())).unwrap()
    }
}
