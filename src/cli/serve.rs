//! What `run` and `demo` share: the status server, signals, the reference work.

use bellwether::{
    signals::Signals,
    telemetry::{BindError, ServerConfig, StatusServer, StatusServerError},
};

use crate::cli::exit::{Exit, Failure};

pub(crate) mod cut;
pub(crate) mod work;

/// Listens for the signals that end the process.
///
/// # Errors
///
/// A [`Failure`] if the system does not let it.
pub(crate) fn signals() -> Result<Signals, Failure> {
    Signals::listen().map_err(|error| Failure::caused(Exit::Local, "listening for signals", &error))
}

/// Takes the port that `--listen` names.
///
/// # Errors
///
/// A [`Failure`] that says what to do about the port.
pub(crate) async fn bind(listen: &str) -> Result<StatusServer, Failure> {
    StatusServer::bind(ServerConfig::from(listen)).await.map_err(|error| match error {
        StatusServerError::Bind(error) => no_port(&error),
        error @ StatusServerError::Thread(_) => {
            Failure::caused(Exit::Local, "starting the status server", &error)
        }
    })
}

fn no_port(error: &BindError) -> Failure {
    Failure::new(
        Exit::Local,
        format!("--listen {:?}: the status server cannot listen: {}", error.address, error.source),
    )
    .try_this(error.remedy())
}
