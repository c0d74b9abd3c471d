//! Explanations of the API server's errors, in words that a person can act on.
//!
//! Pure: uses the error alone. The known texts of the server are those of Kubernetes 1.37; any other text is passed on
//! unchanged.

mod rights;
mod status;
#[cfg(test)]
mod tests;

use std::{fmt, io};

use kube::{client::AuthError, core::Status};
use tokio::time::error::Elapsed;

pub use self::rights::MissingRule;
use super::client::{CallError, TransportError};
use crate::{
    causes::{chain, find},
    tls::{self, Words},
};

/// Kind of an error: a closed set, fit for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The server does not know the client: the token is expired, wrong or missing.
    Unauthorized,
    /// No RBAC rule allows the request.
    Forbidden,
    /// Admission (a webhook, a policy, pod security) denied the request.
    Denied,
    /// Admission failed to call a webhook.
    WebhookFailed,
    /// A quota is used up.
    QuotaExceeded,
    /// The namespace is being deleted.
    Terminating,
    /// The server has no such kind: its CRD is not installed.
    KindMissing,
    /// The object does not exist.
    NotFound,
    /// An object of that name already exists.
    AlreadyExists,
    /// Another client wrote the object in between, or owns the field.
    Conflict,
    /// The object breaks its schema or its validation rules.
    Invalid,
    /// The object or the request is larger than the server accepts.
    TooLarge,
    /// The resource version or continue token is too old.
    Gone,
    /// The server limits the rate of requests.
    TooManyRequests,
    /// The server answers, but cannot serve the request now.
    Unavailable,
    /// No answer came before the deadline.
    Timeout,
    /// The server cannot be reached.
    Unreachable,
    /// The TLS connection is not trusted.
    Tls,
    /// The answer cannot be decoded.
    BadAnswer,
    /// An error of no other kind.
    Other,
}

impl Reason {
    /// The reason as a word, for instance `too_many_requests`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Denied => "denied",
            Self::WebhookFailed => "webhook_failed",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Terminating => "terminating",
            Self::KindMissing => "kind_missing",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Gone => "gone",
            Self::TooManyRequests => "too_many_requests",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::BadAnswer => "bad_answer",
            Self::Other => "other",
        }
    }

    /// Whether the same request may succeed later without any intervention.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::WebhookFailed
                | Self::TooManyRequests
                | Self::Unavailable
                | Self::Timeout
                | Self::Unreachable
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Explanation of an error. `Display` writes the message and, on lines of its own, the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Kind of the error.
    pub reason: Reason,
    /// Description of the error, in one line.
    pub message: String,
    /// Action that fixes the error, perhaps with YAML or a command; `None` if no action is needed, or none is known.
    pub remedy: Option<String>,
    /// RBAC rule that would allow the request, if the reason is [`Reason::Forbidden`].
    pub rule: Option<MissingRule>,
}

impl Explained {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), remedy: None, rule: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n{remedy}"),
            None => Ok(()),
        }
    }
}

/// Explains an error of the client.
pub fn explain(error: &kube::Error) -> Explained {
    match error {
        kube::Error::Api(status) => explain_status(status),
        kube::Error::SerdeError(source) => unreadable(&source.to_string()),
        kube::Error::FromUtf8(source) => unreadable(&source.to_string()),
        kube::Error::Auth(source) => of_credentials(source),
        other => of_connection(other),
    }
}

/// Explains a status of the server, for instance the status that a watch ends with.
#[doc(hidden)]
pub fn explain_status(status: &Status) -> Explained {
    rights::explain(status).unwrap_or_else(|| status::explain(status))
}

fn unreadable(source: &str) -> Explained {
    Explained::new(Reason::BadAnswer, format!("the answer is not what the type wants: {source}"))
        .remedy(
            "the object on the server and the program's type disagree: is another version of the \
             CustomResourceDefinition installed? Apply this version's: \
             bellwether crds | kubectl apply --server-side -f -",
        )
}

fn of_credentials(error: &AuthError) -> Explained {
    Explained::new(Reason::Unauthorized, format!("no credentials: {}", without_output(error)))
        .remedy("see that the token file is there, or that the kubeconfig's plug-in works")
}

/// Text of a credentials error, without the standard output of a plug-in, which may hold a token.
pub(crate) fn without_output(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { cmd, out } => {
            let said = String::from_utf8_lossy(&out.stderr);
            format!("the plug-in {cmd:?} failed ({}): {}", out.status, said.trim())
        }
        AuthError::AuthExecParse(_) => "the plug-in's output is no ExecCredential".to_owned(),
        other => other.to_string(),
    }
}

/// Explains an error of the connection by the first cause in the chain that is of a known type.
fn of_connection(error: &kube::Error) -> Explained {
    let transport = find::<TransportError>(error);
    let proxy = transport.and_then(|it| it.to.proxy.as_deref());
    let whom = transport.map_or("the API server".to_owned(), |it| {
        format!("the API server at {}", it.to.endpoint.trim_end_matches('/'))
    });
    let whom = match proxy {
        Some(proxy) => format!("{whom} (through proxy {})", proxy.trim_end_matches('/')),
        None => whom,
    };
    if let Some(tls) = find(error) {
        return of_tls(&whom, tls);
    }
    if let Some(call) = find::<CallError>(error) {
        return Explained::new(Reason::Timeout, call.to_string()).remedy(
            "if this lasts, look at the server's load (apiserver_request_duration_seconds) and at the network; \
             a write may have been carried out: read before it is repeated",
        );
    }
    if let Some(auth) = find::<AuthError>(error) {
        return of_credentials(auth);
    }
    let io = find::<io::Error>(error);
    if transport.is_none() && io.is_none() {
        return Explained::new(Reason::Other, chain(error));
    }
    let why = match io {
        Some(_) if find::<Elapsed>(error).is_some() => "connecting timed out".to_owned(),
        Some(io) => io.to_string(),
        None => chain(error),
    };
    Explained::new(Reason::Unreachable, format!("{whom} cannot be reached: {why}")).remedy(
        if proxy.is_some() {
            "see that the proxy runs and lets CONNECT pass to that address; it is named by proxy-url in the \
             kubeconfig, or by HTTPS_PROXY, and NO_PROXY lists what is reached without it"
        } else {
            "see that the address is right and the server runs (kubectl get --raw /readyz), and that no \
             NetworkPolicy or firewall is in the way"
        },
    )
}

/// Names of the settings of a kubeconfig or a pod.
const WORDS: Words = Words {
    bundle: "the kubeconfig's certificate-authority, or the pod's ca.crt",
    name: "use one of its names as the server's address, or set tls-server-name in the kubeconfig",
    no_client_certificate: "set client-certificate and client-key of the kubeconfig's user",
    client_certificate: "the kubeconfig's client-certificate",
    client_certificate_rejected: "is the kubeconfig's client-certificate signed by the authority in \
                                  the API server's --client-ca-file, and in date?",
};

fn of_tls(whom: &str, error: &rustls::Error) -> Explained {
    match tls::explain(error, &WORDS) {
        Some(tls::Explained { reason, remedy }) => {
            Explained::new(Reason::Tls, format!("{whom} is not trusted: {reason}")).remedy(remedy)
        }
        None => Explained::new(Reason::Tls, format!("{whom} is not trusted: {error}"))
            .remedy("see that the address is that of an API server"),
    }
}
