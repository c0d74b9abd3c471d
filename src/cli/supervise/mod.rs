//! `supervise`: a small parent of the process that runs a node. It holds no state but the leases that
//! its child announces. When the child is proven dead it ends their incarnations at once, so that a
//! crash fails over in milliseconds instead of the time a silent leader is waited for.
//!
//! It deliberately does not start the child again: that is the container runtime's work.

mod children;
mod pipe;

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use bellwether::{
    clock,
    engine::{BootTime, LeaseId},
    node::supervision::end_incarnation,
    signals::is_ignored,
    store::{Get, Store, keys::Keys},
    tasks::Tasks,
};
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

/// What is passed on to the child.
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

/// Would end this process, and are about this process alone: its limits and its timers.
const IGNORED: [SignalKind; 5] = [
    SignalKind::from_raw(Signal::STKFLT.as_raw()),
    SignalKind::from_raw(Signal::XCPU.as_raw()),
    SignalKind::from_raw(Signal::XFSZ.as_raw()),
    SignalKind::from_raw(Signal::VTALARM.as_raw()),
    SignalKind::from_raw(Signal::PROF.as_raw()),
];

/// Between two reads that keep the connection to etcd open and its token valid.
const WARM_EVERY: Duration = Duration::from_secs(10);

/// Runs a program, and ends its node's incarnation the moment it is dead
#[derive(Args, Debug)]
#[command(after_long_help = "\
Meant as PID 1 of a container: bellwether supervise -- my-controller --its flags. It forwards signals \
(not the copy of a request that the program follows already), \
reaps orphans, and passes on the exit status (128+n if signal n ended the program). The program's node \
tells it its lease through an inherited pipe (BELLWETHER_SUPERVISOR_FD). When the program is dead, \
whatever it started is killed too, and only then its incarnation is ended in etcd: the successor takes \
office at once. Flags for etcd are best given by environment, which the program then shares.")]
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
/// A [`Failure`] if it cannot be started.
pub(crate) async fn run(args: SuperviseArgs) -> Result<ExitCode, Failure> {
    let local = |doing: &'static str| {
        move |error: std::io::Error| Failure::caused(Exit::Local, doing, &error)
    };
    let store = connect::store(&args.cluster)?;
    children::become_subreaper().map_err(local("becoming the reaper of orphans"))?;
    // Both before the child exists, so that no signal is lost.
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
            // Cancel safe: what ended is returned once. Without it signals are lost, or the ending finds no
            // connection: the program is asked to leave while that still works.
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
        // What the dead wrote last is in the pipe still; a node below a shell wrote until it was killed.
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

/// The requests to leave that came to this process.
#[derive(Debug, Default)]
struct Requests {
    had_one: bool,
}

impl Requests {
    /// Whether a signal is to be passed on. The first request is not, if the program was asked to leave
    /// before: who signals every process of a group has signalled both, once, and a second signal would end
    /// the program at once.
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

/// Ends all incarnations that were announced and are not gone. The program is proven dead.
async fn end_all(
    store: &dyn Store,
    keys: &Keys,
    leases: &BTreeSet<LeaseId>,
    died_at: BootTime,
    until: BootTime,
) {
    let left = until.since(clock::boot_now());
    // At the same time: one that is stuck must not hold up the one that leads.
    let endings = leases
        .iter()
        .map(|lease| async move { (*lease, end_incarnation(store, keys, *lease, left).await) });
    for (lease, how) in futures::future::join_all(endings).await {
        // As a number of JSON: the formatter writes wider ones as text.
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

/// Whatever may be forwarded, in one channel. A signal more than fits is the same as one that is there.
fn listen() -> std::io::Result<(mpsc::Receiver<Signal>, Tasks)> {
    let (sender, receiver) = mpsc::channel(16);
    let mut listeners = Tasks::new();
    for kind in IGNORED {
        // From here on it does not end the process, whether somebody listens or not.
        drop(unix::signal(kind)?);
    }
    for (kind, signal) in FORWARDED {
        // As `nohup` wants it; the program inherits that.
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

/// Reads something small now and then, so that the ending finds a connection that is open and
/// authenticated.
async fn keep_warm(store: Arc<dyn Store>, args: ClusterArgs) {
    let mut link = Link::default();
    loop {
        let get = Get { keys_only: true, ..Get::key(args.cluster.record()) };
        match (store.get(get, args.timeout).await, link) {
            (Ok(_), Link::Lost) => {
                tracing::info!("etcd answers again, a crash is ended by this process");
                link = Link::Warm;
            }
            (Ok(_), _) => link = Link::Warm,
            // An etcd that is started at the same time needs a moment.
            (Err(error), Link::New) => {
                tracing::debug!(%error, "etcd does not answer yet");
                link = Link::Failed;
            }
            (Err(error), Link::Warm | Link::Failed) => {
                tracing::warn!(%error, "etcd does not answer: until it does, a crash is not ended by this process");
                link = Link::Lost;
            }
            // Logged when it began.
            (Err(_), Link::Lost) => {}
        }
        tokio::time::sleep(WARM_EVERY).await;
    }
}

/// The state of the link to etcd, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Link {
    /// Nothing was asked yet.
    #[default]
    New,
    /// The first call failed.
    Failed,
    /// The last call was answered.
    Warm,
    /// The last calls were not, and that is logged.
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
