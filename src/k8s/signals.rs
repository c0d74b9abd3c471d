//! An operator's life as a container runtime gives it: SIGTERM asks it to leave.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::operator::{Operator, OperatorError};
use crate::node::Stopped;

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
        let listen = |kind| signal(kind).map_err(OperatorError::Signals);
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let leave = CancellationToken::new();
        let run = self.run(leave.clone().cancelled_owned());
        let abort = async {
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "leaving; a second signal ends at once");
            leave.cancel();
            let name = next(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "ending at once");
        };
        tokio::select! {
            biased;
            // Dropped only when the second signal asks for just that.
            ended = run => ended,
            // Dropped when there is nothing left to end.
            () = abort => Err(OperatorError::Aborted),
        }
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        biased;
        // Cancel safe: what was not received stays pending in its listener.
        _ = terminate.recv() => "SIGTERM",
        // Cancel safe: the same.
        _ = interrupt.recv() => "SIGINT",
    }
}
