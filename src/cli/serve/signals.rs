//! SIGTERM and Ctrl-C: the first one asks for a clean end, the second one ends at once.

use std::io;

use bellwether::tasks::Tasks;
use tokio::signal::unix::{self, SignalKind};
use tokio_util::sync::CancellationToken;

use crate::cli::exit::{Exit, Failure};

/// What the signals ask for.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Cancelled by the first: leave.
    pub(crate) leave: CancellationToken,
    /// Cancelled by the second: end, however it stands.
    pub(crate) abort: CancellationToken,
    _listeners: Tasks,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the system does not let it.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let (leave, abort) = (CancellationToken::new(), CancellationToken::new());
        let failed =
            |error: io::Error| Failure::caused(Exit::Local, "listening for signals", &error);
        let mut terminate = unix::signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = unix::signal(SignalKind::interrupt()).map_err(failed)?;
        let mut listeners = Tasks::new();
        let (first, second) = (leave.clone(), abort.clone());
        listeners.spawn("signals", async move {
            loop {
                let name = tokio::select! {
                    biased;
                    // Cancel safe: what was not received stays pending in its listener.
                    Some(()) = terminate.recv() => "SIGTERM",
                    // Cancel safe: the same.
                    Some(()) = interrupt.recv() => "SIGINT",
                    else => return,
                };
                if first.is_cancelled() {
                    tracing::warn!(signal = name, "ending at once");
                    second.cancel();
                } else {
                    tracing::info!(signal = name, "leaving; a second signal ends at once");
                    first.cancel();
                }
            }
        });
        Ok(Self { leave, abort, _listeners: listeners })
    }

    /// Runs the leaving, unless it is cut short.
    ///
    /// # Errors
    ///
    /// A [`Failure`] with the exit code of an interrupted program if it was.
    pub(crate) async fn unless_aborted<F: Future>(&self, leaving: F) -> Result<F::Output, Failure> {
        tokio::select! {
            biased;
            // Cancel safe: a token.
            () = self.abort.cancelled() => Err(Failure::new(
                Exit::Interrupted,
                "ended at once: the lease has to run out, and others wait for that",
            )),
            // Dropped only when the process ends.
            output = leaving => Ok(output),
        }
    }
}
