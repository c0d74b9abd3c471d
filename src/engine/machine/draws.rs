//! Random draws of an engine, from a seed that the caller passes in.

use crate::engine::types::LeaseId;

/// Sequence of 64-bit draws (splitmix64, Steele, Lea and Flood 2014). Not for secrets: lease ids and nonces
/// only need to differ.
#[derive(Clone, Debug)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Lease id for T1 (GRANT): 63 random bits, never zero.
    pub(super) const fn lease(&mut self) -> LeaseId {
        LeaseId((self.draw() >> 1).cast_signed().saturating_add(1))
    }
}
