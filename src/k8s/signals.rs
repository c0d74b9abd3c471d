//! Runs an operator until the container runtime sends SIGTERM.

use super::operator::{Operator, OperatorError};
use crate::{
    node::{Stopped, supervision},
    signals::Signals,
};

impl Operator {
    /// As [`run`](Self::run), until SIGTERM, Ctrl-C or SIGHUP requests the operator to leave. A second
    /// SIGTERM or Ctrl-C ends it at once (see [`Signals`]): the other nodes then wait for its lease to expire.
    ///
    /// # Errors
    ///
    /// [`OperatorError`]; [`OperatorError::Aborted`] after a second signal.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_until_signalled(self) -> Result<Stopped, OperatorError> {
        let signals = Signals::listen().map_err(OperatorError::Signals)?;
        let asked = signals.leave().clone();
        let life = self.run(async move {
            asked.cancelled().await;
            supervision::announce_leaving();
        });
        signals.unless_aborted(life).await.map_err(OperatorError::Aborted)?
    }
}
