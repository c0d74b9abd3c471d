//! Signals that ask a program to leave, and signals that must not end it.
//!
//! SIGTERM and SIGINT (Ctrl-C) ask a program to leave; a second request ends the program at once. SIGHUP,
//! SIGPWR and SIGXCPU ask it to leave too, and never end it at once. The other signals whose default is to
//! end the process are ignored, because a leader that they end cannot leave cleanly. SIGQUIT keeps its
//! default: with it a person can end a process at once, with a core dump.

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
#[doc(hidden)]
pub const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Signal for a power failure, which LXC sends to end a container.
const POWER: i32 = Signal::POWER.as_raw();
/// Signal for the soft limit of processor time; the hard limit kills.
const CPU_LIMIT: i32 = Signal::XCPU.as_raw();

/// Ignored signals: by default each would end the process. SIGALRM, SIGVTALRM and SIGPROF come from timers
/// that this program never sets, and SIGXFSZ comes together with an error of the write.
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

/// Requests that signals make, from [`listen`](Self::listen) on.
///
/// All copies of a request that arrive within [`SAME_REQUEST`] count as one request.
///
/// After the first `listen` these signals do not end the process by themselves any more, also after this
/// value is dropped. If the listener ends because of a bug, the program is asked to leave, because no later
/// request could reach it.
#[derive(Debug)]
pub struct Signals {
    leave: CancellationToken,
    aborted: watch::Receiver<Option<Aborted>>,
    _listener: Tasks,
}

/// Error if a second signal has ended the program before it had left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ended at once: the lease has to run out, and others wait for that")]
pub struct Aborted(SignalKind);

impl Aborted {
    /// Exit code 128 plus the signal's number, as a shell reports for a process that the signal ended.
    pub fn exit_code(self) -> u8 {
        u8::try_from(128 + self.0.as_raw_value()).unwrap_or(u8::MAX)
    }
}

impl Signals {
    /// Starts to listen. A process that was started with SIGHUP ignored (`nohup`) continues to ignore it.
    ///
    /// # Errors
    ///
    /// If the system does not allow it.
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

    /// Token that the first request cancels.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// Output of `life`, unless a second request comes before.
    ///
    /// # Errors
    ///
    /// [`Aborted`]: `life` was dropped before it ended.
    pub async fn unless_aborted<F: Future>(&self, life: F) -> Result<F::Output, Aborted> {
        let mut aborted = self.aborted.clone();
        let abort = async {
            match aborted.wait_for(Option::is_some).await.ok().and_then(|it| *it) {
                Some(aborted) => aborted,
                // The listener is gone, so no second request can arrive.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // Cancel safe: the future only waits.
            aborted = abort => Err(aborted),
            // Dropped only when the second signal requests that.
            output = life => Ok(output),
        }
    }
}

/// Effect of a signal on the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Asks the program to leave; as a second request it ends the program at once.
    Leave,
    /// Asks the program to leave, also as a second request.
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

/// Stream of all signals that the program listens to.
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

/// Whether this process ignores a signal now. A signal that the parent ignored when it started this
/// process, as `nohup` does with SIGHUP, stays ignored until the process listens to it.
#[doc(hidden)]
pub fn is_ignored(kind: SignalKind) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|it| ignores(&it, kind.as_raw_value()))
}

/// Whether the kernel's status text shows the signal as ignored: bit n - 1 of `SigIgn`, in hex, is signal
/// n.
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
        // Cancel safe: the timer only waits. The timer and the signals belong to the same runtime: when the
        // timer fires, the runtime has received the signals that have arrived.
        () = sleep(SAME_REQUEST) => (),
        // Cancel safe: a signal that was not received stays in its listener.
        () = copies => (),
    }
    // Signals that arrived in time count as copies even if this runtime was busy and receives them only
    // now.
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

/// Waits for the next signal that makes a request.
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
