//! End of a command: its exit code, and its message if it fails.

use std::{fmt, process::ExitCode};

use super::args::StoreKind;
pub(crate) use crate::causes::chain;
use crate::{
    signals::Aborted,
    store::{Effected, StoreError},
    telemetry::program::program,
};

/// Table at the end of `--help`, and of `docs/cli.md`.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    done
  1    failed, for a reason that is none of these
  2    a flag, an argument or an environment variable is wrong
  3    not there: no leader, no such node, no such key
  4    the store (or the node, or the API server) cannot be reached or does not answer
  5    the store (or the API server) refuses: credentials, permissions, certificates
  6    the cluster refuses: the id is taken, the ticks or profiles differ, another write came first
  7    a port or a file of this machine cannot be had
  8    reached, but not healthy (check), or the node in office does not act (leader)
  9    sent, but nobody knows whether it took effect: look before repeating
  10   run: the node failed by a bug; it had no time to leave, and the log has the panic
  126  supervise: the program cannot be executed
  127  supervise: there is no such program
  128+n  ended by signal n; under supervise, the child was";

/// Reason why a command ends, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotThere = 3,
    Unreachable = 4,
    Denied = 5,
    Refused = 6,
    Local = 7,
    Unhealthy = 8,
    Unknown = 9,
    Broken = 10,
    NotExecutable = 126,
    NoSuchProgram = 127,
    Interrupted = 130,
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Failure of a command or of a program's setup: the problem and a remedy, as text for a person.
#[derive(Debug)]
pub struct Failure {
    pub(crate) exit: Exit,
    pub(crate) what: String,
    pub(crate) remedy: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), remedy: None }
    }

    pub(crate) fn try_this(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// A failure whose text contains the whole chain of causes on one line.
    pub(crate) fn caused(
        exit: Exit,
        doing: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self::new(exit, format!("{doing}: {}", chain(error)))
    }

    /// A failure of a call to a store of that kind while the command was `doing` something.
    pub(crate) fn of_store(kind: StoreKind, doing: &str, error: &StoreError) -> Self {
        let failure = |exit| Self::caused(exit, doing, error);
        let in_kubernetes = kind == StoreKind::Kubernetes;
        match error {
            // The error names both values and the remedy.
            StoreError::SpanDisagreement { .. } => failure(Exit::Refused),
            // The store on Kubernetes explains its errors itself.
            StoreError::Denied { .. } if in_kubernetes => failure(Exit::Denied),
            _ if in_kubernetes && says_tls(error) => failure(Exit::Denied),
            _ if says_tls(error) => failure(Exit::Denied).try_this(
                "check --etcd-ca-file, --etcd-cert-file and --etcd-key-file against what the server \
                 presents and asks for, and that it serves TLS at all",
            ),
            StoreError::Denied { message, .. } if message.contains("permission") => {
                failure(Exit::Denied).try_this(
                    "give the user's role the cluster's keys: etcdctl role grant-permission ROLE \
                     --prefix=true readwrite /CLUSTER/",
                )
            }
            StoreError::Denied { .. } => failure(Exit::Denied)
                .try_this("check --etcd-user and its password, and whether etcd asks for one"),
            StoreError::Unreachable { .. }
            | StoreError::Unanswered { .. }
            | StoreError::Interrupted { .. }
            | StoreError::Broken { .. }
                if in_kubernetes =>
            {
                failure(Exit::Unreachable).try_this(
                    "see that the API server answers (kubectl get --raw /readyz), and that the kubeconfig \
                     or the pod's service account leads to it",
                )
            }
            StoreError::Unreachable { .. }
            | StoreError::Unanswered { .. }
            | StoreError::Interrupted { .. }
            | StoreError::Broken { .. } => failure(Exit::Unreachable).try_this(
                "see that etcd runs there and that --etcd (BELLWETHER_ETCD) names it, with \
                 https:// if it serves TLS",
            ),
            StoreError::Overloaded { .. } => failure(Exit::Unreachable),
            _ => failure(Exit::Failed),
        }
    }

    /// Same as [`of_store`](Self::of_store), for a write: the outcome of a write may be unknown.
    pub(crate) fn of_write(kind: StoreKind, doing: &str, error: &StoreError) -> Self {
        let failure = Self::of_store(kind, doing, error);
        if error.effected() == Effected::Unknown {
            return Self { exit: Exit::Unknown, ..failure }
                .try_this("it may have taken effect, now or later: look before repeating it");
        }
        failure
    }
}

/// Returns a text that names commands of `bellwether`, with the name of this program instead.
pub(crate) fn in_our_name(text: &str) -> String {
    text.replace("`bellwether ", &format!("`{} ", program().name))
}

fn says_tls(error: &StoreError) -> bool {
    let text = chain(error).to_ascii_lowercase();
    ["certificate", "tls handshake", "tls cipher", "tls 1."].iter().any(|word| text.contains(word))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  try: {}", in_our_name(remedy)),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Aborted> for Failure {
    fn from(aborted: Aborted) -> Self {
        let terminated = aborted.exit_code() == Exit::Terminated as u8;
        let exit = if terminated { Exit::Terminated } else { Exit::Interrupted };
        Self::new(exit, aborted.to_string())
    }
}
