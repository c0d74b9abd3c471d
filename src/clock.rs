//! The one reader of clocks. Everything else is handed the time.
//!
//! What must begin on time waits by [`sleep`]: tokio's timers count whole milliseconds and fire up to two
//! late, on every runtime alike. Timeouts and back-offs, which may be late, are tokio's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Waits, to within what the kernel's timers and its scheduler allow, on any runtime. The clock is
/// `CLOCK_MONOTONIC`: time in which the machine is suspended is not counted, so wait in slices.
///
/// # Cancel safety
///
/// Cancel safe: it only waits.
pub async fn sleep(time: Duration) {
    async_io::Timer::after(time).await;
}
