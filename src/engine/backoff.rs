//! Waiting times between retries.

use std::time::Duration;

/// Exponential back-off that doubles from `first` to `most`. A draw subtracts up to a quarter of each wait,
/// so that nodes that failed together do not return together. Callers reset it after a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Back-off that waits `first`, then twice as long each time, up to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// Next wait to use. `draw` is any random number.
    pub fn next(&mut self, draw: u64) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(self.most);
        let off = u32::try_from(draw % 256).unwrap_or(0);
        whole.saturating_sub(whole * off / 1024)
    }

    /// Makes the next wait `first` again.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_start_again_after_a_reset() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(300));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(0)).collect();
        assert_eq!(waits, [ms(50), ms(100), ms(200), ms(300), ms(300)]);
        backoff.reset();
        assert_eq!(backoff.next(255), ms(50).saturating_sub(ms(50) * 255 / 1024));
    }
}
