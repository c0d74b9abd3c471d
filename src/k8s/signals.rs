//! An operator's life as a container runtime gives it: SIGTERM asks it to leave.

use super::operator::{Operator, OperatorError};
use crate::{node::Stopped, signals::Signals};

impl Operator {
    /// As [`run`](Self::run), until SIGTERM or Ctrl-C asks it to leave. A second one ends it at once: then
    /// its lease has to run out.
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
        let life = self.run(signals.leave().clone().cancelled_owned());
        signals.unless_aborted(life).await.map_err(OperatorError::Aborted)?
    }
}
