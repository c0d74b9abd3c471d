//! The engine's rules, each by its name in the protocol (R1 to R12, T1 to T19).
//!
//! A [`Rig`] is one engine whose store, clock and transport are the test itself: calls are answered by
//! hand, in any order, or never.

mod bounds;
mod election;
mod keys;
mod office;
mod rig;
mod session;
mod shards;
