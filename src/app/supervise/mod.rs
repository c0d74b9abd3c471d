//! Command `supervise`: a small parent of the process that runs a node. The parent's only state is the leases
//! that its child announces. Once the child is proven dead, the parent ends their incarnations at once, so
//! that a crash fails over in milliseconds instead of after the wait for a silent leader.
//!
//! The parent deliberately does not restart the child: that is the task of the container runtime.

mod children;
mod pipe;

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::mpsc,
};

use self::{
    children::{Reaper, exit_code},
    pipe::Announcements,
};
use super::{
    args::{self, ClusterArgs},
    connect,
    exit::{Exit, Failure},
};
use crate::{
    clock,
    engine::{BootTime, LeaseId},
    node::supervision::end_incarnation,
    signals::is_ignored,
    store::{Get, Store, keys::Keys},
    tasks::Tasks,
};

/// Signals that are forwarded to the child.
const FORWARDED: [(SignalKind, Signal); 10] = [
    (SignalKind::hangup(), Signal::HUP),
    (SignalKind::interrupt(), Signal::INT),
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::terminate(), Signal::TERM),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::window_change(), Signal::WINCH),
    (SignalKind::alarm(), Signal::ALARM),
    (SignalKind::from_raw(Signal::POWER.as_raw()), Signal::POWER),
    (SignalKind::io(), Signal::IO),
];

/// Signals that would end this process and concern only this process: its limits and its timers.
const IGNORED: [SignalKind; 5] = [
    SignalKind::from_raw(Signal::STKFLT.as_raw()),
    SignalKind::from_raw(Signal::XCPU.as_raw()),
    SignalKind::from_raw(Signal::XFSZ.as_raw()),
    SignalKind::from_raw(Signal::VTALARM.as_raw()),
    SignalKind::from_raw(Signal::PROF.as_raw()),
];

/// Time between two reads that keep the connection to the store open and its token valid.
const WARM_EVERY: Duration = Duration::from_secs(10);

/// Runs a program, and ends its node's incarnation the moment it is dead
#[derive(Args, Debug)]
#[command(after_long_help = "\
Meant as PID 1 of a container: bellwether supervise -- my-controller --its flags. It forwards signals \
(not the copy of a request that the program follows already), \
reaps orphans, and passes on the exit status (128+n if signal n ended the program). The program's node \
tells it its lease through an inherited pipe (BELLWETHER_SUPERVISOR_FD). When the program is dead, \
whatever it started is killed too, and only then its incarnation is ended in the store: the successor takes \
office at once. Flags for the store are best given by environment, which the program then shares.")]
pub(crate) struct SuperviseArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// How long burying the program and ending its incarnation may take before this process exits anyway
    #[arg(
        long,
        value_name = "TIME",
        env = "BELLWETHER_END_WITHIN",
        default_value = "3s",
        value_parser = args::duration
    )]
    end_within: Duration,

    /// The program and its arguments, after --
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

/// Runs the program to its end.
///
/// # Errors
///
/// A [`Failure`] if the program cannot be started.
pub(crate) async fn run(args: SuperviseArgs) -> Result<ExitCode, Failure> {
    let local = |doing: &'static str| {
        move |error: std::io::Error| Failure::caused(Exit::Local, doing, &error)
    };
    let store = connect::store(&args.cluster)?;
    children::become_subreaper().map_err(local("becoming the reaper of orphans"))?;
    // Both listeners exist before the child, so that no signal is lost.
    let (mut signals, mut tasks) = listen().map_err(local("listening for signals"))?;
    let mut ended = unix::signal(SignalKind::child()).map_err(local("listening for SIGCHLD"))?;

    let (child, receiver) = children::spawn(&args.command)?;
    tracing::info!(pid = child.as_raw_nonzero().get(), program = %args.command[0], "started");
    let mut announcements = Announcements::new(receiver);
    let mut reaper = Reaper::new(child);
    tasks.spawn("keep warm", keep_warm(Arc::clone(&store), args.cluster.clone()));
    let mut requests = Requests::default();

    while reaper.status.is_none() {
        tokio::select! {
            biased;
            // Cancel safe: a signal that was not received stays pending in its listener.
            _ = ended.recv() => { reaper.reap(); }
            // Cancel safe: channel receive.
            Some(signal) = signals.recv() => {
                announcements.take();
                if requests.passes_on(signal, announcements.is_leaving()) {
                    children::forward(child, signal);
                }
            }
            // Cancel safe: only waits until there is something to read.
            () = announcements.readable() => announcements.take(),
            // Cancel safe: an ended task is returned once. Without these tasks signals are lost, or there is
            // no connection to end the incarnation: the program is asked to leave while that still works.
            Some(ended) = tasks.join_next() => {
                tracing::error!(%ended, "this process cannot go on: asking the program to leave");
                children::forward(child, Signal::TERM);
            }
        }
    }
    let died_at = clock::boot_now();
    let until = died_at + args.end_within;
    let status = reaper.status.expect("the loop ends with it");
    let buried = reaper.bury(&mut ended, until).await;
    if buried {
        // The last lines of dead processes are still in the pipe; a node below a shell wrote until it was
        // killed.
        announcements.take_rest();
        end_all(&*store, &args.cluster.cluster, announcements.leases(), died_at, until).await;
    } else {
        tracing::error!(
            "a descendant of the program cannot be killed, its incarnation expires with its lease"
        );
    }
    let code = exit_code(status);
    tracing::info!(code, "the program has ended");
    Ok(ExitCode::from(code))
}

/// Requests to leave that this process has received.
#[derive(Debug, Default)]
struct Requests {
    had_one: bool,
}

impl Requests {
    /// Whether a signal must be forwarded. The first request is not forwarded if the program was already
    /// asked to leave: a sender that signals a whole process group has signalled both processes once, and a
    /// second signal would end the program at once.
    fn passes_on(&mut self, signal: Signal, is_leaving: bool) -> bool {
        if ![Signal::TERM, Signal::INT, Signal::HUP].contains(&signal) {
            return true;
        }
        let is_copy = is_leaving && !self.had_one;
        self.had_one = true;
        if is_copy {
            tracing::info!(
                signal = signal.as_raw(),
                "the program leaves already: the signal is not passed on"
            );
        }
        !is_copy
    }
}

/// Ends all announced incarnations that are not gone. The program is proven dead.
async fn end_all(
    store: &dyn Store,
    keys: &Keys,
    leases: &BTreeSet<LeaseId>,
    died_at: BootTime,
    until: BootTime,
) {
    let left = until.since(clock::boot_now());
    // All at the same time: a stuck call for one lease must not delay the lease that leads.
    let endings = leases
        .iter()
        .map(|lease| async move { (*lease, end_incarnation(store, keys, *lease, left).await) });
    for (lease, how) in futures::future::join_all(endings).await {
        // A JSON number: the formatter writes wider integers as text.
        let elapsed_ms = clock::boot_now().since(died_at).as_millis() as u64;
        match how {
            Ok(ended) => {
                let in_office = ended.was_in_office;
                tracing::info!(%lease, in_office, elapsed_ms, "ended the incarnation");
            }
            Err(error) => {
                let problem = store.health().problem;
                tracing::error!(%error, problem, "its lease has to run out");
            }
        }
    }
}

/// Listens for all forwarded signals, in one channel. A signal that does not fit into the channel is dropped:
/// it counts as one of those that are queued.
fn listen() -> std::io::Result<(mpsc::Receiver<Signal>, Tasks)> {
    let (sender, receiver) = mpsc::channel(16);
    let mut listeners = Tasks::new();
    for kind in IGNORED {
        // From here on the signal does not end the process, even without a listener.
        drop(unix::signal(kind)?);
    }
    for (kind, signal) in FORWARDED {
        // As `nohup` requires; the program inherits the ignored signal.
        if signal == Signal::HUP && is_ignored(kind) {
            continue;
        }
        let mut arrivals = unix::signal(kind)?;
        let sender = sender.clone();
        listeners.spawn("signals", async move {
            while arrivals.recv().await.is_some() {
                let _ = sender.try_send(signal);
            }
        });
    }
    Ok((receiver, listeners))
}

/// Reads a small key periodically, so that there is an open and authenticated connection when the incarnation
/// must be ended.
async fn keep_warm(store: Arc<dyn Store>, args: ClusterArgs) {
    let mut link = Link::default();
    loop {
        let get = Get { keys_only: true, ..Get::key(args.cluster.record()) };
        match (store.get(get, args.timeout).await, link) {
            (Ok(_), Link::Lost) => {
                tracing::info!("the store answers again, a crash is ended by this process");
                link = Link::Warm;
            }
            (Ok(_), _) => link = Link::Warm,
            // A store that starts at the same time needs a moment.
            (Err(error), Link::New) => {
                tracing::debug!(%error, "the store does not answer yet");
                link = Link::Failed;
            }
            (Err(error), Link::Warm | Link::Failed) => {
                tracing::warn!(%error, "the store does not answer: until it does, a crash is not ended by this process");
                link = Link::Lost;
            }
            // Logged already when the link was lost.
            (Err(_), Link::Lost) => {}
        }
        tokio::time::sleep(WARM_EVERY).await;
    }
}

/// Last known state of the link to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Link {
    /// No call has ended yet.
    #[default]
    New,
    /// The first call has failed.
    Failed,
    /// The last call was answered.
    Warm,
    /// The last calls have failed, and that is logged.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_is_not_passed_on_to_a_program_that_leaves_already_and_the_second_is() {
        let mut requests = Requests::default();
        assert!(requests.passes_on(Signal::USR1, true), "asks for something else");
        assert!(!requests.passes_on(Signal::TERM, true));
        assert!(requests.passes_on(Signal::TERM, true));
        let mut requests = Requests::default();
        assert!(requests.passes_on(Signal::INT, false));
        assert!(requests.passes_on(Signal::TERM, true));
    }
}
