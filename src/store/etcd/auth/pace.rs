//! The pause before the next login: a pure count of useless logins.
//!
//! A login is useless in three cases: etcd refuses it, no member answers it, or etcd accepts it and soon
//! refuses the token again (clocks that differ, members that disagree). Each case has its own doubling
//! pause.

use std::time::Duration;

/// Pause between refused logins. An operator has to correct the password or the user.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Pause between rounds over all members without an answer. Short: calls wait for the login.
const UNANSWERED: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Pause between logins whose tokens were refused soon.
const TAKEN_BACK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Number of tokens that may be refused soon without a pause: roles and passwords change in steps.
const FREELY: u32 = 3;
/// A token that was accepted for this long was good.
const SERVED: Duration = Duration::from_secs(10);

/// Counts of useless logins. See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Pace {
    refused: u32,
    unanswered: u32,
    taken_back: u32,
}

impl Pace {
    /// Counts a login that etcd refused, and returns the pause before the next login.
    pub(super) fn refused(&mut self) -> Duration {
        self.taken_back = 0;
        self.refused += 1;
        doubled(REFUSED, self.refused)
    }

    /// Counts a login that no member answered, and returns the pause before the next round.
    pub(super) fn unanswered(&mut self) -> Duration {
        self.unanswered += 1;
        doubled(UNANSWERED, self.unanswered)
    }

    /// Whether the last round was the first one without an answer.
    pub(super) fn is_first_unanswered(&self) -> bool {
        self.unanswered == 1
    }

    /// Resets the count of unanswered rounds: a member of etcd answered.
    pub(super) fn answered(&mut self) {
        self.unanswered = 0;
    }

    /// Counts a token that etcd refused `after` its login, and returns the pause before the next login.
    pub(super) fn taken_back(&mut self, after: Duration) -> Duration {
        self.refused = 0;
        self.taken_back = if after < SERVED { self.taken_back + 1 } else { 0 };
        match self.taken_back.checked_sub(FREELY) {
            None | Some(0) => Duration::ZERO,
            Some(times) => doubled(TAKEN_BACK, times),
        }
    }
}

/// The pause after `times` useless logins, counted from 1.
fn doubled((first, most): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most)
}

#[cfg(test)]
mod tests;
