//! Messages from a node to the parent process that supervises it.
//!
//! The parent (`bellwether supervise`) holds no state but the leases that its child has announced. The
//! parent opens a pipe, lets the child inherit the writing end, and names the descriptor in [`FD_ENV`]. The
//! child writes one line per event:
//!
//! ```text
//! lease 3c0b4e0a2f7d91a5      this lease is about to be granted to one of my incarnations
//! gone 3c0b4e0a2f7d91a5       this incarnation has ended and left nothing behind
//! leaving                     this process was asked to leave, and does
//! ```
//!
//! A lease is announced *before* the request for it leaves, so the parent knows every lease that the child
//! can have. When the child is proven dead (its exit status was collected, and no descendant is left), the
//! parent calls [`end_incarnation`] for each incarnation that is not gone: the successor takes office at
//! once. The parent needs its own access to the store; no request passes through the pipe.

use std::{
    env, fmt,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    clock,
    engine::{Call, Change, LeaseId, Outcome, Record, Revision},
    store::{Store, keys::Keys, protocol},
};

/// Environment variable with the descriptor of the pipe to the parent, in decimal.
pub const FD_ENV: &str = "BELLWETHER_SUPERVISOR_FD";

/// Delay between attempts to end an incarnation.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Timeout of each request to end an incarnation.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Line that a child writes to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// This lease is about to be granted.
    Lease(LeaseId),
    /// This incarnation has ended and left nothing behind.
    Gone(LeaseId),
    /// The process was asked to leave, and does. A request to leave that the parent receives at the same
    /// time is the same request.
    Leaving,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(lease) => write!(f, "lease {lease}"),
            Self::Gone(lease) => write!(f, "gone {lease}"),
            Self::Leaving => f.write_str("leaving"),
        }
    }
}

impl Line {
    /// Parses a line without its line break; `None` if the line is not one of these.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end();
        if line == "leaving" {
            return Some(Self::Leaving);
        }
        let (word, lease) = line.split_once(' ')?;
        let lease = i64::from_str_radix(lease, 16).ok().filter(|lease| 0 < *lease).map(LeaseId)?;
        match word {
            "lease" => Some(Self::Lease(lease)),
            "gone" => Some(Self::Gone(lease)),
            _ => None,
        }
    }
}

/// Pipe to the parent, if there is a parent.
#[derive(Debug, Default)]
pub(crate) struct Parent {
    pipe: Option<File>,
}

impl Parent {
    /// Opens the pipe that the environment names.
    pub(crate) fn from_env() -> Self {
        let Ok(fd) = env::var(FD_ENV) else { return Self::default() };
        match Self::open(&fd) {
            Ok(pipe) => Self { pipe: Some(pipe) },
            Err(error) => {
                tracing::warn!(fd, error = %error, "cannot reach the supervisor: a crash will not be ended by it");
                Self::default()
            }
        }
    }

    /// Opens the pipe through procfs, as a new descriptor, so that the owner keeps the inherited one.
    fn open(fd: &str) -> io::Result<File> {
        let fd: u32 =
            fd.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        OpenOptions::new().write(true).open(format!("/proc/self/fd/{fd}"))
    }

    /// Sends a line to the parent. Short lines on a pipe that the parent reads do not block.
    pub(crate) fn tell(&mut self, line: Line) {
        let Some(pipe) = &mut self.pipe else { return };
        if let Err(error) = pipe.write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(error = %error, "the supervisor is gone: a crash will not be ended by it");
            self.pipe = None;
        }
    }
}

/// Reports to the parent, if there is one, that this process was asked to leave: once, and as soon as
/// possible. A service manager that signals every process also signals the parent, which then does not pass
/// the signal on.
pub fn announce_leaving() {
    Parent::from_env().tell(Line::Leaving);
}

/// Result of ending an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedIncarnation {
    /// Whether the incarnation was in office: if so, its term is marked ended now.
    pub was_in_office: bool,
}

/// Error if an incarnation could not be ended in time: its lease expires by itself, and all waits apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot end incarnation {lease}: the store did not take it within {within:?}")]
pub struct NotEnded {
    /// Lease of the incarnation.
    pub lease: LeaseId,
    /// Time for which ending it was tried.
    pub within: Duration,
}

/// T10 and T11 (END and REVOKE of a lease): ends an incarnation that is proven dead, so that a successor
/// need not wait. A repeated call does no harm.
///
/// # Errors
///
/// [`NotEnded`] if the store did not answer in time.
///
/// # Cancel safety
///
/// If dropped, the incarnation may be ended in part; another call ends the rest.
pub async fn end_incarnation(
    store: &dyn Store,
    keys: &Keys,
    lease: LeaseId,
    within: Duration,
) -> Result<EndedIncarnation, NotEnded> {
    let deadline = clock::boot_now() + within;
    let mut was_in_office = false;
    let mut leaseless = false;
    let late = || NotEnded { lease, within };
    let wait = || ATTEMPT.min(deadline.since(clock::boot_now()));
    while !wait().is_zero() {
        let read = protocol::send(store, keys, &Call::ReadEnd { lease }, wait()).await;
        let Outcome::Done(answer) = read else {
            sleep(RETRY_AFTER).await;
            continue;
        };
        let (record, held) = read_end(lease, &answer.changes);
        was_in_office |= record.is_some();
        let held = held.filter(|_| !leaseless).map(|modified| (modified, rand::random()));
        let end = Call::End { lease, record, held };
        match protocol::send(store, keys, &end, wait()).await {
            Outcome::Done(_) => {
                revoke(store, keys, lease, wait).await.map_err(|()| late())?;
                return Ok(EndedIncarnation { was_in_office });
            }
            // The lease is gone already; only the record is left to write.
            Outcome::LeaseNotFound => leaseless = true,
            // A last write of the dead process came between (T10: read again).
            Outcome::Refused(_) => (),
            Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => sleep(RETRY_AFTER).await,
        }
    }
    Err(late())
}

/// Record to write, if the incarnation is in office, and m(held), if its held key exists.
fn read_end(lease: LeaseId, changes: &[Change]) -> (Option<(Revision, Record)>, Option<Revision>) {
    let mut record = None;
    let mut held = None;
    for change in changes {
        match change {
            Change::Record(Some(stored)) => {
                let open = stored.value.as_ref().filter(|value| !value.ended);
                record = open
                    .filter(|value| value.lease == Some(lease))
                    .map(|value| (stored.modified, Record { ended: true, ..value.clone() }));
            }
            Change::Held(of, Some(stored)) if *of == lease => held = Some(stored.modified),
            _ => (),
        }
    }
    (record, held)
}

async fn revoke(
    store: &dyn Store,
    keys: &Keys,
    lease: LeaseId,
    wait: impl Fn() -> Duration,
) -> Result<(), ()> {
    while !wait().is_zero() {
        match protocol::send(store, keys, &Call::Revoke { lease }, wait()).await {
            Outcome::Done(_) | Outcome::LeaseNotFound => return Ok(()),
            Outcome::Refused(_) | Outcome::LeaseExists | Outcome::Failed | Outcome::Unknown => {
                sleep(RETRY_AFTER).await;
            }
        }
    }
    Err(())
}

#[cfg(test)]
mod tests;
