//! The meaning of errors of etcd and of the connection to it: one table.
//!
//! gRPC codes are too coarse, so the texts are matched too. The most important rule: an error may be
//! classified as "no effect" only if the request provably never took effect; every error that is not in the
//! table and followed a sent request is uncertain.

use std::{error::Error as _, time::Duration};

use etcd_client::Error;
use tonic::{Code, Status};

use crate::{
    causes::{causes, chain},
    engine::types::Revision,
    store::StoreError,
    tls::{Explained, Words, explain},
};

/// Classification of an attempt's error, and the permitted next step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The lease is not in the store.
    LeaseNotFound,
    /// A lease with that id exists.
    LeaseExists,
    /// The revision is compacted.
    Compacted,
    /// The call had no effect: the token is not valid; log in and send the call again.
    Reauthenticate(String),
    /// The call had no effect and will have none, at any member.
    Denied(String),
    /// The call had no effect: the store has no room for it now.
    Overloaded(String),
    /// The call had no effect: this member cannot serve now, another may.
    NotServing(String),
    /// Nothing was sent: the member was not reached, another may be.
    Unreached(String),
    /// Nothing was sent: member and client do not accept each other; an operator must act.
    Untrusted(String),
    /// The call was sent, and may have taken effect, as the member reported.
    Uncertain(String),
    /// The call was sent, and may have taken effect: the connection broke.
    Broken(String),
}

impl Verdict {
    /// Converts the verdict into the error that the store's user gets.
    pub(super) fn into_error(
        self,
        call: &'static str,
        endpoint: &str,
        asked: Revision,
    ) -> StoreError {
        let endpoint = endpoint.to_owned();
        match self {
            Self::LeaseNotFound => StoreError::LeaseNotFound,
            Self::LeaseExists => StoreError::LeaseExists,
            // The text of a refused read does not contain the oldest revision that is left.
            Self::Compacted => StoreError::Compacted { asked, oldest: Revision(0) },
            Self::Denied(message) | Self::Reauthenticate(message) | Self::Untrusted(message) => {
                StoreError::Denied { call, endpoint, message }
            }
            Self::Overloaded(message) => StoreError::Overloaded { call, endpoint, message },
            Self::NotServing(message) | Self::Unreached(message) => {
                StoreError::Unreachable { call, endpoint, message }
            }
            Self::Uncertain(message) | Self::Broken(message) => {
                StoreError::Interrupted { call, endpoint, message }
            }
        }
    }

    /// Text of the error, for people.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::LeaseNotFound => "lease not found".to_owned(),
            Self::LeaseExists => "lease exists".to_owned(),
            Self::Compacted => "compacted".to_owned(),
            Self::Reauthenticate(text)
            | Self::Denied(text)
            | Self::Overloaded(text)
            | Self::NotServing(text)
            | Self::Unreached(text)
            | Self::Untrusted(text)
            | Self::Uncertain(text)
            | Self::Broken(text) => text,
        }
    }

    /// Whether the store itself gave the answer, so that its member is alive and in a quorum.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::LeaseNotFound
            | Self::LeaseExists
            | Self::Compacted
            | Self::Reauthenticate(_)
            | Self::Denied(_)
            | Self::Overloaded(_) => true,
            Self::NotServing(_)
            | Self::Unreached(_)
            | Self::Untrusted(_)
            | Self::Uncertain(_)
            | Self::Broken(_) => false,
        }
    }
}

pub(super) fn unanswered(call: &'static str, endpoint: &str, timeout: Duration) -> StoreError {
    StoreError::Unanswered { call, endpoint: endpoint.to_owned(), timeout }
}

/// Classifies an error of etcd-client.
pub(super) fn classify(error: &Error) -> Verdict {
    match error {
        Error::GRpcStatus(status) => classify_status(status),
        Error::TransportError(error) => classify_transport(error),
        // Error on the first answer of a keepalive stream, with TTL 0.
        Error::LeaseKeepAliveError(text) if text == "lease not found" => Verdict::LeaseNotFound,
        other => Verdict::Broken(other.to_string()),
    }
}

fn classify_status(status: &Status) -> Verdict {
    match status.source() {
        // This process made the status, from a connection error. A status from the server has no source.
        Some(source) => match classify_transport(source) {
            Verdict::Broken(text) => not_an_etcd(&text).unwrap_or(Verdict::Broken(text)),
            verdict => verdict,
        },
        None => classify_answer(status.code(), status.message()),
    }
}

/// Refines a verdict with the state of the connection: the TLS error that ended it, and whether it ever
/// gave an answer.
pub(super) fn with_context(
    verdict: Verdict,
    tls: Option<rustls::Error>,
    was_warm: bool,
) -> Verdict {
    let (text, unsent) = match verdict {
        Verdict::Unreached(text) => (text, true),
        Verdict::Broken(text) => (text, false),
        other => return other,
    };
    if let Some(tls) = tls
        && let Verdict::Untrusted(text) = classify_tls(&tls, unsent)
    {
        return Verdict::Untrusted(text);
    }
    match (unsent, was_warm) {
        (true, false) if text.contains("tls handshake eof") => Verdict::Unreached(format!(
            "{text} (does it speak TLS there, or is it http, or the wrong port?)"
        )),
        (true, _) => Verdict::Unreached(text),
        (false, true) => Verdict::Broken(text),
        (false, false) => Verdict::Broken(format!(
            "{text} (nothing was ever answered there: is it etcd's client port, and http or https \
             as its --listen-client-urls say?)"
        )),
    }
}

/// Classifies an error of the connection to a member, by its causes.
fn classify_transport(error: &(dyn std::error::Error + 'static)) -> Verdict {
    let mut unsent = false;
    for cause in causes(error) {
        if cause.is::<tonic::ConnectError>() {
            unsent = true;
        } else if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
            // hyper 1 reports "canceled" for an HTTP/2 request only if the request was never handed to the
            // connection.
            unsent |= hyper.is_canceled();
        } else if let Some(tls) = cause.downcast_ref() {
            return classify_tls(tls, unsent);
        }
    }
    let text = chain(error);
    if unsent { Verdict::Unreached(text) } else { Verdict::Broken(text) }
}

/// Names of the settings of a store, as in `EtcdConfig`.
const WORDS: Words = Words {
    bundle: "tls.ca_file",
    name: "use a name that is in it as the endpoint, or set tls.server_name",
    no_client_certificate: "set tls.cert_file and tls.key_file",
    client_certificate: "tls.cert_file",
    client_certificate_rejected: "is tls.cert_file signed by the authority in etcd's \
                                  --trusted-ca-file, in date, and for client authentication?",
};

fn classify_tls(error: &rustls::Error, unsent: bool) -> Verdict {
    use rustls::{AlertDescription as Alert, Error as Tls};
    // With TLS 1.3 a server judges the client's certificate after the handshake; its other TLS errors come
    // during the handshake.
    let late = match error {
        Tls::AlertReceived(alert) => !matches!(
            alert,
            Alert::HandshakeFailure | Alert::InsufficientSecurity | Alert::ProtocolVersion
        ),
        _ => true,
    };
    if let Some(Explained { reason, remedy }) = explain(error, &WORDS).filter(|_| unsent || late) {
        return Verdict::Untrusted(format!("{reason}: {remedy}"));
    }
    let remedy = match error {
        // Any other alert may come at any time of a connection.
        Tls::AlertReceived(_) if unsent => "the server broke off the TLS handshake",
        Tls::InvalidMessage(_) if unsent => {
            "the server does not speak TLS there: is it http, or is this the wrong port?"
        }
        _ if unsent => "TLS could not be set up",
        _ => return Verdict::Broken(error.to_string()),
    };
    Verdict::Untrusted(format!("{error}: {remedy}"))
}

/// Detects HTTP/2 errors that a server other than etcd causes.
fn not_an_etcd(text: &str) -> Option<Verdict> {
    const SIGNS: [&str; 3] =
        ["frame with invalid size", "grpc-status header missing", "invalid content-type"];
    SIGNS.iter().any(|sign| text.contains(sign)).then(|| {
        Verdict::Untrusted(format!(
            "{text}: no etcd answers there: is it the client port (2379, not the peer port 2380), \
             and http or https as etcd's --listen-client-urls say?"
        ))
    })
}

/// A row of the table of etcd's error texts.
struct Row {
    /// Part of the error text.
    text: &'static str,
    /// Class of the error.
    class: Class,
}

#[derive(Clone, Copy)]
enum Class {
    LeaseNotFound,
    LeaseExists,
    Compacted,
    Reauthenticate,
    /// Class `Denied`, with the remedy.
    Denied(&'static str),
    /// Class `Overloaded`, with the remedy.
    Overloaded(&'static str),
    NotServing,
    Uncertain,
}

const fn row(text: &'static str, class: Class) -> Row {
    Row { text, class }
}

/// Error texts of etcd with their classes. The first row that matches counts.
const TABLE: &[Row] = &[
    row("requested lease not found", Class::LeaseNotFound),
    row("lease already exists", Class::LeaseExists),
    row("required revision has been compacted", Class::Compacted),
    row(
        "required revision is a future revision",
        Class::Denied(
            "the store is younger than what was read from it before: it was replaced or \
                       restored",
        ),
    ),
    row("invalid auth token", Class::Reauthenticate),
    row("revision of auth store is old", Class::Reauthenticate),
    row("user name is empty", Class::Reauthenticate),
    row(
        "invalid user ID or password",
        Class::Denied("give the name and password of an etcd user (etcdctl user list)"),
    ),
    row(
        "authentication is not enabled",
        Class::Denied("etcd needs no user: leave it out, or turn it on (etcdctl auth enable)"),
    ),
    row(
        "permission denied",
        Class::Denied(
            "grant the user's role readwrite on the prefix (etcdctl role \
                       grant-permission ROLE readwrite PREFIX --prefix)",
        ),
    ),
    row("user name not found", Class::Denied("the etcd user does not exist: etcdctl user add")),
    row(
        "database space exceeded",
        Class::Overloaded(
            "etcd is full: compact, defragment, then etcdctl alarm disarm, or raise \
                           --quota-backend-bytes",
        ),
    ),
    row(
        "too many requests",
        Class::Overloaded("etcd cannot keep up: send less, or give it a faster disk"),
    ),
    row(
        "received message larger than max",
        Class::Denied("the request is larger than etcd's --max-request-bytes"),
    ),
    row(
        "request is too large",
        Class::Denied("the request is larger than etcd's --max-request-bytes"),
    ),
    row(
        "too many operations in txn request",
        Class::Denied("the transaction is larger than etcd's --max-txn-ops"),
    ),
    row("duplicate key given in txn request", Class::Denied("no key may be put twice")),
    row("key is not provided", Class::Denied("a key must not be empty")),
    row("too large lease TTL", Class::Denied("choose a TTL below 9,000,000,000 s")),
    row(
        "corrupt cluster",
        Class::Denied(
            "etcd has raised its CORRUPT alarm: restore the member that differs, then \
                       etcdctl alarm disarm",
        ),
    ),
    row("rpc not supported for learner", Class::NotServing),
    row("no leader", Class::NotServing),
    row("raft proposal dropped", Class::NotServing),
    row("not capable", Class::NotServing),
    row("leader changed", Class::Uncertain),
    row("request timed out", Class::Uncertain),
    row("server stopped", Class::Uncertain),
];

/// Classifies a status that a server sent.
pub(super) fn classify_answer(code: Code, text: &str) -> Verdict {
    if let Some(row) = TABLE.iter().find(|row| text.contains(row.text)) {
        return match row.class {
            Class::LeaseNotFound => Verdict::LeaseNotFound,
            Class::LeaseExists => Verdict::LeaseExists,
            Class::Compacted => Verdict::Compacted,
            Class::Reauthenticate => Verdict::Reauthenticate(text.to_owned()),
            Class::Denied(remedy) => Verdict::Denied(format!("{text}: {remedy}")),
            Class::Overloaded(remedy) => Verdict::Overloaded(format!("{text}: {remedy}")),
            Class::NotServing => Verdict::NotServing(text.to_owned()),
            Class::Uncertain => Verdict::Uncertain(text.to_owned()),
        };
    }
    if let Some(verdict) = not_an_etcd(text) {
        return verdict;
    }
    match code {
        Code::Unauthenticated => Verdict::Reauthenticate(text.to_owned()),
        Code::PermissionDenied | Code::InvalidArgument => Verdict::Denied(text.to_owned()),
        Code::Unimplemented => Verdict::Untrusted(format!(
            "{text}: what answers there is no etcd, or one older than 3.4"
        )),
        _ => Verdict::Uncertain(format!("{code:?}: {text}")),
    }
}

#[cfg(test)]
mod tests;
