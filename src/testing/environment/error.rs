//! Errors of an [`Environment`](super::Environment), each with its remedy.

use std::{io, path::PathBuf, time::Duration};

use super::pki::PkiError;

/// Reason why an environment cannot be started or used.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A program was not found.
    #[error(
        "{program} was not found: looked in {}. Install it (`go install \
         sigs.k8s.io/controller-runtime/tools/setup-envtest@latest`) and set KUBEBUILDER_ASSETS to the folder \
         that `setup-envtest use -p path` prints",
        shown(looked)
    )]
    Missing {
        /// Name of the program.
        program: &'static str,
        /// Folders that were searched.
        looked: Vec<PathBuf>,
    },
    /// A program cannot be started.
    #[error("{} cannot be started", program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A program ended before it was ready.
    #[error("{program} ended before it was ready ({status}); the end of its log:\n{log}")]
    Ended {
        /// Name of the program.
        program: &'static str,
        /// How the program ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// The API server was not ready in time.
    #[error("kube-apiserver was not ready within {within:?}; the end of its log:\n{log}")]
    NotReady {
        /// How long it was waited for.
        within: Duration,
        /// The end of its log.
        log: String,
    },
    /// A file or folder of the environment cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// Path of the file or folder.
        path: PathBuf,
        /// Error of the file system.
        source: io::Error,
    },
    /// The certificates of the environment cannot be made.
    #[error("the certificates of the environment cannot be made")]
    Pki(#[source] PkiError),
    /// The API server rejected a request of the environment.
    #[error("{doing}: {why}")]
    Api {
        /// Purpose of the request.
        doing: String,
        /// Explanation that a person can act on.
        why: String,
        /// Error of the client.
        source: Box<kube::Error>,
    },
    /// The API server accepted a write and did not act on it in time.
    #[error("{what}: not within {within:?}")]
    Late {
        /// Condition that must become true.
        what: String,
        /// How long it was waited for.
        within: Duration,
    },
}

fn shown(folders: &[PathBuf]) -> String {
    let folders: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
    folders.join(", ")
}
