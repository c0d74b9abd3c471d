//! An operator's life as a container runtime gives it: SIGTERM asks it to leave.

use super::operator::{Operator, OperatorError};
use crate::{
    node::{Stopped, supervision},
    signals::Signals,
};

impl Operator {
    /// As [`run`](Self::run), until SIGTERM, Ctrl-C or SIGHUP asks it to leave. A second SIGTERM or Ctrl-C
    /// ends it at once (see [`Signals`]): then its lease has to run out.
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
