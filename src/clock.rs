//! The only module that reads clocks. All other code receives the time as an argument.
//!
//! Code that must begin on time waits by [`sleep`]: tokio's timers count whole milliseconds and fire up to
//! two late, on every runtime alike. Timeouts and back-offs, which may be late, use tokio's timers.

use std::{
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::engine::BootTime;

/// Reads this machine's boot clock, which counts suspend. Only `CLOCK_BOOTTIME` shows a woken machine that
/// its authority is over; `Instant` is `CLOCK_MONOTONIC` and does not advance during suspend.
///
/// # Panics
///
/// If the kernel's clock is below zero, which never happens.
pub fn boot_now() -> BootTime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    // The clock counts from zero, and nanoseconds stay below a second.
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    BootTime(Duration::new(now.tv_sec.unsigned_abs(), nanos))
}

/// Reads the wall clock, for people only: no decision depends on it.
#[expect(clippy::disallowed_methods, reason = "this is the one reader")]
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

/// Reads the wall clock in milliseconds of Unix time.
pub fn unix_ms() -> u64 {
    millis(wall_now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The whole milliseconds of a span.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Boot time that threads share; zero at first.
#[derive(Debug, Default)]
pub(crate) struct AtomicTime(AtomicU64);

impl AtomicTime {
    pub(crate) fn store(&self, time: BootTime) {
        self.0.store(u64::try_from(time.0.as_nanos()).unwrap_or(u64::MAX), SeqCst);
    }

    pub(crate) fn load(&self) -> BootTime {
        BootTime(Duration::from_nanos(self.0.load(SeqCst)))
    }
}

/// Waits for this time on the boot clock, as precisely as the kernel's timers and scheduler allow. Time in
/// which the machine is suspended counts. If the process has no file descriptor left, tokio's timer waits
/// instead.
///
/// # Panics
///
/// Outside of a tokio runtime with its drivers (`enable_all`).
///
/// # Cancel safety
///
/// Cancel safe: the future only waits.
pub async fn sleep(time: Duration) {
    // A kernel timer that is set to zero never fires.
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
