//! Conditions that prevent etcd from serving, logged once when they begin and once when they have ended.
//!
//! Calls report them in passing, at any rate and in any order, and a node that writes nothing learns that
//! etcd is full from etcd's alarms only. The most important rule: a condition has ended when a call
//! succeeds that the condition would have made fail, and no call has failed because of it for [`QUIET`].

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{engine::types::BootTime, store::StoreError};

/// A failure that comes again after this long is a condition, and is logged. A command that fails once
/// reports its error itself.
const LASTS: Duration = Duration::from_millis(500);

/// A condition has ended if it did not appear for this long and a call succeeded since.
const QUIET: Duration = Duration::from_secs(5);

/// Members that answer nothing for this long are logged. Above the time that etcd needs to elect a leader.
pub(super) const SILENT: Duration = Duration::from_secs(2);

/// Kind of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The NOSPACE alarm: calls that take space are rejected.
    Full,
    /// The CORRUPT alarm: all calls are rejected.
    Corrupt,
    /// The user has no permission or does not exist.
    Forbidden,
    /// No member answers with a quorum.
    Silent,
}

impl Condition {
    /// Condition that this error is a sign of. Silence takes more than one error, see [`SILENT`].
    fn of(error: &StoreError) -> Option<Self> {
        match error {
            StoreError::Overloaded { message, .. } if message.contains("space exceeded") => {
                Some(Self::Full)
            }
            StoreError::Denied { message, .. } if message.contains("corrupt cluster") => {
                Some(Self::Corrupt)
            }
            StoreError::Denied { message, .. }
                if message.contains("permission denied")
                    || message.contains("user name not found") =>
            {
                Some(Self::Forbidden)
            }
            StoreError::Unanswered { .. }
            | StoreError::Interrupted { .. }
            | StoreError::Unreachable { .. } => Some(Self::Silent),
            _ => None,
        }
    }

    const fn alarm(self) -> Option<&'static str> {
        match self {
            Self::Full => Some("NOSPACE"),
            Self::Corrupt => Some("CORRUPT"),
            Self::Forbidden | Self::Silent => None,
        }
    }
}

/// Result of a call, as far as it concerns a condition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called<'a> {
    /// Name of the call, as in the metrics.
    pub(super) name: &'static str,
    /// Whether the call puts keys or grants a lease.
    pub(super) takes_space: bool,
    /// Whether an answer to the call takes a quorum.
    pub(super) proves_quorum: bool,
    /// Time since a member last answered with a quorum.
    pub(super) silent_for: Duration,
    /// Error of the call, if it failed.
    pub(super) error: Option<&'a StoreError>,
}

#[derive(Debug)]
struct Complaint {
    condition: Condition,
    call: &'static str,
    text: String,
    first: BootTime,
    last: BootTime,
    logged: bool,
}

/// The conditions that were seen and have not ended. See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// The conditions; at most one entry of each kind.
    all: Mutex<Vec<Complaint>>,
    /// Whether there are any: most calls succeed while there are none.
    any: AtomicBool,
}

impl Complaints {
    /// Records the result of a call.
    pub(super) fn on_call(&self, called: Called<'_>, now: BootTime) {
        match called.error {
            None if self.any.load(SeqCst) => self.end(now, |it| match it.condition {
                Condition::Full => called.takes_space,
                Condition::Corrupt | Condition::Silent => called.proves_quorum,
                Condition::Forbidden => it.call == called.name,
            }),
            None => {}
            Some(error) => match Condition::of(error) {
                Some(Condition::Silent) if called.silent_for < SILENT => {}
                Some(condition) => {
                    self.begin(condition, called.name, error.to_string(), now, LASTS);
                }
                None => {}
            },
        }
    }

    /// Records the alarms that a member reported.
    pub(super) fn on_alarms(&self, endpoint: &str, alarms: &[String], now: BootTime) {
        for condition in [Condition::Full, Condition::Corrupt] {
            let Some(name) = condition.alarm() else { continue };
            match alarms.iter().find(|it| it.contains(name)) {
                Some(alarm) => {
                    let text = format!("{endpoint} has an alarm: {}", alarm.trim());
                    self.begin(condition, "alarm", text, now, Duration::ZERO);
                }
                None => self.end(now, |it| it.condition == condition),
            }
        }
    }

    /// Text of a lasting condition, for people.
    pub(super) fn current(&self) -> Option<String> {
        if !self.any.load(SeqCst) {
            return None;
        }
        self.lock().iter().find(|it| it.logged).map(|it| it.text.clone())
    }

    fn begin(
        &self,
        condition: Condition,
        call: &'static str,
        text: String,
        now: BootTime,
        lasts: Duration,
    ) {
        let mut all = self.lock();
        let at = all.iter().position(|it| it.condition == condition).unwrap_or_else(|| {
            let text = text.clone();
            all.push(Complaint { condition, call, text, first: now, last: now, logged: false });
            self.any.store(true, SeqCst);
            all.len() - 1
        });
        let complaint = &mut all[at];
        (complaint.call, complaint.last) = (call, now);
        if !complaint.logged && lasts <= now.since(complaint.first) {
            (complaint.text, complaint.logged) = (text, true);
            complaint.log();
        }
    }

    fn end(&self, now: BootTime, is_disproved: impl Fn(&Complaint) -> bool) {
        let mut all = self.lock();
        all.retain(|it| {
            // A member that answers is not silent, even if it was silent a moment ago.
            let quiet = if it.condition == Condition::Silent { Duration::ZERO } else { QUIET };
            let ended = is_disproved(it) && quiet <= now.since(it.last);
            if ended && it.logged {
                it.log_end();
            }
            !ended
        });
        self.any.store(!all.is_empty(), SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Complaint>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Complaint {
    fn log(&self) {
        let error = &self.text;
        match self.condition {
            Condition::Full => tracing::error!(error, "etcd has no space left, it rejects writes"),
            Condition::Corrupt => tracing::error!(error, "etcd is corrupt, it rejects all calls"),
            Condition::Forbidden => tracing::error!(error, "etcd rejects calls of this user"),
            Condition::Silent => tracing::warn!(error, "etcd does not answer, waiting for it"),
        }
    }

    fn log_end(&self) {
        match self.condition {
            Condition::Full => tracing::info!("etcd has space again, it accepts writes"),
            Condition::Corrupt => tracing::info!("etcd is not corrupt any more, it accepts calls"),
            Condition::Forbidden => tracing::info!("etcd accepts calls of this user again"),
            Condition::Silent => tracing::info!("etcd answers again"),
        }
    }
}

#[cfg(test)]
mod tests;
