//! Parts of every program with a node: the status server and the signals.

use super::exit::{Exit, Failure};
use crate::{
    signals::Signals,
    telemetry::{BindError, ServerConfig, StatusServer, StatusServerError},
};

/// Listens for the signals that end the process.
///
/// # Errors
///
/// A [`Failure`] if the operating system does not allow this.
pub(crate) fn signals() -> Result<Signals, Failure> {
    Signals::listen().map_err(|error| Failure::caused(Exit::Local, "listening for signals", &error))
}

/// Binds the port that `--listen` names. The page's buttons work under `action_hosts` too.
///
/// # Errors
///
/// A [`Failure`] with a remedy for the port.
pub(crate) async fn bind(listen: &str, action_hosts: &[String]) -> Result<StatusServer, Failure> {
    let config = ServerConfig { action_hosts: action_hosts.to_vec(), ..ServerConfig::from(listen) };
    StatusServer::bind(config).await.map_err(|error| match error {
        StatusServerError::Bind(error) => no_port(&error),
        error @ StatusServerError::Thread(_) => {
            Failure::caused(Exit::Local, "starting the status server", &error)
        }
    })
}

/// Parses a host name as a browser shows it, without scheme, port and path.
///
/// # Errors
///
/// A text that states the problem and its remedy.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    let is_name = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
    if text.is_empty() || !text.chars().all(is_name) {
        return Err(
            "is not a host name: write it without scheme, port and path, like status.example.org"
                .into(),
        );
    }
    Ok(text.to_owned())
}

fn no_port(error: &BindError) -> Failure {
    Failure::new(
        Exit::Local,
        format!(
            "--listen (BELLWETHER_LISTEN) {:?}: the status server cannot listen: {}",
            error.address, error.source
        ),
    )
    .try_this(error.remedy())
}

pub(crate) fn metric_twice(error: &prometheus::Error) -> Failure {
    Failure::caused(Exit::Failed, "registering metrics", error)
}
