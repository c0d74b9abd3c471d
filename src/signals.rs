//! The signals that ask a program to leave, and those that must not end it.
//!
//! SIGTERM and SIGINT (Ctrl-C) ask a program to leave; a second request ends it at once. SIGHUP, SIGPWR and
//! SIGXCPU ask it to leave too, and never end it at once. The other signals whose default is to end the
//! process are ignored, because a leader that they end leaves nothing in order. SIGQUIT keeps its default:
//! it is how a person ends a process at once, with a core dump.

use std::{fs, io, time::Duration};

use futures::{FutureExt as _, StreamExt as _, stream};
use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// Signals that arrive within this span after the first request are copies of it. A service manager that
/// signals every process of a group, GNU `timeout`, `tini -g` and a supervisor that passes its own signal on
/// all send several for one request.
pub const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Power fails; how LXC asks a container to end.
const POWER: i32 = Signal::POWER.as_raw();
/// The soft limit of processor time is reached; the hard one kills.
const CPU_LIMIT: i32 = Signal::XCPU.as_raw();

/// Ignored: by default each would end the process. SIGALRM, SIGVTALRM and SIGPROF are timers that nothing of
/// ours sets, and SIGXFSZ comes beside the error that the write returns.
const IGNORED: [(i32, &str); 8] = [
    (Signal::USR1.as_raw(), "SIGUSR1"),
    (Signal::USR2.as_raw(), "SIGUSR2"),
    (Signal::ALARM.as_raw(), "SIGALRM"),
    (Signal::STKFLT.as_raw(), "SIGSTKFLT"),
    (Signal::XFSZ.as_raw(), "SIGXFSZ"),
    (Signal::VTALARM.as_raw(), "SIGVTALRM"),
    (Signal::PROF.as_raw(), "SIGPROF"),
    (Signal::IO.as_raw(), "SIGIO"),
];

/// What the signals ask for, from [`listen`](Self::listen) on.
///
/// One request to leave is one request, however many copies of it arrive within [`SAME_REQUEST`].
///
/// A process that has listened once is not ended by these signals themselves any more, also when this is
/// dropped. If its listener ended by a bug, the program is asked to leave: it could not be asked any more.
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
    /// Listens from now on. A process that was started with SIGHUP ignored (`nohup`) goes on ignoring it.
    ///
    /// # Errors
    ///
    /// If the system does not let it.
    pub fn listen() -> io::Result<Self> {
        let arrivals = arrivals()?;
        let leave = CancellationToken::new();
        let (abort, aborted) = watch::channel(None);
        let mut listener = Tasks::new();
        let (asked, guard) = (leave.clone(), leave.clone().drop_guard());
        listener.spawn("signals", async move {
            let _if_it_fails = guard;
            let aborted = follow(arrivals, &asked).await;
            tracing::warn!(signal = name(aborted.0), "ending at once");
            abort.send_replace(Some(aborted));
        });
        Ok(Self { leave, aborted, _listener: listener })
    }

    /// Cancelled by the first request.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// What `life` ends with, unless a second request comes before.
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

/// Effect of a signal on the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Asks the program to leave; as a second request it ends the program at once.
    Leave,
    /// Asks the program to leave, and no more.
    OnlyLeave,
    Ignored,
}

fn meaning(kind: SignalKind) -> Meaning {
    match kind {
        it if it == SignalKind::terminate() || it == SignalKind::interrupt() => Meaning::Leave,
        it if IGNORED.iter().any(|(number, _)| *number == it.as_raw_value()) => Meaning::Ignored,
        _ => Meaning::OnlyLeave,
    }
}

/// Every signal that is listened to, as it arrives.
type Arrivals = stream::SelectAll<stream::BoxStream<'static, SignalKind>>;

fn arrivals() -> io::Result<Arrivals> {
    let mut kinds = vec![
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::from_raw(POWER),
        SignalKind::from_raw(CPU_LIMIT),
    ];
    if !is_ignored(SignalKind::hangup()) {
        kinds.push(SignalKind::hangup());
    }
    kinds.extend(IGNORED.iter().map(|(number, _)| SignalKind::from_raw(*number)));
    let mut all = Arrivals::new();
    for kind in kinds {
        let mut arriving = signal(kind)?;
        let arrival = move |context: &mut std::task::Context<'_>| {
            arriving.poll_recv(context).map(|arrived| arrived.map(|()| kind))
        };
        all.push(stream::poll_fn(arrival).boxed());
    }
    Ok(all)
}

/// Whether this process ignores a signal now: one that its parent ignored when it started this process, as
/// `nohup` does with SIGHUP, stays ignored until somebody listens to it.
pub fn is_ignored(kind: SignalKind) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|it| ignores(&it, kind.as_raw_value()))
}

/// As the kernel prints it: bit n - 1 of `SigIgn`, in hex, stands for signal n.
fn ignores(status: &str, signal: i32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Follows the signals to the second request, and cancels `asked` at the first one.
async fn follow(mut arrivals: Arrivals, asked: &CancellationToken) -> Aborted {
    let kind = next_request(&mut arrivals).await;
    tracing::info!(
        signal = name(kind),
        "leaving; for {SAME_REQUEST:?} every signal counts as this one"
    );
    asked.cancel();
    let copies = async {
        loop {
            copy(next_request(&mut arrivals).await);
        }
    };
    tokio::select! {
        biased;
        // Cancel safe: it only waits. A timer of the runtime that takes in the signals: when it fires, those
        // that have arrived are taken in.
        () = sleep(SAME_REQUEST) => (),
        // Cancel safe: what was not taken stays in its listener.
        () = copies => (),
    }
    // Judged by when they arrived, not by when this runtime came to look: it may have been busy.
    while let Some(Some(kind)) = arrivals.next().now_or_never() {
        copy(kind);
    }
    tracing::info!("still leaving; a second signal ends at once");
    loop {
        let kind = next_request(&mut arrivals).await;
        if meaning(kind) == Meaning::Leave {
            return Aborted(kind);
        }
        copy(kind);
    }
}

fn copy(kind: SignalKind) {
    tracing::debug!(signal = name(kind), "leaving already");
}

/// The next signal that asks for something.
async fn next_request(arrivals: &mut Arrivals) -> SignalKind {
    loop {
        match arrivals.next().await {
            Some(kind) if meaning(kind) == Meaning::Ignored => {
                tracing::debug!(signal = name(kind), "signal ignored");
            }
            Some(kind) => return kind,
            // Never: the listeners live as long as the process.
            None => std::future::pending().await,
        }
    }
}

fn name(kind: SignalKind) -> &'static str {
    match kind.as_raw_value() {
        1 => "SIGHUP",
        2 => "SIGINT",
        15 => "SIGTERM",
        POWER => "SIGPWR",
        CPU_LIMIT => "SIGXCPU",
        other => IGNORED.iter().find(|(it, _)| *it == other).map_or("a signal", |(_, name)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inherited_ignored_signal_is_read_from_the_kernels_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t1\n";
        assert!(ignores(status, 1), "nohup");
        assert!(ignores(status, 13), "SIGPIPE, by Rust's own start-up");
        assert!(!ignores(status, 15) && !ignores("", 1) && !ignores("SigIgn: junk", 1));
        assert!(is_ignored(SignalKind::pipe()));
    }

    #[test]
    fn what_ends_a_process_by_default_either_asks_it_to_leave_or_is_ignored() {
        assert_eq!(meaning(SignalKind::terminate()), Meaning::Leave);
        assert_eq!(meaning(SignalKind::interrupt()), Meaning::Leave);
        for kind in [1, POWER, CPU_LIMIT] {
            assert_eq!(meaning(SignalKind::from_raw(kind)), Meaning::OnlyLeave, "{kind}");
        }
        for (kind, _) in IGNORED {
            assert_eq!(meaning(SignalKind::from_raw(kind)), Meaning::Ignored, "{kind}");
        }
    }
}
