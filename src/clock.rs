//! The one reader of clocks. Everything else is handed the time.
//!
//! What must begin on time waits by [`sleep`]: tokio's timers count whole milliseconds and fire up to two
//! late, on every runtime alike. Timeouts and back-offs, which may be late, are tokio's.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::engine::BootTime;

/// This machine's boot clock, which counts suspend. Only `CLOCK_BOOTTIME` tells a woken machine that
/// its authority is over; `Instant` is `CLOCK_MONOTONIC` and stands still.
///
/// # Panics
///
/// When the kernel's clock reads less than zero, which it never does.
pub fn boot_now() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // It counts from zero, and nanoseconds stay below a second.
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    BootTime(Duration::new(now.tv_sec.unsigned_abs(), nanos))
}

/// Wall clock, for people only: no decision hangs on it.
#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

/// Wall clock in milliseconds of Unix time.
pub fn unix_ms() -> u64 {
    let since = wall_now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Waits for that long on the boot clock, to within what the kernel's timers and its scheduler allow. Time in which
/// the machine is suspended counts. Where the process has no file descriptor left, tokio's timer waits instead.
///
/// # Panics
///
/// Outside of a tokio runtime with its drivers (`enable_all`).
///
/// # Cancel safety
///
/// Cancel safe: the future only waits.
pub async fn sleep(time: Duration) {
    // A timer that is set to zero never fires.
    if time.is_zero() {
        return;
    }
    match timer(time) {
        Ok(timer) if timer.readable().await.is_ok() => {}
        _ => tokio::time::sleep(time).await,
    }
}

#[expect(
    deprecated,
    reason = "the promise that its successor asks for is one that an `OwnedFd` keeps"
)]
fn timer(time: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let fd = timerfd_create(TimerfdClockId::Boottime, flags)?;
    let it_value = Timespec::try_from(time).map_err(io::Error::other)?;
    let once = Itimerspec { it_interval: Timespec::default(), it_value };
    timerfd_settime(&fd, TimerfdTimerFlags::empty(), &once)?;
    AsyncFd::with_interest(fd, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_lasts_at_least_as_long_as_it_was_asked_for() {
        for millis in [0, 1, 20] {
            let time = Duration::from_millis(millis);
            let began = boot_now();
            sleep(time).await;
            assert!(time <= boot_now().since(began), "{time:?}");
        }
    }
}
