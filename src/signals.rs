//! SIGTERM and Ctrl-C: the first one asks a program to leave, the second one ends it at once.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// What the signals ask for, from [`listen`](Self::listen) on.
///
/// A process that has listened once is not ended by these signals themselves any more, also when this is
/// dropped.
#[derive(Debug)]
pub struct Signals {
    leave: CancellationToken,
    aborted: watch::Receiver<Option<Aborted>>,
    _listener: Tasks,
}

/// A second signal has cut the leaving short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ended at once: the lease has to run out, and others wait for that")]
pub struct Aborted(SignalKind);

impl Aborted {
    /// 128 and the signal's number: what a shell says of a process that was ended by it.
    pub fn exit_code(self) -> u8 {
        u8::try_from(128 + self.0.as_raw_value()).unwrap_or(u8::MAX)
    }
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// If the system does not let it.
    pub fn listen() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let leave = CancellationToken::new();
        let (abort, aborted) = watch::channel(None);
        let mut listener = Tasks::new();
        let first = leave.clone();
        listener.spawn("signals", async move {
            let kind = next(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name(kind), "leaving; a second signal ends at once");
            first.cancel();
            let kind = next(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name(kind), "ending at once");
            abort.send_replace(Some(Aborted(kind)));
        });
        Ok(Self { leave, aborted, _listener: listener })
    }

    /// Cancelled by the first signal.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// What `life` ends with, unless a second signal comes before.
    ///
    /// # Errors
    ///
    /// [`Aborted`]: `life` was dropped where it stood.
    pub async fn unless_aborted<F: Future>(&self, life: F) -> Result<F::Output, Aborted> {
        let mut aborted = self.aborted.clone();
        let abort = async {
            match aborted.wait_for(Option::is_some).await.ok().and_then(|it| *it) {
                Some(aborted) => aborted,
                // There is no listener any more, and nothing that it could say.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Cancel safe: only waits.
            aborted = abort => Err(aborted),
            // Dropped only when the second signal asks for just that.
            output = life => Ok(output),
        }
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        biased;
        // Cancel safe: what was not received stays pending in its listener.
        _ = terminate.recv() => SignalKind::terminate(),
        // Cancel safe: the same.
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}

fn name(kind: SignalKind) -> &'static str {
    if kind == SignalKind::terminate() { "SIGTERM" } else { "SIGINT" }
}
