//! How long to wait before the next login: a pure count of logins that led nowhere.
//!
//! Three ways lead nowhere: etcd refuses the login, nobody answers it, or etcd accepts it and soon
//! refuses the token again (clocks that differ, members that disagree). Each has its own doubling pause.

use std::time::Duration;

/// Pause between refused logins. A person has to correct the password or the user.
const REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between rounds of all members that nobody answered. Short: calls wait for the login.
const UNANSWERED: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Between logins whose tokens were refused soon.
const TAKEN_BACK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// So many tokens may be refused soon without a pause: roles and passwords change in steps.
const FREELY: u32 = 3;
/// A token that served so long was good.
const SERVED: Duration = Duration::from_secs(10);

/// See the module's docs.
#[derive(Debug, Default)]
pub(super) struct Pace {
    refused: u32,
    unanswered: u32,
    taken_back: u32,
}

impl Pace {
    /// etcd refused the login: the pause before the next one.
    pub(super) fn refused(&mut self) -> Duration {
        self.taken_back = 0;
        self.refused += 1;
        doubled(REFUSED, self.refused)
    }

    /// No member answered the login: the pause before the next round.
    pub(super) fn unanswered(&mut self) -> Duration {
        self.unanswered += 1;
        doubled(UNANSWERED, self.unanswered)
    }

    /// Whether that round was the first one in vain.
    pub(super) fn is_first_unanswered(&self) -> bool {
        self.unanswered == 1
    }

    /// A member of etcd answered.
    pub(super) fn answered(&mut self) {
        self.unanswered = 0;
    }

    /// etcd refused what the last login gave, after so long: the pause before the next one.
    pub(super) fn taken_back(&mut self, after: Duration) -> Duration {
        self.refused = 0;
        self.taken_back = if after < SERVED { self.taken_back + 1 } else { 0 };
        match self.taken_back.checked_sub(FREELY) {
            None | Some(0) => Duration::ZERO,
            Some(times) => doubled(TAKEN_BACK, times),
        }
    }
}

/// The pause after so many times in vain, from 1 on.
fn doubled((first, most): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most)
}

#[cfg(test)]
mod tests;
