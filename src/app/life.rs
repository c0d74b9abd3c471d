//! The life of a program with a node: it runs until a signal ends it, and leaves with its parent.

use std::process::ExitCode;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    exit::{Exit, Failure},
    serve,
};
use crate::{
    node::{Stopped, supervision},
    tasks,
};

/// Runs a program until it has left. The program gets the token that a signal cancels.
///
/// # Errors
///
/// A [`Failure`] of the program, or if it did not leave cleanly, or if a second signal ended it.
pub(crate) async fn until_signalled<F>(
    program: impl FnOnce(CancellationToken) -> F,
) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<Stopped, Failure>>,
{
    let signals = serve::signals()?;
    let _parent = leave_with_parent(signals.leave().clone());
    let program = program(signals.leave().clone());
    match signals.unless_aborted(program).await?? {
        Stopped::Clean => {
            tracing::info!("left cleanly");
            Ok(ExitCode::SUCCESS)
        }
        Stopped::Unclean => Err(Failure::new(
            Exit::Failed,
            "did not leave cleanly: the lease has to run out",
        )
        .try_this("look above for work that does not end, or for a store that does not answer or denies it")),
    }
}

/// Makes the node leave when its parent, `supervise`, dies: no process would end the node's incarnation after
/// that. The kernel sends the death signal for each thread of the parent that ends. The signal is SIGUSR1,
/// because a repeated SIGTERM would abort the leave. Active until the returned handle is dropped.
fn leave_with_parent(leave: CancellationToken) -> Option<AbortOnDropHandle<()>> {
    std::env::var_os(supervision::FD_ENV)?;
    let parent = getppid();
    // The listener comes first: without one, the signal ends the process.
    let listened = signal(SignalKind::user_defined1()).and_then(|gone| {
        set_parent_process_death_signal(Some(Signal::USR1))?;
        Ok(gone)
    });
    let mut gone = listened
        .inspect_err(|error| {
            tracing::warn!(%error, "the end of the parent process will go unnoticed");
        })
        .ok()?;
    // If the task fails, the node leaves, because the end of the parent would go unnoticed.
    let leave = leave.drop_guard();
    let leaving = tasks::spawn("parent", async move {
        loop {
            gone.recv().await;
            if getppid() != parent {
                break;
            }
            // The parent lives: it forwarded the signal, or a user sent it.
            tracing::debug!("SIGUSR1 ignored");
        }
        tracing::warn!("the parent process has ended: leaving");
        drop(leave);
    });
    Some(AbortOnDropHandle::new(leaving))
}
