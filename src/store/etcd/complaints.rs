//! Conditions that keep etcd from serving, logged once when they begin and once when they have ended.
//!
//! Calls tell of it in passing, at any rate and in any order, and a node that writes nothing hears of a
//! full etcd from its alarms only. The one rule: a condition has ended when something succeeds that it
//! would have made fail, and nothing has failed by it for [`QUIET`].

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{engine::types::BootTime, store::StoreError};

/// A failure that comes again after this long is a condition, and is logged. A command that fails once
/// says so itself.
const LASTS: Duration = Duration::from_millis(500);

/// A condition that has not shown for this long has ended, if something succeeded since.
const QUIET: Duration = Duration::from_secs(5);

/// Members that answer nothing for this long are logged. Above the time that etcd needs to elect a leader.
pub(super) const SILENT: Duration = Duration::from_secs(2);

/// Kind of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// The NOSPACE alarm: what takes space is rejected.
    Full,
    /// The CORRUPT alarm: everything is rejected.
    Corrupt,
    /// The user lacks a permission or does not exist.
    Forbidden,
    /// No member answers with a quorum.
    Silent,
}

impl Condition {
    /// The condition that this error is a sign of. Silence takes more than one error, see [`SILENT`].
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

/// How a call ended, as far as it says something about a condition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called<'a> {
    /// Which call, as it is named in the metrics.
    pub(super) name: &'static str,
    /// Whether it puts keys or grants a lease.
    pub(super) takes_space: bool,
    /// Whether its answer takes a quorum.
    pub(super) proves_quorum: bool,
    /// For how long no member has answered with a quorum.
    pub(super) silent_for: Duration,
    /// Why it failed, if it did.
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

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// At most one of each condition.
    all: Mutex<Vec<Complaint>>,
    /// Whether there are any: most calls succeed while there are none.
    any: AtomicBool,
}

impl Complaints {
    /// A call has ended.
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

    /// A member told its alarms.
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

    /// Text of a condition that lasts, for people.
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
            // A member that answers is not silent, however short a time ago it was.
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
